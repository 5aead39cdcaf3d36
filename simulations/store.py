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
from ..actors.rules import Calendar
from ..actors.schedule_rows import BackfillRow, TickRow
from ..actors.states import State
from ..runtime.errors import CommitUnknownError, StaleEpochError, StoreError
from ..runtime.ids import to_text
from ..stores import sqlite_lists, sqlite_rows, sqlite_schedule_lists
from ..stores.port import ScheduleDetail, ScheduleFilter, StoreStats, TaskDetail, TaskFilter
from ..stores.sqlite_file import refused
from ..stores.sqlite_turn import Turn
from .history import Claimed, Committed, Retained
from .process import Process

R = TypeVar("R")
_RUNNING: Final = int(State.RUNNING)
_TOLD_MAX: Final = 8  # tasks of a commit that the trace names


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

        return await self._call("claim", claim, shard=shard)

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

        await self._call("commit", commit, changes)

    async def query(self, shard: int, query: Query) -> Answer:
        statement = sqlite_rows.statement_of(shard, query)
        return sqlite_rows.answer_of(query, await self._call("read", lambda: self._database.fetch(statement)))

    async def tasks(self, ids: Ids) -> list[TaskDetail]:
        statement = sqlite_lists.details(ids)
        return sqlite_lists.details_of(await self._call("read", lambda: self._database.fetch(statement)))

    async def logs(self, task_id: int, attempt: int = 0) -> Logs:
        statement = sqlite_lists.logs(task_id, attempt)
        return sqlite_lists.logs_of(await self._call("read", lambda: self._database.fetch(statement)))

    async def schedules(self, filter: ScheduleFilter) -> Schedules:
        listing = sqlite_schedule_lists.ScheduleListing(filter)
        while (statement := listing.next()) is not None:
            listing.take(await self._read(statement))
        return listing.found

    async def ticks(self, schedule_id: int, *, before_ms: int = 0, limit: int = 100) -> Ticks:
        statement = sqlite_schedule_lists.ticks(schedule_id, before_ms, limit)
        return sqlite_schedule_lists.listed_ticks(await self._read(statement))

    async def backfills(self, tenant: str, *, schedule: str = "", limit: int = 100) -> Backfills:
        statement = sqlite_schedule_lists.backfills(tenant, schedule, limit)
        return sqlite_schedule_lists.listed_backfills(await self._read(statement))

    async def calendars(self, tenant: str) -> Calendars:
        statement = sqlite_schedule_lists.calendars(tenant)
        return sqlite_schedule_lists.listed_calendars(await self._read(statement))

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

    async def _read(self, statement: sqlite_rows.Statement) -> Any:
        return await self._call("read", lambda: self._database.fetch(statement))

    # -- the way there and back --------------------------------------------------------------------------------------

    async def _call(
        self, what: str, action: Callable[[], R], changes: ShardChanges | None = None, *, shard: int = -1
    ) -> R:  # fmt: skip
        """Run an action at the database. `changes`: of a commit; `shard`: of a claim. Raises: StoreError with nothing done,
        of a commit CommitUnknownError if nobody knows whether it was; what the action raises."""
        if self._is_closed:
            raise StoreError("the store is closed; expected one in use")
        process, world = self._process, self._world
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if not process.is_dead:
            trouble = world.store_trouble(process, what)
            if trouble == "refused":
                world.answer_later(process, resolve, future, None, StoreError(f"{what} was refused by the database"))
            else:
                call = _Call(process, what, action, future, trouble, changes)
                world.reach_database(process, call.arrive, call.miss)
        return await future


class _Call:
    """A call on its way. `trouble`: what befalls it at the database."""

    __slots__ = ("_action", "_changes", "_error", "_future", "_process", "_result", "_trouble", "_what")

    def __init__(
        self, process: Process, what: str, action: Callable[[], Any], future: asyncio.Future[Any], trouble: str,
        changes: ShardChanges | None,
    ) -> None:  # fmt: skip
        self._process = process
        self._what = what
        self._action = action
        self._future = future
        self._trouble = trouble
        self._changes = changes
        self._result: Any = None
        self._error: Exception | None = None

    def miss(self) -> None:
        """The database cannot be reached; in the process's lane, as what follows but for `arrive`."""
        resolve(self._future, None, StoreError(f"{self._what}: the database is out of reach"))

    def arrive(self) -> None:
        """It is at the database; in the database's lane."""
        if self._trouble != "unknown_undone":
            try:
                self._result = self._action()
            except StaleEpochError as raised:
                self._error = raised
            except sqlite3.Error as raised:
                self._error = refused(raised, "the simulated database")
        if self._trouble and self._error is None:
            self._error = self._unknown()
        self._process.world.return_from_database(self._process, self.deliver, self.lose)

    def deliver(self) -> None:
        """The answer is back."""
        resolve(self._future, self._result, self._error)

    def lose(self) -> None:
        """The answer was lost on its way."""
        error: StoreError | None = self._unknown()
        resolve(self._future, None, error or StoreError(f"{self._what}: no answer came from the database"))

    def _unknown(self) -> StoreError | None:
        changes = self._changes
        return None if changes is None else CommitUnknownError(changes.shard, changes.epoch)


Ids = list[int]
Logs = list[tuple[int, bytes]]
Ledger = list[LedgerEntry]
Schedules = list[ScheduleDetail]
Ticks = list[TickRow]
Backfills = list[tuple[BackfillRow, str]]
Calendars = list[Calendar]


def resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _summary(changes: ShardChanges) -> dict[str, Any]:
    """Return what a trace tells of a turn's rows: up to eight tasks and what they became."""
    tasks: list[str] = []
    states: list[int] = []
    kinds: tuple[tuple[list[Any], int], ...] = (
        (changes.inserted, 2), (changes.leased, -1), (changes.moved, 1), (changes.ended, 1)
    )  # fmt: skip
    for rows, state_at in kinds:
        for row in rows[: _TOLD_MAX - len(tasks)] if rows else ():
            tasks.append(to_text(row[0]))
            states.append(_RUNNING if state_at < 0 else row[state_at])
    return {"tasks": tasks, "states": states}
