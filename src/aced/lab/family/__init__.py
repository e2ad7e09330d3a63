"""The small models of the demo and of the photo recipes."""
