"""How large the package is: lines and lines of code of each of its folders, docstrings, comments and blanks apart.

python benchmarks/lines.py [PACKAGE]
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path


def code_lines(text: str) -> int:
    """Lines of a module that are neither blank, comment nor docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return sum(bool(line) and not line.startswith("#") and number not in documented for number, line in lines)


def main() -> None:
    """Print a line for each folder, and the sums with and without the laboratory."""
    package = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "aced")
    lines, code = Counter[str](), Counter[str]()
    for path in package.rglob("*.py"):
        text, room = path.read_text(encoding="utf-8"), path.relative_to(package).parts[0]
        lines[room] += len(text.splitlines())
        code[room] += code_lines(text)
    for room in sorted(lines):
        print(f"{room:16}{lines[room]:8,}{code[room]:8,}")
    print(f"{'all':16}{lines.total():8,}{code.total():8,}")
    print(f"{'without lab':16}{lines.total() - lines['lab']:8,}{code.total() - code['lab']:8,}")


if __name__ == "__main__":
    main()
