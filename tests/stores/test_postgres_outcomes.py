"""A connection that is lost during a commit: what was written counts once, and nobody is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from foliot.actors.rows import ShardChanges
from foliot.runtime.errors import CommitUnknownError, StoreError
from foliot.sdk.servers import LocalPostgres
from foliot.stores.port import Store
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.failures import ReadOnlyStoreError, UnreachableStoreError
from foliot.stores.postgres.store import PostgresStore, open_postgres

from .harness import Hand, TestClock
from .proxy import Proxy

CONFIG = PostgresConfig(partition_hours=0, resolve_timeout_s=20.0, reconnect_ms=5, lock_timeout_s=2.0)


@asynccontextmanager
async def opened(dsn: str, config: PostgresConfig = CONFIG) -> AsyncIterator[PostgresStore]:
    store = await open_postgres(dsn, clock=TestClock(), shards=4, config=config)
    try:
        yield store
    finally:
        await store.close()


async def balance(store: Store) -> int:
    """Return how many tasks there are; counters and rows must agree."""
    counters, recount = await store.ledger()
    assert counters == recount
    return sum(entry.accepted for entry in counters)


def inserting(hand: Hand, count: int) -> tuple[ShardChanges, list[int]]:
    changes = hand.changes()
    return changes, hand.insert(changes, count)


async def test_a_commit_that_was_written_but_not_answered_is_not_repeated(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn) as store:
        hand = await Hand.of(store)
        await hand.add()  # so that the statement is prepared
        changes, ids = inserting(hand, 3)
        proxy.deafen = True
        commit = asyncio.ensure_future(store.commit(changes))
        await proxy.answered.wait()
        proxy.cut()

        await commit

        assert len(await store.tasks(ids)) == 3
        assert await balance(store) == 4
        await hand.add()
        assert store.stats.shard_commits == 3


async def test_a_commit_that_never_arrived_is_written_by_the_next_connection(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn) as store:
        hand = await Hand.of(store)
        await hand.add()  # so that the statement is prepared
        changes, ids = inserting(hand, 3)
        proxy.mute = True
        commit = asyncio.ensure_future(store.commit(changes))
        await proxy.asked.wait()
        proxy.cut()

        await commit

        assert len(await store.tasks(ids)) == 3
        assert await balance(store) == 4


async def test_a_commit_that_arrives_after_its_connection_was_given_up_is_refused(postgres_dsn: str) -> None:
    """Also one that a second writing would not stumble over: it only counts."""
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn) as store:
        hand = await Hand.of(store)
        changes = hand.changes()
        changes.count("acme", "default", "accepted", 1)
        await store.commit(changes)  # so that the statement is prepared
        changes = hand.changes()
        changes.count("acme", "default", "accepted", 3)
        proxy.hold = True
        commit = asyncio.ensure_future(store.commit(changes))
        await proxy.asked.wait()
        proxy.cut(clients_only=True)
        await commit
        proxy.release()
        await asyncio.sleep(0.3)  # time to be written twice, if it could be

        counters, _ = await store.ledger()
        assert [entry.accepted for entry in counters] == [4]


async def test_an_outcome_that_nobody_can_tell_is_said_to_be_unknown(postgres_dsn: str) -> None:
    config = replace(CONFIG, resolve_timeout_s=1.0)
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn, config) as store:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        await hand.add()  # so that the statement is prepared
        changes, ids = inserting(hand, 3)
        proxy.deafen = proxy.closed = True
        commit = asyncio.ensure_future(store.commit(changes))
        await proxy.answered.wait()
        waiting = asyncio.ensure_future(other.add())
        await asyncio.sleep(0)
        proxy.cut()

        with pytest.raises(UnreachableStoreError):
            await waiting
        assert not commit.done(), "what was not sent is in no doubt"
        with pytest.raises(CommitUnknownError, match="a commit of shard 0 under epoch 1 was not answered"):
            await commit
        with pytest.raises(StoreError) as refused:
            await other.add()
        assert not isinstance(refused.value, CommitUnknownError)

        proxy.closed = False
        await persist(other)
        image = await store.claim(0, "again")
        assert (image.epoch, [entry.accepted for entry in image.ledger]) == (2, [4])
        assert len(await store.tasks(ids)) == 3


async def refused(hand: Hand) -> StoreError:
    await asyncio.sleep(0.01)
    with pytest.raises(StoreError) as refusal:
        await hand.add()
    return refusal.value


async def persist(hand: Hand, count: int = 1) -> None:
    """Commit as a cell does: again while nothing was written."""
    changes = hand.changes()
    hand.insert(changes, count)
    async with asyncio.timeout(30):
        while True:
            try:
                return await hand.store.commit(changes)
            except CommitUnknownError:
                raise
            except StoreError:
                await asyncio.sleep(0.02)


async def test_a_server_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing() -> None:
    async with LocalPostgres() as server, opened(server.dsn) as store:
        hands = [await Hand.of(store, shard) for shard in range(4)]
        written = 0
        done, enough = asyncio.Event(), asyncio.Event()

        async def traffic(hand: Hand) -> None:
            nonlocal written
            while not done.is_set():
                await persist(hand, 5)
                written += 5
                if written % 200 < 5:
                    enough.set()

        tasks = [asyncio.ensure_future(traffic(hand)) for hand in hands]
        for _ in range(3):
            enough.clear()
            await enough.wait()
            server.kill()
            await server.restart()
        done.set()
        await asyncio.gather(*tasks)

        assert await balance(store) == written


async def test_a_server_that_stands_still_is_given_up_and_found_again() -> None:
    config = replace(CONFIG, commit_timeout_s=0.3, connect_timeout_s=0.5, statement_timeout_s=600.0)
    async with LocalPostgres() as server, opened(server.dsn, config) as store:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        await hand.add()
        server.stop_process()
        commit = asyncio.ensure_future(persist(hand, 3))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            with pytest.raises(UnreachableStoreError):  # since the one before it is not waited for any more
                await other.add()
        assert not commit.done()
        server.resume()

        await commit

        assert await balance(store) == 4


async def test_a_database_that_becomes_read_only_is_named_and_found_again(postgres_dsn: str) -> None:
    name = postgres_dsn.rpartition("/")[2]
    async with opened(postgres_dsn) as store:
        hand = await Hand.of(store)
        await hand.add()
        admin = await asyncpg.connect(postgres_dsn)
        await admin.execute(f'alter database "{name}" set default_transaction_read_only = on')
        end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()"
        await admin.fetch(end, name)
        refusal: StoreError = UnreachableStoreError("", "")
        async with asyncio.timeout(10):
            while isinstance(refusal, UnreachableStoreError):
                refusal = await refused(hand)
        assert isinstance(refusal, ReadOnlyStoreError)
        assert "is read-only, a standby perhaps" in str(refusal)

        await admin.execute(f'alter database "{name}" reset default_transaction_read_only')
        await admin.close()

        await persist(hand)
        assert await balance(store) == 2


async def test_reads_go_on_after_their_connections_were_lost(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, opened(proxy.dsn) as store:
        hand = await Hand.of(store)
        ids = await hand.add(2)
        assert len(await store.tasks(ids)) == 2
        proxy.cut()
        await asyncio.sleep(0.05)

        assert len(await store.tasks(ids)) == 2
        proxy.closed = True
        proxy.cut()
        await asyncio.sleep(0.05)
        with pytest.raises(UnreachableStoreError, match=r"cannot be reached: .*; work goes on when it can"):
            await store.tasks(ids)
