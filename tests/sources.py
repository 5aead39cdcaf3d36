"""The project's own sources, for the tests that read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("runtime", "actors", "stores", "transports", "sdk", "benchmarks", "simulations")
"""The folders of the package, lowest first."""


def modules(root: Path, folders: tuple[str, ...] = FOLDERS) -> Iterator[tuple[str, ast.Module]]:
    """Yield each module's path relative to `root`, with slashes, and its syntax tree; in order of the paths."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"), str(path))


def write(root: Path, files: dict[str, str]) -> None:
    """Lay out a small project, to see a check fail."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
