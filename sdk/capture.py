"""What handlers print and log, kept with their attempts.

A context variable says which attempt the running code belongs to. While a worker runs, `sys.stdout` and `sys.stderr`
are routed by it, and a handler on the root logger reads it; what belongs to no attempt passes through untouched. Each
attempt's text is bounded: what comes after the bound is dropped, and a note says so. A task without output costs
nothing: its capture is made by its first line.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

LIMIT: Final = 256 << 10  # bytes kept of one attempt
CHUNK: Final = 64 << 10  # bytes that are sent without waiting for more
_NOTE: Final = b"\n[output left out: an attempt keeps at most %d KiB]\n"


class Captured(Protocol):
    """An attempt whose output is kept."""

    def capture(self) -> Capture:
        """Return the attempt's capture, made now if this is its first output. From any thread."""
        ...


current: Final[ContextVar[Captured | None]] = ContextVar("foliot_attempt", default=None)
"""The attempt the running code belongs to."""


class Capture:
    """The output of one attempt, in chunks. Written from any thread, taken by the worker.

    `notify(full)`: called with the first text after a `take`, and once a full chunk waits.
    """

    __slots__ = ("_limit", "_lock", "_notify", "_parts", "_room", "_size", "_told", "next_part")

    def __init__(self, notify: Callable[[bool], None], *, limit: int = LIMIT) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._room = limit
        self._told = 0  # 0: nothing waits, 1: some text, 2: a full chunk
        self.next_part = 0

    def write(self, data: bytes) -> None:
        """Keep the data, as far as there is room."""
        if not data:
            return
        with self._lock:
            if self._room <= 0:
                return
            if len(data) > self._room:
                data = data[: self._room] + _NOTE % (self._limit >> 10)
                self._room = 0
            else:
                self._room -= len(data)
            self._parts.append(data)
            self._size += len(data)
            level = 2 if self._size >= CHUNK else 1
            tell = level > self._told
            self._told = max(level, self._told)
        if tell:
            self._notify(level == 2)

    def write_text(self, text: str) -> None:
        self.write(text.encode("utf-8", "backslashreplace"))

    def take(self) -> list[tuple[int, bytes]]:
        """Return what was written since the last call, as numbered chunks of at most a few times 64 KiB."""
        with self._lock:
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._told = 0
        chunks: list[tuple[int, bytes]] = []
        for start in range(0, len(data), CHUNK):
            chunks.append((self.next_part, data[start : start + CHUNK]))
            self.next_part += 1
        return chunks


class RoutedStream(io.TextIOBase):
    """A text stream that gives to the running attempt what it writes, and passes on the rest."""

    def __init__(self, original: TextIO) -> None:
        self.original = original
        self.users = 1  # workers of this process that need it

    def write(self, text: str) -> int:
        attempt = current.get()
        if attempt is None:
            return self.original.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        attempt.capture().write_text(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current.get() is None:
            self.original.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return current.get() is None and self.original.isatty()

    def fileno(self) -> int:
        return self.original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.original.errors

    @property
    def buffer(self) -> Any:
        """The bytes below. What is written there belongs to no attempt."""
        return self.original.buffer

    def close(self) -> None:
        """Stay open: the stream below is not ours."""


class _RootHandler(logging.Handler):
    """Gives log records of the standard library to the attempt they were made in."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.users = 1

    def emit(self, record: logging.LogRecord) -> None:
        attempt = current.get()
        if attempt is None:
            return
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
        except Exception:
            self.handleError(record)
            return
        attempt.capture().write_text(line(int(record.created * 1_000), record.levelname.lower(), f"{record.name}: {text}"))


def install() -> None:
    """Route the process's output by attempt, until `uninstall` was called as often."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, RoutedStream):
            stream.users += 1
        elif stream is not None:
            setattr(sys, name, RoutedStream(stream))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RootHandler):
            handler.users += 1
            return
    logging.getLogger().addHandler(_RootHandler())


def ensure() -> None:
    """Route again what somebody has replaced since, as pytest does between a fixture and its test."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, RoutedStream):
            setattr(sys, name, RoutedStream(stream))


def uninstall() -> None:
    """Undo one `install`. A stream somebody else has put in place since stays."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, RoutedStream):
            stream.users -= 1
            if stream.users == 0:
                setattr(sys, name, stream.original)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _RootHandler):
            handler.users -= 1
            if handler.users == 0:
                root.removeHandler(handler)


def line(at_ms: int, level: str, text: str) -> str:
    """Return a log line as it is kept: moment, level, text."""
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return f"{moment.replace('+00:00', 'Z')} {level:<8} {text}\n"


Emit = Callable[[str, str, str, dict[str, Any]], None]
"""Takes a log event: level, the line as it is kept, the event's name, its own fields."""


class _TaskLog:
    """The end of a task logger."""

    def __init__(self, emit: Emit, now_ms: Callable[[], int]) -> None:
        self._emit = emit
        self._now_ms = now_ms

    def __getattr__(self, level: str) -> Callable[..., None]:
        def log(**event: Any) -> None:
            name = str(event.pop("event", ""))
            exc_info = event.pop("exc_info", None)
            text = " ".join([name, *(f"{key}={_text(value)}" for key, value in event.items())])
            if exc_info:
                event["exception"] = "".join(traceback.format_exception(*_exc_info(exc_info))).rstrip()
                text += "\n" + event["exception"]
            self._emit(level, line(self._now_ms(), level, text), name, event)

        return log


def task_logger(emit: Emit, now_ms: Callable[[], int]) -> FilteringBoundLogger:
    """Return a structlog logger whose events go to `emit`, of every level."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _TaskLog(emit, now_ms), processors=[], wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
    )
    return logger


def log_for_worker(level: str, name: str, fields: dict[str, Any]) -> None:
    """Put a task's log event into the worker's own log, which is not the attempt's output, wherever it goes."""
    token = current.set(None)
    try:
        getattr(structlog.get_logger("foliot.task"), level, structlog.get_logger("foliot.task").info)(name, **fields)
    finally:
        current.reset(token)


def _exc_info(value: Any) -> Any:
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    return value if isinstance(value, tuple) else sys.exc_info()


def _text(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float | bool | None) else repr(value)
    return repr(text) if isinstance(value, str) and (not text or " " in text or "\n" in text) else text
