"""Pools of image-caption pairs: clean ones, and ones with the faults of pairs from the web."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.lab.scenes import render, shifts, world
from aced.lab.scenes import scene_captions as captions
from aced.pool.source import Candidates, Source
from aced.pool.views import View
from aced.runtime.counting import Progress

Counting = Callable[[str], AbstractContextManager[Progress]]
"""Opens a bar with a description."""

_SPREAD = 0.35
"""How far a near-duplicate's jitter moves from its base scene's, as a share of the whole range."""
_CAPTIONS_PER_BASE = 2


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of pairs in a pool; they add up to one.

    Attributes:
        clean: image and caption right.
        duplicate: many near-copies of few base scenes, captions right.
        shuffled: the caption of another scene.
        junk: a file's name or scraps of a web site as caption.
        vague: a caption that is true of every image.
        noisy: the image corrupted, the caption right.
        partial: one attribute in the caption wrong.
        bases: number of base scenes of the near-duplicates.
    """

    clean: float = 0.20
    duplicate: float = 0.33
    shuffled: float = 0.20
    junk: float = 0.10
    vague: float = 0.10
    noisy: float = 0.05
    partial: float = 0.02
    bases: int = 48

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6 or self.bases < 1:
            raise AcedError(
                "Mix: the shares must be zero or more and add up to 1, with at least one base scene; got "
                f"{shares} (sum {sum(shares.values()):g}) and bases={self.bases}."
            )

    def shares(self) -> dict[str, float]:
        """Share by kind."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "bases"}

    def counts(self, n: int) -> dict[str, int]:
        """Exact numbers by kind that add up to n: whole parts first, then the largest remainders."""
        exact = {kind: share * n for kind, share in self.shares().items()}
        counts = {kind: int(value + 1e-9) for kind, value in exact.items()}
        by_remainder = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
        for kind in by_remainder[: n - sum(counts.values())]:
            counts[kind] += 1
        return counts


DEFAULT_MIX = Mix()
REDUNDANT_MIX = Mix(clean=0.12, duplicate=0.60, shuffled=0.11, junk=0.05, vague=0.06, noisy=0.04, partial=0.02)
"""A pool that mostly repeats itself: joint selection has the most to gain there."""


@dataclass(frozen=True, eq=False)
class Scenes(Source):
    """Image-caption pairs in memory; a `Source`.

    Attributes:
        name: split and seed.
        fingerprint: hash of everything that determines the pairs.
        pixels: `[n, 3, 32, 32]` uint8.
        captions: n captions.
        kinds: how each pair was corrupted.
        keys: lasting identities of the pairs.
        params: `[n, world.WIDTH]` int64 true attributes of the images. For tests only.
    """

    name: str
    fingerprint: str
    pixels: Tensor
    captions: list[str]
    kinds: Sequence[str] | None
    keys: Sequence[str]
    params: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """The pairs at `indices`, in that order, in every view; none is ever faulty."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self.pixels[rows]
        return Candidates(
            indices=rows,
            texts=[self.captions[i] for i in rows.tolist()],
            images={view: in_view(pixels, view) for view in views},
        )

    def fields_at(self, name: str, positions: Sequence[int]) -> list[object]:
        """The value of a field of some pairs: `concepts` is the true content of the image; any other is None."""
        if name != "concepts":
            return [None] * len(positions)
        rows = self.params[torch.as_tensor(positions, dtype=torch.int64)]
        return [captions.concepts(row) for row in rows.tolist()]


