"""Schedules in good and bad histories: each invariant sees what breaks it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import schedule_messages as sm
from foliot.actors.rules import Calendar
from foliot.simulations import history as h
from foliot.simulations.oracles.backfills import Backfills
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.decided import Decided
from foliot.simulations.oracles.orders import Orders
from foliot.simulations.oracles.overlaps import Overlaps
from foliot.simulations.oracles.rows import Ledger
from foliot.simulations.oracles.submissions import Lost
from foliot.simulations.oracles.ticks import Ticks

from .builder import START_MS
from .schedule_story import EVERY_MS, SCHEDULE, ScheduleStory

ALL = (Ticks, Decided, Overlaps, Orders, Backfills, Ledger, Lost)
DAY_MS = 86_400_000


def ticking(count: int = 2, **fields: Any) -> ScheduleStory:
    """A schedule that has ticked so often, each run over at once."""
    story = ScheduleStory(**fields)
    story.ask("put")
    story.create()
    story.hear("created")
    for _ in range(count):
        story.run_over(story.tick())
        story.advance(EVERY_MS)
    return story


@pytest.mark.parametrize("oracle", ALL)
def test_a_schedule_that_ticks_as_it_should_is_well(oracle: Any) -> None:
    assert ticking(3).verdict(oracle) == []


class TestTicks:
    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [
            ({"at_ms": START_MS + 2 * EVERY_MS - 1}, "early"),
            ({"at_ms": START_MS + 2 * EVERY_MS + 1}, "clock"),
            ({"count": False}, "count"),
            ({"payload": b"other"}, "task"),
            ({"task": False}, "no_task"),
        ],
    )
    def test_a_tick_that_is_not_as_it_should_be_is_found(self, wrong: dict[str, Any], kind: str) -> None:
        story = ticking()
        story.tick(**wrong)

        assert story.verdict(Ticks)[0] == kind

    def test_a_tick_that_fires_again_is_found(self) -> None:
        story = ticking()
        story.tick(tick_ms=START_MS, cursor_ms=story.state.cursor_ms)

        assert story.verdict(Ticks)[0] == "twice"

    def test_a_timer_at_another_time_than_the_tick_is_found(self) -> None:
        story = ticking()
        story.move(next_ms=story.state.cursor_ms - 1)

        assert story.verdict(Ticks)[0] == "next"

    def test_a_tick_that_nobody_decides_is_found_in_calm(self) -> None:
        for passed_ms, expected in ((3_000, []), (3_001, ["stuck"])):
            story = ticking()  # the next one is due now
            story.commit()
            story.advance(passed_ms)
            story.commit()

            assert story.verdict(Ticks, Bounds(take_over_ms=EVERY_MS)) == expected, passed_ms

    def test_a_tick_that_was_passed_over_long_ago_may_wait_for_its_turn(self) -> None:
        story = ticking()
        story.pause()
        story.advance(10 * EVERY_MS)
        story.resume(pass_until_ms=story.now_ms, late=(story.state.cursor_ms,))

        assert story.verdict(Ticks, Bounds(take_over_ms=EVERY_MS)) == []

    def test_a_row_that_no_commit_explains_is_found(self) -> None:
        stored = {SCHEDULE: (1, START_MS, b"")}

        assert ticking().verdict(Ticks, schedules=stored) == ["differs"]
        assert ticking().verdict(Ticks, ticks={(SCHEDULE, START_MS, 0): (1, 0)}) == ["differs"]


class TestDecided:
    def test_a_tick_that_is_forgotten_is_found(self) -> None:
        story = ticking()
        story.tick(cursor_ms=story.state.cursor_ms + 2 * EVERY_MS)

        assert story.verdict(Decided) == ["undecided"]

    def test_a_tick_that_is_none_is_found(self) -> None:
        story = ticking()
        story.tick(tick_ms=story.state.cursor_ms + 1, cursor_ms=story.state.cursor_ms + EVERY_MS)

        assert story.verdict(Decided) == ["unknown"]

    def test_a_cursor_where_no_tick_is_is_found(self) -> None:
        story = ticking()
        story.tick(cursor_ms=story.state.cursor_ms + EVERY_MS + 1)

        assert story.verdict(Decided) == ["cursor"]

    def test_a_schedule_that_ends_without_an_end_is_found(self) -> None:
        story = ticking()
        story.tick(cursor_ms=0)
        assert story.verdict(Decided) == ["stopped"]

        story = ticking(rule={"limit": 3})
        story.set(is_over=True)
        story.tick(cursor_ms=0)
        assert story.verdict(Decided) == []

    def test_what_was_missed_is_counted(self) -> None:
        for counted, expected in ((3, []), (2, ["undecided"]), (4, ["undecided"])):
            story = ticking(grace_ms=1_000)
            story.advance(3 * EVERY_MS)
            story.claim("n2")
            story.miss(3, counted=counted)

            assert story.verdict(Decided) == expected, counted

    def test_a_tick_given_up_within_its_grace_is_found(self) -> None:
        story = ticking()
        story.advance(EVERY_MS)
        story.claim("n2")
        story.miss(1)

        assert story.verdict(Decided) == ["given_up"]

    def test_a_tick_missed_while_nothing_was_wrong_is_found(self) -> None:
        story = ticking(grace_ms=5_000)
        story.advance(2 * EVERY_MS)
        story.miss(2)

        assert story.verdict(Decided, Bounds(take_over_ms=1_000)) == ["idle"]

    def test_a_tick_fired_after_its_grace_is_found(self) -> None:
        story = ticking(grace_ms=1_000)
        story.advance(1_001)
        story.tick()

        assert story.verdict(Decided) == ["too_late"]

    def test_of_what_passed_in_a_pause_the_policy_chooses(self) -> None:
        first = START_MS + 2 * EVERY_MS
        passed = [first, first + EVERY_MS, first + 2 * EVERY_MS]
        for asked, late, expected in (
            ("skip", [], []), ("last", passed[2:], []), ("first", passed[:1], []), ("all", passed, []),
            ("skip", passed[2:], ["choice"]), ("last", passed[:1], ["choice"]), ("all", passed[1:], ["choice"]),
            ("", [], []),
        ):  # fmt: skip
            story = ticking()
            story.pause()
            story.advance(2 * EVERY_MS + 1)
            story.ask("resume", missed=asked)
            story.resume(pass_until_ms=passed[2], late=tuple(late))
            story.hear("resumed")

            assert story.verdict(Decided) == expected, (asked, late)

    def test_a_tick_of_the_pause_that_fires_as_if_nothing_had_been_is_found(self) -> None:
        story = ticking()
        story.pause()
        story.advance(EVERY_MS)
        story.ask("resume")
        story.resume()
        story.tick()

        assert story.verdict(Decided) == ["resumed"]

    def test_a_tick_in_a_pause_is_found(self) -> None:
        story = ticking()
        story.pause()
        story.tick()

        assert story.verdict(Decided) == ["paused"]

    def test_another_rule_goes_on_from_the_change(self) -> None:
        for cursor_ms, expected in ((4_000, []), (8_000, ["undecided"])):
            story = ticking(1)
            story.replace(cursor_ms=story.now_ms + cursor_ms, rule={"every_ms": 4_000, "anchor_ms": story.now_ms})

            assert story.verdict(Decided) == expected, cursor_ms

    def test_what_the_rule_before_missed_may_be_counted_with_the_change(self) -> None:
        for missed, expected in ((0, []), (2, []), (4, ["undecided"])):
            story = ticking(1)
            story.advance(3 * EVERY_MS - 1)
            rule = {"every_ms": 4_000, "anchor_ms": story.now_ms}
            story.set(missed=missed)
            story.replace(cursor_ms=story.now_ms + 4_000, rule=rule)

            assert story.verdict(Decided) == expected, missed

    def test_a_delay_counts_from_the_end_of_the_run_before(self) -> None:
        for late_ms, expected in ((0, []), (-1, ["delay"])):
            story = ScheduleStory(rule={"every_ms": 0, "after_ms": 5_000})
            story.create()
            task = story.tick(cursor_ms=0)
            story.advance(700)
            story.run_over(task, cursor_ms=story.now_ms + 5_000)
            story.advance(5_000)
            story.tick(tick_ms=story.now_ms + late_ms, cursor_ms=0)

            assert story.verdict(Decided) == expected

    def test_a_calendar_edit_is_followed_once_everybody_has_heard_of_it(self) -> None:
        """From the edit on nothing is to tick on the day of the story."""
        story = ScheduleStory(rule={"calendar": "not closed"})
        story.calendar(Calendar("closed", dates=("2020-01-01",)))
        story.stamp = 1
        story.create()
        for _ in range(3):
            story.run_over(story.tick())
            story.advance(EVERY_MS)
        story.calendar(Calendar("closed", dates=("2026-09-21",)))
        story.tick()
        assert story.verdict(Decided) == []

        story.advance(EVERY_MS)
        story.tick()
        assert story.verdict(Decided) == ["cursor"]

    def test_a_recomputed_tick_is_the_next_by_the_new_calendar(self) -> None:
        tomorrow_ms = (START_MS // DAY_MS + 1) * DAY_MS
        for cursor_ms, expected in ((0, []), (EVERY_MS, ["cursor"])):
            story = ScheduleStory(rule={"calendar": "not closed"})
            story.calendar(Calendar("closed", dates=("2020-01-01",)))
            story.stamp = 1
            story.create()
            story.tick()
            story.calendar(Calendar("closed", dates=("2026-09-21",)))
            story.stamp = 2
            story.move(cursor_ms=tomorrow_ms + cursor_ms)

            assert story.verdict(Decided) == expected, cursor_ms


class TestOverlaps:
    def test_a_tick_beside_a_run_is_found_where_the_policy_forbids_it(self) -> None:
        for overlap, expected in (("skip", ["together"]), ("buffer_all", ["together"]), ("allow_all", [])):
            story = ticking(overlap=overlap)
            story.tick()
            story.advance(EVERY_MS)
            story.tick()

            assert story.verdict(Overlaps) == expected, overlap

    def test_only_what_is_in_the_way_of_a_run_is_left_out(self) -> None:
        for is_alive, expected in ((True, []), (False, ["left_out"])):
            story = ticking()
            task = story.tick()
            story.advance(EVERY_MS)
            if not is_alive:
                story.run_over(task)
            story.tick(fires=False)

            assert story.verdict(Overlaps) == expected

    def test_what_waits_goes_on_when_the_run_is_over(self) -> None:
        for buffer, expected in (((), []), ((START_MS + 3 * EVERY_MS,), ["forgotten"])):
            story = ticking(overlap="buffer_one")
            task = story.tick()
            story.advance(EVERY_MS)
            next_ms = story.state.cursor_ms
            story.move(buffer=(next_ms,), buffered=1, cursor_ms=next_ms + EVERY_MS)
            story.run_over(task, buffer=buffer)

            assert story.verdict(Overlaps) == expected
            assert "undecided" not in story.verdict(Decided) or not buffer

    def test_no_more_wait_than_there_is_room_for(self) -> None:
        for overlap, expected in (("buffer_all", []), ("buffer_one", ["crowded"])):
            story = ticking(overlap=overlap)
            story.tick()
            first = story.state.cursor_ms
            story.move(buffer=(first, first + EVERY_MS), buffered=2, cursor_ms=first + 2 * EVERY_MS)

            assert story.verdict(Overlaps) == expected

    def test_a_limit_that_is_exceeded_is_found(self) -> None:
        assert ticking(2, rule={"limit": 2}).verdict(Overlaps) == []
        assert ticking(3, rule={"limit": 2}).verdict(Overlaps) == ["limit"]


class TestOrders:
    def test_what_was_acknowledged_is_so(self) -> None:
        story = ticking()
        for command, word in (("pause", "paused"), ("resume", "resumed"), ("delete", "deleted")):
            story.ask(command)
            {"pause": story.pause, "resume": story.resume, "delete": story.remove}[command]()
            story.hear(word)

        assert story.verdict(Orders) == []

    @pytest.mark.parametrize(
        ("command", "word", "kind"),
        [
            ("pause", "paused", "not_pause"),
            ("delete", "deleted", "not_delete"),
            ("trigger", "triggered", "not_trigger"),
            ("pause", "not_found", "not_pause"),
            ("calendar", "set", "not_calendar"),
            ("backfill", "started", "not_backfill"),
        ],
    )
    def test_an_answer_that_is_not_true_is_found(self, command: str, word: str, kind: str) -> None:
        story = ticking()
        story.ask(command)
        story.hear(word, id=4)

        assert story.verdict(Orders) == [kind]

    def test_a_definition_that_is_another_one_is_found(self) -> None:
        story = ticking()
        story.ask("put", spec=sm.ScheduleSpec("r", 0, b"q", story.rule))
        story.hear("replaced")

        assert story.verdict(Orders) == ["not_put"]

    def test_a_tick_after_an_acknowledged_pause_is_found_unless_somebody_may_have_resumed_it(self) -> None:
        for asked, expected in ((False, ["fired"]), (True, [])):
            story = ticking()
            story.ask("pause")
            story.pause()
            story.hear("paused")
            if asked:
                story.ask("resume")
                story.hear("", outcome="unknown")
            story.advance(1)
            story.tick()

            assert story.verdict(Orders) == expected

    def test_nothing_is_judged_that_others_may_have_changed(self) -> None:
        story = ticking()
        first = story.ask("resume")
        story.ask("pause")
        story.hear("paused")
        story.hear("resumed", number=first)

        assert story.verdict(Orders) == []


class TestBackfills:
    WINDOW = (START_MS - 3 * EVERY_MS, START_MS)

    def play(self, *ticks: int, cursor_ms: int, fired: int, left_out: int = 0, **spec: Any) -> list[str]:
        story = ticking()
        wanted = sm.BackfillSpec("r", *self.WINDOW, concurrency=3, **spec)
        story.backfill(wanted, sm.BackfillState(self.WINDOW[0]))
        state = sm.BackfillState(cursor_ms, fired, left_out, status="done" if cursor_ms >= self.WINDOW[1] else "running")
        story.backfill(wanted, state, *ticks, is_over=state.status == "done")
        story.heal()
        return story.verdict(Backfills)

    def test_each_tick_of_the_window_is_decided(self) -> None:
        first, end = self.WINDOW
        ticks = [first, first + EVERY_MS, first + 2 * EVERY_MS]

        assert self.play(*ticks, cursor_ms=end, fired=3) == []
        assert self.play(*ticks[:2], cursor_ms=end, fired=2, left_out=1) == []
        assert self.play(*ticks[:2], cursor_ms=end, fired=2) == ["undecided"]
        assert self.play(*ticks[:2], cursor_ms=end, fired=3) == ["count"]
        assert self.play(first + 1, *ticks[1:], cursor_ms=end, fired=3) == ["undecided"]
        assert self.play(*ticks[:1], cursor_ms=first + 1, fired=1) == ["live"]
        assert self.play(*ticks[:2], cursor_ms=end, fired=2, left_out=1, reprocess="all") == ["left_out"]

    def test_more_runs_than_it_may_have_are_found(self) -> None:
        first, end = self.WINDOW
        story = ticking()
        spec = sm.BackfillSpec("r", first, end)
        ticks = [first, first + EVERY_MS, first + 2 * EVERY_MS]
        story.backfill(spec, sm.BackfillState(end, 3, status="done"), *ticks, is_over=True)

        assert story.verdict(Backfills) == ["together"]


def test_what_a_loss_of_power_takes_back_has_not_happened() -> None:
    story = ticking()
    before = story.state.cursor_ms, story.state.fired
    story.tick()
    story.add(h.TakenBack(story.at_ns, 1))
    story.set(cursor_ms=before[0], fired=before[1])
    story.advance(100)
    story.tick()

    assert story.verdict(Ticks) == []
    assert story.verdict(Decided) == []


def test_tasks_that_a_tick_made_need_no_submission_and_others_do() -> None:
    story = ticking()
    assert story.verdict(Lost) == []

    changes = story.changes()
    story.insert(changes)
    story.commit(changes)
    assert story.verdict(Lost) == ["unexpected"]


def test_a_tick_that_is_not_counted_as_fired_is_found() -> None:
    story = ticking()
    story.tick()
    story.seen[-1].changes.ledger.pop(("acme", "default", "fired"))  # type: ignore[attr-defined]
    assert story.verdict(Ledger) == ["commit"]
