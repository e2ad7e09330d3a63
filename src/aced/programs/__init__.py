"""One module for each command: what it does, without parsing its words."""
