"""The queue actor: which task runs next, and which worker gets it.

One actor owns one queue of one pool. It holds references, never payloads: the shard that offered a reference keeps the
truth, and sends the body once its lease is durable. What always holds: no limit (queue, tenant, key, rate) is exceeded
by what it grants; after a turn no free credit is left for a reference that may run; an id is waiting or running, never
both, so repeating an offer or a release changes nothing.

Its memory is rebuilt from the shards when it starts: nothing is granted until its settings are there and every shard has
said what runs. Shards that do not answer are waited for: where nothing is limited for `RECOVERY_MS`, else until they have
been asked `EAGER_ASKS` times. A key's start rate is not rebuilt: after a restart a key begins with a full bucket.

Messages may be lost, come twice or late, and shards may move. `actors.shard_links` notices that by their numbers; grants
that are old are confirmed now and then, in case the last message of all was the lost one.
"""

from __future__ import annotations

from typing import Final, assert_never

from ..runtime.actor import Actor, Turn
from ..runtime.hashing import slot_of
from . import messages as m
from .addresses import key_of, shard_address
from .book import Grant, TaskBook
from .credits import Credits, Session
from .explain import explain_granted, explain_unknown, explain_waiting
from .lanes import Shape
from .permits import UNLIMITED, Permits
from .ready import Band, ReadyLanes
from .shard_links import ShardLinks
from .steps import Steps

RECOVERY_MS: Final = 500
CONFIRM_MAX: Final = 1_024  # ids to a message
_SHARD_SHIFT: Final = 12  # of runtime.ids.shard_of, which is too slow to call for every id
_SHARD_MASK: Final = 1_023


