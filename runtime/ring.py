"""The ring: which node owns a slot, computed alike by everyone who sees the same members.

Each node has a number of points on a circle of 64-bit numbers; a key belongs to the first point at or after its own
hash. What holds: the answer depends on the set of members only, not on their order or history; when a node leaves,
its keys move to others and no other key moves. FNV-1a alone leaves short, similar keys side by side ("slot-1" and
"slot-2" differ in their low bits and little else), so its result goes through the finalizer of SplitMix64.

The definition, for any language (test vectors: docs/ring-vectors.json), all arithmetic modulo 2**64:

    mix(z)        z = (z ^ z>>30) * 0xbf58476d1ce4e5b9;  z = (z ^ z>>27) * 0x94d049bb133111eb;  z ^ z>>31
    point(key)    mix(fnv1a_64(key) + GAMMA),  GAMMA = 0x9e3779b97f4a7c15
    node's i-th   mix(fnv1a_64(name) + (i + 1) * GAMMA),  i = 0 .. points_per_node - 1
    a slot's key  the ASCII text "slot-" and its number in decimal

Sources: Karger et al., Consistent Hashing and Random Trees, STOC 1997; Steele, Lea, Flood, Fast Splittable Pseudorandom
Number Generators, OOPSLA 2014.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .errors import NoMembersError
from .hashing import fnv1a

POINTS_PER_NODE: Final = 128  # a node's part of the circle then stays within about a third of the mean
_GAMMA: Final = 0x9E3779B97F4A7C15
_MASK: Final = 0xFFFFFFFFFFFFFFFF


def _mix(value: int) -> int:
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def point_of(key: bytes) -> int:
    """Return where `key` lies on the circle, 64 bits unsigned."""
    return _mix((fnv1a(key) + _GAMMA) & _MASK)


def points_of(node: str, count: int) -> list[int]:
    """Return the first `count` points of a node: a SplitMix64 stream seeded with the hash of its UTF-8 name."""
    seed = fnv1a(node.encode())
    return [_mix((seed + i * _GAMMA) & _MASK) for i in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Move:
    """A slot that changes hands."""

    slot: int
    before: str
    after: str


class Ring:
    """An immutable view of who is there. Rings of the same members are equal and answer alike."""

    __slots__ = ("_nodes", "_points", "members", "points_per_node")

    def __init__(self, members: Iterable[str], *, points_per_node: int = POINTS_PER_NODE) -> None:
        assert points_per_node >= 1
        self.members: Final = tuple(sorted(set(members)))
        self.points_per_node: Final = points_per_node
        ends = sorted((point, node) for node in self.members for point in points_of(node, points_per_node))
        self._points: Final = [point for point, _ in ends]
        self._nodes: Final = [node for _, node in ends]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ring):
            return NotImplemented
        return self.members == other.members and self.points_per_node == other.points_per_node

    def __hash__(self) -> int:
        raise TypeError("a ring is compared, not used as a key")

    def __repr__(self) -> str:
        return f"Ring({list(self.members)}, points_per_node={self.points_per_node})"

    def owner(self, slot: int) -> str:
        """Return the node that hosts the slot. Raises: NoMembersError."""
        return self._nodes[self._first(b"slot-%d" % slot)]

    def owners(self, key: bytes, count: int) -> list[str]:
        """Return distinct nodes for `key`, its owner first: `count` of them, or all there are.

        Raises: NoMembersError.
        """
        first = self._first(key)
        found: dict[str, None] = {}
        for node in self._nodes[first:] + self._nodes[:first]:
            if len(found) >= count:
                break
            found[node] = None
        return list(found)

    def slots_of(self, node: str, slots: int) -> list[int]:
        """Return which of the slots 0..slots-1 the node hosts, ascending. Raises: NoMembersError."""
        return [slot for slot in range(slots) if self.owner(slot) == node]

    def moves(self, other: Ring, slots: int) -> list[Move]:
        """Return what of the slots 0..slots-1 changes hands if this ring is followed by `other`, by slot.

        Raises: NoMembersError if either is empty.
        """
        pairs = ((slot, self.owner(slot), other.owner(slot)) for slot in range(slots))
        return [Move(slot, before, after) for slot, before, after in pairs if before != after]

    def _first(self, key: bytes) -> int:
        if not self._points:
            raise NoMembersError
        return bisect_left(self._points, point_of(key)) % len(self._points)
