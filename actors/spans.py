"""Spans of numbers, as tuples of (from, until) with `until` excluded: ascending, apart from each other, none empty."""

from __future__ import annotations

from collections.abc import Iterable

Spans = tuple[tuple[int, int], ...]


def union(spans: Iterable[tuple[int, int]]) -> Spans:
    """Return what lies in any of the spans, which may overlap and come in any order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return tuple(found)


def intersection(left: Spans, right: Spans) -> Spans:
    """Return what lies in both."""
    pairs = ((max(a, c), min(b, d)) for a, b in left for c, d in right if a < d and c < b)
    return tuple(pairs)


def difference(left: Spans, right: Spans) -> Spans:
    """Return what lies in `left` only."""
    found = left
    for start, end in right:
        parts = (part for a, b in found for part in ((a, min(b, start)), (max(a, end), b)))
        found = tuple(part for part in parts if part[0] < part[1])
    return found
