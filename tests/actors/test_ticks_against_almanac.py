"""The ticks of a rule are those that the reference calendar finds by walking: a sample of `make calendar`, and calendars.

The goldens come first: dates on which a person can say from the table of clock changes what has to happen.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import available_timezones

import pytest
from foliot.actors.rules import Calendar, Rule
from foliot.actors.ticks import Ticks
from foliot.runtime.rng import Rng
from foliot.simulations.almanac import Almanac

from .calendar_campaign import Found, Group, changes_of, compare, differences, grouped
from .cron_draws import drawn_cron

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

GERMANY: Final = Calendar("holidays_de", yearly=("01-01", "05-01", "10-03", "12-25", "12-26"), easter=(-2, 1, 39, 50))
AMERICA: Final = Calendar(
    "holidays_us",
    yearly=("01-01", "06-19", "07-04", "11-11", "12-25"),
    nth_weekdays=((1, 0, 3), (2, 0, 3), (5, 0, -1), (9, 0, 1), (11, 3, 4)),
)
OFFICE: Final = Calendar("office", weekdays=(0, 1, 2, 3, 4), hours=((540, 720), (780, 1_080)), zone="Europe/Berlin")
SHUT: Final = Calendar("shut-down", dates=tuple(f"2024-08-{day:02}" for day in range(5, 25)))
NIGHT: Final = Calendar("night", hours=((0, 360), (1_320, 1_440)))
CALENDARS: Final = {calendar.name: calendar for calendar in (GERMANY, AMERICA, OFFICE, SHUT, NIGHT)}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def utc(instant: int) -> str:
    return datetime.fromtimestamp(instant // 1_000, UTC).strftime("%m-%d %H:%M")


@pytest.mark.parametrize(
    ("cron", "zone", "policies", "start", "expected"),
    [
        # 02:00 CET becomes 03:00 CEST.
        ("30 2 * * *", "Europe/Berlin", "shift first", "2026-03-28", "03-28 01:30, 03-29 01:30, 03-30 00:30"),
        ("30 2 * * *", "Europe/Berlin", "skip first", "2026-03-28", "03-28 01:30, 03-30 00:30"),
        ("30 2,3 * * *", "Europe/Berlin", "shift first", "2026-03-29", "03-29 01:30, 03-30 00:30"),
        ("30 * * * *", "Europe/Berlin", "shift first", "2026-03-29", "03-29 00:30, 03-29 01:30, 03-29 02:30"),
        # 03:00 CEST becomes 02:00 CET.
        ("30 2 * * *", "Europe/Berlin", "shift first", "2026-10-25", "10-25 00:30, 10-26 01:30"),
        ("30 2 * * *", "Europe/Berlin", "shift last", "2026-10-25", "10-25 01:30, 10-26 01:30"),
        ("30 2 * * *", "Europe/Berlin", "shift both", "2026-10-25", "10-25 00:30, 10-25 01:30, 10-26 01:30"),
        ("30 * * * *", "Europe/Berlin", "shift first", "2026-10-25", "10-25 00:30, 10-25 01:30, 10-25 02:30"),
        # 02:00 (+10:30) becomes 02:30 (+11); in April it goes back.
        ("15 2 * * *", "Australia/Lord_Howe", "shift first", "2026-10-03", "10-03 15:45, 10-04 15:15"),
        ("10,40 2 4 10 *", "Australia/Lord_Howe", "shift first", "2026-10-03", "10-03 15:40"),
        ("45 1 * * *", "Australia/Lord_Howe", "shift both", "2026-04-04", "04-04 14:45, 04-04 15:15, 04-05 15:15"),
        # After the 29th of December (-10) came the 31st (+14).
        ("0 12 * * *", "Pacific/Apia", "shift first", "2011-12-29", "12-29 22:00, 12-30 22:00, 12-31 22:00"),
        ("0 12 30 12 *", "Pacific/Apia", "shift first", "2011-12-01", "12-30 22:00, 12-29 22:00"),
        ("0 12 30 12 *", "Pacific/Apia", "skip first", "2011-12-01", "12-29 22:00"),
        # 00:00 (-3) becomes 01:00 (-2), and the year after it stays.
        ("0 0 * * *", "America/Sao_Paulo", "shift first", "2018-11-03", "11-03 03:00, 11-04 03:00, 11-05 02:00"),
        ("0 0 4 11 *", "America/Sao_Paulo", "skip first", "2018-11-01", "11-04 03:00"),
        # 00:00 (+2) becomes 01:00 (+3).
        ("59 23,0 * * *", "Asia/Beirut", "shift first", "2024-03-30T12:00", "03-30 21:59, 03-30 22:59, 03-31 20:59"),
        ("30 9 * * *", "Asia/Kathmandu", "shift first", "2026-01-01", "01-01 03:45, 01-02 03:45"),
    ],
)
def test_clock_changes_that_a_person_can_check(cron: str, zone: str, policies: str, start: str, expected: str) -> None:
    dst_gap, dst_overlap = policies.split()
    ticks = Ticks(Rule(cron=cron, zone=zone, dst_gap=dst_gap, dst_overlap=dst_overlap))
    found = [ms(start) - 1]
    while len(found) <= expected.count(",") + 1:
        following = ticks.after(found[-1])
        assert following is not None
        found.append(following)

    assert ", ".join(map(utc, found[1:])) == expected
    assert ticks.between(ms(start), found[-1] + 1, 100) == found[1:]


@pytest.mark.parametrize(
    ("zone", "year"),
    [
        ("Africa/Cairo", 2014),  # midnight, and off again for Ramadan
        ("Africa/Casablanca", 2026),
        ("America/Caracas", 2007),  # half an hour for good
        ("America/Recife", 2000),  # on and off within seven days
        ("America/Sao_Paulo", 2018),
        ("Antarctica/Troll", 2026),  # two hours
        ("Asia/Beirut", 2024),
        ("Asia/Pyongyang", 2018),
        ("Australia/Lord_Howe", 2026),
        ("Europe/Dublin", 2026),
        ("Pacific/Apia", 2011),
        ("Pacific/Kiritimati", 1994),
    ],
)
def test_changes_unlike_the_others(zone: str, year: int) -> None:
    groups = grouped({zone: changes_of(zone, year, year)})

    assert groups
    assert compared(groups[-1:]) == []


def test_changes_drawn_from_all_zones_and_years() -> None:
    rng = Rng(2_026).stream("changes")
    zones = sorted(available_timezones())
    groups: list[Group] = []
    while len(groups) < 5:
        zone, year = zones[rng.below(len(zones))], 1995 + rng.below(43)
        changes = changes_of(zone, year, year)
        if changes:
            groups += grouped({zone: [changes[rng.below(len(changes))]]})

    assert compared(groups) == []


def test_a_difference_is_seen_and_named() -> None:
    start, end = ms("2026-03-28"), ms("2026-03-31")
    shift = Rule(cron="30 2 * * *", zone="Europe/Berlin")
    expected = Almanac(Rule(cron="30 2 * * *", zone="Europe/Berlin", dst_gap="skip")).ticks(start, end)

    found = differences(shift, expected, start, end, probe_ms=ms("2026-03-29"))

    name = "'30 2 * * *' Europe/Berlin shift first: "
    assert found.differing == 2
    assert found.differences == [
        f"{name}between: missing none, surplus 2026-03-29T01:30:00Z, ascending: True",
        f"{name}after 2026-03-29T00:00:00Z: 2026-03-29T01:30:00Z",
    ]
    assert differences(Rule(cron="0 0 30 2 *"), [], start, end).differing == 1  # refused


def test_patterns_drawn_over_a_year() -> None:
    rng = Rng(2_026).stream("patterns")
    total = Found()
    for zone, year in (("America/New_York", 2031), ("Asia/Gaza", 2023), ("Europe/London", 1995), ("UTC", 2099)):
        start, end = ms(f"{year}-01-01"), ms(f"{year + 1}-01-01")
        for _ in range(6):
            dst_gap, dst_overlap = ("shift", "skip")[rng.below(2)], ("first", "last", "both")[rng.below(3)]
            rule = Rule(cron=drawn_cron(rng), zone=zone, dst_gap=dst_gap, dst_overlap=dst_overlap)
            probe = start + rng.below(end - start)
            total = total.plus(differences(rule, Almanac(rule).ticks(start, end), start, end, probe_ms=probe))

    assert total.ticks > 3_000
    assert total.differences == []


@pytest.mark.parametrize("excluded", ["skip", "next", "previous"])
@pytest.mark.parametrize(
    ("cron", "zone", "calendar"),
    [
        ("0 18 LW * *", "Europe/Berlin", "weekdays and not holidays_de"),
        ("30 2 * * *", "Europe/Berlin", "weekdays and not (holidays_de or shut-down)"),
        ("30 2 * * *", "Europe/Berlin", "weekends"),
        ("0 9-17/4 * * mon,sun", "America/New_York", "not holidays_us and weekdays"),
        ("0 4,9 * * *", "America/New_York", "office or night and weekends"),
        ("15 */8 1,15 * *", "Australia/Lord_Howe", "office"),
        ("45 1 1-7 4,10 *", "Australia/Lord_Howe", "not weekends"),
        ("0 0 L * *", "America/Sao_Paulo", "not weekends or holidays_us"),
    ],
)
def test_excluded_days_over_a_year_and_more(cron: str, zone: str, calendar: str, excluded: str) -> None:
    start, end = ms("2023-09-01"), ms("2025-01-02")
    for dst_gap, dst_overlap in (("shift", "first"), ("skip", "both"))[: 2 if "2 *" in cron or "1 1-7" in cron else 1]:
        rule = Rule(cron=cron, zone=zone, calendar=calendar, excluded=excluded, dst_gap=dst_gap, dst_overlap=dst_overlap)
        expected = Almanac(rule, CALENDARS.values()).ticks(start, end)

        assert expected
        assert Ticks(rule, CALENDARS).between(start, end, 100_000) == expected


def test_the_start_and_the_end_cut_what_was_moved() -> None:
    for excluded in ("next", "previous", "skip"):
        for day in range(1, 12, 3):
            rule = Rule(
                cron="0 7 * * *",
                zone="Europe/Berlin",
                calendar="weekdays and not holidays_de",
                excluded=excluded,
                start_ms=ms(f"2026-05-{day:02}T05:00"),
                end_ms=ms(f"2026-05-{day + 6:02}T05:00"),
            )
            expected = Almanac(rule, [GERMANY]).ticks(ms("2026-04-20"), ms("2026-06-01"))

            assert Ticks(rule, CALENDARS).between(ms("2026-04-20"), ms("2026-06-01"), 100) == expected
            assert Ticks(rule, CALENDARS).after(ms("2026-04-20")) == expected[0]
            assert Ticks(rule, CALENDARS).after(expected[-1]) is None


@pytest.mark.parametrize(
    ("every_ms", "calendar", "excluded"),
    [
        (90_000, "", "skip"),
        (HOUR_MS // 2, "office", "skip"),
        (7 * HOUR_MS, "weekdays and not holidays_de", "skip"),
        (7 * HOUR_MS, "weekdays and not holidays_de", "previous"),
        (36 * HOUR_MS + 1, "weekdays and not holidays_de", "next"),
        (36 * HOUR_MS + 1, "weekdays and not holidays_de", "previous"),
        (36 * HOUR_MS, "office", "next"),  # every second one is at night, and there is no day to move it to
    ],
)
def test_intervals(every_ms: int, calendar: str, excluded: str) -> None:
    start = ms("2026-03-20")
    end = start + min(300 * every_ms, 40 * DAY_MS)
    rule = Rule(
        every_ms=every_ms,
        anchor_ms=start + 12_345_678,
        zone="Europe/Berlin",
        calendar=calendar,
        excluded=excluded,
        start_ms=start + 5 * every_ms,
        end_ms=end - 3,
    )
    expected = Almanac(rule, CALENDARS.values()).ticks(start, end)

    assert expected
    assert Ticks(rule, CALENDARS).between(start, end, 100_000) == expected


@pytest.mark.parametrize("excluded", ["skip", "next", "previous"])
def test_instants_given_one_by_one(excluded: str) -> None:
    rng = Rng(2_026).stream("instants")
    start, end = ms("2026-03-01"), ms("2026-12-31")
    instants = tuple(sorted({start + rng.below(end - start) for _ in range(40)}))
    for calendar in ("", "office", "weekdays and not holidays_de"):
        rule = Rule(at_ms=instants, zone="Europe/Berlin", calendar=calendar, excluded=excluded, start_ms=start + 20 * DAY_MS)
        expected = Almanac(rule, CALENDARS.values()).ticks(start, end)

        assert Ticks(rule, CALENDARS).between(start, end, 1_000) == expected


def compared(groups: list[Group]) -> list[str]:
    total = Found()
    for group in groups:
        total = total.plus(compare(group))
    assert total.ticks > 1_000 * len(groups)
    return total.differences
