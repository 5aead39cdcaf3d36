"""The store port of a simulated process on a database server: one connection that commits, others for the rest.

It behaves as `stores.postgres`: a commit whose connection is lost is looked up over a new one, which first makes sure that
the lost one writes no more; it is then done, or sent again. Only if nobody says so in time its outcome is unknown.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..actors.rows import ShardChanges
from ..runtime.errors import CommitUnknownError, OutdatedError, StaleEpochError, StoreError
from ..stores.sqlite_file import refused
from .database_server import DatabaseServer, ReadOnlyDatabaseError, UnreachableDatabaseError
from .process import Process
from .store import SimStore, resolve

R = TypeVar("R")
RESOLVE_NS: Final = 30_000_000_000  # how long an outcome is looked for
_AGAIN_MS: Final = 50  # until the next try to connect, doubling ...
_AGAIN_MAX_MS: Final = 1_000  # ... up to this


class _LostError(Exception):
    """The connection is gone, with a call on its way."""


class ServerStore(SimStore):
    """Implements `stores.port.Store`."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        server = process.world.database_server
        assert server is not None, "the run's database is no server"
        self._server: DatabaseServer = server
        self._writing = asyncio.Lock()
        self._lost = 0  # connections for commits
        self._is_looking = False  # for a new one

    async def _call(
        self, what: str, action: Callable[[], R], changes: ShardChanges | None = None, *, shard: int = -1
    ) -> R:  # fmt: skip
        """See `SimStore._call`."""
        if self._is_closed:
            raise StoreError("the store is closed; expected one in use")
        trouble = "" if self._process.is_dead else self._world.store_trouble(self._process, what)
        if trouble == "refused":
            await asyncio.sleep(0.001)
            raise StoreError(f"{what} was refused by the database")
        if changes is None:
            try:
                return await self._send(what, action, shard, trouble)
            except _LostError:
                raise UnreachableDatabaseError(f"{what}: the connection was lost") from None
        return await self._commit(action, changes, trouble)

    # -- commits -----------------------------------------------------------------------------------------------------

    async def _commit(self, action: Callable[[], R], changes: ShardChanges, trouble: str) -> R:
        """Commit after those before. Raises: StoreError with nothing written; CommitUnknownError."""
        lost = self._lost
        if self._is_looking:
            raise UnreachableDatabaseError("commit: the connection was lost")
        async with self._writing:
            if lost != self._lost:
                raise UnreachableDatabaseError("commit: the connection was lost before it was sent")
            return await self._settled(action, changes, trouble)

    async def _settled(self, action: Callable[[], R], changes: ShardChanges, trouble: str) -> R:
        written: list[R] = []
        server, label, clock = self._server, self._process.label, self._process.clock
        until_ns = clock.mono_ns() + RESOLVE_NS
        while True:
            mine = self._lost

            def once(mine: int = mine) -> R:
                if server.incarnations.get(label, 0) > mine:
                    raise _LostError
                result = action()
                written.append(result)
                return result

            try:
                return await self._send("commit", once, changes.shard, trouble)
            except _LostError:
                self._world.count("db.in_doubt")
            trouble = ""
            self._lost += 1
            self._is_looking = True
            try:
                if not await self._is_found(until_ns):
                    raise CommitUnknownError(changes.shard, changes.epoch)
            finally:
                self._is_looking = False
            self._world.count("db.resolved_written" if written else "db.resolved_not_written")
            if written:
                return written[0]

    async def _is_found(self, until_ns: int) -> bool:
        """Find the server again, and have it refuse what the lost connection still sends; tell whether it was in time."""
        server, label, mine = self._server, self._process.label, self._lost
        wait_ms = _AGAIN_MS

        def register() -> None:
            server.incarnations[label] = mine

        while self._process.clock.mono_ns() < until_ns:
            try:
                await self._send("register", register, -1, "")
            except (_LostError, StoreError):
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(2 * wait_ms, _AGAIN_MAX_MS)
            else:
                return True
        return False

    # -- the way there and back --------------------------------------------------------------------------------------

    async def _send(self, what: str, action: Callable[[], R], shard: int, trouble: str) -> R:
        """Run an action at the server. Raises: _LostError; what the server answers."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if not self._process.is_dead:
            asked = _Asked(self._process, self._server, what, action, future, shard, trouble)
            self._world.reach_database(self._process, asked.arrive, asked.miss)
        return await future


class _Asked:
    """A call on its way. `shard`: whose row it takes, -1 if none; `trouble`: what befalls it at the server."""

    __slots__ = ("_action", "_error", "_future", "_process", "_result", "_server", "_session", "_shard", "_trouble", "_what")

    def __init__(
        self, process: Process, server: DatabaseServer, what: str, action: Callable[[], Any], future: asyncio.Future[Any],
        shard: int, trouble: str,
    ) -> None:  # fmt: skip
        self._process = process
        self._server = server
        self._session = server.session
        self._what = what
        self._action = action
        self._future = future
        self._shard = shard
        self._trouble = trouble
        self._result: Any = None
        self._error: Exception | None = None

    def miss(self) -> None:
        """The server cannot be reached."""
        resolve(self._future, None, _LostError())

    def arrive(self) -> None:
        """It is at the server; in its lane, as what follows up to `deliver`."""
        server = self._server
        if server.is_down or self._session != server.session or self._trouble == "unknown_undone":
            self.lose()
        elif server.is_read_only:  # questions too: a connection that is made now is for writing
            self._process.world.count("db.read_only")
            self._answer(ReadOnlyDatabaseError(f"{self._what}: the database is read-only"))
        elif self._shard < 0:
            self._run()
        else:
            server.take_row(self._shard, self._granted, self._timed_out)

    def _granted(self) -> None:
        loop = self._process.world.loop
        loop.at(loop.now_ns + self._server.takes_ns(), self._process.world.db.lane, self._run_and_give_back)

    def _timed_out(self) -> None:
        if self._session != self._server.session:
            self.lose()
            return
        self._answer(StoreError(f"{self._what}: the shard's row is held by another session"))

    def _run_and_give_back(self) -> None:
        if self._session != self._server.session:  # the transaction is undone
            self.lose()
            return
        self._run()
        if self._session == self._server.session:
            self._server.give_row(self._shard)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._result = self._action()
        except (StaleEpochError, OutdatedError, _LostError) as raised:
            error = raised
        except sqlite3.Error as raised:
            error = refused(raised, "the simulated database")
        if self._trouble or self._session != self._server.session:
            self.lose()
        else:
            self._answer(error)

    def _answer(self, error: Exception | None) -> None:
        self._error = error
        self._server.returning[self] = None
        self._process.world.return_from_database(self._process, self.deliver, self.lose)

    def deliver(self) -> None:
        """The answer is back."""
        if self in self._server.returning:
            del self._server.returning[self]
            resolve(self._future, self._result, self._error)

    def lose(self) -> None:
        """The connection is lost, and the process notices."""
        self._server.returning.pop(self, None)
        process = self._process
        if not process.is_dead:
            process.world.answer_later(process, resolve, self._future, None, _LostError())


def store_of(process: Process) -> SimStore:
    """Return the store of a process, as the run's options have it."""
    return SimStore(process) if process.world.database_server is None else ServerStore(process)
