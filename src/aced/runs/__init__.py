"""The folder of a run: its records and its lock, written by training and read by status and report."""
