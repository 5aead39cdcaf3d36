"""The ticks of rules: clock changes, calendars, limits in time, jitter, and what is refused. `test_ticks_against_almanac`
compares them with an independent reference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from foliot.actors.days import END_MS
from foliot.actors.rule_errors import (
    InvalidCalendarError,
    InvalidCronError,
    InvalidRuleError,
    InvalidZoneError,
    NeverTicksError,
    SearchTooLongError,
)
from foliot.actors.rules import Calendar, Rule
from foliot.actors.ticks import Ticks, check
from foliot.runtime.rng import Rng
from hypothesis import given, settings
from hypothesis import strategies as st

DAY_MS = 86_400_000
GERMANY = Calendar("holidays_de", yearly=("01-01", "05-01", "10-03", "12-25", "12-26", "12-31"), easter=(-2, 1, 39, 50))
OFFICE = Calendar("office", hours=((540, 1020),))
NONE = Calendar("none", dates=("1999-01-01",))
GIVEN = {each.name: each for each in (GERMANY, OFFICE, NONE)}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def shown(ticks: list[int]) -> list[str]:
    return [datetime.fromtimestamp(tick // 1_000, UTC).strftime("%Y-%m-%dT%H:%M") for tick in ticks]


def ticks_of(rule: Rule, start: str, end: str, limit: int = 100) -> list[str]:
    return shown(Ticks(rule, GIVEN).between(ms(start), ms(end), limit))


def test_a_rule_of_every_hour_follows_elapsed_time() -> None:
    hourly = Rule(cron="30 * * * *", zone="Europe/Berlin", dst_gap="skip", dst_overlap="last")
    assert ticks_of(hourly, "2026-10-24T23:00", "2026-10-25T03:00") == [
        "2026-10-24T23:30", "2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30",
    ]  # fmt: skip
    for text in ("30 0-23 * * *", "30 */1 * * *", "30 12-23,0-11 * * *"):
        assert ticks_of(Rule(cron=text, zone="Europe/Berlin"), "2026-03-29T00:00", "2026-03-29T03:00") == [
            "2026-03-29T00:30", "2026-03-29T01:30", "2026-03-29T02:30",
        ]  # fmt: skip


def test_local_times_in_a_gap_are_shifted_and_coincide_with_those_after_it() -> None:
    rule = Rule(cron="*/30 2,3 * * *", zone="Europe/Berlin")
    assert ticks_of(rule, "2026-03-29T00:00", "2026-03-30T00:00") == ["2026-03-29T01:00", "2026-03-29T01:30"]
    later = Rule(cron="45 2 * * *", zone="Europe/Berlin")
    assert ticks_of(later, "2026-03-29T00:00", "2026-03-30T00:00") == ["2026-03-29T01:45"]
    mixed = Rule(cron="15,45 2,3 * * *", zone="Europe/Berlin", dst_gap="skip")
    assert ticks_of(mixed, "2026-03-29T00:00", "2026-03-30T00:00") == ["2026-03-29T01:15", "2026-03-29T01:45"]


def test_shifted_ticks_come_in_order_with_those_they_pass() -> None:
    rule = Rule(cron="0,50 2 29 3 *", zone="Europe/Berlin")  # 03:00 and 03:50 on the clock
    other = Rule(cron="50 2,3 * * *", zone="Europe/Berlin")
    assert ticks_of(rule, "2026-03-29T00:00", "2026-03-30T00:00") == ["2026-03-29T01:00", "2026-03-29T01:50"]
    assert ticks_of(other, "2026-03-29T00:00", "2026-03-30T00:00") == ["2026-03-29T01:50"]


def test_both_passes_of_an_overlap_come_in_the_order_of_time() -> None:
    rule = Rule(cron="10,40 2 * * *", zone="Europe/Berlin", dst_overlap="both")
    assert ticks_of(rule, "2026-10-25T00:00", "2026-10-26T00:00") == [
        "2026-10-25T00:10", "2026-10-25T00:40", "2026-10-25T01:10", "2026-10-25T01:40",
    ]  # fmt: skip


def test_intervals_are_elapsed_time_from_their_anchor() -> None:
    rule = Rule(every_ms=7 * 3_600_000, anchor_ms=ms("2026-03-29T00:00"), zone="Europe/Berlin")
    assert ticks_of(rule, "2026-03-28T16:00", "2026-03-29T10:00") == [
        "2026-03-28T17:00", "2026-03-29T00:00", "2026-03-29T07:00",
    ]  # fmt: skip
    assert Ticks(Rule(every_ms=1)).after(5) == 6
    assert Ticks(Rule(every_ms=10, anchor_ms=-3)).between(0, 30, 9) == [7, 17, 27]


def test_a_list_ticks_at_its_instants_past_ones_included() -> None:
    ticks = Ticks(Rule(at_ms=(10, 2_500, 2_501)))
    assert ticks.first(5_000) == 10
    assert ticks.between(0, 2_501, 9) == [10, 2_500]
    assert (ticks.after(10), ticks.after(2_501)) == (2_500, None)


def test_start_and_end_are_kept_themselves() -> None:
    rule = Rule(every_ms=1_000, start_ms=5_000, end_ms=8_000)
    assert Ticks(rule).between(0, 100_000, 99) == [5_000, 6_000, 7_000, 8_000]
    assert Ticks(rule).first(0) == 5_000
    assert Ticks(rule).after(8_000) is None
    assert Ticks(rule).first(5_001) == 6_000


def test_ticks_end_with_the_known_years_and_begin_with_1970() -> None:
    ticks = Ticks(Rule(cron="* * * * *", zone="America/New_York"))
    assert ticks.after(-5) == 0
    assert ticks.after(END_MS - 60_001) == END_MS - 60_000
    assert ticks.after(END_MS - 60_000) is None
    assert Ticks(Rule(every_ms=1_000)).after(END_MS - 1_000) is None


def test_a_fixed_delay_follows_the_end_of_the_run_before() -> None:
    ticks = Ticks(Rule(after_ms=60_000, start_ms=500_000, end_ms=900_000))
    assert (ticks.first(1_000), ticks.first(600_000)) == (500_000, 600_000)
    assert ticks.after_end(512_345) == 572_345
    assert ticks.after_end(100_000) == 500_000
    assert ticks.after_end(850_000) is None
    assert ticks.between(400_000, 700_000, 3) == [500_000, 560_000, 620_000]
    assert ticks.last_before(700_000, 0) is None
    assert Ticks(Rule(every_ms=1_000)).after_end(1_500) == 2_000


def test_a_fixed_delay_waits_out_what_a_calendar_excludes() -> None:
    friday = ms("2026-06-05T23:59:30")
    waiting = Ticks(Rule(after_ms=60_000, calendar="weekdays"))
    assert shown([waiting.after_end(friday) or 0]) == ["2026-06-08T00:00"]
    assert ((waiting.after_end(friday) or 0) - friday) % 60_000 == 0
    moving = Ticks(Rule(after_ms=60_000, calendar="weekdays", excluded="next"))
    assert shown([moving.after_end(friday) or 0]) == ["2026-06-08T00:00"]
    assert Ticks(Rule(after_ms=60_000, calendar="none"), GIVEN).after_end(friday) is None


def test_the_last_business_day_of_the_month_in_germany() -> None:
    rule = Rule(
        cron="0 18 LW * *", zone="Europe/Berlin", calendar="weekdays and not holidays_de", excluded="previous"
    )  # fmt: skip
    assert ticks_of(rule, "2026-10-01T00:00", "2027-06-01T00:00") == [
        "2026-10-30T17:00", "2026-11-30T17:00", "2026-12-30T17:00", "2027-01-29T17:00", "2027-02-26T17:00",
        "2027-03-31T16:00", "2027-04-30T16:00", "2027-05-31T16:00",
    ]  # fmt: skip
    assert Ticks(rule, GIVEN).notes(ms("2026-12-30T17:00")) == ("moved from 2026-12-31T18:00:00",)


@pytest.mark.parametrize(
    ("excluded", "expected"),
    [
        ("skip", ["2026-04-01T07:00", "2026-06-01T07:00"]),
        ("next", ["2026-02-02T08:00", "2026-03-02T08:00", "2026-04-01T07:00", "2026-05-04T07:00", "2026-06-01T07:00"]),
        ("previous", ["2026-02-27T08:00", "2026-04-01T07:00", "2026-04-30T07:00", "2026-06-01T07:00"]),
    ],
)
def test_excluded_ticks_are_dropped_or_moved_to_the_nearest_allowed_day(excluded: str, expected: list[str]) -> None:
    rule = Rule(cron="0 9 1 * *", zone="Europe/Berlin", calendar="weekdays and not holidays_de", excluded=excluded)
    assert ticks_of(rule, "2026-02-01T00:00", "2026-06-02T00:00") == expected


def test_ticks_moved_to_one_day_fire_once() -> None:
    rule = Rule(cron="0 9 * * *", calendar="weekdays", excluded="next")
    assert ticks_of(rule, "2026-06-05T00:00", "2026-06-10T00:00") == [
        "2026-06-05T09:00", "2026-06-08T09:00", "2026-06-09T09:00",
    ]  # fmt: skip


def test_hours_of_a_calendar_drop_what_no_day_allows() -> None:
    rule = Rule(cron="0 8,9,16,17 * * *", calendar="weekdays and office", excluded="next")
    assert ticks_of(rule, "2026-06-05T12:00", "2026-06-08T23:00") == [
        "2026-06-05T16:00", "2026-06-08T09:00", "2026-06-08T16:00",
    ]  # fmt: skip


def test_every_second_outside_office_hours_is_leapt_over() -> None:
    for excluded in ("skip", "next", "previous"):
        ticks = Ticks(Rule(cron="* * * * * *", calendar="weekdays and office", excluded=excluded), GIVEN)
        assert ticks.after(ms("2026-06-05T16:59:59")) == ms("2026-06-08T09:00")


@pytest.mark.parametrize("excluded", ["skip", "next", "previous"])
@pytest.mark.parametrize("kind", [{"cron": "0 0 * * *"}, {"every_ms": DAY_MS}])
def test_a_closure_of_months_or_decades_is_leapt_over(kind: dict[str, Any], excluded: str) -> None:
    june = tuple(f"{year}-06-{day:02d}" for year in range(2020, 2030) for day in range(1, 31))
    calendars = {"june": Calendar("june", dates=june), "far": Calendar("far", dates=("2060-01-01",))}
    for name, start, expected in (("june", "2026-06-30T00:01", "2027-06-01"), ("far", "2026-06-30T00:01", "2060-01-01")):
        found = Ticks(Rule(**kind, calendar=name, excluded=excluded), calendars).after(ms(start))
        assert shown([found or 0]) == [f"{expected}T00:00"]


def naive(rule: Rule, moments: list[int], holidays: set[str]) -> list[int]:
    """Move each moment on its own, day by day, on the wall clock of the rule's zone; times there exist once."""
    zone = ZoneInfo(rule.zone)
    step = timedelta(days=1 if rule.excluded == "next" else -1)
    found = set()
    for moment in moments:
        local = datetime.fromtimestamp(moment / 1_000, zone)
        for _ in range(367):
            if local.weekday() < 5 and local.date().isoformat() not in holidays:
                found.add(round(local.timestamp() * 1_000))
                break
            if rule.excluded == "skip":
                break
            local += step
    return sorted(found)


