"""Shards, queues, tenants and worker actors that reach each other over a network that loses, repeats and reorders.

Shards commit to a real SQLite in memory; sessions are played. Time is virtual and moves from event to event. What is watched
all the time is the store: how much runs at once. Everything is decided by one seed.
"""

from __future__ import annotations

import heapq
import sqlite3
from functools import partial
from random import Random
from typing import Any

from foliot.actors import messages as m
from foliot.actors.addresses import shard_address, slot_of_address, worker_address
from foliot.actors.queue import QueueActor
from foliot.actors.rows import ShardChanges
from foliot.actors.shard import ShardActor, ShardConfig
from foliot.actors.states import State
from foliot.actors.tenant import TenantActor
from foliot.actors.worker import WorkerActor
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Envelope
from foliot.runtime.ids import shard_of
from foliot.runtime.membership import SlotClaimed
from foliot.runtime.rng import Rng
from foliot.stores.migrate import migrate_sqlite, migrations_for
from foliot.stores.sqlite_group import GroupWriter
from foliot.stores.sqlite_rows import answer_of, fetch, statement_of
from foliot.stores.sqlite_turn import Turn as StoredTurn
from foliot.stores.sqlite_upkeep import claim

START_MS = 1_800_000_000_000
QUEUE = "queue.default.mail"


class Session:
    """A worker's end: it holds what it was sent until it is done, reports until it is heard, and beats every ten seconds."""

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.takes_ms = 0  # how long its handlers take, 0: it varies
        self.seen = 0
        self.held: dict[int, tuple[int, int]] = {}  # id → (attempt, done at)
        self.done: dict[int, int] = {}  # id → attempt, not answered yet
        self.reports: dict[int, list[int]] = {}  # ids by number of the report
        self.started: dict[tuple[int, int], None] = {}


