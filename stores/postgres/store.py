"""The PostgreSQL store: many nodes at once on one database, each with one connection that commits and a few that read.

This shell only says which connection does what: `writer` commits, a pool of readers answers queries, and a small pool of
keepers claims shards and clears away what is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from ...actors.messages import Kind, LedgerEntry
from ...actors.rows import Answer, Query, ShardChanges, ShardImage, TaskRow
from ...actors.rules import Calendar
from ...actors.schedule_rows import BackfillRow, TickRow
from ...runtime.clock import Clock
from ...runtime.errors import StoreError
from ..port import ScheduleDetail, ScheduleFilter, StoreStats, TaskDetail, TaskFilter
from . import claim, failures, lists, retention, rows, schedule_lists
from .config import PostgresConfig, shown
from .kinds import Kinds
from .link import connect, prepare
from .partitions import make_ahead
from .pool import Pool
from .writer import Writer

R = TypeVar("R")
Ids = list[int]  # named here: within the class, `list` is its method
Tasks = list[TaskRow]
Details = list[TaskDetail]
Logs = list[tuple[int, bytes]]
Ledger = list[LedgerEntry]
Schedules = list[ScheduleDetail]
Ticks = list[TickRow]
Backfills = list[tuple[BackfillRow, str]]
Calendars = list[Calendar]


class PostgresStore:
    """`stores.port.Store` on PostgreSQL; made by `open_postgres`."""

    def __init__(self, dsn: str, *, clock: Clock, config: PostgresConfig, shards: int, identity: int = 0) -> None:
        self.path = shown(dsn)
        self.shards = shards
        """How many there are; fixed when the database was made."""
        self.identity = identity
        """What tells the database from others."""
        self.stats = StoreStats()
        self._clock = clock
        self._config = config
        self._kinds = Kinds()
        self._writer = Writer(dsn, config=config, clock=clock, stats=self.stats)
        quick, slow = config.statement_timeout_s, config.slow_timeout_s
        self._readers = Pool(dsn, config, size=config.readers, pinned=True, timeout_s=quick)
        self._listers = Pool(dsn, config, size=1, pinned=False, timeout_s=slow)
        self._keepers = Pool(dsn, config, size=config.keepers, pinned=True, timeout_s=slow)
        self._retention = retention.Retention(config)
        self._closed = False

    async def start(self) -> None:
        """Connect. Raises: what asyncpg does."""
        await self._writer.start()

    # -- commits -----------------------------------------------------------------------------------------------------

    async def claim(self, shard: int, node: str) -> ShardImage:
        assert 0 <= shard < self.shards, f"shard {shard} of {self.shards}"
        return await self._run(self._keepers, lambda connection: claim.claim(connection, self._kinds, shard, node))

    async def commit(self, changes: ShardChanges) -> None:
        self._check_open()
        await self._writer.commit(changes)

    # -- reads -------------------------------------------------------------------------------------------------------

    async def query(self, shard: int, query: Query) -> Answer:
        return await self._run(self._readers, lambda connection: rows.answer(connection, self._kinds, shard, query))

    async def tasks(self, ids: Ids) -> Details:
        return await self._run(self._readers, lambda connection: lists.details(connection, self._kinds, ids))

    async def list(self, filter: TaskFilter) -> tuple[Tasks, dict[int, Kind]]:
        return await self._run(self._listers, lambda connection: lists.listed(connection, self._kinds, filter))

    async def logs(self, task_id: int, attempt: int = 0) -> Logs:
        return await self._run(self._readers, lambda connection: lists.logs(connection, task_id, attempt))

    async def schedules(self, filter: ScheduleFilter) -> Schedules:
        return await self._run(
            self._listers, lambda connection: schedule_lists.schedules(connection, self._kinds, filter)
        )

    async def ticks(self, schedule_id: int, *, before_ms: int = 0, limit: int = 100) -> Ticks:
        return await self._run(
            self._listers, lambda connection: schedule_lists.ticks(connection, schedule_id, before_ms, limit)
        )

    async def backfills(self, tenant: str, *, schedule: str = "", limit: int = 100) -> Backfills:
        return await self._run(
            self._listers, lambda connection: schedule_lists.backfills(connection, tenant, schedule, limit)
        )

    async def calendars(self, tenant: str) -> Calendars:
        return await self._run(self._listers, lambda connection: schedule_lists.calendars(connection, tenant))

    async def ledger(self) -> tuple[Ledger, Ledger]:
        return await self._run(self._listers, lists.ledger)

    async def configs(self) -> tuple[Any, Any]:
        return await self._run(self._readers, lists.configs)

    # -- upkeep ------------------------------------------------------------------------------------------------------

    async def set_aside(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        await self._run(
            self._keepers, lambda connection: retention.set_aside(connection, address, message, error, at_ms)
        )

    async def retain(self, before_ms: int, *, limit: int) -> int:
        """See the port. Partitions that are over as a whole are dropped, whatever the limit; what is deleted row by row goes
        in small transactions."""
        now_ms = self._clock.now_ms()
        return await self._run(
            self._keepers, lambda connection: self._retention.retain(connection, before_ms, now_ms=now_ms, limit=limit)
        )

    async def close(self) -> None:
        """See the port. Harmless the second time."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await asyncio.gather(*[pool.close() for pool in (self._readers, self._listers, self._keepers)])

    async def _run(self, pool: Pool, action: Callable[[asyncpg.Connection], Awaitable[R]]) -> R:
        self._check_open()
        return await pool.run(action)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"database {self.path!r} is closed; expected a store in use")


async def open_postgres(
    dsn: str, *, clock: Clock, shards: int, config: PostgresConfig | None = None
) -> PostgresStore:
    """Open a database, and make its tables if they are not there; many nodes may do so at once.

    `shards`: for a new database; an old one keeps its number, see `PostgresStore.shards`.
    Raises: StoreUnusableError, UnreachableStoreError, ReadOnlyStoreError, InvalidStoreOptionError.
    """
    config = config or PostgresConfig()
    config.check(dsn, shards)
    store: PostgresStore | None = None
    try:
        connection = await connect(dsn, config, pinned=False, timeout_s=config.slow_timeout_s)
        try:
            stored, identity = await prepare(connection, dsn, config, shards=shards, now_ms=clock.now_ms())
            await make_ahead(connection, config, clock.now_ms())
        finally:
            connection.terminate()
        store = PostgresStore(dsn, clock=clock, config=config, shards=stored, identity=identity)
        await store.start()
        return store
    except Exception as error:
        if store is not None:
            await store.close()
        raise failures.unusable(error, shown(dsn)) from error