@settings(max_examples=30)
@given(st.integers(0, 1 << 32))
def test_moved_ticks_are_those_of_each_moment_on_its_own(seed: int) -> None:
    rng = Rng(seed)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    free = {(first + timedelta(days=90 + rng.below(110))).date().isoformat() for _ in range(rng.below(30))}
    given_calendars = {"free": Calendar("free", dates=tuple(sorted(free)))} if free else {"free": NONE}
    crons = ("0 5 * * *", "0 9 LW * *", "0 9 1,15 * *", "30 4,22 * * 6", "0 12 L * *", "*/10 23 28-31 * *", "15 8 * * 0")
    spans = (3_600_000, 25_200_000, 2_100_000, DAY_MS + 3_600_123 * rng.below(30))
    kind: dict[str, Any] = {"cron": crons[rng.below(len(crons))]}
    if rng.below(2):
        kind = {"every_ms": spans[rng.below(len(spans))]}
    rule = Rule(
        **kind, zone=("UTC", "Europe/Berlin", "Asia/Tokyo")[rng.below(3)],
        calendar="weekdays and not free", excluded=("skip", "next", "previous")[rng.below(3)],
    )  # fmt: skip
    low, high = ms("2026-04-20T00:00") + rng.below(DAY_MS), ms("2026-07-01T00:00")
    plain = Rule(**kind, zone=rule.zone)
    moments = Ticks(plain).between(low - 20 * DAY_MS, high + 20 * DAY_MS, 100_000)

    found = Ticks(rule, given_calendars).between(low, high, 100_000)

    assert found == [tick for tick in naive(rule, moments, free) if low <= tick < high]


