"""How a generator draws: integers from one named stream, by tables, so that every platform draws the same.

One `Dice` for each consumer: a new draw in one place leaves all others as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..runtime.rng import Rng

T = TypeVar("T")


class Dice:
    """Draws of one consumer."""

    __slots__ = ("_bits",)

    def __init__(self, seed: int, name: str) -> None:
        self._bits = Rng(seed).stream(f"plan/{name}").bits

    def below(self, bound: int) -> int:
        """Return an integer in 0..bound-1; `bound` ≥ 1, below 2**32."""
        return (self._bits(48) * bound) >> 48

    def between(self, low: int, high: int) -> int:
        """Return an integer in low..high; low if that is empty."""
        return low + self.below(high - low + 1) if high > low else low

    def chance(self, of: int, among: int) -> bool:
        """Return true `of` times among so many."""
        return (self._bits(48) * among) >> 48 < of

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items, all as likely."""
        return items[(self._bits(48) * len(items)) >> 48]

    def weighted(self, items: Sequence[T], weights: Sequence[int]) -> T:
        """Return one of the items, as likely as its weight says; at least one weight is above 0."""
        draw = self.below(sum(weights))
        for item, weight in zip(items, weights, strict=True):
            draw -= weight
            if draw < 0:
                return item
        raise AssertionError("the weights changed while they were added")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order."""
        out = list(items)
        for place in range(len(out) - 1, 0, -1):
            other = self.below(place + 1)
            out[place], out[other] = out[other], out[place]
        return out

    def log_between(self, low: int, high: int) -> int:
        """Return an integer in low..high whose octave is drawn first, so that short and long come as often; `low` ≥ 1."""
        octaves = max((high // low).bit_length() - 1, 0)
        start = low << self.below(octaves + 1)
        return self.between(start, min(2 * start - 1, high)) if start < high else high
