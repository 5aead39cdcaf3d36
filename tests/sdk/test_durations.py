"""Spans, rates and instants: what people write, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from foliot.runtime.clock import SystemClock
from foliot.sdk.durations import (
    MAX_SPAN_MS,
    InvalidInstantError,
    InvalidRateError,
    InvalidSpanError,
    parse_rate,
    parse_span,
    to_instant_ms,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("written", "span_ms"),
    [
        ("30s", 30_000),
        ("10m", 600_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("1.5s", 1_500),
        ("2d", 172_800_000),
        ("1w", 604_800_000),
        (" 1 H 5 s ", 3_605_000),
        ("0", 0),
        ("90", 90_000),
        ("0.1ms", 1),
        (0, 0),
        (3, 3_000),
        (0.07, 70),
        (0.0001, 1),
        (timedelta(minutes=2, microseconds=1), 120_001),
    ],
)
def test_a_span_is_read_and_rounded_up(written: Any, span_ms: int) -> None:
    assert parse_span(written) == span_ms


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("", "is not a span"),
        ("soon", "is not a span"),
        ("5 minutes", "is not a span"),
        ("1s1s", "is not a span"),
        ("1s x", "is not a span"),
        ("-5s", "is negative"),
        ("-", "is not a span"),
        ("٣s", "is not a span"),
        ("9" * 100, "is not a span"),
        (-1, "is negative"),
        (-0.5, "is negative"),
        (timedelta(seconds=-1), "is negative"),
        (float("nan"), "is not a finite number"),
        (float("inf"), "is not a finite number"),
        ("200000d", "is longer than 100 years"),
        (1e300, "is longer than 100 years"),
        pytest.param(10**5_000, "is longer than 100 years", id="too-many-digits"),
        (timedelta.max, "is longer than 100 years"),
        (True, "is not a span"),
        (None, "is not a span"),
    ],
)
def test_an_absurd_span_is_refused(written: Any, problem: str) -> None:
    with pytest.raises(InvalidSpanError) as caught:
        parse_span(written, what="delay")
    assert str(caught.value).startswith("delay ")
    assert problem in str(caught.value)
    assert ", expected a span such as '30s'" in str(caught.value)


@given(st.integers(0, MAX_SPAN_MS))
def test_a_span_in_milliseconds_survives(span_ms: int) -> None:
    assert parse_span(f"{span_ms}ms") == span_ms
    assert parse_span(timedelta(milliseconds=span_ms)) == span_ms


@given(st.floats(0, 1e9))
def test_a_span_is_never_shortened(seconds: float) -> None:
    span_ms = parse_span(seconds)
    assert 0 <= span_ms - seconds * 1_000 < 1.001


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("10/min", (10, 60_000)),
        ("5/s", (5, 1_000)),
        ("100 / 30s", (100, 30_000)),
        ("1/day", (1, 86_400_000)),
        ((3, "1h"), (3, 3_600_000)),
    ],
)
def test_a_rate_is_read(written: Any, rate: tuple[int, int]) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize("written", ["10", "0/min", "x/min", "10/", "10/0s", "-1/s", "1/fortnight", (0, "1s"), 5, None])
def test_an_absurd_rate_is_refused(written: Any) -> None:
    with pytest.raises(InvalidRateError, match="is not a rate, expected a rate such as '10/min'"):
        parse_rate(written, what="key_rate")


def test_an_instant_keeps_its_offset_and_is_rounded_up() -> None:
    clock = SystemClock()
    berlin = datetime(2030, 1, 31, 9, 0, tzinfo=timezone(timedelta(hours=1)))
    assert to_instant_ms(berlin, clock) == 1_896_076_800_000
    assert to_instant_ms("2030-01-31T09:00:00+01:00", clock) == 1_896_076_800_000
    assert to_instant_ms("2030-01-31T08:00:00Z", clock) == 1_896_076_800_000
    assert to_instant_ms(berlin.replace(microsecond=1), clock) == 1_896_076_800_001


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001
        ("2030-01-01T00:00:00", "has no time zone"),
        ("tomorrow", "is not a moment"),
        ("", "is not a moment"),
        (12, "is not a moment"),
        (datetime.max.replace(tzinfo=UTC), "is more than 100 years away"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "is more than 100 years away"),
        ("9999-12-31T23:59:59-23:59", "is more than 100 years away"),
    ],
)
def test_an_absurd_instant_is_refused(written: Any, problem: str) -> None:
    with pytest.raises(InvalidInstantError, match=problem):
        to_instant_ms(written, SystemClock())
