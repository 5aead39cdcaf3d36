"""Threads for plain functions: a bounded number, started on demand, each running one attempt at a time.

A thread cannot be killed. One whose attempt was given up keeps its place until the function really returns, so the bound
holds whatever handlers do; being a daemon it does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from ..runtime.blocking import Blocking

J = TypeVar("J")
J_contra = TypeVar("J_contra", contravariant=True)


class Threads(Protocol[J_contra]):
    """Whatever runs plain functions for a worker. `busy`: what has begun and not ended."""

    busy: int

    @property
    def free(self) -> int:
        """How many more can start now."""
        ...

    def start(self, job: J_contra) -> None:
        """Run the job now. Only while `free` is positive."""
        ...

    def close(self) -> None:
        """Let it end once it is done with what it runs."""
        ...


class ThreadLanes(Generic[J]):
    """Runs jobs on threads. `work(job)` runs on a thread and returns what `done(job, value)` gets on the loop, in
    batches; `work` must not raise."""

    def __init__(
        self,
        limit: int,
        blocking: Blocking,
        loop: asyncio.AbstractEventLoop,
        *,
        work: Callable[[J], Any],
        done: Callable[[J, Any], None],
    ) -> None:
        self.limit = limit
        self.busy = 0  # abandoned ones included
        self._blocking = blocking
        self._loop = loop
        self._work = work
        self._done = done
        self._jobs: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._finished: list[tuple[J, Any]] = []
        self._threads = 0
        self._closed = False

    @property
    def free(self) -> int:
        return 0 if self._closed else self.limit - self.busy

    def start(self, job: J) -> None:
        """Run the job now. Only while `free` is positive."""
        assert self.free > 0
        self.busy += 1
        if self._threads < self.busy:
            self._threads += 1
            self._blocking.start(self._serve, name=f"foliot-thread-{self._threads}")
        self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end once they are done with what they run."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            value = self._work(job)
            with self._lock:
                first = not self._finished
                self._finished.append((job, value))
            job = value = None
            if first:  # the others are collected with it
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        with self._lock:
            finished, self._finished = self._finished, []
        self.busy -= len(finished)
        for job, value in finished:
            self._done(job, value)
