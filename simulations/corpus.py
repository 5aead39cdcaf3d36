"""Stored cases: each showed a violation once, and must not show any now that its cause is gone.

A case is kept as data, not as a seed, since a seed means something else as soon as the generator changes. `expect` says
what the case showed when it was found; it is never checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..runtime.errors import NotFoundError
from .case import Case, decode_case, encode_case
from .case_check import checked_case
from .result import Result
from .safe_run import Run, safely

CASES: Final = Path("tests/simulations/cases")


class NoCaseError(NotFoundError):
    """There is no file or folder of cases by that name."""

    code = "no_case"

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"there is no {name!r}, expected {expected}")
        self.name = name


def read_case(path: Path) -> Case:
    """Return the case in a file. Raises: NoCaseError, InvalidCaseError."""
    if not path.is_file():
        raise NoCaseError(str(path), "a seed (a number) or a file")
    return checked_case(decode_case(path.read_bytes(), where=str(path)), where=str(path))


def load_cases(folder: Path = CASES) -> list[tuple[Path, Case]]:
    """Return the stored cases, in order of their names. Raises: NoCaseError, InvalidCaseError."""
    if not folder.is_dir():
        raise NoCaseError(str(folder), "a folder of cases")
    return [(path, read_case(path)) for path in sorted(folder.glob("*.json"))]


def check_cases(folder: Path, run: Run) -> Iterator[tuple[Path, Result]]:
    """Run each stored case and yield its result; one with violations has failed."""
    for path, case in load_cases(folder):
        yield path, safely(run)(case)


def store_case(folder: Path, case: Case) -> Path:
    """Write a case as `IDENTITY-SEED.json`, of the identity that it expects, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_name(case.expect)}-{case.seed}.json"
    path.write_bytes(encode_case(case))
    return path


def file_name(identity: str) -> str:
    """Return an identity as part of a file's name, which has no colons everywhere."""
    return re.sub(r"[^A-Za-z0-9_-]+", ".", identity).strip(".") or "case"
