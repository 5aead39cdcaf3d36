"""PostgreSQL keeps with a turn how far its shard has come in its inbox."""

from __future__ import annotations

import pytest

from .conftest import PostgresDatabase
from .inbox_contract import InboxContract


class TestPostgres(InboxContract):
    @pytest.fixture
    def database(self, postgres_database: PostgresDatabase) -> PostgresDatabase:
        return postgres_database
