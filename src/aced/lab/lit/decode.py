"""Writing texts one token at a time: greedy, and by beam search. Pure functions over any next-token model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NextLogits = Callable[[Tensor, Tensor], Tensor]
"""Texts so far `[n, L]` and the item `[n]` that each belongs to, to the logits `[n, V]` of the next id."""


def greedy(model: NextLogits, prompt: Tensor, *, end: int, longest: int, banned: tuple[int, ...] = ()) -> Tensor:
    """The most likely id at each step.

    Args:
        model: returns the logits.
        prompt: `[n, L]` the beginning of each text.
        end: the id that ends a text.
        longest: maximum number of ids to write.
        banned: ids that are never written.

    Returns:
        `[n, <= longest]` the written ids; after `end` every id is `end`.
    """
    items = torch.arange(len(prompt), device=prompt.device)
    ids = prompt
    over = torch.zeros_like(items, dtype=torch.bool)
    for _ in range(longest):
        chosen = _allowed(model(ids, items), banned).argmax(dim=-1)
        chosen = torch.where(over, end, chosen)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        over = over | (chosen == end)
        if bool(over.all()):
            break
    return ids[:, prompt.shape[1] :]


def beam_search(
    model: NextLogits,
    prompt: Tensor,
    *,
    end: int,
    longest: int,
    beams: int,
    banned: tuple[int, ...] = (),
    length_power: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The best text that a beam of `beams` finds for each item.

    A text's score is its log-probability, `end` included, over its length in ids to the power `length_power`. A text
    that reaches `longest` ids counts unchanged, without `end`. The search for an item ends when no unfinished text can
    beat its best finished one.

    Args:
        model: returns the logits.
        prompt: `[n, L]` the beginning of each text.
        end: the id that ends a text.
        longest: maximum number of ids to write.
        beams: number of texts kept at each step.
        banned: ids that are never written.
        length_power: 0 for the plain log-probability, which favours short texts; 1 for the mean per id.

    Returns:
        the written ids `[n, <= longest]`, followed by `end`, and the scores `[n]`.
    """
    if beams < 1 or longest < 1:
        raise ValueError(f"beam_search: beams and longest must be 1 or more, got {beams} and {longest}.")
    n, start = prompt.shape
    ids = prompt.repeat_interleave(beams, dim=0)
    items = torch.arange(n, device=prompt.device).repeat_interleave(beams)
    # At first all beams of an item are the same: only one of them may be extended.
    alive = torch.full((n, beams), -torch.inf, device=prompt.device)
    alive[:, 0] = 0.0
    best = torch.full((n,), -torch.inf, device=prompt.device)
    texts = torch.full((n, longest), end, dtype=prompt.dtype, device=prompt.device)
    for step in range(1, longest + 1):
        steps = torch.log_softmax(_allowed(model(ids, items), banned).float(), dim=-1)
        totals = alive[:, :, None] + steps.view(n, beams, -1)
        ended = totals[:, :, end] / step**length_power
        totals[:, :, end] = -torch.inf
        written = ids[:, start:].view(n, beams, -1)
        best, texts = _keep_best(best, texts, ended, written)
        vocabulary = totals.shape[2]
        alive, places = totals.flatten(1).topk(min(beams, beams * vocabulary), dim=1)
        parents = places // vocabulary + torch.arange(n, device=prompt.device)[:, None] * beams
        ids = torch.cat([ids[parents.flatten()], (places % vocabulary).view(-1, 1).to(ids.dtype)], dim=1)
        # Log-probabilities only fall, and the longest text has the mildest divisor.
        if bool((alive[:, 0] / longest**length_power <= best).all()):
            return texts[:, :step], best
    best, texts = _keep_best(best, texts, alive / longest**length_power, ids[:, start:].view(n, beams, -1))
    return texts, best


def _allowed(logits: Tensor, banned: tuple[int, ...]) -> Tensor:
    """The logits with those of the banned ids at minus infinity."""
    if banned:
        logits = logits.clone()
        logits[:, list(banned)] = -torch.inf
    return logits


def _keep_best(best: Tensor, texts: Tensor, scores: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
    """The best finished text of each item after one more round: `[n]`, `[n, longest]`.

    Args:
        best, texts: those so far.
        scores: `[n, beams]` of the texts that end now.
        written: `[n, beams, L]` their ids without the end.
    """
    value, which = scores.max(dim=1)
    better = value > best
    rows = torch.arange(len(best), device=best.device)
    fresh = texts.clone()  # followed only by `end`: earlier texts were shorter
    fresh[:, : written.shape[2]] = written[rows, which]
    return torch.where(better, value, best), torch.where(better[:, None], fresh, texts)
