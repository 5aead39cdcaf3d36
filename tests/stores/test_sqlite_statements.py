"""Statements find their rows by an index, whatever the table's size, and groups are laid out as their trigger reads."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from foliot.actors.rows import Query, ReadKeys, ReadLane, ReadLanes, ReadTasks, ReadTimers, ShardChanges
from foliot.actors.schedule_rows import ReadCalendared, ReadSchedules, ReadScheduleTimers, ReadTicks, ScheduleRow, TickRow
from foliot.runtime.errors import StaleEpochError
from foliot.stores import sqlite_file, sqlite_lists, sqlite_schedule_lists, sqlite_schedules, sqlite_upkeep
from foliot.stores.migrate import migrate_sqlite, migrations_for
from foliot.stores.port import ScheduleFilter, TaskFilter
from foliot.stores.sqlite_group import GroupWriter
from foliot.stores.sqlite_rows import Statement, answer_of, fetch, statement_of
from foliot.stores.sqlite_staged import MAX_STAGED, staged
from foliot.stores.sqlite_turn import WIDTH, Turn
from hypothesis import given
from hypothesis import strategies as st

from .harness import NOW_MS, kind_of


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = str(tmp_path / "foliot.db")
    sqlite_file.prepare(path, shards=2, now_ms=NOW_MS)
    connection = sqlite_file.connect_writer(path)
    yield connection
    connection.close()


_QUERIES: list[Query] = [
    ReadTimers(1, 5, 6, 7, 8),
    ReadLane(1, 2, 3, 4, 5),
    ReadLanes(1, 2, 3),
    ReadTasks(1, [1, 2]),
    ReadKeys(1, "acme", ["a", "b", "c"], "r"),
    ReadScheduleTimers(1, 5, 6, 7, 8, 1),
    ReadSchedules(1, [1, 2], "acme", ["a", "b", "c"]),
    ReadCalendared(1, 2, 3),
    ReadTicks(1, 2, 3, 4, 5),
]


def _listing(**fields: object) -> Statement:
    statement = sqlite_schedule_lists.ScheduleListing(ScheduleFilter("acme", **fields)).next()  # type: ignore[arg-type]
    assert statement is not None
    return statement


_LISTS: list[Statement] = [
    sqlite_lists.details([1]),
    sqlite_lists.listed(TaskFilter()),
    sqlite_lists.listed(TaskFilter(tenant="acme", states=(1, 2))),
    sqlite_lists.listed(TaskFilter(handler="noop", before=7)),
    sqlite_lists.logs(1, 0),
    _listing(),
    _listing(names=("a", "b")),
    _listing(prefix="a", after="ab", paused=True),
    sqlite_schedule_lists.ticks(1, 2, 3),
    sqlite_schedule_lists.backfills("acme", "a", 1),
    sqlite_schedule_lists.calendars("acme"),
]
_IMAGES: list[Statement] = [
    (sqlite_schedules.IMAGE_TICKS, (1,)),
    (sqlite_schedules.IMAGE_SCHEDULES, (1,)),
    (sqlite_schedules.IMAGE_BACKFILLS, (1,)),
]


@pytest.mark.parametrize("statement", [statement_of(1, query) for query in _QUERIES] + _LISTS + _IMAGES)
def test_no_statement_reads_a_whole_table(connection: sqlite3.Connection, statement: Statement) -> None:
    plan = [row[3] for row in connection.execute("explain query plan " + statement[0], statement[1])]

    large = re.compile(
        r"SCAN (tasks|payloads|attempts|logs|progress|dedupe|requests|schedules|ticks|backfills)\b"
        r"(?! USING INTEGER PRIMARY KEY)"
    )
    scans = [step for step in plan if large.match(step)]
    if statement == sqlite_lists.listed(TaskFilter()):
        scans = [step for step in scans if step != "SCAN tasks"]  # backwards from the end, one page
    assert scans == []


@pytest.mark.parametrize(
    ("statement", "search"),
    [
        (statement_of(1, ReadTimers(1, 5, 6, 7, 8)), "timers (shard=? AND due_ms=? AND rowid>?)"),
        (statement_of(1, ReadTimers(1, 5, 6, 7, 8)), "timers (shard=? AND due_ms>? AND due_ms<?)"),
        (statement_of(1, ReadLane(1, 2, 3, 4, 5)), "ready (shard=? AND lane=? AND due_ms=? AND rowid>?)"),
        (statement_of(1, ReadLane(1, 2, 3, 4, 5)), "ready (shard=? AND lane=? AND due_ms>? AND due_ms<?)"),
        (statement_of(1, ReadLanes(1, 2, 3)), "ready (shard=? AND lane>?)"),
        (sqlite_lists.listed(TaskFilter(states=(1,))), "by_state (state=? AND template_id=? AND rowid<?)"),
    ],
)
def test_pages_start_in_the_index(connection: sqlite3.Connection, statement: Statement, search: str) -> None:
    plan = [row[3] for row in connection.execute("explain query plan " + statement[0], statement[1])]

    steps = [step for step in plan if step.startswith("SEARCH tasks USING") and "INTEGER PRIMARY KEY" not in step]
    assert any(step.endswith(search) for step in steps), plan
    assert all("(shard=? AND due_ms<?)" not in step for step in steps), "that reads every row that is due"


@pytest.mark.parametrize(
    ("statement", "search"),
    [
        (statement_of(1, ReadScheduleTimers(1, 5, 6, 7, 8, 1)), "(shard=? AND tier=? AND next_ms=? AND rowid>?)"),
        (statement_of(1, ReadScheduleTimers(1, 5, 6, 7, 8, 1)), "(shard=? AND tier=? AND next_ms>? AND next_ms<?)"),
        (statement_of(1, ReadCalendared(1, 2, 3)), "schedules_calendared (shard=? AND rowid>?)"),
        (statement_of(1, ReadTicks(1, 2, 3, 4, 5)), "PRIMARY KEY (schedule_id=? AND tick_ms>? AND tick_ms<?)"),
        (_listing(prefix="a"), "schedule_names (tenant=? AND name>? AND name<?)"),
        (_listing(names=("a",)), "schedule_names (tenant=? AND name=?)"),
        (_IMAGES[0], "ticks_alive (<expr>=?)"),
        (_IMAGES[2], "backfills_alive (<expr>=?)"),
    ],
)
def test_pages_of_schedules_start_in_the_index(
    connection: sqlite3.Connection, statement: Statement, search: str
) -> None:
    plan = [row[3] for row in connection.execute("explain query plan " + statement[0], statement[1])]

    assert any(step.startswith("SEARCH") and step.endswith(search) for step in plan), plan


def test_schedules_come_in_order_whatever_order_sqlite_reads_them_in(connection: sqlite3.Connection) -> None:
    writer = GroupWriter(connection)
    changes = ShardChanges(1, sqlite_upkeep.claim(connection, 1, "node-1").epoch)
    changes.kinds.append(kind_of())
    changes.schedules = [
        ScheduleRow(4096 + number, f"s{number}", 1, NOW_MS, kind_of().template_id, 1, 1, b"b%d" % number, b"s")
        for number in range(5)
    ]
    changes.ticks = [TickRow(4096 + number, NOW_MS, 0, 1, 0, NOW_MS, 0) for number in range(5)]
    writer.write([Turn(changes)])
    connection.execute("pragma reverse_unordered_selects = 1")

    by_id = ReadSchedules(1, [4099, 4096, 4098, 4097])
    for query in (ReadScheduleTimers(1, 0, 0, NOW_MS, 4, 1), ReadCalendared(1, 0, 4), by_id):
        answer = answer_of(query, fetch(connection, statement_of(1, query)))
        assert answer.rows == changes.schedules[:4]  # type: ignore[union-attr]
    listing = sqlite_schedule_lists.ScheduleListing(ScheduleFilter("acme", limit=2))
    statement = listing.next()
    assert statement is not None
    listing.take(fetch(connection, statement))
    assert [detail.row for detail in listing.found] == changes.schedules[:2]
    image = sqlite_upkeep.claim(connection, 1, "node-2").schedules
    assert (image.ticks, image.schedules) == (changes.ticks, changes.schedules)


def test_a_turn_with_schedules_is_laid_out_between_tasks_and_others() -> None:
    group = []
    for shard in range(2):
        changes = ShardChanges(shard, 1)
        changes.ended = [(4, 0, 0, 0, 0, b"", b"")]
        changes.schedule_moves = [(6, 0, 0, b"s")] * 3 + [(66, 0, 0, b"s")]
        changes.ticks = [TickRow(7, 0, 0, 0, 0, 0, 0)]
        changes.ticks_ended = [(8, 0, 0, 0)]
        changes.schedules_deleted = [9]
        group.append(Turn(changes))
    assert not group[0].is_small

    cells = staged(group)

    rows = [cells[start : start + WIDTH] for start in range(0, len(cells), WIDTH)]
    assert rows[-1] == [-1, 0, 0, 0, 2, 2, 6, 8, 10, 6]
    assert [row[0] for row in rows[:10]] == [4, 4, 6, 66, 6, 66, 7, 7, 8, 8]
    assert [row[:3] for row in rows[10:14]] == [[1, 0, 1], [14, 9, 0], [1, 1, 1], [14, 9, 0]]
    assert group[0].rows == 7


def test_the_same_functions_work_in_place_without_a_thread(connection: sqlite3.Connection) -> None:
    writer = GroupWriter(connection)
    image = sqlite_upkeep.claim(connection, 1, "node-1")
    changes = ShardChanges(1, image.epoch)
    changes.inserted.append((4096, 7, 2, 5, NOW_MS, NOW_MS, 3, "", "", b"p"))
    stale = ShardChanges(0, 1)

    [written, refused] = writer.write([Turn(changes), Turn(stale)])

    assert written is None
    assert refused is not None
    assert refused.shard == 0
    query = ReadTasks(1, [4096])
    answer = answer_of(query, fetch(connection, statement_of(1, query)))
    assert [row.id for row in answer.rows] == [4096]  # type: ignore[union-attr]
    assert connection.execute("select count(*) from stage").fetchone() == (0,)


_rows = st.integers(0, 90)


@given(turns=st.lists(st.tuples(_rows, _rows, _rows, _rows), min_size=1, max_size=12))
def test_a_group_fills_statements_of_a_few_sizes_and_ends_with_the_ends_of_its_ranges(
    turns: list[tuple[int, int, int, int]],
) -> None:
    group = []
    for shard, (inserted, leased, moved, ended) in enumerate(turns):
        changes = ShardChanges(shard, 1)
        changes.inserted = [(1, 0, 0, 0, 0, 0, 0, "", "", b"p")] * inserted
        changes.leased = [(2, 0, "", 0)] * leased
        changes.moved = [(3, 0, 0, 0, 0, 0, 0)] * moved
        changes.ended = [(4, 0, 0, 0, 0, b"", b"")] * ended
        group.append(Turn(changes))

    cells = staged(group)

    rows = [cells[start : start + WIDTH] for start in range(0, len(cells), WIDTH)]
    assert all(len(row) == WIDTH for row in rows)
    ends = [sum(turn[part] for turn in turns) for part in range(4)]
    ends = [sum(ends[: part + 1]) for part in range(4)]
    assert rows[-1][:5] == [-1, *ends]
    for part, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        assert {row[0] for row in rows[start:end]} <= {part + 1}
    assert [row[:3] for row in rows[ends[-1] : ends[-1] + len(turns)]] == [[1, shard, 1] for shard in range(len(turns))]
    assert len(rows) % MAX_STAGED in (0, *[size for size in range(1, MAX_STAGED) if size in _sizes()])


def _sizes() -> list[int]:
    powers = [1 << power for power in range(11)]
    return sorted(powers + [size + size // 2 for size in powers if size > 1])


@pytest.mark.parametrize("small", [True, False], ids=["row by row", "staged"])
@pytest.mark.parametrize("rows", ["inserted", "leased", "ticks_ended"])
def test_the_smallest_turn_under_an_old_epoch_is_refused(small: bool, rows: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate_sqlite(connection, migrations_for("sqlite"), now_ms=1)
    connection.execute("insert into shards (shard, epoch, node, last_id) values (0, 2, '', 0)")
    writer = GroupWriter(connection, small=small)
    current, old = ShardChanges(0, 2), ShardChanges(0, 1)
    current.inserted.append((1, 1, 2, 5, 0, 0, 5, "", "", b""))
    assert writer.write([Turn(current)]) == [None]
    if rows == "inserted":
        old.inserted.append((2, 1, 2, 5, 0, 0, 5, "", "", b""))
    elif rows == "leased":
        old.leased.append((1, 1, "s1", 5))
    else:
        old.ticks_ended.append((1, 1, 0, 5))
    assert Turn(old).is_small  # nothing rare in it, which would have it staged

    [error] = writer.write([Turn(old)])

    assert isinstance(error, StaleEpochError)
    assert connection.execute("select id, state from tasks").fetchall() == [(1, 2)]
