"""Ownership that moves: who hosts a slot, when nodes come, go, die, or see different members."""

from __future__ import annotations

import asyncio

import pytest
from foliot.runtime.bus import Envelope, Refusal
from foliot.runtime.errors import DeadlineError, NodeReplacedError, NoSuchActorError
from foliot.runtime.hashing import slot_of
from foliot.runtime.membership import NODES, SlotClaimed, SlotReleased

from .cluster import SLOTS, Cluster, Kept, LoopClock, Poke, Poked, Put, in_cluster


def desk_in(slot: int) -> str:
    """Return the address of a volatile actor that lives in a slot."""
    return next(f"queue.default.q{n}" for n in range(10_000) if slot_of(f"queue.default.q{n}", SLOTS) == slot)


def test_a_node_alone_hosts_all_slots_at_once_and_says_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start("a", alone=True)

        assert await cluster.until(cluster.nodes["a"].started.is_set, within_ms=10) <= 4  # two of them are the store's
        assert cluster.is_settled()
        await cluster.pass_ms(60_000)
        assert not cluster.network.sent
        assert await cluster.ask("shard.5", Put("k")) == Kept("k", 1)

    in_cluster(scenario)


def test_nodes_that_start_together_claim_each_slot_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")

        assert sorted(slot for slot, _, _ in cluster.store.claims) == list(range(SLOTS))
        assert all(each.slots for each in cluster.nodes.values())

    in_cluster(scenario)


def test_a_node_that_joins_gets_its_share_and_no_other_slot_moves() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        before = cluster.hosts()

        cluster.start("d")
        await cluster.until(lambda: bool(cluster.nodes["d"].slots) and cluster.is_settled(), within_ms=2_000)

        after = cluster.hosts()
        moved = [slot for slot in range(SLOTS) if before[slot] != after[slot]]
        assert moved == cluster.nodes["d"].slots
        assert SLOTS / 4 / 2 < len(moved) < SLOTS / 4 * 2
        assert [slot for slot in range(SLOTS) if cluster.store.epochs[slot] > 1] == moved

    in_cluster(scenario)


def test_a_slot_is_served_until_the_joining_node_takes_part_and_again_soon_after() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        cluster.start("c")
        await cluster.pass_ms(399)
        assert not cluster.nodes["c"].slots
        assert cluster.is_settled()

        assert await cluster.until(lambda: bool(cluster.nodes["c"].slots) and cluster.is_settled(), within_ms=1_000) < 200

    in_cluster(scenario)


def test_a_node_that_leaves_hands_its_slots_over_quickly_and_finishes_what_it_was_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        leaver = cluster.nodes["b"]
        slot = leaver.slots[0]
        cell = leaver.node.cells[f"shard.{slot}"]
        for number in range(200):  # several turns
            cell.deliver(Envelope(cell.address, Put(f"k{number}")))

        before = cluster.hosts()
        await leaver.node.leave()
        await leaver.life
        del cluster.nodes["b"]

        assert await cluster.until(cluster.is_settled, within_ms=1_000) < 200
        assert cluster.store.kept[slot] == [f"k{number}" for number in range(200)]
        assert all(before[n] == after for n, after in cluster.hosts().items() if before[n] != ["b"])
        assert max(cluster.store.epochs.values()) == 2, "each slot was claimed once more at most"

    in_cluster(scenario)


def test_a_slot_that_cannot_finish_in_time_is_given_back_and_what_waits_there_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        leaving = cluster.nodes.pop("a")
        slot = leaving.slots[0]
        cluster.store.commit_ms = 60_000
        begun = asyncio.create_task(cluster.ask(f"shard.{slot}", Put("k1"), timeout_ms=5_000))
        await cluster.pass_ms(10)
        waiting = asyncio.create_task(cluster.ask(f"shard.{slot}", Put("k2"), timeout_ms=5_000))
        await cluster.pass_ms(10)

        left = asyncio.create_task(leaving.node.leave())
        assert 490 <= await cluster.until(left.done, within_ms=1_000) <= 510
        await leaving.life
        assert await waiting == Refusal.of(NoSuchActorError(f"shard.{slot}"))  # it may be sent again
        with pytest.raises(DeadlineError):
            await begun
        await cluster.until(cluster.is_settled, within_ms=1_000)
        assert slot not in cluster.store.kept

    in_cluster(scenario)


