"""Embeds pools with references of `public_reference.py`; what their trunks gave is kept, so that it is computed once.

    python benchmarks/public_embed.py --references runs/lite2 runs/lite0 --shards data/pool --cache runs/cache-public

The side-cars are those of `aced embed`. Pools that share pictures or captions, and references that share a trunk, cost
little more than one: `--features` is the folder that `public_reference.py` kept its own in.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from public_features import remembering
from rich.console import Console

from aced.cache.making import EmbedSettings
from aced.cache.store import build_store
from aced.errors import AcedError
from aced.models import import_open_clip, load_tower
from aced.pool.shards import open_shards
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and embed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", nargs="+", type=Path, required=True, help="folders of public_reference.py")
    parser.add_argument("--shards", nargs="+", required=True, help="tars, as data.shards names them")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache-public"))
    parser.add_argument("--features", type=Path, default=Path("runs/public-features"))
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options, console = parser.parse_args(arguments), Console()
    set_threads(options.threads)
    import_open_clip()  # before transformers, which imports torchvision
    try:
        for folder in options.references:
            settings = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["settings"]
            tower = load_tower(folder)
            source = open_shards(options.shards)
            with (
                remembering(tower, settings["images"], settings["texts"], options.features),
                Bars(console) as bars,
                bars.counting(f"Embedding with {folder.name}") as progress,
            ):
                build_store(options.cache, source, tower, EmbedSettings(micro_batch=options.micro_batch), progress)
            console.print(f"{folder}: {len(source):,} pairs in {options.cache}", markup=False, highlight=False)
    except AcedError as error:
        sys.exit(f"public_embed.py: {error}")


if __name__ == "__main__":
    main()