def test_an_interval_is_moved_out_of_the_hours_in_which_it_is_never_allowed() -> None:
    start = ms("2026-03-20T03:25:45")
    office = Calendar("office", weekdays=(0, 1, 2, 3, 4), hours=((540, 720), (780, 1080)), zone="Europe/Berlin")
    for excluded in ("next", "previous"):
        rule = Rule(every_ms=36 * 3_600_000, anchor_ms=start, zone="Europe/Berlin", calendar="office", excluded=excluded)
        found = Ticks(rule, {"office": office}).between(start, start + 9 * DAY_MS, 99)
        assert {each[11:] for each in shown(found)} == {"15:25"}  # 04:25 there is never allowed


def test_a_first_tick_far_away_is_found() -> None:
    far = ms("2150-06-06T10:00")
    for excluded, expected in (("skip", None), ("next", far + 2 * DAY_MS), ("previous", far - DAY_MS)):
        assert Ticks(Rule(at_ms=(far,), calendar="weekdays", excluded=excluded)).first(0) == expected
        yearly = Ticks(Rule(cron="0 0 10 6 6 ? 2150", calendar="weekdays", excluded=excluded))
        assert yearly.first(0) == expected
    assert Ticks(Rule(at_ms=(far,), calendar="weekends")).first(0) == far


