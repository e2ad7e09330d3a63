"""The version of the package, for modules that the package itself may load."""

__version__ = "0.2.0"
