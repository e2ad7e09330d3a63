"""Which pairs each step sees, as pure functions of the seed and the step."""
