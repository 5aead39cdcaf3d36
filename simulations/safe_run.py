"""One run, whatever becomes of it: an exception that leaves it is a violation like any other.

So a campaign goes on after it, and it is stored, replayed and shrunk like the rest. Its identity is `run:` and the
class of the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from traceback import extract_tb
from typing import Final

from .case import Case
from .history import Violation
from .result import Result

Run = Callable[[Case], Result]
"""What tells a case's result: `simulations.run.run`, or a small function of a case in a test."""

RAN: Final = "run"
"""The oracle of violations that say the run itself did not come to an end."""

_TEXT_MAX: Final = 500


def safely(run: Run) -> Run:
    """Return a function that runs a case and never raises but for what ends the program."""

    def guarded(case: Case) -> Result:
        try:
            return run(case)
        except Exception as error:
            return unfinished(case, type(error).__name__, describe(error))

    return guarded


def unfinished(case: Case, kind: str, text: str) -> Result:
    """Return the result of a run that gave none. `kind`: of the violation, an exception's class or hang, died."""
    broken = Violation(oracle=RAN, kind=kind, at_ns=0, subject="", text=text)
    return Result(case=case, digest="", virtual_ms=0, steps=0, tasks=0, faults=0, violations=[broken])


def describe(error: BaseException) -> str:
    """Return what was raised and where, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = extract_tb(error.__traceback__)
    where = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_TEXT_MAX] + where
