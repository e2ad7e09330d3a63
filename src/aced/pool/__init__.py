"""Image-text pairs in tars, or anywhere else: the contract of a source, reading, orders, streaming."""
