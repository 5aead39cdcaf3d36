"""What the commands of `foliot sim` share: what they are about, a seed, a case or a trace; and how errors are told."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from ..runtime.errors import UsageError
from ..sdk.cli_common import DEBUG_VARIABLE, guarded
from .case import Case, decode_case
from .case_check import checked_case
from .corpus import NoCaseError, read_case
from .events import HEADER, TraceFile, encode_trace, read_trace, trace_of
from .result import Result
from .safe_run import Run, safely

SEED_DIGITS: Final = 19


class NoSuchProfileError(UsageError):
    """There is no profile by that name."""

    code = "no_such_profile"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"there is no profile {name[:40]!r}, expected one of {', '.join(known)}")
        self.name = name


def told(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json`, and let its errors end as one line and an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> None:
        guarded(lambda: function(*args, as_json=as_json, **kwargs), as_json=as_json)

    return wrapped


def profile_option(function: Callable[..., None]) -> Callable[..., None]:
    option = click.option("--profile", default="", help="What a seed was planned with, if it was named.")
    return option(function)


def checked_profile(name: str) -> str:
    """Return the name if there is such a profile, or if it is empty. Raises: NoSuchProfileError."""
    from .plan import PROFILES

    if name and name not in PROFILES:
        raise NoSuchProfileError(name, tuple(PROFILES))
    return name


def case_of_target(target: str, profile: str) -> Case:
    """Return the case of a seed, a case's file or a trace's. Raises: NoCaseError, InvalidCaseError, NoSuchProfileError."""
    if target.isascii() and target.isdecimal() and len(target) <= SEED_DIGITS:
        from .plan import plan

        return plan(int(target), checked_profile(profile))
    found = trace_in(target)
    header_case = found.header.get("case") if found is not None else None
    if header_case is not None:
        return checked_case(decode_case(msgspec.json.encode(header_case), where=target), where=target)
    return read_case(Path(target))


def trace_in(target: str) -> TraceFile | None:
    """Return the trace in a file, or None if the file holds something else. Raises: NoCaseError, InvalidTraceError."""
    path = Path(target)
    if not path.is_file():
        raise NoCaseError(target, "a seed (a number) or a file")
    data = path.read_bytes()
    try:
        first = msgspec.json.decode(data.partition(b"\n")[0])
    except msgspec.DecodeError:
        return None
    is_trace = isinstance(first, dict) and (HEADER in first or "k" in first)
    return read_trace(data, where=target) if is_trace else None


def run_of(*, keep_trace: bool = False, level: int = 1) -> Run:
    """Return what runs a case here and now. It never raises, but where errors are to be seen in full."""
    from .run import run

    def traced(case: Case) -> Result:
        return run(case, keep_trace=keep_trace, level=level)

    return traced if os.environ.get(DEBUG_VARIABLE) else safely(traced)


def trace_of_target(target: str, profile: str, level: int) -> TraceFile:
    """Return the trace of a trace's file as it is, or of a run of a seed or case. Raises: as `case_of_target`."""
    if not (target.isascii() and target.isdecimal()):
        found = trace_in(target)
        if found is not None:
            return found
    return trace_of(run_of(keep_trace=True, level=level)(case_of_target(target, profile)))


def write_trace_file(path: Path, result: Result) -> None:
    path.write_bytes(encode_trace(result))
