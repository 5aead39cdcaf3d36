"""What a shard asks of PostgreSQL: timers, lanes, tasks and keys. Queries of schedules are in `schedules`.

Everything a caller sees in one answer comes from one statement, hence from one snapshot; kinds, which never change, may come
after it.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from ...actors.rows import (
    Answer,
    KeysRead,
    LaneRead,
    LanesRead,
    Query,
    ReadKeys,
    ReadLane,
    ReadLanes,
    ReadTasks,
    ReadTimers,
    TaskRow,
    TasksRead,
    TimersRead,
)
from . import schedules
from .kinds import Kinds

PAGED_PAYLOAD_MAX: Final = 16_384
"""Payloads beyond are left out of pages, and read by id when they are needed."""

COLUMNS: Final = (
    "tasks.id, tasks.template_id, tasks.state, tasks.priority, tasks.attempt, tasks.spent, tasks.interruptions,"
    " tasks.due_ms, tasks.updated_ms, tasks.lane, tasks.key, tasks.dedupe_key, tasks.session, tasks.cancelling,"
    " tasks.started_ms, tasks.ended_ms, {payload}, tasks.result, tasks.error"
)
"""In the order of TaskRow; `task_of` is the other half."""
WITHOUT_PAYLOAD: Final = COLUMNS.format(payload="null::bytea")
WITH_PAYLOAD: Final = COLUMNS.format(payload="tasks.payload")
_PAGED: Final = COLUMNS.format(payload=f"case when length(tasks.payload) <= {PAGED_PAYLOAD_MAX} then tasks.payload end")

# The row of a page that is empty has only the first column.
_TIMERS: Final = f"""
with page as materialized (
    select id, due_ms from places where shard = $1 and lane = -1 and (due_ms, id) > ($2, $3) and due_ms <= $4
    order by due_ms, id limit $5
), last as materialized (
    select * from (select due_ms, id from page order by due_ms desc, id desc limit 1) newest
    union all select $2, $3 where not exists (select 1 from page)
), beyond as materialized (
    select (
        select places.due_ms from places
        where shard = $1 and lane = -1 and (places.due_ms, places.id) > (last.due_ms, last.id)
        order by places.due_ms, places.id limit 1
    ) as next_ms from last
)
select beyond.next_ms, {_PAGED} from beyond left join (page join tasks on tasks.id = page.id) on true
order by page.due_ms, page.id
"""
_LANE: Final = f"""
with page as materialized (
    select id, due_ms from places where shard = $1 and lane = $2 and (due_ms, id) > ($3, $4) order by due_ms, id limit $5
)
select {_PAGED} from page join tasks on tasks.id = page.id order by page.due_ms, page.id
"""
_LANES: Final = """
with recursive found (lane) as (
    (select lane from places where shard = $1 and lane > $2 and lane >= 0 order by lane limit 1)
    union all
    select (select lane from places where shard = $1 and lane > found.lane order by lane limit 1)
    from found where found.lane is not null
)
select lane from found where lane is not null limit $3
"""
_TASKS: Final = f"""
select progress.checkpoint, {WITH_PAYLOAD} from unnest($1::bigint[]) asked(id) join tasks on tasks.id = asked.id
left join progress on progress.id = tasks.id
"""
_KEYS: Final = """
select null::bytea, key, task_id, expires_ms from dedupe where shard = $1 and tenant = $2 and key = any($3::bytea[])
union all select answer, null, 0, 0 from requests where shard = $1 and request_id = $4
"""


async def answer(connection: asyncpg.Connection, kinds: Kinds, shard: int, query: Query) -> Answer:
    """Answer a shard's query. Raises: what asyncpg does."""
    match query:
        case ReadTimers():
            found = await connection.fetch(
                _TIMERS, shard, query.after_due_ms, query.after_id, query.until_ms, query.limit
            )
            rows = [task_of(row, 1) for row in found if row[1] is not None]
            return TimersRead(query.token, rows, await _kinds_of(connection, kinds, rows), found[0][0] or 0)
        case ReadLane():
            found = await connection.fetch(_LANE, shard, query.lane, query.after_due_ms, query.after_id, query.limit)
            rows = [task_of(row) for row in found]
            return LaneRead(query.token, query.lane, rows, await _kinds_of(connection, kinds, rows))
        case ReadLanes():
            found = await connection.fetch(_LANES, shard, query.after, query.limit)
            return LanesRead(query.token, [lane for (lane,) in found])
        case ReadTasks():
            found = await connection.fetch(_TASKS, query.ids)
            rows = [task_of(row, 1) for row in found]
            checkpoints = {row[1]: row[0] for row in found if row[0] is not None}
            return TasksRead(query.token, rows, await _kinds_of(connection, kinds, rows), checkpoints)
        case ReadKeys():
            held: dict[str, tuple[int, int]] = {}
            reply = b""
            asked = [key.encode() for key in query.dedupe_keys]
            for first, key, task_id, expires_ms in await connection.fetch(
                _KEYS, shard, query.tenant, asked, query.request_id.encode()
            ):  # fmt: skip
                if key is None:
                    reply = first
                else:
                    held[key.decode()] = (task_id, expires_ms)
            return KeysRead(query.token, held, reply)
        case _:
            return await schedules.answer(connection, kinds, shard, query)


async def _kinds_of(connection: asyncpg.Connection, kinds: Kinds, rows: list[TaskRow]) -> list[Any]:
    return list((await kinds.of(connection, [row.template_id for row in rows])).values())


def task_of(row: Any, first: int = 0) -> TaskRow:
    """Return the task whose columns begin at `first`."""
    cells = list(row)[first : first + 19]
    for column in (10, 11, 12):
        cells[column] = cells[column].decode()
    return TaskRow(*cells)
