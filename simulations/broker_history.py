"""What an observer sees of the broker and of those who use it, beside what `simulations.history` has."""

from __future__ import annotations

from .history import Observation


class BrokerStored(Observation, frozen=True):
    """A stream took an entry. `life`: of the stream; `stamp`: nanoseconds since 1970, by the broker's clock."""

    life: str
    position: int
    stamp: int
    data: bytes


class BrokerLost(Observation, frozen=True):
    """A fault took entries from a stream, as (position, stamp)."""

    life: str
    entries: list[tuple[int, int]]


class Posted(Observation, frozen=True):
    """A client's one-way submission is over. `outcome`: `stored` (the broker confirmed it at `position`) or `unknown`."""

    client: str
    payload: bytes
    count: int
    outcome: str
    position: int
