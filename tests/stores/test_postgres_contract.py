"""PostgreSQL passes the contract of stores."""

from __future__ import annotations

import pytest

from .conftest import PostgresDatabase
from .contract import StoreContract


class TestPostgres(StoreContract):
    @pytest.fixture
    def database(self, postgres_database: PostgresDatabase) -> PostgresDatabase:
        return postgres_database