class QueueActor(Actor[m.QueueMessage]):
    """Matches ready tasks with worker credits: highest priority first, tenants in turn. `shards`: how many there are;
    `epoch`: of the slot it lives in; `reconcile_ms`: grants older than that are confirmed, so often."""

    def __init__(self, address: str, shards: int, *, epoch: int = 0, reconcile_ms: int = 10_000) -> None:
        self._address = address
        self._shards = shards
        self._home = slot_of(address, shards)
        self._config: m.QueueConfig | None = None
        self._configured = (0, 0)  # (epoch, number) of the settings
        self._steps = Steps()
        self._links = ShardLinks(address, shards, epoch)
        self._offered_by = [False] * shards  # shards some of whose tasks may be known here
        self._recovered_ms = 0
        self._reconcile_ms = reconcile_ms
        self._confirm_ms: int | None = None  # when grants are looked at
        self._ready = ReadyLanes()
        self._credits = Credits(silent_ms=6 * reconcile_ms)  # a minute, where spans are not stretched
        self._permits = Permits(address)
        self._book = TaskBook(self._ready, self._credits, self._permits)
        self._starved: dict[Shape, None] = {}  # shapes with bands that wait for a worker
        self._over_limit: dict[Band, None] = {}  # bands that wait for the queue's own limit

    # -- routing -------------------------------------------------------------------------------------------------------

    def started(self, turn: Turn) -> None:
        self._steps.taken(turn)
        self._recovered_ms = turn.now_ms + RECOVERY_MS
        self._links.begin(turn)
        self._permits.owner = self._links.owner

    def handle(self, message: m.QueueMessage, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        match message:
            case m.OfferTasks():
                if self._links.takes(message, turn):
                    self._offer(message, turn)
            case m.WorkerCredits():
                self._feed(self._credits.update(message, turn.now_ms))
            case m.ReleaseTasks():
                if self._links.takes(message, turn):
                    self._release(message, turn.now_ms)
            case m.WithdrawTasks():
                if self._links.takes(message, turn):
                    self._book.withdraw(message.ids, turn.now_ms)
            case m.PermitsGranted():
                claim = self._permits.granted(message, turn)
                if claim is not None and claim.parked:
                    self._ready.wake(claim.parked, claim.room())
            case m.SessionEnded():
                self._credits.end(message.session)
            case m.ConfigureQueue():
                self._configure(message, turn)
            case m.ReadQueue():
                self._read(turn)
            case m.ExplainTasks():
                self._explain(message.ids, turn)
            case _:
                assert_never(message)

    def end_turn(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        if self._credits.free and self._book.waiting_total:
            self._match(turn)
        self._permits.flush(turn, is_partial=bool(self._links.unheard))
        if self._confirm_ms is None and self._book.grants:
            self._confirm_ms = turn.now_ms + self._reconcile_ms

    def due_ms(self) -> int | None:
        due = self._permits.due_ms()
        for other in (self._ready.due_ms(), self._book.gates.due_ms(), self._links.due_ms(), self._confirm_ms):
            if other is not None and (due is None or other < due):
                due = other
        if self._recovered_ms and self._links.unheard and self._book.waiting_total:
            due = self._recovered_ms if due is None else min(due, self._recovered_ms)
        return due

    @property
    def is_spent(self) -> bool:
        """Tell whether it knows no task, no worker and no key, holds no permits, and has heard every shard."""
        book = self._book
        return not (book.known or len(self._credits) or len(book.gates)) and self.due_ms() is None

    def on_time(self, turn: Turn) -> None:
        if turn.now_ms != self._steps.latest_ms:
            self._take_time(turn)
        now_ms = turn.now_ms
        due = self._ready.due_ms()
        if due is not None and due <= now_ms:
            self._ready.rise(now_ms)
        for gate in self._book.gates.due(now_ms):
            self._book.open(gate, now_ms)
        self._permits.on_time(turn)
        self._links.on_time(turn)
        if self._recovered_ms <= now_ms:
            self._recovered_ms = 0
        if self._confirm_ms is not None and self._confirm_ms <= now_ms:
            self._confirm(turn)

    # -- settings ------------------------------------------------------------------------------------------------------

    def _configure(self, message: m.ConfigureQueue, turn: Turn) -> None:
        if message.number:
            turn.send(shard_address(self._home), m.QueueConfigured(message.config, message.number))
        if (message.epoch, message.number) < self._configured:
            return
        self._configured = (message.epoch, message.number)
        config = self._config = message.config
        self._ready.set_ageing(config.ageing_ms, turn.now_ms)
        if self._permits.paused != config.paused:
            self._permits.paused = config.paused
            self._permits.all_changed()

    # -- references in and out -------------------------------------------------------------------------------------------

    def _offer(self, message: m.OfferTasks, turn: Turn) -> None:
        now_ms, shard = turn.now_ms, message.shard
        if message.full:
            granted = self._links.settled(message)
            self._links.answered(message)
            self._permits.owner = self._links.owner
            if self._offered_by[shard]:
                self._book.settle(message, granted, now_ms)
            if self._config is None and shard == self._home:
                self._links.ask(shard, turn)  # the settings it sent with this were lost
        self._offered_by[shard] = True
        for leased in message.leased:
            self._book.adopt(leased, now_ms)
        for lot in message.lots:
            self._book.offer(lot, now_ms)

    def _release(self, message: m.ReleaseTasks, now_ms: int) -> None:
        released = self._book.end(message.ids, self._links.settled(message), now_ms)
        for session, slots in message.refused_by_session.items():
            slots = min(slots, released)  # a repeated refusal gives nothing back
            released -= slots
            if slots > 0:
                self._feed(self._credits.give_back(session, slots))

    def _confirm(self, turn: Turn) -> None:
        """Ask the shards about grants that are old: the grant, or the release, may have been lost."""
        now_ms, links = turn.now_ms, self._links
        self._confirm_ms = now_ms + self._reconcile_ms if self._book.grants else None
        for shard, ids in self._book.granted_before(now_ms - self._reconcile_ms).items():
            for start in range(0, len(ids), CONFIRM_MAX):
                some = ids[start : start + CONFIRM_MAX]
                turn.send(shard_address(shard), m.ConfirmLeases(self._address, some, *links.owner, links.granted))

    def _take_time(self, turn: Turn) -> None:
        """Intervals go on where they were when the wall clock is set."""
        by_ms = self._steps.taken(turn)
        if not by_ms:
            return
        for part in (self._links, self._book, self._credits, self._permits, self._ready):
            part.shift(by_ms)
        if self._recovered_ms:
            self._recovered_ms += by_ms
        if self._confirm_ms is not None:
            self._confirm_ms += by_ms

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
        if config is None or config.paused or (self._links.unheard and self._must_wait(config)):
            return
        ready, credits, book = self._ready, self._credits, self._book
        room = self._room()
        if self._over_limit:
            ready.wake(self._over_limit, room)
        granted: dict[str, tuple[int, list[int]]] = {}  # by session: number of the message, ids
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
            batch = granted.get(session.name)
            if batch is None:
                self._links.granted += 1
                batch = granted[session.name] = self._links.granted, []
            ids = book.serve(band, session.name, limit, ready.until_ms(band), now_ms, batch[0])
            if ids:
                slots = len(ids) * cost
                room -= slots
                ready.charge(band, slots)
                credits.spend(session, slots, now_ms)
                batch[1].extend(ids)
        for name, (number, ids) in granted.items():
            self._send_grants(name, ids, number, turn)

    def _must_wait(self, config: m.QueueConfig) -> bool:
        """Tell whether shards that have not said what runs are waited for."""
        return bool(self._recovered_ms or config.concurrency or len(self._book.gates) or self._permits.any_limited)

    def _send_grants(self, session: str, ids: list[int], number: int, turn: Turn) -> None:
        epoch, born_ms = self._links.owner
        if self._shards == 1:
            turn.send(shard_address(0), m.GrantLeases(self._address, session, ids, epoch, born_ms, number))
            return
        by_shard: dict[int, list[int]] = {}
        for task_id in ids:
            shard = task_id >> _SHARD_SHIFT & _SHARD_MASK
            if shard in by_shard:
                by_shard[shard].append(task_id)
            else:
                by_shard[shard] = [task_id]
        for shard, some in by_shard.items():
            turn.send(shard_address(shard), m.GrantLeases(self._address, session, some, epoch, born_ms, number))

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
