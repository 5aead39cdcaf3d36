"""Databases to test: each can be opened again and again, as after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
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
