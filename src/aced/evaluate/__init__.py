"""Zero-shot evaluation: tasks, classification, retrieval."""
