"""A run from its config: inputs, student, order, checkpoints, and the loop around the step."""
