"""What a shard asks of SQLite: each query is one statement that returns one row.

The database packs the rows of an answer (see `sqlite_pack`). Statements and decoding are apart from their execution: a
store runs the first in a thread and the second on the event loop; a simulation runs both in place. Queries of schedules
are in `sqlite_schedules`, and go through here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.rows import (
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
from ..runtime.ids import MAX_ID
from .sqlite_pack import KINDS, blob, encode_json, kinds_of, texts
from .sqlite_pack import Statement as Statement
from .sqlite_pack import fetch as fetch
from .sqlite_schedules import answer_of as answer_of_schedules
from .sqlite_schedules import statement_of as statement_of_schedules

PAGED_PAYLOAD_MAX: Final = 16_384
"""Larger payloads are left out of pages of timers and lanes, so that a page has a bound; they are read by id."""

_COLUMNS: Final = (
    "id, template_id, state, priority, attempt, spent, interruptions, due_ms, updated_ms, lane, key, dedupe_key, session,"
    " cancelling, started_ms, ended_ms"
)
TASK_JSON: Final = f"json_array({_COLUMNS}, coalesce(length(payload), -1), length(result), length(error))"


PACKED: Final = f"json_group_array({TASK_JSON}), {blob('payload')}, {blob('result')}, {blob('error')}"
"""Expressions that pack rows of tasks with their payloads; `unpack` is the other half."""
_PAGED_PAYLOAD: Final = (
    f"(select payload from payloads where payloads.id = tasks.id and length(payload) <= {PAGED_PAYLOAD_MAX})"
)

# A page goes on within the same due time, then with later ones. As one comparison, (due_ms, id) > (?, ?), it would read
# all rows of that due time again for every page, and they can be a million.
_PAGE: Final = f"""
    select tasks.*, {_PAGED_PAYLOAD} as payload from (
        select * from (select id from tasks indexed by {{index}}
            where {{place}} and due_ms = {{due}} and id > {{id}} and {{due}} <= {{until}} order by id limit {{limit}})
        union all
        select * from (select id from tasks indexed by {{index}}
            where {{place}} and due_ms > {{due}} and due_ms <= {{until}} order by due_ms, id limit {{limit}})
        limit {{limit}}
    ) found cross join tasks on tasks.id = found.id
"""
_OF_TIMERS: Final = "shard = ?1 and state in (1, 4)"
_TIMERS: Final = f"""
with page as materialized (
    {_PAGE.format(index="timers", place=_OF_TIMERS, due="?2", id="?3", until="?4", limit="?5")}
), last (due_ms, id) as materialized (
    select * from (select due_ms, id from page order by due_ms desc, id desc limit 1)
    union all select ?2, ?3 where not exists (select 1 from page)
)
select {PACKED}, {KINDS}, (
    select coalesce(
        (select tasks.due_ms from tasks indexed by timers
            where {_OF_TIMERS} and tasks.due_ms = last.due_ms and tasks.id > last.id limit 1),
        (select min(tasks.due_ms) from tasks indexed by timers where {_OF_TIMERS} and tasks.due_ms > last.due_ms)
    ) from last
) from page
"""
_LANE: Final = f"""
with page as materialized (
    {_PAGE.format(index="ready", place="shard = ?1 and state = 2 and lane = ?2", due="?3", id="?4", until=MAX_ID,
                  limit="?5")}
)
select {PACKED}, {KINDS} from page
"""
_LANES: Final = """
with recursive found (lane) as (
    select min(lane) from tasks indexed by ready where shard = ?1 and state = 2 and lane > ?2
    union all
    select (select min(lane) from tasks indexed by ready where shard = ?1 and state = 2 and lane > found.lane)
    from found where lane is not null limit ?3
)
select json_group_array(lane) from found where lane is not null
"""
_CHECKPOINTS: Final = """select id, checkpoint from progress
    where id in (select id from page) and checkpoint is not null order by id"""
_TASKS: Final = f"""
with page as materialized (
    select tasks.*, payload from json_each(?1) asked cross join tasks on tasks.id = asked.value
    left join payloads on payloads.id = tasks.id
)
select {PACKED}, {KINDS},
    (select json_group_array(json_array(id, length(checkpoint))) from ({_CHECKPOINTS})),
    (select {blob('checkpoint')} from ({_CHECKPOINTS}))
from page
"""
_KEYS: Final = """
with asked (held_key) as (values {})
select (
    select json_group_array(json_array(held_key, task_id, expires_ms))
    from asked cross join dedupe on dedupe.shard = ?1 and dedupe.tenant = ?2 and dedupe.key = held_key
), (select answer from requests where shard = ?1 and request_id = ?3)
"""

_decode_ints = msgspec.json.Decoder(list[int]).decode
_decode_held = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_decode_lengths = msgspec.json.Decoder(list[tuple[int, int]]).decode


def statement_of(shard: int, query: Query) -> Statement:
    """Return the statement that answers a shard's query."""
    match query:
        case ReadTimers():
            return _TIMERS, (shard, query.after_due_ms, query.after_id, query.until_ms, query.limit)
        case ReadLane():
            return _LANE, (shard, query.lane, query.after_due_ms, query.after_id, query.limit)
        case ReadLanes():
            return _LANES, (shard, query.after, query.limit + 1)
        case ReadTasks():
            return _TASKS, (encode_json(query.ids),)
        case ReadKeys():
            rows, keys = texts(query.dedupe_keys, first=4)
            return _KEYS.format(rows), (shard, query.tenant, query.request_id, *keys)
        case _:
            return statement_of_schedules(shard, query)


def answer_of(query: Query, row: Any) -> Answer:
    """Return the answer that the statement's row means."""
    match query:
        case ReadTimers():
            return TimersRead(query.token, unpack(row), kinds_of(row[4]), row[5] or 0)
        case ReadLane():
            return LaneRead(query.token, query.lane, unpack(row), kinds_of(row[4]))
        case ReadLanes():
            return LanesRead(query.token, _decode_ints(row[0])[: query.limit])
        case ReadTasks():
            checkpoints: dict[int, bytes] = {}
            at, data = 0, row[6] or b""
            for task_id, length in _decode_lengths(row[5]):
                checkpoints[task_id] = data[at : at + length]
                at += length
            return TasksRead(query.token, unpack(row), kinds_of(row[4]), checkpoints)
        case ReadKeys():
            held = {key: (task_id, expires_ms) for key, task_id, expires_ms in _decode_held(row[0])}
            return KeysRead(query.token, held, row[1] or b"")
        case _:
            return answer_of_schedules(query, row)


def unpack(row: Any) -> list[TaskRow]:
    """Return the tasks that a row of `PACKED` (its first four columns) holds, in its order."""
    found = msgspec.json.decode(row[0])
    payloads, results, errors = row[1] or b"", row[2] or b"", row[3] or b""
    payload_at = result_at = error_at = 0
    tasks: list[TaskRow] = []
    for cells in found:
        payload_end = payload_at + max(cells[16], 0)
        result_end, error_end = result_at + cells[17], error_at + cells[18]
        cells[16] = payloads[payload_at:payload_end] if cells[16] >= 0 else None
        cells[17] = results[result_at:result_end]
        cells[18] = errors[error_at:error_end]
        tasks.append(TaskRow(*cells))
        payload_at, result_at, error_at = payload_end, result_end, error_end
    return tasks
