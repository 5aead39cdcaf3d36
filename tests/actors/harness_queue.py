"""A queue actor without an event loop. The test plays the shards, the tenants and the workers; time moves only when told.

Tenants answer at once: with no limit, unless the test sets `allowed[tenant]`. A worker's `seen` follows what it was granted.
"""

from __future__ import annotations

from typing import Any

from foliot.actors import messages as m
from foliot.actors.queue import QueueActor
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Envelope
from foliot.runtime.hashing import fnv1a
from foliot.runtime.ids import IdSource, shard_of
from foliot.runtime.rng import Rng
from msgspec.structs import replace

START_MS = 1_700_000_000_000
ADDRESS = "queue.default.mail"


def kind(tenant: str = "acme", handler: str = "send", **policy: Any) -> m.Kind:
    template = m.Template(handler=handler, queue="mail", **policy)
    name = f"{tenant}/{handler}/{sorted(policy.items())}"
    return m.Kind(tenant, fnv1a(name.encode()) >> 1, template)


class QueueHarness:
    """One queue actor and all it talks to."""

    def __init__(self, *, shards: int = 2, configured: bool = True, **config: Any) -> None:
        self.now_ms = START_MS
        self.shards = shards
        self.queue = QueueActor(ADDRESS, shards)
        self.numbers = [0] * shards
        self.sent: list[Envelope] = []  # everything, in order
        self.granted: list[tuple[int, str]] = []  # (id, session) in order
        self.running: dict[int, str] = {}
        self.allowed: dict[str, int] = {}
        self.weights: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.costs: dict[int, int] = {}
        self.shapes: dict[int, tuple[m.Kind, int, str]] = {}
        self._sources = [IdSource(shard) for shard in range(shards)]
        self._rng = Rng(7)
        self._number = 0
        self.answers_tenants = True
        turn = self._turn()
        self.queue.started(turn)
        self.queue.end_turn(turn)
        self._take(turn)
        if configured:
            self.configure(**config)
            self.send(*[self.everything(shard) for shard in range(shards)])

    # -- turns ---------------------------------------------------------------------------------------------------------

    def send(self, *messages: Any, request: int = 0) -> list[Envelope]:
        """Let the actor have one turn with these messages; return what it sent."""
        turn = self._turn()
        before = len(self.sent)
        for message in messages:
            turn.sender, turn.request = ("client.1", request) if request else ("", 0)
            self.queue.handle(self.stamped(message), turn)
        self.end(turn)
        return self.sent[before:]

    def stamped(self, message: Any) -> Any:
        """Return what a shard sends with the number it would have, unless it has one."""
        if isinstance(message, m.OfferTasks | m.WithdrawTasks | m.ReleaseTasks) and not message.number:
            self.numbers[message.shard] += 1
            message = replace(message, epoch=1, number=self.numbers[message.shard])
            if isinstance(message, m.ReleaseTasks):
                links = self.queue._links
                message = replace(message, owner=links.owner, granted=links.granted)
        return message

    def everything(self, shard: int, lots: list[m.Lot] | None = None, leased: list[m.LeasedLot] | None = None,
                   **fields: Any) -> m.OfferTasks:  # fmt: skip
        """Return a shard's answer to QueueStarted."""
        links = self.queue._links
        message = m.OfferTasks(shard, lots or [], leased or [], full=True, owner=links.owner, granted=links.granted)
        return replace(message, **fields)

    def end(self, turn: Turn) -> None:
        due = self.queue.due_ms()
        if due is not None and due <= self.now_ms:
            self.queue.on_time(turn)
        self.queue.end_turn(turn)
        self._take(turn)

    def ask(self, message: Any) -> Any:
        """Return the answer to a request."""
        answers = [envelope.message for envelope in self.send(message, request=5) if envelope.request == 5]
        assert len(answers) == 1
        return answers[0]

    def advance_ms(self, span_ms: int) -> None:
        """Let time pass; timers run when they are due."""
        until_ms = self.now_ms + span_ms
        for _ in range(100_000):
            due = self.queue.due_ms()
            if due is None or due > until_ms:
                break
            self.now_ms = max(due, self.now_ms)
            self.end(self._turn())
        else:
            raise AssertionError("the actor's timer spins")
        self.now_ms = until_ms

    def _turn(self) -> Turn:
        return Turn(address=ADDRESS, now_ms=self.now_ms, rng=self._rng)

    def _take(self, turn: Turn) -> None:
        asked: list[str] = []
        self.sent += turn.outbox
        for envelope in turn.outbox:
            message = envelope.message
            if isinstance(message, m.GrantLeases):
                for task_id in message.ids:
                    assert envelope.to == f"shard.{shard_of(task_id)}"
                    assert task_id not in self.running, "granted twice"
                    self.granted.append((task_id, message.session))
                    self.running[task_id] = message.session
                    self.seen[message.session] = self.seen.get(message.session, 0) + self.costs[task_id]
            elif isinstance(message, m.WantPermits) and self.answers_tenants and not message.number:
                asked.append(envelope.to.removeprefix("tenant."))
        if asked:
            self.send(*[self.permits(tenant) for tenant in asked])

    # -- the cast ------------------------------------------------------------------------------------------------------

    def permits(self, tenant: str, allowed: int | None = None) -> m.PermitsGranted:
        if allowed is not None:
            self.allowed[tenant] = allowed
        self._number += 1
        return m.PermitsGranted(tenant, self.allowed.get(tenant, -1), self.weights.get(tenant, 1), self._number)

    def configure(self, **config: Any) -> None:
        self.send(m.ConfigureQueue(m.QueueConfig("default", "mail", **config)))

    def new_ids(self, count: int = 1, *, shard: int = 0) -> list[int]:
        return self._sources[shard].block(self.now_ms, count)

    def offer(
        self, of: m.Kind, count: int = 1, *, priority: int = 5, key: str = "", shard: int = 0, ready_ms: int | None = None
    ) -> list[int]:  # fmt: skip
        """Offer new tasks, all ready at the same moment; return their ids."""
        ids = self.new_ids(count, shard=shard)
        at_ms = self.now_ms if ready_ms is None else ready_ms
        self.offer_again(of, ids, priority=priority, key=key, ready_ms=at_ms)
        return ids

    def offer_again(self, of: m.Kind, ids: list[int], *, priority: int = 5, key: str = "", ready_ms: int = 0) -> None:
        for task_id in ids:
            self.costs[task_id] = of.template.cost
            self.shapes[task_id] = (of, priority, key)
        lot = m.Lot(of, priority, key, ids, [ready_ms or self.now_ms] * len(ids))
        self.send(m.OfferTasks(shard_of(ids[0]), [lot]))

    def credit(self, session: str, free: int, *, refresh: bool = False, seen: int | None = None, **labels: str) -> None:
        """A worker says how much it can take now, having seen all that was granted to it."""
        self.credit_with(session, free, labels, refresh=refresh, seen=seen)

    def credit_with(
        self, session: str, free: int, labels: dict[str, str], *, refresh: bool = False, seen: int | None = None
    ) -> None:
        seen = self.seen.setdefault(session, 0) if seen is None else seen
        self.send(m.WorkerCredits(session, labels, free, seen, refresh))

    def release(self, *ids: int) -> None:
        for task_id in ids:
            self.running.pop(task_id, None)
        by_shard: dict[int, list[int]] = {}
        for task_id in ids:
            by_shard.setdefault(shard_of(task_id), []).append(task_id)
        self.send(*[m.ReleaseTasks(shard, some) for shard, some in by_shard.items()])

    def withdraw(self, *ids: int) -> None:
        self.send(*[m.WithdrawTasks(shard_of(task_id), [task_id]) for task_id in ids])

    # -- what a test looks at ----------------------------------------------------------------------------------------------

    @property
    def granted_ids(self) -> list[int]:
        return [task_id for task_id, _ in self.granted]

    def take_granted(self) -> list[int]:
        """Return the ids granted since the last call."""
        ids = self.granted_ids
        self.granted.clear()
        return ids

    def why(self, task_id: int) -> m.Explanation:
        answer = self.ask(m.ExplainTasks([task_id]))
        assert isinstance(answer, m.TasksExplained)
        return answer.tasks[0]

    def read(self) -> m.QueueRead:
        answer = self.ask(m.ReadQueue())
        assert isinstance(answer, m.QueueRead)
        return answer

    def wanted(self) -> list[m.WantPermits]:
        return [envelope.message for envelope in self.sent if isinstance(envelope.message, m.WantPermits)]
