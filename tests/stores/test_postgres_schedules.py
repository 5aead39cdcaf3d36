"""PostgreSQL passes the contract of stores as to schedules."""

from __future__ import annotations

import pytest

from .conftest import PostgresDatabase
from .schedule_contract import ScheduleContract


class TestPostgres(ScheduleContract):
    @pytest.fixture
    def database(self, postgres_database: PostgresDatabase) -> PostgresDatabase:
        return postgres_database
