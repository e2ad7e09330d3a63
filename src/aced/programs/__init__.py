"""The commands' programs, one module each, without the parsing of words."""
