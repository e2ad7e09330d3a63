"""`aced eval`: a model on tasks, with a table at the end; two evaluations compared."""
