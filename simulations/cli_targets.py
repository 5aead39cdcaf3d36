"""What the commands of `foliot sim` share: what they are about, a seed, a case or a trace; and how errors are told."""

from __future__ import annotations

import functools
import os
import sys
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
EXIT_UNREAD: Final = 141
"""Of a process whose output nobody reads any more, as shells tell it."""


class NoSuchProfileError(UsageError):
    """There is no profile by that name."""

    code = "no_such_profile"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"there is no profile {name[:40]!r}, expected one of {', '.join(known)}")
        self.name = name


class InvalidSeedError(UsageError):
    """A number that no seed can be."""

    code = "invalid_seed"

    def __init__(self, text: str) -> None:
        expected = f"a seed of at most {SEED_DIGITS}, or the name of a file"
        super().__init__(f"{text[:SEED_DIGITS]}… has {len(text)} digits, expected {expected}")
        self.digits = len(text)


class FileAccessError(UsageError):
    """A file that cannot be read or written."""

    code = "file_access"

    def __init__(self, verb: str, path: str, reason: str) -> None:
        expected = "a file" if verb == "read" else "a file in a folder that can be written to"
        super().__init__(f"cannot {verb} {path[:200]!r}: {reason}; expected {expected}")
        self.path = path
        self.reason = reason


def told(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json`, and let its errors end as one line and an exit code. Whoever reads may stop reading."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> None:
        guarded(lambda: _while_read(lambda: function(*args, as_json=as_json, **kwargs)), as_json=as_json)

    return wrapped


def _while_read(work: Callable[[], None]) -> None:
    """Work, and end the process quietly, as others of a pipe do, once nobody reads what is printed."""
    try:
        try:
            work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:  # what is left in it would be complained about at the very end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(EXIT_UNREAD)


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
    """Return the case of a seed, a case's file or a trace's. Raises: NoCaseError, InvalidCaseError, InvalidSeedError,
    NoSuchProfileError, FileAccessError."""
    if _is_seed(target):
        from .plan import plan

        return plan(int(target), checked_profile(profile))
    found = trace_in(target)
    header_case = found.header.get("case") if found is not None else None
    if header_case is not None:
        return checked_case(decode_case(msgspec.json.encode(header_case), where=target), where=target)
    return read_case(Path(target))


def _is_seed(target: str) -> bool:
    """Raises: InvalidSeedError if it is a number with too many digits, and no file has that name."""
    if not (target.isascii() and target.isdecimal()):
        return False
    if len(target) <= SEED_DIGITS:
        return True
    if not is_file(target):
        raise InvalidSeedError(target)
    return False


def is_file(target: str) -> bool:
    """Tell whether there is such a file; a name that no file can have is none."""
    try:
        return Path(target).is_file()
    except OSError:
        return False


def trace_in(target: str) -> TraceFile | None:
    """Return the trace in a file, or None if the file holds something else. Raises: NoCaseError, InvalidTraceError,
    FileAccessError."""
    if not is_file(target):
        raise NoCaseError(target[:200], "a seed (a number) or a file")
    try:
        data = Path(target).read_bytes()
    except OSError as error:
        raise FileAccessError("read", target, error.strerror or str(error)) from error
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
    if not _is_seed(target):
        found = trace_in(target)
        if found is not None:
            return found
    return trace_of(run_of(keep_trace=True, level=level)(case_of_target(target, profile)))


def checked_output(path: Path | None) -> None:
    """See, before anything takes its time, that there is a place for a file. Raises: FileAccessError."""
    if path is not None and not path.parent.is_dir():
        raise FileAccessError("write", str(path), f"there is no folder {str(path.parent)[:200]!r}")


def write_file(path: Path, data: bytes) -> None:
    """Raises: FileAccessError."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FileAccessError("write", str(path), error.strerror or str(error)) from error


def write_trace_file(path: Path, result: Result) -> None:
    """Raises: FileAccessError."""
    write_file(path, encode_trace(result))
