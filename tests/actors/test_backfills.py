"""Backfills at a shard."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from foliot.actors import messages as m
from foliot.actors import schedule_messages as sm
from foliot.actors.rules import Rule

from .harness_schedules import HOUR, MINUTE, TENANT, ScheduleHarness
from .harness_shard import START_MS

FAILED = m.OutcomeKind.FAILED


@pytest.fixture
def shard() -> ScheduleHarness:
    shard = ScheduleHarness()
    shard.put("report", rule=Rule(every_ms=HOUR, anchor_ms=START_MS + MINUTE))
    return shard


def _begin(shard: ScheduleHarness, hours: int = 3, **fields: Any) -> int:
    from_ms = START_MS + MINUTE - hours * HOUR
    spec = sm.BackfillSpec("report", from_ms, START_MS + MINUTE, **fields)
    (answer,) = shard.deliver(sm.StartBackfill(TENANT, spec))
    assert answer.outcomes == ["started"]
    id: int = answer.ids[0]
    return id


def _state(shard: ScheduleHarness, id: int) -> sm.BackfillState:
    row = shard.connection.execute("select state from backfills where id = ?", (id,)).fetchone()
    return msgspec.msgpack.decode(row[0], type=sm.BackfillState)


def _fired(shard: ScheduleHarness, id: int) -> list[int]:
    """Return which ticks fired, in hours before the first regular one, in the order in which they did."""
    rows = shard.connection.execute("select tick_ms from ticks where source = ? order by task_id", (id,)).fetchall()
    return [(START_MS + MINUTE - tick_ms) // HOUR for (tick_ms,) in rows]


def _do(shard: ScheduleHarness, action: str, *ids: int) -> list[str]:
    (answer,) = shard.deliver(sm.CommandBackfills(TENANT, list(ids), action))
    outcomes: list[str] = answer.outcomes
    return outcomes


def test_every_tick_of_the_window_fires_so_many_at_a_time(shard: ScheduleHarness) -> None:
    id = _begin(shard, 5, concurrency=2)
    assert _fired(shard, id) == [5, 4]
    shard.run_all()
    assert _fired(shard, id) == [5, 4, 3, 2]
    shard.run_all()
    shard.run_all()
    assert _fired(shard, id) == [5, 4, 3, 2, 1]
    state = _state(shard, id)
    assert (state.status, state.fired, state.failed) == ("done", 5, 0)
    assert shard.state("report").fired == 0
    shard.assert_balanced()


def test_backwards(shard: ScheduleHarness) -> None:
    id = _begin(shard, is_backwards=True)
    while shard.run_all():
        pass
    assert _fired(shard, id) == [1, 2, 3]
    assert _state(shard, id).status == "done"


def test_its_tasks_come_after_the_schedule_s_own(shard: ScheduleHarness) -> None:
    _begin(shard)
    assert shard.row(shard.alive()[0], "priority") == 6


def test_it_goes_on_after_a_restart_where_it_was(shard: ScheduleHarness) -> None:
    id = _begin(shard)
    shard.run_all()
    shard.reopen()
    while shard.run_all():
        shard.reopen()
    assert _fired(shard, id) == [3, 2, 1]
    assert _state(shard, id).status == "done"
    shard.assert_balanced()


@pytest.mark.parametrize(("reprocess", "again"), [("none", []), ("failed", [2]), ("all", [3, 2, 1])])
def test_what_fired_before_fires_again_only_if_wanted(
    shard: ScheduleHarness, reprocess: str, again: list[int]
) -> None:  # fmt: skip
    _begin(shard)
    shard.run_all()
    shard.run_all(FAILED)
    shard.run_all()
    id = _begin(shard, 4, reprocess=reprocess)
    while shard.run_all():
        pass
    assert _fired(shard, id) == [4, *again]
    assert _state(shard, id).left_out == 3 - len(again)


def test_pause_resume_cancel(shard: ScheduleHarness) -> None:
    id = _begin(shard, 4)
    assert _do(shard, "pause", id) == ["paused"]
    shard.run_all()
    shard.reopen()
    assert _fired(shard, id) == [4]
    assert _do(shard, "resume", id) == ["resumed"]
    assert _fired(shard, id) == [4, 3]
    (theirs,) = shard.deliver(sm.CommandBackfills("other", [id], "cancel"))
    assert theirs.outcomes == ["not_found"]
    assert _do(shard, "cancel", id) == ["cancelled"]
    shard.run_all()  # what ran goes on
    assert _fired(shard, id) == [4, 3]
    assert _state(shard, id).status == "cancelled"
    assert _do(shard, "cancel", id) == ["ended"]
    shard.assert_balanced()


def test_it_runs_beside_a_paused_schedule_and_ends_with_a_deleted_one(shard: ScheduleHarness) -> None:
    shard.do("pause", "report")
    id = _begin(shard)
    assert _fired(shard, id) == [3]
    shard.do("delete", "report")
    shard.run_all()
    assert shard.connection.execute("select count(*) from backfills").fetchone() == (0,)
    assert shard.alive() == []


def test_it_keeps_the_rule_it_began_with(shard: ScheduleHarness) -> None:
    id = _begin(shard)
    shard.put("report", rule=Rule(every_ms=60_000))
    while shard.run_all():
        shard.reopen()
    assert _fired(shard, id) == [3, 2, 1]


def test_of_a_schedule_that_is_not_there(shard: ScheduleHarness) -> None:
    spec = sm.BackfillSpec("nothing", START_MS - HOUR, START_MS)
    (answer,) = shard.deliver(sm.StartBackfill(TENANT, spec))
    assert answer.outcomes == ["not_found"]


def test_a_long_window_is_looked_at_in_pieces(shard: ScheduleHarness) -> None:
    id = _begin(shard, 200, concurrency=1_000)
    assert len(_fired(shard, id)) == 200
    shard.run_all()
    assert _state(shard, id).status == "done"


def test_what_people_triggered_between_the_ticks_does_not_hide_those_that_fired(
    shard: ScheduleHarness, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("foliot.actors.backfills._TICKS_MAX", 8)
    for _ in range(3):
        shard.advance_ms(HOUR)
        shard.run_all()
        for _ in range(20):
            shard.do("trigger", "report", overlap="allow_all")
            shard.advance_ms(1)
        shard.run_all()
    spec = sm.BackfillSpec("report", START_MS, shard.now_ms)
    (answer,) = shard.deliver(sm.StartBackfill(TENANT, spec))
    state = _state(shard, answer.ids[0])
    assert (state.status, state.fired, state.left_out) == ("done", 0, 3)
