"""Zero-shot metrics: pure functions of embeddings and labels. On ties the lower index wins, everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def best_match(queries: Tensor, candidates: Tensor, *, tile: int = 1024) -> Tensor:
    """The candidate with the largest dot product, for every query.

    Works in tiles of queries, so that the `[q, m]` matrix of scores is never held whole. Products are taken in float32.
    On ties the lowest index wins, which makes the result deterministic.

    Args:
        queries: `[q, d]`, any floating type.
        candidates: `[m, d]`, m > 0, on the same device.
        tile: queries scored at a time.

    Returns:
        `[q]` int64 indices into the candidates.

    Raises:
        ValueError: the shapes do not fit, there are no candidates, or a score is not finite.

    >>> queries = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> best_match(queries, candidates).tolist()  # scores: (1, 0), (.6, .8), (0, -1)
    [0, 1, 0]
    >>> best_match(torch.zeros(1, 2), candidates).tolist()  # a tie
    [0]
    """
    best = [torch.zeros(0, dtype=torch.int64, device=queries.device)]
    for _, scores in score_tiles(queries, candidates, tile=tile):
        best.append(scores.argmax(dim=1))
    return torch.cat(best)


def score_tiles(queries: Tensor, candidates: Tensor, *, tile: int = 1024) -> Iterator[tuple[slice, Tensor]]:
    """The dot products of `tile` queries at a time with all candidates: pairs of (queries' rows, `[t, m]` float32).

    Raises:
        ValueError: as for `best_match`.
    """
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"best_match: queries and candidates must be [q, d] and [m, d], got {list(queries.shape)} "
            f"and {list(candidates.shape)}."
        )
    if not len(candidates):
        raise ValueError("best_match: there are no candidates to choose from.")
    table = candidates.float().T
    for start in range(0, len(queries), tile):
        rows = slice(start, min(start + tile, len(queries)))
        scores = queries[rows].float() @ table
        # argmax would silently prefer NaN, and so turn a diverged model into a score.
        if not torch.isfinite(scores).all():
            raise ValueError("best_match: a score is not finite.")
        yield rows, scores


def positive_ranks(queries: Tensor, candidates: Tensor, query_owner: Tensor, candidate_owner: Tensor) -> Tensor:
    """For each query the rank, from 0, of the best candidate with the same owner.

    Recall@k of a query is `rank < k`. With the classes as candidates, each its own owner, and labels as the queries'
    owners, it is top-k accuracy.

    Args:
        queries: `[q, d]`.
        candidates: `[m, d]`.
        query_owner: `[q]` the image (or class) that each query belongs to; every one owns a candidate.
        candidate_owner: `[m]` the image (or class) that each candidate belongs to.

    Returns:
        `[q]` int64 on the CPU.

    Raises:
        ValueError: as for `best_match`, or a query without a candidate of its own.

    Image 0 owns captions 0 and 1, and its better one comes second; image 1 finds its caption first:

    >>> images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> captions = torch.tensor([[0.8, 0.0], [0.0, 0.0], [0.9, 0.9]])
    >>> positive_ranks(images, captions, torch.tensor([0, 1]), torch.tensor([0, 0, 1])).tolist()
    [1, 0]
    """
    ranks = torch.zeros(len(queries), dtype=torch.int64)
    query_owner, candidate_owner = query_owner.to(queries.device), candidate_owner.to(queries.device)
    index = torch.arange(len(candidates), device=queries.device)
    for rows, scores in score_tiles(queries, candidates):
        own = query_owner[rows, None] == candidate_owner[None, :]
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        if torch.isinf(best).any():
            raise ValueError("positive_ranks: a query has no candidate of its own.")
        # On ties the first one has the best rank.
        at = torch.where(own & (scores == best), index, len(candidates)).amin(dim=1, keepdim=True)
        before = (scores > best) | ((scores == best) & (index < at))
        ranks[rows] = before.sum(dim=1).cpu()
    return ranks


def class_ranks(scores: Tensor) -> Tensor:
    """For each class the rank of every image by its score, from 0: `[n, C]` to `[n, C]` int64.

    >>> class_ranks(torch.tensor([[0.1, 5.0], [0.3, 5.0], [0.2, 6.0]])).T.tolist()
    [[2, 0, 1], [1, 2, 0]]
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    return order.argsort(dim=0, stable=True)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """The share of predictions that are right, in [0, 1].

    Args:
        predicted: `[n]` class indices, n > 0.
        labels: `[n]` class indices.

    Raises:
        ValueError: the lengths differ or there is nothing to score.

    >>> accuracy(torch.tensor([2, 0, 1, 1]), torch.tensor([2, 1, 1, 1]))
    0.75
    """
    if predicted.shape != labels.shape or not labels.numel():
        raise ValueError(
            f"accuracy: needs equally many predictions and labels and at least one, got {list(predicted.shape)} "
            f"and {list(labels.shape)}."
        )
    right = int((predicted == labels.to(predicted.device)).sum())
    return right / labels.numel()


def recall_at_1(best: Tensor, query_owner: Tensor, candidate_owner: Tensor) -> float:
    """The share of queries whose best candidate belongs to the same image as the query, in [0, 1].

    One function serves both directions: an image owns itself and each of its captions. For image-to-text the
    queries are the images and the candidates the captions; for text-to-image the other way round.

    Args:
        best: `[q]` index of each query's best candidate, as `best_match` gives it.
        query_owner: `[q]` the image that each query belongs to.
        candidate_owner: `[m]` the image that each candidate belongs to.

    Raises:
        ValueError: as for `accuracy`.

    Two images; captions 0 and 1 belong to image 0, caption 2 to image 1. Image 0 finds caption 1, which is
    one of its own, and image 1 finds caption 0, which is not:

    >>> images, captions = torch.tensor([0, 1]), torch.tensor([0, 0, 1])
    >>> recall_at_1(torch.tensor([1, 0]), images, captions)
    0.5

    Captions 0 and 2 find their images and caption 1 does not:

    >>> round(recall_at_1(torch.tensor([0, 1, 1]), captions, images), 3)
    0.667
    """
    owners = candidate_owner.to(best.device)[best]
    return accuracy(owners, query_owner)
