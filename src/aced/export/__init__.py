"""Export of trained models for other programs: open_clip, transformers, ONNX."""
