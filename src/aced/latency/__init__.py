"""The time that a model takes for an image and for a text on this device."""
