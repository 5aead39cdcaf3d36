"""Token buckets: exact in integers, whatever the rate."""

from __future__ import annotations

from fractions import Fraction

from foliot.actors.limits import TokenBucket
from hypothesis import given
from hypothesis import strategies as st


def test_a_bucket_starts_full_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(3, 1_000, now_ms=0)
    assert bucket.take(3, 0)
    assert not bucket.take(1, 333)
    assert bucket.wait_ms(1, 333) == 1
    assert bucket.take(1, 334)
    assert bucket.tokens(10_000) == 3


def test_a_batch_larger_than_the_bucket_passes_when_it_is_full_and_leaves_debt() -> None:
    bucket = TokenBucket(10, 1_000, now_ms=0, burst=5)
    assert bucket.take(1, 0)
    assert bucket.wait_ms(20, 0) == 100
    assert bucket.take(20, 100)
    assert bucket.tokens(100) == 0
    assert bucket.wait_ms(1, 100) == 1_600


def test_a_clock_set_back_neither_fills_nor_blocks() -> None:
    bucket = TokenBucket(1, 1_000, now_ms=1_000_000)
    assert bucket.take(1, 1_000_000)
    assert bucket.wait_ms(1, 400_000) == 1_000
    assert bucket.take(1, 401_000)


def test_a_changed_rate_keeps_what_was_used() -> None:
    bucket = TokenBucket(10, 1_000, now_ms=0)
    bucket.take(4, 0)
    assert bucket.changed(20, 1_000, now_ms=0).tokens(0) == 16
    assert bucket.changed(2, 1_000, now_ms=0).tokens(0) == 0


@given(
    count=st.integers(1, 50),
    per_ms=st.integers(1, 5_000),
    burst=st.integers(0, 60),
    steps=st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 80)), max_size=40),
)
def test_a_bucket_agrees_with_exact_fractions_and_its_wait_is_exact(
    count: int, per_ms: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(count, per_ms, now_ms=0, burst=burst)
    capacity = Fraction(burst or count)
    level, now_ms = capacity, 0
    for span_ms, wanted in steps:
        now_ms += span_ms
        level = min(level + Fraction(span_ms * count, per_ms), capacity)
        need = min(Fraction(wanted), capacity)
        wait_ms = bucket.wait_ms(wanted, now_ms)
        assert level + Fraction(wait_ms * count, per_ms) >= need
        if wait_ms:
            assert level + Fraction((wait_ms - 1) * count, per_ms) < need
        assert bucket.tokens(now_ms) == max(level, Fraction(0)) // 1
        if bucket.take(wanted, now_ms):
            assert wait_ms == 0
            level -= wanted
