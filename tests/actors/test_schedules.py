"""Schedules in a shard: ticks, what is missed, what overlaps, commands, restarts."""

from __future__ import annotations

import pytest
from foliot.actors import messages as m
from foliot.actors import schedule_messages as sm
from foliot.actors.rules import Rule

from .harness_schedules import EVERY_MINUTE, HOUR, MINUTE, SECOND, TENANT, ScheduleHarness
from .harness_shard import START_MS

FAILED = m.OutcomeKind.FAILED


@pytest.fixture
def shard() -> ScheduleHarness:
    return ScheduleHarness()


def test_a_tick_makes_one_task_at_its_time_and_the_next_tick_is_set_in_the_same_commit(shard: ScheduleHarness) -> None:
    assert shard.put("report") == ["created"]
    assert shard.ticks("report") == [(0, "alive")]  # it begins at a whole minute
    shard.run_all()
    commits = shard.commits
    shard.advance_to(60)
    assert shard.ticks("report") == [(0, "completed"), (60, "alive")]
    assert shard.commits == commits + 1
    assert shard.next_ms("report") == START_MS + 2 * MINUTE
    assert shard.state("report").fired == 2


def test_a_body_says_which_tick_it_is(shard: ScheduleHarness) -> None:
    shard.put("report")
    (body,) = shard.lease(*shard.alive())
    assert (body.schedule, body.tick_ms) == ("report", START_MS)


def test_after_a_restart_it_goes_on_where_it_was(shard: ScheduleHarness) -> None:
    shard.put("report")
    shard.run_all()
    shard.advance_to(30)
    shard.reopen()
    shard.advance_to(60)
    assert shard.ticks("report") == [(0, "completed"), (60, "alive")]
    shard.reopen()
    (body,) = shard.lease(*shard.alive())
    assert (body.schedule, body.tick_ms) == ("report", START_MS + MINUTE)
    shard.report(body)
    assert shard.ticks("report") == [(0, "completed"), (60, "completed")]
    shard.assert_balanced()


@pytest.mark.parametrize(
    ("missed", "fires"),
    [("skip", [300]), ("last", [240, 300]), ("first", [60, 300]), ("all", [60, 120, 180, 240, 300])],
)
def test_downtime_is_made_up_for_by_the_rule_for_missed_ticks(
    shard: ScheduleHarness, missed: str, fires: list[int]
) -> None:  # fmt: skip
    shard.put("report", missed=missed, overlap="allow_all", grace_ms=10_000)
    shard.run_all()
    shard.now_ms += 270 * SECOND  # nobody looked for so long
    shard.reopen()
    shard.advance_to(301)
    assert [second for second, _ in shard.ticks("report")] == [0, *fires]
    assert shard.state("report").missed == 5 - len(fires)
    shard.assert_balanced()


@pytest.mark.parametrize(("missed", "fires"), [("skip", [180]), ("last", [120, 180])])
def test_what_comes_due_while_a_shard_holds_its_schedules_is_missed_by_the_next_owners_clock(
    shard: ScheduleHarness, missed: str, fires: list[int]
) -> None:
    shard.put("report", missed=missed, overlap="allow_all", grace_ms=10_000)
    shard.put("exact", rule=Rule(every_ms=MINUTE, precision="high"), grace_ms=10_000)
    shard.run_all()
    shard.deliver(sm.HoldSchedules())
    shard.advance_to(61)
    assert shard.do("pause", "exact") == ["paused"]
    assert shard.do("resume", "exact", missed="") == ["resumed"]
    shard.advance_to(139)
    assert shard.ticks("report") == shard.ticks("exact") == [(0, "completed")]
    assert shard.alive() == []
    shard.reopen()
    shard.advance_to(181)
    assert [second for second, _ in shard.ticks("report")] == [0, *fires]
    assert [second for second, _ in shard.ticks("exact")] == [0, 180]
    assert shard.state("exact").missed == 2
    shard.assert_balanced()


def test_what_comes_due_while_schedules_are_held_fires_at_the_next_start_if_that_is_within_the_grace(
    shard: ScheduleHarness,
) -> None:
    shard.put("report", grace_ms=10_000)
    shard.run_all()
    shard.deliver(sm.HoldSchedules())
    shard.advance_to(65)
    assert [second for second, _ in shard.ticks("report")] == [0]
    shard.reopen()
    shard.advance_to(66)
    assert shard.ticks("report") == [(0, "completed"), (60, "alive")]
    assert shard.state("report").missed == 0


