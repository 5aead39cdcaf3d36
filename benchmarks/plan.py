"""What every measurement is told, and how it says how far it is."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ..runtime.rng import Rng
from ..sdk.app import Foliot
from ..sdk.scheduler import Scheduler, SchedulerOptions


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Common to all. `concurrency`: attempts at once; `encode`: encode every message between actors."""

    folder: str
    seed: int
    shards: int = 2
    concurrency: int = 2_000
    encode: bool = False
    show_progress: bool = False

    def rng(self, name: str) -> Rng:
        return Rng(self.seed).stream(name)

    def path(self, name: str) -> str:
        return str(Path(self.folder, name))

    def scheduler(self, *apps: Foliot, database: str = "bench.db", socket: str | None = None) -> Scheduler:
        """Return a scheduler as the product sets it up, commits durable; without apps it has no workers."""
        options = SchedulerOptions(
            database=self.path(database),
            socket=None if socket is None else self.path(socket),
            shards=self.shards,
            concurrency=self.concurrency,
            encode_messages=self.encode,
        )
        return Scheduler(*apps, options=options)

    def progress(self, what: str, total: int) -> Progress:
        return Progress(what, total, shown=self.show_progress)


class Progress:
    """One line on a terminal's stderr that says how far something is; silent elsewhere."""

    def __init__(self, what: str, total: int, *, shown: bool) -> None:
        self._what = what
        self._total = max(total, 1)
        self._shown = shown
        self._last = -1

    def __call__(self, done: int) -> None:
        percent = min(done * 100 // self._total, 100)
        if self._shown and percent != self._last:
            self._last = percent
            print(f"\r\x1b[K{self._what}: {percent} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