class Cluster:
    """`loss` and `repeats`: the part of all messages."""

    def __init__(self, seed: int, *, shards: int = 3, loss: float = 0.0, repeats: float = 0.0, tail: float = 0.0,
                 concurrency: int = 0, tenant_concurrency: int = 0) -> None:  # fmt: skip
        self.random = Random(seed)
        self.shards, self.loss, self.repeats, self.tail = shards, loss, repeats, tail
        self.now_ms = START_MS
        self.step_ms = 0  # the actors' wall clock is off by this
        self.number = 0
        self.events: list[tuple[int, int, Any]] = []
        self.armed: dict[str, int] = {}
        self.actors: dict[str, Any] = {}
        self.epochs = [0] * shards
        self.stores: list[tuple[sqlite3.Connection, GroupWriter]] = []
        self.lost_once: type[Any] | None = None  # lose the next message of this type
        self.sent: list[Envelope] = []
        self.most_running = 0
        self.sessions: dict[str, Session] = {}
        for shard in range(shards):
            connection = sqlite3.connect(":memory:", isolation_level=None)
            migrate_sqlite(connection, migrations_for("sqlite"), now_ms=START_MS)
            connection.execute("insert into shards (shard, epoch, node, last_id) values (?, 0, '', 0)", (shard,))
            self.stores.append((connection, GroupWriter(connection)))
        self.config = ShardConfig(shards=shards)
        for shard in range(shards):
            self.start_shard(shard)
        for home in range(shards):
            if slot_of_address(QUEUE, shards) == home:
                config = m.ConfigureQueue(m.QueueConfig("default", "mail", concurrency=concurrency))
                self.deliver(Envelope(shard_address(home), config))
            if slot_of_address("tenant.acme", shards) == home:
                tenant = m.ConfigureTenant(m.TenantConfig("acme", concurrency=tenant_concurrency))
                self.deliver(Envelope(shard_address(home), tenant))

    # -- actors ------------------------------------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        return self.now_ms + self.step_ms

    def start_shard(self, shard: int) -> None:
        """A node takes the slot: its shard starts from the store, all other actors of it are gone."""
        image = claim(self.stores[shard][0], shard, "test")
        self.epochs[shard] = image.epoch
        for address in list(self.actors):
            if slot_of_address(address, self.shards) == shard:
                del self.actors[address]
        self.actors[shard_address(shard)] = ShardActor(image, self.config)
        self.turn(shard_address(shard), None, starting=True)
        for each in range(self.shards):
            self.post(Envelope(shard_address(each), SlotClaimed(shard, "test")))

    def forget(self, address: str) -> None:
        """An actor loses its memory; the next message brings a new one to life."""
        self.actors.pop(address, None)
        self.armed.pop(address, None)

    def actor(self, address: str) -> Any:
        actor = self.actors.get(address)
        if actor is None:
            slot = slot_of_address(address, self.shards)
            assert slot is not None
            kind, _, key = address.partition(".")
            if kind == "queue":
                actor = QueueActor(address, self.shards, epoch=self.epochs[slot])
            elif kind == "tenant":
                actor = TenantActor(key, self.shards, epoch=self.epochs[slot])
            else:
                actor = WorkerActor(key)
            self.actors[address] = actor
            self.turn(address, None, starting=True)
        return actor

    def turn(self, address: str, envelope: Envelope | None, *, starting: bool = False, answer: Any = None) -> None:
        actor = self.actor(address)
        shard = int(address[6:]) if address.startswith("shard.") else -1
        changes = ShardChanges(shard, self.epochs[shard]) if shard >= 0 else None
        turn = Turn(address=address, now_ms=self.wall_ms, mono_ms=self.now_ms - START_MS, rng=Rng(1), changes=changes)
        if starting:
            actor.started(turn)
        if envelope is not None:
            turn.sender, turn.request = envelope.sender, envelope.request
            actor.handle(envelope.message, turn)
        elif answer is not None:
            actor.handle(answer, turn)
        due_ms = actor.due_ms()
        if due_ms is not None and due_ms <= self.wall_ms:
            turn.sender, turn.request = "", 0
            actor.on_time(turn)
        actor.end_turn(turn)
        if changes:
            assert self.stores[shard][1].write([StoredTurn(changes)]) == [None]
            self.most_running = max(self.most_running, self.running())
        for sent in turn.outbox:
            self.post(sent)
        for query in turn.reads:
            found = answer_of(query, fetch(self.stores[shard][0], statement_of(shard, query)))
            self.later(1, partial(self.answer, address, actor, found))
        self.arm(address, actor)

    def answer(self, address: str, actor: Any, found: Any) -> None:
        if self.actors.get(address) is actor:
            self.turn(address, None, answer=found)

    def arm(self, address: str, actor: Any) -> None:
        due_ms = actor.due_ms()
        if due_ms is None or self.actors.get(address) is not actor:
            return
        at_ms = max(due_ms - self.step_ms, self.now_ms)
        if self.armed.get(address) == at_ms:
            return
        self.armed[address] = at_ms
        self.later(at_ms - self.now_ms, lambda: self.on_timer(address, actor, at_ms))

    def on_timer(self, address: str, actor: Any, at_ms: int) -> None:
        if self.actors.get(address) is actor and self.armed.get(address) == at_ms:
            del self.armed[address]
            self.turn(address, None)

    # -- the network -----------------------------------------------------------------------------------------------------

    def later(self, after_ms: int, act: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.now_ms + after_ms, self.number, act))

    def post(self, envelope: Envelope) -> None:
        """Send; it may be lost, or come twice, or late."""
        self.sent.append(envelope)
        if self.lost_once is type(envelope.message):
            self.lost_once = None
            return
        random = self.random
        for _ in range(1 + (random.random() < self.repeats)):
            if random.random() >= self.loss:
                late_ms = random.randint(100, 4_000) if random.random() < self.tail else random.randint(1, 3)
                self.later(late_ms, lambda: self.deliver(envelope))

    def deliver(self, envelope: Envelope) -> None:
        kind, _, name = envelope.to.partition(".")
        if kind == "session":
            if name in self.sessions:
                self.received(self.sessions[name], envelope)
        elif kind in ("shard", "queue", "tenant", "worker"):
            self.turn(envelope.to, envelope)

    # -- sessions --------------------------------------------------------------------------------------------------------

    def start_session(self, name: str, slots: int) -> None:
        session = self.sessions[name] = Session(name, slots)
        self.beat(session)

    def beat(self, session: Session) -> None:
        if self.sessions.get(session.name) is not session:
            return
        self.later(10_000, lambda: self.beat(session))
        beat = m.Heartbeat(session.name, session.name, 1, "h", {}, [QUEUE], session.slots, len(session.held), 0, 10_000, 0)
        self.say(session, worker_address(session.name), beat)
        for shard in range(self.shards):
            held = {i: a for i, (a, _) in session.held.items()} | session.done
            mine = {i: a for i, a in held.items() if shard_of(i) == shard}
            self.say(session, shard_address(shard), m.HeldLeases(session.name, list(mine), list(mine.values())))
        self.report(session)
        self.credit(session, refresh=True)

    def say(self, session: Session, to: str, message: Any) -> None:
        self.post(Envelope(to, message, f"session.{session.name}"))

    def credit(self, session: Session, *, refresh: bool = False) -> None:
        free = max(session.slots - len(session.held), 0)
        self.say(session, QUEUE, m.WorkerCredits(session.name, {}, free, session.seen, refresh))

    def received(self, session: Session, envelope: Envelope) -> None:
        message = envelope.message
        if isinstance(message, m.RunTasks):
            for body in message.bodies:
                if body.id in session.held or body.id in session.done or (body.id, body.attempt) in session.started:
                    continue
                session.seen += 1
                session.started[body.id, body.attempt] = None
                session.held[body.id] = (body.attempt, self.now_ms)
                takes_ms = session.takes_ms or self.random.randint(5, 3_000)
                self.later(takes_ms, lambda i=body.id, a=body.attempt: self.finish(session, i, a))
            self.credit(session)
        elif isinstance(message, m.CancelAttempts):
            for task_id, attempt in zip(message.ids, message.attempts, strict=True):
                if session.held.get(task_id, (0, 0))[0] == attempt:
                    del session.held[task_id]
                if session.done.get(task_id) == attempt:
                    del session.done[task_id]
            self.credit(session)
        elif isinstance(message, m.OutcomesTaken):
            for task_id in session.reports.pop(envelope.request, ()):
                session.done.pop(task_id, None)
        elif isinstance(message, m.SessionEnded):
            del self.sessions[session.name]
            self.start_session(session.name + "x", session.slots)

    def finish(self, session: Session, task_id: int, attempt: int) -> None:
        if self.sessions.get(session.name) is session and session.held.get(task_id, (0, 0))[0] == attempt:
            del session.held[task_id]
            session.done[task_id] = attempt
            self.report(session)
            self.credit(session)

    def report(self, session: Session) -> None:
        """Report to each shard what is done and has not been answered."""
        for shard in range(self.shards):
            outcomes = [m.Outcome(i, a, 1, 1, 2) for i, a in session.done.items() if shard_of(i) == shard]
            if outcomes:
                message = m.ReportOutcomes(session.name, outcomes)
                self.number += 1
                session.reports[self.number] = [outcome.id for outcome in outcomes]
                self.post(Envelope(shard_address(shard), message, f"session.{session.name}", self.number))

    # -- the test --------------------------------------------------------------------------------------------------------

    def submit(self, shard: int, count: int, **policy: Any) -> None:
        """Submit without the network between: what was submitted is certain."""
        template = m.Template("app.noop", queue="mail", **policy)
        tasks = m.SubmitTasks("acme", [template], [m.TaskSpec(0, b"p")] * count)
        self.turn(shard_address(shard), Envelope(shard_address(shard), tasks))

    def run_ms(self, span_ms: int) -> None:
        end_ms = self.now_ms + span_ms
        while self.events and self.events[0][0] <= end_ms:
            at_ms, _, act = heapq.heappop(self.events)
            self.now_ms = at_ms
            act()
        self.now_ms = end_ms

    def set_clock(self, by_ms: int) -> None:
        """All wall clocks are set; timers look again, as the clock port does."""
        self.step_ms += by_ms
        for address, actor in list(self.actors.items()):
            self.turn(address, None)
            self.arm(address, actor)

    def count(self, state: State) -> int:
        sql = "select count(*) from tasks where state = ?"
        return sum(connection.execute(sql, (int(state),)).fetchone()[0] for connection, _ in self.stores)

    def running(self) -> int:
        return self.count(State.RUNNING)

    def unfinished(self) -> int:
        sql = "select count(*) from tasks where state < 10"
        return sum(connection.execute(sql).fetchone()[0] for connection, _ in self.stores)

    def messages(self, kind: type[Any]) -> list[Any]:
        return [envelope.message for envelope in self.sent if isinstance(envelope.message, kind)]
