"""`aced lit`: a text decoder on a frozen encoder, from data to scores, gallery and page."""

from __future__ import annotations

import json
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.lab_options import LitOptions
from aced.lab.lit.blind import DecoderPlan, blind_texts
from aced.lab.lit.decoder import DecoderShape, TextDecoder, describe, make_decoder
from aced.lab.lit.decoder_training import DecoderSettings, Sight, sight_of, train_decoder, write_texts
from aced.lab.lit.lit_page import write_lit_report
from aced.lab.lit.saved import FORMAT, save_decoder
from aced.lab.lit.score import Written, constant_text, score
from aced.lab.lit.sources import load_data
from aced.lab.lit.texts import Data, TextExamples
from aced.lab.lit.tokens import cached_tokens
from aced.lab.lit.words import Vocabulary
from aced.models import Tower, load_recipe, trained_recipe
from aced.models.recipes import Recipe
from aced.runs.gallery import picture_url
from aced.runtime.progress import Bars

GALLERY = 12
"""Number of images of each test set in the gallery."""


def lit_program(options: LitOptions, console: Console) -> dict[str, Any]:
    """Train a small decoder on a run's frozen encoder, score it, and write everything into a new folder.

    Args:
        options: the run, the data and the settings.
        console: where bars and tables are printed.

    Returns:
        the content of `results.json`.

    Raises:
        AcedError: any fault of the user or the data, in one sentence.
    """
    began = time.perf_counter()
    run, plan = options.run, plan_of(options)
    recipe = _checked(options)
    home = Path(run) if Path(run).is_dir() else Path(".")
    out = options.out or home / "lit"
    _check_out(out)
    cache = options.cache or home / "lit-cache"
    seconds: dict[str, float] = {}
    with Bars(console) as bars:
        tower = load_recipe(recipe, _device(), progress=bars.counting).requires_grad_(False).eval()
        for note in tower.notes:
            bars.say(note)
        found = load_data(
            list(options.data),
            where=options.where,
            index_dir=cache / "index",
            scenes=options.scenes,
            split=options.split,
            bars=bars,
        )
        sight = _sight(cache, tower, found, bars)
        found = Data(found.train, [_readable(examples, sight, bars) for examples in found.test])
        vocabulary = build_vocabulary(found)
        start = time.perf_counter()
        seconds["data and tokens"] = start - began
        decoder = _trained(tower, found, vocabulary, sight, plan, bars)
        seconds["training"] = time.perf_counter() - start
        start = time.perf_counter()
        written = _written(decoder, found, vocabulary, sight, plan, cache, bars)
        seconds["writing"] = time.perf_counter() - start
    results = {
        "format": FORMAT,
        "program": "lit",
        "run": str(run),
        "method": _method(home),
        "tower": tower.name,
        "tower_fingerprint": tower.fingerprint(),
        "decoder": describe(decoder) | {"vocabulary": len(vocabulary)},
        **_asked(options, plan),
        "tasks": [score(one, texts) for one, texts in zip(found.test, written, strict=True)],
        "seconds": seconds,
    }
    _save(out, decoder, vocabulary, tower, results, found, written)
    console.print(lit_table(results))
    lines = f"Decoder: {out / 'decoder.safetensors'}   Report: {out / 'report.html'}   Figures: {out / 'results.json'}"
    console.print(lines, markup=False, highlight=False, soft_wrap=True)
    return results


def _checked(options: LitOptions) -> Recipe:
    """The model of a run, once it is known to have weights and the options to be valid."""
    if options.beams < 1:
        raise AcedError(f"--beams is {options.beams}; use 1 for greedy decoding, or more.")
    if options.split not in ("test", "validation"):
        raise AcedError(f"--split is '{options.split}'; use 'test' or 'validation'.")
    return trained_recipe(options.run, options.checkpoint)


def plan_of(options: LitOptions) -> DecoderPlan:
    """The requested decoder; raises AcedError for impossible sizes."""
    shape = DecoderShape(layers=options.layers, width=options.width)
    settings = DecoderSettings(steps=options.steps, batch=options.batch, lr=options.lr)
    return DecoderPlan(shape, settings, options.seed, options.beams)


def _asked(options: LitOptions, plan: DecoderPlan) -> dict[str, Any]:
    """The options, in the form of `results.json`."""
    training = {**asdict(plan.settings), "beams": options.beams, "where": options.where}
    return {"seed": options.seed, "training": training, "data": list(options.data), "split": options.split}


def build_vocabulary(data: Data) -> Vocabulary:
    """The words of the training texts: every word of an answer, and every other one that occurs twice."""
    texts = [text for one in data.train for group in one.texts for text in group]
    questions = [question for one in data.train for question in one.questions]
    answers = [text for one in data.train if one.kind == "vqa" for group in one.texts for text in group]
    return Vocabulary.build([*texts, *questions], answers)


