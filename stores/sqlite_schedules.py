"""What a shard asks of SQLite about its schedules, and what it starts from: one statement and one row each, as in
`sqlite_rows`.

Rows are sorted after they are unpacked: a join has no order that SQLite promises. A page of timers is as long as asked
unless its bodies together exceed `PAGE_BYTES`; `next_due_ms` tells in either case what comes next.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec

from ..actors.schedule_rows import (
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
from .sqlite_pack import KINDS, Statement, blob, encode_json, fetch, kinds_of, texts

PAGE_BYTES: Final = 16 << 20
"""Bodies of a page of timers together, but for its last one."""

PACKED: Final = (
    "json_group_array(json_array(schedules.id, name, tier, schedules.next_ms, schedules.template_id, revision, calendars,"
    f" length(body), length(state))), {blob('body')}, {blob('state')}"
)
"""Expressions that pack rows of schedules; `unpack` is the other half."""
PACKED_TICKS: Final = "json_group_array(json_array(schedule_id, tick_ms, source, revision, task_id, at_ms, outcome))"
PACKED_BACKFILLS: Final = (
    f"json_group_array(json_array(id, schedule_id, is_over, length(body), length(state))), {blob('body')}, {blob('state')}"
)

# As with tasks' timers, a page goes on within the same due time, then with later ones: read as one comparison it would begin
# again with the first schedule of that time, and there may be 60,000.
_DUE: Final = "schedules indexed by schedule_timers where shard = ?1 and tier = ?6 and schedules.next_ms > 0"
_TIMERS: Final = f"""
with found as materialized (
    select * from (select id, next_ms from {_DUE} and next_ms = ?2 and id > ?3 and ?2 <= ?4 order by id limit ?5)
    union all
    select * from (select id, next_ms from {_DUE} and next_ms > ?2 and next_ms <= ?4 order by next_ms, id limit ?5)
    limit ?5
), page as materialized (
    select id, next_ms, template_id from (
        select found.*, template_id, length(body) as size,
            sum(length(body)) over (order by found.next_ms, found.id rows unbounded preceding) as bytes
        from found cross join schedules on schedules.id = found.id
    ) where bytes - size < {PAGE_BYTES}
), last (next_ms, id) as materialized (
    select * from (select next_ms, id from page order by next_ms desc, id desc limit 1)
    union all select ?2, ?3 where not exists (select 1 from page)
)
select {PACKED}, {KINDS}, (
    select coalesce(
        (select schedules.next_ms from {_DUE} and schedules.next_ms = last.next_ms and schedules.id > last.id limit 1),
        (select min(schedules.next_ms) from {_DUE} and schedules.next_ms > last.next_ms)
    ) from last
) from page cross join schedules on schedules.id = page.id
"""
_SCHEDULES: Final = f"""
with asked (asked_name) as (values {{}}), found (id) as materialized (
    select value from json_each(?1)
    union select schedules.id from asked cross join schedules indexed by schedule_names
        on schedules.tenant = ?2 and schedules.name = asked_name
), page as materialized (
    select schedules.id, template_id from found cross join schedules on schedules.id = found.id
)
select {PACKED}, {KINDS} from page cross join schedules on schedules.id = page.id
"""
_CALENDARED: Final = f"""
with page as materialized (
    select id, template_id from schedules indexed by schedules_calendared
    where shard = ?1 and schedules.calendars <> 0 and id > ?2 order by id limit ?3
)
select {PACKED}, {KINDS} from page cross join schedules on schedules.id = page.id
"""
_TICKS: Final = f"""
select {PACKED_TICKS} from (
    select * from ticks where schedule_id = ?1 and tick_ms >= ?2 and tick_ms < ?3 order by tick_ms, source limit ?4
)
"""
_ALIVE_TICKS: Final = "ticks indexed by ticks_alive where schedule_id >> 12 & 1023 = ?1 and outcome = 0"
_ALIVE_BACKFILLS: Final = "backfills indexed by backfills_alive where id >> 12 & 1023 = ?1 and is_over = 0"
IMAGE_TICKS: Final = f"select {PACKED_TICKS} from {_ALIVE_TICKS}"
IMAGE_SCHEDULES: Final = f"""
with found (id) as materialized (
    select schedule_id from {_ALIVE_TICKS} union select schedule_id from {_ALIVE_BACKFILLS}
)
select {PACKED} from found cross join schedules on schedules.id = found.id
"""
IMAGE_BACKFILLS: Final = f"select {PACKED_BACKFILLS} from {_ALIVE_BACKFILLS}"

_decode_schedules = msgspec.json.Decoder(list[tuple[int, str, int, int, int, int, int, int, int]]).decode
_decode_ticks = msgspec.json.Decoder(list[tuple[int, int, int, int, int, int, int]]).decode
_decode_backfills = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode


def statement_of(shard: int, query: ScheduleQuery) -> Statement:
    """Return the statement that answers a shard's query."""
    match query:
        case ReadScheduleTimers():
            return _TIMERS, (shard, query.after_ms, query.after_id, query.until_ms, query.limit, query.tier)
        case ReadSchedules():
            rows, names = texts(query.names, first=3)
            return _SCHEDULES.format(rows), (encode_json(query.ids), query.tenant, *names)
        case ReadCalendared():
            return _CALENDARED, (shard, query.after, query.limit)
        case ReadTicks():
            return _TICKS, (query.schedule_id, query.from_ms, query.until_ms, query.limit)


