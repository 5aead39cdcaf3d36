"""The queue actor: which task runs next, and which worker gets it.

One actor owns one queue of one pool. It holds references, never payloads: the shard that offered a reference keeps the
truth, and sends the body once its lease is durable. What always holds: no limit (queue, tenant, key, rate) is exceeded
by what it grants; after a turn no free credit is left for a reference that may run; an id is waiting or running, never
both, so repeating an offer or a release changes nothing.

Its memory is rebuilt from the shards when it starts: until its settings are there, and every shard has said what runs or
had `RECOVERY_MS` to say it, nothing is granted. A key's start rate is not rebuilt: after a restart a key begins with a
full bucket.
"""

from __future__ import annotations

from typing import Final, assert_never

from ..runtime.actor import Actor, Turn
from . import messages as m
from .addresses import key_of, shard_address
from .book import Grant, TaskBook
from .credits import Credits, Session
from .explain import explain_granted, explain_unknown, explain_waiting
from .lanes import Shape
from .permits import UNLIMITED, Permits
from .ready import Band, ReadyLanes

RECOVERY_MS: Final = 500
ASK_AGAIN_MS: Final = 1_000  # settings that did not arrive are asked for again, doubling ...
ASK_AGAIN_MAX_MS: Final = 30_000  # ... up to this
_SHARD_SHIFT: Final = 12  # of runtime.ids.shard_of, which is too slow to call for every id
_SHARD_MASK: Final = 1_023


