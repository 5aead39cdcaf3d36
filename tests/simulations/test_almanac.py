"""The reference calendar itself, on dates that a person can check with a wall calendar and a table of clock changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from foliot.actors.rules import Calendar, Rule
from foliot.simulations.almanac import Almanac, Stretch, instants_of, walked
from foliot.simulations.almanac_days import Expression, is_easter
from foliot.simulations.almanac_words import Pattern, UnreadableRuleError


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def ticks(rule: Rule, start: str, end: str, *calendars: Calendar) -> list[str]:
    found = Almanac(rule, calendars).ticks(ms(start), ms(end))
    return [datetime.fromtimestamp(tick // 1_000, UTC).strftime("%m-%d %H:%M:%S").removesuffix(":00") for tick in found]


def days(cron: str, year: int, month: int) -> list[int]:
    pattern = Pattern(cron)
    first = date(year, month, 1)
    return [day.day for ahead in range(31) if (day := first + timedelta(days=ahead)).month == month and pattern.is_on(day)]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 0 L * *", [28]),
        ("0 0 L-3 * *", [25]),
        ("0 0 LW * *", [27]),
        ("0 0 1W * *", [2]),  # the 1st is a Sunday
        ("0 0 14W * *", [13]),  # a Saturday
        ("0 0 15W * *", [16]),  # a Sunday
        ("0 0 28W * *", [27]),  # the last day is a Saturday
        ("0 0 29W * *", []),
        ("0 0 * * 6L", [28]),
        ("0 0 * * friL", [27]),
        ("0 0 * * 7L", [22]),
        ("0 0 * * 5#4", [27]),
        ("0 0 * * FRI#5", []),
        ("0 0 13 * 5", [6, 13, 20, 27]),
        ("0 0 13 * 1", [2, 9, 13, 16, 23]),
        ("0 0 */2 * mon", [9, 23]),
        ("0 0 1-7 * ?", [1, 2, 3, 4, 5, 6, 7]),
        ("0 0 ? * fri-mon", [1, 2, 6, 7, 8, 9, 13, 14, 15, 16, 20, 21, 22, 23, 27, 28]),
        ("0 0 ? * 5-7", [1, 6, 7, 8, 13, 14, 15, 20, 21, 22, 27, 28]),
        ("0 0 ? * 7-1", [1, 2, 8, 9, 15, 16, 22, 23]),
        ("0 0 26-2 * *", [1, 2, 26, 27, 28]),
        ("0 0 10-20/5,3 feb *", [3, 10, 15, 20]),
        ("0 0 25/2 * *", [25, 27]),
        ("0 0 1 nov-feb *", [1]),
        ("0 0 1 mar *", []),
        ("0 0 0 1 2 * 2020-2030/3", [1]),
        ("0 0 0 1 2 * 2020-2030/4", []),
        ("@monthly", [1]),
        ("@weekly", [1, 8, 15, 22]),
        ("@yearly", []),
    ],
)
def test_days_of_february_2026_which_began_on_a_sunday(cron: str, expected: list[int]) -> None:
    assert days(cron, 2026, 2) == expected


def test_the_last_weekday_may_be_two_days_before_the_end() -> None:
    assert days("0 0 LW * *", 2026, 5) == [29]  # the 31st was a Sunday
    assert days("0 0 31W * *", 2026, 5) == [29]
    assert days("0 0 31W * *", 2026, 4) == []
    assert days("0 0 L * *", 2024, 2) == [29]
    assert days("0 0 1W * *", 2026, 8) == [3]  # the 1st was a Saturday, and the last of July is another month


def test_times_of_the_day() -> None:
    minutes = [start + minute for start in (0, 60, 22 * 60, 23 * 60) for minute in (10, 25, 40, 59)]
    assert Pattern("10-40/15,59 22-1 * * *").minutes == minutes
    assert Pattern("*/20 1 2 * * *").seconds == [0, 20, 40]
    assert Pattern("50/3 1 2 * * *").seconds == [50, 53, 56, 59]
    assert Pattern("@hourly").minutes == [60 * hour for hour in range(24)]
    assert all(Pattern(f"0 {hours} * * *").is_every_hour for hours in ("*", "*/1", "0-23", "5-4", "0-11,12-23"))
    assert not any(Pattern(f"0 {hours} * * *").is_every_hour for hours in ("*/2", "0-22", "1"))


@pytest.mark.parametrize(
    "cron", ["0 0 * *", "60 0 * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "0 0 * x *", ""]
)
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(UnreadableRuleError, match="the reference calendar reads no"):
        Pattern(cron)


def test_walked_clocks_are_those_of_the_zone() -> None:
    day = ms("2026-03-29") // 86_400_000
    assert walked("Europe/Berlin", day - 1, day + 1) == (
        Stretch(ms("2026-03-28"), ms("2026-03-29T01:00"), 3_600_000),
        Stretch(ms("2026-03-29T01:00"), ms("2026-03-31"), 7_200_000),
    )


def test_a_time_that_came_three_times() -> None:
    """Clocks set back twice within the hour: no zone did so, and yet it is clear what is meant."""
    hour = 3_600_000
    stretches = (
        Stretch(0, 10 * hour, 0),
        Stretch(10 * hour, 10 * hour + 60_000, -hour // 2),
        Stretch(10 * hour + 60_000, 99 * hour, -hour),
    )
    local = 9 * hour + hour // 2

    assert instants_of(local, stretches, dst_gap="shift", dst_overlap="both") == [local, 10 * hour, local + hour]
    assert instants_of(local, stretches, dst_gap="shift", dst_overlap="first") == [local]
    assert instants_of(local, stretches, dst_gap="shift", dst_overlap="last") == [local + hour]


@pytest.mark.parametrize(
    ("rule", "start", "end", "expected"),
    [
        # Berlin, 2026-03-29: 02:00 CET becomes 03:00 CEST.
        (
            Rule(cron="30 2 * * *", zone="Europe/Berlin"),
            "2026-03-28",
            "2026-03-31",
            ["03-28 01:30", "03-29 01:30", "03-30 00:30"],
        ),
        (
            Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_gap="skip"),
            "2026-03-28",
            "2026-03-31",
            ["03-28 01:30", "03-30 00:30"],
        ),
        (Rule(cron="30 2,3 * * *", zone="Europe/Berlin"), "2026-03-29", "2026-03-30", ["03-29 01:30"]),
        (
            Rule(cron="30 * * * *", zone="Europe/Berlin"),
            "2026-03-29",
            "2026-03-29T03:00",
            ["03-29 00:30", "03-29 01:30", "03-29 02:30"],
        ),
        # Berlin, 2026-10-25: 03:00 CEST becomes 02:00 CET.
        (Rule(cron="30 2 * * *", zone="Europe/Berlin"), "2026-10-25", "2026-10-26", ["10-25 00:30"]),
        (Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_overlap="last"), "2026-10-25", "2026-10-26", ["10-25 01:30"]),
        (
            Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_overlap="both"),
            "2026-10-25",
            "2026-10-26",
            ["10-25 00:30", "10-25 01:30"],
        ),
        (Rule(cron="30 */1 * * *", zone="Europe/Berlin"), "2026-10-25", "2026-10-25T02:00", ["10-25 00:30", "10-25 01:30"]),
        # Lord Howe, 2026-10-04: 02:00 (+10:30) becomes 02:30 (+11), and back on 2026-04-05.
        (Rule(cron="15 2 * * *", zone="Australia/Lord_Howe"), "2026-10-03", "2026-10-05", ["10-03 15:45", "10-04 15:15"]),
        (Rule(cron="0 2 * * *", zone="Australia/Lord_Howe", dst_gap="skip"), "2026-10-03", "2026-10-05", ["10-04 15:00"]),
        (
            Rule(cron="45 1 * * *", zone="Australia/Lord_Howe", dst_overlap="both"),
            "2026-04-04",
            "2026-04-05",
            ["04-04 14:45", "04-04 15:15"],
        ),
        # Apia went from the 29th of December 2011 (-10) to the 31st (+14).
        (
            Rule(cron="0 12 * * *", zone="Pacific/Apia"),
            "2011-12-29",
            "2012-01-01T12:00",
            ["12-29 22:00", "12-30 22:00", "12-31 22:00"],
        ),
        (Rule(cron="0 12 30 12 *", zone="Pacific/Apia"), "2011-12-01", "2012-01-31", ["12-30 22:00"]),
        (Rule(cron="0 12 30 12 *", zone="Pacific/Apia", dst_gap="skip"), "2011-12-01", "2012-01-31", []),
        (Rule(cron="0 * 30 12 *", zone="Pacific/Apia"), "2011-12-01", "2012-01-31", []),
        # Sao Paulo, 2018-11-04: 00:00 (-3) becomes 01:00 (-2).
        (
            Rule(cron="0 0 * * *", zone="America/Sao_Paulo"),
            "2018-11-03",
            "2018-11-06",
            ["11-03 03:00", "11-04 03:00", "11-05 02:00"],
        ),
        (Rule(cron="0 0 4 11 *", zone="America/Sao_Paulo", dst_gap="skip"), "2018-11-01", "2018-11-30", []),
        # Beirut, 2024-03-31: 00:00 (+2) becomes 01:00 (+3).
        (
            Rule(cron="59 23,0 * * *", zone="Asia/Beirut"),
            "2024-03-30T12:00",
            "2024-03-31T12:00",
            ["03-30 21:59", "03-30 22:59"],
        ),
        # Kathmandu is 5:45 ahead.
        (Rule(cron="30 15 9 * * *", zone="Asia/Kathmandu"), "2026-01-01", "2026-01-02", ["01-01 03:30:30"]),
    ],
)
def test_clock_changes(rule: Rule, start: str, end: str, expected: list[str]) -> None:
    assert ticks(rule, start, end) == expected


def test_intervals_count_elapsed_time_from_their_anchor() -> None:
    rule = Rule(every_ms=7_200_000, anchor_ms=ms("2026-03-29T00:30"), zone="Europe/Berlin", start_ms=ms("2026-03-28T21:00"))

    assert ticks(rule, "2026-03-28", "2026-03-29T05:00") == ["03-28 22:30", "03-29 00:30", "03-29 02:30", "03-29 04:30"]


def test_the_start_and_the_end_are_ticks_themselves() -> None:
    instants = tuple(ms(f"2026-01-0{day}") for day in range(1, 8))

    assert Almanac(Rule(at_ms=instants)).ticks(instants[1], instants[5]) == list(instants[1:5])
    assert Almanac(Rule(at_ms=instants, start_ms=instants[2], end_ms=instants[4])).ticks(0, instants[6]) == list(
        instants[2:5]
    )


def test_a_fixed_delay_has_no_calendar_of_its_own() -> None:
    with pytest.raises(UnreadableRuleError):
        Almanac(Rule(after_ms=5_000))


GERMANY = Calendar("holidays_de", yearly=("01-01", "05-01", "10-03", "12-25", "12-26"), easter=(-2, 1, 39, 50))


def test_the_last_business_day_of_the_month_in_berlin() -> None:
    rule = Rule(cron="0 18 L * *", zone="Europe/Berlin", calendar="weekdays and not holidays_de", excluded="previous")

    assert ticks(rule, "2026-03-01", "2026-07-01", GERMANY) == ["03-31 16:00", "04-30 16:00", "05-29 16:00", "06-30 16:00"]
    assert ticks(rule, "2024-03-01", "2024-04-01", GERMANY) == ["03-28 17:00"]  # Easter Sunday was the 31st


def test_excluded_ticks_are_skipped_or_moved_and_coincide_once() -> None:
    rule = Rule(cron="0 6 * * *", calendar="not holidays_de and weekdays")
    around_christmas = ("2026-12-23", "2026-12-30", GERMANY)

    assert ticks(rule, *around_christmas) == ["12-23 06:00", "12-24 06:00", "12-28 06:00", "12-29 06:00"]
    nexts = Rule(cron="0 6 25 12 *", calendar=rule.calendar, excluded="next")
    assert ticks(nexts, *around_christmas) == ["12-28 06:00"]
    both = Rule(cron="0 6 25-28 12 *", calendar=rule.calendar, excluded="next")
    assert ticks(both, *around_christmas) == ["12-28 06:00"]


def test_what_no_day_takes_is_dropped() -> None:
    rule = Rule(cron="0 6 1 1 *", calendar="office", excluded="next")

    assert ticks(rule, "2026-01-01", "2026-02-01", Calendar("office", hours=((540, 1_020),))) == []


def test_calendars_with_hours_dates_and_zones() -> None:
    office = Calendar("office", weekdays=(0, 1, 2, 3, 4), hours=((540, 720), (780, 1_020)), zone="America/New_York")
    closed = Calendar("closed", dates=("2026-03-09",), nth_weekdays=((3, 1, 2), (5, 0, -1), (5, 0, -2)))
    rule = Rule(cron="0 * * * *", calendar="office and not closed")

    assert ticks(rule, "2026-03-06T20:00", "2026-03-11T15:00", office, closed) == [
        "03-06 20:00", "03-06 21:00", "03-11 13:00", "03-11 14:00",
    ]  # fmt: skip
    may = Rule(cron="0 0 * 5 *", calendar="closed")
    assert ticks(may, "2026-05-01", "2026-06-01", closed) == ["05-18 00:00", "05-25 00:00"]


@pytest.mark.parametrize(
    ("text", "is_held"),
    [
        ("weekdays", True),
        ("weekends", False),
        ("not weekends", True),
        ("weekends and weekends or weekdays", True),
        ("weekdays or weekdays and weekends", True),
        ("(weekdays or weekdays) and weekends", False),
        ("not weekdays or weekdays", True),
        ("not (weekdays or weekdays)", False),
    ],
)
def test_expressions_on_a_monday(text: str, is_held: bool) -> None:
    monday = datetime.fromisoformat("2026-03-02T12:00")

    assert Expression(text, ()).holds(lambda zone: monday) is is_held


@pytest.mark.parametrize("text", ["weekdays weekends", "(weekdays", "and", "weekdays or", "holidays", ""])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(UnreadableRuleError):
        Expression(text, ())


@pytest.mark.parametrize(
    "easter",
    [
        "1818-03-22",
        "1943-04-25",
        "1954-04-18",
        "1981-04-19",
        "2000-04-23",
        "2008-03-23",
        "2024-03-31",
        "2026-04-05",
        "2038-04-25",
    ],
)
def test_easter_of_years_early_late_and_odd(easter: str) -> None:
    sunday = date.fromisoformat(easter)

    assert [day for ahead in range(366) if is_easter(day := date(sunday.year, 1, 1) + timedelta(days=ahead))] == [sunday]
