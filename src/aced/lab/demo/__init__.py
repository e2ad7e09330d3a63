"""The demo: every method on the same data from the same start, in minutes on a laptop."""
