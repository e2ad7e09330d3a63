"""The model card: how a model was trained, its cost and scores, and the gaps for its publisher to fill in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aced.evaluate.eval_records import FILE, read_evaluation
from aced.methods import METHODS
from aced.models import Tower
from aced.models.tokenizers import WordTokenizer
from aced.runs.records import RunRecord
from aced.runs.run_results import load_run

FILL = "FILL IN"
"""Placeholder for what only the publisher of a model knows."""
_BUDGETS = {
    "samples_trained": "pairs trained on",
    "samples_loaded": "pairs loaded",
    "flops": "FLOPs of the training",
    "seconds": "seconds",
}
# The keys of a run's config that describe how a model was made.
_TOLD = {
    "data": ("shards", "sources", "weights", "scenes_size", "views"),
    "student": ("model", "checkpoint"),
    "method": None,
    "reference": ("model", "checkpoint"),
    "teacher": ("model", "checkpoint"),
    "train": ("batch", "steps", "lr", "warmup", "weight_decay", "precision"),
    "run": ("seed",),
}


@dataclass(frozen=True)
class Story:
    """The known history of a model.

    Attributes:
        run: the run that ended in it; None if it came from elsewhere.
        scores: for each task `value`, `stderr`, `chance`, `n` and `metric`, as far as known.
        source: the file with the scores.
    """

    run: RunRecord | None = None
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""


def story_of(model: str, tower: Tower) -> Story:
    """The history of the model in a run's folder.

    Scores of `aced eval` are used if they belong to exactly this model, otherwise those at the end of the run.

    Raises:
        AcedError: the records of the run are damaged.
    """
    place = Path(model)
    folder = place.parent if place.name == "model" else place
    run = load_run(folder) if (folder / "config.toml").is_file() and (folder / "metrics.jsonl").is_file() else None
    if (folder / "eval" / FILE).is_file():
        evaluation = read_evaluation(folder / "eval")
        if evaluation.setting.fingerprint == tower.fingerprint():
            return Story(run, evaluation.tasks, str(Path("eval") / FILE))
    if run is None or run.row is None:
        return Story(run)
    scores = {name: _with_error(task.value, task.chance, task.n) for name, task in run.row.tasks.items()}
    return Story(run, scores, "results.json")


def _with_error(value: float, chance: float | None, n: int | None) -> dict[str, Any]:
    """A share of n right answers, with its standard error."""
    error = (value * (1 - value) / n) ** 0.5 if n else None
    return {"value": value, "stderr": error, "chance": chance, "n": n}


def card(tower: Tower, story: Story, library: str, usage: str) -> str:
    """A README.md in the form of Hugging Face's model cards.

    Args:
        tower: the model.
        story: how it was made.
        library: `open_clip`, `transformers` or `onnx`.
        usage: Python code that loads the folder.
    """
    parts = [*_front(library), f"# {tower.name}", *_model(tower, library), f"```python\n{usage.strip()}\n```"]
    parts += [*_training(story), *_scores(story), *_to_fill()]
    return "\n\n".join(parts) + "\n"


def _front(library: str) -> Iterator[str]:
    yield (
        "---\n"
        f"license: other  # {FILL}: the licence that you give, e.g. apache-2.0\n"
        f"license_name: {FILL}\n"
        f"license_link: {FILL}\n"
        f"library_name: {library}\n"
        "pipeline_tag: zero-shot-image-classification\n"
        "tags:\n- clip\n- aced\n"
        "---"
    )


def _model(tower: Tower, library: str) -> Iterator[str]:
    flops = tower.flops(tower.context_length)
    count = sum(one.numel() for one in tower.model.parameters())
    yield (
        f"An image tower and a text tower with embeddings of {tower.width} numbers: {count:,} parameters, "
        f"{flops.image / 2e9:.4g} billion multiply-adds for an image of {tower.view.size} x {tower.view.size} pixels, "
        f"{flops.text / 2e9:.4g} billion for a text of {tower.context_length} tokens. "
        f"Fingerprint in aced: `{tower.fingerprint()}`."
    )
    if library == "open_clip" and needs_aced(tower):
        yield (
            "Its vision tower is part of the package `aced`, which must be installed: `import_open_clip()` registers "
            "it in open_clip."
        )
    if library == "open_clip" and isinstance(tower.tokenizer, WordTokenizer):
        yield (
            "Texts become ids by the words in `vocabulary.txt`, with `WordTokenizer` of the package `aced`; "
            "open_clip's own tokenizer returns other ids."
        )


def needs_aced(tower: Tower) -> bool:
    """Whether a model has parts that only aced provides."""
    return str(tower.config["vision_cfg"].get("timm_model_name") or "").startswith("aced_")


def _training(story: Story) -> Iterator[str]:
    yield "## Training"
    run = story.run
    if run is None:
        yield f"{FILL}: the weights do not come from the run that this folder was exported from."
        return
    row = run.row
    yield f"Trained with [aced](https://arxiv.org/abs/2411.18674), method `{run.method}`, seed {run.seed}."
    told: dict[str, Any] = {}
    for section, keys in _TOLD.items():
        found = run.config.get(section)
        if isinstance(found, Mapping) and _took_part(section, run.method):
            told |= {f"{section}.{key}": value for key, value in found.items() if keys is None or key in keys}
    yield _table(("key", "value"), [(f"`{key}`", f"`{_short(value)}`") for key, value in told.items() if value != ""])
    budgets = row.budgets if row is not None else {}
    if budgets:
        lines = [(_BUDGETS.get(key, key), f"{value:,.4g}") for key, value in budgets.items()]
        yield _table(("budget", "spent"), lines)
    if row is not None and row.embedding:
        lines = [(key, f"{value:,.4g}") for key, value in row.embedding.items()]
        yield "In addition, making the cached embeddings of the reference cost:"
        yield _table(("budget", "spent"), lines)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return (text if len(text) <= 200 else f"{text[:200]}...").replace("|", "\\|").replace("`", "'")


def _scores(story: Story) -> Iterator[str]:
    yield "## Scores"
    if not story.scores:
        yield f"{FILL}: `aced eval` scores this folder."
        return
    lines = []
    for name, record in story.scores.items():
        error = record.get("stderr")
        spread = f" ± {100 * error:.2f}" if error is not None else ""
        chance = record.get("chance")
        lines.append(
            (
                name,
                str(record.get("metric") or ""),
                f"{100 * record['value']:.2f}{spread}",
                "" if chance is None else f"{100 * chance:.2f}",
                "" if record.get("n") is None else f"{record['n']:,}",
            )
        )
    yield _table(("task", "metric", "score, % ± standard error", "chance, %", "n"), lines)
    yield (
        f"From `{story.source}` of the run. The error is that of a finite number of test questions; other seeds of "
        "the training differ by more."
    )


def _took_part(section: str, method: str) -> bool:
    """Whether a section of the config had an effect: a recipe may name a reference that the method does not use."""
    row = METHODS.get(method)  # None for one that a plugin of that run registered
    if row is None or section not in ("reference", "teacher"):
        return True
    return row.distill is not None if section == "teacher" else row.needs_large or row.needs_peer


def _to_fill() -> Iterator[str]:
    yield "## To fill in before publishing"
    yield "\n".join(
        f"- {what}: {FILL}"
        for what in (
            "licence of the weights",
            "licences and terms of the training data",
            "licences of the reference, of the teacher, and of weights that the student started from",
            "intended use, and uses that are out of scope",
            "known biases and limits",
            "contact",
        )
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def open_clip_usage(tower: Tower) -> str:
    """How to load the folder with open_clip."""
    first = "import open_clip\n"
    if needs_aced(tower):
        first = "from aced.models.compat import import_open_clip\n\nopen_clip = import_open_clip()\n"
    if isinstance(tower.tokenizer, WordTokenizer):
        tokens = (
            "from pathlib import Path\nfrom aced.models.tokenizers import WordTokenizer\n"
            f'tokenizer = WordTokenizer.from_file(Path("FOLDER/vocabulary.txt"), {tower.context_length})\n'
        )
    else:
        tokens = 'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")\n'
    return f'{first}\nmodel, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")\n{tokens}'


def transformers_usage(tower: Tower, kind: str) -> str:
    """How to load the folder with transformers, and how texts are padded."""
    lines = [
        f"from transformers import AutoImageProcessor, AutoTokenizer, {kind}\n",
        f'model = {kind}.from_pretrained("FOLDER")',
        'pixels = AutoImageProcessor.from_pretrained("FOLDER")(images=image, return_tensors="pt")',
    ]
    if kind == "SiglipModel":
        clean = getattr(getattr(tower.tokenizer, "clean_fn", None), "__name__", "")
        lines.append(f"# texts were cleaned by open_clip's {clean} in training" if clean else "")
    lines += [
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'ids = tokenizer(texts, padding="max_length", max_length={tower.context_length}, truncation=True, '
        'return_tensors="pt")["input_ids"]',
        "outputs = model(input_ids=ids, **pixels)",
    ]
    return "\n".join(line for line in lines if line)


def onnx_usage() -> str:
    """How to use the folder with onnxruntime; its JSON describes the inputs."""
    return (
        "import onnxruntime\n\n"
        'image = onnxruntime.InferenceSession("FOLDER/image.onnx")  # or image.int8.onnx\n'
        'text = onnxruntime.InferenceSession("FOLDER/text.onnx")  # or text.int8.onnx\n'
        "# aced_onnx.json describes pixels and ids, and holds logit_scale and logit_bias\n"
        'image_embedding = image.run(None, {"pixel_values": pixels})[0]\n'
        'text_embedding = text.run(None, {"input_ids": ids})[0]'
    )
