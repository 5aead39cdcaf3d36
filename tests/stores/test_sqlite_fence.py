"""A turn without rows that is to be fenced: written as any other, and refused under an old epoch, by either way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from foliot.actors.rows import ShardChanges
from foliot.runtime.errors import StaleEpochError
from foliot.stores.migrate import migrate_sqlite, migrations_for
from foliot.stores.sqlite import open_sqlite
from foliot.stores.sqlite_group import GroupWriter
from foliot.stores.sqlite_turn import Turn

from .harness import TestClock


def fenced(epoch: int) -> ShardChanges:
    changes = ShardChanges(0, epoch)
    assert not changes
    changes.fence = True
    assert changes
    return changes


@pytest.mark.parametrize("small", [True, False], ids=["row by row", "staged"])
def test_a_fence_alone_is_refused_under_an_old_epoch_and_passes_under_the_newest(small: bool) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate_sqlite(connection, migrations_for("sqlite"), now_ms=1)
    connection.execute("insert into shards (shard, epoch, node, last_id) values (0, 2, '', 0)")
    writer = GroupWriter(connection, small=small)

    [refused], [passed], [unknown] = (writer.write([Turn(fenced(epoch))]) for epoch in (1, 2, 3))

    assert isinstance(refused, StaleEpochError)
    assert (refused.epoch, passed) == (1, None)
    assert isinstance(unknown, StaleEpochError)
    together = ShardChanges(0, 2)
    together.inserted.append((1, 1, 2, 5, 0, 0, 5, "", "", b""))
    assert [type(error) for error in writer.write([Turn(fenced(1)), Turn(together)])] == [StaleEpochError, type(None)]
    assert connection.execute("select id from tasks").fetchall() == [(1,)]


async def test_the_store_commits_a_fence_alone(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "foliot.db", clock=TestClock(), shards=1)
    image = await store.claim(0, "a")
    await store.commit(fenced(image.epoch))
    await store.claim(0, "b")
    with pytest.raises(StaleEpochError):
        await store.commit(fenced(image.epoch))
    await store.close()
