"""What people ask of PostgreSQL about schedules: by tenant and name, their ticks, backfills and calendars.

Whether a schedule is paused stands in its encoded state, so a statement brings those that may be, and what is not is left
out here; hence a list may take several statements.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import msgspec

from ...actors.rules import Calendar
from ...actors.schedule_messages import ScheduleState
from ...actors.schedule_rows import BackfillRow, TickRow
from ...runtime.ids import MAX_ID
from ..port import ScheduleDetail, ScheduleFilter
from .kinds import Kinds
from .lists import LIST_MAX
from .schedules import BACKFILL_COLUMNS, COLUMNS, PAGE_BYTES, TICK_COLUMNS, schedule_of

_PAGE: Final = f"""
with page as materialized (
    select id from (
        select id, size, sum(size) over (order by name rows unbounded preceding) as bytes
        from (select id, name, length(body) as size from schedules where tenant = $1 {{places}} order by name limit $2) found
    ) measured where bytes - size < {PAGE_BYTES}
)
select {COLUMNS} from page join schedules on schedules.id = page.id order by schedules.name
"""
# The only booleans of a state are in msgpack one byte each, and true is this one.
_MAY_BE_PAUSED: Final = r"and position('\xc3'::bytea in state) > 0"
_TICKS: Final = f"""
select {TICK_COLUMNS} from ticks where schedule_id = $1 and tick_ms < $2 and tick_ms >= coalesce((
    select min(tick_ms) from (
        select tick_ms from ticks where schedule_id = $1 and tick_ms < $2 order by tick_ms desc limit $3) newest
), $2) order by tick_ms desc, source desc
"""
_BACKFILLS: Final = f"""
select {BACKFILL_COLUMNS}, schedules.name from schedules join backfills on backfills.schedule_id = schedules.id
where schedules.tenant = $1 {{place}} order by backfills.id desc limit $2
"""
_CALENDARS: Final = "select body from calendars where tenant = $1 order by name"

_decode_state = msgspec.msgpack.Decoder(ScheduleState).decode
_decode_calendar = msgspec.msgpack.Decoder(Calendar).decode


async def schedules(connection: asyncpg.Connection, kinds: Kinds, filter: ScheduleFilter) -> list[ScheduleDetail]:
    """Return schedules by name. The list ends at `filter.limit`, at `LIST_MAX`, or at `PAGE_BYTES` of bodies."""
    limit = max(min(filter.limit, LIST_MAX), 0)
    found: list[ScheduleDetail] = []
    after, total = filter.after, 0
    while len(found) < limit and (total < PAGE_BYTES or not found):
        asked = limit - len(found)
        statement, values = _page(filter, after, asked)
        rows = [schedule_of(row) for row in await connection.fetch(statement, *values)]
        known = await kinds.of(connection, [row.template_id for row in rows])
        size = sum([len(row.body) for row in rows])
        total += size
        for row in rows:
            if filter.paused is None or _decode_state(row.state).paused == filter.paused:
                found.append(ScheduleDetail(row, known[row.template_id]))
        if not rows or (len(rows) < asked and size < PAGE_BYTES):
            break
        after = rows[-1].name
    return found


def _page(filter: ScheduleFilter, after: str, limit: int) -> tuple[str, list[Any]]:
    values: list[Any] = [filter.tenant, limit]
    places: list[str] = []

    def place(test: str, value: Any) -> None:
        values.append(value)
        places.append(f"and name {test.format(f'${len(values)}')}")

    if after and after >= filter.prefix:
        place("> {}", after.encode())
    elif filter.prefix:
        place(">= {}", filter.prefix.encode())
    if filter.prefix and (end := _after_all_with(filter.prefix.encode())):
        place("< {}", end)
    if filter.names:
        place("= any({}::bytea[])", [name.encode() for name in filter.names])
    if filter.paused:
        places.append(_MAY_BE_PAUSED)
    return _PAGE.format(places=" ".join(places)), values


def _after_all_with(prefix: bytes) -> bytes:
    """Return the least text, as bytes, that is above all that begin with `prefix`; UTF-8 has no byte 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


async def ticks(connection: asyncpg.Connection, schedule_id: int, before_ms: int, limit: int) -> list[TickRow]:
    """Return ticks, newest first."""
    limit = max(min(limit, LIST_MAX), 0)
    return [TickRow(*row) for row in await connection.fetch(_TICKS, schedule_id, before_ms or MAX_ID, limit)]


async def backfills(
    connection: asyncpg.Connection, tenant: str, schedule: str, limit: int
) -> list[tuple[BackfillRow, str]]:
    """Return backfills with the names of their schedules, newest first."""
    values: list[Any] = [tenant, max(min(limit, LIST_MAX), 0)]
    place = ""
    if schedule:
        values.append(schedule.encode())
        place = "and schedules.name = $3"
    rows = await connection.fetch(_BACKFILLS.format(place=place), *values)
    return [(BackfillRow(*row[:5]), row[5].decode()) for row in map(tuple, rows)]


async def calendars(connection: asyncpg.Connection, tenant: str) -> list[Calendar]:
    """Return calendars by name."""
    return [_decode_calendar(body) for (body,) in await connection.fetch(_CALENDARS, tenant)]
