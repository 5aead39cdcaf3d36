"""Processes are really killed: what was acknowledged is there afterwards, and turns are there whole or not at all."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from foliot.actors.states import State
from foliot.runtime.errors import StoreInUseError
from foliot.runtime.ids import shard_of

from .conftest import SqliteDatabase

CHILD = Path(__file__).with_name("crash_child.py")


def _start(database: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(CHILD), str(database)], stdout=subprocess.PIPE, text=True)


def _kill_after(child: subprocess.Popen[str], lines: int) -> list[tuple[int, int, int]]:
    """Return what was acknowledged until the kill."""
    assert child.stdout is not None
    acknowledged = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    acknowledged += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    whole = [line.split() for line in acknowledged if line.endswith("\n")]
    return [(int(shard), int(first), int(count)) for shard, first, count in whole]


async def test_no_acknowledged_commit_is_lost_when_the_process_is_killed(sqlite_database: SqliteDatabase) -> None:
    acknowledged: list[tuple[int, int, int]] = []
    for lines in (20, 77, 150):
        acknowledged += _kill_after(_start(sqlite_database.path), lines)

    with sqlite3.connect(sqlite_database.path) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert connection.execute("select count(*) from tasks left join payloads using (id) where payload is null"
                                  ).fetchone() == (0,)  # fmt: skip
    connection.close()
    store = await sqlite_database.open()
    counters, recount = await store.ledger()
    assert counters == recount
    assert counters[0].accepted >= sum(count for _, _, count in acknowledged)
    for shard, first, count in acknowledged:
        details = await store.tasks(list(range(first, first + count)))
        found = [detail.row for detail in details if detail.row.payload == b"x" * count]
        assert len(found) == count, f"turn of {count} tasks from {first} in shard {shard}"
        assert {row.state for row in found} <= {State.QUEUED, State.COMPLETED}
    rows = [row for shard in range(3) for row in (await store.claim(shard, "parent")).running]
    assert rows == []


async def test_turns_are_there_whole_or_not_at_all(sqlite_database: SqliteDatabase) -> None:
    _kill_after(_start(sqlite_database.path), 60)

    with sqlite3.connect(sqlite_database.path) as connection:
        rows = connection.execute(
            "select id, state, length(payload) from tasks join payloads using (id) order by id"
        ).fetchall()
    connection.close()

    for shard in range(3):
        of_shard = [(state, size) for task_id, state, size in rows if shard_of(task_id) == shard]
        turns: list[list[int]] = []  # a turn's payloads are as long as its number of tasks
        while of_shard:
            size = of_shard[0][1]
            turn, of_shard = of_shard[:size], of_shard[size:]
            assert [length for _, length in turn] == [size] * size
            turns.append([state for state, _ in turn])
        assert turns, "the child was killed before each shard had committed"
        assert {state for turn in turns[:-1] for state in turn} <= {State.COMPLETED}
        assert set(turns[-1]) == {State.QUEUED}


async def test_ticks_survive_with_their_tasks_and_the_move_of_their_schedule(sqlite_database: SqliteDatabase) -> None:
    for lines in (30, 90):
        _kill_after(_start(sqlite_database.path), lines)

    with sqlite3.connect(sqlite_database.path) as connection:
        without_task = connection.execute(
            "select count(*) from ticks left join tasks on tasks.id = task_id"
            " where tasks.id is null or (tasks.state = ?1) <> (outcome = ?1)",
            (int(State.COMPLETED),),
        ).fetchone()
        moves = connection.execute(
            "select next_ms, (select count(*) from ticks where schedule_id = schedules.id) from schedules"
        ).fetchall()
        tasks = connection.execute("select count(*), (select count(*) from ticks) from tasks").fetchone()
    connection.close()

    assert without_task == (0,)
    assert tasks[0] == tasks[1] > 0
    assert len(moves) == 6
    assert all(next_ms == ticks for next_ms, ticks in moves)
    counters, recount = await (await sqlite_database.open()).ledger()
    assert counters == recount
    assert counters[0].fired == tasks[0]


async def test_a_second_process_is_refused_and_told_who_has_the_database(sqlite_database: SqliteDatabase) -> None:
    child = _start(sqlite_database.path)
    assert child.stdout is not None
    child.stdout.readline()

    with pytest.raises(StoreInUseError, match=f"in use by process {child.pid} on ") as caught:
        await sqlite_database.open()

    assert caught.value.path == str(sqlite_database.path)
    _kill_after(child, 1)
    assert (await (await sqlite_database.open()).ledger())[0] != []  # the lock died with its process
