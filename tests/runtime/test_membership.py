"""Who counts as alive, by what was heard of it and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from foliot.actors.wire import decode, encode
from foliot.runtime.bus import Envelope
from foliot.runtime.errors import UsageError
from foliot.runtime.membership import NODES, Membership, MembershipConfig, NodeBeat, SlotClaimed, SlotReleased, boot_id
from foliot.runtime.rng import Rng

from .cluster import LoopClock, Network, NodeBus, run

CONFIG = MembershipConfig()


class View:
    """One node's membership on a network of its own; the test speaks for all others."""

    def __init__(self, cluster: int = 0) -> None:
        self.network = Network()
        self.clock = LoopClock()
        self.changes: list[list[str]] = []
        self.released: list[SlotReleased] = []
        self.said: list[NodeBeat] = []
        self._others = NodeBus(self.network, "others")
        self._others.bind(NODES, self)
        self.membership = Membership(
            CONFIG, name="a", boot="5", bus=NodeBus(self.network, "a"), clock=self.clock,
            changed=lambda: self.changes.append(self.membership.alive), released=self.released.append, cluster=cluster,
        )  # fmt: skip

    def deliver(self, envelope: Envelope) -> None:
        if envelope.message.name == "a":
            self.said.append(envelope.message)

    async def hear(self, name: str, boot: str = "1", **fields: Any) -> None:
        """Let the node hear a beat."""
        beat = NodeBeat(name, boot, now_ms=fields.pop("now_ms", self.clock.now_ms()), **fields)
        self._others.send(Envelope(NODES, beat))
        await asyncio.sleep(0.002)

    async def beats(self, span_ms: int, *names: str) -> None:
        """Let time pass in which these nodes beat as they should."""
        for _ in range(span_ms // 500):
            for name in names:
                await self.hear(name)
            await asyncio.sleep(0.5 - 0.002 * len(names))


def viewed(scenario: Callable[[View], Coroutine[Any, Any, None]], cluster: int = 0) -> None:
    async def whole() -> None:
        view = View(cluster)
        try:
            await scenario(view)
        finally:
            view.membership.stop()

    run(whole)


def test_a_node_asks_listens_and_then_takes_part() -> None:
    async def scenario(view: View) -> None:
        joined = asyncio.create_task(view.membership.join())
        await asyncio.sleep(0)
        await view.hear("b")
        await view.hear("c", joining=True, asks=True)
        assert [(beat.joining, beat.asks) for beat in view.said] == [(True, True), (True, False)]

        await joined
        await asyncio.sleep(0.01)
        assert (view.said[-1].joining, view.said[-1].asks) == (False, False)
        assert view.membership.alive == ["a", "b", "c"]
        assert view.membership.established == ["b"], "who joins at the same time releases nothing"
        assert view.changes == []

    viewed(scenario)


def test_a_node_that_joins_is_answered_at_once_but_counts_once_it_takes_part() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await asyncio.sleep(0.1)
        said = len(view.said)

        await view.hear("b", joining=True, asks=True)
        assert len(view.said) == said + 1
        assert view.changes == []

        await view.hear("b")
        assert view.changes == [["a", "b"]]

    viewed(scenario)


def test_there_is_one_beat_an_interval_and_nothing_else() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await asyncio.sleep(0.1)
        view.said.clear()
        await view.beats(100_000, "b", "c")

        assert len(view.said) == 40
        assert not any(beat.asks for beat in view.said)

    viewed(scenario)


def test_a_silent_member_is_asked_and_then_given_up() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.beats(10_000, "b", "c")
        view.said.clear()

        await view.beats(6_000, "c")
        assert view.changes[-1] == ["a", "b", "c"]
        assert not any(beat.asks for beat in view.said)
        await view.beats(1_000, "c")
        assert [beat.asks for beat in view.said].count(True) == 1
        assert view.changes[-1] == ["a", "c"]
        assert not view.membership.will_release("b")

    viewed(scenario)


def test_a_member_that_answers_in_the_last_moment_stays() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b")
        await asyncio.sleep(6.9)
        assert view.said[-1].asks
        await view.hear("b")
        await asyncio.sleep(3)

        assert view.changes == [["a", "b"]]

    viewed(scenario)


def test_a_member_that_leaves_is_gone_at_once_and_what_comes_late_does_not_bring_it_back() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b")
        await view.hear("b", leaving=True)
        assert view.changes == [["a", "b"], ["a"]]
        assert view.membership.will_release("b")

        await view.hear("b")
        assert len(view.changes) == 2
        await view.hear("b", boot="2")
        assert view.changes[-1] == ["a", "b"]
        await view.hear("b", boot="1", leaving=True)
        assert view.changes[-1] == ["a", "b"], "said in an earlier life"

    viewed(scenario)


def test_what_an_unheard_life_of_a_member_says_last_does_not_end_the_one_that_is_heard() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b", boot="2")
        await view.hear("b", boot="1", leaving=True)

        assert view.changes == [["a", "b"]]
        assert view.membership.knows("b")

    viewed(scenario)


def test_a_new_life_of_a_member_replaces_the_old_one() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b", boot="1")
        await view.hear("b", boot="2")
        await view.beats(6_500)
        await view.hear("b", boot="1")  # still under way somewhere
        await view.beats(1_000)

        assert view.changes == [["a", "b"], ["a"]]

    viewed(scenario)


def test_who_hears_less_than_half_of_those_it_knew_takes_over_nothing_for_a_minute() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.beats(10_000, "b", "c", "d")
        assert view.membership.may_take_over()

        await view.beats(7_500)
        assert view.changes[-1] == ["a"]
        assert not view.membership.may_take_over()
        assert view.membership.is_reduced
        changes = len(view.changes)
        await view.beats(50_000)
        assert len(view.changes) == changes
        await view.beats(5_500)
        assert len(view.changes) > changes
        assert view.membership.may_take_over()

    viewed(scenario)


def test_a_node_cut_off_never_believes_that_only_some_are_gone() -> None:
    """Members fall silent one after the other; the first must not be replaced while the others are not heard either."""

    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.beats(10_000, "b", "c")
        await asyncio.sleep(1)
        await view.hear("c")
        for _ in range(30_000):
            assert "b" in view.membership.alive or not view.membership.may_take_over()
            await asyncio.sleep(0.001)

    viewed(scenario)


def test_half_of_the_members_is_enough() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b")
        await asyncio.sleep(7.1)

        assert view.changes == [["a", "b"], ["a"]]
        assert view.membership.may_take_over()

    viewed(scenario)


def test_hearing_enough_again_is_told() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.beats(2_000, "b", "c", "d")
        await asyncio.sleep(6.2)  # not dead yet, but not heard for long either
        assert not view.membership.may_take_over()
        changes = len(view.changes)
        await view.hear("b")

        assert view.membership.may_take_over()
        assert len(view.changes) == changes + 1

    viewed(scenario)


def test_a_node_that_stood_still_does_not_blame_the_others() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b")
        loop: Any = asyncio.get_running_loop()
        loop._jumping.slept += 60  # nothing of this process ran
        await asyncio.sleep(0.002)
        assert view.said[-1].asks
        await view.hear("b")
        await asyncio.sleep(3)

        assert view.changes == [["a", "b"]]

    viewed(scenario)


def test_the_worst_difference_of_the_clocks_is_a_figure() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b", now_ms=view.clock.now_ms() - 1_999)
        await view.hear("c", now_ms=view.clock.now_ms() + 501)

        assert view.membership.figures() == {"members": 3, "silent": 0, "skew_ms": 2_000}  # one of it under way

    viewed(scenario)


def test_a_later_life_under_the_own_name_is_noticed_and_an_earlier_one_told() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await asyncio.sleep(0.1)
        await view.hear("a", boot="4")
        assert view.said[-1].asks
        assert view.changes == []

        await view.hear("a", boot="6")
        assert view.membership.replaced_by == "6"
        assert len(view.changes) == 1

    viewed(scenario)


def test_a_leaving_node_says_so_and_speaks_no_more() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        view.membership.leave()
        await asyncio.sleep(0.01)
        said = len(view.said)
        assert view.said[-1].leaving
        await view.hear("b", asks=True, joining=True)
        await asyncio.sleep(10)

        assert len(view.said) == said

    viewed(scenario)


def test_boots_sort_by_their_beginning() -> None:
    async def scenario(view: View) -> None:
        earlier = boot_id(view.clock, Rng(1))
        await asyncio.sleep(0.001)
        assert earlier < boot_id(view.clock, Rng(1))
        assert boot_id(view.clock, Rng(1)) != boot_id(view.clock, Rng(2))

    viewed(scenario)


def test_spans_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="dead_after_ms is 3000, expected more than interval_ms 2500 and ask_before_ms"):
        MembershipConfig(dead_after_ms=3_000)


