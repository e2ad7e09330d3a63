"""Trackers that also receive a run's lines: TensorBoard, W&B, trackio."""
