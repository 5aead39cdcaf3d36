"""Cron expressions: which local times each form names, and what is refused."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest
from foliot.actors.cron import Cron, parse
from foliot.actors.days import END_S
from foliot.actors.rule_errors import InvalidCronError
from foliot.runtime.rng import Rng
from hypothesis import given
from hypothesis import strategies as st


def local(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def following(cron: Cron, start: str, count: int) -> list[str]:
    found = []
    at: int | None = local(start)
    for _ in range(count):
        assert at is not None
        at = cron.next(at)
        if at is None:
            break
        found.append(datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S"))
        at += 1
    return found


def days(text: str, start: str = "2026-01-01", count: int = 4, seed: str = "") -> list[str]:
    return [each[5:10] for each in following(parse(text, seed), start, count)]


def times(text: str, count: int, seed: str = "") -> list[str]:
    return [each[11:] for each in following(parse(text, seed), "2026-01-01", count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/20 * * * *", ["00:00:00", "00:20:00", "00:40:00", "01:00:00"]),
        ("10/20 * * * *", ["00:10:00", "00:30:00", "00:50:00", "01:10:00"]),
        ("10-40/15 5 * * *", ["05:10:00", "05:25:00", "05:40:00", "05:10:00"]),
        ("7,5,6 23 * * *", ["23:05:00", "23:06:00", "23:07:00", "23:05:00"]),
        ("5-5 3 * * *", ["03:05:00", "03:05:00"]),
        ("0-0 0-0 * * *", ["00:00:00", "00:00:00"]),
        ("0 22-2 * * *", ["00:00:00", "01:00:00", "02:00:00", "22:00:00", "23:00:00", "00:00:00"]),
        ("0 22-4/2 * * *", ["00:00:00", "02:00:00", "04:00:00", "22:00:00"]),
        ("0 23-4/2 * * *", ["01:00:00", "03:00:00", "23:00:00", "01:00:00"]),
        ("*,5 4 * * *", ["04:00:00", "04:01:00"]),
        ("*/60 */24 * * *", ["00:00:00", "00:00:00"]),
        ("? 5 ? * ?", ["05:00:00", "05:01:00"]),
        ("15,45 30 12 * * *", ["12:30:15", "12:30:45", "12:30:15"]),
        ("*/30 0 0 * * * *", ["00:00:00", "00:00:30", "00:00:00"]),
        ("59 59 23 * * *", ["23:59:59", "23:59:59"]),
        ("@hourly", ["00:00:00", "01:00:00"]),
        ("  @Daily ", ["00:00:00", "00:00:00"]),
    ],
)
def test_times_of_the_day(text: str, expected: list[str]) -> None:
    assert times(text, len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 31 * *", ["01-31", "03-31", "05-31", "07-31"]),
        ("0 0 L * *", ["01-31", "02-28", "03-31", "04-30"]),
        ("0 0 L-3 * *", ["01-28", "02-25", "03-28", "04-27"]),
        ("0 0 l-30 * *", ["01-01", "03-01", "05-01", "07-01"]),
        ("0 0 1,L * *", ["01-01", "01-31", "02-01", "02-28"]),
        ("0 0 15W * *", ["01-15", "02-16", "03-16", "04-15"]),  # 15 February and March 2026 are Sundays
        ("0 0 1W * *", ["01-01", "02-02", "03-02", "04-01"]),
        ("0 0 31W * *", ["01-30", "03-31", "05-29", "07-31"]),
        ("0 0 LW * *", ["01-30", "02-27", "03-31", "04-30"]),
        ("0 0 L-3W * *", ["01-28", "02-25", "03-27", "04-27"]),
        ("0 0 * * fri", ["01-02", "01-09", "01-16", "01-23"]),
        ("0 0 * * 7", ["01-04", "01-11", "01-18", "01-25"]),
        ("0 0 * * 0", ["01-04", "01-11", "01-18", "01-25"]),
        ("0 0 * * 7-7", ["01-04", "01-11", "01-18", "01-25"]),
        ("0 0 * * FRI-Mon", ["01-02", "01-03", "01-04", "01-05", "01-09"]),
        ("0 0 * * 5-7", ["01-02", "01-03", "01-04", "01-09"]),
        ("0 0 * * 7-2", ["01-04", "01-05", "01-06", "01-11"]),
        ("0 0 * * sat-sun", ["01-03", "01-04", "01-10", "01-11"]),
        ("0 0 * * 1/2", ["01-02", "01-05", "01-07", "01-09"]),
        ("0 0 * * */2", ["01-01", "01-03", "01-04", "01-06"]),
        ("0 0 * * 5L", ["01-30", "02-27", "03-27", "04-24"]),
        ("0 0 * * friL", ["01-30", "02-27", "03-27", "04-24"]),
        ("0 0 * * 7L", ["01-25", "02-22", "03-29", "04-26"]),
        ("0 0 * * 5#3", ["01-16", "02-20", "03-20", "04-17"]),
        ("0 0 * * thu#5", ["01-29", "04-30", "07-30", "10-29"]),
        ("0 0 * * mon#1,mon#3", ["01-05", "01-19", "02-02", "02-16"]),
        ("0 0 1 jan,Jul *", ["01-01", "07-01", "01-01", "07-01"]),
        ("0 0 1 nov-feb *", ["01-01", "02-01", "11-01", "12-01"]),
        ("0 0 1 */5 *", ["01-01", "06-01", "11-01", "01-01"]),
        ("0 0 28-3/2 1 *", ["01-01", "01-03", "01-28", "01-30"]),
        ("@weekly", ["01-04", "01-11", "01-18", "01-25"]),
        ("@monthly", ["01-01", "02-01", "03-01", "04-01"]),
        ("@yearly", ["01-01", "01-01"]),
    ],
)
def test_days(text: str, expected: list[str]) -> None:
    assert days(text, count=len(expected)) == expected


def test_a_month_that_begins_or_ends_on_a_weekend_keeps_its_nearest_weekday() -> None:
    assert days("0 0 1W 8 *", count=1) == ["08-03"]  # 1 August 2026 is a Saturday
    assert days("0 0 31W 1,5 *", "2026-05-01", count=1) == ["05-29"]  # 31 May 2026 is a Sunday


def test_day_and_weekday_are_joined_by_or_when_both_are_restricted() -> None:
    assert days("0 0 13 * fri") == ["01-02", "01-09", "01-13", "01-16"]
    assert days("0 0 LW * 1#1") == ["01-05", "01-30", "02-02", "02-27"]
    assert days("0 0 1-31 * mon", count=3) == ["01-01", "01-02", "01-03"]


def test_a_field_that_begins_with_a_star_does_not_restrict() -> None:
    assert days("0 0 */2 * mon") == ["01-05", "01-19", "02-09", "02-23"]
    assert days("0 0 13 * */2") == ["01-13", "06-13", "08-13", "09-13"]  # Sunday, Tuesday, Thursday, Saturday
    assert days("0 0 ? * mon") == ["01-05", "01-12", "01-19", "01-26"]


def test_years_are_the_last_of_seven_fields() -> None:
    assert following(parse("0 0 0 1 1 ? 2030,2028-2029"), "2026-01-01", 5) == [
        "2028-01-01 00:00:00", "2029-01-01 00:00:00", "2030-01-01 00:00:00",
    ]  # fmt: skip
    assert following(parse("0 0 0 29 2 ? */3"), "2026-01-01", 2) == ["2036-02-29 00:00:00", "2048-02-29 00:00:00"]


def test_a_leap_day_is_found_across_2100() -> None:
    assert following(parse("0 0 29 2 *"), "2096-03-01", 1) == ["2104-02-29 00:00:00"]
    assert following(parse("0 0 29 2 */7"), "2081-01-01", 1) == ["2088-02-29 00:00:00"]  # a Sunday
    assert following(parse("0 0 29 2 */7"), "2088-03-01", 1) == ["2128-02-29 00:00:00"]


def test_hashed_values_are_stable_within_their_range_and_differ_by_seed_and_field() -> None:
    seen = set()
    for number in range(200):
        seed = f"tenant/report-{number}"
        cron = parse("H H(9-16) H * *", seed)
        first = following(cron, "2026-02-01", 1)[0]
        assert following(parse("H H(9-16) H * *", seed), "2026-02-01", 1) == [first]
        assert 1 <= int(first[8:10]) <= 28
        assert 9 <= int(first[11:13]) <= 16
        seen.add(first[11:16])
    assert len(seen) > 120
    assert len({following(parse("H * * * *", f"s{n}"), "2026-02-01", 1)[0] for n in range(500)}) == 60


def test_hashed_steps_begin_below_the_step_and_go_on_to_the_end() -> None:
    for number in range(30):
        minutes = [int(each[3:5]) for each in times("H/15 * * * *", 4, f"s{number}")]
        assert minutes[0] < 15
        assert minutes == [minutes[0] + 15 * k for k in range(4)]
        within = [int(each[3:5]) for each in times("H(10-39)/10 0 * * *", 3, f"s{number}")]
        assert 10 <= within[0] <= 19
        assert within == [within[0], within[0] + 10, within[0] + 20]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0 fields, expected 5 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * * *", "has 8 fields"),
        ("61 * * * *", "has the minute '61', expected 0-59"),
        ("* 24 * * *", "has the hour '24', expected 0-23"),
        ("* * 0 * *", "has the day of the month '0', expected 1-31"),
        ("* * 32W * *", "has the day of the month '32w', expected 1-31"),
        ("* * * 13 *", "has the month '13', expected 1-12 or jan-dec"),
        ("* * * foo *", "has the month 'foo', expected 1-12 or jan-dec"),
        ("* * * * 8", "has the day of the week '8', expected 0-7 or sun-sat"),
        ("* * * * mo", "expected 0-7 or sun-sat"),
        ("60 * * * * *", "has the second '60', expected 0-59"),
        ("0 0 0 1 1 ? 1969", "has the year '1969', expected 1970-2199"),
        ("0 0 0 1 1 ? 2030-2020", "expected a range that does not go backwards"),
        ("*/0 * * * *", "has the minute '*/0', expected a step of 1-60"),
        ("*/90 * * * *", "expected a step of 1-60"),
        ("5- * * * *", "has the minute '5-', expected 0-59"),
        ("-5 * * * *", "has the minute '-5', expected 0-59"),
        ("1,,2 * * * *", "has the minute '', expected 0-59"),
        ("1.5 * * * *", "has the minute '1.5'"),
        ("٣ * * * *", "has the minute '٣'"),
        ("L * * * *", "has the minute 'l', expected 0-59"),
        ("* * * * L", "expected a day with it, such as 5L or friL for the last Friday"),
        ("* * WL * *", "expected LW for the last weekday"),
        ("* * L-31 * *", "has the day of the month 'l-31', expected L-1 to L-30"),
        ("* * * * 5#6", "expected a week of 1-5 after #"),
        ("* * * * 5#0", "expected a week of 1-5 after #"),
        ("H(50-70) * * * *", "has the minute 'h(50-70)', expected 0-59"),
        ("H(9-5) * * * *", "expected H(low-high) within 0-59"),
        ("H/61 * * * *", "expected a step of 1-60"),
        ("0 0 0 1 1 ? H", "has the year 'h', expected 1970-2199"),
        ("@reboot", "names no time, expected one of @hourly"),
        ("@fortnightly", "is not known, expected one of @hourly"),
        ("0 0 30 2 *", "never fires: it names no day that exists"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 31W 2 *", "never fires"),
        ("0 0 0 29 2 ? 2027", "never fires"),
        ("0 " * 200, "characters long, expected at most 256"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(InvalidCronError) as refused:
        parse(text)

    assert says in str(refused.value)
    assert (refused.value.field, refused.value.value) == ("cron", text)
    assert refused.value.code == "invalid_cron"


def test_nothing_comes_after_the_known_years() -> None:
    cron = parse("0 0 1 1 *")
    at = cron.next(END_S - 400 * 86_400)
    assert at is not None
    assert datetime.fromtimestamp(at, UTC).year == 2199
    assert parse("0 0 0 1 1 ? 2030").next(local("2030-01-01T00:00:01")) is None


VALUES = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}


def matches(fields: dict[str, list[int] | None], at: datetime) -> bool:
    """Say by the plain meaning of the fields whether they name a minute; None stands for a star."""
    shown = {"minute": at.minute, "hour": at.hour, "day": at.day, "month": at.month, "weekday": at.isoweekday() % 7}
    right = {name: allowed is None or shown[name] in allowed for name, allowed in fields.items()}
    either = fields["day"] is not None and fields["weekday"] is not None
    is_day = right["day"] or right["weekday"] if either else right["day"] and right["weekday"]
    return is_day and all(right[name] for name in ("minute", "hour", "month"))


@given(st.integers(0, 1 << 32))
def test_the_next_time_is_the_first_minute_that_matches(seed: int) -> None:
    rng = Rng(seed)
    fields: dict[str, list[int] | None] = {}
    for name, (low, high) in VALUES.items():
        chosen = sorted({low + rng.below(high - low + 1) for _ in range(1 + rng.below(4))})
        fields[name] = None if rng.below(3) == 0 and name != "minute" else chosen
    longest = max(monthrange(2027, month)[1] for month in fields["month"] or [1])
    if fields["day"] and longest < min(fields["day"]):
        fields["month"] = None
    cron = parse(" ".join("*" if values is None else ",".join(map(str, values)) for values in fields.values()))
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.below(3 * 365 * 1440), seconds=rng.below(60))

    found = cron.next(int(start.timestamp()))

    at = start if start.second == 0 else start.replace(second=0) + timedelta(minutes=1)
    while at < start + timedelta(days=45):
        if not matches(fields | {"minute": None, "hour": None}, at):
            at = at.replace(hour=0, minute=0) + timedelta(days=1)
        elif matches(fields, at):
            assert found == int(at.timestamp())
            return
        else:
            at += timedelta(minutes=1)
    assert found is None or found >= int(at.timestamp())


@given(st.integers(0, 1 << 32))
def test_the_previous_day_is_the_last_one_named_before(seed: int) -> None:
    rng = Rng(seed)
    text = ("0 0 L * *", "0 0 29 2 *", "0 0 * * 1-5", "0 0 1,15W * *", "0 0 13 * fri", "0 0 0 1 1 ? 2000-2010")[rng.below(6)]
    named = parse(text).days
    day = rng.below(60_000)

    found = named.previous(day)

    if found is None:
        first = named.next(0)
        assert first is None or first > day
    else:
        assert found <= day
        assert named.next(found) == found
        assert found == day or (named.next(found + 1) or 1 << 40) > day
