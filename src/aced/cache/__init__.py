"""Cached embeddings: side-cars, how they are made, where they lie, and how a batch gets them."""
