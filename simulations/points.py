"""The points at which a process of a run can be killed: next to everything that becomes durable, visible, or leaves.

Between two neighbouring points nothing happens that another process or a later life could see, so a crash at each of them
stands for a crash at any instant. `store.commit.after` is the one that matters most: durable, and nobody was told.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Point(NamedTuple):
    """`nodes`, `workers`: whether such processes pass it."""

    name: str
    meaning: str
    nodes: bool = False
    workers: bool = False


POINTS: Final[tuple[Point, ...]] = (
    Point("store.claim.before", "a node is about to claim a shard", nodes=True),
    Point("store.claim.after", "the claim is durable, the node was not told its epoch", nodes=True),
    Point("store.commit.before", "a turn's rows are about to leave for the store", nodes=True),
    Point("store.commit.after", "the rows are durable, the node was not told, no message was sent", nodes=True),
    Point("store.read", "a node is about to read rows", nodes=True),
    Point("bus.send", "a message is about to leave", nodes=True, workers=True),
    Point("handler.start", "a handler is about to begin, its attempt has been counted", workers=True),
    Point("effect.before", "a handler is about to call the outside world", workers=True),
    Point("effect.after", "the outside world has acted, the outcome was not reported", workers=True),
)

NAMES: Final[tuple[str, ...]] = tuple(point.name for point in POINTS)


def points_of(process: str, *, embedded: bool = False) -> tuple[str, ...]:
    """Return the points that a process passes, by its name; with `embedded` nodes run the handlers as well."""
    if embedded:
        return NAMES
    is_node = process.startswith("n")
    return tuple(point.name for point in POINTS if (point.nodes if is_node else point.workers))
