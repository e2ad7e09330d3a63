"""Where samples come from: sources, order, shards, cached embeddings, scenes."""
