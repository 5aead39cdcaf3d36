"""Calendars: which moments belong to one, how expressions join them, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from foliot.actors.calendars import check_calendar, compiled, names_in, opening
from foliot.actors.days import END_S, date_of, easter
from foliot.actors.rule_errors import InvalidCalendarError, InvalidZoneError
from foliot.actors.rules import Calendar
from foliot.runtime.rng import Rng
from hypothesis import given
from hypothesis import strategies as st

GERMANY = Calendar("holidays_de", yearly=("01-01", "05-01", "10-03", "12-25", "12-26"), easter=(-2, 1, 39, 50))
OFFICE = Calendar("office", hours=((9 * 60, 12 * 60 + 30), (13 * 60, 17 * 60)))
TOKYO = Calendar("tokyo", weekdays=(0, 1, 2, 3, 4), hours=((9 * 60, 15 * 60),), zone="Asia/Tokyo")
AMERICA = Calendar("holidays_us", nth_weekdays=((1, 0, 3), (5, 0, -1), (11, 3, 4)))
SINGLE = Calendar("single", dates=("2026-02-28", "2028-02-29"), yearly=("02-29",))
GIVEN = {each.name: each for each in (GERMANY, OFFICE, TOKYO, AMERICA, SINGLE)}


def seconds(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def allows(text: str, moment: str, zone: str = "UTC") -> bool:
    allowed = compiled(text, GIVEN, zone)
    assert allowed is not None
    return allowed.window(seconds(moment, zone))[0]


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("weekdays", "2026-06-05T23:59:59", True),
        ("weekdays", "2026-06-06T00:00", False),
        ("weekends", "2026-06-06T00:00", True),
        ("holidays_de", "2026-04-03T12:00", True),  # Good Friday
        ("holidays_de", "2026-04-06T12:00", True),
        ("holidays_de", "2026-04-05T12:00", False),
        ("holidays_de", "2026-05-14T00:00", True),  # Ascension Day
        ("holidays_de", "2026-12-26T23:59:59", True),
        ("holidays_us", "2026-01-19T12:00", True),
        ("holidays_us", "2026-05-25T12:00", True),
        ("holidays_us", "2026-11-26T12:00", True),
        ("holidays_us", "2026-11-19T12:00", False),
        ("office", "2026-06-06T09:00", True),
        ("office", "2026-06-06T12:29:59", True),
        ("office", "2026-06-06T12:30", False),
        ("office", "2026-06-06T17:00", False),
        ("tokyo", "2026-06-08T00:00", True),  # 09:00 there
        ("tokyo", "2026-06-07T23:59:59", False),
        ("tokyo", "2026-06-08T06:00", False),
        ("single", "2026-02-28T10:00", True),
        ("single", "2027-02-28T10:00", False),
        ("single", "2032-02-29T10:00", True),
    ],
)
def test_a_moment_belongs_by_its_local_day_and_time(text: str, moment: str, expected: bool) -> None:
    assert allows(text, moment) is expected


def test_a_calendar_without_a_zone_takes_that_of_the_schedule() -> None:
    assert allows("weekdays", "2026-06-06T00:30", "Pacific/Auckland") is False
    assert allows("weekdays", "2026-06-05T23:30", "America/Los_Angeles") is True
    assert allows("tokyo", "2026-06-07T20:00", "America/New_York") is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weekdays and not holidays_de", False),
        ("weekdays and not holidays_de or holidays_de", True),
        ("weekdays and not (holidays_de or holidays_us)", False),
        ("not not holidays_de", True),
        ("not weekdays or weekdays and holidays_de", True),
        ("(weekends or weekdays) and not(holidays_us)", True),
        ("weekends and holidays_de or office", True),
        ("weekends and (holidays_de or office)", False),
    ],
)
def test_not_binds_before_and_and_and_before_or(text: str, expected: bool) -> None:
    assert allows(text, "2026-12-25T10:00") is expected  # a Friday


@given(st.integers(0, 1 << 32))
def test_a_window_says_until_when_nothing_changes(seed: int) -> None:
    rng = Rng(seed)
    names = [*GIVEN, "weekdays", "weekends"]
    text = names[rng.below(len(names))]
    for _ in range(rng.below(4)):
        text = f"{('', 'not ')[rng.below(2)]}({text}) {('and', 'or')[rng.below(2)]} {names[rng.below(len(names))]}"
    zone = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo")[rng.below(5)]
    allowed = compiled(text, GIVEN, zone)
    assert allowed is not None
    instant = seconds("2010-01-01") + rng.below(20 * 366 * 86_400)

    value, until = allowed.window(instant)

    assert until > instant
    for _ in range(20):
        assert allowed.window(instant + rng.below(until - instant))[0] is value
    assert allowed.window(until - 1)[0] is value


def test_windows_lead_over_whole_years_where_a_calendar_names_single_days() -> None:
    allowed = compiled("single", {"single": Calendar("single", dates=("2101-05-05",))}, "UTC")
    assert allowed is not None

    assert opening(allowed, seconds("2090-01-01")) == seconds("2101-05-05")
    assert opening(allowed, seconds("2101-05-06")) is None
    assert opening(allowed, seconds("2020-01-01")) is None  # further away than is looked for


def test_easter_is_that_of_the_church_tables() -> None:
    known = {1970: "03-29", 2000: "04-23", 2008: "03-23", 2011: "04-24", 2024: "03-31", 2026: "04-05", 2038: "04-25"}
    assert {year: f"{date_of(easter(year)):%m-%d}" for year in known} == known


def test_days_around_easter_may_lie_in_the_year_beside_it() -> None:
    calendar = Calendar("late", easter=(300,))
    allowed = compiled("late", {"late": calendar}, "UTC")
    assert allowed is not None
    wanted = date_of(easter(2026) + 300)
    assert wanted.year == 2027
    assert opening(allowed, seconds("2027-01-01")) == seconds(wanted.isoformat())


def test_a_fifth_weekday_and_the_last_but_one() -> None:
    allowed = compiled("odd", {"odd": Calendar("odd", nth_weekdays=((6, 0, 5), (6, 0, -2)))}, "UTC")
    assert allowed is not None
    found = []
    at = seconds("2026-01-01")
    while (opened := opening(allowed, at)) is not None and opened < seconds("2027-01-01"):
        found.append(datetime.fromtimestamp(opened, UTC).strftime("%m-%d"))
        at = opened + 86_400
    assert found == ["06-22", "06-29"]


def test_the_names_of_an_expression_are_told_without_those_built_in() -> None:
    assert names_in("weekdays and not (holidays_de or b.c) or holidays_de and not-x") == ("holidays_de", "b.c", "not-x")
    assert names_in(" ") == ()
    assert compiled("  ", {}, "UTC") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weekdays and", "is wrong at position 12, expected a calendar's name, 'not' or '('"),
        ("and weekdays", "is wrong at position 0, expected a calendar's name, 'not' or '('"),
        ("weekdays holidays_de", "is wrong at position 9, expected 'and', 'or' or the end"),
        ("(weekdays", "is wrong at position 9, expected ')', 'and' or 'or'"),
        ("weekdays)", "is wrong at position 8, expected 'and', 'or' or the end"),
        ("()", "is wrong at position 1, expected a calendar's name, 'not' or '('"),
        ("weekdays AND office", "is wrong at position 9, expected a calendar's name in small letters"),
        ("weekdays & office", "is wrong at position 9"),
        ("weekdays and nope", "names 'nope' at position 13, which is not there, expected one of holidays_de, holidays_us,"),
        ("not " * 60 + "weekdays", "expected at most 50 levels"),
        ("(" * 60 + "weekdays" + ")" * 60, "expected at most 50 levels"),
        ("weekdays or " * 100 + "weekdays", "characters long, expected at most 1000"),
    ],
)
def test_an_expression_that_cannot_be_read_is_refused_at_its_position(text: str, says: str) -> None:
    with pytest.raises(InvalidCalendarError) as refused:
        compiled(text, GIVEN, "UTC")

    assert says in str(refused.value)
    assert (refused.value.field, refused.value.value) == ("calendar", text)


@pytest.mark.parametrize(
    ("calendar", "says"),
    [
        (Calendar(""), "name of calendar '' ''"),
        (Calendar("Holidays"), "expected 1-63 of a-z, 0-9"),
        (Calendar("not"), "no operator"),
        (Calendar("weekdays", weekdays=(0,)), "name of calendar 'weekdays' 'weekdays' is built in, expected another name"),
        (Calendar("a", weekdays=(7,)), "weekdays of calendar 'a' 7 cannot be meant, expected 0 (Monday) to 6 (Sunday)"),
        (Calendar("a", dates=("2026-02-30",)), "dates of calendar 'a' '2026-02-30' cannot be meant, expected a date"),
        (Calendar("a", dates=("20260230",)), "dates of calendar 'a'"),
        (Calendar("a", dates=("2026-01-01",) * 20_001), "20001 are too many, expected at most 20000"),
        (Calendar("a", yearly=("12-25",) * 1_501), "1501 are too many, expected at most 1500"),
        (Calendar("a", hours=((0, 1),) * 1_501), "1501 are too many, expected at most 1500"),
        (Calendar("a", yearly=("02-30",)), "yearly of calendar 'a' '02-30'"),
        (Calendar("a", yearly=("1-1",)), "yearly of calendar 'a' '1-1'"),
        (Calendar("a", easter=(400,)), "easter of calendar 'a' 400"),
        (Calendar("a", nth_weekdays=((13, 0, 1),)), "nth of calendar 'a' (13, 0, 1)"),
        (Calendar("a", nth_weekdays=((1, 0, 0),)), "nth of calendar 'a' 'jan mon 0' cannot be meant"),
        (Calendar("a", hours=((600, 600),)), "hours of calendar 'a' '10:00-10:00' cannot be meant, expected a part"),
        (Calendar("a", hours=((0, 1441),)), "hours of calendar 'a' '00:00-24:01'"),
    ],
)
def test_a_calendar_that_cannot_be_meant_is_refused(calendar: Calendar, says: str) -> None:
    with pytest.raises(InvalidCalendarError) as refused:
        check_calendar(calendar)

    assert says in str(refused.value)


def test_a_calendar_in_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidZoneError, match="zone of calendar 'a' 'Europe/Berln' is not a time zone, expected 'Europe/B"):
        check_calendar(Calendar("a", zone="Europe/Berln"))
    for calendar in GIVEN.values():
        check_calendar(calendar)


@given(st.integers(0, 1 << 32))
def test_hours_follow_the_wall_clock_across_clock_changes(seed: int) -> None:
    rng = Rng(seed)
    zone = ("Europe/Berlin", "Australia/Lord_Howe", "Asia/Beirut", "Africa/Casablanca", "Pacific/Apia")[rng.below(5)]
    allowed = compiled("night", {"night": Calendar("night", hours=((0, 90), (120, 165), (160, 200), (1400, 1440)))}, zone)
    assert allowed is not None
    instant = rng.below(END_S)
    shown = datetime.fromtimestamp(instant, ZoneInfo(zone))
    minute = shown.hour * 60 + shown.minute

    assert allowed.window(instant)[0] is (minute < 90 or 120 <= minute < 200 or minute >= 1400)
    assert allowed.window(instant)[1] - instant <= timedelta(days=1).total_seconds()
