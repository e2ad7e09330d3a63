"""Tasks for a stable average: reading tables of scores, and choosing among their tasks."""
