"""Claiming a shard: its epoch grows, and what it starts from is read, in one transaction.

The shard's row is locked first, so a commit of its previous owner is either seen whole or refused. What comes after reads
only rows that nobody but the owner writes, or that are the same to all; all of it in one answer, since meanwhile nobody
serves the shard, and each question waits for a busy node's turn.
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
_KINDS: Final = "select template_id from kinds order by template_id"
_LISTS: Final = (_RUNNING, _LEDGER, _TENANTS, _KINDS, lists.QUEUES, *schedules.IMAGE)
_ARRAYS: Final = ", ".join(f"array(select row(q.*) from ({query}) q)" for query in _LISTS)
_IMAGE: Final = f"""
select exists (select 1 from places where shard = $1 and lane >= 0), exists (select 1 from leases where shard = $1),
    {_ARRAYS}
"""

_decode_tenant = msgspec.json.Decoder(TenantConfig).decode


async def claim(connection: asyncpg.Connection, kinds: Kinds, shard: int, node: str) -> ShardImage:
    """Raise a shard's epoch and return what it starts from; see the port. Raises: what asyncpg does."""
    async with connection.transaction(isolation="read_committed"):
        epoch, last_id, *mark = await connection.fetchrow(_CLAIM, shard, node)
        has_ready, has_leases, *found = await connection.fetchrow(_IMAGE, shard)
        tasks, ledger, tenants, template_ids, queues, *schedule_rows = found
        running = [task_of(row) for row in tasks]
        if has_leases:
            await connection.execute("delete from leases where shard = $1", shard)
        if running:
            await connection.execute(
                "insert into leases (shard, ids) values ($1, $2)", shard, [task.id for task in running]
            )
        known = await kinds.of(connection, [id for (id,) in template_ids])
        busy: dict[tuple[str, str], int] = {}
        for task in running:
            kind = known[task.template_id]
            place = (kind.tenant, kind.template.queue)
            busy[place] = busy.get(place, 0) + 1
        return ShardImage(
            shard=shard,
            epoch=epoch,
            last_id=last_id,
            ledger=entries([tuple(row) for row in ledger], busy),
            running=running,
            kinds=list(known.values()),
            queues=[lists.queue_of(body) for (body,) in queues],
            tenants=[_decode_tenant(body) for (body,) in tenants],
            has_ready=has_ready,
            schedules=schedules.image_of(*schedule_rows),
            inbox=InboxMark(*mark),
        )
