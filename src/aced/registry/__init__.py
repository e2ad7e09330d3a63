"""Tables of what a config can name, and the doors through which other code adds to them."""
