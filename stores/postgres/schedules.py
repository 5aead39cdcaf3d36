"""What a shard asks of PostgreSQL about its schedules, and what it starts from.

A page of timers is as long as asked unless its bodies together exceed `PAGE_BYTES`; `next_due_ms` tells in either case what
comes next.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from ...actors.schedule_rows import (
    BackfillRow,
    ReadCalendared,
    ReadSchedules,
    ReadScheduleTimers,
    ReadTicks,
    ScheduleImage,
    ScheduleQuery,
    ScheduleReads,
    ScheduleRow,
    SchedulesRead,
    ScheduleTimersRead,
    TickRow,
    TicksRead,
)
from .kinds import Kinds

PAGE_BYTES: Final = 16 << 20
"""Bodies of a page together, but for its last one."""

COLUMNS: Final = (
    "schedules.id, schedules.name, schedules.tier, schedules.next_ms, schedules.template_id, schedules.revision,"
    " schedules.calendars, schedules.body, schedules.state"
)
"""In the order of ScheduleRow; `schedule_of` is the other half."""
TICK_COLUMNS: Final = "schedule_id, tick_ms, source, revision, task_id, at_ms, outcome"
BACKFILL_COLUMNS: Final = "backfills.id, backfills.schedule_id, backfills.is_over, backfills.body, backfills.state"

_DUE: Final = "shard = $1 and tier = $6 and next_ms > 0"
_TIMERS: Final = f"""
with found as materialized (
    select id, next_ms, length(body) as size from schedules
    where {_DUE} and (next_ms, id) > ($2, $3) and next_ms <= $4 order by next_ms, id limit $5
), page as materialized (
    select id, next_ms from (
        select id, next_ms, size, sum(size) over (order by next_ms, id rows unbounded preceding) as bytes from found
    ) measured where bytes - size < {PAGE_BYTES}
), last as materialized (
    select * from (select next_ms, id from page order by next_ms desc, id desc limit 1) newest
    union all select $2, $3 where not exists (select 1 from page)
), beyond as materialized (
    select (select next_ms from schedules where {_DUE} and (next_ms, id) > (last.next_ms, last.id)
            order by next_ms, id limit 1) as due_ms from last
)
select beyond.due_ms, {COLUMNS} from beyond left join (page join schedules on schedules.id = page.id) on true
order by page.next_ms, page.id
"""
_SCHEDULES: Final = f"""
select {COLUMNS} from schedules where id = any($1::bigint[])
union select {COLUMNS} from schedules where tenant = $2 and name = any($3::bytea[])
order by id
"""
_CALENDARED: Final = (
    f"select {COLUMNS} from schedules where shard = $1 and calendars <> 0 and id > $2 order by id limit $3"
)
_TICKS: Final = (
    f"select {TICK_COLUMNS} from ticks where schedule_id = $1 and tick_ms >= $2 and tick_ms < $3"
    " order by tick_ms, source limit $4"
)
_ALIVE_TICKS: Final = "(schedule_id >> 12 & 1023) = $1 and outcome = 0"
_ALIVE_BACKFILLS: Final = "(id >> 12 & 1023) = $1 and not is_over"
_IMAGE_TICKS: Final = f"select {TICK_COLUMNS} from ticks where {_ALIVE_TICKS} order by schedule_id, tick_ms, source"
_IMAGE_SCHEDULES: Final = f"""
with found as materialized (
    select schedule_id from ticks where {_ALIVE_TICKS} union select schedule_id from backfills where {_ALIVE_BACKFILLS}
)
select {COLUMNS} from found join schedules on schedules.id = found.schedule_id order by schedules.id
"""
_IMAGE_BACKFILLS: Final = f"select {BACKFILL_COLUMNS} from backfills where {_ALIVE_BACKFILLS} order by id"
_IMAGE_CALENDARS: Final = "select tenant, body, epoch, number from calendars order by tenant, name"
IMAGE: Final = (_IMAGE_TICKS, _IMAGE_SCHEDULES, _IMAGE_BACKFILLS, _IMAGE_CALENDARS)
"""What a shard, $1, starts from; `image_of` takes the rows of each."""


async def answer(connection: asyncpg.Connection, kinds: Kinds, shard: int, query: ScheduleQuery) -> ScheduleReads:
    """Answer a shard's query about schedules. Raises: what asyncpg does."""
    match query:
        case ReadScheduleTimers():
            found = await connection.fetch(
                _TIMERS, shard, query.after_ms, query.after_id, query.until_ms, query.limit, query.tier
            )
            rows = [schedule_of(row, 1) for row in found if row[1] is not None]
            return ScheduleTimersRead(query.token, rows, await _kinds_of(connection, kinds, rows), found[0][0] or 0)
        case ReadSchedules():
            names = [name.encode() for name in query.names]
            rows = [schedule_of(row) for row in await connection.fetch(_SCHEDULES, query.ids, query.tenant, names)]
            return SchedulesRead(query.token, rows, await _kinds_of(connection, kinds, rows))
        case ReadCalendared():
            rows = [schedule_of(row) for row in await connection.fetch(_CALENDARED, shard, query.after, query.limit)]
            return SchedulesRead(query.token, rows, await _kinds_of(connection, kinds, rows))
        case ReadTicks():
            found = await connection.fetch(_TICKS, query.schedule_id, query.from_ms, query.until_ms, query.limit)
            return TicksRead(query.token, [TickRow(*row) for row in found])


def image_of(ticks: list[Any], schedules: list[Any], backfills: list[Any], calendars: list[Any]) -> ScheduleImage:
    """Return what the schedules of a shard start from: the rows of each query of `IMAGE`."""
    return ScheduleImage(
        ticks=[TickRow(*row) for row in ticks],
        schedules=[schedule_of(row) for row in schedules],
        backfills=[BackfillRow(*row) for row in backfills],
        calendars=[tuple(row) for row in calendars],
    )


def schedule_of(row: Any, first: int = 0) -> ScheduleRow:
    """Return the schedule whose columns begin at `first`."""
    cells = list(row)[first : first + 9]
    cells[1] = cells[1].decode()
    return ScheduleRow(*cells)


async def _kinds_of(connection: asyncpg.Connection, kinds: Kinds, rows: list[ScheduleRow]) -> list[Any]:
    return list((await kinds.of(connection, [row.template_id for row in rows])).values())
