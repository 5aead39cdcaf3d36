"""Links: order, loss, copies, partitions; and that taking one fault away shifts no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from foliot.simulations.case import Options
from foliot.simulations.database import empty_database
from foliot.simulations.loop import MS
from foliot.simulations.network import Quality
from foliot.simulations.process import Process
from foliot.simulations.trace import Trace
from foliot.simulations.world import World

OPTIONS = Options(slots=1)


class Pair:
    """Two processes on two machines; what `b` got, in order, with when."""

    def __init__(self, seed: int = 1) -> None:
        self.world = World(seed, OPTIONS, Trace(), image=empty_database(1, start_ms=0))
        self.a, self.b = (Process(self.world, name, 1, self.world.add_machine(name)) for name in "ab")
        self.got: list[tuple[Any, int]] = []

    def send(self, count: int, *, every_us: int = 10, after: Callable[[], None] | None = None) -> list[Any]:
        """Send numbers from `a` to `b`, one after the other; returns what arrived."""
        loop, network = self.world.loop, self.world.network

        def arrive(number: int, *, is_copy: bool = False) -> None:
            self.got.append((number, loop.now_ns))

        for number in range(count):
            loop.at(number * every_us * 1_000, loop.system, network.carry, self.a, self.b, arrive, number)
        if after is not None:
            loop.at(count * every_us * 1_000, loop.system, after)
        self.run(2_000)
        return [number for number, _ in self.got]

    def run(self, span_ms: int) -> None:
        loop = self.world.loop
        future = loop.create_future()
        loop.at(loop.now_ns + span_ms * MS, loop.system, future.set_result, None)

        async def wait() -> None:
            await future

        loop.run_task(loop.spawn(loop.system, wait(), name="wait"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.world.close()


def test_a_good_link_keeps_order_and_loses_nothing(pair: Pair) -> None:
    assert pair.send(500) == list(range(500))
    delays = [at_ns - number * 10_000 for number, at_ns in pair.got]
    assert min(delays) >= OPTIONS.latency_us * 1_000


def test_a_lossy_link_loses_about_what_it_is_told_to(pair: Pair) -> None:
    pair.world.network.worsen(Quality(loss=300))

    got = pair.send(2_000)

    assert 1_300 <= len(got) <= 1_500
    assert got == sorted(got)


def test_a_link_can_deliver_twice_and_out_of_order(pair: Pair) -> None:
    pair.world.network.worsen(Quality(duplicate=100, reorder=100))

    got = pair.send(1_000)

    assert set(got) == set(range(1_000))
    assert len(got) > 1_050
    assert [number for at, number in enumerate(got) if number not in got[:at]] != list(range(1_000))


def test_taking_one_fault_away_shifts_no_other() -> None:
    results = []
    for qualities in ([Quality(loss=200), Quality(delay_ns=5 * MS)], [Quality(loss=200)]):
        pair = Pair(seed=9)
        for quality in qualities:
            pair.world.network.worsen(quality)
        results.append(pair.send(300))
        pair.world.close()

    assert sorted(results[0]) == sorted(results[1])  # the same messages were lost


def test_a_cut_link_loses_everything_one_way_only(pair: Pair) -> None:
    network = pair.world.network
    network.block("a", "b")

    assert pair.send(10) == []
    assert network.carry(pair.b, pair.a, lambda **_: None) > 0


def test_two_reasons_to_cut_a_link_both_have_to_go(pair: Pair) -> None:
    network = pair.world.network
    network.block("a", "b")
    network.block("a", "b")
    network.unblock("a", "b")
    assert pair.send(5) == []
    network.unblock("a", "b")
    assert pair.send(5) == list(range(5))


def test_what_is_held_comes_later_in_order(pair: Pair) -> None:
    network = pair.world.network
    network.hold("a", "b")

    assert pair.send(20) == []
    network.release("a", "b")
    pair.run(1)

    assert [number for number, _ in pair.got] == list(range(20))


def test_healing_mends_everything(pair: Pair) -> None:
    network = pair.world.network
    network.worsen(Quality(loss=1_000))
    network.block("a", "b")
    network.hold("a", "b")
    network.heal()

    assert pair.send(50) == list(range(50))


def test_a_connection_is_late_on_a_lossy_link_but_loses_nothing(pair: Pair) -> None:
    network, loop = pair.world.network, pair.world.loop
    network.worsen(Quality(loss=300))
    for number in range(100):
        assert network.stream(pair.a, pair.b, 0, lambda number=number: pair.got.append((number, loop.now_ns)))
    pair.run(60_000)

    assert [number for number, _ in pair.got] == list(range(100))
    assert pair.got[-1][1] >= 200 * MS


def test_a_message_to_a_dead_process_has_no_effect(pair: Pair) -> None:
    assert pair.send(3) == [0, 1, 2]
    pair.world.loop.kill(pair.b.lane)
    assert pair.send(3) == [0, 1, 2]
