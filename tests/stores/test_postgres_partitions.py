"""Partitions: made ahead, dropped as a whole, and never in the way of a row."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from foliot.actors.states import State
from foliot.stores.port import TaskFilter
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.store import PostgresStore, open_postgres

from .harness import NOW_MS, Hand, TestClock

HOUR_MS = 3_600_000
START_MS = NOW_MS // HOUR_MS * HOUR_MS


@pytest.fixture
def clock() -> TestClock:
    clock = TestClock()
    clock.wall_ms = START_MS + 5
    return clock


@pytest.fixture
async def store(postgres_dsn: str, clock: TestClock) -> AsyncIterator[PostgresStore]:
    config = PostgresConfig(partition_hours=1, partitions_ahead=2, stayers_max=3)
    store = await open_postgres(postgres_dsn, clock=clock, shards=4, config=config)
    yield store
    await store.close()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "foliot"})
    yield connection
    await connection.close()


async def sizes(connection: asyncpg.Connection) -> dict[str, int]:
    """Return how many tasks each partition has, by name; those that are empty are left out."""
    found = await connection.fetch("select tableoid::regclass::text as name, count(*) from tasks group by 1 order by 1")
    return dict(found)


async def ended(hand: Hand, count: int, made_ms: int, state: State = State.COMPLETED, *, after_ms: int = 1) -> list[int]:
    changes = hand.changes()
    ids = hand.insert(changes, count, made_ms=made_ms)
    hand.end(changes, ids, state, ended_ms=made_ms + after_ms)
    changes.attempts.append((ids[0], 1, 2, "s", 1, 2, b"e"))
    changes.logs.append((ids[0], 1, 0, b"log"))
    changes.progress.append((ids[0], 1, 1, "note", b"c", 1))
    await hand.store.commit(changes)
    return ids


async def balanced(store: PostgresStore) -> bool:
    counters, recount = await store.ledger()
    return counters == recount


async def test_ranges_are_made_ahead_and_those_beyond_go_to_the_default(
    store: PostgresStore, clock: TestClock, connection: asyncpg.Connection
) -> None:
    hand = await Hand.of(store)
    for hours in (-1, 0, 1, 2, 3):
        await ended(Hand(store, 0, hand.epoch), 1, START_MS + hours * HOUR_MS)
    found = await sizes(connection)
    assert (len(found), found["tasks_rest"]) == (4, 2)

    clock.wall_ms = START_MS + 2 * HOUR_MS
    await store.retain(START_MS - 5 * HOUR_MS, limit=10)  # the hour that is in the default already cannot be made

    await ended(Hand(store, 0, hand.epoch, hand.ids.next_id(START_MS + 4 * HOUR_MS)), 1, START_MS + 4 * HOUR_MS)
    assert {name: count for name, count in (await sizes(connection)).items() if name == "tasks_rest"} == {"tasks_rest": 2}
    assert len((await store.list(TaskFilter()))[0]) == 6
    assert await balanced(store)


async def test_a_range_that_is_over_is_dropped_and_what_has_to_stay_is_moved(
    store: PostgresStore, connection: asyncpg.Connection
) -> None:
    hand = await Hand.of(store)
    done = await ended(hand, 50, START_MS)
    cancelled = await ended(hand, 2, START_MS, State.CANCELLED)
    dead = await ended(hand, 1, START_MS, State.DEAD)
    late = await ended(hand, 1, START_MS, after_ms=3 * HOUR_MS)
    waiting = await hand.add()
    fresh = await ended(hand, 5, START_MS + HOUR_MS)

    assert await store.retain(START_MS + HOUR_MS - 1, limit=10) == 0  # not all of it is over
    gone = await store.retain(START_MS + HOUR_MS, limit=10)

    assert gone == 52
    assert await store.tasks(done + cancelled) == []
    assert await store.logs(done[0]) == []
    kept = await store.tasks(dead + late + waiting + fresh)
    assert [detail.row.id for detail in kept] == dead + late + waiting + fresh
    assert [len(detail.attempts) for detail in kept] == [1, 1, 0, 1, 0, 0, 0, 0]
    assert (kept[0].permille, kept[0].note, await store.logs(dead[0])) == (1, "note", [(1, b"log")])
    assert sorted((await sizes(connection)).values()) == [3, 5]
    assert await connection.fetchval("select count(*) from odd_ends") == 1
    assert await balanced(store)
    counters, _ = await store.ledger()
    assert (counters[0].accepted, counters[0].completed, counters[0].cancelled) == (60, 56, 2)

    changes = hand.changes()
    changes.leased.append((waiting[0], 1, "s", START_MS))
    hand.end(changes, waiting)
    await store.commit(changes)
    assert (await hand.row(waiting[0])).state == State.COMPLETED
    assert await balanced(store)


async def test_a_range_with_many_that_stay_loses_its_rows_one_by_one(
    store: PostgresStore, connection: asyncpg.Connection
) -> None:
    hand = await Hand.of(store)
    dead = await ended(hand, 4, START_MS, State.DEAD)
    done = await ended(hand, 30, START_MS)

    gone = [await store.retain(START_MS + HOUR_MS, limit=20) for _ in range(3)]

    assert gone == [20, 10, 0]
    assert await store.tasks(done) == []
    assert len(await store.tasks(dead)) == 4
    assert "tasks_rest" not in await sizes(connection)
    assert await balanced(store)


async def test_leases_and_outcomes_hardly_touch_an_index(store: PostgresStore, connection: asyncpg.Connection) -> None:
    hand = await Hand.of(store)
    for _ in range(5):
        ids = await hand.add(100)
        changes = hand.changes()
        changes.leased += [(task_id, 1, "session", NOW_MS) for task_id in ids]
        await store.commit(changes)
        changes = hand.changes()
        hand.end(changes, ids)
        await store.commit(changes)
    await store.close()  # what a connection has counted is there when it ends

    updated, hot = 0, 0
    for _ in range(100):
        updated, hot = await connection.fetchrow(
            "select sum(n_tup_upd)::int, sum(n_tup_hot_upd)::int from pg_stat_user_tables where relname like 'tasks%'"
        )
        if updated == 1_000:
            break
        await connection.execute("select pg_sleep(0.1)")
    assert updated == 1_000
    assert hot > 950  # a page may be full before its old rows may be cleared away
