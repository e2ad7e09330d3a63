"""Pools at addresses: fetched once, or streamed through a folder smaller than the pool."""
