"""A pool of photos whose pairs list what their pictures show, for the methods that choose by concepts (CABS).

    python benchmarks/photo_concepts.py --pool data/webmix --reference runs/references/lite2-imagenet \\
        --imagenet data/en_classnames.json --features runs/features --out runs/pools/concepts

CABS tags pictures with a detector. Here the image trunk of a reference of `public_reference.py` does, with ImageNet's
own classifier: a picture's concepts are the names of the classes of at least `--least` probability, at most `--most` of
them, and always the likeliest one. Captions and labels are not read. The pairs stay in their order; each gets the field
`concepts` in its json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pool_tars import read_pairs, write_pool
from public_features import remembering
from public_heads import features
from public_weights import class_weights
from rich.console import Console
from torch import Tensor

from aced.errors import AcedError
from aced.models import import_open_clip, load_tower
from aced.pool.shards import open_shards
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads


def tags(logits: Tensor, names: Sequence[str], least: float, most: int) -> list[list[str]]:
    """Names of the classes that each picture shows, the likeliest first.

    Args:
        logits: `[N, C]` of a classifier.
        names: of the C classes.
        least: probability that a class needs; the likeliest one needs none.
        most: number of names that are kept.
    """
    values, places = logits.softmax(dim=1).topk(most, dim=1)
    enough = values >= least
    enough[:, 0] = True
    return [
        [names[at] for at, kept in zip(own, keeps, strict=True) if kept]
        for own, keeps in zip(places.tolist(), enough.tolist(), strict=True)
    ]


def make(options: argparse.Namespace, console: Console) -> None:
    """Tag the pool and write it.

    Raises:
        AcedError: the reference, the class names or a pair cannot be read, or `--out` exists.
    """
    try:
        names = json.loads(options.imagenet.read_text(encoding="utf-8"))["imagenet1k"]
        settings = json.loads((options.reference / "reference.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise AcedError(f"--imagenet or --reference cannot be read ({error}).") from None
    tower, source = load_tower(options.reference), open_shards(options.pool)
    with (
        remembering(tower, settings["images"], settings["texts"], options.features),
        Bars(console) as bars,
        bars.counting("Tagging") as progress,
    ):
        seen, rows = features(tower, source, progress)
    weights, biases = class_weights(settings["images"])
    pairs = read_pairs(options.pool)
    if len(rows) != len(pairs):
        raise AcedError(f"{len(pairs) - len(rows):,} pictures of {' '.join(options.pool)} cannot be read.")
    found = tags(seen.image @ weights.T + biases, names, options.least, options.most)
    write_pool(options.out, [pair.but(concepts=own) for pair, own in zip(pairs, found, strict=True)])
    mean = sum(map(len, found)) / len(found)
    console.print(f"{options.out}: {len(found):,} pairs, {mean:.2f} concepts each", markup=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", nargs="+", required=True, help="tars in the layout of webmix, or folders of them")
    parser.add_argument("--reference", type=Path, required=True, help="a folder of public_reference.py")
    parser.add_argument("--imagenet", type=Path, required=True, help="CLIP_benchmark's en_classnames.json")
    parser.add_argument("--features", type=Path, default=Path("runs/public-features"))
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--least", type=float, default=0.05, help="probability that a class needs")
    parser.add_argument("--most", type=int, default=5, help="concepts of a pair")
    options = parser.parse_args(arguments)
    set_threads(1)
    import_open_clip()  # before transformers, which imports torchvision
    try:
        make(options, Console())
    except AcedError as error:
        sys.exit(f"photo_concepts.py: {error}")


if __name__ == "__main__":
    main()
