"""What an exception that left a handler means: its description, and whether another attempt may follow."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..actors.messages import RetryPolicy, TaskError
from .context import Fatal, RetryLater
from .payload import PayloadError, ResultError

MESSAGE_LIMIT: Final = 4 << 10  # characters
TRACEBACK_LIMIT: Final = 16 << 10  # characters


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed. `retry_after_ms`: chosen by the handler, -1: by policy."""

    error: TaskError
    fatal: bool = False
    retry_after_ms: int = -1


def error_name(kind: type[BaseException]) -> str:
    """Return the name an error type has in a retry policy: bare for builtins, with its module for others."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException, policy: RetryPolicy, classes: Mapping[str, type[BaseException]]) -> Failure:
    """Return what the error means under the policy. `classes`: the types behind the policy's names, where known; a
    name without one matches any type called so, subclasses included."""
    match error:
        case RetryLater():
            return Failure(TaskError("RetryLater", _cut(str(error), MESSAGE_LIMIT)), retry_after_ms=error.after_ms)
        case Fatal() | PayloadError() | ResultError():
            fatal = True
        case _:
            fatal = is_fatal(type(error), policy, classes)
    return Failure(TaskError(type(error).__name__, _message(error), _traceback(error)), fatal)


def with_notes(why: str, error: BaseException) -> str:
    """Return why an attempt was stopped, with what its handler noted on the cancellation that stopped it."""
    notes = getattr(error, "__notes__", None) if isinstance(error, asyncio.CancelledError) else None
    texts = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return _cut("; ".join([why, *texts]), MESSAGE_LIMIT)


def is_fatal(kind: type[BaseException], policy: RetryPolicy, classes: Mapping[str, type[BaseException]]) -> bool:
    """Tell whether the policy rules out another attempt after an error of this type."""
    if any(_matches(kind, name, classes) for name in policy.fatal):
        return True
    return bool(policy.retry_on) and not any(_matches(kind, name, classes) for name in policy.retry_on)


def _matches(kind: type[BaseException], name: str, classes: Mapping[str, type[BaseException]]) -> bool:
    known = classes.get(name)
    if known is not None:
        return issubclass(kind, known)
    return any(name in (base.__name__, error_name(base)) for base in kind.__mro__ if issubclass(base, BaseException))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as broken:  # a handler's own __str__; what escaped here would end the worker's thread or loop
        text = f"(its message cannot be had: {type(broken).__qualname__})"
    return _cut(text, MESSAGE_LIMIT)


def _traceback(error: BaseException) -> str:
    """Return the traceback without the frames of the worker, the end kept where it is too long."""
    frames: Any = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__package__") == __package__:
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except BaseException:  # as above
        lines = traceback.format_tb(frames)
    text = "".join(lines)
    if len(text) > TRACEBACK_LIMIT:
        text = f"... ({len(text) - TRACEBACK_LIMIT} characters left out)\n" + text[-TRACEBACK_LIMIT:]
    return _utf8(text)


def _cut(text: str, limit: int) -> str:
    return _utf8(text if len(text) <= limit else text[:limit] + " ...")


def _utf8(text: str) -> str:
    """Messages travel as UTF-8; lone surrogates, as in odd file names, do not."""
    return text.encode("utf-8", "backslashreplace").decode()