def test_of_missed_ticks_the_oldest_and_the_most_have_bounds(shard: ScheduleHarness) -> None:
    shard.put("some", missed="all", overlap="allow_all", grace_ms=0, max_catchup=2)
    shard.put("young", missed="all", overlap="allow_all", grace_ms=0, max_lateness_ms=100_000)
    shard.run_all()
    shard.now_ms += 270 * SECOND
    shard.reopen()
    shard.advance_to(299)
    assert [second for second, _ in shard.ticks("some")] == [0, 180, 240]
    assert [second for second, _ in shard.ticks("young")] == [0, 180, 240]
    assert shard.state("some").missed == shard.state("young").missed == 2


def test_a_tick_that_is_late_by_less_than_the_grace_is_not_missed(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all", grace_ms=60_000)
    shard.run_all()
    shard.now_ms += 119 * SECOND
    shard.reopen()
    shard.advance_ms(0)
    assert [second for second, _ in shard.ticks("report")] == [0, 60]
    assert shard.state("report").late == 1


def test_an_hour_of_missed_seconds_is_counted_in_many_short_turns(shard: ScheduleHarness) -> None:
    shard.put("beat", rule=Rule(cron="* * * * * *"), missed="last", grace_ms=0)
    shard.run_all()
    shard.now_ms += 3_600 * SECOND + 500
    commits = shard.commits
    shard.reopen()
    assert shard.state("beat").missed == 3_599
    assert shard.ticks("beat") == [(0, "completed"), (3_600, "alive")]
    assert shard.commits - commits >= 14


def test_a_year_of_missed_milliseconds_is_counted_at_once(shard: ScheduleHarness) -> None:
    shard.put("beat", rule=Rule(every_ms=1), missed="last", grace_ms=0)
    shard.run_all()
    shard.now_ms += 366 * 24 * HOUR
    commits = shard.commits
    shard.reopen()
    assert shard.state("beat").missed == 366 * 24 * HOUR - 2
    assert shard.state("beat").fired == 2
    assert shard.commits - commits <= 4


@pytest.mark.parametrize("overlap", ["skip", "buffer_one", "buffer_all", "terminate_other", "allow_all"])
def test_overlap_policies(shard: ScheduleHarness, overlap: str) -> None:
    shard.put("report", overlap=overlap)
    (first,) = shard.lease(*shard.alive())
    shard.advance_to(180)  # three more ticks while it runs
    state = shard.state("report")
    expected = {
        "skip": ([(0, "alive"), (60, "skipped"), (120, "skipped"), (180, "skipped")], 3, 0),
        "buffer_one": ([(0, "alive"), (120, "skipped"), (180, "skipped")], 2, 1),
        "buffer_all": ([(0, "alive")], 0, 3),
        "terminate_other": ([(0, "cancelled"), (60, "cancelled"), (120, "cancelled"), (180, "alive")], 0, 0),
        "allow_all": ([(0, "alive"), (60, "alive"), (120, "alive"), (180, "alive")], 0, 0),
    }[overlap]
    assert (shard.ticks("report"), state.skipped, state.buffered) == expected
    if overlap == "terminate_other":
        assert shard.report(first) == [0]  # too late: it is not his any more
    else:
        shard.report(first)
        fired = {"skip": [], "buffer_one": [60], "buffer_all": [60], "allow_all": [60, 120, 180]}[overlap]
        assert [second for second, what in shard.ticks("report") if what == "alive"] == fired
    shard.assert_balanced()


def test_cancel_other_lets_the_newest_tick_wait_until_the_run_before_has_stopped(shard: ScheduleHarness) -> None:
    shard.put("report", rule=Rule(every_ms=5 * SECOND), overlap="cancel_other")
    (first,) = shard.lease(*shard.alive())
    shard.advance_to(12)
    assert [message.reason for message in shard.messages(m.CancelAttempts)] == ["cancelled", "cancelled"]
    assert shard.ticks("report") == [(0, "alive"), (5, "skipped")]
    shard.report(first, m.OutcomeKind.CANCELLED)
    assert shard.ticks("report") == [(0, "cancelled"), (5, "skipped"), (10, "alive")]
    shard.advance_to(15)  # that one only waits: it is cancelled at once
    assert shard.ticks("report")[2:] == [(10, "cancelled"), (15, "alive")]
    shard.assert_balanced()


def test_the_buffer_outlives_a_restart(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="buffer_all")
    (first,) = shard.lease(*shard.alive())
    shard.advance_to(120)
    shard.reopen()
    shard.report(first)
    assert shard.ticks("report") == [(0, "completed"), (60, "alive")]
    shard.run_all()
    assert shard.ticks("report") == [(0, "completed"), (60, "completed"), (120, "alive")]


def test_a_fixed_delay_counts_from_the_end_of_the_run(shard: ScheduleHarness) -> None:
    shard.put("sync", rule=Rule(after_ms=10_000))
    (first,) = shard.lease(*shard.alive())
    shard.advance_to(100)
    shard.reopen()
    assert shard.ticks("sync") == [(0, "alive")]
    shard.report(first)
    shard.advance_to(109)
    assert len(shard.ticks("sync")) == 1
    shard.advance_to(110)
    assert shard.ticks("sync") == [(0, "completed"), (110, "alive")]


def test_a_fixed_delay_counts_from_the_end_of_a_run_that_a_person_began(shard: ScheduleHarness) -> None:
    shard.put("sync", rule=Rule(after_ms=10_000), overlap="buffer_one")
    shard.run_all()
    shard.advance_to(5)
    shard.do("trigger", "sync")
    shard.advance_to(30)
    assert shard.state("sync").buffer == ()
    shard.run_all()
    shard.advance_to(39)
    assert shard.alive() == []
    shard.advance_to(40)
    assert len(shard.alive()) == 1


def test_a_limit_ends_the_schedule(shard: ScheduleHarness) -> None:
    shard.put("thrice", rule=Rule(every_ms=MINUTE, limit=3), overlap="allow_all")
    shard.advance_to(600)
    assert [second for second, _ in shard.ticks("thrice")] == [0, 60, 120]
    assert shard.state("thrice").is_over
    assert shard.next_ms("thrice") == 0


def test_pause_and_resume(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    assert shard.do("pause", "report", by="ada", why="too loud") == ["paused"]
    assert shard.do("pause", "report") == ["unchanged"]
    shard.advance_to(200)
    shard.reopen()
    state = shard.state("report")
    assert (state.paused_by, state.paused_why, state.paused_at_ms) == ("ada", "too loud", START_MS)
    assert shard.do("resume", "report") == ["resumed"]
    shard.advance_to(239)
    assert [second for second, _ in shard.ticks("report")] == [0]  # nothing fires because somebody resumed it
    assert shard.state("report").missed == 3
    shard.advance_to(240)
    assert [second for second, _ in shard.ticks("report")] == [0, 240]


def test_a_resumption_can_make_up_for_the_pause(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    shard.do("pause", "report")
    shard.advance_to(200)
    shard.do("resume", "report", missed="all")
    shard.advance_to(201)
    assert [second for second, _ in shard.ticks("report")] == [0, 60, 120, 180]


def test_runs_that_end_badly_in_a_row_pause_the_schedule(shard: ScheduleHarness) -> None:
    shard.put("report", pause_after=2)
    shard.run_all(FAILED)
    shard.advance_to(60)
    shard.run_all()
    shard.advance_to(120)
    shard.run_all(FAILED)
    shard.advance_to(180)
    assert not shard.state("report").paused
    shard.run_all(FAILED)
    state = shard.state("report")
    assert (state.paused, state.paused_by, state.paused_why) == (True, "foliot", "2 runs in a row ended badly")
    shard.advance_to(600)
    assert len(shard.ticks("report")) == 4


def test_trigger_fires_now_beside_the_rule(shard: ScheduleHarness) -> None:
    shard.put("daily", rule=Rule(every_ms=24 * HOUR, anchor_ms=START_MS + HOUR))
    assert shard.do("trigger", "daily") == ["triggered"]
    assert shard.triggered == shard.alive()
    assert shard.do("trigger", "daily") == ["skipped"]
    assert shard.do("trigger", "daily", overlap="allow_all") == ["triggered"]
    assert shard.do("trigger", "daily", overlap="buffer_one") == ["buffered"]
    assert shard.state("daily").triggered == 2
    shard.run_all()
    assert len(shard.alive()) == 1
    shard.advance_ms(HOUR)
    assert shard.state("daily").fired == 0  # skipped, since the buffered one is alive
    shard.assert_balanced()


def test_an_edit_counts_from_now_on(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    shard.advance_to(90)
    assert shard.put("report", rule=Rule(every_ms=20_000), overlap="allow_all") == ["replaced"]
    assert shard.put("report", rule=Rule(every_ms=20_000), overlap="allow_all") == ["unchanged"]
    shard.advance_to(121)
    assert [second for second, _ in shard.ticks("report")] == [0, 60, 100, 120]


def test_an_edit_after_the_clock_was_set_back_fires_nothing_twice(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    shard.advance_to(600)
    shard.now_ms -= 480 * SECOND
    assert shard.put("report", rule=Rule(every_ms=MINUTE), overlap="allow_all", note="again") == ["replaced"]
    assert shard.put("report", rule=Rule(every_ms=30_000), overlap="allow_all") == ["replaced"]
    shard.advance_to(700)
    assert [second for second, _ in shard.ticks("report")][-3:] == [600, 630, 660, 690][-3:]
    assert len(shard.ticks("report")) == 14
    shard.assert_balanced()


def test_a_fixed_delay_fires_nothing_twice_when_the_clock_was_set_back(shard: ScheduleHarness) -> None:
    shard.put("report", rule=Rule(after_ms=1))
    (body,) = shard.lease(*shard.alive())
    shard.now_ms -= 1
    shard.report(body)
    shard.advance_ms(1)
    shard.run_all()
    shard.advance_ms(1)
    rows = shard.connection.execute("select tick_ms from ticks order by tick_ms").fetchall()
    assert rows == [(START_MS,), (START_MS + 1,)]
    shard.assert_balanced()


def test_an_edit_of_what_is_not_the_rule_leaves_the_next_tick_alone(shard: ScheduleHarness) -> None:
    rule = Rule(every_ms=HOUR, anchor_ms=START_MS + 5 * SECOND)
    shard.put("report", rule=rule)
    before = shard.next_ms("report")
    assert shard.put("report", rule=rule, queue="other", note="moved") == ["replaced"]
    assert shard.next_ms("report") == before
    shard.advance_to(5)
    assert shard.row(shard.alive()[0], "template_id") != 0
    shard.assert_balanced()


def test_modes_of_putting(shard: ScheduleHarness) -> None:
    assert shard.put("a", mode="update") == ["not_found"]
    assert shard.put("a", mode="create") == ["created"]
    assert shard.put("a", "b", mode="create") == ["exists", "created"]
    assert shard.put("a", "c", mode="update", note="x") == ["replaced", "not_found"]


def test_what_can_never_tick_is_refused_and_nothing_is_made(shard: ScheduleHarness) -> None:
    rule = Rule(cron="0 0 30 2 *")
    assert shard.put("never", rule=rule) == ["refused"]
    assert "never fires" in shard.refused[0].text
    assert shard.put("past", rule=Rule(at_ms=(START_MS - HOUR,))) == ["refused"]
    assert "missed='last'" in shard.refused[0].text
    assert shard.connection.execute("select count(*) from schedules").fetchone() == (0,)
    assert shard.put("past", rule=Rule(at_ms=(START_MS - HOUR,)), missed="last") == ["created"]
    assert shard.ticks("past") == [(-3600, "alive")]


def test_a_schedule_whose_edit_is_refused_stays_as_it_was(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    assert shard.put("report", rule=Rule(cron="0 0 30 2 *")) == ["refused"]
    shard.advance_to(60)
    assert [second for second, _ in shard.ticks("report")] == [0, 60]


def test_delete(shard: ScheduleHarness) -> None:
    shard.put("report")
    (body,) = shard.lease(*shard.alive())
    assert shard.do("delete", "report", "nothing") == ["deleted", "not_found"]
    shard.report(body)
    shard.advance_to(300)
    assert shard.alive() == []
    assert shard.connection.execute("select count(*) from ticks").fetchone() == (0,)
    assert shard.put("report", mode="create") == ["created"]
    shard.assert_balanced()


def test_delete_in_the_turn_in_which_a_run_ends(shard: ScheduleHarness) -> None:
    shard.put("report")
    trigger = sm.CommandSchedules(TENANT, ["report"], "trigger", overlap="terminate_other")
    answers = shard.deliver(trigger, sm.CommandSchedules(TENANT, ["report"], "delete"))
    assert [answer.outcomes for answer in answers] == [["triggered"], ["deleted"]]
    shard.assert_balanced()


def test_a_schedule_whose_last_run_ends_while_others_are_looked_up_is_still_known(shard: ScheduleHarness) -> None:
    shard.put("once", rule=Rule(every_ms=MINUTE, limit=1))
    (body,) = shard.lease(*shard.alive())
    shard.hold_reads = True
    specs = [sm.ScheduleSpec(name, 0, b"p", EVERY_MINUTE) for name in ("once", "new")]
    shard.deliver(sm.PutSchedules(TENANT, [m.Template("app.noop")], specs))
    shard.report(body)
    shard.hold_reads = False
    shard.answer_reads()
    found = shard.connection.execute("select name, revision from schedules order by name").fetchall()
    assert found == [("new", 1), ("once", 2)]


def test_names_belong_to_tenants(shard: ScheduleHarness) -> None:
    shard.put("report")
    assert shard.put("report", tenant="other", mode="create") == ["created"]
    assert shard.do("delete", "report", tenant="third") == ["not_found"]


def test_more_schedules_than_fit_into_memory_all_tick(shard: ScheduleHarness) -> None:
    from foliot.actors.shard import ShardConfig
    from foliot.actors.timers import TimerConfig

    small = ScheduleHarness(ShardConfig(shards=1, timers=TimerConfig(horizon_ms=5_000, page=8, in_memory_max=16)))
    names = [f"s{number:03d}" for number in range(100)]
    for start in range(0, 100, 10):
        small.put(*names[start : start + 10], rule=Rule(every_ms=MINUTE, anchor_ms=START_MS + 30_000), overlap="skip")
    small.advance_to(30)
    assert len(small.alive()) == 100
    while small.run_all():
        pass
    small.reopen()
    small.advance_to(90)
    assert len(small.alive()) == 100
    assert all(small.ticks(name) == [(30, "completed"), (90, "alive")] for name in names)


def test_high_precision_goes_first(shard: ScheduleHarness) -> None:
    from foliot.actors import schedules

    rule = Rule(every_ms=HOUR, anchor_ms=START_MS + 30_000)
    for start in range(0, 1_000, 100):
        shard.put(*[f"n{number:04d}" for number in range(start, start + 100)], rule=rule)
    shard.put("first", rule=Rule(every_ms=HOUR, anchor_ms=START_MS + 30_000, precision="high"))
    before = len(shard.alive())
    shard.advance_to(30)
    assert before == 0
    first_of = shard.connection.execute("select task_id from ticks order by task_id limit 1").fetchone()[0]
    assert shard.connection.execute(
        "select name from ticks join schedules on schedules.id = schedule_id where task_id = ?", (first_of,)
    ).fetchone() == ("first",)
    assert len(shard.alive()) == 1  # it has a lead

    shard.advance_ms(49)
    assert len(shard.alive()) == 1
    shard.advance_ms(1)

    assert len(shard.alive()) == 1_001 > schedules.FIRE_MAX


def test_a_tick_that_is_late_by_more_than_the_grace_is_missed(shard: ScheduleHarness) -> None:
    shard.put("report", grace_ms=10_000)
    shard.run_all()
    shard.now_ms += 75 * SECOND
    shard.reopen()
    assert shard.ticks("report") == [(0, "completed")]
    assert shard.state("report").missed == 1


def test_the_last_missed_tick_does_not_fire_if_it_is_too_old(shard: ScheduleHarness) -> None:
    shard.put("report", rule=Rule(every_ms=HOUR, anchor_ms=START_MS), missed="last", grace_ms=0, max_lateness_ms=60_000)
    shard.run_all()
    shard.now_ms += HOUR + 120 * SECOND
    shard.reopen()
    assert shard.ticks("report") == [(0, "completed")]
    assert shard.state("report").missed == 1


def test_what_waits_in_the_buffer_waits_for_the_end_of_a_pause_too(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="buffer_one")
    (first,) = shard.lease(*shard.alive())
    shard.advance_to(60)
    shard.do("pause", "report")
    shard.report(first)
    assert shard.alive() == []
    shard.do("resume", "report")
    assert shard.ticks("report") == [(0, "completed"), (60, "alive")]


def test_a_schedule_has_a_bounded_number_of_runs_alive(shard: ScheduleHarness) -> None:
    shard.put("beat", rule=Rule(every_ms=SECOND), overlap="allow_all")
    shard.advance_to(1_002)
    assert len(shard.alive()) == 1_000
    assert shard.state("beat").skipped == 3


def test_a_schedule_in_memory_for_its_run_ticks_when_its_far_off_time_has_come(shard: ScheduleHarness) -> None:
    shard.put("hourly", rule=Rule(every_ms=HOUR, anchor_ms=START_MS), overlap="allow_all")
    shard.put("other", rule=Rule(every_ms=HOUR, anchor_ms=START_MS + 5))  # so that the store has timers beyond the boundary
    shard.lease(*shard.alive())
    shard.advance_to(3_600)
    assert shard.ticks("hourly") == [(0, "alive"), (3_600, "alive")]
