"""Atomic files, tensors on disk, and files at addresses."""
