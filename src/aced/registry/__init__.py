"""Tables of the names that a config can use, and the functions through which other code adds to them."""
