"""Many nodes on one database: they open it at once, and of two that believe to own a shard one commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from foliot.actors.rows import ReadLanes
from foliot.actors.states import State
from foliot.runtime.errors import StaleEpochError, StoreError, StoreUnusableError
from foliot.stores import migrate
from foliot.stores.errors import InvalidStoreOptionError
from foliot.stores.port import TaskFilter
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.failures import ReadOnlyStoreError, UnreachableStoreError
from foliot.stores.postgres.store import PostgresStore, open_postgres

from .harness import Hand, TestClock, kind_of


async def opened(dsn: str, *, shards: int = 4, **options: object) -> PostgresStore:
    return await open_postgres(dsn, clock=TestClock(), shards=shards, config=PostgresConfig(**options))  # type: ignore[arg-type]


@pytest.fixture
async def nodes(postgres_dsn: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    first, second = await opened(postgres_dsn), await opened(postgres_dsn)
    yield first, second
    await first.close()
    await second.close()


async def test_many_nodes_may_open_an_empty_database_at_once(postgres_dsn: str) -> None:
    stores = await asyncio.gather(*[opened(postgres_dsn, shards=shards) for shards in (4, 8, 4, 8, 4)])

    [shards] = {store.shards for store in stores}
    hands = [await Hand.of(store, number % shards) for number, store in enumerate(stores)]
    await hands[-1].add()
    assert shards in (4, 8)
    connection = await asyncpg.connect(postgres_dsn)
    history = await connection.fetch("select number, name from foliot.migrations order by number")
    assert [tuple(row) for row in history] == [(each.number, each.name) for each in migrate.migrations_for("postgres")]
    await connection.close()
    await asyncio.gather(*[store.close() for store in stores])


async def test_a_shard_that_another_node_claimed_takes_no_commit_of_the_first(
    nodes: tuple[PostgresStore, PostgresStore],
) -> None:
    first, second = nodes
    old, kept = await Hand.of(first), await Hand.of(first, 1)
    [task_id] = await old.add()
    fresh = await Hand.of(second)
    changes, fine = old.changes(), kept.changes()
    old.insert(changes, 2)
    ids = kept.insert(fine, 2)

    results = await asyncio.gather(first.commit(changes), first.commit(fine), return_exceptions=True)

    assert [type(result) for result in results] == [StaleEpochError, type(None)]
    assert len(await second.tasks(ids)) == 2
    assert (fresh.epoch, (await fresh.row(task_id)).state) == (2, State.QUEUED)


async def test_what_is_committed_beside_a_claim_is_in_its_image_or_refused(
    nodes: tuple[PostgresStore, PostgresStore],
) -> None:
    first, second = nodes
    epoch = 0
    for _ in range(20):
        owner, taker = (first, second) if epoch % 2 else (second, first)
        hand = await Hand.of(owner)
        before = (await owner.ledger())[0]
        accepted = before[0].accepted if before else 0
        changes = hand.changes()
        hand.insert(changes, 50)
        image, written = await asyncio.gather(taker.claim(0, "b"), owner.commit(changes), return_exceptions=True)

        assert not isinstance(image, BaseException)
        assert isinstance(written, StaleEpochError) or written is None
        assert sum(entry.accepted for entry in image.ledger) == accepted + (50 if written is None else 0)
        epoch = image.epoch
    counters, recount = await first.ledger()
    assert counters == recount


async def test_both_nodes_commit_their_shards_at_once(nodes: tuple[PostgresStore, PostgresStore]) -> None:
    hands = [await Hand.of(nodes[shard % 2], shard) for shard in range(4)]

    await asyncio.gather(*[hand.add(20) for _ in range(10) for hand in hands])

    counters, recount = await nodes[0].ledger()
    assert counters == recount
    assert counters[0].accepted == 800


async def test_what_runs_is_known_after_its_list_was_made_shorter(postgres_dsn: str) -> None:
    store = await opened(postgres_dsn, lease_ids_min=10)
    hand = await Hand.of(store)
    kept = await hand.add(3, state=State.RUNNING)
    for _ in range(20):
        ids = await hand.add(4, state=State.RUNNING)
        changes = hand.changes()
        hand.end(changes, ids)
        await store.commit(changes)
    again = await hand.add(1, state=State.RUNNING)
    changes = hand.changes()
    changes.moved.append((again[0], int(State.QUEUED), 5, 0, 0, 0, 6))
    await store.commit(changes)
    changes = hand.changes()
    changes.leased.append((again[0], 2, "s", 7))
    await store.commit(changes)
    connection = await asyncpg.connect(postgres_dsn)
    lists = await connection.fetchval("select count(*) from foliot.leases")
    assert lists < 8
    assert await connection.fetchval("select count(*) from foliot.places") == 0
    await connection.close()

    image = await store.claim(0, "b")
    rows, _ = await store.list(TaskFilter(states=(int(State.RUNNING),)))

    assert [row.id for row in image.running] == [*kept, *again]
    assert [row.id for row in rows] == [*kept, *again][::-1]
    await store.close()


async def test_dead_letters_are_listed_until_they_are_revived_or_purged(postgres_dsn: str) -> None:
    store = await opened(postgres_dsn)
    hand = await Hand.of(store)
    dead = await hand.add(4, state=State.DEAD)
    zoo = await hand.add(1, state=State.DEAD, kind=kind_of(tenant="zoo"))
    failed = await hand.add(1, state=State.FAILED)
    await hand.add(3, state=State.COMPLETED)
    changes = hand.changes()
    changes.moved.append((dead[0], int(State.QUEUED), 5, 0, 0, 0, 6))
    changes.revived.append(dead[0])
    changes.purged.append(dead[1])
    await store.commit(changes)

    async def listed(**fields: object) -> list[int]:
        rows, _ = await store.list(TaskFilter(**fields))  # type: ignore[arg-type]
        return [row.id for row in rows]

    assert await listed(states=(int(State.DEAD),)) == [zoo[0], dead[3], dead[2]]
    assert await listed(states=(int(State.DEAD), int(State.FAILED)), tenant="acme") == [failed[0], dead[3], dead[2]]
    assert await listed(states=(int(State.DEAD),), before=dead[3], limit=1) == [dead[2]]
    assert (await store.query(0, ReadLanes(1, -1, 9))).lanes != []  # type: ignore[union-attr]
    await store.close()


# -- what bad input gets -------------------------------------------------------------------------------------------------


async def test_an_address_that_leads_nowhere_is_named_without_its_password(postgres_dsn: str) -> None:
    head, _, name = postgres_dsn.rpartition("/")
    user, _, place = head.removeprefix("postgresql://").rpartition("@")

    with pytest.raises(StoreUnusableError, match=f"'postgresql://{place}/none' does not exist; expected a database"):
        await opened(f"{head}/none")
    with pytest.raises(StoreUnusableError, match="refuses the user") as refused:
        await opened(f"postgresql://foliot:wrong-word@{place}/{name}")
    assert "wrong-word" not in str(refused.value)
    with pytest.raises(UnreachableStoreError, match=r"127\.0\.0\.1:1/.*cannot be reached: .*(?<!goes on when it can)$"):
        await opened(f"postgresql://{user}@127.0.0.1:1/{name}")
    with pytest.raises(StoreUnusableError, match="is no address of PostgreSQL"):
        await opened("foliot.db")
    with pytest.raises(InvalidStoreOptionError, match="store option shards is 0"):
        await opened(postgres_dsn, shards=0)


async def test_a_database_that_is_not_migrated_is_refused_where_that_is_asked_for(postgres_dsn: str) -> None:
    with pytest.raises(StoreUnusableError, match=r"has schema version 0; expected version \d; start a node"):
        await opened(postgres_dsn, migrate=False)
    await (await opened(postgres_dsn)).close()
    await (await opened(postgres_dsn, migrate=False)).close()


async def test_another_number_of_shards_is_refused_where_that_is_asked_for(postgres_dsn: str) -> None:
    await (await opened(postgres_dsn, shards=4)).close()

    with pytest.raises(StoreUnusableError, match="was made with 4 shards, not 8"):
        await opened(postgres_dsn, shards=8, shards_exactly=True)

    store = await opened(postgres_dsn, shards=8)
    assert store.shards == 4
    await store.close()


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("create table more (a int); create table tasks (b int);", asyncpg.DuplicateTableError),
        # All of it is done, but not its record: what was not recorded would be done again.
        ("create table more (a int); insert into migrations values ({number}, 'x', 1);", asyncpg.UniqueViolationError),
    ],
    ids=["halfway", "at its record"],
)
async def test_a_migration_that_fails_leaves_nothing_and_lets_others_go_on(
    postgres_dsn: str, sql: str, error: type[Exception]
) -> None:
    await (await opened(postgres_dsn)).close()
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "foliot"})
    known = migrate.migrations_for("postgres")
    number = len(known) + 1
    broken = migrate.Migration(number, "broken", sql.format(number=number))

    with pytest.raises(error):
        await migrate.migrate_postgres(connection, [*known, broken], now_ms=1)

    assert await connection.fetchval("select to_regclass('more')") is None
    assert len(await migrate.postgres_history(connection)) == len(known)
    await (await opened(postgres_dsn)).close()
    await connection.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("insert into foliot.migrations values (99, 'later', 1)", "made by a newer foliot"),
        ("update foliot.migrations set name = 'other' where number = 2", "was made by another foliot"),
        ("drop table foliot.migrations", "has a schema 'foliot' of another program"),
    ],
)
async def test_a_history_that_is_not_known_is_refused(postgres_dsn: str, statement: str, reason: str) -> None:
    await (await opened(postgres_dsn)).close()
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute(statement)
    if "99" in statement:
        known = len(migrate.migrations_for("postgres"))
        await connection.execute(f"insert into foliot.migrations select n, 'x', 1 from generate_series({known} + 1, 98) n")
    await connection.close()

    with pytest.raises(StoreUnusableError, match=reason):
        await opened(postgres_dsn)


async def test_a_read_only_database_is_refused_with_the_fix(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    name = postgres_dsn.rpartition("/")[2]
    await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
    await connection.close()

    with pytest.raises(ReadOnlyStoreError, match="name the server that takes writes"):
        await opened(postgres_dsn)


async def test_a_row_that_another_holds_is_waited_for_only_so_long(postgres_dsn: str) -> None:
    store = await opened(postgres_dsn, lock_timeout_s=0.2)
    hand = await Hand.of(store)
    connection = await asyncpg.connect(postgres_dsn)
    async with connection.transaction():
        await connection.execute("select 1 from foliot.shards where shard = 0 for update")
        with pytest.raises(StoreError, match="lock timeout"):
            await hand.add()
        with pytest.raises(StoreError, match="lock timeout"):
            await store.claim(0, "b")
    await connection.close()

    await hand.add()
    counters, recount = await store.ledger()
    assert (counters == recount, counters[0].accepted) == (True, 1)
    await store.close()