RULES = (
    Rule(cron="* * * * *", zone="Europe/Berlin"),
    Rule(cron="*/7 2,3 * * *", zone="Europe/Berlin", dst_overlap="both"),
    Rule(cron="0 0 29 2 *"),
    Rule(cron="0 18 LW * *", zone="Europe/Berlin", calendar="weekdays and not holidays_de", excluded="previous"),
    Rule(cron="0 9 * * *", calendar="weekdays", excluded="next"),
    Rule(every_ms=90_001, anchor_ms=17, calendar="office"),
    Rule(at_ms=tuple(range(ms("2026-01-01T00:00"), ms("2027-01-01T00:00"), 11 * DAY_MS))),
)


@given(st.integers(0, 1 << 32), st.sampled_from(RULES))
def test_all_questions_agree_on_the_ticks(seed: int, rule: Rule) -> None:
    rng = Rng(seed)
    ticks = Ticks(rule, GIVEN)
    low = ms("2026-01-01T00:00") + rng.below(360 * DAY_MS)
    high = low + rng.below((DAY_MS, 90 * DAY_MS)[rng.below(2)])

    found = ticks.between(low, high, 300)

    assert all(before < after for before, after in pairwise(found))
    for before, after in pairwise(found):
        assert ticks.after(before) == after
        assert ticks.after(after - 1) == after
    assert ticks.after(low - 1) == (found[0] if found else ticks.after(high - 1))
    if len(found) < 300:
        last = found[-1] if found else None
        assert ticks.last_before(high - 1, low) == last
    else:
        assert ticks.last_before(found[-1], low) == found[-1]
        assert ticks.last_before(found[-1] - 1, low) == found[-2]