def test_a_crashed_node_is_replaced_after_its_silence_and_within_ten_seconds() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        await cluster.pass_ms(12_345)
        before = cluster.hosts()
        await cluster.crash("c")
        lost = [slot for slot in range(SLOTS) if before[slot] == ["c"]]

        await cluster.pass_ms(4_400)  # the last beat came at most 2,500 ms before
        assert [slot for slot, hosts in cluster.hosts().items() if not hosts] == lost
        assert await cluster.until(cluster.is_settled, within_ms=10_000 - 4_400) > 0
        assert [slot for slot in range(SLOTS) if cluster.store.epochs[slot] > 1] == lost

    in_cluster(scenario)


def test_a_node_that_starts_again_before_it_was_missed_gets_its_own_slots() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        await cluster.pass_ms(5_000)
        before = cluster.hosts()
        await cluster.crash("c")
        await cluster.pass_ms(1_000)

        cluster.start("c")
        await cluster.until(cluster.is_settled, within_ms=2_000)
        assert cluster.hosts() == before

        await cluster.pass_ms(30_000)
        assert cluster.hosts() == before, "the earlier life is not held against it"

    in_cluster(scenario)


def test_the_durable_actors_here_hear_of_every_slot_that_was_claimed() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        keepers = list(cluster.nodes["a"].keepers.values())
        for keeper in keepers:
            keeper.heard.clear()

        await cluster.nodes["b"].node.leave()
        moved = sorted(cluster.nodes.pop("b").keepers)
        await cluster.until(cluster.is_settled, within_ms=1_000)
        await cluster.pass_ms(10)

        for keeper in keepers:
            assert sorted(message.slot for message in keeper.heard) == moved
            assert {message.node for message in keeper.heard} == {"a"}

    in_cluster(scenario)


def test_after_an_interruption_both_sides_hear_of_the_slots_again_and_none_moves() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        here, there = (dict(cluster.nodes[name].keepers) for name in "ab")
        for keeper in (*here.values(), *there.values()):
            keeper.heard.clear()

        cluster.nodes["a"].node.renew()
        await cluster.pass_ms(10)

        for slot, keeper in here.items():
            assert sorted(message.slot for message in keeper.heard) == [other for other in range(SLOTS) if other != slot]
        for keeper in there.values():
            assert sorted(message.slot for message in keeper.heard) == sorted(here)
        assert [dict(cluster.nodes[name].keepers) for name in "ab"] == [here, there]
        assert cluster.is_settled()

    in_cluster(scenario)


# -- different views ---------------------------------------------------------------------------------------------------


def test_a_node_cut_off_takes_over_nothing_and_keeps_its_slots_until_it_is_fenced() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        alone = cluster.nodes["c"]
        own = alone.slots
        cluster.network.cut(("a", "b"), ("c",))

        await cluster.pass_ms(30_000)
        assert alone.slots == own
        later = cluster.store.claims[SLOTS:]
        assert sorted(slot for slot, _, _ in later) == own
        assert {node for _, _, node in later} == {"a", "b"}

        cell = alone.node.cells[f"shard.{own[0]}"]
        cell.deliver(Envelope(cell.address, Put("too late")))
        await cluster.pass_ms(20_000)
        assert alone.slots == own[1:], "one is lost, the node lives, and takes it back from nobody"
        assert own[0] not in cluster.store.kept

        cluster.network.heal()
        await cluster.until(lambda: cluster.is_settled() and alone.slots == own, within_ms=5_000)
        assert await cluster.ask(f"shard.{own[0]}", Put("k")) == Kept("k", 3)

    in_cluster(scenario)


