"""Local time and instants across every kind of clock change, against what the IANA data says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from foliot.actors.days import END_S
from foliot.actors.hours import Zone, check_zone
from foliot.actors.rule_errors import InvalidZoneError
from foliot.runtime.rng import Rng
from hypothesis import given
from hypothesis import strategies as st

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kwajalein", "Asia/Kathmandu",
    "America/Sao_Paulo", "Asia/Beirut", "Africa/Cairo", "Africa/Casablanca", "Asia/Tehran", "America/St_Johns", "Asia/Gaza",
    "Antarctica/Troll", "Europe/Dublin", "Pacific/Chatham", "America/Caracas", "Africa/Monrovia", "Etc/GMT+12",
)  # fmt: skip


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def instants(zone: str, local: str, gap: str = "shift", overlap: str = "first") -> list[str]:
    found = Zone(zone, gap, overlap).instants(seconds(local))
    return [datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for each in found]


def test_a_local_time_in_a_gap_is_read_with_the_offset_before_it() -> None:
    assert instants("Europe/Berlin", "2026-03-29T02:30") == ["2026-03-29T01:30:00Z"]  # the clock shows 03:30
    assert instants("Europe/Berlin", "2026-03-29T02:30", "skip") == []
    assert instants("Europe/Berlin", "2026-03-29T01:59:59") == ["2026-03-29T00:59:59Z"]
    assert instants("Europe/Berlin", "2026-03-29T03:00") == ["2026-03-29T01:00:00Z"]


def test_a_local_time_that_exists_twice_is_one_of_two_instants_or_both() -> None:
    assert instants("Europe/Berlin", "2026-10-25T02:30") == ["2026-10-25T00:30:00Z"]
    assert instants("Europe/Berlin", "2026-10-25T02:30", overlap="last") == ["2026-10-25T01:30:00Z"]
    assert instants("Europe/Berlin", "2026-10-25T02:30", overlap="both") == ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]
    assert instants("Europe/Berlin", "2026-10-25T03:00", overlap="both") == ["2026-10-25T02:00:00Z"]


def test_clocks_that_move_by_half_an_hour() -> None:
    assert instants("Australia/Lord_Howe", "2026-10-04T02:15") == ["2026-10-03T15:45:00Z"]  # shows 02:45
    assert instants("Australia/Lord_Howe", "2026-10-04T02:30", "skip") == ["2026-10-03T15:30:00Z"]
    assert instants("Australia/Lord_Howe", "2026-04-05T01:45", overlap="both") == [
        "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "local", "instant"),
    [
        ("Pacific/Apia", "2011-12-30T18:00", "2011-12-31T04:00:00Z"),
        ("Pacific/Kwajalein", "1993-08-21T12:00", "1993-08-22T00:00:00Z"),
    ],
)
def test_a_skipped_day_is_a_gap_like_any_other(zone: str, local: str, instant: str) -> None:
    assert instants(zone, local) == [instant]
    assert instants(zone, local, "skip") == []
    assert instant in instants(zone, (datetime.fromisoformat(local) + timedelta(days=1)).isoformat())


@pytest.mark.parametrize(
    ("zone", "local", "instant"),
    [
        ("America/Sao_Paulo", "2017-10-15T00:00", "2017-10-15T03:00:00Z"),
        ("Asia/Beirut", "2022-03-27T00:00", "2022-03-26T22:00:00Z"),
        ("Africa/Cairo", "2024-04-26T00:30", "2024-04-25T22:30:00Z"),
    ],
)
def test_a_gap_at_midnight_moves_into_the_day_itself(zone: str, local: str, instant: str) -> None:
    assert instants(zone, local) == [instant]
    assert datetime.fromisoformat(instant).astimezone(ZoneInfo(zone)).date() == datetime.fromisoformat(local).date()
    assert instants(zone, local, "skip") == []


@given(st.integers(0, 1 << 32))
def test_every_instant_is_one_of_its_own_local_time_and_no_other(seed: int) -> None:
    rng = Rng(seed)
    name = ZONES[rng.below(len(ZONES))]
    instant = rng.below(END_S)
    zone = Zone(name, "skip", "both")
    offset = datetime.fromtimestamp(instant, ZoneInfo(name)).utcoffset()
    assert offset is not None

    assert zone.offset(instant) == offset.total_seconds()
    found = zone.instants(instant + zone.offset(instant))
    assert instant in found
    for each in found:
        assert each + zone.offset(each) == instant + zone.offset(instant)
    end, _ = zone.span(instant)
    assert zone.offset(end - 1) == zone.offset(instant)


@given(st.integers(0, 1 << 32))
def test_local_times_read_as_the_fold_of_the_standard_library_says(seed: int) -> None:
    rng = Rng(seed)
    name = ZONES[rng.below(len(ZONES))]
    local = datetime(1995, 1, 1) + timedelta(minutes=rng.below(42 * 366 * 1440))  # noqa: DTZ001
    at = seconds(local.isoformat())
    first, last = (
        int(local.replace(tzinfo=ZoneInfo(name), fold=fold).astimezone(UTC).timestamp()) for fold in (0, 1)
    )  # an instant in a gap: read with the offset before it, if fold is 0

    assert Zone(name).instants(at) == (first,)
    if last >= first:
        assert Zone(name, "skip", "last").instants(at) == (last,)
        assert Zone(name, "skip", "both").instants(at) == tuple(sorted({first, last}))
    else:
        assert Zone(name, "skip").instants(at) == ()


@pytest.mark.parametrize("gap", ["shift", "skip"])
@pytest.mark.parametrize("overlap", ["first", "last", "both"])
@pytest.mark.parametrize("name", ZONES)
def test_the_pieces_of_a_year_lie_in_it_in_order_and_cover_every_local_time_once(name: str, gap: str, overlap: str) -> None:
    for year in (1993, 2011, 2026, 2199):
        pieces = Zone(name, gap, overlap).pieces(year)
        assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)
        assert pieces[0].start >= seconds(f"{year}-01-01")
        assert max(piece.end for piece in pieces) <= seconds(f"{year}-12-31T23:59:59") + 1
        assert all(piece.start < piece.end for piece in pieces)
        if gap == "shift" and overlap != "both":
            shown = sorted((piece.start + piece.offset, piece.end + piece.offset) for piece in pieces)
            assert all(before[1] == after[0] for before, after in pairwise(shown))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("new york", "America/New_York"),
        ("Asia/Calcuta", "Asia/Calcutta"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_name_that_is_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InvalidZoneError, match="is not a time zone, expected") as refused:
        check_zone(name)

    assert refused.value.nearest[0] == nearest
    assert (refused.value.field, refused.value.value) == ("zone", name)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "localtime", "../UTC", "right/UTC", "posix/UTC", "UTC\0"])
def test_what_is_no_zone_of_every_machine_is_refused(name: str) -> None:
    with pytest.raises(InvalidZoneError):
        Zone(name)
