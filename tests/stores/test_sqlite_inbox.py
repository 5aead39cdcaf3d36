"""The contract of inboxes on SQLite."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .conftest import SqliteDatabase
from .inbox_contract import InboxContract


class TestSqlite(InboxContract):
    @pytest.fixture(params=[True, False], ids=["small groups apart", "all groups staged"])
    def database(self, sqlite_database: SqliteDatabase, request: pytest.FixtureRequest) -> SqliteDatabase:
        sqlite_database.config = replace(sqlite_database.config, small_groups=request.param)
        return sqlite_database
