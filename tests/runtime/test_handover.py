"""Slots are given back a few at a time, in order, and neither lost news nor the death of a node holds the others up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest
from foliot.runtime.handover import HandOver
from foliot.runtime.ring import Ring

from .cluster import SLOTS, Cluster, in_cluster, run

TURN_MS = 500
STEP_MS = 100


class Giver:
    """A node that gives back slots. `given`: which, and how many ms after the start; `kept`: those it wants to keep after
    all; `begun`: how often the hand-over asked to be run."""

    def __init__(self, *, at_once: int = 2, kept: Sequence[int] = ()) -> None:
        self.kept = dict.fromkeys(kept)
        self.asked: list[int] = []
        self.begun = 0
        self.lives: list[asyncio.Task[None]] = []
        self._given: list[tuple[int, int]] = []
        self._start_s = asyncio.get_running_loop().time()
        self.hand_over = HandOver(self._retire, self._begin, at_once=at_once, turn_ms=TURN_MS)

    def _retire(self, slot: int) -> bool:
        self.asked.append(slot)
        if slot in self.kept:
            return False
        self._given.append((slot, round((asyncio.get_running_loop().time() - self._start_s) * 1000)))
        return True

    def _begin(self) -> None:
        self.begun += 1
        self.lives.append(asyncio.get_running_loop().create_task(self.hand_over.run()))

    @property
    def given(self) -> list[int]:
        return [slot for slot, _ in self._given]

    @property
    def given_at(self) -> list[tuple[int, int]]:
        return list(self._given)

    def add(self, *slots: int) -> None:
        for slot in slots:
            self.hand_over.add(slot)

    async def claimed(self, *slots: int) -> None:
        """Let news come that slots were claimed, and be acted on."""
        for slot in slots:
            self.hand_over.hear_claimed(slot)
        await self.pass_ms(1)

    async def pass_ms(self, span_ms: int) -> None:
        await asyncio.sleep(span_ms / 1000)


def giving(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in virtual time."""
    run(scenario)


# -- in turn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_as_many_as_may_be_on_their_way_go_and_one_more_for_each_that_is_claimed(at_once: int) -> None:
    async def scenario() -> None:
        giver = Giver(at_once=at_once)
        giver.add(*range(20, 30))
        assert giver.given == [*range(20, 20 + at_once)], "the first go at once"

        for number in range(3):
            await giver.claimed(20 + number)
            assert giver.given == [*range(20, 20 + at_once + number + 1)]

    giving(scenario)


def test_slots_go_in_the_order_they_were_added_whatever_their_numbers_and_whoever_claims_first() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(9, 3, 7, 1, 5)

        await giver.claimed(3)
        await giver.claimed(7)
        await giver.claimed(9, 1)

        assert giver.given == [9, 3, 7, 1, 5]

    giving(scenario)


def test_two_claims_heard_at_once_let_two_go() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3, 4, 5)

        await giver.claimed(1, 2)

        assert giver.given == [1, 2, 3, 4]

    giving(scenario)


def test_news_of_slots_that_are_not_on_their_way_lets_none_go() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3)

        await giver.claimed(40, 41)
        assert giver.given == [1, 2]

        await giver.claimed(1)
        await giver.claimed(1)  # told twice
        assert giver.given == [1, 2, 3]

    giving(scenario)


def test_a_slot_that_another_took_while_it_waited_is_not_given_back() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3, 4)

        await giver.claimed(3)
        await giver.claimed(1)

        assert giver.given == [1, 2, 4]

    giving(scenario)


def test_a_slot_that_is_not_to_go_any_more_takes_nobodys_turn() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3, 4, 5)
        giver.kept = dict.fromkeys([3, 4])  # it became the node's own again while it waited

        await giver.claimed(1)

        assert giver.asked == [1, 2, 3, 4, 5]
        assert giver.given == [1, 2, 5]

    giving(scenario)


