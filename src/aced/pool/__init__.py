"""Image-text pairs in tars or elsewhere: the contract of a source, reading, orders, streaming."""
