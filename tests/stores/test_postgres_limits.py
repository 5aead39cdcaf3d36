"""Every wait for PostgreSQL ends, by the server's limit or by this side's, and what is kept there does not grow for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from foliot.actors.rows import ShardChanges
from foliot.runtime.errors import CommitUnknownError, StoreError, StoreUnusableError
from foliot.stores.errors import StatementError
from foliot.stores.port import Store
from foliot.stores.postgres import link
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.failures import UnreachableStoreError
from foliot.stores.postgres.store import PostgresStore, open_postgres

from .harness import NOW_MS, Hand, TestClock
from .proxy import Proxy

CONFIG = PostgresConfig(partition_hours=0, resolve_timeout_s=5.0, reconnect_ms=5)
HOUR_MS = 3_600_000
LONG_S = 600.0  # a wait that only another rule may end
GUARD_S = 60  # ends a test that waits where it should not


@asynccontextmanager
async def opened(dsn: str, *, clock: TestClock | None = None, **options: object) -> AsyncIterator[PostgresStore]:
    """A store of these options, whose user must be done in time."""
    config = replace(CONFIG, **options)  # type: ignore[arg-type]
    store = await open_postgres(dsn, clock=clock or TestClock(), shards=4, config=config)
    try:
        async with asyncio.timeout(GUARD_S):
            yield store
    finally:
        await store.close()


@pytest.fixture
async def admin(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Another program's connection to the same database."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    connection.terminate()


def inserting(hand: Hand, count: int, made_ms: int = NOW_MS) -> ShardChanges:
    changes = hand.changes()
    hand.insert(changes, count, made_ms=made_ms)
    return changes


async def accepted(store: Store) -> int:
    """Return how many tasks there are; counters and rows must agree."""
    counters, recount = await store.ledger()
    assert counters == recount
    return sum(entry.accepted for entry in counters)


async def until_waiting(admin: asyncpg.Connection, count: int) -> None:
    """Wait until so many connections wait for a lock."""
    asked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    found = 0
    async with asyncio.timeout(GUARD_S):
        while found < count:
            await admin.execute("select pg_stat_clear_snapshot()")  # else a transaction sees the same again and again
            found = await admin.fetchval(asked)


# -- what takes long -----------------------------------------------------------------------------------------------------


async def test_a_statement_that_takes_long_is_ended_by_the_server(postgres_dsn: str, admin: asyncpg.Connection) -> None:
    async with opened(postgres_dsn, statement_timeout_s=0.2, lock_timeout_s=LONG_S, commit_timeout_s=LONG_S) as store:
        hand = await Hand.of(store)
        async with admin.transaction():
            await admin.execute("lock table foliot.tasks in access exclusive mode")
            with pytest.raises(StoreError, match="statement timeout"):
                await hand.add()
            with pytest.raises(StoreError, match="statement timeout"):
                await store.tasks([1])

        await hand.add()
        assert await accepted(store) == 1


async def test_who_finds_all_connections_busy_is_told_so_in_time(postgres_dsn: str, admin: asyncpg.Connection) -> None:
    async with opened(postgres_dsn, readers=1, statement_timeout_s=0.2, lock_timeout_s=0.3) as store:
        async with admin.transaction():
            await admin.execute("lock table foliot.tasks in access exclusive mode")
            results = await asyncio.gather(*[store.tasks([1]) for _ in range(10)], return_exceptions=True)
        assert all(isinstance(result, StoreError) for result in results)
        busy = [result for result in results if "all its connections are busy" in str(result)]
        assert 5 <= len(busy) < 10, "each that had its turn waited for the server"

        assert await store.tasks([1]) == []


async def test_a_read_that_was_left_does_not_disturb_the_next(postgres_dsn: str, admin: asyncpg.Connection) -> None:
    async with opened(postgres_dsn, readers=1, statement_timeout_s=LONG_S, lock_timeout_s=LONG_S) as store:
        ids = await (await Hand.of(store)).add(2)
        async with admin.transaction():
            await admin.execute("lock table foliot.tasks in access exclusive mode")
            left = asyncio.ensure_future(store.tasks(ids))
            await until_waiting(admin, 1)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left

        assert [detail.row.id for detail in await store.tasks(ids)] == ids


@pytest.mark.parametrize(("hours", "before_ms"), [(0, NOW_MS + 2 * HOUR_MS), (1, 0)], ids=["dropping", "making"])
async def test_a_change_of_partitions_lets_commits_wait_only_briefly(
    postgres_dsn: str, admin: asyncpg.Connection, hours: int, before_ms: int
) -> None:
    """Whoever waits for a table has all others wait behind it."""
    clock = TestClock()
    waits = dict.fromkeys(("lock_timeout_s", "slow_timeout_s", "statement_timeout_s", "commit_timeout_s"), LONG_S)
    async with opened(postgres_dsn, clock=clock, partition_hours=1, partitions_ahead=0, **waits) as store:
        hand = await Hand.of(store)
        await hand.add()
        clock.wall_ms += hours * HOUR_MS
        async with admin.transaction():
            await admin.execute("select count(*) from foliot.tasks")  # somebody reads, without end
            retained = asyncio.ensure_future(store.retain(before_ms, limit=10))
            await until_waiting(admin, 1)

            await hand.add()  # it may wait behind the change, until that is given up
            assert await retained == 0
        names = "select count(*) from pg_inherits where inhparent = 'foliot.tasks'::regclass"
        assert await admin.fetchval(names) == 2
        await store.retain(before_ms, limit=10)
        assert await admin.fetchval(names) == (3 if hours else 1)
        assert await accepted(store) == 2


# -- who waits for whom --------------------------------------------------------------------------------------------------


async def test_nodes_that_commit_the_same_shards_in_different_orders_do_not_block_each_other(
    postgres_dsn: str, admin: asyncpg.Connection
) -> None:
    """As when a slot moves to and fro. The second one is known to wait for shard 1 when the first one comes to it."""
    async with opened(postgres_dsn) as first, opened(postgres_dsn) as second:
        hands = [await Hand.of(first, shard) for shard in (0, 1)]
        others = [Hand(second, hand.shard, hand.epoch) for hand in hands]
        async with admin.transaction():
            await admin.execute("select 1 from foliot.shards where shard = 1 for update")
            backwards = [asyncio.ensure_future(second.commit(inserting(hand, 1, NOW_MS + 1))) for hand in reversed(others)]
            await until_waiting(admin, 1)
            forwards = [asyncio.ensure_future(first.commit(inserting(hand, 1))) for hand in hands]
            await until_waiting(admin, 2)

        await asyncio.gather(*backwards, *forwards)
        assert await accepted(first) == 4


async def test_a_group_has_no_more_rows_than_it_may_and_each_shard_once(postgres_dsn: str) -> None:
    async with opened(postgres_dsn, group_rows_max=40) as store:
        hands = [await Hand.of(store, shard) for shard in range(4)]

        await asyncio.gather(*[store.commit(inserting(hand, 20)) for hand in hands])
        assert (store.stats.commits, store.stats.shard_commits) == (4, 4), "two turns have more, with their counters"

        await asyncio.gather(*[store.commit(inserting(hands[0], 1)) for _ in range(3)])
        assert (store.stats.commits, store.stats.shard_commits) == (7, 7)
        await asyncio.gather(*[store.commit(inserting(hand, 1)) for hand in hands])
        assert (store.stats.commits, store.stats.shard_commits) == (8, 11)

        await store.commit(inserting(hands[0], 100))  # one turn is never cut
        assert await accepted(store) == 4 * 20 + 3 + 4 + 100


async def test_rows_that_cannot_be_are_refused_and_the_others_of_their_group_are_written(postgres_dsn: str) -> None:
    async with opened(postgres_dsn) as store:
        hands = [await Hand.of(store, shard) for shard in range(4)]
        await hands[2].add(2)
        again = inserting(Hand(store, 2, hands[2].epoch), 2)  # ids that are taken

        results = await asyncio.gather(
            *[store.commit(again if hand.shard == 2 else inserting(hand, 1)) for hand in hands], return_exceptions=True
        )

        assert [type(result) for result in results] == [type(None), type(None), StatementError, type(None)]
        assert await accepted(store) == 5


# -- connections that are gone -------------------------------------------------------------------------------------------


async def added(hand: Hand) -> None:
    """Add a task as soon as the server can be reached again."""
    async with asyncio.timeout(GUARD_S):
        while True:
            try:
                await hand.add()
            except UnreachableStoreError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_server_that_goes_while_nothing_is_asked_is_missed_at_once(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn, resolve_timeout_s=0.5) as store:
        hand = await Hand.of(store)
        await hand.add()
        proxy.closed = True
        proxy.cut()
        await asyncio.sleep(0.05)

        with pytest.raises(UnreachableStoreError):  # nothing is in doubt, since nothing was sent
            await hand.add()

        proxy.closed = False
        await added(hand)
        assert await accepted(store) == 2


async def test_a_commit_whose_writer_the_database_forgot_is_said_to_be_unknown(
    postgres_dsn: str, admin: asyncpg.Connection
) -> None:
    """As after a fail-over to a server that is behind: its answer to whether the group was written would mean nothing."""
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn) as store:
        hand = await Hand.of(store)
        await hand.add()  # so that the statement is prepared
        proxy.deafen = True
        commit = asyncio.ensure_future(store.commit(inserting(hand, 3)))
        await proxy.answered.wait()
        await admin.execute("delete from foliot.writers")
        proxy.cut()

        with pytest.raises(CommitUnknownError):
            await commit

        await hand.add()
        assert await accepted(store) == 5, "it was written; nobody writes it again"


class _Counting(Proxy):
    """Counts who comes while it is closed. `many`: there were forty."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.many = asyncio.Event()
        self._refused = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._refused += self.closed
        if self._refused == 40:
            self.many.set()
        await super()._accept(reader, writer)


