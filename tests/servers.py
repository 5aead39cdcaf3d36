"""Real servers for tests, one of each for a session, started on loopback ports from the wheels. Never skipped.

A test that mistreats a server starts its own (`LocalNats`, `LocalPostgres`); the shared ones are for those that do not.
FOLIOT_TEST_POSTGRES names the programs of another PostgreSQL for the shared one, such as /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats, LocalPostgres


@pytest.fixture(scope="session")
def nats_server() -> Iterator[LocalNats]:
    """A nats-server with JetStream that all tests share: give streams and subjects names of your own."""
    server = LocalNats()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """A PostgreSQL server that all tests share: take a database of your own, see `postgres_dsn`."""
    server = LocalPostgres(binaries=os.environ.get("FOLIOT_TEST_POSTGRES"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture
async def postgres_dsn(postgres_server: LocalPostgres) -> str:
    """An empty database for one test."""
    return await postgres_server.database(f"test_{Rng.of_the_system().bits(48):012x}")
