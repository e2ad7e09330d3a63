"""The model's state dict in a checkpoint: found among wrappers, and without the prefixes that they add.

A checkpoint may hold several sets of weights (a model and its moving average, a student and its teacher), each under
a key of the file or a prefix of its names. A set is recognised by the names of the model that it is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cmp_to_key
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor

from aced.errors import AcedError
from aced.models.layouts import translated

# What wrappers add to names: DataParallel and DDP in front, compilation, FSDP and checkpointing anywhere.
_FRONT = ("module",)
_ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_FIRST = ("state_dict", "model_state_dict", "model", "module", "net", "network", "clip", "weights", "params")
"""Which of several sets of weights is the trained model itself, by its key or prefix; open_clip takes the first."""
# An optimiser's state may have the model's names and shapes.
_NOT_WEIGHTS = ("optim", "scheduler", "lr_sched", "scaler", "exp_avg", "momentum", "max_exp_avg", "grad")
_DEPTH, _CLOSE, _SHOWN = 3, 0.8, 3


@dataclass(frozen=True)
class _Set:
    """One set of weights in a file.

    Attributes:
        label: its place: the keys that lead to it, and the prefix of its names.
        state: its tensors, under the model's names.
        known: how many of the model's names it has.
        left: other names beside it.
        strays: keys beside it that are not tensors.
    """

    label: str
    state: dict[str, Tensor]
    known: int
    left: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def before(self, other: _Set) -> int:
        """Below 0 if it is rather the model itself than another set, 0 if nothing tells.

        The first differing word of their labels decides. Bare names are the model itself, as for open_clip.
        """
        order = {"": -1} | {name: place for place, name in enumerate(_FIRST)}
        for mine, theirs in zip_longest(self.label.split("."), other.label.split("."), fillvalue=""):
            if mine != theirs:
                return order.get(mine, len(order)) - order.get(theirs, len(order))
        return 0


def pick_state(content: Any, own: set[str], path: Path, key: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The state dict for a model in the content of a file.

    Args:
        content: of the file.
        own: the model's names.
        path: the file, for messages.
        key: the key, or the prefix of names, of the set to use; empty: the model itself.

    Returns:
        The tensors that it has under the model's names, and sentences about what was chosen.

    Raises:
        AcedError: there is no state dict, none under that key, or there are several and none is the model itself.
    """
    if not isinstance(content, Mapping) or not content:
        raise AcedError(f"{path}: neither a state dict nor a file with a 'state_dict' in it.")
    # A model with a separate text tower also accepts the names of plain CLIP, and open_clip renames them.
    known = own | {name.removeprefix("text.") for name in own}
    sets = [one for keys, mapping in _mappings(content) for one in _sets(keys, mapping, known)]
    most = max((one.known for one in sets), default=0)
    sets = [one for one in sets if one.known >= _CLOSE * most and (most or not one.strays or len(sets) == 1)] or sets
    if not sets:
        keys = ", ".join(map(repr, list(content)[:_SHOWN]))
        raise AcedError(f"{path}: it holds no weights of a model (only {keys}); name a file of weights.")
    chosen, notes = (_of_key(sets, key, path), []) if key else _chosen(sets, path)
    if chosen.strays and not chosen.known:
        raise AcedError(
            f"{path}: '{chosen.strays[0]}' is not a tensor; name a file that holds only a model's state dict."
        )
    if chosen.left:
        more = f" and {len(chosen.left) - _SHOWN} more" if len(chosen.left) > _SHOWN else ""
        notes.append(
            f"{path}: uses the weights under '{chosen.label}'; left out: {', '.join(chosen.left[:_SHOWN])}{more}."
        )
    return chosen.state, notes


