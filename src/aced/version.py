"""The package's version, for modules that must import without the rest."""

__version__ = "0.2.0"
