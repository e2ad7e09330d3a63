"""Trained models as other programs read them: open_clip, transformers, ONNX."""
