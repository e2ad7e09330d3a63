"""`aced cost`: an estimate of what a run loads, trains, computes and stores, as two tables or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.cache.costs import size_text
from aced.cache.sidecar import sample_bytes
from aced.config import Config
from aced.cost.outlined import Models, Outlined, outlined
from aced.cost.step_cost import run_totals
from aced.pool.inmemory import decoded_bytes
from aced.report.numbers import compact, duration, ratio
from aced.runs.ledger import BACKWARD

PHASES = {
    "forward_backward": "training, forward and backward",
    "scoring": "scoring by the student",
    "selection": "selection",
    "reference": "reference",
    "teacher": "teacher",
}


@dataclass(frozen=True)
class Assumed:
    """Assumptions about what a config leaves open.

    Attributes:
        text_tokens: length of texts, at most each model's maximum; None takes that maximum.
        pairs: size of the pool; None: that of the scenes, otherwise the number drawn, each once.
        pair_kb: 10^3 bytes per pair in its tar; None: the bytes read are not estimated.
        gpu_tflops: peak of a GPU, in 10^12 FLOPs per second.
        utilisation: share of the peak that a run reaches.
    """

    text_tokens: int | None = None
    pairs: int | None = None
    pair_kb: float | None = None
    gpu_tflops: float = 989.0
    utilisation: float = 0.4

    def gpu_hours(self, flops: float) -> float:
        """Hours of one GPU for this many FLOPs."""
        return flops / (self.gpu_tflops * 1e12 * self.utilisation) / 3600


def cost_of(config: Config, assumed: Assumed) -> dict[str, Any]:
    """Estimate the cost of a run; reads no data and downloads nothing.

    Args:
        config: the run's.
        assumed: what the config leaves open.

    Returns:
        JSON-ready: `models`, `steps`, `batch`, `super_batch`, `samples_trained`, `samples_loaded`, `bytes`, `flops` by
        phase, `flops_total`, `cached_flops` (what computing the cached embeddings would have cost), `forwards` (FLOPs
        for each trained pair, in forward passes of the student), `to_iid`, `gpu_hours`, `sidecars`, `assumed`. Bytes,
        FLOPs (a multiply-add counts as 2), and hours of one GPU.

    Raises:
        AcedError: see `outlined`.
    """
    models = outlined(config, assumed.text_tokens)
    pool = assumed.pairs or _pool(config)
    total, steps = run_totals(config, models, pool), config.train.steps
    flops, trained, loaded = total.flops, total.samples_trained, total.samples_loaded
    whole = sum(flops.values())
    views = [models.student.tower.view, *(one.tower.view for one in models.frozen if not one.cached)]
    forward = models.student.forward
    read = {} if assumed.pair_kb is None else {"read": round(loaded * assumed.pair_kb * 1e3)}
    return {
        "models": [_described(one) for one in (models.student, *models.frozen)],
        "method": config.method.name,
        "steps": steps,
        "batch": config.train.batch,
        "super_batch": config.super_batch,
        "samples_trained": trained,
        "samples_loaded": loaded,
        "bytes": {"decoded": decoded_bytes(loaded, views), **read},
        "flops": flops,
        "flops_total": whole,
        "cached_flops": total.cached_flops,
        "forwards": whole / trained / forward,
        "to_iid": whole / trained / forward / (1 + BACKWARD),
        "gpu_hours": assumed.gpu_hours(whole),
        "sidecars": _sidecars(config, models, pool, assumed),
        "assumed": asdict(assumed) | {"pairs": pool},
    }


def _pool(config: Config) -> int:
    """The size of a pool if nothing is known about it: a run uses at most the pairs that it draws."""
    data = config.data
    return config.super_batch * config.train.steps if data.shards or data.source else data.scenes_size


def _described(model: Outlined) -> dict[str, Any]:
    return {
        "key": model.key,
        "model": model.section.model,
        "checkpoint": model.section.checkpoint,
        "parameters": sum(value.numel() for value in model.tower.parameters()),
        "text_tokens": model.tokens,
        "image_flops": model.flops.image,
        "text_flops": model.flops.text,
        "cached": model.cached,
    }


def _sidecars(config: Config, models: Models, pairs: int, assumed: Assumed) -> list[dict[str, Any]]:
    """The cost of computing and storing the side-cars of a pool, for each model that has any."""
    dtype, views = config.reference.cache_dtype, config.data.views
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for model in models.frozen:
        if not model.cached:
            continue
        flops = pairs * float(views * model.flops.image + model.flops.text)
        found[model.section.model, model.section.checkpoint] = {
            "model": model.section.model,
            "checkpoint": model.section.checkpoint,
            "width": model.tower.width,
            "dtype": dtype,
            "views": views,
            "bytes": pairs * sample_bytes(model.tower.width, dtype, views),
            "flops": flops,
            "gpu_hours": assumed.gpu_hours(flops),
        }
    return list(found.values())


def cost_program(config: Config, assumed: Assumed, console: Console, *, in_json: bool = False) -> dict[str, Any]:
    """Print the estimated cost of a run.

    Args:
        config: the run's.
        assumed: what the config leaves open.
        console: where to print.
        in_json: print one JSON object, as `cost_of` returns it.

    Raises:
        AcedError: see `cost_of`.
    """
    found = cost_of(config, assumed)
    if in_json:
        console.print(json.dumps(found, indent=1), markup=False, highlight=False, soft_wrap=True)
        return found
    for table in (_models(found), _flops(found, assumed), _pairs(found)):
        console.print(table)
    for sentence in _sentences(found, config):
        console.print(sentence, markup=False, highlight=False)
    return found


# -- the terminal ------------------------------------------------------------------------------------------------------


def _table(*heads: str) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    return table


def _named(one: dict[str, Any]) -> str:
    return f"{one['model']} ({one['checkpoint']})" if one["checkpoint"] else str(one["model"])


def _models(found: dict[str, Any]) -> Table:
    table = _table("Model", "Parameters", "Image, FLOPs", "Text, FLOPs", "Tokens", "Embeddings")
    for one in found["models"]:
        numbers = [compact(one[key]) for key in ("parameters", "image_flops", "text_flops")]
        how = "trained" if one["key"] == "student" else "cached" if one["cached"] else "at every step"
        table.add_row(escape(f"{one['key']}: {_named(one)}"), *numbers, str(one["text_tokens"]), how)
    return table


def _flops(found: dict[str, Any], assumed: Assumed) -> Table:
    table = _table("FLOPs", "Per step", "All steps", "Share", "GPU hours")
    for phase, words in PHASES.items():
        if found["flops"][phase]:
            table.add_row(words, *_spent(found["flops"][phase], found, assumed))
    table.add_section()
    table.add_row("all", *_spent(found["flops_total"], found, assumed))
    for one in found["sidecars"]:
        hours = _hours(one["gpu_hours"])
        table.add_row(escape(f"once, separately: side-cars by {_named(one)}"), "", compact(one["flops"]), "", hours)
    return table


def _spent(flops: float, found: dict[str, Any], assumed: Assumed) -> list[str]:
    share = f"{100 * flops / found['flops_total']:.1f} %"
    return [compact(flops / found["steps"]), compact(flops), share, _hours(assumed.gpu_hours(flops))]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else duration(3600 * hours)


def _pairs(found: dict[str, Any]) -> Table:
    table = _table("Pairs and bytes", "Per step", "All steps")
    steps = found["steps"]
    for words, key in (("pairs loaded", "samples_loaded"), ("pairs trained on", "samples_trained")):
        table.add_row(words, f"{found[key] // steps:,}", compact(found[key]))
    names = {"decoded": "pixels decoded", "read": "bytes read from tars"}
    for key, size in found["bytes"].items():
        table.add_row(names[key], size_text(size / steps), size_text(size))
    for one in found["sidecars"]:
        what = f"side-cars by {_named(one)}, {one['width']} x {one['views'] + 1} {one['dtype']}"
        table.add_row(escape(what), "", size_text(one["bytes"]))
    return table


def _sentences(found: dict[str, Any], config: Config) -> list[str]:
    assumed = found["assumed"]
    texts = "of full length" if assumed["text_tokens"] is None else f"of {assumed['text_tokens']} tokens"
    said = [
        f"{found['method']}: {found['forwards']:.3g} forward passes of the student per pair trained on, "
        f"{ratio(found['to_iid'])} IID; {found['steps']:,} steps that train on {found['batch']:,} of "
        f"{found['super_batch']:,} pairs.",
        f"Assumed: texts {texts} (--text-tokens), a pool of {assumed['pairs']:,} pairs (--pairs), a GPU of "
        f"{assumed['gpu_tflops']:g} TFLOP/s (--gpu-tflops) used at {100 * assumed['utilisation']:g} % "
        "(--utilisation).",
    ]
    if config.scoring.reuse:
        said.append("scoring.reuse is counted as if it remembered no pair: the figure is an upper bound.")
    return said