def _chosen(sets: list[_Set], path: Path) -> tuple[_Set, list[str]]:
    """The set that is the model itself, and a sentence if there are others."""
    if len(sets) == 1:
        return sets[0], []
    labels = [f"'{one.label}'" if one.label else "the file itself" for one in sets]
    ranked = sorted(sets, key=cmp_to_key(_Set.before))
    if any(ranked[0].before(other) == 0 for other in ranked[1:]):
        raise AcedError(
            f"{path}: it holds several models, {', '.join(labels)}; choose one, for example {path}#{ranked[0].label}."
        )
    others = [label for label, one in zip(labels, sets, strict=True) if one is not ranked[0]]
    taken = f"'{ranked[0].label}'" if ranked[0].label else "the file itself"
    other = next(one.label for one in ranked[1:])
    return ranked[0], [
        f"{path}: it holds several sets of weights; {taken} is used, not {', '.join(others)} (for that, write "
        f"{path.name}#{other})."
    ]


def _of_key(sets: list[_Set], key: str, path: Path) -> _Set:
    """The one set whose label is a key, or begins or ends with it."""
    exact = [one for one in sets if one.label == key]
    around = [one for one in sets if f".{one.label}.".startswith(f".{key}.") or f".{one.label}".endswith(f".{key}")]
    found = exact or around
    if len(found) != 1:
        labels = ", ".join(f"'{one.label}'" for one in sets if one.label) or "no key at all"
        raise AcedError(f"{path}: '{key}' is not one of its sets of weights; they are under {labels}.")
    return found[0]


def _mappings(
    content: Mapping[Any, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The mappings in a file that hold tensors by name, with the keys that lead to each."""
    if any(isinstance(value, Tensor) and isinstance(key, str) for key, value in content.items()):
        yield keys, content
    if len(keys) < _DEPTH:
        for key, value in content.items():
            if isinstance(value, Mapping) and isinstance(key, str) and not key.lower().startswith(_NOT_WEIGHTS):
                yield from _mappings(value, (*keys, key))


def _sets(keys: tuple[str, ...], mapping: Mapping[Any, Any], known: set[str]) -> list[_Set]:
    """The sets of weights in one mapping, one per prefix of equally many known names; usually one without a prefix."""
    tensors = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
    strays = [str(key) for key, value in mapping.items() if not isinstance(value, (Tensor, Mapping))]
    bare = translated({_bare(name): value for name, value in tensors.items()})
    matched: dict[str, set[str]] = {}
    for name in bare:
        for prefix in _prefixes(name, known):
            matched.setdefault(prefix, set()).add(name)
    most = max(map(len, matched.values()), default=0)
    if not most and keys and not any("." in name for name in bare):
        return []  # for example moments of an optimiser
    close = sorted((p for p, names in matched.items() if len(names) >= _CLOSE * most), key=len)
    # Names that another prefix also explains are a part of that set: `text.` of a separate text tower.
    outer = [p for p in close if not any(q != p and matched[p] <= matched[q] for q in close)] or close[:1] or [""]
    found = []
    for prefix in outer:
        inner = tuple(other for other in outer if other != prefix and other.startswith(prefix))
        mine = [name for name in bare if name.startswith(prefix) and not name.startswith(inner)]
        state = {name.removeprefix(prefix): bare[name] for name in mine}
        left = [name for name in bare if not name.startswith(tuple(outer))] if prefix else []
        label = ".".join([*keys, prefix]).strip(".")
        found.append(_Set(label, state, len(matched.get(prefix, ())), left, strays))
    return found


def _prefixes(name: str, known: set[str]) -> Iterator[str]:
    """The part before a known name at the end of `name`, for every cut at a dot."""
    if name in known:
        yield ""
    at = name.find(".")
    while at >= 0:
        if name[at + 1 :] in known:
            yield name[: at + 1]
        at = name.find(".", at + 1)


def _bare(name: str) -> str:
    """A name without the additions of module wrappers."""
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    while len(parts) > 1 and parts[0] in _FRONT:
        parts = parts[1:]
    return ".".join(parts)
