"""The tenant actor: admission by rate and quota, and permits that never exceed the limit, whatever gets lost."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors.permits import REFRESH_MS
from foliot.actors.queue import QueueActor
from foliot.actors.shares import PROBE_MS, ROTATE_MS
from foliot.actors.tenant import HELD_MAX, RECOVERY_MS, TenantActor
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Envelope, Refusal
from foliot.runtime.hashing import slot_of
from foliot.runtime.rng import Rng
from msgspec.structs import replace

from .harness_queue import START_MS, kind


class TenantHarness:
    """One tenant actor; time moves only when told."""

    def __init__(
        self, *, configured: bool = True, recovered: bool = True, shards: int = 2, epoch: int = 0, **config: Any
    ) -> None:  # fmt: skip
        self.now_ms = START_MS
        self.actor = TenantActor("acme", shards, epoch=epoch)
        self.sent: list[Envelope] = []
        self._request = 0
        self._run(self.actor.started)
        for shard in range(shards if recovered else 0):
            self.send(m.ReportUsage(shard, 0, 0, full=True))
        if configured:
            self.configure(**config)

    def _run(self, run: Any) -> list[Envelope]:
        turn = Turn(address="tenant.acme", now_ms=self.now_ms, rng=Rng(1))
        run(turn)
        self.sent += turn.outbox
        return turn.outbox

    def send(self, message: Any, *, request: int = 0, sender: str = "gateway.1") -> list[Envelope]:
        def handle(turn: Turn) -> None:
            turn.sender, turn.request = sender, request
            self.actor.handle(message, turn)

        return self._run(handle)

    def configure(self, **config: Any) -> None:
        self.send(m.ConfigureTenant(m.TenantConfig("acme", **config)))

    def ask(self, message: Any) -> Any:
        self._request += 1
        [answer] = self.send(message, request=self._request)
        assert (answer.to, answer.request) == ("gateway.1", self._request)
        return answer.message

    def admit(self, count: int) -> Any:
        return self.ask(m.AdmitTasks(count))

    def want(self, queue: str, running: int, waiting: int, **fields: Any) -> list[tuple[str, int]]:
        """A queue reports; return (queue, allowed) of what is told to whom."""
        sent = self.send(m.WantPermits(queue, running, waiting, **fields))
        return [(envelope.to, envelope.message.allowed) for envelope in sent]

    def number(self, queue: str) -> int:
        """Return the number of the newest grant to a queue."""
        return max(e.message.number for e in self.sent if e.to == queue and isinstance(e.message, m.PermitsGranted))

    def advance_ms(self, span_ms: int) -> None:
        until_ms = self.now_ms + span_ms
        for _ in range(10_000):
            due = self.actor.due_ms()
            if due is None or due > until_ms:
                break
            self.now_ms = max(due, self.now_ms)
            self._run(self.actor.on_time)
        else:
            raise AssertionError("the actor's timer spins")
        self.now_ms = until_ms


def test_a_new_tenant_asks_every_shard_again_until_its_settings_are_there() -> None:
    tenant = TenantHarness(configured=False)
    assert [(e.to, e.message) for e in tenant.sent] == [(f"shard.{n}", m.TenantStarted("acme")) for n in (0, 1)]
    tenant.advance_ms(3_000)
    assert len(tenant.sent) == 6
    tenant.configure()
    assert tenant.actor.due_ms() is None


def test_requests_wait_for_the_settings_and_are_answered_under_their_numbers() -> None:
    tenant = TenantHarness(configured=False)
    assert tenant.send(m.AdmitTasks(3), request=11) == []
    assert tenant.send(m.AdmitTasks(9), request=12, sender="gateway.2") == []
    sent = tenant.send(m.ConfigureTenant(m.TenantConfig("acme", rate=5)))
    assert [(e.to, e.request, type(e.message)) for e in sent] == [
        ("gateway.1", 11, m.TasksAdmitted),
        ("gateway.2", 12, Refusal),
    ]


def test_only_so_many_requests_wait_for_the_settings() -> None:
    tenant = TenantHarness(configured=False)
    for number in range(HELD_MAX):
        assert tenant.send(m.AdmitTasks(1), request=number + 1) == []
    [answer] = tenant.send(m.AdmitTasks(1), request=HELD_MAX + 1)
    assert (answer.message.code, answer.message.retry_after_ms) == ("overloaded", 200)


def test_a_tenant_without_limits_admits_everything() -> None:
    tenant = TenantHarness()
    assert tenant.admit(1_000_000) == m.TasksAdmitted(1_000_000)
    assert tenant.ask(m.ReadTenant()) == m.TenantRead(m.TenantConfig("acme"), 0, 0, -1)


def test_a_rate_refuses_with_the_numbers_and_the_exact_wait() -> None:
    tenant = TenantHarness(rate=100, rate_per_ms=60_000, burst=10)
    assert tenant.admit(7) == m.TasksAdmitted(7)
    assert tenant.ask(m.ReadTenant()).tokens == 3
    refusal = tenant.admit(5)
    assert refusal == Refusal(
        "rate_limited",
        "tenant 'acme' may submit 100 tasks per 60000 ms, 10 at once; 5 were asked for and 3 are left; "
        "retry in 1200 ms",
        1_200,
    )
    tenant.now_ms += 1_199
    assert isinstance(tenant.admit(5), Refusal)
    tenant.now_ms += 1
    assert tenant.admit(5) == m.TasksAdmitted(5)


def test_a_batch_larger_than_the_bucket_passes_when_it_is_full() -> None:
    tenant = TenantHarness(rate=10, rate_per_ms=1_000)
    tenant.admit(4)
    assert tenant.admit(500).retry_after_ms == 400
    tenant.now_ms += 400
    assert tenant.admit(500) == m.TasksAdmitted(500)
    assert tenant.admit(1).retry_after_ms == 49_100


def test_a_changed_rate_holds_at_once() -> None:
    tenant = TenantHarness(rate=10)
    tenant.admit(10)
    tenant.configure(rate=30)
    assert tenant.ask(m.ReadTenant()).tokens == 20
    tenant.configure()
    assert tenant.admit(10**6) == m.TasksAdmitted(10**6)


def test_a_quota_counts_what_waits_and_what_was_admitted_since() -> None:
    tenant = TenantHarness(max_pending=100)
    tenant.send(m.ReportUsage(0, 30, 5))
    tenant.send(m.ReportUsage(1, 20, 0))
    assert tenant.ask(m.ReadTenant()) == m.TenantRead(m.TenantConfig("acme", max_pending=100), 50, 5, -1)
    assert tenant.admit(40) == m.TasksAdmitted(40)
    assert tenant.admit(11) == Refusal(
        "quota_exceeded", "tenant 'acme' may have 100 tasks waiting; 90 wait and 11 more were asked for", 1_000
    )
    assert tenant.admit(10) == m.TasksAdmitted(10)
    assert tenant.admit(101).retry_after_ms == -1
    tenant.now_ms += 10
    tenant.send(m.ReportUsage(0, 60, 0))
    assert tenant.admit(1).code == "quota_exceeded"  # shard 1 may have the rest and has not said so
    tenant.send(m.ReportUsage(1, 20, 0))
    assert tenant.admit(20) == m.TasksAdmitted(20)
    assert tenant.admit(1).code == "quota_exceeded"


def test_what_was_admitted_counts_no_longer_than_a_report_can_take() -> None:
    tenant = TenantHarness(max_pending=10)
    tenant.send(m.ReportUsage(0, 0, 0))
    tenant.admit(10)
    tenant.now_ms += 4_999
    assert tenant.admit(1).code == "quota_exceeded"
    tenant.now_ms += 1
    assert tenant.admit(1) == m.TasksAdmitted(1)


# -- permits -----------------------------------------------------------------------------------------------------------


def test_queues_of_a_tenant_without_a_limit_are_told_so_once() -> None:
    tenant = TenantHarness(weight=3)
    [answer] = tenant.send(m.WantPermits("q1", 0, 5))
    assert (answer.message.allowed, answer.message.weight) == (-1, 3)
    assert tenant.want("q1", 5, 5, allowed=-1, number=tenant.number("q1")) == []
    assert tenant.want("q1", 5, 5) == [("q1", -1)]  # it has not got the answer
    assert tenant.actor.due_ms() is None or tenant.actor.due_ms() == START_MS + RECOVERY_MS
    tenant.advance_ms(RECOVERY_MS)
    assert tenant.actor.due_ms() is None


def test_a_new_limit_is_told_to_queues_that_had_none_and_shared_once_they_obey() -> None:
    tenant = TenantHarness()
    tenant.want("q1", 8, 0)
    tenant.want("q1", 8, 0, allowed=-1, number=tenant.number("q1"))
    tenant.configure(concurrency=4)
    assert (tenant.sent[-1].to, tenant.sent[-1].message.allowed) == ("q1", 4)
    assert tenant.want("q2", 0, 9) == [("q1", 2), ("q2", 0)]  # q1 may still start any number
    number = tenant.number("q1")
    assert tenant.want("q1", 8, 0, allowed=2, number=number) == []
    assert tenant.want("q1", 3, 0, allowed=2, number=number) == [("q2", 1)]
    assert tenant.want("q1", 2, 0, allowed=2, number=number) == [("q2", 2)]


def test_one_queue_may_use_all_and_needs_no_further_word() -> None:
    tenant = TenantHarness(concurrency=10)
    assert tenant.want("q1", 0, 2) == [("q1", 10)]
    assert tenant.want("q1", 2, 300, allowed=10, number=tenant.number("q1")) == []


def test_shares_are_max_min_fair_and_no_slot_lies_idle() -> None:
    tenant = TenantHarness(concurrency=12)
    for queue, waiting in (("q1", 2), ("q2", 100), ("q3", 7)):
        tenant.want(queue, 0, waiting)
    allowed = settle(tenant, {"q1": 2, "q2": 100, "q3": 7})
    assert allowed == {"q1": 2, "q2": 5, "q3": 5}
    assert settle(tenant, {"q1": 2, "q2": 100, "q3": 1}) == {"q1": 2, "q2": 9, "q3": 1}
    assert sum(settle(tenant, {"q1": 1, "q2": 1, "q3": 1}).values()) == 12


def test_a_limit_too_small_for_all_moves_from_queue_to_queue() -> None:
    tenant = TenantHarness(concurrency=1)
    wants = {"q1": 50, "q2": 50, "q3": 50}
    served: set[str] = set()
    for _ in range(4):
        allowed = settle(tenant, wants)
        assert sum(allowed.values()) == 1
        served |= {queue for queue, count in allowed.items() if count}
        tenant.advance_ms(ROTATE_MS)
    assert served == set(wants)


def test_tasks_of_several_slots_are_not_given_parts_they_cannot_use() -> None:
    tenant = TenantHarness(concurrency=8)
    allowed = settle(tenant, {"q1": 40, "q2": 40, "q3": 40}, step=4)
    assert sorted(allowed.values()) == [0, 4, 4]


def test_what_one_large_task_leaves_goes_to_small_ones_at_once_however_much_it_is() -> None:
    tenant = TenantHarness(concurrency=1 << 60)
    tenant.send(m.WantPermits("queue.p.a", running=0, waiting=1 << 60, step=1, born_ms=1))
    grants = tenant.send(m.WantPermits("queue.p.b", running=0, waiting=1 << 60, step=1 << 60, born_ms=1))

    assert all(grant.message.allowed <= 1 << 60 for grant in grants)


def test_a_queue_that_wants_nothing_is_forgotten_and_one_that_fell_silent_is_asked() -> None:
    tenant = TenantHarness(concurrency=4)
    tenant.want("q1", 0, 5)
    tenant.want("q2", 0, 0, allowed=1, number=77)
    tenant.want("q3", 0, 0, number=78)  # gave back what nobody here knows of
    assert len(tenant.actor._permits) == 2
    settle(tenant, {"q1": 5})
    tenant.sent.clear()
    tenant.advance_ms(PROBE_MS)
    assert ("q1", 4) in [(e.to, e.message.allowed) for e in tenant.sent]
    number = tenant.number("q1")
    assert tenant.want("q1", 0, 0, allowed=4, number=number) == []  # it stays where it is until it is given back
    assert tenant.want("q1", 0, 0, allowed=0, number=number) == []
    tenant.want("q2", 0, 0, allowed=0, number=tenant.number("q2"))
    assert tenant.actor.due_ms() is None


def test_after_a_restart_what_runs_elsewhere_is_left_alone_until_all_queues_have_told() -> None:
    tenant = TenantHarness(configured=False, recovered=False)
    tenant.send(m.ReportUsage(0, 10, 0, full=True, queues=["q1", "q2"]))
    tenant.configure(concurrency=4)
    assert tenant.want("q1", 0, 9) == [("q1", 0)]  # a shard and a queue have not spoken yet
    tenant.send(m.ReportUsage(1, 0, 0, full=True))
    assert tenant.number("q1")
    told = tenant.want("q2", 0, 1, allowed=3, number=START_MS - 5)  # it runs nothing, but may go by what it was granted
    assert dict(told) == {"q1": 1, "q2": 1}  # together with the three it may still go by, four


def test_a_queue_that_never_tells_holds_up_the_others_no_longer_than_its_permits_last() -> None:
    tenant = TenantHarness(configured=False, recovered=False)
    for shard in range(2):
        tenant.send(m.ReportUsage(shard, 10, 0, full=True, queues=["q1", "gone"]))
    tenant.configure(concurrency=4)
    assert tenant.want("q1", 0, 9) == [("q1", 0)]

    tenant.advance_ms(RECOVERY_MS)

    assert tenant.want("q1", 0, 9, allowed=0, number=tenant.number("q1")) == [] or tenant.sent[-1].message.allowed == 4
    assert [e.message.allowed for e in tenant.sent if isinstance(e.message, m.PermitsGranted)][-1] == 4


def test_a_queue_that_does_not_know_yet_what_runs_has_not_told() -> None:
    tenant = TenantHarness(configured=False, recovered=False)
    for shard in range(2):
        tenant.send(m.ReportUsage(shard, 10, 3, full=True, queues=["q1", "q2"]))
    tenant.configure(concurrency=4)

    tenant.want("q2", 0, 1, partial=True)
    assert tenant.want("q1", 0, 9) == [("q1", 0)]

    assert dict(tenant.want("q2", 3, 1))["q1"] == 1


def test_shards_that_did_not_answer_are_asked_again() -> None:
    tenant = TenantHarness(configured=False, recovered=False)
    tenant.send(m.ReportUsage(0, 0, 0, full=True))
    tenant.send(m.ReportUsage(1, 5, 0))  # what it reports unasked names no queues
    tenant.configure(concurrency=4)
    tenant.sent.clear()

    tenant.advance_ms(1_500)

    assert [e.to for e in tenant.sent if isinstance(e.message, m.TenantStarted)] == ["shard.1"]


def settle(tenant: TenantHarness, wants: dict[str, int], *, step: int = 1) -> dict[str, int]:
    """Let all queues report until nothing changes, each running what it may; return what each is allowed."""
    allowed: dict[str, int] = {}
    for _ in range(12):
        for queue, want in wants.items():
            grants = [e.message for e in tenant.sent if e.to == queue and isinstance(e.message, m.PermitsGranted)]
            newest = max(grants, key=lambda grant: grant.number, default=m.PermitsGranted("acme", 0, 1, 0))
            running = min(newest.allowed - newest.allowed % step, want)
            tenant.want(queue, running, want - running, allowed=newest.allowed, number=newest.number, step=step)
            allowed[queue] = newest.allowed
    return allowed


class Cluster:
    """One tenant actor and real queue actors, with channels that keep order, take their time, and sometimes lose."""

    def __init__(self, seed: int, concurrency: int, queues: int) -> None:
        self.random = Random(seed)
        self.now_ms = START_MS
        self.lossy = True
        self.concurrency = concurrency
        self.next_id = 1 << 30
        self.numbers: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.running: dict[str, list[int]] = {}
        self.channels: dict[tuple[str, str], list[Any]] = {}
        self.actors: dict[str, Any] = {"tenant.acme": TenantActor("acme", 1)}
        for number in range(queues):
            address = f"queue.p.q{number}"
            self.actors[address] = QueueActor(address, 1)
            self.running[address] = []
            self.seen[address] = 0
        self.start("tenant.acme", m.ConfigureTenant(m.TenantConfig("acme", concurrency=concurrency)))
        for address in self.running:
            name = address.rpartition(".")[2]
            self.start(address, m.ConfigureQueue(m.QueueConfig("p", name)))
            owner = self.actors[address]._links.owner
            self.turn(address, m.OfferTasks(0, [], full=True, owner=owner))

    def start(self, address: str, *messages: Any) -> None:
        turn = Turn(address=address, now_ms=self.now_ms, rng=Rng(1))
        self.actors[address].started(turn)
        self.turn(address, *messages)

    def turn(self, address: str, *messages: Any, sender: str = "") -> None:
        actor = self.actors[address]
        turn = Turn(address=address, now_ms=self.now_ms, rng=Rng(1))
        for message in messages:
            if isinstance(message, m.OfferTasks | m.ReleaseTasks):
                self.numbers[address] = self.numbers.get(address, 0) + 1
                links = actor._links
                message = replace(message, epoch=1, number=self.numbers[address], owner=links.owner, granted=links.granted)
            actor.handle(message, turn)
        due = actor.due_ms()
        if due is not None and due <= self.now_ms:
            actor.on_time(turn)
        actor.end_turn(turn)
        for envelope in turn.outbox:
            message = envelope.message
            if isinstance(message, m.GrantLeases):
                self.running[address] += message.ids
                self.seen[address] += len(message.ids)
            elif isinstance(message, m.WantPermits | m.PermitsGranted):
                self.channels.setdefault((address, envelope.to), []).append(message)
        total = sum(len(ids) for ids in self.running.values())
        assert total <= self.concurrency, f"{total} run, {self.concurrency} may"

    def step(self) -> None:
        random = self.random
        address = random.choice(list(self.running))
        what = random.choice("oocrrdddddta")
        if what == "o":
            ids = list(range(self.next_id, self.next_id + random.randint(1, 6)))
            self.next_id += len(ids)
            self.turn(address, m.OfferTasks(0, [m.Lot(kind(), 5, "", ids, [self.now_ms] * len(ids))]))
        elif what == "c":
            self.feed(address, random.randint(0, 5))
        elif what == "r" and self.running[address]:
            self.release(address, random.randint(1, len(self.running[address])))
        elif what == "d":
            self.deliver()
        elif what == "t":
            self.now_ms += random.choice([1, 50, 700, 3_000])
        elif what == "a":
            for each in self.actors:
                self.turn(each)

    def feed(self, address: str, free: int) -> None:
        self.turn(address, m.WorkerCredits("w", {}, free, self.seen[address], refresh=True))

    def release(self, address: str, count: int) -> None:
        ids, self.running[address] = self.running[address][:count], self.running[address][count:]
        self.turn(address, m.ReleaseTasks(0, ids))

    def deliver(self) -> None:
        waiting = [channel for channel, messages in self.channels.items() if messages]
        if waiting:
            channel = self.random.choice(waiting)
            message = self.channels[channel].pop(0)
            if self.lossy and self.random.random() < 0.1:
                return
            self.turn(channel[1], message)
            if self.lossy and self.random.random() < 0.1:
                self.turn(channel[1], message)

    def calm_down(self) -> None:
        """Let everything arrive, workers be plenty, and time pass."""
        self.lossy = False
        for _ in range(600):
            while any(self.channels.values()):
                self.deliver()
            for address in self.running:
                self.feed(address, 50)
            self.now_ms += 1_000
            for each in self.actors:
                self.turn(each)


@pytest.mark.parametrize("seed", range(40))
def test_all_queues_together_never_run_more_than_the_tenant_may_and_lastly_use_all_of_it(seed: int) -> None:
    concurrency = 1 + seed % 7
    cluster = Cluster(seed, concurrency, queues=2 + seed % 3)
    for _ in range(600):
        cluster.step()
    cluster.calm_down()
    for address in cluster.running:
        cluster.turn(address, m.OfferTasks(0, [m.Lot(kind(), 5, "", [cluster.next_id], [cluster.now_ms])]))
        cluster.next_id += 1
    cluster.calm_down()
    waiting = sum(actor._book.waiting_total for address, actor in cluster.actors.items() if address.startswith("queue"))
    running = sum(len(ids) for ids in cluster.running.values())
    assert running == concurrency or waiting == 0


def test_idle_queues_and_tenants_fall_silent() -> None:
    cluster = Cluster(5, concurrency=3, queues=3)
    for _ in range(200):
        cluster.step()
    cluster.calm_down()
    for _ in range(60):
        for address in cluster.running:
            cluster.release(address, 100)
        cluster.calm_down()
        if not any(actor.due_ms() for actor in cluster.actors.values()):
            break
    assert [actor.due_ms() for actor in cluster.actors.values()] == [None] * 4
    assert REFRESH_MS < PROBE_MS


# -- what is lost, late or comes twice -----------------------------------------------------------------------------------


def test_reports_that_come_late_twice_or_from_an_old_owner_of_the_shard_are_not_taken() -> None:
    tenant = TenantHarness(max_pending=10)
    for waiting, epoch, number in ((5, 2, 7), (9, 2, 6), (9, 1, 8), (9, 2, 7)):
        tenant.send(m.ReportUsage(0, waiting, 0, epoch, number))
        assert tenant.ask(m.ReadTenant()).waiting == 5
    tenant.send(m.ReportUsage(0, 1, 0, 3, 1))
    assert tenant.ask(m.ReadTenant()).waiting == 1


def test_before_an_old_report_keeps_tasks_out_for_long_its_shard_is_asked_again() -> None:
    tenant = TenantHarness(max_pending=10)
    tenant.send(m.ReportUsage(0, 10, 0, 1, 1))
    tenant.send(m.ReportUsage(1, 0, 0, 1, 1))
    tenant.now_ms += 9_999
    tenant.sent.clear()
    assert tenant.admit(1).code == "quota_exceeded"
    assert len(tenant.sent) == 1  # the answer: the report is fresh
    tenant.now_ms += 10_000
    for _ in range(3):
        sent = tenant.send(m.AdmitTasks(1), request=99)
    assert [e.to for e in tenant.sent if isinstance(e.message, m.TenantStarted)] == ["shard.0"]
    assert sent[-1].message.code == "quota_exceeded"


def test_settings_are_acknowledged_and_only_newer_ones_taken() -> None:
    tenant = TenantHarness(configured=False)
    home = f"shard.{slot_of('tenant.acme', 2)}"
    for epoch, number, weight in ((2, 2, 5), (2, 1, 7), (1, 9, 7)):
        [answer] = tenant.send(m.ConfigureTenant(m.TenantConfig("acme", weight=weight), epoch, number))
        assert (answer.to, answer.message.number) == (home, number)
        assert tenant.ask(m.ReadTenant()).config.weight == 5


def test_permits_are_shared_by_what_the_newest_queue_actors_say_to_the_newest_tenant_actor() -> None:
    tenant = TenantHarness(concurrency=4, epoch=3)
    [grant] = tenant.send(m.WantPermits("q1", 0, 9, epoch=2, born_ms=50))
    assert grant.message.epoch == 3
    for old in ((1, 99), (2, 49)):
        assert tenant.want("q1", 0, 0, epoch=old[0], born_ms=old[1]) == []
    assert tenant.want("q2", 0, 9, granted_by=4) == []  # it goes by a later actor of this tenant
    assert tenant.want("q2", 0, 9) == [("q1", 2), ("q2", 0)]  # q1 is counted with all it may go by
    number = tenant.number("q1")
    assert tenant.want("q1", 0, 9, allowed=2, number=number, granted_by=2, epoch=2, born_ms=50) == [("q1", 2)]
    assert tenant.want("q1", 0, 9, allowed=2, number=number, granted_by=3, epoch=2, born_ms=50) == [("q2", 2)]


def test_what_a_queue_says_before_it_has_heard_all_shards_takes_nothing_from_what_is_known_of_it() -> None:
    tenant = TenantHarness(concurrency=3)
    tenant.want("q1", 0, 9, epoch=1)
    tenant.want("q1", 3, 6, allowed=3, number=tenant.number("q1"), epoch=1)
    tenant.want("q2", 0, 9)

    # Its actor begins anew elsewhere, and has heard of one of the three tasks that run.
    tenant.want("q1", 1, 0, epoch=2, partial=True)
    grants = [e.message for e in tenant.sent if isinstance(e.message, m.PermitsGranted) and e.to == "q2"]
    assert [grant.allowed for grant in grants] == [0]
    grant = next(e.message for e in reversed(tenant.sent) if e.to == "q1")
    tenant.want("q1", 1, 0, allowed=grant.allowed, number=grant.number, epoch=2, partial=True)
    assert {e.message.allowed for e in tenant.sent if e.to == "q2"} == {0}, "two more may run that it has not heard of"

    tenant.want("q1", 1, 0, allowed=tenant.sent[-1].message.allowed, number=tenant.number("q1"), epoch=2)
    assert [e.message.allowed for e in tenant.sent if e.to == "q2"][-1] >= 1
