"""SQLite passes the contract of stores."""

from __future__ import annotations

import pytest

from .conftest import SqliteDatabase
from .contract import StoreContract


class TestSqlite(StoreContract):
    @pytest.fixture
    def database(self, sqlite_database: SqliteDatabase) -> SqliteDatabase:
        return sqlite_database
