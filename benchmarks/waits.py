"""How often a step waits for the GPU, and what it copies between it and the host: a row for each method.

    python benchmarks/waits.py                        # on a GPU that is only claimed: needs none
    python benchmarks/waits.py --where                # and the line of each wait
    PYTHONPATH=OTHER/src python benchmarks/waits.py   # of another checkout
    python benchmarks/waits.py --cuda                 # on a GPU, by torch.cuda.set_sync_debug_mode

Counted is what `train_step` does at a step that is not logged, the second of a run of `aced train`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from claimed_gpu import Wait, claim

STEP = 2
COMMON = ["run.log_every=1000", "run.checkpoint_every=0", "data.scenes_size=160", "student.model=peer.json"]
COMMON += ["train.steps=9", "train.batch=16", "method.chunks=4", "run.threads=1", "run.device=cuda"]


class Enough(BaseException):
    """The step has been taken."""


def rows(*, live: bool) -> dict[str, list[str]]:
    """The command-line words of every method; its reference is cached, unless it is to be `live` and can."""
    from aced.methods import METHODS

    found = {}
    for name, method in METHODS.items():
        found[name] = [f"method.name={name}"]
        if method.needs_large or method.needs_peer:
            found[name].append(f"reference.model={'peer' if method.needs_peer else 'large'}")
            if not live or method.columns or method.filters:
                found[name].append("reference.cache=cache")
    return found


def write_models(place: Path) -> None:
    """Tiny models: one to be trained, and two with weights, as wide as that one and wider."""
    from aced.models import load_tower, save_tower

    for name, width in (("peer", 16), ("large", 32)):
        towers = {"vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 16}, "text_cfg": {"heads": 2}}
        towers["text_cfg"] |= {"context_length": 16, "vocab_size": 450}  # the words of the demo family
        for tower in towers.values():
            tower |= {"layers": 1, "width": 2 * width}
        model = place / f"{name}.json"
        model.write_text(json.dumps({"embed_dim": width, "init_logit_bias": -10, **towers}), encoding="utf-8")
        save_tower(load_tower(str(model), seed=7), place / name)


def step_of(words: list[str], out: Path, watched: Callable[[Callable[[], Any]], None]) -> None:
    """Run `aced train` up to step number STEP, which `watched` is given to take."""
    from rich.console import Console

    import aced.train.run.loop as loop
    from aced.config import load_config
    from aced.programs.train import train_program

    take = loop.train_step

    def stepping(trainer: Any, batches: Any) -> Any:
        if trainer.step < STEP - 1:
            return take(trainer, batches)
        watched(lambda: take(trainer, batches))
        raise Enough

    loop.train_step = stepping
    try:
        config = load_config("scenes", [*COMMON, *words, f"run.out={out}"])
        train_program(config, Console(quiet=True), resume=False)
    except Enough:
        pass
    finally:
        loop.train_step = take


def claimed(words: list[str], out: Path) -> list[Wait]:
    """What a step on a claimed GPU waits for and copies."""
    import aced

    found: list[Wait] = []
    with claim(Path(aced.__file__).parent) as gpu:

        def watched(take: Callable[[], Any]) -> None:
            gpu.noted.clear()
            take()
            found.extend(gpu.noted)

        step_of(words, out, watched)
    return found


def on_cuda(words: list[str], out: Path) -> list[Wait]:
    """What a step on this machine's GPU waits for."""
    found: list[Wait] = []

    def watched(take: Callable[[], Any]) -> None:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                take()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        synchronising = [one for one in told if "synchroniz" in str(one.message)]
        found.extend(Wait("synchronisation", f"{Path(one.filename).name}:{one.lineno}") for one in synchronising)

    step_of(words, out, watched)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="on a GPU of this machine")
    parser.add_argument("--where", action="store_true", help="print the line of each wait")
    parser.add_argument("--live", action="store_true", help="references that are no cache, where the method can")
    parser.add_argument("--only", default="", help="words, one of which a row's name must have")
    parser.add_argument("--json", type=Path, help="write the waits of each row here")
    parser.add_argument("words", nargs="*", help="further section.key=value")
    given = parser.parse_args()
    only = [word for word in given.only.split(",") if word]
    target = None if given.json is None else given.json.resolve()
    all_found: dict[str, list[Wait]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_models(Path(folder))
        for number, (name, words) in enumerate(rows(live=given.live).items()):
            if only and not any(word in name for word in only):
                continue
            found = (on_cuda if given.cuda else claimed)([*words, *given.words], Path(folder) / f"run-{number}")
            all_found[name] = found
            waits = [one for one in found if one.waits]
            kinds = ", ".join(f"{count} {what}" for what, count in Counter(one.what for one in found).items())
            print(f"{name:20} {len(waits):3} waits   {kinds}", flush=True)
            if given.where:
                for (what, where), count in Counter((one.what, one.where) for one in found).items():
                    print(f"{'':24} {count:3} {what:20} {where}")
        os.chdir("/")
    if target is not None:
        target.write_text(
            json.dumps({name: [vars(one) for one in found] for name, found in all_found.items()}), encoding="utf-8"
        )
    sys.exit(1 if any(one.waits for found in all_found.values() for one in found) else 0)


if __name__ == "__main__":
    main()
