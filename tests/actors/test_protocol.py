"""Between shards, queues, tenants and worker actors: any message may be lost, come twice or late, and actors may move."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.addresses import shard_address, slot_of_address
from foliot.actors.rows import ShardChanges
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Envelope
from foliot.runtime.membership import SlotClaimed
from foliot.runtime.rng import Rng

from .harness_cluster import QUEUE, START_MS, Cluster

REPAIRED_MS = 32_000  # a message that was lost is made good within so long
AT_START = (m.QueueStarted, m.ConfigureQueue, m.QueueConfigured, m.ConfigureTenant, m.TenantStarted)


@pytest.mark.parametrize(
    "lost",
    [
        m.OfferTasks, m.GrantLeases, m.ReleaseTasks, m.QueueStarted, m.ConfigureQueue, m.QueueConfigured, m.ConfigureTenant,
        m.TenantStarted, m.WantPermits, m.PermitsGranted, m.RunTasks, m.ReportOutcomes, m.OutcomesTaken, m.WorkerCredits,
        m.HeldLeases, m.Heartbeat, m.WatchSession, m.ReportUsage,
    ],
)  # fmt: skip
@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
def test_any_single_message_may_be_lost(lost: type[Any], begun: bool) -> None:
    cluster = Cluster(1, shards=2, concurrency=3, tenant_concurrency=3)
    cluster.start_session("w1", 2)
    if begun:
        cluster.submit(0, 2)
        cluster.run_ms(25_000)
        assert cluster.unfinished() == 0
    cluster.lost_once = lost
    cluster.submit(0, 2)
    cluster.submit(1, 2)
    cluster.run_ms(REPAIRED_MS + 4 * 3_000)
    assert cluster.lost_once is None or (begun and lost in AT_START)
    assert cluster.unfinished() == 0
    cluster.run_ms(REPAIRED_MS)
    assert cluster.actor(QUEUE)._book.known == {}
    assert cluster.actor("tenant.acme")._permits.running == 0
    assert [usage[:2] for usage in cluster.actor("tenant.acme")._usage.values()] == [(0, 0)] * 2


def test_a_session_end_that_was_lost_is_told_again() -> None:
    cluster = Cluster(2, shards=2)
    cluster.start_session("w1", 2)
    cluster.submit(0, 2)
    cluster.run_ms(10)
    assert cluster.running() == 2
    cluster.sessions.clear()
    cluster.lost_once = m.SessionEnded
    cluster.run_ms(50_000)
    cluster.start_session("w2", 2)
    cluster.run_ms(5_000)
    assert cluster.unfinished() == 0


def test_a_lost_word_to_stop_is_said_again_with_the_next_heartbeat() -> None:
    cluster = Cluster(2, shards=1)
    cluster.start_session("w1", 1)
    cluster.sessions["w1"].takes_ms = 60_000  # the handler does not end by itself
    cluster.submit(0, 1)
    while not cluster.sessions["w1"].held:
        cluster.run_ms(1)
    [task] = cluster.sessions["w1"].held
    cluster.lost_once = m.CancelAttempts
    cluster.deliver(Envelope("shard.0", m.CancelTasks("acme", [task]), "client.1", 1))
    cluster.run_ms(9_000)
    assert list(cluster.sessions["w1"].held) == [task]
    cluster.run_ms(1_100)
    assert cluster.sessions["w1"].held == {}


# -- a shard tells its queues -------------------------------------------------------------------------------------------


def test_a_shard_falls_silent_when_nothing_is_going_on() -> None:
    cluster = Cluster(3, shards=2)
    cluster.start_session("w1", 4)
    cluster.submit(0, 3)
    cluster.run_ms(20_000)
    cluster.sessions.clear()
    cluster.run_ms(90_000)
    cluster.sent.clear()
    cluster.run_ms(3_600_000)
    assert cluster.sent == []


def test_what_a_shard_says_from_memory_alone_is_fenced_where_somebody_acts_on_it() -> None:
    cluster = Cluster(4, shards=1)
    shard = cluster.actors["shard.0"]
    for message in (
        m.QueueStarted(QUEUE, 1, 5), m.CancelTasks("acme", []), m.ConfirmLeases(QUEUE, [77], 1, 5),
        m.GrantLeases(QUEUE, "w1", [77], 1, 5, 1), m.ReportOutcomes("w1", [m.Outcome(77, 1, 1, 1, 2)]),
        m.HeldLeases("w1", [77], [1]),
    ):  # fmt: skip
        changes = ShardChanges(0, 1)
        turn = Turn(address="shard.0", now_ms=START_MS, rng=Rng(1), changes=changes)
        turn.sender, turn.request = "client.1", 1
        shard.handle(message, turn)
        assert changes.fence, message
    quiet = ShardChanges(0, 1)
    turn = Turn(address="shard.0", now_ms=START_MS, rng=Rng(1), changes=quiet)
    for harmless in (m.ReadLedger(), m.DescribeTasks([77]), m.HeldLeases("w1", [], []), m.ReportOutcomes("w1", [])):
        shard.handle(harmless, turn)
    assert not quiet


# -- actors that move ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["shard", "queue", "worker", "tenant"])
def test_an_actor_that_begins_anew_hears_what_it_must_know(what: str) -> None:
    cluster = Cluster(5, shards=4, concurrency=2)
    for name in ("w1", "w2"):
        cluster.start_session(name, 2)
    for shard in range(4):
        cluster.submit(shard, 3)
    cluster.run_ms(50)
    address = {"shard": "shard.3", "queue": QUEUE, "worker": "worker.w1", "tenant": "tenant.acme"}[what]
    if what == "shard":
        cluster.start_shard(3)
    else:
        slot = slot_of_address(address, 4)
        assert slot is not None
        cluster.forget(address)
        cluster.sent.clear()
        for each in range(4):
            cluster.post(Envelope(shard_address(each), SlotClaimed(slot, "b")))
        cluster.run_ms(1_100)
        heard = {type(envelope.message) for envelope in cluster.sent if envelope.to == address}
        wanted = {"queue": m.OfferTasks, "worker": m.WatchSession, "tenant": m.ReportUsage}[what]
        assert wanted in heard
        assert address in cluster.actors
    cluster.run_ms(40_000)
    assert cluster.unfinished() == 0
    assert cluster.most_running <= 2


def test_of_two_queue_actors_only_the_newer_one_leases() -> None:
    cluster = Cluster(6, shards=1)
    cluster.submit(0, 2)
    cluster.run_ms(20)
    shard, new_ms, old_ms = "shard.0", START_MS - 5, START_MS
    ids = list(cluster.actor(QUEUE)._book.known)
    cluster.deliver(Envelope(shard, m.QueueStarted(QUEUE, 2, new_ms, 0)))
    cluster.deliver(Envelope(shard, m.GrantLeases(QUEUE, "w1", ids[:1], 1, old_ms, 9)))
    assert cluster.running() == 0
    assert not [message for message in cluster.messages(m.ReleaseTasks) if ids[0] in message.ids]
    cluster.deliver(Envelope(shard, m.GrantLeases(QUEUE, "w1", ids[:1], 2, new_ms, 1)))
    assert cluster.running() == 1
    cluster.deliver(Envelope(shard, m.GrantLeases(QUEUE, "w1", ids[1:], 3, 0, 1)))  # heard of by its grants alone
    assert cluster.running() == 2


def test_an_old_queue_actor_is_told_nothing_and_takes_nothing_from_the_newer_one() -> None:
    cluster = Cluster(6, shards=1)
    cluster.submit(0, 1)
    cluster.run_ms(20)
    [task] = cluster.actor(QUEUE)._book.known
    cluster.deliver(Envelope("shard.0", m.QueueStarted(QUEUE, 2, START_MS, 0)))
    cluster.sent.clear()

    cluster.deliver(Envelope("shard.0", m.QueueStarted(QUEUE, 1, START_MS, 9)))
    cluster.deliver(Envelope("shard.0", m.ConfirmLeases(QUEUE, [77], 1, START_MS, 9)))
    assert [envelope.message for envelope in cluster.sent if envelope.to == QUEUE] == []

    cluster.deliver(Envelope("shard.0", m.GrantLeases(QUEUE, "w1", [task], 2, START_MS, 1)))
    assert cluster.running() == 1, "the old one's number 9 makes no grant of the newer one void"


def test_grants_that_come_twice_or_after_they_were_given_up_lease_nothing() -> None:
    cluster = Cluster(7, shards=1)
    cluster.submit(0, 3)
    cluster.run_ms(20)
    one, two, three = cluster.actor(QUEUE)._book.known
    epoch, born_ms = cluster.actor(QUEUE)._links.owner

    def grant(session: str, ids: list[int], number: int) -> None:
        cluster.deliver(Envelope("shard.0", m.GrantLeases(QUEUE, session, ids, epoch, born_ms, number)))

    grant("w1", [one], 1)
    grant("w1", [one], 1)
    grant("w1", [one], 2)  # by whatever mistake, with another number
    grant("w2", [one], 3)
    assert cluster.running() == 1
    assert cluster.messages(m.ReleaseTasks) == []  # it runs, so nothing has ended
    cluster.deliver(Envelope("shard.0", m.ConfirmLeases(QUEUE, [one, two], epoch, born_ms, 5)))
    released = cluster.messages(m.ReleaseTasks)
    assert [message.ids for message in released] == [[two]]
    offered = cluster.messages(m.OfferTasks)[-1]
    assert [lot.ids for lot in offered.lots] == [[two]]
    grant("w1", [two], 4)  # late: given up by number 5
    assert cluster.running() == 1
    grant("w1", [two, three], 6)
    assert cluster.running() == 3


# -- clocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_ms", [-7_200_000, -20_000, 25_000, 3_600_000])
@pytest.mark.parametrize("lost", [m.OfferTasks, m.GrantLeases, m.RunTasks, m.WantPermits, m.SessionEnded, m.QueueStarted])
def test_repairs_go_on_when_the_clock_is_set(lost: type[Any], by_ms: int) -> None:
    cluster = Cluster(8, shards=2, concurrency=3, tenant_concurrency=3)
    cluster.start_session("w1", 2)
    cluster.start_session("w2", 2)
    cluster.lost_once = lost
    cluster.submit(0, 3)
    cluster.submit(1, 3)
    cluster.run_ms(5)
    if lost is m.SessionEnded:
        del cluster.sessions["w2"]
    cluster.set_clock(by_ms)
    cluster.run_ms(REPAIRED_MS + 45_000)
    assert cluster.unfinished() == 0
    assert cluster.most_running <= 3


@pytest.mark.parametrize("by_ms", [16_000, 25_000, 45_000, 3_600_000])
def test_a_clock_set_forward_takes_no_lease_from_a_live_session(by_ms: int) -> None:
    cluster = Cluster(9, shards=2)
    cluster.start_session("w1", 4)
    cluster.submit(0, 2)
    cluster.run_ms(9_980)
    cluster.submit(1, 2)
    while cluster.running() < 2:
        cluster.run_ms(1)
    assert len(cluster.sessions["w1"].started) == 2  # the bodies of the others are under way
    cluster.set_clock(by_ms)
    cluster.run_ms(60_000)
    assert cluster.unfinished() == 0
    assert [attempt for _, attempt in cluster.sessions["w1"].started] == [1] * 4
    assert cluster.messages(m.SessionEnded) == []
