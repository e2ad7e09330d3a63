"""What a step trains on, and the ways to score candidates cheaply.

`make` turns the config into a `Plan` and, with `scoring.reuse`, a `Memory`, once. At each step `choosing` follows the
plan: the reference may keep a part first (`cascade`; `early`, the same before anything is loaded), the student embeds
what is left (`embedding`), or the memory knows it (`memory`) or guesses it (`unseen`), and `draw` draws. `moment` is
what all of them get of the trainer.
"""
