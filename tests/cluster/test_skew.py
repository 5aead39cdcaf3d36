"""A node leaves over its clock, and only when it is its own clock that is wrong."""

from __future__ import annotations

import asyncio

import pytest
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import StoreError
from foliot.sdk.cluster.database_clock import database_now_ms
from foliot.sdk.cluster.errors import ClockSkewError
from foliot.sdk.cluster.skew import SkewConfig, SkewWatch, sure_lead


class ShiftedClock(SystemClock):
    """The machine's clock, set wrong."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class Watched:
    """A watch whose database is exact, or away, and whose peers say what the test says."""

    def __init__(self, ahead_ms: int, *peers: int, is_away: bool = False, answer_ms: int = 0) -> None:
        self.left: list[ClockSkewError] = []
        self.clock = ShiftedClock(ahead_ms)
        self._is_away = is_away
        self._answer_ms = answer_ms
        self.watch = SkewWatch(
            "n1", clock=self.clock, store_now=self._now, peers=self._said, drain=self.left.append, config=SkewConfig()
        )
        self._peers = list(peers)

    async def _said(self) -> list[int]:
        return self._peers

    async def _now(self) -> int:
        if self._is_away:
            raise StoreError("the database is away")
        now_ms = SystemClock().now_ms()
        await asyncio.sleep(self._answer_ms / 1000)
        return now_ms


@pytest.mark.parametrize(
    ("ahead_ms", "leaves"), [(0, False), (900, False), (4_000, False), (8_000, True), (-8_000, True), (-4_000, False)]
)
async def test_beyond_five_seconds_from_the_database_a_node_leaves_at_the_second_measurement(
    ahead_ms: int, leaves: bool
) -> None:
    watched = Watched(ahead_ms)

    assert not await watched.watch.measure()
    assert await watched.watch.measure() == leaves

    assert len(watched.left) == leaves


async def test_the_error_says_whose_clock_is_off_by_how_much_and_what_to_do() -> None:
    error = ClockSkewError("n1", -6_000, 5_000, "the database's")
    assert str(error) == (
        "the clock of node 'n1' is 6000 ms behind the database's, expected at most 5000 ms; set the clock (NTP) and start"
        " the node again"
    )


async def test_a_slow_answer_is_no_skew() -> None:
    watched = Watched(0, answer_ms=300)
    await watched.watch.measure()
    assert watched.watch.skew_ms == 0


async def test_peers_with_wrong_clocks_do_not_make_a_node_leave_that_agrees_with_the_database() -> None:
    watched = Watched(0, 9_000, 9_000, 9_000)
    assert not [await watched.watch.measure() for _ in range(3)][-1]
    assert watched.left == []


async def test_without_the_database_the_peers_median_decides() -> None:
    watched = Watched(0, -8_000, -7_000, 100, is_away=True)
    await watched.watch.measure()
    await watched.watch.measure()
    assert watched.left[0].against == "the median of 3 peers'"
    assert watched.left[0].skew_ms == 7_000


@pytest.mark.parametrize(("theirs_ms", "lead_ms"), [(50, 0), (0, 0), (100, 0), (101, 1), (9_000, 8_900), (-9_000, -9_000)])
def test_of_a_clock_that_was_asked_only_what_the_answers_delay_cannot_explain_counts(theirs_ms: int, lead_ms: int) -> None:
    assert sure_lead(theirs_ms, before_ms=0, after_ms=100) == lead_ms


async def test_a_single_peer_decides_nothing() -> None:
    watched = Watched(0, 60_000, is_away=True)
    assert [await watched.watch.measure() for _ in range(3)] == [False] * 3


async def test_a_node_with_a_wrong_clock_does_not_join() -> None:
    with pytest.raises(ClockSkewError, match="ms ahead of the database's"):
        await Watched(60_000).watch.check_at_start()


async def test_the_database_tells_its_time(postgres_dsn: str) -> None:
    before_ms = SystemClock().now_ms()
    now_ms = await database_now_ms(postgres_dsn)
    assert before_ms - 1 <= now_ms <= SystemClock().now_ms() + 1


async def test_a_database_that_is_away_is_an_error_to_try_again() -> None:
    with pytest.raises(StoreError, match="the database's clock cannot be read"):
        await database_now_ms("postgresql://127.0.0.1:1/none")
