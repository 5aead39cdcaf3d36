"""The database of a run: the real SQL, and what a loss of power takes back."""

from __future__ import annotations

import pytest
from foliot.actors.messages import Kind, Template
from foliot.actors.rows import ShardChanges
from foliot.actors.states import State
from foliot.runtime.errors import StaleEpochError
from foliot.simulations.database import Database, empty_database
from foliot.stores.sqlite_turn import Turn

IMAGE = empty_database(1, start_ms=1_000)
KIND = Kind("acme", 7, Template("app.noop"))


def commit(database: Database, epoch: int, task: int) -> None:
    changes = ShardChanges(0, epoch)
    changes.kinds.append(KIND)
    changes.inserted.append((task, 7, int(State.QUEUED), 5, 1_000, 1_000, 1, "", "", b"x"))
    changes.count("acme", "default", "accepted")
    database.commit(changes, Turn(changes))


def test_commits_are_the_real_ones() -> None:
    database = Database(IMAGE)
    epoch = database.claim(0, "n1").epoch
    commit(database, epoch, 1 << 22)

    assert [row.id for row in database.task_rows()] == [1 << 22]
    counters, recount = database.ledger()
    assert counters[0].accepted == recount[0].accepted == 1
    assert database.kinds == {7: KIND}


def test_an_older_epoch_is_refused() -> None:
    database = Database(IMAGE)
    old = database.claim(0, "n1").epoch
    database.claim(0, "n2")

    with pytest.raises(StaleEpochError):
        commit(database, old, 1 << 22)
    assert database.ids() == []


def test_power_takes_nothing_from_a_database_that_writes_through() -> None:
    database = Database(IMAGE)
    epoch = database.claim(0, "n1").epoch
    for number in range(1, 40):
        commit(database, epoch, number << 22)

    assert database.lose_power(0) == 0
    assert len(database.ids()) == 39


def test_power_takes_the_newest_commits_of_one_that_does_not_and_only_those() -> None:
    kept = set()
    for draw in range(0, 200, 7):
        database = Database(IMAGE, is_lazy=True)
        epoch = database.claim(0, "n1").epoch
        for number in range(1, 31):
            commit(database, epoch, number << 22)
        taken = database.lose_power(draw)
        ids = database.ids()

        assert ids == [number << 22 for number in range(1, len(ids) + 1)]
        assert len(ids) == max(30 - taken, 0)
        kept.add(len(ids))
    assert len(kept) > 5  # sometimes more, sometimes less


def test_what_was_copied_into_the_file_stays() -> None:
    database = Database(IMAGE, is_lazy=True)
    epoch = database.claim(0, "n1").epoch
    for number in range(1, 101):
        commit(database, epoch, number << 22)
    database.lose_power(0)

    assert len(database.ids()) >= 63  # a checkpoint comes every 64 writes