def lit_table(results: dict[str, Any]) -> Table:
    """Scores of each test set, the decoder's first, then those without images."""
    table = Table("Test", "Score", title=f"{results['tower']}, seed {results['seed']}")
    for head in ("Decoder", "No image", "Constant", "Chance", "Caption 1"):
        table.add_column(head, justify="right")
    for task in results["tasks"]:
        for name, value in task["scores"].items():
            others = [task["baselines"].get(key, {}).get(name) for key in ("no image", "constant")]
            chance = task.get("chance")
            human = task["baselines"].get("human", {}).get(name)
            cells = [_cell(one) for one in (value, *others, chance, human)]
            table.add_row(escape(task["name"]), name, *cells)
    return table


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_out(out: Path) -> None:
    if (out / "results.json").exists():
        raise AcedError(f"{out} already holds a decoder; choose another folder with --out, or delete it.")


def _method(home: Path) -> str | None:
    """The method that trained the run, if its config says so."""
    try:
        with open(home / "config.toml", "rb") as file:
            return str(tomllib.load(file)["method"]["name"])
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        return None


def _sight(cache: Path, tower: Tower, data: Data, bars: Bars) -> Sight:
    """The cached tokens of every source of images."""
    sources = data.sources()
    tokens = []
    for source in sources:
        with bars.counting(f"Encoding {source.name}") as progress:
            tokens.append(cached_tokens(cache, tower, source, progress))
    return sight_of(sources, tokens)


def _readable(examples: TextExamples, sight: Sight, bars: Bars) -> TextExamples:
    """A test set without unreadable images; the same object if all are readable."""
    assert sight is not None
    keep = sight[id(examples.source)].usable(examples.rows)
    if not keep:
        raise AcedError(f"No image of {examples.name} can be read, so there is nothing to test on.")
    if len(keep) == len(examples):
        return examples
    bars.say(f"{examples.name}: {len(examples) - len(keep)} of {len(examples)} left out: unreadable images.")
    return examples.only(keep)


def _trained(
    tower: Tower, data: Data, vocabulary: Vocabulary, sight: Sight, plan: DecoderPlan, bars: Bars
) -> TextDecoder:
    assert sight is not None
    width = next(iter(sight.values())).width
    decoder = make_decoder(plan.shape, len(vocabulary), width, plan.seed).to(tower.device)
    with bars.counting("Training the decoder") as progress:
        train_decoder(decoder, vocabulary, data.train, sight, plan.settings, plan.seed, progress)
    return decoder


def _written(
    decoder: TextDecoder, data: Data, vocabulary: Vocabulary, sight: Sight, plan: DecoderPlan, cache: Path, bars: Bars
) -> list[Written]:
    """The texts for each test set, by the decoder and by the baselines."""
    device = decoder.positions.device
    with bars.counting("Training a blind decoder") as progress:
        blind = blind_texts(cache, data, vocabulary, plan, device, progress)
        progress(1, 1)
    found = []
    for examples, without in zip(data.test, blind, strict=True):
        with bars.counting(f"Writing: {examples.name}") as progress:
            greedy = write_texts(decoder, vocabulary, examples, sight, tick=progress)
            beam = None
            if examples.kind == "caption" and plan.beams > 1:
                beam = write_texts(decoder, vocabulary, examples, sight, beams=plan.beams, tick=progress)
        found.append(Written(greedy, beam, without, constant_text(data.train, examples.kind)))
    return found


def _save(
    out: Path,
    decoder: TextDecoder,
    vocabulary: Vocabulary,
    tower: Tower,
    results: dict[str, Any],
    data: Data,
    written: list[Written],
) -> None:
    """All files of a finished program; `results.json` last, because it marks the rest as complete."""
    save_decoder(out, decoder, vocabulary, tower)
    for examples, texts in zip(data.test, written, strict=True):
        write_atomic(out / f"{examples.name.replace(' ', '-')}.jsonl", _lines(examples, texts))
    pairs = zip(data.test, written, strict=True)
    gallery = [entry for examples, texts in pairs for entry in _gallery(tower, examples, texts)]
    write_atomic(out / "gallery.json", json.dumps(gallery))
    write_lit_report(out / "report.html", [results], [gallery])
    write_atomic(out / "results.json", json.dumps(results, indent=1) + "\n")


def _lines(examples: TextExamples, written: Written) -> str:
    """Every example with the text written for it, as JSON lines."""
    lines = []
    for i, text in enumerate(written.best):
        line: dict[str, Any] = {"key": examples.source.keys[examples.rows[i]], "written": text}
        if written.beam is not None:
            line["greedy"] = written.greedy[i]
        if examples.questions:
            line["question"] = examples.questions[i]
        lines.append(json.dumps({**line, "no image": written.blind[i], "right": examples.texts[i]}))
    return "\n".join(lines) + "\n"


def _gallery(tower: Tower, examples: TextExamples, written: Written) -> list[dict[str, Any]]:
    """Some examples, evenly spread over the test set, with their images."""
    count = min(GALLERY, len(examples))
    chosen = [i * len(examples) // count for i in range(count)]
    pictures = examples.source.read([examples.rows[i] for i in chosen], [tower.view]).images[tower.view]
    return [
        {
            "task": examples.name,
            "key": examples.source.keys[examples.rows[i]],
            "image": picture_url(pixels),
            "question": examples.questions[i] if examples.questions else None,
            "written": written.best[i],
            "right": list(examples.texts[i]),
        }
        for i, pixels in zip(chosen, pictures, strict=True)
    ]
