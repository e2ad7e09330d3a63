"""Which tasks make a stable average: reading tables of scores, and choosing from them."""
