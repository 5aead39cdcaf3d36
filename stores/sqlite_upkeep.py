"""What is written to SQLite beside group commits: claims of shards, retention, messages set aside.

Rare, so written plainly: a transaction each, on the writer's connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ..actors.messages import QueueConfig, TenantConfig
from ..actors.rows import InboxMark, ShardImage
from ..actors.schedule_messages import BackfillState
from ..actors.states import State
from ..runtime.ids import EPOCH_MS
from . import sqlite_schedules
from .sqlite_lists import entries
from .sqlite_pack import KINDS, fetch, kinds_of
from .sqlite_rows import PACKED, unpack
from .sqlite_staged import LABELS_SQL

RETAIN_BATCH: Final = 500
"""Tasks deleted in one transaction: commits wait for no more than that."""
_TIME_SHIFT: Final = 22  # of an id, see runtime.ids

_RUNNING: Final = f"""
with page as materialized (
    select tasks.*, null as payload from tasks indexed by by_state
    where state = {int(State.RUNNING)} and shard = ?1 order by id
)
select {PACKED}, {KINDS} from page
"""
_ENDED: Final = [state for state in State if state.is_final and state != State.DEAD]
_GOING: Final = f"""
insert into temp.going (id)
select tasks.id from json_each('{[int(state) for state in _ENDED]}') ended cross join kinds
cross join tasks indexed by by_state on tasks.state = ended.value and tasks.template_id = kinds.template_id
where tasks.id < ?1 and ended_ms < ?2 limit ?3
"""
_COUNT_GOING: Final = f"""
insert into ledger (shard, tenant, queue, what, count)
select shard, tenant, queue, 'purged_' || {LABELS_SQL}, count(*)
from temp.going cross join tasks using (id) cross join kinds using (template_id)
where true group by shard, tenant, queue, state
on conflict do update set count = count + excluded.count
"""
_GOING_TICKS: Final = """
insert into temp.going_ticks (schedule_id, tick_ms, source)
select schedule_id, tick_ms, source from ticks indexed by ticks_over
where outcome <> 0 and at_ms < ?1 order by at_ms limit ?2
"""
_COUNT_GOING_TICKS: Final = """
insert into ledger (shard, tenant, queue, what, count)
select schedule_id >> 12 & 1023, tenant, queue, 'fired_purged', count(*)
from temp.going_ticks cross join ticks using (schedule_id, tick_ms, source) cross join kinds using (template_id)
where task_id > 0 group by 1, tenant, queue
on conflict do update set count = count + excluded.count
"""
_OF_TASKS: Final = ("tasks", "payloads", "attempts", "logs", "progress")

_decode_backfill = msgspec.msgpack.Decoder(BackfillState).decode


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block writes, or nothing of it."""
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def claim(connection: sqlite3.Connection, shard: int, node: str) -> ShardImage:
    """Raise a shard's epoch and return what it starts from; see the port."""
    with transaction(connection):
        [(epoch, last_id)] = connection.execute(
            "insert into shards (shard, epoch, node, last_id) values (?, 1, ?, 0)"
            " on conflict do update set epoch = epoch + 1, node = excluded.node returning epoch, last_id",
            (shard, node),
        ).fetchall()
        running = unpack(fetch(connection, (_RUNNING, (shard,))))
        kinds = kinds_of(fetch(connection, ("select json_group_array(json(body)) from kinds", ()))[0])
        places = {kind.template_id: (kind.tenant, kind.template.queue) for kind in kinds}
        busy: dict[tuple[str, str], int] = {}
        for task in running:
            place = places[task.template_id]
            busy[place] = busy.get(place, 0) + 1
        counters = connection.execute(
            "select tenant, queue, what, count from ledger where shard = ? order by tenant, queue, what", (shard,)
        ).fetchall()
        queues = connection.execute("select body from queues order by pool, queue").fetchall()
        tenants = connection.execute("select body from tenants where shard = ? order by tenant", (shard,)).fetchall()
        has_ready = connection.execute(
            "select exists (select 1 from tasks indexed by ready where shard = ? and state = 2)", (shard,)
        ).fetchone()[0]
        schedules = sqlite_schedules.image(connection, shard)
        marks = connection.execute("select stream, position, stamp from inboxes where shard = ?", (shard,)).fetchall()
    return ShardImage(
        shard=shard,
        epoch=epoch,
        last_id=last_id,
        ledger=entries(counters, busy),
        running=running,
        kinds=kinds,
        queues=[msgspec.json.decode(body, type=QueueConfig) for (body,) in queues],
        tenants=[msgspec.json.decode(body, type=TenantConfig) for (body,) in tenants],
        has_ready=bool(has_ready),
        schedules=schedules,
        inbox=InboxMark(*marks[0]) if marks else InboxMark(),
    )


def retain(connection: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Delete up to `limit` tasks that ended before the instant, dead letters excepted, and count them as purged."""
    connection.execute("create temp table if not exists going (id integer primary key)")
    newest_id = max(before_ms - EPOCH_MS, 0) << _TIME_SHIFT  # what ended before was made before
    with transaction(connection):
        found: int = connection.execute(_GOING, (newest_id, before_ms, limit)).rowcount
        if found:
            connection.execute(_COUNT_GOING)
            for table in _OF_TASKS:
                connection.execute(f"delete from {table} where id in (select id from temp.going)")
            connection.execute("delete from temp.going")
    return found


def retain_keys(connection: sqlite3.Connection, now_ms: int, limit: int) -> int:
    """Delete up to `limit` dedupe keys and as many requests that have expired, and return how many that were."""
    gone = 0
    with transaction(connection):
        for table in ("dedupe", "requests"):
            gone += connection.execute(
                f"delete from {table} where rowid in"
                f" (select rowid from {table} where expires_ms <= ? order by expires_ms limit ?)",
                (now_ms, limit),
            ).rowcount
    return gone


def retain_ticks(connection: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Delete up to `limit` ticks that fired before the instant and whose task has ended, count those that made one as
    purged, and return how many went."""
    connection.execute("create temp table if not exists going_ticks (schedule_id, tick_ms, source)")
    with transaction(connection):
        found: int = connection.execute(_GOING_TICKS, (before_ms, limit)).rowcount
        if found:
            connection.execute(_COUNT_GOING_TICKS)
            connection.execute(
                "delete from ticks where (schedule_id, tick_ms, source) in (select * from temp.going_ticks)"
            )
            connection.execute("delete from temp.going_ticks")
    return found


def retain_backfills(connection: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Delete up to `limit` backfills that were over before the instant, and return how many that were."""
    newest_id = max(before_ms - EPOCH_MS, 0) << _TIME_SHIFT
    with transaction(connection):
        over = connection.execute(
            "select id, state from backfills where is_over = 1 and id < ? order by id", (newest_id,)
        )
        going = [(id,) for id, state in over if _decode_backfill(state).ended_ms < before_ms][:limit]
        connection.executemany("delete from backfills where id = ?", going)
    return len(going)


def set_aside(connection: sqlite3.Connection, address: str, message: bytes, error: str, at_ms: int) -> None:
    """Keep a message that no actor could handle."""
    with transaction(connection):
        connection.execute(
            "insert into set_aside (at_ms, address, error, message) values (?, ?, ?, ?)", (at_ms, address, error, message)
        )


def checkpoint(connection: sqlite3.Connection, mode: str = "passive") -> int:
    """Copy the write-ahead log into the database as far as that goes without waiting. Returns the log's length in
    pages when it began. The next commit starts the log anew if none came since then and no reader is behind."""
    pages: int = connection.execute(f"pragma wal_checkpoint({mode})").fetchone()[1]
    return pages
