"""The cost of a run before it starts: `aced cost`, which reads no data and downloads nothing."""
