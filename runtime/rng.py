"""Randomness as a port: one named stream for each consumer, all from one seed.

Only `getrandbits` of the Mersenne Twister is used, whose sequence Python promises across versions.
"""

from __future__ import annotations

import os
import random

from .hashing import fnv1a


class Rng:
    """A stream of integers. Not for secrets."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._bits = random.Random(seed).getrandbits

    @classmethod
    def of_the_system(cls) -> Rng:
        """Return a stream seeded by the operating system; for entry points only."""
        return cls(int.from_bytes(os.urandom(16), "big"))

    def stream(self, name: str) -> Rng:
        """Return an independent stream for a consumer, so that a new draw elsewhere does not shift this one."""
        return Rng(self._seed ^ (fnv1a(name.encode()) << 64))

    def bits(self, count: int) -> int:
        """Return an integer of `count` random bits."""
        return self._bits(count)

    def below(self, bound: int) -> int:
        """Return an integer in 0..bound-1; `bound` ≥ 1. The bias is below 2**-64 of the bound."""
        return (self._bits(64 + bound.bit_length()) * bound) >> (64 + bound.bit_length())


def secret_bytes(count: int) -> bytes:
    """Return bytes nobody can foretell, from the operating system: for keys and passwords, never for decisions."""
    return os.urandom(count)
