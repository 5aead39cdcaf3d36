"""Local time and instants: what a wall clock in a zone shows, and when it shows it, across every clock change.

Instants are seconds since 1970-01-01T00:00:00Z (POSIX, so a leap second 23:59:60 is 00:00:00 of the next day). Local times
are integers too: the seconds that a wall clock would have counted since its own 1970-01-01 00:00:00. At an instant u the
clock shows u + offset(u), and the offset is constant between two *changes*.

A local time exists once, twice (where the clock is put back) or never (where it is put forward, be it by 20 minutes, an
hour or a day). `gap` and `overlap` say which instants it stands for:

- never, gap "shift": the one instant found with the offset in force before the gap, so 02:30 in a gap from 02:00 to 03:00 is
  the instant at which the clock shows 03:30, and any time of a skipped day is that time of the day after it.
- never, gap "skip": none.
- twice, overlap "first", "last": the earlier, the later instant; "both": both.

Elapsed time, in which every instant has the local time that the clock shows and no other, is gap "skip", overlap "both".

A zone is cut into *pieces* by its changes: spans of instants with one offset, in which each local time stands for one
instant. The pieces of "shift" lie over others, since the times moved out of a gap meet those that follow it.
Zones come from the IANA data that `zoneinfo` finds; no zone changes its offset twice within two days.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from .days import DAY_S, is_known, year_of, year_start
from .rule_errors import InvalidZoneError

MARGIN_S: Final = 2 * DAY_S  # no local time is so far from its instants, gaps of a day included
GAPS: Final = ("shift", "skip")
OVERLAPS: Final = ("first", "last", "both")

_PROBE_S: Final = 2 * DAY_S
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_NOT_NAMES: Final = ("localtime", "posixrules")  # they mean something else on each machine


class Piece(NamedTuple):
    """The local times from `start` + `offset` to `end` + `offset`, `end` excluded, at the instants from `start` on."""

    start: int
    end: int
    offset: int
    is_gap: bool


class Zone:
    """A time zone under one pair of policies. Holds nothing but names; what is derived from them is shared."""

    __slots__ = ("gap", "name", "overlap")

    def __init__(self, name: str, gap: str = "shift", overlap: str = "first") -> None:
        """Raises: InvalidZoneError."""
        check_zone(name)
        self.name = name
        self.gap = gap
        self.overlap = overlap

    def pieces(self, year: int) -> tuple[Piece, ...]:
        """Return the pieces whose instants lie in a year of UTC, by their start, those of a gap first."""
        return _pieces(self.name, year, self.gap, self.overlap)

    def between(self, start: int, end: int) -> Iterator[Piece]:
        """Yield the pieces that have instants in [start, end), not cut to it."""
        for year in range(year_of(start // DAY_S), year_of((end - 1) // DAY_S) + 1):
            yield from [piece for piece in self.pieces(year) if piece.start < end and piece.end > start]

    def offset(self, instant: int) -> int:
        """Return the seconds by which the wall clock is ahead of UTC."""
        return self.span(instant)[1]

    def span(self, instant: int) -> tuple[int, int]:
        """Return until when (excluded, at most the year's end) the offset at an instant is in force, and the offset."""
        for piece in _pieces(self.name, year_of(instant // DAY_S), "skip", "both"):
            if piece.end > instant:
                break
        return piece.end, piece.offset

    def instants(self, local: int) -> tuple[int, ...]:
        """Return the instants a local time stands for, ascending: none, one or two."""
        found = {
            local - piece.offset
            for piece in self.between(local - MARGIN_S, local + MARGIN_S)
            if piece.start <= local - piece.offset < piece.end
        }
        return tuple(sorted(found))

    def locals(self, instant: int) -> list[tuple[int, bool]]:
        """Return the local times that stand for an instant, and whether each is one out of a gap."""
        return [
            (instant + piece.offset, piece.is_gap)
            for piece in self.pieces(year_of(instant // DAY_S))
            if piece.start <= instant < piece.end
        ]


def check_zone(name: str, *, field: str = "zone") -> None:
    """Raises: InvalidZoneError, with the names that are nearest."""
    names = _names()
    if name in names:
        return
    by_lower = {each.lower(): each for each in sorted(names)}
    by_city = {each.rpartition("/")[2]: whole for each, whole in by_lower.items()}
    wanted = name.strip().lower().replace(" ", "_")
    nearest = [by_lower[wanted]] if wanted in by_lower else []
    nearest += [by_city[each] for each in get_close_matches(wanted.rpartition("/")[2], sorted(by_city), n=1, cutoff=0.85)]
    nearest += [by_lower[each] for each in get_close_matches(wanted, sorted(by_lower), n=3, cutoff=0.7)]
    raise InvalidZoneError(name, tuple(dict.fromkeys(nearest))[:3], field=field)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(available_timezones()).difference(_NOT_NAMES)


@lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _offset(zone: ZoneInfo, instant: int) -> int:
    moment = (_EPOCH + timedelta(seconds=instant)).astimezone(zone)
    return (moment.utcoffset() or timedelta()) // _SECOND


@lru_cache(maxsize=4_096)
def _regimes(name: str, year: int) -> tuple[tuple[int, int, int], ...]:
    """Return (start, end, offset) of each span without a change, from a little before a year to a little after it."""
    zone = _zone(name)
    at = first = year_start(year) * DAY_S - MARGIN_S
    end = year_start(year + 1) * DAY_S + MARGIN_S
    offset = _offset(zone, at)
    found = []
    while at < end:
        probe = min(at + _PROBE_S, end)
        if _offset(zone, probe) != offset:
            low = at
            while probe - low > 1:
                middle = (low + probe) // 2
                if _offset(zone, middle) == offset:
                    low = middle
                else:
                    probe = middle
            found.append((first, probe, offset))
            first, offset = probe, _offset(zone, probe)
        at = probe
    if first < end:
        found.append((first, end, offset))
    return tuple(found)


@lru_cache(maxsize=8_192)
def _pieces(name: str, year: int, gap: str, overlap: str) -> tuple[Piece, ...]:
    assert is_known(year)
    regimes = _regimes(name, year)
    found: list[Piece] = []
    shown = regimes[0][0] + regimes[0][2]  # all local times before it exist, or lie in a gap that has been dealt with
    for index, (start, end, offset) in enumerate(regimes):
        if start + offset > shown and gap == "shift":
            before = regimes[index - 1][2]
            found.append(Piece(shown - before, start + offset - before, before, True))
        first, last = start, end
        if overlap == "first":
            first = max(start, shown - offset)
        elif overlap == "last":
            last = min([end, *(later + ahead - offset for later, _, ahead in regimes[index + 1 :])])
        found.append(Piece(first, last, offset, False))
        shown = max(shown, end + offset)
    low, high = year_start(year) * DAY_S, year_start(year + 1) * DAY_S
    cut = [Piece(max(piece.start, low), min(piece.end, high), piece.offset, piece.is_gap) for piece in found]
    return tuple(sorted((piece for piece in cut if piece.start < piece.end), key=_order))


def _order(piece: Piece) -> tuple[int, bool]:
    return piece.start, not piece.is_gap
