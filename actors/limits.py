"""Rates as token buckets, in integers, so that every answer is exact and the same on every machine.

A bucket of `count` tokens per `per_ms` holds its level in parts of 1/per_ms token: a millisecond adds `count` parts and
a token is `per_ms` parts, so nothing is ever rounded. A clock that is set back neither fills the bucket nor blocks it.
"""

from __future__ import annotations


class TokenBucket:
    """`count` tokens per `per_ms` on average, at most `burst` at once (0: `count`). It starts full.

    Asking for more than the whole bucket is served when the bucket is full, and leaves it in debt: so a large batch
    passes eventually and the average holds.
    """

    __slots__ = ("_at_ms", "_capacity", "_level", "burst", "count", "per_ms")

    def __init__(self, count: int, per_ms: int, *, now_ms: int, burst: int = 0) -> None:
        assert count > 0
        assert per_ms > 0
        self.count = count
        self.per_ms = per_ms
        self.burst = burst or count
        self._capacity = self.burst * per_ms
        self._level = self._capacity
        self._at_ms = now_ms

    def tokens(self, now_ms: int) -> int:
        """Return how many whole tokens are in the bucket, never less than 0."""
        self._refill(now_ms)
        return max(self._level, 0) // self.per_ms

    def wait_ms(self, wanted: int, now_ms: int) -> int:
        """Return after how many milliseconds `take(wanted)` passes, 0 if it does now."""
        self._refill(now_ms)
        missing = min(wanted * self.per_ms, self._capacity) - self._level
        return -(-missing // self.count) if missing > 0 else 0

    def take(self, wanted: int, now_ms: int) -> bool:
        """Take tokens, all or none. Returns whether they were there."""
        if self.wait_ms(wanted, now_ms):
            return False
        self._level -= wanted * self.per_ms
        return True

    def is_full(self, now_ms: int) -> bool:
        """Tell whether the bucket is as good as new."""
        self._refill(now_ms)
        return self._level == self._capacity

    def changed(self, count: int, per_ms: int, *, now_ms: int, burst: int = 0) -> TokenBucket:
        """Return a bucket with another rate; what has been used up stays used up, in tokens rounded up."""
        self._refill(now_ms)
        used = -(-(self._capacity - self._level) // self.per_ms)
        bucket = TokenBucket(count, per_ms, now_ms=now_ms, burst=burst)
        bucket._level -= min(used, 2 * bucket.burst) * per_ms
        return bucket

    def shift(self, by_ms: int) -> None:
        """The wall clock was set, which neither fills the bucket nor blocks it."""
        self._at_ms += by_ms

    def _refill(self, now_ms: int) -> None:
        elapsed_ms = now_ms - self._at_ms
        if elapsed_ms:
            self._at_ms = now_ms
            if elapsed_ms > 0:
                self._level = min(self._level + elapsed_ms * self.count, self._capacity)
