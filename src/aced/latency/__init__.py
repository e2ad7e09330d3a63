"""How long a model takes for an image and for a text on the device at hand."""
