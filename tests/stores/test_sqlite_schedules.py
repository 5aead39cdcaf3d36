"""SQLite passes the contract of stores as to schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .conftest import SqliteDatabase
from .schedule_contract import ScheduleContract


class TestSqlite(ScheduleContract):
    @pytest.fixture(params=[True, False], ids=["small groups apart", "all groups staged"])
    def database(self, sqlite_database: SqliteDatabase, request: pytest.FixtureRequest) -> SqliteDatabase:
        sqlite_database.config = replace(sqlite_database.config, small_groups=request.param)
        return sqlite_database
