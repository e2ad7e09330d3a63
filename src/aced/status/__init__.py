"""How a run stands, told from its folder alone: for another terminal, and without torch."""