def answer_of(query: ScheduleQuery, row: Any) -> ScheduleReads:
    """Return the answer that the statement's row means."""
    match query:
        case ReadScheduleTimers():
            rows = sorted(unpack(row), key=_due)
            return ScheduleTimersRead(query.token, rows, kinds_of(row[3]), row[4] or 0)
        case ReadSchedules() | ReadCalendared():
            return SchedulesRead(query.token, sorted(unpack(row), key=_id), kinds_of(row[3]))
        case ReadTicks():
            return TicksRead(query.token, ticks_of(row[0]))


def _due(row: ScheduleRow) -> tuple[int, int]:
    return row.next_ms, row.id


def _id(row: ScheduleRow | BackfillRow) -> int:
    return row.id


def _tick(row: TickRow) -> tuple[int, int, int]:
    return row.schedule_id, row.tick_ms, row.source


def unpack(row: Any) -> list[ScheduleRow]:
    """Return the schedules that a row of `PACKED` (its first three columns) holds, in its order."""
    bodies, states = row[1] or b"", row[2] or b""
    body_at = state_at = 0
    schedules: list[ScheduleRow] = []
    for cells in _decode_schedules(row[0]):
        body_end, state_end = body_at + cells[7], state_at + cells[8]
        schedules.append(ScheduleRow(*cells[:7], bodies[body_at:body_end], states[state_at:state_end]))
        body_at, state_at = body_end, state_end
    return schedules


def ticks_of(text: str) -> list[TickRow]:
    """Return the ticks of a JSON array."""
    return [TickRow(*cells) for cells in _decode_ticks(text)]


def backfills_of(row: Any) -> list[BackfillRow]:
    """Return the backfills that a row of numbers, bodies and states holds, in its order."""
    bodies, states = row[1] or b"", row[2] or b""
    body_at = state_at = 0
    backfills: list[BackfillRow] = []
    for id, schedule_id, is_over, body_length, state_length in _decode_backfills(row[0]):
        body_end, state_end = body_at + body_length, state_at + state_length
        backfills.append(
            BackfillRow(id, schedule_id, bool(is_over), bodies[body_at:body_end], states[state_at:state_end])
        )
        body_at, state_at = body_end, state_end
    return backfills


def image(connection: sqlite3.Connection, shard: int) -> ScheduleImage:
    """Return what the schedules of a shard start from; within the transaction that claims it."""
    return ScheduleImage(
        ticks=sorted(ticks_of(fetch(connection, (IMAGE_TICKS, (shard,)))[0]), key=_tick),
        schedules=sorted(unpack(fetch(connection, (IMAGE_SCHEDULES, (shard,)))), key=_id),
        backfills=sorted(backfills_of(fetch(connection, (IMAGE_BACKFILLS, (shard,)))), key=_id),
        calendars=connection.execute("select tenant, body, epoch, number from calendars order by tenant, name").fetchall(),
    )