def test_two_halves_that_cannot_hear_each_other_do_not_fight_without_end() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        cluster.network.cut(("a",), ("b",))
        await cluster.pass_ms(10_000)
        claims = len(cluster.store.claims)

        for _ in range(100):  # messages reach both, so each finds out at once that it was fenced
            for slot in (1, 2, 3):
                for each in cluster.nodes.values():
                    cell = each.node.cells.get(f"shard.{slot}")
                    if cell is not None:
                        cell.deliver(Envelope(cell.address, Put("k")))
            await cluster.pass_ms(1_000)

        assert len(cluster.store.claims) - claims <= 3 * 10
        cluster.network.heal()
        await cluster.until(cluster.is_settled, within_ms=15_000)

    in_cluster(scenario)


def test_a_commit_under_an_old_epoch_drops_the_slot_and_leaves_the_answer_to_its_owner() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        cluster.store.epochs[slot] += 1  # somebody claimed it unseen

        with pytest.raises(DeadlineError):  # a refusal would deny what the other owner may have done
            await cluster.ask(f"shard.{slot}", Put("k"), timeout_ms=50)

        assert slot not in cluster.nodes["a"].slots
        assert slot not in cluster.store.kept
        await cluster.pass_ms(400)
        assert slot not in cluster.nodes["a"].slots, "a node that lost a slot leaves it alone at first"
        await cluster.until(cluster.is_settled, within_ms=500)
        assert await cluster.ask(f"shard.{slot}", Put("k")) == Kept("k", 3)

    in_cluster(scenario)


