"""A few connections that take turns: made when needed, given up when lost, never waited for without end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from . import failures
from .config import PostgresConfig, shown
from .link import connect

R = TypeVar("R")


class Pool:
    """At most `size` connections. An action that fails since its connection was lost was perhaps done, perhaps not."""

    def __init__(self, dsn: str, config: PostgresConfig, *, size: int, pinned: bool, timeout_s: float) -> None:
        self._dsn = dsn
        self._config = config
        self._pinned = pinned
        self._timeout_s = timeout_s
        self._idle: list[asyncpg.Connection] = []  # the last one used is the first one taken
        self._room = asyncio.Semaphore(size)
        self._busy: dict[asyncpg.Connection, None] = {}

    async def run(self, action: Callable[[asyncpg.Connection], Awaitable[R]]) -> R:
        """Do something on a connection. Raises: StoreError and what else `failures.refused` says."""
        path = shown(self._dsn)
        try:
            async with asyncio.timeout(self._timeout_s + self._config.lock_timeout_s):
                await self._room.acquire()
        except TimeoutError as error:
            raise failures.UnreachableStoreError(path, "all its connections are busy") from error
        try:
            try:
                connection = await self._take()
            except Exception as error:
                raise failures.away(error, path) from error
            self._busy[connection] = None
            try:
                result = await action(connection)
            except BaseException as error:
                # A statement that was left may still run: only one that was answered leaves its connection as it was.
                if not isinstance(error, Exception) or failures.is_lost(error) or isinstance(
                    error, asyncpg.ReadOnlySQLTransactionError
                ):
                    connection.terminate()
                if isinstance(error, Exception):
                    raise failures.refused(error, path) from error
                raise
            finally:
                del self._busy[connection]
                if not connection.is_closed():
                    self._idle.append(connection)
            return result
        finally:
            self._room.release()

    async def _take(self) -> asyncpg.Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await connect(self._dsn, self._config, pinned=self._pinned, timeout_s=self._timeout_s)

    async def close(self) -> None:
        """Part with the connections; what is under way on one fails."""
        for connection in list(self._busy):
            connection.terminate()
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=self._config.connect_timeout_s)
            except Exception:
                connection.terminate()
