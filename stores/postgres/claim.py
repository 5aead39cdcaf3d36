"""Claiming a shard: its epoch grows, and what it starts from is read, in one transaction.

The shard's row is locked first, so a commit of its previous owner is either seen whole or refused. What comes after reads
only rows that nobody but the owner writes, or that are the same to all.
"""

from __future__ import annotations

from typing import Final

import asyncpg
import msgspec

from ...actors.messages import TenantConfig
from ...actors.rows import InboxMark, ShardImage
from ..counts import entries
from . import lists, schedules
from .kinds import Kinds
from .rows import WITHOUT_PAYLOAD, task_of

_CLAIM: Final = """
insert into shards (shard, epoch, node, last_id) values ($1, 1, $2, 0)
on conflict (shard) do update set epoch = shards.epoch + 1, node = excluded.node
returning epoch, last_id, inbox_stream, inbox_position, inbox_stamp
"""
_RUNNING: Final = f"""
with found as materialized (
    select distinct leased.id from leases, unnest(ids) leased(id) where leases.shard = $1
)
select {WITHOUT_PAYLOAD} from found join tasks on tasks.id = found.id where state = 3 order by tasks.id
"""
_LEDGER: Final = "select tenant, queue, what, count from ledger where shard = $1 order by tenant, queue, what"
_TENANTS: Final = "select body from tenants where shard = $1 order by tenant"
_HAS_READY: Final = "select exists (select 1 from places where shard = $1 and lane >= 0)"

_decode_tenant = msgspec.json.Decoder(TenantConfig).decode


async def claim(connection: asyncpg.Connection, kinds: Kinds, shard: int, node: str) -> ShardImage:
    """Raise a shard's epoch and return what it starts from; see the port. Raises: what asyncpg does."""
    async with connection.transaction(isolation="read_committed"):
        epoch, last_id, *mark = await connection.fetchrow(_CLAIM, shard, node)
        running = [task_of(row) for row in await connection.fetch(_RUNNING, shard)]
        await connection.execute("delete from leases where shard = $1", shard)
        if running:
            await connection.execute(
                "insert into leases (shard, ids) values ($1, $2)", shard, [task.id for task in running]
            )
        known = await kinds.all(connection)
        busy: dict[tuple[str, str], int] = {}
        for task in running:
            kind = known[task.template_id]
            place = (kind.tenant, kind.template.queue)
            busy[place] = busy.get(place, 0) + 1
        counters = [tuple(row) for row in await connection.fetch(_LEDGER, shard)]
        queues, _ = await lists.configs(connection)
        return ShardImage(
            shard=shard,
            epoch=epoch,
            last_id=last_id,
            ledger=entries(counters, busy),
            running=running,
            kinds=list(known.values()),
            queues=queues,
            tenants=[_decode_tenant(body) for (body,) in await connection.fetch(_TENANTS, shard)],
            has_ready=await connection.fetchval(_HAS_READY, shard),
            schedules=await schedules.image(connection, shard),
            inbox=InboxMark(*mark),
        )
