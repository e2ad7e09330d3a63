"""The selection of a step's batch, and ways to score candidates cheaply.

`make` turns the config into a `Plan` and, with `scoring.reuse`, a `Memory`, once. At each step `choosing` follows the
plan: the reference may keep a part first (`cascade`; `early` does so before anything is loaded), the student embeds the
rest (`embedding`), or the memory knows it (`memory`) or predicts it (`unseen`), and `draw` draws the batch. `moment` is
their view of the trainer.
"""
