"""What people ask of PostgreSQL: tasks by id and by filter, logs, the ledger and its recount, configurations."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import msgspec

from ...actors.messages import Kind, LedgerEntry, QueueConfig, TenantConfig
from ...actors.rows import TaskRow
from ...actors.states import State
from ...runtime.ids import MAX_ID
from ..counts import entries, recounted
from ..port import AttemptRow, TaskDetail, TaskFilter
from .kinds import Kinds
from .rows import WITH_PAYLOAD, WITHOUT_PAYLOAD, task_of

LIST_MAX: Final = 1_000
"""The longest page of a list."""

_DETAILS: Final = f"""
select progress.permille, progress.note, progress.updated_ms, {WITH_PAYLOAD}
from unnest($1::bigint[]) with ordinality asked(id, place) join tasks on tasks.id = asked.id
left join progress on progress.id = tasks.id order by asked.place
"""
_ATTEMPTS: Final = """
select id, attempt, kind, session, started_ms, ended_ms, error from attempts where id = any($1::bigint[])
order by id, attempt, number
"""
_LOGS: Final = "select attempt, text from logs where id = $1 and ($2 = 0 or attempt = $2) order by attempt, part"

# Each of these walks an index backwards and stops at the page's end: a list over everything, one of some templates, one of
# states that few tasks are in, one of those that run.
_NEWEST: Final = f"select {WITHOUT_PAYLOAD} from tasks where id < $1 {{states}} order by id desc limit $2"
_OF_TEMPLATES: Final = f"""
select {WITHOUT_PAYLOAD} from (
    select found.id from unnest($3::bigint[]) wanted(template_id) cross join lateral (
        select id from tasks where tasks.template_id = wanted.template_id and id < $1 {{states}} order by id desc limit $2
    ) found order by found.id desc limit $2
) page join tasks on tasks.id = page.id order by tasks.id desc
"""
_ODD: Final = f"""
select {WITHOUT_PAYLOAD} from (
    select found.id from unnest($3::bigint[]) wanted(template_id) cross join unnest($4::smallint[]) ended(state)
    cross join lateral (
        select id from odd_ends where odd_ends.template_id = wanted.template_id and odd_ends.state = ended.state and id < $1
        order by id desc limit $2
    ) found order by found.id desc limit $2
) page join tasks on tasks.id = page.id order by tasks.id desc
"""
_RUNNING: Final = f"""
select {WITHOUT_PAYLOAD} from (select distinct leased.id from leases, unnest(ids) leased(id) where leased.id < $1) found
join tasks on tasks.id = found.id where state = 3 and template_id = any($3::bigint[]) order by tasks.id desc limit $2
"""
_TEMPLATES: Final = """
select template_id from kinds where ($1 = '' or tenant = $1) and ($2 = '' or queue = $2) and ($3 = '' or handler = $3)
order by template_id
"""
_COUNTERS: Final = """
select tenant, queue, what, sum(count)::bigint from ledger group by tenant, queue, what order by tenant, queue, what
"""
_RECOUNT: Final = "select template_id, state, count(*) from tasks group by template_id, state order by template_id, state"
_FIRED: Final = "select template_id, count(*) from ticks where task_id > 0 group by template_id order by template_id"
_PLACES: Final = "select template_id, tenant, queue from kinds"
QUEUES: Final = "select body from queues order by pool, queue"
_TENANTS: Final = "select body from tenants order by tenant"

_decode_queue = msgspec.json.Decoder(QueueConfig).decode
_decode_tenant = msgspec.json.Decoder(TenantConfig).decode


async def details(connection: asyncpg.Connection, kinds: Kinds, ids: list[int]) -> list[TaskDetail]:
    """Return tasks in the order asked."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = await connection.fetch(_DETAILS, ids)
        tasks = [task_of(row, 3) for row in found]
        history = await connection.fetch(_ATTEMPTS, ids) if tasks else []
        known = await kinds.of(connection, [task.template_id for task in tasks])
    attempts: dict[int, list[AttemptRow]] = {}
    for id, attempt, kind, session, started_ms, ended_ms, error in history:
        attempts.setdefault(id, []).append(AttemptRow(attempt, kind, session.decode(), started_ms, ended_ms, error))
    return [
        TaskDetail(task, known[task.template_id], attempts.get(task.id, []),
                   *((row[0], row[1].decode(), row[2]) if row[0] is not None else (-1, "", 0)))
        for task, row in zip(tasks, found, strict=True)
    ]  # fmt: skip


async def listed(
    connection: asyncpg.Connection, kinds: Kinds, filter: TaskFilter
) -> tuple[list[TaskRow], dict[int, Kind]]:
    """Return tasks without payloads, newest first. Pages are at most `LIST_MAX` long."""
    values: list[Any] = [min(filter.before, MAX_ID) or MAX_ID, max(min(filter.limit, LIST_MAX), 0)]
    states = sorted(set(filter.states))
    is_narrow = bool(filter.tenant or filter.queue or filter.handler)
    is_odd = bool(states) and states[0] > State.COMPLETED
    if is_narrow or is_odd or states == [State.RUNNING]:
        found = await connection.fetch(_TEMPLATES, filter.tenant, filter.queue, filter.handler)
        values.append([id for (id,) in found])
    if states == [State.RUNNING]:
        statement = _RUNNING
    else:
        if states:
            values.append(states)
        among = f"and state = any(${len(values)}::smallint[])" if states else ""
        statement = _ODD if is_odd else (_OF_TEMPLATES if is_narrow else _NEWEST).format(states=among)
    rows = [task_of(row) for row in await connection.fetch(statement, *values)]
    return rows, await kinds.of(connection, [row.template_id for row in rows])


async def logs(connection: asyncpg.Connection, task_id: int, attempt: int) -> list[tuple[int, bytes]]:
    """Return (attempt, text) in order."""
    return [(number, text) for number, text in await connection.fetch(_LOGS, task_id, attempt)]


async def ledger(connection: asyncpg.Connection) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    """Return counters and recount, each sorted by (tenant, queue), from one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        counters = [tuple(row) for row in await connection.fetch(_COUNTERS)]
        tasks = await connection.fetch(_RECOUNT)
        fired = await connection.fetch(_FIRED)
        places = {id: (tenant, queue) for id, tenant, queue in await connection.fetch(_PLACES)}
    rows = [
        (*places[id], State(state).label if State(state).is_final else None, state, count) for id, state, count in tasks
    ]
    ticks = [(*places[id], count) for id, count in fired if id in places]
    return entries(counters, {}), recounted(rows, ticks, counters)


def queue_of(body: bytes) -> QueueConfig:
    """Return the configuration that is a row of `QUEUES`."""
    return _decode_queue(body)


async def configs(connection: asyncpg.Connection) -> tuple[list[QueueConfig], list[TenantConfig]]:
    """Return all configurations, sorted by name."""
    return (
        [_decode_queue(body) for (body,) in await connection.fetch(QUEUES)],
        [_decode_tenant(body) for (body,) in await connection.fetch(_TENANTS)],
    )