def in_view(pixels: Tensor, view: View) -> Tensor:
    """`[n, 3, 32, 32]` uint8 to `[n, 3, size, size]` uint8; at the images' own size nothing is copied."""
    if view.size == world.IMAGE_SIZE and not view.crop:
        return pixels
    images = [torch.from_numpy(view.apply(image)) for image in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.stack(images) if images else pixels.new_empty(0, 3, view.size, view.size)


def make_pool(n: int, seed: int, progress: Progress | None = None, mix: Mix = DEFAULT_MIX) -> Scenes:
    """A pool of n pairs, corrupted in the shares of `mix` and shuffled.

    Args:
        n: number of pairs.
        seed: another seed gives another pool.
        progress: called with (pairs rendered, n) from time to time.
        mix: shares of the kinds.
    """
    counts = mix.counts(n)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    order = torch.randperm(n, generator=world.generator("pool", seed, "order"))
    shuffled_kinds = [kinds[i] for i in order.tolist()]
    rows = {kind: _rows(shuffled_kinds, kind) for kind in counts}

    plan = world.sample(n, world.generator("pool", seed, "plan"))
    bases = world.sample(mix.bases, world.generator("pool", seed, "bases"))
    base = torch.arange(counts["duplicate"]) % mix.bases
    copies = world.redraw(bases[base], world.generator("pool", seed, "copies"), _SPREAD)
    plan = _replace(plan, rows["duplicate"], copies)

    pixels = render.render(plan, progress=progress)
    noisy = rows["noisy"]
    pixels[noisy] = shifts.spoil(pixels[noisy], world.generator("pool", seed, "spoil"))

    texts = _tell(plan.attributes, seed, rows)
    draw = random.Random(world.named_seed("pool", seed, "duplicates"))
    choices = [[captions.describe(row, draw) for _ in range(_CAPTIONS_PER_BASE)] for row in bases.attributes.tolist()]
    for i, b in zip(rows["duplicate"].tolist(), base.tolist(), strict=True):
        texts[i] = choices[b][int(_CAPTIONS_PER_BASE * draw.random())]
    return _scenes("pool", n, seed, mix, pixels, texts, shuffled_kinds, plan.attributes)


def make_curated(n: int, seed: int, progress: Progress | None = None) -> Scenes:
    """n clean pairs, suitable for training a reference model."""
    plan = world.sample(n, world.generator("curated", seed, "plan"))
    draw = random.Random(world.named_seed("curated", seed, "captions"))
    texts = [captions.describe(row, draw) for row in plan.attributes.tolist()]
    pixels = render.render(plan, progress=progress)
    return _scenes("curated", n, seed, None, pixels, texts, ["clean"] * n, plan.attributes)


def make_scenes(split: str, size: int, seed: int, counting: Counting) -> Scenes:
    """The scenes of a config: `pool`, `redundant` or `curated`, with a bar while they are rendered."""
    with counting(f"Rendering {size:,} scenes ({split})") as progress:
        if split == "curated":
            return make_curated(size, seed, progress=progress)
        mix = REDUNDANT_MIX if split == "redundant" else DEFAULT_MIX
        return make_pool(size, seed, progress=progress, mix=mix)


def _tell(attributes: Tensor, seed: int, rows: dict[str, Tensor]) -> list[str]:
    """Captions of all but the near-duplicates: right ones, then overwritten by the corrupted kinds."""
    draw = random.Random(world.named_seed("pool", seed, "captions"))
    texts = [captions.describe(row, draw) for row in attributes.tolist()]
    others = world.sample(len(rows["shuffled"]), world.generator("pool", seed, "shuffled"))
    for i, row in zip(rows["shuffled"].tolist(), others.attributes.tolist(), strict=True):
        texts[i] = captions.describe(row, draw)
    for i in rows["junk"].tolist():
        texts[i] = captions.junk(draw)
    for i in rows["vague"].tolist():
        texts[i] = captions.vague(draw)
    partial = rows["partial"]
    wrong, changed = world.tell_one_wrong(attributes[partial], world.generator("pool", seed, "partial"))
    for i, row, column in zip(partial.tolist(), wrong.tolist(), changed.tolist(), strict=True):
        texts[i] = captions.describe(row, draw, must=(captions.COLUMNS[column],))
    return texts


def _rows(kinds: Sequence[str], kind: str) -> Tensor:
    return torch.tensor([i for i, own in enumerate(kinds) if own == kind], dtype=torch.int64)


def _replace(plan: world.ScenePlan, rows: Tensor, new: world.ScenePlan) -> world.ScenePlan:
    """The plan with the scenes at `rows` replaced."""
    pairs = ((plan.attributes, new.attributes), (plan.jitter, new.jitter), (plan.light, new.light))
    attributes, jitter, light = (old.index_copy(0, rows, fresh) for old, fresh in pairs)
    return world.ScenePlan(attributes, jitter, light, plan.tape.index_copy(0, rows, new.tape))


def _scenes(
    split: str,
    n: int,
    seed: int,
    mix: Mix | None,
    pixels: Tensor,
    texts: list[str],
    kinds: list[str],
    params: Tensor,
) -> Scenes:
    name = f"scenes-{split}-{seed}"
    identity = f"{world.VERSION}/{name}/{n}/{mix}"
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Scenes(
        name=name,
        fingerprint=fingerprint,
        pixels=pixels,
        captions=texts,
        kinds=kinds,
        # With the fingerprint, so that another mix or size with the same seed does not count as the same samples.
        keys=[f"{name}-{fingerprint[:8]}/{i:06d}" for i in range(n)],
        params=params,
    )
