"""Program: what is in the tars of a pool, found once."""