@pytest.mark.parametrize(
    "message",
    [NodeBeat("a", "1", True, False, 7, True), SlotReleased(3, "a", 4), SlotClaimed(3, "a", 4)],
)
def test_what_nodes_tell_each_other_travels(message: msgspec.Struct) -> None:
    assert decode(encode(message)) == message


def test_a_node_without_its_network_counts_nobody_dead_and_gives_all_their_time_again() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b")
        view.membership.hears(False)
        await asyncio.sleep(60)
        assert view.membership.alive == ["a", "b"]
        assert view.membership.may_take_over()

        said = len(view.said)
        view.membership.hears(True)
        await asyncio.sleep(0.002)
        assert view.said[said].asks, "it asks at once who is there"
        await asyncio.sleep(CONFIG.dead_after_ms / 1000 - 1)
        assert view.membership.alive == ["a", "b"]
        await asyncio.sleep(2)
        assert view.membership.alive == ["a"]

    viewed(scenario)


def test_every_life_that_was_heard_is_remembered_even_of_nodes_that_left() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b", "1")
        await view.hear("b", "2")
        await view.hear("c", "3", leaving=True)

        assert view.membership.lives == ["1", "2", "3"]
        assert not view.membership.forgot_lives

    viewed(scenario)


@pytest.mark.parametrize(
    ("beat", "is_foreign"), [({"joining": True, "boot": "4"}, True), ({"joining": True, "boot": "6"}, False), ({}, True)]
)
def test_of_nodes_of_two_databases_the_one_that_was_there_first_stays(beat: dict[str, Any], is_foreign: bool) -> None:
    async def scenario(view: View) -> None:
        joined = asyncio.create_task(view.membership.join())
        await asyncio.sleep(0)
        await view.hear("b", cluster=8, asks=True, **beat)

        assert (view.membership.foreign == "b") is is_foreign
        assert view.membership.alive == ["a"]
        assert len(view.said) == 2, "it is told that somebody is there"
        await joined

    viewed(scenario, cluster=7)


def test_a_node_that_takes_part_is_not_disturbed_by_those_of_another_database() -> None:
    async def scenario(view: View) -> None:
        await view.membership.join()
        await view.hear("b", cluster=8)
        await view.hear("c", cluster=0)

        assert view.membership.foreign == ""
        assert view.membership.alive == ["a", "c"]

    viewed(scenario, cluster=7)