def test_what_waits_when_a_slot_is_lost_gets_no_answer() -> None:
    """The other owner may have got the same message, and done what it asks for."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        cluster.store.commit_ms = 50
        first = asyncio.create_task(cluster.ask(f"shard.{slot}", Put("k1"), timeout_ms=200))
        await cluster.pass_ms(10)
        second = asyncio.create_task(cluster.ask(f"shard.{slot}", Put("k2"), timeout_ms=200))
        cluster.store.epochs[slot] += 1  # somebody claimed it unseen

        for asked in (first, second):
            with pytest.raises(DeadlineError):
                await asked
        assert slot not in cluster.store.kept

    in_cluster(scenario)


@pytest.mark.parametrize("news", [SlotClaimed, SlotReleased])
def test_news_of_a_later_epoch_ends_what_an_unknowing_owner_hosts(news: type[SlotClaimed] | type[SlotReleased]) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        await cluster.ask(desk_in(slot), Poke())
        cluster.store.epochs[slot] = 5

        cluster.client.send(Envelope("slots" if news is SlotClaimed else NODES, news(slot, "z", 1)))
        await cluster.pass_ms(10)
        assert slot in cluster.nodes["a"].slots, "no later than its own"
        cluster.client.send(Envelope("slots" if news is SlotClaimed else NODES, news(slot, "z", 5)))
        await cluster.pass_ms(2)

        assert desk_in(slot) not in cluster.nodes["a"].node.cells
        await cluster.until(cluster.is_settled, within_ms=1_000)
        assert cluster.nodes["a"].node.hosted[slot] == 6

    in_cluster(scenario)


def test_a_slot_that_was_taken_unnoticed_and_given_back_is_claimed_again_at_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        cluster.store.epochs[slot] = 5

        cluster.client.send(Envelope(NODES, SlotReleased(slot, "z", 5)))
        await cluster.pass_ms(10)

        assert cluster.nodes["a"].node.hosted[slot] == 6

    in_cluster(scenario)


def test_a_release_that_comes_late_does_not_shorten_the_wait_after_the_next_loss() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        alone = cluster.nodes["a"]
        slot = alone.slots[0]
        cluster.client.send(Envelope(NODES, SlotReleased(slot, "b", alone.node.hosted[slot])))  # for the second time
        await cluster.pass_ms(10)
        cluster.store.epochs[slot] = 5
        cluster.client.send(Envelope("slots", SlotClaimed(slot, "z", 5)))
        cluster.client.send(Envelope(NODES, SlotReleased(slot, "b", 4)))
        await cluster.pass_ms(100)
        assert slot not in alone.slots, "it is z's for a while"

        await cluster.until(cluster.is_settled, within_ms=3_000)
        assert alone.node.hosted[slot] == 6

    in_cluster(scenario)


def test_a_claim_is_void_if_a_later_one_was_heard_of_before_its_own_answer() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        alone, store = cluster.nodes["a"], cluster.store
        slot = alone.slots[0]
        store.told_late_ms = 50
        store.epochs[slot] = 5
        cluster.client.send(Envelope("slots", SlotClaimed(slot, "z", 5)))
        await cluster.until(lambda: store.epochs[slot] == 6, within_ms=1_000)

        store.epochs[slot] = 7
        cluster.client.send(Envelope("slots", SlotClaimed(slot, "z", 7)))
        await cluster.pass_ms(100)

        assert slot not in alone.slots
        await cluster.until(cluster.is_settled, within_ms=3_000)
        assert alone.node.hosted[slot] == 8

    in_cluster(scenario)


def test_a_node_that_hears_too_few_does_not_begin_a_slot_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b", "c")
        alone = cluster.nodes["c"]
        slot, other = alone.slots[:2]
        cluster.network.cut(("a", "b"), ("c",))
        await cluster.pass_ms(4_000)  # not given up yet, and no longer certain of the others

        cluster.store.unknown = 1
        cell = alone.node.cells[f"shard.{slot}"]
        cell.deliver(Envelope(cell.address, Put("k")))
        await cluster.pass_ms(500)
        assert slot not in alone.slots
        assert cluster.store.epochs[slot] == 1
        assert other in alone.slots

        cluster.network.heal()
        await cluster.until(lambda: cluster.is_settled() and slot in alone.slots, within_ms=3_000)

    in_cluster(scenario)


def test_a_node_that_another_goes_by_the_name_of_ends() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        earlier = cluster.nodes["b"]
        cluster.network.buses["earlier b"] = cluster.network.buses.pop("b")
        await cluster.pass_ms(1_000)

        cluster.start("b")
        await cluster.pass_ms(10)

        assert earlier.life.done()
        with pytest.raises(NodeReplacedError, match=r"node 'b' of boot .* was replaced by boot .*"):
            await earlier.life
        await cluster.until(cluster.is_settled, within_ms=3_000)

    in_cluster(scenario)


# -- volatile actors -----------------------------------------------------------------------------------------------------


def test_volatile_actors_live_in_claimed_slots_only_and_know_the_epoch() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start("a", alone=True)
        node = cluster.nodes["a"].node
        await cluster.pass_ms(1)
        assert node.resolve(desk_in(3)) is None, "the store has not answered yet"

        await cluster.nodes["a"].started.wait()
        cluster.store.epochs[3] = 7
        cluster.client.send(Envelope("shard.3", Put("k")))  # fenced
        await cluster.pass_ms(10)
        assert node.resolve(desk_in(3)) is None
        await cluster.until(cluster.is_settled, within_ms=1_000)

        assert await cluster.ask(desk_in(3), Poke()) == Poked(8)
        assert await cluster.ask(desk_in(4), Poke()) == Poked(1)

    in_cluster(scenario)


def test_volatile_actors_end_with_their_slot() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        node = cluster.nodes["a"].node
        lost, kept = cluster.nodes["a"].slots[:2]
        for slot in (lost, kept):
            await cluster.ask(desk_in(slot), Poke())
        cluster.store.epochs[lost] += 1
        cluster.client.send(Envelope(f"shard.{lost}", Put("k")))
        await cluster.pass_ms(10)

        assert node.addresses("queue") == [desk_in(kept)]
        answer = await cluster.ask(desk_in(lost), Poke())
        assert isinstance(answer, Refusal)
        assert answer.code == "no_such_actor"

    in_cluster(scenario)


class Ear:
    def __init__(self) -> None:
        self.heard: list[Envelope] = []

    def deliver(self, envelope: Envelope) -> None:
        self.heard.append(envelope)


@pytest.mark.parametrize("is_lost", [False, True], ids=["given back", "lost"])
def test_what_waits_at_a_volatile_actor_is_refused_if_its_slot_is_given_back_but_not_if_it_is_lost(is_lost: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        node = cluster.nodes["a"].node
        slot = cluster.nodes["a"].slots[0]
        desk = desk_in(slot)
        await cluster.ask(desk, Poke())
        ear = Ear()
        cluster.client.bind("reply.ear", ear)
        left = None if is_lost else asyncio.create_task(node.leave())

        node.cells[desk].deliver(Envelope(desk, Poke(), "reply.ear", 9))
        if is_lost:
            node.deliver(Envelope("slots", SlotClaimed(slot, "z", 5)))
        await cluster.pass_ms(20)

        refused = [envelope for envelope in ear.heard if isinstance(envelope.message, Refusal)]
        assert refused == ([] if is_lost else [Envelope("reply.ear", Refusal.of(NoSuchActorError(desk)), desk, 9)])
        if left is not None:
            await left

    in_cluster(scenario)


# -- unknown commits -------------------------------------------------------------------------------------------------------


def test_after_an_unknown_commit_the_slot_goes_on_under_a_new_epoch() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        cluster.store.unknown = 1

        with pytest.raises(DeadlineError):
            await cluster.ask(f"shard.{slot}", Put("k1"), timeout_ms=200)

        assert await cluster.ask(f"shard.{slot}", Put("k2")) == Kept("k2", 2)
        assert cluster.store.kept[slot] == ["k1", "k2"], "written once"
        assert cluster.is_settled()

    in_cluster(scenario)


def test_a_slot_that_goes_on_after_another_had_it_begins_its_volatile_actors_anew() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        slot = cluster.nodes["a"].slots[0]
        assert await cluster.ask(desk_in(slot), Poke()) == Poked(1)
        cluster.store.unknown = 1
        cluster.client.send(Envelope(f"shard.{slot}", Put("k1")))
        while cluster.store.unknown:
            await cluster.pass_ms(1)
        cluster.store.epochs[slot] += 1  # claimed by a node that is cut off from this one

        await cluster.pass_ms(1_000)

        assert await cluster.ask(desk_in(slot), Poke()) == Poked(3)

    in_cluster(scenario)


def test_nodes_that_leave_together_do_not_wait_for_each_other_to_take_their_slots() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.settle("a", "b")
        began_ns = LoopClock().mono_ns()

        await asyncio.gather(*[cluster.nodes[name].node.leave() for name in ("a", "b")])

        assert (LoopClock().mono_ns() - began_ns) // 1_000_000 < 1_500
        assert not any(cluster.nodes[name].node.hosted for name in ("a", "b"))

    in_cluster(scenario)


def test_actors_that_are_spent_end_when_there_are_many_and_the_others_stay() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start("a", alone=True)
        node = cluster.nodes["a"].node
        await cluster.until(cluster.nodes["a"].started.is_set, within_ms=10)
        for number in range(1_000):
            await cluster.ask(f"queue.default.q{number}", Poke())
            if number % 10 == 0:
                await cluster.ask(f"queue.default.q{number}", Poke())
        assert 256 < len(node.addresses("queue")) < 1_000, "they are looked for once a second"

        for number in range(1_000, 1_010):
            await cluster.pass_ms(1_000)
            await cluster.ask(f"queue.default.q{number}", Poke())

        live = node.addresses("queue")
        assert [address for address in live if address.endswith("0")] == sorted(
            f"queue.default.q{number}" for number in range(0, 1_010, 10)
        )
        assert len(live) == 100 + 10
        assert sorted(name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("queue.")) == live
        assert await cluster.ask("queue.default.q7", Poke()) == Poked(1)  # begun anew

    in_cluster(scenario)
