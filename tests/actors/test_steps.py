"""A wall clock that is set: intervals go on as if nothing had happened, instants are what the clock says they are."""

from __future__ import annotations

import pytest
from foliot.actors import messages as m
from foliot.actors.steps import Steps
from foliot.runtime.actor import Turn
from foliot.runtime.rng import Rng

from .harness_queue import START_MS, QueueHarness, kind
from .harness_shard import ShardHarness
from .test_tenant import TenantHarness

HOUR_MS = 3_600_000


def at(now_ms: int, mono_ms: int = -1) -> Turn:
    return Turn(address="a", now_ms=now_ms, mono_ms=mono_ms, rng=Rng(1))


def test_a_clock_that_was_set_is_noticed_by_the_monotonic_one() -> None:
    steps = Steps()
    taken = [steps.taken(at(*times)) for times in (
        (5_000, 10), (9_000_000, 8_995_010), (9_000_999, 8_995_020), (9_002_000, 8_996_020),
        (9_000_000, 8_996_021), (9_000_001, 8_996_022), (99_000_002, 8_996_023),
    )]  # fmt: skip
    # Idle for long, 0.989 s ahead, 1 ms further, back by a little more than a second, nothing, far ahead.
    assert taken == [0, 0, 0, 0, -1_011, 0, 90_000_000]


def test_without_one_only_that_it_was_set_back_is_noticed() -> None:
    steps = Steps()
    assert [steps.taken(at(now_ms)) for now_ms in (5_000, 9_000, 8_500, 9_001, 8_002, 8_001, 99_000)] == [
        0, 0, 0, 0, 0, -1_000, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["question", "key rate", "credits", "recovery", "ageing", "confirm"])
def test_a_queue_goes_on_within_an_interval_when_its_clock_is_set_back(part: str) -> None:
    queue = QueueHarness(configured=part != "recovery")
    queue.answers_tenants = part != "question"
    limited = kind(key_rate=1, key_rate_ms=4_000)
    if part == "key rate":
        queue.credit("w1", 9)
        queue.offer(limited, 2, key="k")
    elif part == "credits":
        queue.offer(kind(), 10)
        queue.credit("w1", 4, seen=0)  # and none of the bodies arrives
    elif part == "recovery":
        queue.configure()
        queue.credit("w1", 9)
        queue.offer(kind())
    elif part == "confirm":
        queue.credit("w1", 9)
        queue.offer(kind())
    elif part == "ageing":
        queue.configure(ageing_ms=1_000)
        queue.offer(kind(), priority=9)
        queue.advance_ms(2_000)
    else:
        queue.offer(kind())
    queue.sent.clear()
    queue.take_granted()

    queue.now_ms -= HOUR_MS
    queue.send(m.ReadQueue())

    if part == "key rate":
        queue.advance_ms(4_000)
        assert len(queue.granted) == 1
    elif part == "credits":
        queue.advance_ms(5_001)
        queue.credit("w1", 4, seen=0, refresh=True)
        assert len(queue.granted) == 4
    elif part == "recovery":
        queue.advance_ms(500)
        assert len(queue.granted) == 1
    elif part == "confirm":
        queue.advance_ms(10_000)
        assert [type(e.message) for e in queue.sent] == [m.ConfirmLeases]
    elif part == "ageing":
        [low] = queue.offer(kind(handler="low"), priority=8)
        queue.advance_ms(1_001)
        queue.offer(kind(handler="high"), priority=7)
        queue.credit("w1", 1)
        assert queue.granted_ids == [low]
    else:
        queue.advance_ms(1_000)
        assert len(queue.wanted()) == 1


def test_a_queue_asks_a_shard_within_a_second_when_its_clock_was_set_back_since_it_asked_last() -> None:
    queue = QueueHarness()
    queue.sent.clear()
    queue.now_ms -= HOUR_MS
    queue.send(m.ReadQueue())

    queue.send(m.OfferTasks(0, [], epoch=1, number=9))  # the ones before are missing
    queue.advance_ms(1_000)

    assert [e.to for e in queue.sent if isinstance(e.message, m.QueueStarted)] == ["shard.0"]


def test_credits_are_void_a_minute_after_they_were_renewed_also_when_the_clock_was_set_back() -> None:
    queue = QueueHarness()
    queue.credit("w1", 5)
    queue.now_ms -= HOUR_MS
    queue.send(m.ReadQueue())
    queue.advance_ms(60_001)
    assert queue.why(queue.offer(kind())[0]).reason == "no_worker"


def test_a_tenant_goes_on_within_an_interval_when_its_clock_is_set_back() -> None:
    tenant = TenantHarness(configured=False)
    tenant.sent.clear()
    tenant.now_ms -= HOUR_MS
    tenant.send(m.WantPermits("q1", 0, 5))
    tenant.advance_ms(1_000)
    assert len(tenant.sent) == 2  # the settings are asked for again
    tenant.configure(concurrency=4, max_pending=10, rate=10, rate_per_ms=1_000)
    tenant.admit(10)
    tenant.send(m.ReportUsage(0, 0, 0))
    tenant.sent.clear()
    tenant.now_ms -= HOUR_MS
    tenant.send(m.ReadTenant())
    tenant.advance_ms(5_000)
    assert tenant.admit(10) == m.TasksAdmitted(10)  # the admitted are forgotten, the bucket is full
    tenant.advance_ms(10_000)
    assert [e.to for e in tenant.sent if isinstance(e.message, m.PermitsGranted)] == ["q1"]  # silent: asked


def test_a_shard_reports_and_shows_its_number_when_its_clock_is_set_back(shard: ShardHarness) -> None:
    shard.submit()
    shard.now_ms -= HOUR_MS
    shard.deliver(m.ReadLedger())
    shard.sent.clear()
    shard.advance_ms(1_000)
    assert [type(e.message) for e in shard.sent] == [m.ReportUsage]
    shard.advance_ms(9_000)
    assert m.OfferTasks(0, [], epoch=1, number=2) in shard.messages(m.OfferTasks)


def test_an_attempt_has_the_time_it_had_when_its_clock_is_set_back(shard: ShardHarness) -> None:
    late, cancelled = shard.submit(timeout_ms=10_000, cancel_grace_ms=5_000) + shard.submit(cancel_grace_ms=5_000)
    shard.lease(late, cancelled)
    assert shard.cancel(cancelled) == ["cancelling"]

    shard.now_ms -= HOUR_MS
    shard.deliver(m.ReadLedger())

    shard.advance_ms(34_000)
    assert (shard.state_of(late), shard.state_of(cancelled)) == ("running", "running")
    shard.advance_ms(2_000)  # the grace and the margin
    assert (shard.state_of(late), shard.state_of(cancelled)) == ("running", "cancelled")
    shard.advance_ms(10_000)
    assert shard.state_of(late) != "running"


def test_a_task_that_is_due_at_an_instant_waits_for_it(shard: ShardHarness) -> None:
    [task] = shard.submit(delay_ms=5_000)
    shard.now_ms = START_MS
    shard.deliver(m.ReadLedger())
    shard.advance_ms(HOUR_MS)
    assert shard.state_of(task) == "scheduled"
