"""Lets the Python reference show the keywords of `**words: Unpack[Words]`, which docstrings describe one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import griffe


class Words(griffe.Extension):
    """Puts the fields of a TypedDict into the signatures that unpack it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the signatures of a package, all of whose modules are loaded."""
        for function in _functions(pkg):
            for parameter in list(function.parameters):
                if parameter.kind is griffe.ParameterKind.var_keyword and _unpacks(parameter.annotation):
                    words = pkg.modules_collection[parameter.annotation.slice.canonical_path]  # type: ignore[union-attr]
                    del function.parameters[parameter.name]
                    for name, field in words.attributes.items():
                        keyword = griffe.ParameterKind.keyword_only
                        function.parameters.add(
                            griffe.Parameter(name, annotation=field.annotation, kind=keyword, default="...")
                        )


def _functions(place: griffe.Module | griffe.Class) -> Iterator[griffe.Function]:
    for member in place.members.values():
        if isinstance(member, griffe.Function):
            yield member
        elif isinstance(member, griffe.Module | griffe.Class):
            yield from _functions(member)


def _unpacks(annotation: str | griffe.Expr | None) -> bool:
    return isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_path == "typing.Unpack"
