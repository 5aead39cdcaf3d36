"""Files that cannot be used get a sentence that says why, and are left as they were."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from foliot.runtime.errors import DiskFullError, StoreInUseError, StoreUnusableError
from foliot.stores.port import Store, TaskFilter
from foliot.stores.sqlite import SqliteConfig, open_sqlite
from foliot.stores.sqlite_file import InvalidStoreOptionError, StatementError

from .conftest import SqliteDatabase
from .harness import NOW_MS, Hand, TestClock


async def _refusal(path: Path) -> str:
    with pytest.raises(StoreUnusableError) as caught:
        await open_sqlite(path, clock=TestClock(), shards=2)
    assert caught.value.path == str(path)
    return str(caught.value)


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory; expected a writable file" in await _refusal(tmp_path)


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert "which is not a directory" in await _refusal(tmp_path / "none" / "foliot.db")


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary\n" * 1000)

    assert "is not a database" in await _refusal(file)

    assert file.read_text() == "dear diary\n" * 1000


async def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foliot.db"
    await (await open_sqlite(file, clock=TestClock(), shards=2)).close()
    file.chmod(0o444)

    assert "is read-only" in await _refusal(file)


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("create table tasks (id integer primary key)")
    connection.close()

    assert "belongs to another program" in await _refusal(file)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foliot.db"
    await (await open_sqlite(file, clock=TestClock(), shards=2)).close()
    connection = sqlite3.connect(file)
    connection.execute("pragma user_version = 99")
    connection.close()

    assert "has schema version 99, made by a newer foliot; expected at most version" in await _refusal(file)


async def test_an_unknown_history_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foliot.db"
    await (await open_sqlite(file, clock=TestClock(), shards=2)).close()
    connection = sqlite3.connect(file)
    connection.execute("update migrations set name = 'of_a_fork'")
    connection.commit()
    connection.close()

    assert "was made by another foliot" in await _refusal(file)


@pytest.mark.parametrize("page", [0, 3, 12])
async def test_a_corrupt_file_is_refused(sqlite_database: SqliteDatabase, page: int) -> None:
    store = await sqlite_database.open()
    await (await Hand.of(store)).add(2_000)
    await store.close()
    with sqlite_database.path.open("r+b") as content:
        content.seek(page * 4096 or 100)  # the first 100 bytes say that this is a database
        content.write(b"\xa5" * 3_900)

    assert "corrupt" in await _refusal(sqlite_database.path)


async def test_a_truncated_file_is_refused(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    await (await Hand.of(store)).add(2_000)
    await store.close()
    with sqlite_database.path.open("r+b") as content:
        content.truncate(40_000)

    assert "corrupt" in await _refusal(sqlite_database.path)


async def test_a_second_store_in_the_same_process_is_refused(sqlite_database: SqliteDatabase) -> None:
    await sqlite_database.open()

    with pytest.raises(StoreInUseError):
        await open_sqlite(sqlite_database.path, clock=TestClock(), shards=2)


async def test_a_refused_file_is_not_left_locked(tmp_path: Path) -> None:
    file = tmp_path / "foliot.db"
    file.write_bytes(b"SQLite format 3\0" + b"\xff" * 8_000)
    await _refusal(file)
    file.unlink()

    await (await open_sqlite(file, clock=TestClock(), shards=2)).close()


async def test_the_number_of_shards_is_fixed_when_the_file_is_made(sqlite_database: SqliteDatabase) -> None:
    assert (await sqlite_database.open(shards=3)).shards == 3
    assert (await sqlite_database.open(shards=8)).shards == 3


async def test_a_symbolic_link_is_no_way_around_the_lock(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    link = sqlite_database.path.with_name("link.db")
    link.symlink_to(sqlite_database.path)
    with pytest.raises(StoreInUseError, match="in use by process"):
        await open_sqlite(link, clock=TestClock(), shards=2)
    await store.close()


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory", "a\0b"])
async def test_what_is_no_file_is_refused(name: str) -> None:
    assert "is no file" in await _refusal(Path(name))


@pytest.mark.parametrize(
    ("shards", "config", "name"),
    [
        (0, SqliteConfig(), "shards"),
        (1025, SqliteConfig(), "shards"),
        (1, SqliteConfig(synchronous="maybe; drop table tasks"), "synchronous"),
        (1, SqliteConfig(readers=0), "readers"),
    ],
)
async def test_options_out_of_range_are_refused(tmp_path: Path, shards: int, config: SqliteConfig, name: str) -> None:
    with pytest.raises(InvalidStoreOptionError, match=f"store option {name} is"):
        await open_sqlite(tmp_path / "foliot.db", clock=TestClock(), shards=shards, config=config)


async def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    hands = [await Hand.of(store, shard) for shard in range(2)]
    accepted = [await hand.add(50) for hand in hands]
    size = sqlite_database.path.stat().st_size
    await store.limit_size(size + 20 * 4096)
    refused = [hand.changes() for hand in hands]
    ids = [hand.insert(changes, 200, payload=bytes(500)) for hand, changes in zip(hands, refused, strict=True)]
    hands[0].end(refused[0], accepted[0])

    for _ in range(3):
        for changes in refused:
            with pytest.raises(DiskFullError, match=r"no room to write to .*; free space and work goes on"):
                await store.commit(changes)
        assert await _states(store, accepted[0]) == {2}
        assert await store.tasks(ids[0] + ids[1]) == []
        counters, recount = await store.ledger()
        assert counters == recount

    await store.limit_size(size + 2_000 * 4096)
    for changes in refused:
        await store.commit(changes)

    assert await _states(store, accepted[0]) == {10}
    assert len(await store.tasks(ids[0] + ids[1])) == 400
    counters, recount = await store.ledger()
    assert counters == recount
    assert (counters[0].accepted, counters[0].completed) == (500, 50)


async def _states(store: Store, ids: list[int]) -> set[int]:
    return {detail.row.state for detail in await store.tasks(ids)}


async def test_rows_that_break_the_schema_fail_their_own_turn_only(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    hands = [await Hand.of(store, shard) for shard in range(3)]
    [taken] = await hands[1].add()
    turns = [hand.changes() for hand in hands]
    ids = [hand.insert(changes) for hand, changes in zip(hands, turns, strict=True)]
    turns[1].inserted.append((taken, *turns[1].inserted[0][1:]))

    results = await asyncio.gather(*[store.commit(changes) for changes in turns], return_exceptions=True)

    assert [type(result) for result in results] == [type(None), StatementError, type(None)]
    assert "UNIQUE constraint failed: tasks.id" in str(results[1])
    assert [len(await store.tasks(of_shard)) for of_shard in ids] == [1, 0, 1]


async def test_a_commit_larger_than_a_statement_is_one_transaction(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    hand = await Hand.of(store)
    changes = hand.changes()
    ids = hand.insert(changes, 5_000)
    changes.leased += [(task_id, 1, "s", NOW_MS) for task_id in ids]

    await store.commit(changes)

    assert await _states(store, ids) == {3}
    assert (store.stats.commits, store.stats.shard_commits) == (1, 1)
    broken = hand.changes()
    hand.insert(broken, 4_500)
    broken.inserted.append(changes.inserted[0])
    with pytest.raises(StatementError):
        await store.commit(broken)
    assert (await hand.row(ids[0])).state == 3
    await hand.add(3)
    counters, recount = await store.ledger()
    assert (counters[0].accepted, recount[0].accepted) == (5_003, 5_003)


async def test_messages_set_aside_are_kept_with_their_bytes(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    await store.set_aside("shard.1", b"\0\xff", "ValueError: no", NOW_MS)
    await store.close()

    connection = sqlite3.connect(sqlite_database.path)
    rows = connection.execute("select address, message, error, at_ms from set_aside").fetchall()
    connection.close()
    assert rows == [("shard.1", b"\0\xff", "ValueError: no", NOW_MS)]


async def test_the_log_is_copied_beside_the_writer_and_starts_anew(sqlite_database: SqliteDatabase) -> None:
    sqlite_database.config = SqliteConfig(synchronous="off", checkpoint_rows=500, wal_pages_max=50)
    store = await sqlite_database.open()
    log = sqlite_database.path.with_name("foliot.db-wal")
    hand = await Hand.of(store)
    beginnings = set()

    for _ in range(3_000):
        await hand.add(20, payload=bytes(300))
        with log.open("rb") as content:
            beginnings.add(content.read(20)[16:])  # a number that changes when the log starts anew
        if len(beginnings) == 4:
            break

    assert len(beginnings) == 4, "the log only grows"
    await store.close()
    assert not log.exists()
    assert len((await (await sqlite_database.open()).list(TaskFilter(limit=50)))[0]) == 50


async def test_a_file_that_was_removed_or_replaced_while_in_use_is_noticed(sqlite_database: SqliteDatabase) -> None:
    store = await sqlite_database.open()
    store.check_file()
    moved = sqlite_database.path.with_suffix(".moved")
    sqlite_database.path.rename(moved)
    with pytest.raises(StoreUnusableError, match="was removed while it was in use"):
        store.check_file()
    sqlite_database.path.write_bytes(b"")
    with pytest.raises(StoreUnusableError, match="was replaced by another file while it was in use"):
        store.check_file()
    moved.rename(sqlite_database.path)
    store.check_file()
