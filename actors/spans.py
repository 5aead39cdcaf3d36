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


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """Return the spans with those that touch made one; they come in order and do not overlap."""
    found: list[tuple[int, int]] = []
    for span in spans:
        if found and span[0] == found[-1][1]:
            found[-1] = (found[-1][0], span[1])
        elif span[0] < span[1]:
            found.append(span)
    return tuple(found)


def intersection(left: Spans, right: Spans) -> Spans:
    """Return what lies in both. The cost is that of walking both once."""
    if not left or not right:
        return ()
    found: list[tuple[int, int]] = []
    ours, theirs = iter(left), iter(right)
    a, b = next(ours)
    c, d = next(theirs)
    while True:
        if a < d and c < b:
            found.append((max(a, c), min(b, d)))
        following = next(ours, None) if b < d else next(theirs, None)
        if following is None:
            return tuple(found)
        if b < d:
            a, b = following
        else:
            c, d = following


def difference(left: Spans, right: Spans) -> Spans:
    """Return what lies in `left` only. The cost is that of walking both once."""
    if not left or not right:
        return left
    found: list[tuple[int, int]] = []
    index = 0
    for start, end in left:
        while index < len(right) and right[index][1] <= start:
            index += 1
        at = start
        while index < len(right) and right[index][0] < end:
            if at < right[index][0]:
                found.append((at, right[index][0]))
            at = right[index][1]
            if at >= end:
                break  # what follows may lie in this one as well
            index += 1
        if at < end:
            found.append((at, end))
    return tuple(found)
