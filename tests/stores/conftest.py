"""Databases to test: each can be opened again and again, as after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from foliot.sdk.servers import LocalPostgres
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.store import PostgresStore, open_postgres
from foliot.stores.sqlite import SqliteConfig, SqliteStore, open_sqlite

from .harness import TestClock


class SqliteDatabase:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = TestClock()
        self.config = SqliteConfig(synchronous="off")  # what survives a killed process does not depend on it
        self._store: SqliteStore | None = None

    async def open(self, shards: int = 4) -> SqliteStore:
        await self.close()
        self._store = await open_sqlite(self.path, clock=self.clock, shards=shards, config=self.config)
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "foliot.db")
    yield database
    await database.close()


@pytest.fixture
async def postgres_dsn(postgres_server: LocalPostgres) -> str:
    """An empty database for one test, in the place of the last one's: a hundred of them take a server long to put away."""
    return await postgres_server.database("stores")


class PostgresDatabase:
    """A database on the shared server. Rows go one by one at retention, as the contract has it: there are no partitions."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.clock = TestClock()
        self.config = PostgresConfig(partition_hours=0, readers=2)
        self._store: PostgresStore | None = None

    async def open(self, shards: int = 4) -> PostgresStore:
        await self.close()
        self._store = await open_postgres(self.dsn, clock=self.clock, shards=shards, config=self.config)
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


@pytest.fixture
async def postgres_database(postgres_dsn: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(postgres_dsn)
    yield database
    await database.close()
