"""What a run would cost: `aced cost`, which reads no data and downloads nothing."""