def test_the_last_of_a_year_of_minutes_is_found_in_few_questions() -> None:
    class Counted(Ticks):
        asked = 0

        def after(self, instant_ms: int) -> int | None:
            self.asked += 1
            return super().after(instant_ms)

    ticks = Counted(Rule(cron="* 0-20 * * *"))
    assert shown([ticks.last_before(ms("2026-06-01T23:59"), ms("2025-06-01T00:00")) or 0]) == ["2026-06-01T20:59"]
    assert ticks.asked < 60


def test_a_tick_without_jitter_is_due_at_its_time() -> None:
    assert Ticks(Rule(cron="* * * * *")).due(60_000) == 60_000
    assert Ticks(Rule(cron="* * * * *", precision="high")).due(60_000) == 60_000


def test_jitter_is_spread_over_its_span_and_differs_by_tick_and_seed() -> None:
    ticks = Ticks(Rule(cron="0 * * * *", jitter_ms=600_000), seed="a/b")
    late = [ticks.due(tick) - tick for tick in ticks.between(0, 1_000 * 3_600_000, 1_000)]
    assert min(late) < 10_000
    assert 590_000 < max(late) <= 600_000
    assert len(set(late)) > 900
    assert [sum(60_000 * n <= each < 60_000 * (n + 1) for each in late) > 60 for n in range(10)] == [True] * 10
    assert late != [Ticks(ticks.rule, seed="a/c").due(tick) - tick for tick in range(0, 1_000 * 3_600_000, 3_600_000)]


def test_a_fixed_jitter_is_the_same_at_every_tick() -> None:
    ticks = Ticks(Rule(cron="0 * * * *", jitter_ms=600_000, is_jitter_fixed=True), seed="a/b")
    late = {ticks.due(tick) - tick for tick in ticks.between(0, 10**9, 200)}
    assert len(late) == 1
    others = {Ticks(ticks.rule, seed=f"a/{n}").due(0) for n in range(100)}
    assert len(others) > 95


@given(st.integers(0, 1 << 32))
def test_no_tick_is_due_before_its_time_or_at_the_next_one(seed: int) -> None:
    rng = Rng(seed)
    rule = Rule(
        every_ms=1 + rng.below((5, 60_000)[rng.below(2)]), jitter_ms=rng.below(100_000), is_jitter_fixed=bool(rng.below(2)),
        precision=("high", "normal", "low")[rng.below(3)],
    )  # fmt: skip
    ticks = Ticks(rule, seed=str(seed))
    for tick in ticks.between(rng.below(10**12), END_MS, 20):
        following = ticks.after(tick)
        assert following is not None
        assert tick <= ticks.due(tick) < following
        assert ticks.due(tick) - tick <= rule.jitter_ms + (10_000 if rule.precision == "low" else 0)


def test_low_precision_is_spread_over_ten_seconds() -> None:
    ticks = [Ticks(Rule(cron="@hourly", precision="low"), seed=f"t/{n}") for n in range(500)]
    late = [each.due(3_600_000) - 3_600_000 for each in ticks]
    assert 0 <= min(late) < 200
    assert 9_800 < max(late) <= 10_000
    assert all(30 <= sum(1_000 * n <= each < 1_000 * (n + 1) for each in late) <= 75 for n in range(10))


def test_notes_say_what_is_special_about_a_tick() -> None:
    daily = Ticks(Rule(cron="30 2 * * *", zone="Europe/Berlin"), GIVEN)
    assert daily.notes(ms("2026-03-28T01:30")) == ()
    assert daily.notes(ms("2026-03-29T01:30")) == ("dst_gap",)
    assert daily.notes(ms("2026-10-25T00:30")) == ("dst_overlap",)
    assert daily.notes(ms("2026-12-25T01:30")) == ()  # of what the rule does not name, nothing is said
    named = Ticks(Rule(cron="30 2 * * *", zone="Europe/Berlin", calendar="weekends or holidays_de"), GIVEN)
    assert named.notes(ms("2026-12-25T01:30")) == ("holiday holidays_de",)
    hourly = Ticks(Rule(cron="30 * * * *", zone="Europe/Berlin"))
    assert hourly.notes(ms("2026-03-29T01:30")) == ()
    assert hourly.notes(ms("2026-10-25T01:30")) == ("dst_overlap",)
    moved = Ticks(Rule(every_ms=DAY_MS, anchor_ms=1, calendar="weekdays", excluded="next"))
    assert moved.notes(ms("2026-06-08T00:00") + 1) == ()  # it has a tick of its own
    single = Ticks(Rule(at_ms=(ms("2026-06-06T10:00"),), calendar="weekdays", excluded="previous"))
    assert single.notes(single.first(0) or 0) == ("moved from 2026-06-06T10:00:00",)


