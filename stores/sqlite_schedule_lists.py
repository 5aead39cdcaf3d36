"""What people ask of SQLite about schedules: by tenant and name, their ticks, backfills and calendars.

As in `sqlite_lists`, one statement and one row each, but for a list of schedules, which may take several: whether one is
paused stands in its encoded state, so a statement brings those that may be, and what is not is left out here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.rules import Calendar
from ..actors.schedule_messages import ScheduleState
from ..actors.schedule_rows import BackfillRow, ScheduleRow, TickRow
from ..runtime.ids import MAX_ID
from .port import ScheduleDetail, ScheduleFilter
from .sqlite_lists import LIST_MAX
from .sqlite_pack import KINDS, Statement, blob, kinds_of, texts
from .sqlite_schedules import PACKED, PACKED_BACKFILLS, PACKED_TICKS, PAGE_BYTES, backfills_of, ticks_of, unpack

_PAGE: Final = f"""
with {{asked}} page as materialized (
    select id, template_id from (
        select id, template_id, size, sum(size) over (order by name rows unbounded preceding) as bytes
        from (
            select id, name, template_id, length(body) as size from schedules indexed by schedule_names
            where tenant = ?1 {{places}} order by name limit ?2
        )
    ) where bytes - size < {PAGE_BYTES}
)
select {PACKED}, {KINDS} from page cross join schedules on schedules.id = page.id
"""
# The only booleans of a state are in msgpack one byte each, and true is this one.
_MAY_BE_PAUSED: Final = "and instr(state, x'c3') > 0"
_TICKS: Final = f"""
select {PACKED_TICKS} from (
    select * from ticks where schedule_id = ?1 and tick_ms < ?2 and tick_ms >= coalesce((
        select min(tick_ms) from (
            select tick_ms from ticks where schedule_id = ?1 and tick_ms < ?2 order by tick_ms desc limit ?3)
    ), ?2)
)
"""
_BACKFILLS: Final = f"""
with page as materialized (
    select backfills.*, schedules.name from {{tables}} where schedules.tenant = ?1 {{place}}
    order by backfills.id desc limit ?2
)
select {PACKED_BACKFILLS}, json_group_array(name) from page
"""
_OF_TENANT: Final = "backfills cross join schedules on schedules.id = backfills.schedule_id"
_OF_SCHEDULE: Final = "schedules cross join backfills indexed by backfills_of on backfills.schedule_id = schedules.id"
_CALENDARS: Final = f"select json_group_array(length(body)), {blob('body')} from calendars where tenant = ?1"

_decode_state = msgspec.msgpack.Decoder(ScheduleState).decode
_decode_calendar = msgspec.msgpack.Decoder(Calendar).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_lengths = msgspec.json.Decoder(list[int]).decode


class ScheduleListing:
    """A list of schedules on its way: give `take` the row of each statement that `next` returns, then `found` has it all.
    It ends at `filter.limit`, at `LIST_MAX`, or at `PAGE_BYTES` of bodies."""

    def __init__(self, filter: ScheduleFilter) -> None:
        self.found: list[ScheduleDetail] = []
        self._filter = filter
        self._limit = max(min(filter.limit, LIST_MAX), 0)
        self._after = filter.after
        self._asked = 0
        self._bytes = 0
        self._is_done = self._limit == 0

    def next(self) -> Statement | None:
        """Return what to ask next, None if the list is complete."""
        if self._is_done:
            return None
        filter = self._filter
        self._asked = self._limit - len(self.found)
        values: list[Any] = [filter.tenant, self._asked]
        places: list[str] = []

        def place(test: str, value: str) -> None:
            values.append(value)
            places.append(f"and name {test} ?{len(values)}")

        if self._after and self._after >= filter.prefix:
            place(">", self._after)
        elif filter.prefix:
            place(">=", filter.prefix)
        end = _after_all_with(filter.prefix)
        if end:
            place("<", end)
        if filter.paused:
            places.append(_MAY_BE_PAUSED)
        asked = ""
        if filter.names:
            rows, names = texts(filter.names, first=len(values) + 1)
            asked = f"asked (asked_name) as (values {rows}),"
            values += names
            places.append("and name in (select asked_name from asked)")
        return _PAGE.format(asked=asked, places=" ".join(places)), values

    def take(self, row: Any) -> None:
        """Add a page."""
        kinds = {kind.template_id: kind for kind in kinds_of(row[3])}
        rows = sorted(unpack(row), key=_name)
        bytes = sum([len(row.body) for row in rows])
        self._bytes += bytes
        for schedule in rows:
            if self._filter.paused is None or _decode_state(schedule.state).paused == self._filter.paused:
                self.found.append(ScheduleDetail(schedule, kinds[schedule.template_id]))
        if rows:
            self._after = rows[-1].name
        is_last = len(rows) < self._asked and bytes < PAGE_BYTES
        has_room = len(self.found) < self._limit and (self._bytes < PAGE_BYTES or not self.found)
        self._is_done = is_last or not has_room


def _name(row: ScheduleRow) -> str:
    return row.name


def _tick(row: TickRow) -> tuple[int, int]:
    return row.tick_ms, row.source


def _calendar(calendar: Calendar) -> str:
    return calendar.name


def _backfill(found: tuple[BackfillRow, str]) -> int:
    return found[0].id


def _after_all_with(prefix: str) -> str:
    """Return the least text that is above all that begin with `prefix`, empty if there is none."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if code <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code)  # no text has surrogates
        prefix = prefix[:-1]
    return ""


def ticks(schedule_id: int, before_ms: int, limit: int) -> Statement:
    """Return the statement that `listed_ticks` reads."""
    return _TICKS, (schedule_id, before_ms or MAX_ID, max(min(limit, LIST_MAX), 0))


def listed_ticks(row: Any) -> list[TickRow]:
    """Return ticks, newest first."""
    return sorted(ticks_of(row[0]), key=_tick, reverse=True)


def backfills(tenant: str, schedule: str, limit: int) -> Statement:
    """Return the statement that `listed_backfills` reads."""
    limit = max(min(limit, LIST_MAX), 0)
    if schedule:
        return _BACKFILLS.format(tables=_OF_SCHEDULE, place="and schedules.name = ?3"), (tenant, limit, schedule)
    return _BACKFILLS.format(tables=_OF_TENANT, place=""), (tenant, limit)


def listed_backfills(row: Any) -> list[tuple[BackfillRow, str]]:
    """Return backfills with the names of their schedules, newest first."""
    found = list(zip(backfills_of(row), _decode_names(row[3]), strict=True))
    return sorted(found, key=_backfill, reverse=True)


def calendars(tenant: str) -> Statement:
    """Return the statement that `listed_calendars` reads."""
    return _CALENDARS, (tenant,)


def listed_calendars(row: Any) -> list[Calendar]:
    """Return calendars by name."""
    found: list[Calendar] = []
    at, bodies = 0, row[1] or b""
    for length in _decode_lengths(row[0]):
        found.append(_decode_calendar(bodies[at : at + length]))
        at += length
    return sorted(found, key=_calendar)
