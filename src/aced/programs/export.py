"""`aced export`: writes a model into a new folder for another program, and checks it first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from aced.errors import AcedError, nearest
from aced.export.card import Story, card, onnx_usage, open_clip_usage, story_of, transformers_usage
from aced.export.hugging import write_transformers
from aced.export.onnxfiles import write_onnx
from aced.export.openclip import write_open_clip
from aced.files.atomic import folder_atomic, sync, write_atomic, writing
from aced.models import Tower
from aced.models.model_argument import open_model
from aced.programs.command_options import ExportOptions
from aced.runtime.progress import counting

CARD = "README.md"
_GAPS = f"Fill in the licence and the other gaps of {CARD} before you publish it."


def export_program(options: ExportOptions, console: Console) -> None:
    """Write a model into a folder, which must be new or empty, and print what was written.

    Args:
        options: the model, the folder and one of `FORMATS`.
        console: where to print.

    Raises:
        AcedError: there is no such model or format, the folder is not empty, or the format cannot represent the model.
    """
    model, folder, form, checkpoint = options.run, options.dest, options.format, options.checkpoint
    if form not in FORMATS:
        raise AcedError(f"--format is '{form}'.{nearest(form, FORMATS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AcedError(f"{folder} is not empty; name a new folder, so that nothing is overwritten.")
    tower = open_model(model, checkpoint, "cpu", partial(counting, console))
    story = Story() if checkpoint else story_of(model, tower)
    with folder_atomic(folder) as temporary:
        lines = FORMATS[form](tower, story, temporary)
        with writing(folder):
            for path in temporary.rglob("*"):
                sync(path)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for line in (*tower.notes, *lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written: {folder} ({size / 1e6:,.1f} MB)", markup=False, highlight=False, soft_wrap=True)


def _open_clip(tower: Tower, story: Story, folder: Path) -> list[str]:
    found = write_open_clip(tower, folder)
    write_atomic(folder / CARD, card(tower, story, "open_clip", open_clip_usage(tower)))
    return [
        f"open_clip loads it and embeds as the model does (largest difference {found:.1g}).",
        _GAPS,
    ]


def _transformers(tower: Tower, story: Story, folder: Path) -> list[str]:
    kind, found = write_transformers(tower, folder)
    write_atomic(folder / CARD, card(tower, story, "transformers", transformers_usage(tower, kind)))
    lines = [f"transformers loads it ({kind}) and embeds as the model does (largest difference {found:.1g})."]
    if kind == "CLIPModel" and getattr(tower.model, "logit_bias", None) is not None:
        lines.append("It has no logit bias: CLIPModel has none, and the ranking of pairs does not depend on it.")
    return [*lines, _GAPS]


def _onnx(tower: Tower, story: Story, folder: Path) -> list[str]:
    found = write_onnx(tower, folder)
    write_atomic(folder / CARD, card(tower, story, "onnx", onnx_usage()))
    return [
        f"onnxruntime embeds as the model does in fp32 (largest difference {found['difference']:.1g}); in int8 the "
        f"lowest cosine between an embedding and the model's is {found['cosine']:.4f}.",
        _GAPS,
    ]


FORMATS: dict[str, Callable[[Tower, Story, Path], list[str]]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
    "onnx": _onnx,
}
"""What writes each format into an empty folder; returns sentences for the user."""
