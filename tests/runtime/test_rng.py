"""Streams of randomness: repeatable, in range, and independent of each other's use."""

from __future__ import annotations

from foliot.runtime.rng import Rng
from hypothesis import example, given
from hypothesis import strategies as st


def draws(rng: Rng, count: int = 20) -> list[int]:
    return [rng.bits(64) for _ in range(count)]


def test_a_seed_gives_the_same_sequence_on_every_version() -> None:
    assert draws(Rng(42), 3) == [2053695854357871005, 13679192365072849617, 4517457392071889495]


@given(st.integers(0, 2**128), st.integers(0, 50))
def test_a_stream_does_not_notice_what_is_drawn_elsewhere(seed: int, elsewhere: int) -> None:
    quiet, busy = Rng(seed), Rng(seed)
    draws(busy, elsewhere)
    draws(busy.stream("other"), elsewhere)

    assert draws(quiet.stream("shard.1")) == draws(busy.stream("shard.1"))


def test_streams_of_other_names_and_seeds_differ() -> None:
    first = [tuple(draws(Rng(seed).stream(name), 2)) for seed in range(10) for name in ("a", "b", "shard.1", "")]

    assert len(set(first)) == len(first)


def test_a_stream_of_a_stream_differs_from_both() -> None:
    rng = Rng(1)

    assert len({tuple(draws(each, 2)) for each in (rng, rng.stream("a"), rng.stream("a").stream("b"))}) == 3


@given(st.integers(0, 2**64), st.integers(1, 2**70))
@example(0, 1)
def test_below_is_in_range(seed: int, bound: int) -> None:
    rng = Rng(seed)

    assert all(0 <= rng.below(bound) < bound for _ in range(20))


def test_below_is_even() -> None:
    rng = Rng(5)

    counts = [0] * 6
    for _ in range(6_000):
        counts[rng.below(6)] += 1

    assert all(850 < count < 1_150 for count in counts)  # more than five standard deviations


def test_the_system_seeds_differ() -> None:
    assert draws(Rng.of_the_system(), 2) != draws(Rng.of_the_system(), 2)
