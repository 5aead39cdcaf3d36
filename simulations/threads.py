"""Plain functions in a simulated worker: run in place, at a step of their own, since no thread may run.

A function that has begun cannot be interrupted, as on a real thread; it takes no simulated time unless it says so itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..runtime.blocking import Running
from ..sdk.attempt import Attempt
from .loop import EscapeError


class InlineThreads:
    """Implements `sdk.executors.Threads`."""

    def __init__(self, limit: int, work: Callable[[Attempt], Any], done: Callable[[Attempt, Any], None]) -> None:
        self._limit = limit
        self._work = work
        self._done = done
        self.busy = 0
        self._is_closed = False

    @property
    def free(self) -> int:
        return 0 if self._is_closed else self._limit - self.busy

    def start(self, job: Attempt) -> None:
        self.busy += 1
        asyncio.get_running_loop().call_soon(self._run, job)

    def close(self) -> None:
        self._is_closed = True

    def _run(self, job: Attempt) -> None:
        value = self._work(job)
        self.busy -= 1
        self._done(job, value)


class NoThreads:
    """Implements `runtime.blocking.Blocking` by refusing."""

    def start(self, function: Callable[[], None], *, name: str) -> Running:
        raise EscapeError(f"starting the thread {name!r}", "work on the event loop")
