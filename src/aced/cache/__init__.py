"""Cached embeddings: making side-cars, storing them, and looking up the rows of a batch."""