def test_a_slot_that_is_added_again_while_it_waits_is_given_back_once() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3, 3, 4, 3)

        await giver.claimed(1, 2)
        await giver.claimed(3, 4)
        await giver.pass_ms(10 * TURN_MS)

        assert giver.asked == [1, 2, 3, 4]

    giving(scenario)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_slots_that_nobody_is_heard_to_claim_are_waited_for_until_their_time_is_over() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2)
        await giver.pass_ms(STEP_MS)
        giver.add(3, 4, 5)

        await giver.pass_ms(10 * TURN_MS)

        assert giver.given_at == [(1, 0), (2, 0), (3, TURN_MS), (4, TURN_MS), (5, 2 * TURN_MS)]

    giving(scenario)


def test_a_slot_whose_news_was_lost_is_not_waited_for_longer_although_others_move() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(*range(20))
        for number in range(1, 5):  # of 0 nothing is ever heard
            await giver.pass_ms(STEP_MS - 1)
            await giver.claimed(number)
        assert giver.given == [0, 1, 2, 3, 4, 5], "it has its place"

        await giver.pass_ms(TURN_MS - 4 * STEP_MS)
        assert giver.given == [0, 1, 2, 3, 4, 5, 6], "its time is over: two are on their way again"
        assert giver.given_at[-1] == (6, TURN_MS)

    giving(scenario)


def test_slots_that_were_never_heard_of_again_do_not_hold_up_a_later_hand_over() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2)
        await giver.pass_ms(TURN_MS)  # both came back to the node, which does not hear of itself

        giver.add(1, 2, 3)

        assert giver.given == [1, 2, 1, 2]
        await giver.claimed(1)
        assert giver.given == [1, 2, 1, 2, 3]

    giving(scenario)


def test_a_slot_that_goes_a_second_time_is_waited_for_from_then_on() -> None:
    async def scenario() -> None:
        giver = Giver(at_once=3)
        giver.add(1, 2)
        await giver.pass_ms(STEP_MS)
        giver.add(1, 3, 4, 5)  # the first had come back

        await giver.pass_ms(10 * TURN_MS)

        later = TURN_MS + STEP_MS
        assert giver.given_at == [(1, 0), (2, 0), (1, STEP_MS), (3, STEP_MS), (4, TURN_MS), (5, later)]

    giving(scenario)


# -- its runs ----------------------------------------------------------------------------------------------------------


def test_it_asks_to_be_run_only_while_something_waits_and_once_at_a_time() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2)
        assert giver.begun == 0, "nothing waits"

        giver.add(3, 4)
        assert giver.begun == 1
        await giver.claimed(1, 2)
        assert giver.lives[0].done()

        giver.add(5, 6)
        assert (giver.begun, giver.given) == (2, [1, 2, 3, 4])
        await giver.claimed(3, 4)
        assert giver.given == [1, 2, 3, 4, 5, 6]

    giving(scenario)


def test_news_that_comes_before_its_run_has_begun_counts_at_once() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3, 4, 5)

        giver.hand_over.hear_claimed(1)  # the run was asked for, and has not had its turn
        await giver.pass_ms(1)

        assert giver.given == [1, 2, 3]

    giving(scenario)


def test_a_run_that_is_cancelled_gives_nothing_back_and_can_be_begun_again() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(1, 2, 3)
        await giver.pass_ms(STEP_MS)

        giver.lives[0].cancel()
        with suppress(asyncio.CancelledError):
            await giver.lives[0]
        await giver.pass_ms(10 * TURN_MS)
        assert giver.given == [1, 2]

        giver.add(4)
        assert giver.given == [1, 2, 3, 4]

    giving(scenario)


def test_when_nobody_is_left_all_go_at_once_in_order_and_the_run_ends() -> None:
    async def scenario() -> None:
        giver = Giver()
        giver.add(5, 4, 3, 2, 1)
        await giver.pass_ms(STEP_MS)

        giver.hand_over.hurry()

        assert giver.given_at == [(5, 0), (4, 0), (3, STEP_MS), (2, STEP_MS), (1, STEP_MS)]
        await giver.pass_ms(1)
        assert giver.lives[0].done()

    giving(scenario)


# -- between nodes -----------------------------------------------------------------------------------------------------