class QueueActor(Actor[m.QueueMessage]):
    """Matches ready tasks with worker credits: highest priority first, tenants in turn. `shards`: how many there are."""

    def __init__(self, address: str, shards: int) -> None:
        self._address = address
        self._shards = shards
        self._config: m.QueueConfig | None = None
        self._unheard = dict.fromkeys(range(shards))  # shards that have not said what runs since this actor began
        self._recovered_ms = 0  # when it stops waiting for them
        self._ask_at_ms = 0
        self._ask_after_ms = ASK_AGAIN_MS
        self._ready = ReadyLanes()
        self._credits = Credits()
        self._permits = Permits(address)
        self._book = TaskBook(self._ready, self._credits, self._permits)
        self._starved: dict[Shape, None] = {}  # shapes with bands that wait for a worker
        self._over_limit: dict[Band, None] = {}  # bands that wait for the queue's own limit

    # -- routing -------------------------------------------------------------------------------------------------------

    def started(self, turn: Turn) -> None:
        self._recovered_ms = turn.now_ms + RECOVERY_MS
        self._ask_shards(turn)

    def handle(self, message: m.QueueMessage, turn: Turn) -> None:
        match message:
            case m.OfferTasks():
                self._offer(message, turn.now_ms)
            case m.WorkerCredits():
                self._feed(self._credits.update(message, turn.now_ms))
            case m.ReleaseTasks():
                self._release(message, turn.now_ms)
            case m.WithdrawTasks():
                self._book.withdraw(message.ids, turn.now_ms)
            case m.PermitsGranted():
                claim = self._permits.granted(message, turn)
                if claim is not None and claim.parked:
                    self._ready.wake(claim.parked, claim.room())
            case m.SessionEnded():
                self._credits.end(message.session)
            case m.ConfigureQueue():
                self._configure(message.config, turn)
            case m.ReadQueue():
                self._read(turn)
            case m.ExplainTasks():
                self._explain(message.ids, turn)
            case _:
                assert_never(message)

    def end_turn(self, turn: Turn) -> None:
        if self._credits.free and self._book.waiting_total:
            self._match(turn)
        self._permits.flush(turn)

    def due_ms(self) -> int | None:
        due = self._permits.due_ms()
        for other in (self._ready.due_ms(), self._book.gates.due_ms()):
            if other is not None and (due is None or other < due):
                due = other
        if self._config is None:
            due = self._ask_at_ms if due is None else min(due, self._ask_at_ms)
        elif self._unheard and self._book.waiting_total:
            due = self._recovered_ms if due is None else min(due, self._recovered_ms)
        return due

    def on_time(self, turn: Turn) -> None:
        now_ms = turn.now_ms
        due = self._ready.due_ms()
        if due is not None and due <= now_ms:
            self._ready.rise(now_ms)
        for gate in self._book.gates.due(now_ms):
            self._book.open(gate, now_ms)
        self._permits.on_time(turn)
        if self._config is None and self._ask_at_ms <= now_ms:
            self._ask_shards(turn)
        elif self._unheard and self._recovered_ms <= now_ms:
            self._unheard.clear()

    # -- settings ------------------------------------------------------------------------------------------------------

    def _ask_shards(self, turn: Turn) -> None:
        for shard in range(self._shards):
            turn.send(shard_address(shard), m.QueueStarted(self._address))
        self._ask_at_ms = turn.now_ms + self._ask_after_ms
        self._ask_after_ms = min(2 * self._ask_after_ms, ASK_AGAIN_MAX_MS)

    def _configure(self, config: m.QueueConfig, turn: Turn) -> None:
        self._config = config
        self._ready.set_ageing(config.ageing_ms, turn.now_ms)
        if self._permits.paused != config.paused:
            self._permits.paused = config.paused
            self._permits.all_changed()
        turn.reply(m.QueueConfigured(config))

    # -- references in and out -------------------------------------------------------------------------------------------

    def _offer(self, message: m.OfferTasks, now_ms: int) -> None:
        self._unheard.pop(message.shard, None)
        for leased in message.leased:
            self._book.adopt(leased, now_ms)
        for lot in message.lots:
            self._book.offer(lot, now_ms)

    def _release(self, message: m.ReleaseTasks, now_ms: int) -> None:
        released = self._book.end(message.ids, now_ms)
        for session, slots in message.refused_by_session.items():
            slots = min(slots, released)  # a repeated refusal gives nothing back
            released -= slots
            if slots > 0:
                self._feed(self._credits.give_back(session, slots))

    # -- waking --------------------------------------------------------------------------------------------------------

    def _feed(self, session: Session | None) -> None:
        """Wake what waited for a worker like this one."""
        if session is None or not self._starved:
            return
        for shape in list(self._starved):
            if session.free >= shape.cost and shape.fit in session.fits:
                del self._starved[shape]
                self._ready.wake(shape.parked, shape.cost)

    def _room(self) -> int:
        """Return how many slots the queue's own limit leaves."""
        config = self._config
        return UNLIMITED if config is None or not config.concurrency else config.concurrency - self._book.running

    # -- matching ------------------------------------------------------------------------------------------------------

    def _match(self, turn: Turn) -> None:
        config = self._config
        now_ms = turn.now_ms
        if config is None or config.paused or (self._unheard and now_ms < self._recovered_ms):
            return
        ready, credits, book = self._ready, self._credits, self._book
        room = self._room()
        if self._over_limit:
            ready.wake(self._over_limit, room)
        granted: dict[str, list[int]] = {}
        while credits.free > 0 and room > 0:
            band = ready.front()
            if band is None:
                break
            shape = band.shape
            cost = shape.cost
            claim = band.share.claim
            permitted = claim.room()
            if cost > room:
                ready.park(band, self._over_limit)
                continue
            if cost > permitted:
                ready.park(band, claim.parked)
                continue
            session = credits.best(shape.fit, cost, now_ms)
            if session is None:
                ready.park(band, shape.parked)
                self._starved[shape] = None
                continue
            even = -(-min(book.waiting_total, credits.free) // credits.sessions_free)  # so that workers share a batch
            limit = ready.portion(band, min(min(session.free, room, permitted) // cost, even))
            assert limit > 0
            ids = book.serve(band, session.name, limit, ready.until_ms(band), now_ms)
            if ids:
                slots = len(ids) * cost
                room -= slots
                ready.charge(band, slots)
                credits.spend(session, slots, now_ms)
                batch = granted.get(session.name)
                if batch is None:
                    granted[session.name] = ids
                else:
                    batch += ids
        for name, ids in granted.items():
            self._send_grants(name, ids, turn)

    def _send_grants(self, session: str, ids: list[int], turn: Turn) -> None:
        if self._shards == 1:
            turn.send(shard_address(0), m.GrantLeases(self._address, session, ids))
            return
        by_shard: dict[int, list[int]] = {}
        for task_id in ids:
            shard = task_id >> _SHARD_SHIFT & _SHARD_MASK
            if shard in by_shard:
                by_shard[shard].append(task_id)
            else:
                by_shard[shard] = [task_id]
        for shard, some in by_shard.items():
            turn.send(shard_address(shard), m.GrantLeases(self._address, session, some))

    # -- questions -----------------------------------------------------------------------------------------------------

    def _read(self, turn: Turn) -> None:
        pool, _, name = key_of(self._address).partition(".")
        offered = {priority: count for priority, count in enumerate(self._book.waiting) if count}
        config = self._config or m.QueueConfig(pool, name)
        turn.reply(m.QueueRead(config, offered, self._book.running, self._credits.free, len(self._credits)))

    def _explain(self, ids: list[int], turn: Turn) -> None:
        explanations: list[m.Explanation] = []
        config, running = self._config, self._book.running
        for task_id in ids:
            entry = self._book.known.get(task_id)
            if entry is None:
                explanations.append(explain_unknown(task_id, key_of(self._address).partition(".")[2]))
            elif isinstance(entry, Grant):
                explanations.append(explain_granted(task_id, entry.session, entry.at_ms))
            else:
                explanation = explain_waiting(
                    task_id, entry, config=config, running=running, credits=self._credits, now_ms=turn.now_ms
                )
                explanations.append(explanation)
        turn.reply(m.TasksExplained(explanations))
