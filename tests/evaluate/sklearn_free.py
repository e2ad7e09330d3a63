"""F1 and recall, averaged over the true classes that occur, from their definitions."""

from __future__ import annotations


def recall_macro(predicted: list[int], true: list[int]) -> float:
    recalls = []
    for c in set(true):
        chosen = [p for p, t in zip(predicted, true, strict=True) if t == c]
        recalls.append(chosen.count(c) / len(chosen))
    return sum(recalls) / len(recalls)


def f1_macro(predicted: list[int], true: list[int]) -> float:
    scores = []
    for c in set(true):
        right = sum(p == t == c for p, t in zip(predicted, true, strict=True))
        precision = right / max(predicted.count(c), 1)
        recall = right / true.count(c)
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(scores) / len(scores)
