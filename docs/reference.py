"""Writes docs/reference.md from the code: commands, keys of a run, methods, recipes.

    python docs/reference.py

A test compares the page with what this would write.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from aced.cli import app
from aced.config import Config, describe_keys, recipes, resume_rules
from aced.files.atomic import write_atomic
from aced.lab.demo.rows import DEFAULT, ROWS
from aced.methods import METHODS, Method
from aced.pool.source import REQUIRED, Source, members_of_sources

PAGE = Path(__file__).with_name("reference.md")


def page() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Written by `python docs/reference.py` from the code; change the code, not this page.",
        "[Commands](#commands) · [Keys of a run](#keys-of-a-run) · [Methods](#methods) · "
        "[Rows of the demo](#rows-of-the-demo) · [Recipes](#recipes) · [Members of a source](#members-of-a-source)",
        *_commands(),
        *_keys(),
        *_methods(),
        *_rows(),
        *_recipes(),
        *_source(),
    ]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterable[str]:
    yield "## Commands"
    yield (
        "A mistake of the user or a fault of the data ends in one sentence on standard error and exit status 2, a "
        "fault of the machine in one and status 1, Ctrl-C in one and status 130. `aced COMMAND --help` says the same."
    )
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield f"### `aced {name}`"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([f"aced {name}", "[OPTIONS]", *(_metavar(p) for p in arguments)])
        about, examples = _help(command.help)
        yield about
        yield "```sh\n" + "\n".join([usage, *([""] if examples else []), *examples]) + "\n```"
        rows = [
            (", ".join(p.opts) if p not in arguments else _metavar(p), _default(p), p.help or "")
            for p in command.params
        ]
        if rows:
            yield _table(("Argument or option", "Default", "Meaning"), [(f"`{n}`", d, h) for n, d, h in rows])


def _help(text: str) -> tuple[str, list[str]]:
    """The sentences of a command's help, and its example lines."""
    head, _, tail = text.partition("Example")
    lines = [line.strip() for line in tail.splitlines()[1:]]
    return " ".join(head.split()), [line for line in lines if line]


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    if parameter.nargs == -1 and not name.endswith("..."):
        name += "..."
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required or value is None or type(value).__name__ == "Sentinel" or value == []:
        return ""
    return "" if value is False else f"`{value}`"


def _keys() -> Iterable[str]:
    yield "## Keys of a run"
    yield (
        "What `aced config` prints: every key of the TOML file that `aced train` reads, and of its "
        "`section.key=value` overrides. The resolved file of a run is `config.toml` in its folder. The last column "
        "says what `--resume` allows; where it says nothing, the value must be the same."
    )
    keys, rules = describe_keys(), resume_rules()
    for section, field in Config.model_fields.items():
        own = [
            (f"`{key}`", f"`{default}`" if default else "", text, rule.value if (rule := rules[key]) else "")
            for key, default, text in keys
            if key.startswith(f"{section}.")
        ]
        yield f"### `[{section}]`"
        yield (field.annotation.__doc__ or "").strip()  # type: ignore[union-attr]
        yield _table(("Key", "Default", "Meaning", "When resumed"), own)


def _methods() -> Iterable[str]:
    yield "## Methods"
    yield (
        "The rows of `aced.METHODS`, by name in `method.name` and `aced demo --methods`. A dash: i.i.d. batches, or no "
        "distillation. The formulas are in [method.md](method.md)."
    )
    yield _table(
        ("Name", "Title", "Score", "Draw", "Distillation", "lambda", "On", "Reference", "What it does"),
        [_method(method) for method in METHODS.values()],
    )


def _method(m: Method) -> tuple[str, ...]:
    return (
        f"`{m.name}`",
        m.title,
        m.score or (f"concepts: {m.concepts}" if m.concepts else "history" if m.history else "–"),
        m.strategy if m.score else "–",
        ", ".join(name for name, _ in m.distillations) or "–",
        ", ".join(f"{weight:g}" for _, weight in m.distillations) or "–",
        {"same": "same batch", "iid": "another i.i.d. batch"}[m.distill_on] if m.distill else "–",
        {"large": "larger", "peer": "student's size"}[m.reference] if m.needs_large or m.needs_peer else "–",
        m.about,
    )


def _rows() -> Iterable[str]:
    yield "## Rows of the demo"
    yield (
        f"`aced demo` runs {', '.join(f'`{name}`' for name in DEFAULT)}; `--methods` names any method above and these "
        "longer rows, and `--methods all` runs everything."
    )
    yield _table(
        ("Name", "Title", "Method", "Length"),
        [
            (
                f"`{r.name}`",
                r.title,
                f"`{r.method}`",
                "as many steps as ACED's wall time allows" if r.wall else f"{r.factor:g} times",
            )
            for r in ROWS.values()
            if r.name not in METHODS
        ],
    )


def _recipes() -> Iterable[str]:
    yield "## Recipes"
    yield "What `aced recipes` lists: TOML files that come with the package and go by name in `aced train`."
    for name, path in recipes().items():
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
        yield f"### `{name}`"
        yield f"```toml\n{text.strip()}\n```"


def _source() -> Iterable[str]:
    yield "## Members of a source"
    yield (
        "What a class that derives from `aced.Source` may define, each as an attribute of its instances, of the class, "
        "or as a property; [python.md](python.md#data-of-your-own) has an example."
    )
    yield _table(
        ("Member", "Needed", "What it is"),
        [
            (f"`{_call(name)}`", "yes" if name in REQUIRED else "", (about or "").partition("\n\n")[0])
            for name, about in members_of_sources().items()
        ],
    )


def _call(name: str) -> str:
    """A member as it is used."""
    found = inspect.getattr_static(Source, name)
    return f"{name}({', '.join(list(inspect.signature(found).parameters)[1:])})" if inspect.isfunction(found) else name


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    write_atomic(PAGE, page())
    print(f"Wrote {PAGE}")