async def test_a_server_that_is_away_for_long_is_looked_for_again_and_again(postgres_dsn: str) -> None:
    async with _Counting(postgres_dsn) as proxy, opened(proxy.dsn, reconnect_ms=1, reconnect_max_ms=20) as store:
        hand = await Hand.of(store)
        proxy.closed = True
        proxy.cut()

        await proxy.many.wait()  # doubling without a bound would take years

        proxy.closed = False
        await added(hand)
        assert await accepted(store) == 1


# -- what is kept of writers ---------------------------------------------------------------------------------------------


async def test_a_writer_leaves_nothing_behind_and_those_that_could_not_are_forgotten_in_time(
    postgres_dsn: str, admin: asyncpg.Connection
) -> None:
    async with opened(postgres_dsn):
        assert await admin.fetchval("select count(*) from foliot.writers") == 1
    assert await admin.fetchval("select count(*) from foliot.writers") == 0

    day_ms = 86_400_000
    for days in (1, 89, 91, 200):
        await admin.execute(
            "insert into foliot.writers (incarnation, group_no, seen_ms) values (1, 0, $1)", NOW_MS - days * day_ms
        )
    async with opened(postgres_dsn):
        rows = await admin.fetch("select seen_ms from foliot.writers order by seen_ms")
        assert [(NOW_MS - row["seen_ms"]) // day_ms for row in rows] == [89, 1, 0]


async def test_a_server_that_is_too_old_is_refused_by_its_version(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "MIN_SERVER", 990_000)

    with pytest.raises(StoreUnusableError, match=r"is of PostgreSQL 1\d; expected PostgreSQL 14 or later"):
        await open_postgres(postgres_dsn, clock=TestClock(), shards=4)