@pytest.mark.parametrize(
    ("rule", "kind", "field", "says"),
    [
        (Rule(), InvalidRuleError, "rule", "says not when to tick, expected exactly one of cron, every, after"),
        (Rule(cron="@daily", every_ms=5), InvalidRuleError, "rule", "['cron', 'every'] are given together"),
        (Rule(every_ms=-1), InvalidRuleError, "every_ms", "every -1 ms is not an interval, expected 1 or more milliseconds"),
        (Rule(after_ms=-1), InvalidRuleError, "after_ms", "is not an interval"),
        (Rule(cron="99 * * * *"), InvalidCronError, "cron", "has the minute '99'"),
        (Rule(cron="0 0 30 2 *"), InvalidCronError, "cron", "never fires"),
        (Rule(cron="@daily", zone="Europe/Berln"), InvalidZoneError, "zone", "expected 'Europe/Berlin'"),
        (Rule(cron="@daily", dst_gap="jump"), InvalidRuleError, "dst_gap", "is not known, expected 'shift' or 'skip'"),
        (Rule(cron="@daily", dst_overlap="none"), InvalidRuleError, "dst_overlap", "expected 'first' or 'last' or 'both'"),
        (Rule(cron="@daily", precision="best"), InvalidRuleError, "precision", "expected 'high' or 'normal' or 'low'"),
        (Rule(cron="@daily", excluded="drop"), InvalidRuleError, "excluded", "expected 'skip' or 'next' or 'previous'"),
        (Rule(cron="@daily", start_ms=9, end_ms=8), InvalidRuleError, "end_ms", "end 8 is before the start, expected at"),
        (Rule(cron="@daily", start_ms=-1), InvalidRuleError, "start_ms", "is not an instant"),
        (Rule(cron="@daily", end_ms=END_MS), InvalidRuleError, "end_ms", "is not an instant"),
        (Rule(cron="@daily", jitter_ms=-1), InvalidRuleError, "jitter_ms", "is not a span"),
        (Rule(cron="@daily", limit=-1), InvalidRuleError, "limit", "is negative"),
        (Rule(every_ms=5, anchor_ms=END_MS), InvalidRuleError, "anchor_ms", "is not an instant"),
        (Rule(at_ms=(5, 5)), InvalidRuleError, "at_ms", "at 5 comes after 5, expected instants in ascending order"),
        (Rule(at_ms=(-5,)), InvalidRuleError, "at_ms", "is not an instant"),
        (Rule(at_ms=tuple(range(10_001))), InvalidRuleError, "at_ms", "expected at most 10000"),
        (Rule(cron="@daily", calendar="weekdays and nope"), InvalidCalendarError, "calendar", "names 'nope' at position 13"),
        (Rule(every_ms=60_000, calendar="weekdays", excluded="next"), InvalidRuleError, "every_ms", "is too often to move"),
        (Rule(every_ms=3_600_001, calendar="weekdays", excluded="next"), InvalidRuleError, "every_ms", "at 8784 different"),
        (Rule(at_ms=tuple(range(500)), calendar="weekdays", excluded="next"), InvalidRuleError, "at_ms", "at 500 different"),
        (Rule(after_ms=5, calendar="weekdays", excluded="previous"), InvalidRuleError, "excluded", "behind the run before"),
        (Rule(cron="0 0 0 1 1 ? 2020"), NeverTicksError, "cron", "names no moment from now on, expected at least one from"),
        (Rule(cron="@daily", end_ms=5), NeverTicksError, "end_ms", "expected an end at or after 2026-06-01T00:00:00Z"),
        (Rule(every_ms=10**12 * 3, end_ms=ms("2027-01-01T00:00")), NeverTicksError, "every_ms", "to 2027-01-01T00:00:00Z"),
        (Rule(at_ms=(5,), start_ms=6), NeverTicksError, "at_ms", "names no moment"),
        (Rule(cron="@daily", calendar="weekdays and weekends"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(cron="* * * * * *", calendar="none", excluded="next"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(cron="0 3 * * *", calendar="office", excluded="previous"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(every_ms=1, calendar="office and not office"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(every_ms=DAY_MS, calendar="none", excluded="previous"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(after_ms=5, calendar="none"), NeverTicksError, "calendar", "excludes every tick"),
        (Rule(at_ms=(5,), calendar="weekends"), NeverTicksError, "calendar", "at least one tick of at (5,)"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_field(rule: Rule, kind: type[Exception], field: str, says: str) -> None:
    with pytest.raises(InvalidRuleError) as refused:
        check(rule, GIVEN, ms("2026-06-01T00:00"))

    assert type(refused.value) is kind
    assert refused.value.field == field
    assert says in str(refused.value)


def test_a_rule_that_will_tick_is_checked_into_its_ticks() -> None:
    ticks = check(Rule(cron="0 0 29 2 *"), {}, ms("2026-06-01T00:00"), seed="a/b")
    assert shown([ticks.first(ms("2026-06-01T00:00")) or 0]) == ["2028-02-29T00:00"]
    assert check(Rule(at_ms=(5,)), {}, ms("2026-06-01T00:00")).first(ms("2026-06-01T00:00")) == 5


@pytest.mark.parametrize(
    "rule",
    [
        Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_overlap="both"),
        Rule(cron="0 18 LW * *", calendar="weekdays and not holidays_de", excluded="previous"),
        Rule(every_ms=90_000_000, start_ms=ms("2026-03-01"), end_ms=ms("2026-09-01")),
        Rule(at_ms=(ms("2026-02-01"), ms("2026-05-01"))),
    ],
)
def test_what_was_asked_before_changes_no_answer(rule: Rule) -> None:
    rng = Rng(7)
    asked = Ticks(rule, GIVEN)
    for _ in range(300):
        instant = ms("2026-01-01") + rng.below(365) * DAY_MS + rng.below(3) * (DAY_MS // 2)
        fresh = Ticks(rule, GIVEN)
        assert asked.after(instant) == fresh.after(instant)
        assert asked.first(instant) == Ticks(rule, GIVEN).first(instant)


MINUTES = tuple((minute, minute + 1) for minute in range(0, 1_440, 2))
HARD = {
    "date": Calendar("date", dates=("2028-01-01",), hours=MINUTES),
    "even": Calendar("even", hours=MINUTES),
    "odd": Calendar("odd", hours=tuple((low + 1, high + 1) for low, high in MINUTES)),
    "sundays": Calendar("sundays", weekdays=(6,), hours=MINUTES),
    "leap": Calendar("leap", yearly=("02-29",)),
    "office": Calendar("office", weekdays=(0, 1, 2, 3, 4), hours=((540, 720), (780, 1_080))),
}


@pytest.mark.parametrize("excluded", ["skip", "next"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"])
@pytest.mark.parametrize("calendar", ["weekdays", "not weekdays", "not (office and leap)", ""])
def test_a_fixed_delay_beyond_the_end_of_time_ends(excluded: str, zone: str, calendar: str) -> None:
    ticks = Ticks(Rule(after_ms=600_000, zone=zone, calendar=calendar, excluded=excluded), HARD)
    for at_ms in (END_MS - 1, END_MS, END_MS + 400 * DAY_MS, ms("2205-01-01T00:00"), 1 << 62):
        assert ticks.after_end(at_ms) is None
        assert ticks.first(max(at_ms, END_MS)) is None
        assert ticks.between(max(at_ms, END_MS), 1 << 62, 9) == []


@pytest.mark.parametrize("excluded", ["skip", "next", "previous"])
@pytest.mark.parametrize("kind", [{"cron": "0 0 * * *"}, {"every_ms": DAY_MS}, {"at_ms": (END_MS - 1,)}])
def test_no_question_beyond_the_end_of_time_is_searched(kind: dict[str, Any], excluded: str) -> None:
    for calendar in ("weekdays", "not leap"):
        ticks = Ticks(Rule(**kind, zone="Pacific/Kiritimati", calendar=calendar, excluded=excluded), HARD)
        for at_ms in (END_MS - 1, END_MS, ms("2205-01-01T00:00"), 1 << 62):
            assert ticks.after(at_ms) is None
        assert ticks.last_before(1 << 50, END_MS) is None


@pytest.mark.parametrize("excluded", ["next", "previous"])
@pytest.mark.parametrize(
    ("kind", "calendar", "expected"),
    [
        ({"cron": "* * * * *"}, "date", "2028-01-01T00:00"),
        ({"cron": "* * * * * *"}, "date", "2028-01-01T00:00"),
        ({"cron": "* * * * *"}, "leap and office", "2028-02-29T09:00"),
        ({"cron": "* 3 * * *"}, "leap and even", "2028-02-29T03:00"),
        ({"every_ms": DAY_MS}, "leap", "2028-02-29T00:00"),
    ],
)
def test_a_rare_opening_with_many_spans_is_found_within_the_effort_of_a_first_tick(
    kind: dict[str, Any], calendar: str, expected: str, excluded: str
) -> None:  # fmt: skip
    ticks = Ticks(Rule(**kind, calendar=calendar, excluded=excluded), HARD)
    assert shown([ticks.first(ms("2027-01-15T08:00")) or 0]) == [expected]


def test_the_last_tick_of_a_long_interval_is_found_within_one_effort() -> None:
    start = ms("2027-01-15T08:00")
    for excluded in ("next", "previous"):
        ticks = Ticks(Rule(every_ms=9_006_656_344, calendar="sundays", excluded=excluded), HARD)
        found = ticks.between(start, start + 1_000 * DAY_MS, 100)
        assert found
        assert ticks.last_before(start + 1_000 * DAY_MS, start) == found[-1]


@pytest.mark.parametrize("excluded", ["next", "previous"])
def test_a_search_that_costs_too_much_is_given_up_whenever_it_is_asked(excluded: str) -> None:
    rule = Rule(cron="* * * * *", calendar="odd and not even", excluded=excluded)
    start = ms("2027-01-15T08:00")
    with pytest.raises(SearchTooLongError) as refused:
        check(rule, HARD, start)
    assert str(refused.value) == (
        "calendar 'odd and not even' needs too long to find the next tick, expected fewer calendars, "
        "fewer spans of hours, or another value of 'excluded'"
    )
    ticks = Ticks(rule, HARD)
    for _ in range(3):  # what the search came to so far does not let the next one through
        for ask in (ticks.after, ticks.first, ticks.after_end):
            with pytest.raises(SearchTooLongError):
                ask(start)
        with pytest.raises(SearchTooLongError):
            ticks.last_before(start, start - 30 * DAY_MS)
        with pytest.raises(SearchTooLongError):
            ticks.between(start, start + DAY_MS, 10)


def test_office_hours_with_many_holidays_need_a_small_part_of_the_effort() -> None:
    names = [f"h{number}" for number in range(8)]
    days = {name: Calendar(name, yearly=("12-25", f"0{index + 1}-06"), easter=(-2, 1)) for index, name in enumerate(names)}
    expression = f"office and not ({' or '.join(names)})"
    for excluded in ("skip", "next", "previous"):
        for kind in ({"every_ms": 1_800_000}, {"cron": "*/5 * * * *"}, {"cron": "0 9 1 1 *"}, {"every_ms": 7 * 3_600_000}):
            ticks = Ticks(Rule(**kind, calendar=expression, excluded=excluded), HARD | days)
            for start in range(ms("2027-01-15T08:00"), ms("2028-01-15T08:00"), 29 * DAY_MS):
                assert ticks.first(start) is not None
                last = ticks.last_before(start, start - 400 * DAY_MS)
                assert last is not None
                assert last <= start
