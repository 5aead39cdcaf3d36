"""Putting very many schedules. A part is simply sent again: putting a schedule twice changes nothing, so nobody needs to
know which copy counted."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Final

import msgspec

from ..actors.messages import TaskRefusal
from ..actors.schedule_messages import SchedulesPut
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from .bulk import Bulk
from .schedule_words import Draft

_REPLACED_KEPT: Final = 1_000


class PutResult(msgspec.Struct):
    """What became of schedules put in bulk. `refused` holds the first thousand, by position in the whole;
    `replaced_at` a thousand positions of those replaced, in order."""

    done: int = 0
    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused_count: int = 0
    refused: list[TaskRefusal] = msgspec.field(default_factory=list)
    replaced_at: list[int] = msgspec.field(default_factory=list)


Send = Callable[[list[Draft]], Awaitable[SchedulesPut | Refusal]]


class BulkPut(Bulk[Draft]):
    """One bulk call under way. `send` raises UnavailableError, UsageError."""

    name = "drafts"
    expected = "an iterable of client.schedules.draft(...)"

    def __init__(self, send: Send, clock: Clock, progress: Callable[[int], object] | None, patience_ms: int) -> None:
        super().__init__(clock, progress, patience_ms)
        self._send_one = send
        self._result = PutResult()

    async def run(self, drafts: Iterable[Draft] | AsyncIterable[Draft], batch: int, in_flight: int) -> PutResult:
        """Raises: BulkStoppedError; InvalidOptionError."""
        await self.send_all(drafts, batch, in_flight)
        result = self._result
        result.replaced_at.sort()
        result.done, result.refused_count, result.refused = self.decided, self.refused_count, self.refused
        return result

    def size_of(self, item: Draft) -> int:
        return len(item.spec.payload)

    def sender(self) -> Send:
        return self._send_one

    def take(self, answer: SchedulesPut, positions: list[int], start: int, size: int) -> None:
        words = answer.outcomes
        self._result.created += words.count("created")
        self._result.replaced += words.count("replaced")
        self._result.unchanged += words.count("unchanged")
        replaced_at = [start + at for at, word in zip(positions, words, strict=True) if word == "replaced"]
        self._result.replaced_at += replaced_at[: _REPLACED_KEPT - len(self._result.replaced_at)]

    def taken(self) -> int:
        return self._result.created + self._result.replaced + self._result.unchanged
