"""Boards that a run's lines are sent to as well: TensorBoard, W&B, trackio."""
