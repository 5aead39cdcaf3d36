"""What is cleared away: history that is over, keys that have expired; and the shelf for messages no actor could handle.

Tasks go a partition at a time: until the whole of one is over its rows stay, up to a partition's span longer than asked.
Rows are deleted one by one only where no partition can be dropped: in the default one, and where too many tasks have to
stay. That looks at rows in order of their ids, a bounded number a call, and goes on from there at the next.
"""

from __future__ import annotations

from typing import Final

import asyncpg
import msgspec

from ...actors.schedule_messages import BackfillState
from .config import PostgresConfig
from .partitions import drop, id_at, make_ahead, partitions

BATCH: Final = 500
"""Rows deleted in one transaction."""
_SCAN: Final = 10_000  # rows looked at in one statement
_SCANS: Final = 40  # statements a call

_OVER: Final = "state >= 10 and state <> 13 and ended_ms < $3"
_LOOK: Final = f"""
select count(*), coalesce(max(id), 0), coalesce(array_agg(id order by id) filter (where {_OVER}), '{{{{}}}}')
from (select id, state, ended_ms from {{table}} where id > $1 and id < $2 order by id limit {_SCAN}) found
"""
_HOLD: Final = "select id from tasks where id = any($1) and state >= 10 and state <> 13 and ended_ms < $2 for update"
_TICKS: Final = """
with gone as (
    delete from ticks where (schedule_id, tick_ms, source) in (
        select schedule_id, tick_ms, source from ticks where outcome <> 0 and at_ms < $1 order by at_ms limit $2
    ) returning schedule_id, task_id, template_id
), counted as (
    insert into ledger (shard, tenant, queue, what, count)
    select shard_of(schedule_id), tenant, queue, 'fired_purged', count(*)
    from gone join kinds using (template_id) where task_id > 0 group by 1, 2, 3
    on conflict (shard, tenant, queue, what) do update set count = ledger.count + excluded.count
) select count(*) from gone
"""
_KEYS: Final = """
with gone as (
    delete from {table} where ({key}) in (select {key} from {table} where expires_ms <= $1 order by expires_ms limit $2)
    returning 1
) select count(*) from gone
"""
_EXPIRING: Final = (("dedupe", "shard, tenant, key"), ("requests", "shard, request_id"))
_BACKFILLS: Final = "select id, state from backfills where is_over and id < $1 order by id limit $2"

_decode_backfill = msgspec.msgpack.Decoder(BackfillState).decode


class Retention:
    """Clears away, and remembers how far it has looked."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._looked: dict[str, int] = {}  # by table: the last id that was looked at, until its end was reached

    async def retain(self, connection: asyncpg.Connection, before_ms: int, *, now_ms: int, limit: int) -> int:
        """See the port."""
        await make_ahead(connection, self._config, now_ms)
        gone = 0
        newest = id_at(before_ms)
        tables = ["tasks_rest"]
        for partition in await partitions(connection):
            if partition.end <= newest:
                dropped = await drop(connection, partition, before_ms, stayers_max=self._config.stayers_max)
                if dropped is None:
                    tables.append(partition.name)
                else:
                    gone += dropped
                    self._looked.pop(partition.name, None)
        for table in tables:
            if gone < limit:
                gone += await self._rows(connection, table, before_ms, newest, limit - gone)
        await self._others(connection, before_ms, now_ms, max(limit // BATCH, 1))
        return gone

    async def _rows(
        self, connection: asyncpg.Connection, table: str, before_ms: int, newest: int, limit: int
    ) -> int:
        """Delete up to `limit` tasks of a table."""
        gone = 0
        for _ in range(_SCANS):
            after = self._looked.get(table, 0)
            count, last, ids = await connection.fetchrow(_LOOK.format(table=table), after, newest, before_ms)
            if gone + len(ids) > limit:
                ids = ids[: limit - gone]
                count, last = _SCAN, ids[-1]
            for start in range(0, len(ids), BATCH):
                gone += await self._purge(connection, ids[start : start + BATCH], before_ms)
            if count < _SCAN:
                self._looked.pop(table, None)
                break
            self._looked[table] = last
            if gone >= limit:
                break
        return gone

    async def _purge(self, connection: asyncpg.Connection, ids: list[int], before_ms: int) -> int:
        async with connection.transaction():
            held = [id for (id,) in await connection.fetch(_HOLD, ids, before_ms)]  # but for those revived meanwhile
            await connection.execute("select purge($1)", held)
        return len(held)

    async def _others(self, connection: asyncpg.Connection, before_ms: int, now_ms: int, batches: int) -> None:
        """Delete ticks, backfills, dedupe keys and requests, each up to `batches` times `BATCH`."""
        for _ in range(batches):
            if not await connection.fetchval(_TICKS, before_ms, BATCH):
                break
        rows = await connection.fetch(_BACKFILLS, id_at(before_ms), batches * BATCH)
        over = [id for id, state in rows if _decode_backfill(state).ended_ms < before_ms]
        if over:
            await connection.execute("delete from backfills where id = any($1)", over)
        for table, key in _EXPIRING:
            for _ in range(batches):
                if not await connection.fetchval(_KEYS.format(table=table, key=key), now_ms, BATCH):
                    break


async def set_aside(connection: asyncpg.Connection, address: str, message: bytes, error: str, at_ms: int) -> None:
    """Keep a message that no actor could handle. A NUL, which no text here takes, is shown as such."""
    await connection.execute(
        "insert into set_aside (at_ms, address, error, message) values ($1, $2, $3, $4)",
        at_ms, address.replace("\0", "\\0"), error.replace("\0", "\\0"), message,
    )  # fmt: skip
