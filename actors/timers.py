"""The timer queue of a shard: what is due soon, sorted; later timers stay in the store and are paged in.

A timer is (due_ms, task id). What always holds: every timer at or before the boundary is here, every timer beyond it is
in the store only. So nothing is skipped at the edge of a page, however many timers share one instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sortedcontainers import SortedList

from ..runtime.ids import MAX_ID
from .rows import ReadTimers

Key = tuple[int, int]


@dataclass(frozen=True)
class TimerConfig:
    """Bounds of what is held in memory."""

    horizon_ms: int = 60_000
    page: int = 4_096
    in_memory_max: int = 65_536


class TimerQueue:
    """Sorted timers up to the boundary. `query`: makes the query for a page, of the fields of `ReadTimers` in order."""

    def __init__(self, config: TimerConfig, query: Callable[[int, int, int, int, int], Any] = ReadTimers) -> None:
        self._config = config
        self._query = query
        self._sorted: SortedList = SortedList()
        self._boundary: Key = (0, 0)
        self._beyond_ms: int | None = 0  # at or before the first timer beyond the boundary; None: there is none
        self._loading: Key | None = None  # the farthest key the load under way may bring
        self._token = 0  # of the load under way
        self._missed: list[Key] = []  # added beyond the boundary while a load was under way

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, due_ms: int, task_id: int, now_ms: int) -> bool:
        """Add a timer whose row is or will be committed. Returns whether it is kept here; if not, the store has it and
        a later page brings it."""
        key = (due_ms, task_id)
        if key <= self._boundary:
            self._sorted.add(key)
            return True
        if self._loading is not None and key <= self._loading:
            self._missed.append(key)
            return True  # kept by the caller until the page says where the boundary is
        room = len(self._sorted) < self._config.in_memory_max
        if self._beyond_ms is None and self._loading is None and room and due_ms <= now_ms + self._config.horizon_ms:
            self._boundary = key  # nothing lies between: the store has no timer beyond the old boundary
            self._sorted.add(key)
            return True
        self._note_beyond(due_ms)
        return False

    def discard(self, due_ms: int, task_id: int) -> None:
        """Remove a timer, if it is here."""
        key = (due_ms, task_id)
        self._sorted.discard(key)
        if self._missed:
            self._missed = [missed for missed in self._missed if missed != key]

    def due_ms(self) -> int | None:
        """Return when there is something to do: a timer that is due, or a page to load."""
        first = self._sorted[0][0] if self._sorted else None
        if self._wants_page():
            assert self._beyond_ms is not None
            page_at = max(self._beyond_ms - self._config.horizon_ms // 2, 0)
            return page_at if first is None else min(first, page_at)
        return first

    def pop_due(self, now_ms: int, limit: int) -> list[int]:
        """Remove and return the ids of up to `limit` timers with due_ms ≤ now_ms, in order."""
        timers = self._sorted
        count = timers.bisect_right((now_ms, MAX_ID))
        if count == 0:
            return []
        count = min(count, limit)
        ids = [key[1] for key in timers[:count]]
        del timers[:count]
        return ids

    def next_page(self, now_ms: int, token: int) -> Any:
        """Return the query for the next page if it is time for one. One is under way at a time."""
        if not self._wants_page():
            return None
        assert self._beyond_ms is not None
        if self._beyond_ms > now_ms + self._config.horizon_ms // 2:
            return None
        until_ms = now_ms + self._config.horizon_ms
        self._loading = (until_ms, MAX_ID)
        self._beyond_ms = None  # the page will tell; what is added meanwhile is noted here
        self._token = token
        after_due_ms, after_id = self._boundary
        return self._query(token, after_due_ms, after_id, until_ms, self._config.page)

    def take_page(self, token: int, keys: list[Key], last: Key | None, next_due_ms: int) -> list[int] | None:
        """Take the page that was asked for.

        `keys`: ascending, those that are no longer timers left out; `last`: of the whole page, None if it was empty;
        `next_due_ms`: of the first row beyond the page, 0 if none. Returns ids of tasks the caller must let go of, since
        they lie beyond the new boundary; None if this page is not awaited any more and must be ignored.
        """
        if self._loading is None or token != self._token:
            return None
        if next_due_ms and next_due_ms <= self._loading[0]:
            self._boundary = max(last, self._boundary) if last else self._boundary
        else:
            self._boundary = max(self._loading, self._boundary)
        self._loading = None
        if next_due_ms:
            self._note_beyond(next_due_ms)
        merged = dict.fromkeys(keys)
        dropped = []
        for key in self._missed:
            if key <= self._boundary:
                merged[key] = None
            else:
                dropped.append(key[1])
                self._note_beyond(key[0])
        self._missed = []
        self._sorted.update(merged)
        return dropped

    def shed(self) -> list[int]:
        """Give the latest timers back to the store if there are too many here. Returns the ids to let go of."""
        most = self._config.in_memory_max
        if len(self._sorted) + len(self._missed) <= most:
            return []
        dropped = [key[1] for key in self._missed]
        for key in self._missed:
            self._note_beyond(key[0])
        self._missed = []
        if self._loading is not None:
            self._loading = None  # its page would not join on to the new boundary
            self._note_beyond(self._boundary[0])
        keep = most * 3 // 4
        if len(self._sorted) > keep:
            rest = self._sorted[keep:]
            del self._sorted[keep:]
            self._boundary = self._sorted[-1]
            self._note_beyond(rest[0][0])
            dropped += [key[1] for key in rest]
        return dropped

    def _note_beyond(self, due_ms: int) -> None:
        if self._beyond_ms is None or due_ms < self._beyond_ms:
            self._beyond_ms = due_ms

    def _wants_page(self) -> bool:
        return (
            self._beyond_ms is not None
            and self._loading is None
            and len(self._sorted) <= self._config.in_memory_max // 2
        )
