"""The context of one attempt: what a handler may know about it, and say while it runs.

The same class serves handlers on the event loop, in threads and in child processes; what stands behind it differs. It
is made only for handlers that ask for it, and everything in it is computed when it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import msgspec
from structlog.typing import FilteringBoundLogger

from ..actors.messages import Template
from ..runtime.errors import FoliotError, UsageError
from ..runtime.ids import to_text
from .durations import Span, parse_span
from .payload import Packer

NOTE_LIMIT: Final = 200  # characters of a progress note that are kept
CHECKPOINT_LIMIT: Final = 1 << 20  # bytes


class RetryLater(FoliotError):  # noqa: N818  (reads as what the handler asks for)
    """Raise it in a handler to end the attempt as failed and choose when the next one starts."""

    code = "retry_later"

    def __init__(self, after: Span, reason: str = "") -> None:
        self.after_ms = parse_span(after, what="after")
        self.reason = reason
        super().__init__(reason or f"the handler asked for another attempt in {self.after_ms} ms")


class Fatal(FoliotError):  # noqa: N818  (reads as what the handler says)
    """Raise it in a handler when no further attempt can help."""

    code = "fatal"


class TaskCancelledError(FoliotError):
    """The attempt shall stop. `reason`: cancelled | timed_out | lease_lost | draining."""

    code = "task_cancelled"

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(f"the attempt at task {task!r} shall stop: {reason}")
        self.task = task
        self.reason = reason


class ProgressError(UsageError):
    """Progress or a checkpoint that cannot be told."""

    code = "progress"

    def __init__(self, what: str, value: object, expected: str) -> None:
        super().__init__(f"{what} {value!r:.80} cannot be told, expected {expected}")
        self.what = what
        self.value = value


class Behind(Protocol):
    """The attempt a context speaks for. All of it may be called from the handler's own thread."""

    @property
    def id(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def tenant(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def template(self) -> Template: ...
    @property
    def deadline_ms(self) -> int:
        """When this attempt is stopped at the latest, wall clock; 0 if nothing limits it."""
        ...

    @property
    def checkpoint(self) -> bytes: ...
    @property
    def schedule(self) -> str:
        """The schedule whose tick made the task, empty if none did."""
        ...

    @property
    def tick_ms(self) -> int: ...
    @property
    def on_loop(self) -> bool:
        """Tell whether the handler is a coroutine."""
        ...

    def now_ms(self) -> int: ...
    def stopping(self) -> str:
        """Return why the attempt shall stop, empty if it shall not; the answer counts as heard."""
        ...

    def tell(self, permille: int, note: str, checkpoint: bytes | None) -> None:
        """Say how far the attempt is, which is a sign of life as well; `permille` -1: not told."""
        ...

    def wait_stop(self, seconds: float) -> None:
        """Block this thread for the span, or until the attempt shall stop."""
        ...

    def logger(self) -> FilteringBoundLogger: ...


class Context:
    """What a handler knows about its attempt. Annotate the first parameter with it to get one."""

    __slots__ = ("_behind", "_log")

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._log: FilteringBoundLogger | None = None

    @property
    def task_id(self) -> str:
        return to_text(self._behind.id)

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return self._behind.attempt

    @property
    def max_attempts(self) -> int:
        return self._behind.template.max_attempts

    @property
    def handler(self) -> str:
        return self._behind.template.handler

    @property
    def queue(self) -> str:
        return self._behind.template.queue

    @property
    def tenant(self) -> str:
        return self._behind.tenant

    @property
    def priority(self) -> int:
        return self._behind.priority

    @property
    def schedule(self) -> str | None:
        """The name of the schedule that made the task, None if it was submitted."""
        return self._behind.schedule or None

    @property
    def tick(self) -> datetime | None:
        """The moment the schedule meant, in UTC, however late the attempt is, and the same for all attempts. None if the
        task was submitted."""
        if not self._behind.schedule:
            return None
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._behind.tick_ms)

    @property
    def cancel_grace_ms(self) -> int:
        """How long the attempt has to end by itself once it shall stop."""
        return self._behind.template.cancel_grace_ms

    @property
    def attempt_token(self) -> str:
        """The same for this attempt wherever it is seen, different for any other: for the handler's own store."""
        return f"{self.task_id}-{self._behind.attempt}"

    @property
    def deadline(self) -> datetime | None:
        """When the attempt is stopped at the latest, in UTC; None if nothing limits it."""
        deadline_ms = self._behind.deadline_ms
        return datetime.fromtimestamp(deadline_ms / 1_000, UTC) if deadline_ms else None

    def time_left(self) -> timedelta | None:
        """Return the time until the deadline, never below zero; None if nothing limits the attempt."""
        deadline_ms = self._behind.deadline_ms
        if not deadline_ms:
            return None
        return timedelta(milliseconds=max(deadline_ms - self._behind.now_ms(), 0))

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger with the task's fields. Its lines are kept with the attempt and go to the worker's log."""
        if self._log is None:
            self._log = self._behind.logger()
        return self._log

    def progress(self, fraction: float, note: str = "") -> None:
        """Say how far the attempt is, 0 to 1. Cheap: only the newest is sent, a few times a second."""
        if not 0 <= fraction <= 1:  # NaN as well
            raise ProgressError("progress", fraction, "a fraction from 0 to 1")
        if not isinstance(note, str):
            raise ProgressError("note", note, "a text")
        # Lone surrogates, as in odd file names, can neither travel nor be stored.
        self._behind.tell(int(fraction * 1_000), note[:NOTE_LIMIT].encode("utf-8", "backslashreplace").decode(), None)

    def heartbeat(self, checkpoint: Any = None) -> None:
        """Give a sign of life; a `checkpoint`, any msgpack value, is handed to the next attempt if there is one."""
        data: bytes | None = None
        if checkpoint is not None:
            try:
                data = Packer().pack(checkpoint)
            except (TypeError, ValueError, OverflowError) as error:
                raise ProgressError("checkpoint", checkpoint, f"a msgpack value ({error})") from error
            if len(data) > CHECKPOINT_LIMIT:
                raise ProgressError("checkpoint", checkpoint, f"at most {CHECKPOINT_LIMIT:,} bytes, got {len(data):,}")
        self._behind.tell(-1, "", data)

    @property
    def checkpoint(self) -> Any:
        """The last checkpoint of the attempts before this one, None if there is none."""
        data = self._behind.checkpoint
        return msgspec.msgpack.decode(data) if data else None

    @property
    def cancelled(self) -> bool:
        """Tell whether the attempt shall stop: cancelled, out of time, or the worker is going away."""
        return bool(self._behind.stopping())

    def check_cancelled(self) -> None:
        """Raises: TaskCancelledError if the attempt shall stop."""
        reason = self._behind.stopping()
        if reason:
            raise TaskCancelledError(self.task_id, reason)

    def sleep(self, span: Span) -> Awaitable[None]:
        """Wait: `await ctx.sleep("5s")` in a coroutine, `ctx.sleep("5s")` in a plain function, where it raises
        TaskCancelledError as soon as the attempt shall stop."""
        seconds = parse_span(span, what="sleep") / 1_000
        if self._behind.on_loop:
            return asyncio.sleep(seconds)
        self._behind.wait_stop(seconds)
        self.check_cancelled()
        return _Done()


class _Done:
    """Nothing left to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()
