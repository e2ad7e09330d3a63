"""Orders: the pairs of each step, as pure functions of the seed and the step."""
