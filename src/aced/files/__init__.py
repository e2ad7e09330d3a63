"""Files that are whole or absent, tensors on disk, and files at addresses."""
