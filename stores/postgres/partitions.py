"""The partitions of tasks and of what hangs on them: ranges of ids, that is, of when a task was made.

What holds: a row always has a place, since a default partition takes what no range covers; a range is made ahead of its
time, and the four tables have the same ranges. So that a range can be dropped although a few of its tasks have to stay (a
dead letter, say), those are moved to the default partition first.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import asyncpg
import structlog

from ...runtime.ids import EPOCH_MS
from .config import PostgresConfig

log = structlog.get_logger("foliot.stores")

TABLES: Final = ("tasks", "attempts", "logs", "progress")
OVER: Final = "(state >= 10 and state <> 13 and ended_ms < $1)"
"""What of tasks may go: ended before the instant, dead letters excepted."""
_LOCK: Final = 0x466F6C75
_LOCK_MS: Final = 500  # how long commits may have to wait for a change of partitions
_TIME_SHIFT: Final = 22  # of an id, see runtime.ids
_HOUR_MS: Final = 3_600_000
_BOUNDS: Final = re.compile(r"FROM \('?(\d+)'?\) TO \('?(\d+)'?\)")
_WITH: Final = {"tasks": "with (fillfactor = 50)", "progress": "with (fillfactor = 70)"}
_LIST: Final = """
select relname::text, pg_get_expr(relpartbound, oid) from pg_inherits join pg_class on oid = inhrelid
where inhparent = 'tasks'::regclass
"""
_COUNT: Final = f"""
insert into ledger (shard, tenant, queue, what, count)
select shard_of(id), tenant, queue, 'purged_' || state_label(state), count(*) from {{table}} join kinds using (template_id)
where {OVER} group by 1, 2, 3, 4
on conflict (shard, tenant, queue, what) do update set count = ledger.count + excluded.count
"""
_COLUMNS: Final = {
    "attempts": "id, attempt, kind, started_ms, ended_ms, session, error",
    "logs": "id, attempt, part, text",
    "progress": "id, attempt, permille, updated_ms, note, checkpoint",
}


class Partition(NamedTuple):
    """Ids from `first` on, below `end`. `name`: of the tasks' table; the others' end alike."""

    first: int
    end: int
    name: str

    def table(self, parent: str) -> str:
        return parent + self.name.removeprefix("tasks")


def id_at(instant_ms: int) -> int:
    """Return the least id that is made at the instant or later."""
    return max(instant_ms - EPOCH_MS, 0) << _TIME_SHIFT


async def partitions(connection: asyncpg.Connection) -> list[Partition]:
    """Return the ranges there are, oldest first."""
    found: list[Partition] = []
    for name, bounds in await connection.fetch(_LIST):
        if match := _BOUNDS.search(bounds):
            found.append(Partition(int(match[1]), int(match[2]), name))
    return sorted(found)


async def make_ahead(connection: asyncpg.Connection, config: PostgresConfig, now_ms: int) -> None:
    """Make the range of now and those that follow it. One that cannot be made is left out: its rows go to the default."""
    if not config.partition_hours:
        return
    span_ms = config.partition_hours * _HOUR_MS
    start_ms = now_ms // span_ms * span_ms
    there = await partitions(connection)
    for number in range(config.partitions_ahead + 1):
        first, end = id_at(start_ms + number * span_ms), id_at(start_ms + (number + 1) * span_ms)
        if any(first < other.end and other.first < end for other in there):
            continue
        made = Partition(first, end, f"tasks_{first >> _TIME_SHIFT}")
        try:
            async with connection.transaction():
                await _lock(connection)
                for parent in TABLES:
                    await connection.execute(
                        f"create table if not exists {made.table(parent)} partition of {parent}"
                        f" for values from ({first}) to ({end}) {_WITH.get(parent, '')}"
                    )
        except (asyncpg.CheckViolationError, asyncpg.LockNotAvailableError, asyncpg.InvalidObjectDefinitionError) as error:
            log.warning("partition_not_made", partition=made.name, error=str(error))


async def drop(connection: asyncpg.Connection, partition: Partition, before_ms: int, *, stayers_max: int) -> int | None:
    """Drop a range: what is over is counted as purged, what has to stay is moved. Returns how many tasks went, None if
    too many would have to stay, or if the tables were too busy."""
    staying = f"select count(*) from (select 1 from {partition.name} where not {OVER} limit $2) stayers"
    async with connection.transaction():
        await connection.execute("set local enable_seqscan = on")
        if await connection.fetchval(staying, before_ms, stayers_max + 1) > stayers_max:
            return None
    try:
        async with connection.transaction():
            await _lock(connection)
            await connection.execute("set local enable_seqscan = on")
            for parent in TABLES:
                await connection.execute(f"alter table {parent} detach partition {partition.table(parent)}")
            total: int = await connection.fetchval(f"select count(*) from {partition.name}")
            await connection.execute(_COUNT.format(table=partition.name), before_ms)
            moved = await connection.execute(
                f"insert into tasks select * from {partition.name} where not {OVER}", before_ms
            )
            for parent, columns in _COLUMNS.items():
                table = partition.table(parent)
                await connection.execute(
                    f"insert into {parent} ({columns}) select {columns} from {table}"
                    f" where id in (select id from {partition.name} where not {OVER})",
                    before_ms,
                )
            for parent in TABLES:
                await connection.execute(f"drop table {partition.table(parent)}")
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        log.warning("partition_not_dropped", partition=partition.name, error=str(error))
        return None
    gone = total - int(moved.rpartition(" ")[2])
    await connection.execute(
        "delete from odd_ends where id >= $1 and id < $2 and not exists (select 1 from tasks where tasks.id = odd_ends.id)",
        partition.first, partition.end,
    )  # fmt: skip
    log.info("partition_dropped", partition=partition.name, tasks=gone)
    return gone


async def _lock(connection: asyncpg.Connection) -> None:
    """One at a time changes partitions, and waits for commits only so long."""
    await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
    await connection.execute(f"set local lock_timeout = {_LOCK_MS}")
