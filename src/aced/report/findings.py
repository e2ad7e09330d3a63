"""The result of choosing stable tasks and its reliability, in sentences."""

from __future__ import annotations

from aced.evaluate.stability.stable_tasks import Stability

FEW = 4
"""With fewer degrees of freedom a sigma is known to a factor of three at best, and the sentence says so."""


def findings(found: Stability) -> list[str]:
    """The findings and their reliability, in sentences."""
    return [text for text in (_seeds(found), _guard(found), _choice(found), _unseen(found), _ranking(found)) if text]


def _seeds(found: Stability) -> str:
    names = list(found.recipes)
    shown = ", ".join(f"{found.recipes[name]} x {name}" for name in names[:4])
    more = f" and {len(names) - 4} more recipes" if len(names) > 4 else ""
    low, high = found.sigma_factors
    text = (
        f"Repeats: {shown}{more}; {found.df} degree{'s' * (found.df > 1)} of freedom, so the true sigma of a task is "
        f"between {low:.2f} and {high:.2f} times the one shown (95 %)."
    )
    return text + (" That is too few for a choice: train more seeds." if found.df < FEW else "")


def _guard(found: Stability) -> str:
    unknown = [task.name for task in found.tasks if task.p_value is None]
    dropped = [task.name for task in found.tasks if task.verdict == "chance"]
    text = f"Chance: {len(found.tasks) - len(dropped) - len(unknown)} of {len(found.tasks)} tasks are above it"
    text += f"; dropped as not significantly above it: {', '.join(dropped)}." if dropped else "."
    if unknown:
        text += f" Not tested, because n or chance is unknown (supply them with --facts): {', '.join(unknown)}."
    return text


def _choice(found: Stability) -> str:
    best, every = found.stable, found.above_chance
    text = (
        f"Choice: the average of the {best.tasks} most stable of {every.tasks} tasks varies least between seeds, "
        f"by {100 * best.std:.2f} points; all {every.tasks} by {100 * every.std:.2f}."
    )
    if best.tasks == every.tasks:
        text = (
            f"Choice: all {every.tasks} tasks above chance stay; leaving out the noisiest would not make their average "
            f"steadier (it varies by {100 * every.std:.2f} points between seeds)."
        )
    if found.chosen_low is not None:
        text += f" On resampled seeds N is between {found.chosen_low} and {found.chosen_high} (95 %)."
    if found.chosen == found.least and found.chosen < every.tasks:
        text += f" N is the minimum allowed ({found.least}); the curve may be lower still before it."
    return text


def _unseen(found: Stability) -> str:
    if found.held_out is None:
        return "Held-out seeds: too few seeds to choose on one half and measure on the other."
    return (
        f"Held-out seeds: chosen on half of the seeds, the stable average varies {found.held_out:.2f} times as much as "
        "that of all tasks above chance on the other half."
    )


def _ranking(found: Stability) -> str:
    if found.tau is None:
        return ""
    pairs = found.models * (found.models - 1) // 2
    text = (
        f"Ranking: Kendall's tau between {found.models} models by the full average ({found.full.tasks} tasks) and by "
        f"the stable one is {found.tau:.3f}; {found.swapped} of {pairs} pairs swap places."
    )
    if found.full.signal is not None and found.stable.signal is not None:
        text += (
            f" The models' spread is {found.full.signal:.1f} sigmas of the full average and "
            f"{found.stable.signal:.1f} of the stable one."
        )
    return text
