"""The store port of a simulated process: calls that travel to the database and back.

A call may not get there, be refused there, or do its work and have its answer lost; a process that dies meanwhile never
hears of it. The database runs each call at one instant, so calls are serialised as its transactions are.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..actors.messages import Kind, LedgerEntry
from ..actors.rows import Answer, Query, ShardChanges, ShardImage, TaskRow
from ..runtime.errors import CommitUnknownError, StaleEpochError, StoreError
from ..runtime.ids import to_text
from ..stores import sqlite_lists, sqlite_rows
from ..stores.port import StoreStats, TaskDetail, TaskFilter
from ..stores.sqlite_file import refused
from ..stores.sqlite_turn import Turn
from .history import Claimed, Committed, Retained
from .process import Process

R = TypeVar("R")
_UNREACHABLE_MS: Final = 500  # until a connection that leads nowhere is given up


class SimStore:
    """Implements `stores.port.Store`."""

    def __init__(self, process: Process) -> None:
        self.stats = StoreStats()
        self._process = process
        self._world = process.world
        self._database = process.world.database
        self._is_closed = False

    async def claim(self, shard: int, node: str) -> ShardImage:
        self._process.point("store.claim.before")

        def claim() -> ShardImage:
            image = self._database.claim(shard, node)
            process = self._process
            process.note("claim", shard=shard, epoch=image.epoch)
            self._world.observe(Claimed(self._world.loop.now_ns, shard, image.epoch, process.name, process.boot))
            process.point("store.claim.after")
            return image

        return await self._call("claim", claim)

    async def commit(self, changes: ShardChanges) -> None:
        turn = Turn(changes)
        process, world = self._process, self._world
        now_ms = process.clock.now_ms()
        process.point("store.commit.before")

        def commit() -> None:
            try:
                self._database.commit(changes, turn)
            except StaleEpochError as error:
                process.note("refused", shard=error.shard, epoch=error.epoch, current=error.current)
                raise
            process.note("commit", shard=changes.shard, epoch=changes.epoch, rows=turn.rows, **_summary(changes))
            self.stats.commits += 1
            world.observe(
                Committed(
                    world.loop.now_ns, changes.shard, changes.epoch, process.name, process.boot, now_ms, changes,
                    self._database.kinds,
                )
            )  # fmt: skip
            process.point("store.commit.after")

        await self._call("commit", commit, unknown=CommitUnknownError(changes.shard, changes.epoch))

    async def query(self, shard: int, query: Query) -> Answer:
        statement = sqlite_rows.statement_of(shard, query)
        return sqlite_rows.answer_of(query, await self._call("read", lambda: self._database.fetch(statement)))

    async def tasks(self, ids: Ids) -> list[TaskDetail]:
        statement = sqlite_lists.details(ids)
        return sqlite_lists.details_of(await self._call("read", lambda: self._database.fetch(statement)))

    async def logs(self, task_id: int, attempt: int = 0) -> Logs:
        statement = sqlite_lists.logs(task_id, attempt)
        return sqlite_lists.logs_of(await self._call("read", lambda: self._database.fetch(statement)))

    async def ledger(self) -> tuple[Ledger, Ledger]:
        found: tuple[Ledger, Ledger] = await self._call("read", self._database.ledger)
        return found

    async def configs(self) -> tuple[Any, Any]:
        return sqlite_lists.configs_of(await self._call("read", lambda: self._database.fetch(sqlite_lists.CONFIGS)))

    async def set_aside(self, address: str, message: bytes, error: str, at_ms: int) -> None:
        await self._call("set_aside", lambda: self._database.set_aside(address, message, error, at_ms))

    async def retain(self, before_ms: int, *, limit: int) -> int:
        now_ms = self._process.clock.now_ms()

        def retain() -> int:
            before = self._database.ids()
            gone = self._database.retain(before_ms, now_ms, limit)
            after = dict.fromkeys(self._database.ids())
            self._world.observe(Retained(self._world.loop.now_ns, [id for id in before if id not in after]))
            return gone

        return await self._call("retain", retain)

    async def close(self) -> None:
        self._is_closed = True

    async def list(self, filter: TaskFilter) -> tuple[list[TaskRow], dict[int, Kind]]:
        statement = sqlite_lists.listed(filter)
        return sqlite_lists.listed_of(await self._call("read", lambda: self._database.fetch(statement)))

    # -- the way there and back --------------------------------------------------------------------------------------

    async def _call(self, what: str, action: Callable[[], R], *, unknown: StoreError | None = None) -> R:
        """Raises: StoreError with nothing done, `unknown` if nobody knows whether it was; what the action raises."""
        if self._is_closed:
            raise StoreError("the store is closed; expected one in use")
        process, world = self._process, self._world
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if not process.is_dead:
            trouble = world.store_trouble(process, what)
            if trouble == "refused":
                world.answer_later(process, _resolve, future, None, StoreError(f"{what} was refused by the database"))
            else:
                away = StoreError(f"{what}: the database is out of reach")
                world.reach_database(
                    process, lambda: self._arrived(what, action, future, trouble, unknown),
                    lambda: _resolve(future, None, away),
                )  # fmt: skip
        return await future

    def _arrived(
        self, what: str, action: Callable[[], R], future: asyncio.Future[R], trouble: str,
        unknown: StoreError | None,
    ) -> None:  # fmt: skip
        """The call is at the database; in the database's lane."""
        process, world = self._process, self._world
        result: R | None = None
        error: Exception | None = None
        if trouble != "unknown_undone":
            try:
                result = action()
            except StaleEpochError as raised:
                error = raised
            except sqlite3.Error as raised:
                error = refused(raised, "the simulated database")
        if trouble and error is None:
            error = unknown
        lost = unknown or StoreError(f"{what}: no answer came from the database")
        world.return_from_database(process, lambda: _resolve(future, result, error), lambda: _resolve(future, None, lost))


Ids = list[int]
Logs = list[tuple[int, bytes]]
Ledger = list[LedgerEntry]


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _summary(changes: ShardChanges) -> dict[str, Any]:
    """Return what a trace tells of a turn's rows: up to eight tasks and what they became."""
    moves = [
        *((row[0], row[2]) for row in changes.inserted), *((row[0], 3) for row in changes.leased),
        *((row[0], row[1]) for row in changes.moved), *((row[0], row[1]) for row in changes.ended),
    ]  # fmt: skip
    return {"tasks": [to_text(id) for id, _ in moves[:8]], "states": [state for _, state in moves[:8]]}
