"""The queue actor against a plain model of its limits, under random offers, credits, releases, withdrawals, settings.

Checked after every turn: no limit is exceeded by a grant, no credit is spent twice, nothing is granted twice or after its
withdrawal, and nothing that may run is left while a credit for it is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

import pytest
from foliot.actors import messages as m
from foliot.actors.labels import matches, parse_all
from foliot.runtime.bus import Envelope

from .harness_queue import QueueHarness, kind

KINDS = [
    kind("a"),
    kind("a", "limited", key_limit=2),
    kind("a", "pair", cost=2, key_limit=2),  # as above: grants of one turn arrive in no certain order
    kind("b", "rated", key_rate=3, key_rate_ms=1_000),
    kind("b", "gpu", require=("gpu=true",), prefer=("zone=x",)),
    kind("c", "large", cost=3, require=("!gpu",), key_rate=2, key_rate_ms=700, key_limit=2),
]
LABELS = [{}, {"gpu": "true", "zone": "x"}, {"gpu": "true"}, {"gpu": "false"}]


@dataclass
class Model:
    """What a queue may do, kept as simply as can be."""

    waiting: dict[int, tuple[m.Kind, str]] = field(default_factory=dict)
    running: dict[int, tuple[m.Kind, str]] = field(default_factory=dict)
    concurrency: int = 0
    paused: bool = False
    allowed: dict[str, int] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    buckets: dict[tuple[str, str, int], tuple[Fraction, int]] = field(default_factory=dict)

    def slots(self, tenant: str = "") -> int:
        return sum(k.template.cost for k, _ in self.running.values() if not tenant or k.tenant == tenant)

    def in_key(self, tenant: str, key: str) -> int:
        return sum(k.tenant == tenant and bool(k.template.key_limit) and at == key for k, at in self.running.values())

    def tokens(self, of: m.Kind, key: str, now_ms: int) -> Fraction:
        rate, per_ms = of.template.key_rate, of.template.key_rate_ms
        level, at_ms = self.buckets.get((of.tenant, key, rate), (Fraction(rate), now_ms))
        return min(level + Fraction((now_ms - at_ms) * rate, per_ms), Fraction(rate))

    def obstacle(self, of: m.Kind, key: str, now_ms: int) -> str:
        """Return what forbids a task to start, empty if nothing does."""
        template = of.template
        if self.paused:
            return "paused"
        if self.concurrency and self.slots() + template.cost > self.concurrency:
            return "queue limit"
        allowed = self.allowed.get(of.tenant, -1)
        if allowed >= 0 and self.slots(of.tenant) + template.cost > allowed:
            return "tenant limit"
        if key and template.key_limit and self.in_key(of.tenant, key) >= template.key_limit:
            return "key limit"
        if key and template.key_rate and self.tokens(of, key, now_ms) < 1:
            return "key rate"
        return ""

    def suits(self, of: m.Kind, session: str) -> bool:
        if self.free.get(session, 0) < of.template.cost:
            return False
        return matches(parse_all(of.template.require), self.labels[session])

    def start(self, task_id: int, session: str, now_ms: int) -> None:
        of, key = self.waiting.pop(task_id)
        assert self.obstacle(of, key, now_ms) == ""
        assert self.suits(of, session), f"{session} has {self.free.get(session)} free"
        self.free[session] -= of.template.cost
        if key and of.template.key_rate:
            level = self.tokens(of, key, now_ms) - 1
            self.buckets[of.tenant, key, of.template.key_rate] = (level, now_ms)
        self.running[task_id] = (of, key)


class Play:
    """One random run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.model = Model()
        self.harness = QueueHarness(ageing_ms=300)
        self.ended: list[int] = []

    def check(self) -> None:
        """Apply what was granted to the model, in order, then look for work left lying."""
        for task_id, session in self.harness.granted:
            self.model.start(task_id, session, self.harness.now_ms)
        self.harness.granted.clear()
        model, now_ms = self.model, self.harness.now_ms
        for task_id, (of, key) in model.waiting.items():
            if model.obstacle(of, key, now_ms) == "":
                idle = [session for session in model.free if model.suits(of, session)]
                assert not idle, f"{self.harness.why(task_id)} though {idle} could run it"
        read = self.harness.read()
        assert read.running == model.slots()
        assert sum(read.offered.values()) == len(model.waiting)
        assert read.free_credits == sum(model.free.values())

    def step(self) -> None:
        random, harness, model = self.random, self.harness, self.model
        what = random.choice("oooocccccrrrrwadptleb")
        if what == "o":
            of = random.choice(KINDS)
            key = random.choice(["", "k1", "k2", "k3"])
            ids = harness.new_ids(random.randint(1, 12), shard=random.randrange(2))
            model.waiting |= dict.fromkeys(ids, (of, key))
            harness.offer_again(of, ids, priority=random.randrange(10), key=key,
                                ready_ms=harness.now_ms - random.choice([0, 0, 0, 50, 400]))  # fmt: skip
        elif what == "c":
            session = f"w{random.randrange(4)}"
            if session not in model.labels:
                model.labels[session] = random.choice(LABELS)
            model.free[session] = random.randint(0, 6)
            harness.credit_with(session, model.free[session], model.labels[session])
        elif what == "r" and model.running:
            ids = random.sample(list(model.running), min(len(model.running), random.randint(1, 6)))
            for task_id in ids:
                del model.running[task_id]
            self.ended += ids
            harness.release(*ids)
        elif what == "w" and model.waiting:
            ids = random.sample(list(model.waiting), min(len(model.waiting), random.randint(1, 6)))
            for task_id in ids:
                del model.waiting[task_id]
            harness.withdraw(*ids)
        elif what == "a":
            self.advance(random.choice([1, 10, 100, 333, 1_000]))
        elif what == "d":
            self.repeat()
        elif what == "p":
            model.paused = random.random() < 0.3
            model.concurrency = random.choice([0, 0, 3, 8])
            harness.configure(paused=model.paused, concurrency=model.concurrency, ageing_ms=300)
        elif what == "t":
            tenant = random.choice("abc")
            if any(k.tenant == tenant for k, _ in [*model.waiting.values(), *model.running.values()]):
                model.allowed[tenant] = random.choice([-1, 0, 1, 2, 5])
                harness.send(harness.permits(tenant, model.allowed[tenant]))
        elif what == "l":
            self.adopt()
        elif what == "e" and random.random() < 0.3:
            session = f"w{random.randrange(4)}"
            model.free.pop(session, None)
            model.labels.pop(session, None)
            harness.send(m.SessionEnded(session, "left"))
            harness.queue._credits._ended.clear()  # the model gives the name to a new session
        elif what == "b" and model.running:
            task_id = random.choice(list(model.running))
            of, _ = model.running.pop(task_id)
            session = harness.running.pop(task_id)
            if session in model.free:
                harness.seen[session] -= of.template.cost
                model.free[session] = 1 if random.random() < 0.5 else 0
                harness.send(m.WorkerCredits(session, model.labels[session], model.free[session], harness.seen[session]))
                # The refused grant is still under way to the queue's mind until the refusal arrives.
                self.settle(session)
            harness.send(m.ReleaseTasks(0, [task_id]))

    def settle(self, session: str) -> None:
        """Let the session count as seen what the queue has sent it."""
        known = self.harness.queue._credits._sessions[session]
        self.harness.seen[session] = known.sent
        self.harness.credit_with(session, self.model.free[session], self.model.labels[session])

    def advance(self, span_ms: int) -> None:
        """Let time pass; what timers grant is checked at its own moment."""
        harness = self.harness
        until_ms = harness.now_ms + span_ms
        while (due := harness.queue.due_ms()) is not None and due <= until_ms:
            harness.now_ms = max(due, harness.now_ms)
            harness.end(harness._turn())
            self.check()
        harness.now_ms = until_ms
        harness.send(m.ReadQueue())  # any turn looks at rates that have recovered meanwhile

    def repeat(self) -> None:
        """Everything may be delivered twice."""
        for task_id in [*list(self.model.waiting)[:3], *list(self.model.running)[:3]]:
            of, priority, key = self.harness.shapes[task_id]
            self.harness.offer_again(of, [task_id], priority=priority, key=key)
        if self.ended:
            self.harness.send(m.ReleaseTasks(0, self.ended[-3:], {"w0": 2}))

    def adopt(self) -> None:
        """A shard says what runs already."""
        of, key = self.random.choice(KINDS), self.random.choice(["", "k1"])
        ids = self.harness.new_ids(2, shard=1)
        for task_id in ids:
            self.harness.costs[task_id] = of.template.cost
            self.harness.shapes[task_id] = (of, 5, key)
            self.model.running[task_id] = (of, key)
            self.harness.running[task_id] = "gone"
        self.harness.send(m.OfferTasks(1, [], [m.LeasedLot(of, 5, key, "gone", ids)]))


@pytest.mark.parametrize("seed", range(40))
def test_no_limit_is_exceeded_and_no_work_is_left_lying(seed: int) -> None:
    play = Play(seed)
    for _ in range(250):
        play.step()
        play.check()


def test_the_same_messages_always_lead_to_the_same_grants() -> None:
    def run() -> list[Envelope]:
        play = Play(99)
        for _ in range(150):
            play.step()
            play.check()
        return play.harness.sent

    assert run() == run()
