"""The work of the benchmarks: handlers that do nothing, and what they note about when they started.

Lateness is read from the machine's own clocks, at the first line of the handler: that is what a user's code would see.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ..runtime.rng import Rng
from ..sdk.app import Foliot

QUEUE: Final = "bench"
PAYLOAD_BYTES: Final = 200
_PAD_OVERHEAD: Final = 7  # of a map with one short key and one short byte string


class Jobs:
    """An app and the notes of its handlers. `started`: how many attempts began."""

    def __init__(self, name: str = "bench") -> None:
        self.app = Foliot(name)
        self.started = 0
        self.running = 0
        self.most_running = 0
        self.late_ns: list[int] = []  # by order of starting; negative: early
        self._awaited = 0
        self._event = asyncio.Event()

        @self.app.task(queue=QUEUE)
        async def noop(pad: bytes) -> None:
            self._began()

        @self.app.task(queue=QUEUE)
        async def due(at_ns: int, pad: bytes) -> None:
            """`at_ns`: on the wall clock."""
            self.late_ns.append(time.time_ns() - at_ns)
            self._began()

        @self.app.task(queue=QUEUE)
        async def sent(at_ns: int, pad: bytes) -> None:
            """`at_ns`: on the monotonic clock, the same for all processes of the machine."""
            self.late_ns.append(time.perf_counter_ns() - at_ns)
            self._began()

        @self.app.task(queue=QUEUE, timeout="1h")
        async def sleeper(seconds: float, pad: bytes) -> None:
            self._began()
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.running -= 1

        @self.app.task(queue=QUEUE, max_attempts=1)
        async def failing(pad: bytes) -> None:
            self._began()
            raise ValueError("made to fail")

        self.noop = noop
        self.due = due
        self.sent = sent
        self.sleeper = sleeper
        self.failing = failing

    def _began(self) -> None:
        self.started += 1
        if self.started == self._awaited:
            self._event.set()

    async def wait_for(self, started: int) -> None:
        """Wait until so many attempts began, without asking the scheduler."""
        self._awaited = started
        if self.started < started:
            self._event.clear()
            await self._event.wait()

    def late_ms(self) -> list[float]:
        return [late / 1e6 for late in self.late_ns]


def pad(rng: Rng, *, taken: int = 0) -> bytes:
    """Return random bytes that make the payload as large as it should be. `taken`: by the other arguments."""
    count = PAYLOAD_BYTES - _PAD_OVERHEAD - taken
    return rng.bits(8 * count).to_bytes(count, "big")


AT_BYTES: Final = 15  # of an argument `at_ns` in the payload
