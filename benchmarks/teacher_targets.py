"""What a reference tells a student within a random batch: how its softmax targets spread over captions.

    python benchmarks/teacher_targets.py --shards data/webmix --reference runs/references/lite2-imagenet

Distillation teaches what the targets hold besides the pair's own caption. For pairs of the built-in scenes with their
packaged reference, and of a pool of photos with one of yours, batches are drawn at random, and for each image with a
right caption the targets over the batch's captions are measured: the probability of its own caption, and their
perplexity (the exponential of the entropy: among how many captions they spread). The same with columns from outside the
batch. Writes `--out` for the block `targets` of docs/evidence.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.demo.packaged_reference import load_kept
from aced.lab.scenes import make_pool
from aced.models import Tower, import_open_clip, load_tower
from aced.pool.shards import open_shards
from aced.pool.source import SOUND_KINDS, Source
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads

BATCH, COLUMNS = 64, 512


def targets(images: Tensor, texts: Tensor, scale: float, own: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image, the probability of its own caption, and the perplexity of its targets: `[b]` each.

    Args:
        images: `[b, d]`, of unit length.
        texts: `[c, d]`, the captions that it is compared with.
        scale: the reference's logit scale.
        own: `[b]` the row of each image's own caption.
    """
    log = (scale * images @ texts.T).log_softmax(dim=1)
    return log.gather(1, own[:, None])[:, 0].exp(), (-(log.exp() * log).sum(1)).exp()


def measured(e: Embeddings, right: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Means over the images with right captions in random batches, alone and against columns from outside.

    Args:
        e: of N pairs.
        right: `[N]` bool, whether the caption is right.
        generator: draws the batches.
    """
    scale = float(e.scale)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"batch": [], "columns": []}
    order = torch.randperm(len(right), generator=generator)
    for rows in order.split(BATCH + COLUMNS):
        if len(rows) < BATCH + COLUMNS:
            break
        kept = right[rows[:BATCH]].nonzero()[:, 0]
        for name, width in (("batch", BATCH), ("columns", BATCH + COLUMNS)):
            found[name].append(targets(e.image[rows[kept]], e.text[rows[:width]], scale, kept))
    means = {}
    for name, batches in found.items():
        for what, parts in zip(("own", "perplexity"), zip(*batches, strict=True), strict=True):
            means[f"{name}: {what}"] = float(torch.cat(parts).mean())
    return means | {"batches": float(len(found["batch"]))}


def embedded(tower: Tower, source: Source, count: int, tick: Any) -> tuple[Embeddings, Tensor]:
    """Some pairs of a pool, drawn at random, embedded; and whether each caption is right."""
    assert source.kinds is not None
    picked = torch.randperm(len(source), generator=torch.Generator().manual_seed(1))[:count].tolist()
    parts, kinds = [], []
    for start in range(0, len(picked), BATCH):
        some = source.read(picked[start : start + BATCH], [tower.view])
        parts.append(tower.score(some, BATCH))
        kinds += [source.kinds[at] in SOUND_KINDS for at in some.indices.tolist()]
        tick(min(start + BATCH, len(picked)), "")
    return Embeddings.cat(parts), torch.tensor(kinds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", nargs="+", required=True, help="tars of photos with `kind` in their json")
    parser.add_argument("--reference", type=Path, required=True, help="a model folder")
    parser.add_argument("--pairs", type=int, default=4608, help="of each pool: a multiple of 576 is used up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "studies/targets.json")
    options, console = parser.parse_args(arguments), Console()
    set_threads(options.threads)
    import_open_clip()  # before transformers, which imports torchvision
    try:
        pools = {
            "scenes": (load_kept()[0], make_pool(options.pairs, 1)),
            "photos": (load_tower(options.reference), open_shards(options.shards, kind_field="kind")),
        }
        found = {}
        for name, (tower, source) in pools.items():
            with Bars(console) as bars, bars.bar(name, min(options.pairs, len(source))) as tick:
                e, right = embedded(tower.eval(), source, options.pairs, tick)
            found[name] = measured(e, right, torch.Generator().manual_seed(0)) | {"scale": float(e.scale)}
            console.print(name, {key: round(value, 3) for key, value in found[name].items()})
        write_atomic(options.out, json.dumps(found, indent=1) + "\n")
    except AcedError as error:
        sys.exit(f"teacher_targets.py: {error}")


if __name__ == "__main__":
    main()
