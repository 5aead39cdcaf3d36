"""Shared calendars at a shard: kept, told to others, and what an edit of one does to the schedules that name it."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import schedule_messages as sm
from foliot.actors.calendar_book import DELETED, calendar_slot
from foliot.actors.rules import Calendar, Rule
from foliot.actors.shard import ShardConfig
from foliot.actors.ticks import Ticks

from .harness_schedules import HOUR, MINUTE, TENANT, ScheduleHarness
from .harness_shard import START_MS

DAY = 24 * HOUR
# START_MS is 2027-01-15 08:00 UTC, a Friday.
DAILY = Rule(cron="0 9 * * *", calendar="not closed")


@pytest.fixture
def shard() -> ScheduleHarness:
    return ScheduleHarness()


def _day(shard: ScheduleHarness, name: str) -> int:
    """Return how many days after the start the next tick comes."""
    return (shard.next_ms(name) - START_MS - HOUR) // DAY


def test_a_calendar_leaves_ticks_out(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15", "2027-01-16")))
    shard.put("open", rule=DAILY)
    assert _day(shard, "open") == 2


def test_an_unknown_calendar_is_refused(shard: ScheduleHarness) -> None:
    assert shard.put("open", rule=DAILY) == ["refused"]
    assert "closed" in shard.refused[0].text


def test_an_edit_moves_the_next_tick_of_all_that_name_it_also_those_far_off(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15", "2027-01-16")))
    names = [f"open{number}" for number in range(600)]
    for start in range(0, 600, 100):
        shard.put(*names[start : start + 100], rule=DAILY)
    shard.put("other", rule=Rule(cron="0 9 * * *"))
    changed = shard.calendar(Calendar("closed", dates=("2027-01-15",)))
    assert changed.version == 2
    assert {_day(shard, name) for name in names} == {1}
    assert _day(shard, "other") == 0


def test_an_edit_is_found_again_after_a_crash_in_the_middle(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15",)))
    shard.put("open", rule=DAILY)
    shard.hold_reads = True
    shard.calendar(Calendar("closed", dates=("2027-01-15", "2027-01-16", "2027-01-17")))
    assert _day(shard, "open") == 1
    shard.held = []
    shard.hold_reads = False
    shard.reopen()
    assert _day(shard, "open") == 3


def test_a_paused_schedule_goes_by_the_calendar_of_its_resumption(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15",)))
    shard.put("open", rule=DAILY)
    shard.do("pause", "open")
    shard.calendar(Calendar("closed", dates=("2027-01-20",)))
    shard.do("resume", "open")
    assert _day(shard, "open") == 0


def test_an_edit_that_takes_away_ticks_which_were_to_be_made_up_for_holds_nothing_up(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2020-01-01",)))
    rule = Rule(every_ms=60_000, calendar="not closed")
    shard.put("open", rule=rule, missed="all", overlap="allow_all", max_catchup=40)
    shard.now_ms += HOUR  # nobody was there
    shard.calendar(Calendar("closed", hours=((8 * 60 + 45, 8 * 60 + 50),)))
    state = shard.state("open")
    assert state.late_ticks == ()
    assert state.cursor_ms == shard.now_ms + 60_000
    assert 0 < state.fired < 41


def test_a_schedule_whose_calendar_is_deleted_pauses_and_says_why(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15",)))
    shard.put("open", rule=DAILY)
    shard.calendar(Calendar("closed", version=DELETED))
    state = shard.state("open")
    assert state.paused
    assert "closed" in state.paused_why
    assert shard.do("resume", "open") == ["impossible"]
    assert shard.do("trigger", "open") == ["triggered"]  # a person needs no calendar
    assert shard.state("open").paused
    assert shard.connection.execute("select count(*) from calendars").fetchone() == (0,)


def test_a_calendar_that_goes_while_its_schedules_fire_pauses_them_and_stops_nobody_else(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-16",)))
    shard.put("often", rule=Rule(every_ms=1, calendar="not closed"))
    shard.put("other", rule=Rule(every_ms=MINUTE))
    shard.now_ms += 1_000  # more of its ticks are due than one turn decides

    shard.calendar(Calendar("closed", version=DELETED))
    shard.advance_ms(2 * MINUTE)

    assert shard.state("often").paused
    assert "closed" in shard.state("often").paused_why
    assert not shard.state("other").paused
    assert shard.state("other").fired >= 1


def test_an_edit_after_which_the_next_tick_takes_too_long_to_find_pauses(shard: ScheduleHarness) -> None:
    rule = Rule(cron="* * * * *", calendar="odd and not even", excluded="next")
    few, minutes = ((540, 720),), range(0, 1_440, 2)
    shard.calendar(Calendar("odd", hours=few))
    shard.calendar(Calendar("even", dates=("2027-01-20",)))
    assert shard.put("moved", rule=rule) == ["created"]
    shard.calendar(Calendar("odd", hours=tuple((minute + 1, minute + 2) for minute in minutes)))
    shard.calendar(Calendar("even", hours=tuple((minute, minute + 1) for minute in minutes)))

    state = shard.state("moved")
    assert state.paused
    assert "needs too long to find the next tick" in state.paused_why
    assert shard.put("another", rule=rule) == ["refused"]
    assert shard.refused[0].code == "search_too_long"


def test_calendars_belong_to_tenants(shard: ScheduleHarness) -> None:
    shard.calendar(Calendar("closed", dates=("2027-01-15",)), tenant="other")
    assert shard.put("open", rule=DAILY) == ["refused"]


def test_a_change_is_told_to_every_other_shard_until_each_has_answered() -> None:
    shards = 3
    name = next(f"c{number}" for number in range(100) if calendar_slot(TENANT, f"c{number}", shards) == 0)
    shard = ScheduleHarness(ShardConfig(shards=shards))
    shard.calendar(Calendar(name, weekdays=(6,)))
    orders = [(envelope.to, envelope.message) for envelope in shard.sent
              if isinstance(envelope.message, sm.ConfigureCalendar)]  # fmt: skip
    assert [to for to, _ in orders] == ["shard.1", "shard.2"]
    answer = sm.CalendarConfigured(TENANT, orders[0][1].calendar, orders[0][1].epoch, orders[0][1].number)
    shard.deliver(answer, sender="shard.1", request=0)
    before = len(shard.messages(sm.ConfigureCalendar))
    shard.advance_ms(10_000)
    again = [envelope.to for envelope in shard.sent if isinstance(envelope.message, sm.ConfigureCalendar)][before:]
    assert again == ["shard.2"]


def test_of_two_changes_the_newer_wins_in_whatever_order_they_come(shard: ScheduleHarness) -> None:
    new = sm.ConfigureCalendar(TENANT, Calendar("closed", dates=("2027-01-15",), version=2), 3, 2)
    old = sm.ConfigureCalendar(TENANT, Calendar("closed", dates=("2027-01-18",), version=1), 3, 1)
    for message in (new, old):
        (answer,) = shard.deliver(message, sender="shard.7")
        assert answer == sm.CalendarConfigured(TENANT, message.calendar, message.epoch, message.number)
    shard.put("open", rule=DAILY)
    assert _day(shard, "open") == 1


def test_a_calendar_of_blanks_only_is_no_calendar(shard: ScheduleHarness) -> None:
    shard.put("report", overlap="allow_all")
    assert shard.put("report", rule=Rule(every_ms=MINUTE, calendar="  "), overlap="allow_all") == ["replaced"]
    shard.advance_to(60)
    assert [second for second, _ in shard.ticks("report")] == [0, 60]


def test_schedules_with_one_rule_and_calendar_search_it_once(
    shard: ScheduleHarness, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    made = _count_ticks(monkeypatch)
    shard.calendar(Calendar("office", weekdays=(0, 1, 2, 3, 4), hours=((540, 720),)))
    rule = Rule(every_ms=HOUR, calendar="office", excluded="next")
    shard.put(*[f"r{number}" for number in range(20)], rule=rule)
    assert len(made) == 1
    shard.calendar(Calendar("office", weekdays=(0, 1, 2, 3), hours=((540, 720),)))
    assert len(made) == 2
    assert shard.next_ms("r0") == shard.next_ms("r19")


def test_after_an_edit_a_turn_searches_for_one_schedule_whose_ticks_move(
    shard: ScheduleHarness, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    shard.calendar(Calendar("office", weekdays=(0, 1, 2, 3, 4)))
    for number in range(5):
        shard.put(f"r{number}", rule=Rule(cron=f"{number} 2 * * *", calendar="office", excluded="next"))
    made = _count_ticks(monkeypatch)
    shard.hold_reads = True
    shard.calendar(Calendar("office", weekdays=(5,)))
    for count in range(1, 6):
        shard.deliver(shard.held.pop(), sender="shard.0", request=0)
        assert len(made) == count


def _count_ticks(monkeypatch: pytest.MonkeyPatch) -> list[Rule]:
    made: list[Rule] = []

    def make(rule: Rule, *rest: Any, **named: Any) -> Ticks:
        made.append(rule)
        return Ticks(rule, *rest, **named)

    monkeypatch.setattr("foliot.actors.firing.Ticks", make)
    return made
