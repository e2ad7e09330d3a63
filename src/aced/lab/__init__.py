"""The laboratory: built-in scenes, their small models, the demo and the LiT-decoder, registered like any plug-in."""
