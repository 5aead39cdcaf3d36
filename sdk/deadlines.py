"""Deadlines of many attempts behind one timer.

Attempts wait in buckets of 50 ms (1 s for the far ones), so setting and clearing a deadline costs two dictionary
operations and no timer of its own. Never early; late by at most a bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..runtime.clock import Clock, Timer

T = TypeVar("T")

NEAR_MS: Final = 50
FAR_MS: Final = 1_000
_FAR_FROM_MS: Final = 60_000  # spans from here on go to the coarse buckets

Bucket = dict[T, int]
"""Who waits, with the number of the bucket."""


class Deadlines(Generic[T]):
    """Calls `on_due(item)` once an item's time has come. Times are monotonic milliseconds (`now_ms`)."""

    def __init__(self, clock: Clock, on_due: Callable[[T], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._buckets: dict[int, Bucket[T]] = {}
        self._timer: Timer | None = None
        self._timer_at = 0

    def now_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def bucket(self, now_ms: int, span_ms: int) -> tuple[int, Bucket[T]]:
        """Return the bucket for what is due `span_ms` after `now_ms`: put items in with its number as value."""
        grain = FAR_MS if span_ms >= _FAR_FROM_MS else NEAR_MS
        number = -(-(now_ms + span_ms) // grain) * grain
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            if self._timer is None or number < self._timer_at:
                self._arm(number)
        return number, bucket

    def add(self, item: T, now_ms: int, span_ms: int) -> Bucket[T]:
        """Put an item where it is called after `span_ms`, and return the bucket, which `discard` wants back."""
        number, bucket = self.bucket(now_ms, span_ms)
        bucket[item] = number
        return bucket

    def discard(self, item: T, bucket: Bucket[T]) -> None:
        """Forget an item; harmless if it was called already."""
        number = bucket.pop(item, None)
        if not bucket and number is not None and self._buckets.get(number) is bucket:
            del self._buckets[number]  # a table that was large once stays large

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()

    def _arm(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = number
        self._timer = self._clock.call_at_ms(self._clock.now_ms() + number - self.now_ms(), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_ms = self.now_ms()
        due = sorted(number for number in self._buckets if number <= now_ms)
        for number in due:
            for item in list(self._buckets.pop(number, ())):
                self._on_due(item)
        if self._buckets:
            first = min(self._buckets)
            if self._timer is None or first < self._timer_at:  # what was due may have put in something far off
                self._arm(first)