async def watch(cluster: Cluster, *, for_ms: int) -> list[int]:
    """Return how many slots nobody hosts, at each ms."""
    found = []
    for _ in range(for_ms):
        await cluster.pass_ms(1)
        found.append(sum(not hosts for hosts in cluster.hosts().values()))
    return found


def test_of_a_node_that_leaves_no_more_than_two_slots_are_away_at_any_moment() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        leaving = cluster.nodes["b"]
        count = len(leaving.slots)

        left = asyncio.create_task(leaving.node.leave())
        away = await watch(cluster, for_ms=400)

        await left
        assert max(away) == 2
        assert away[-1] == 0
        assert sum(away) <= count * 10, "each for as long as a claim takes, and no longer"

    in_cluster(scenario)


def test_to_a_node_that_joins_slots_go_two_at_a_time() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a")  # one giver, so one turn
        cluster.start("b")
        await cluster.pass_ms(390)

        away = await watch(cluster, for_ms=500)

        assert max(away) == 2
        assert cluster.is_settled()
        assert len(cluster.nodes["b"].slots) > SLOTS / 4

    in_cluster(scenario)


def test_slots_that_waited_for_their_turn_stay_when_their_taker_leaves_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a")
        cluster.start("b")
        await cluster.until(lambda: len(cluster.nodes["b"].slots) > 4, within_ms=1_000)
        came = dict(cluster.nodes["b"].node.hosted)
        await cluster.nodes["b"].node.leave()
        await cluster.nodes.pop("b").life

        await cluster.until(cluster.is_settled, within_ms=1_000)
        await cluster.pass_ms(10_000)

        stayed = [slot for slot, epoch in cluster.nodes["a"].node.hosted.items() if epoch == 1]
        assert len(stayed) > SLOTS - 2 * len(came), "what was not on its way yet never went"
        assert len(cluster.store.claims) == SLOTS + 2 * (SLOTS - len(stayed)), "the others went, and came back"

    in_cluster(scenario)


def test_a_taker_that_dies_amid_a_hand_over_delays_its_own_slots_turns_and_no_others() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        leaving = cluster.nodes["a"]
        mine = leaving.slots
        left = asyncio.create_task(leaving.node.leave())
        await cluster.pass_ms(6)
        later = Ring(["b", "c"])
        orphans = [slot for slot in leaving.slots if later.owner(slot) == "b"]
        assert 2 < len(orphans) < len(mine) - 2, "amid the hand-over"
        await cluster.crash("b")

        took_ms = await cluster.until(left.done, within_ms=10_000)
        assert TURN_MS < took_ms < (len(orphans) + 1) // 2 * TURN_MS + 200
        await cluster.pass_ms(20)
        assert all(cluster.nodes["c"].node.hosted.get(slot) for slot in mine if later.owner(slot) == "c")
        del cluster.nodes["a"]
        await leaving.life
        await cluster.until(cluster.is_settled, within_ms=10_000)
        assert max(cluster.store.epochs.values()) <= 3

    in_cluster(scenario)


def test_a_giver_that_dies_amid_a_hand_over_is_replaced_within_ten_seconds() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        leaving = cluster.nodes["a"]
        mine = leaving.slots
        left = asyncio.create_task(leaving.node.leave())
        await cluster.pass_ms(20)
        kept = leaving.slots
        assert 2 < len(kept) < len(mine), "amid the hand-over"

        left.cancel()
        await cluster.crash("a")

        await cluster.until(cluster.is_settled, within_ms=10_000)
        assert all(cluster.store.epochs[slot] == (2 if slot in mine else 1) for slot in range(SLOTS)), "none moved twice"

    in_cluster(scenario)


def test_a_hand_over_between_nodes_whose_news_is_lost_ends_all_the_same() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        leaving = cluster.nodes["b"]
        count = len(leaving.slots)
        leaving.bus.unbind("slots")  # nothing is heard of claims any more

        left = asyncio.create_task(leaving.node.leave())
        await cluster.until(left.done, within_ms=(count + 1) // 2 * (TURN_MS + 50))
        await leaving.life
        del cluster.nodes["b"]

        await cluster.until(cluster.is_settled, within_ms=100)

    in_cluster(scenario)
