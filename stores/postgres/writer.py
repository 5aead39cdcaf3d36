"""The one connection that commits: groups of turns, one after the other; what waits meanwhile makes up the next group.

What holds: a commit that returns is durable, and one that raises StoreError was not written. If the connection is lost with
a group on its way, nobody knows: a new connection makes sure that the lost one writes no more, reads back the number of the
last group written, and the group is then done or written again. Only when no server says so in time the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

import asyncpg
import structlog

from ...actors.rows import ShardChanges
from ...runtime.clock import Clock
from ...runtime.errors import CommitUnknownError, StoreError
from ..port import StoreStats
from . import failures
from .arrays import install
from .config import PostgresConfig, shown
from .link import connect
from .turn import Turn
from .writing import Statements, stale

log = structlog.get_logger("foliot.stores")

Group = list[tuple[Turn, asyncio.Future[None]]]

_REGISTER = """
insert into writers (incarnation, group_no, seen_ms) values (1, 0, $1) returning writer, incarnation, group_no
"""
_RETURN = """
update writers set incarnation = incarnation + 1, seen_ms = $2 where writer = $1 returning writer, incarnation, group_no
"""
_FORGET = "delete from writers where seen_ms < $1"
_FORGET_MS = 90 * 86_400_000


class Writer:
    """Commits turns. `start` first."""

    def __init__(self, dsn: str, *, config: PostgresConfig, clock: Clock, stats: StoreStats) -> None:
        self.path = shown(dsn)
        self._dsn = dsn
        self._config = config
        self._clock = clock
        self._stats = stats
        self._connection: asyncpg.Connection | None = None
        self._statements: Statements | None = None
        self._number = 0  # this writer's
        self._incarnation = 0
        self._group_no = 0  # of the group sent last
        self._written = 0  # of the last group written, as the database said at the start of this incarnation
        self._pending: deque[tuple[Turn, asyncio.Future[None]]] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._why_down: StoreError | None = None
        self._leased: dict[int, int] = {}  # by shard, since its list of leases was made shorter
        self._floor: dict[int, int] = {}  # by shard, how many were left then
        self._closed = False

    # -- the connection ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises: what `connect` does."""
        connection = await connect(self._dsn, self._config, pinned=True, timeout_s=self._config.statement_timeout_s)
        try:
            install(connection)
            now_ms = self._clock.now_ms()
            row = None
            if self._number:
                row = await connection.fetchrow(_RETURN, self._number, now_ms)
            else:
                await connection.execute(_FORGET, now_ms - _FORGET_MS)
            if row is None:
                row = await connection.fetchrow(_REGISTER, now_ms)
                self._written = -1  # whether this was the first, or the database forgot: nothing is known of what was
            else:
                self._written = row["group_no"]
            self._number, self._incarnation = row["writer"], row["incarnation"]
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._on_lost)
        self._connection, self._statements = connection, Statements(connection)
        self._why_down = None

    def _on_lost(self, connection: Any) -> None:
        """asyncpg says that a connection is over; also while nothing is under way."""
        if connection is self._connection and not self._closed:
            self._give_up(failures.UnreachableStoreError(self.path, "the connection was lost"))

    def _give_up(self, why: StoreError) -> None:
        """Part with the connection and begin to look for another."""
        connection, self._connection, self._statements = self._connection, None, None
        self._why_down = why
        if connection is not None:
            connection.terminate()
            log.warning("store_lost", database=self.path, error=str(why))
        if self._reconnecting is None and not self._closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name="foliot-postgres-reconnect")

    async def _reconnect(self) -> None:
        wait_ms = self._config.reconnect_ms
        try:
            while True:
                try:
                    async with asyncio.timeout(2 * self._config.connect_timeout_s + self._config.lock_timeout_s):
                        await self.start()
                except Exception as error:  # whatever it is, there is no other way than to try again
                    self._why_down = failures.away(error, self.path)
                    await asyncio.sleep(wait_ms / 1000)
                    wait_ms = min(wait_ms * 2, self._config.reconnect_max_ms)
                else:
                    log.info("store_found", database=self.path)
                    return
        finally:
            self._reconnecting = None

    # -- commits -----------------------------------------------------------------------------------------------------

    async def commit(self, changes: ShardChanges) -> None:
        """See the port. Raises: also UnreachableStoreError at once, while there is no connection."""
        if self._connection is None:
            raise self._down()
        start = self._clock.mono_ns()
        turn = Turn(changes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((turn, done))
        self._stats.encode_ns += self._clock.mono_ns() - start
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="foliot-postgres-writer")
        await done

    def _down(self) -> StoreError:
        error = self._why_down or failures.UnreachableStoreError(self.path, "it is not connected")
        return error.with_traceback(None)

    async def _drain(self) -> None:
        try:
            while self._pending:
                await self._write(self._take_group())
        finally:
            self._draining = None

    def _take_group(self) -> Group:
        """Take turns in order, at most one of a shard: within a group, rows are applied kind by kind."""
        group: Group = []
        shards: set[int] = set()
        rows = 0
        while self._pending:
            turn, _ = self._pending[0]
            rows += turn.rows
            if group and (turn.shard in shards or rows > self._config.group_rows_max):
                break
            shards.add(turn.shard)
            group.append(self._pending.popleft())
        return group

    async def _write(self, group: Group) -> None:
        """Write a group and tell each of its turns how it went."""
        while group:
            start = self._clock.mono_ns()
            try:
                await self._send([turn for turn, _ in group])
            except Exception as error:
                group = await self._failed(group, error)
            else:
                self._count([turn for turn, _ in group], self._clock.mono_ns() - start)
                _resolve(group, None)
                return

    async def _send(self, turns: list[Turn]) -> None:
        statements = self._statements
        if statements is None:
            raise self._down()
        self._group_no += 1
        shorten = self._to_shorten(turns)
        writer = (self._number, self._incarnation, self._group_no)
        async with asyncio.timeout(self._config.commit_timeout_s):
            left = await statements.write(writer, turns, shorten)
        if shorten:
            self._floor.update((packed >> 32, packed & 0xFFFFFFFF) for packed in left)

    def _to_shorten(self, turns: list[Turn]) -> list[int]:
        """Count what is leased, and return the shards whose list of leases has become much longer than what runs."""
        shards: list[int] = []
        for turn in turns:
            if leased := len(turn.changes.leased):
                count = self._leased.get(turn.shard, 0) + leased
                if count >= max(self._config.lease_ids_min, 2 * self._floor.get(turn.shard, 0)):
                    count = 0
                    self._floor[turn.shard] = 0
                    shards.append(turn.shard)
                self._leased[turn.shard] = count
        return shards

    async def _failed(self, group: Group, error: Exception) -> Group:
        """Settle what can be settled, and return the turns that are to be written again."""
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate == failures.STALE:
            epochs = dict(json.loads(error.detail or "[]"))
            again: Group = []
            for (turn, done), refused in zip(group, stale([turn for turn, _ in group], epochs), strict=True):
                if refused is None:
                    again.append((turn, done))
                else:
                    _resolve([(turn, done)], refused)
            if len(again) == len(group):  # impossible, and must not go on for ever
                _resolve(group, StoreError(f"database {self.path!r} found an old epoch that is none"))
                return []
            return again
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):  # an answer: nothing was written, nor will be here
            read_only = failures.ReadOnlyStoreError(self.path)
            self._give_up(read_only)
            _resolve(group, read_only)
            return []
        if failures.is_lost(error):
            return await self._settle(group, error)
        refusal = failures.refused(error, self.path)
        refusal.__cause__ = error
        if len(group) > 1 and not isinstance(refusal, StoreError):
            for each in group:  # rows that cannot be are one shard's bug: write the others without it
                await self._write([each])
            return []
        _resolve(group, refusal)
        return []

    async def _settle(self, group: Group, error: Exception) -> Group:
        """The connection was lost with the group on its way: find out whether it was written."""
        number, writer = self._group_no, self._number
        why = failures.refused(error, self.path)
        self._give_up(why if isinstance(why, StoreError) else failures.UnreachableStoreError(self.path, str(why)))
        waiting, self._pending = list(self._pending), deque()
        _resolve(waiting, self._down())
        reconnecting = self._reconnecting
        if reconnecting is not None:
            await asyncio.wait([reconnecting], timeout=self._config.resolve_timeout_s)
        is_known = self._connection is not None and self._number == writer and self._written >= 0
        log.warning("commit_in_doubt", database=self.path, turns=len(group), known=is_known,
                    written=is_known and self._written >= number)  # fmt: skip
        if not is_known:
            for turn, done in group:
                _resolve([(turn, done)], CommitUnknownError(turn.shard, turn.epoch))
            return []
        if self._written >= number:
            self._count([turn for turn, _ in group], 0)
            _resolve(group, None)
            return []
        return group

    def _count(self, turns: list[Turn], busy_ns: int) -> None:
        self._stats.commits += 1
        self._stats.shard_commits += len(turns)
        self._stats.rows += sum([turn.rows for turn in turns])
        self._stats.busy_ns += busy_ns

    async def close(self) -> None:
        """Finish what waits, then part."""
        while self._draining is not None:
            await asyncio.wait([self._draining])
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        connection, self._connection, self._statements = self._connection, None, None
        if connection is not None:
            try:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await connection.execute("delete from writers where writer = $1", self._number)
                    await connection.close()
            except Exception:
                connection.terminate()  # the row stays, and is forgotten one day


def _resolve(group: Group, error: BaseException | None) -> None:
    for _, done in group:
        if done.done():  # its waiter was cancelled
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
