"""A cell with everything around it held in the hand: the clock, the bus, the store, and a small durable actor.

Each is a full implementation of its port, in memory; the journal can be told to hold or refuse what comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from foliot.runtime.actor import Actor, Journal, Turn
from foliot.runtime.bus import Envelope, Receiver, Refusal, Resolver
from foliot.runtime.cell import Cell, CellConfig
from foliot.runtime.errors import DeadlineError, NoSuchActorError, UnavailableError
from foliot.runtime.rng import Rng

ADDRESS = "counter.1"
PEER = "peer.1"


class ManualClock:
    """Time that moves only when told. `set_ms` steps the wall clock alone, as a correction of the machine's would."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._mono_ns = 0
        self.pending: list[_Call] = []

    def now_ms(self) -> int:
        return self._now_ms

    def mono_ns(self) -> int:
        return self._mono_ns

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> _Call:
        call = _Call(self, when_ms, callback)
        self.pending.append(call)
        return call

    def set_ms(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def advance_ms(self, by_ms: int) -> None:
        self._now_ms += by_ms
        self._mono_ns += by_ms * 1_000_000
        self.fire(lambda call: call.when_ms <= self._now_ms)

    def fire(self, which: Callable[[_Call], bool] = lambda _: True) -> None:
        """Run pending calls, due or not."""
        for call in [call for call in self.pending if which(call)]:
            self.pending.remove(call)
            call.callback()


class _Call:
    def __init__(self, clock: ManualClock, when_ms: int, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.when_ms = when_ms
        self.callback = callback

    def cancel(self) -> None:
        with suppress(ValueError):
            self._clock.pending.remove(self)


class LocalBus:
    """Delivers at once, and keeps what it was given. `broken`: raise this at the next send."""

    def __init__(self, trace: list[tuple[str, Any]]) -> None:
        self._trace = trace
        self._receivers: dict[str, Receiver] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0
        self.broken: Exception | None = None

    def bind(self, address: str, receiver: Receiver) -> None:
        self._receivers[address] = receiver

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        self._receivers.pop(address, None)

    def host(self, slot: int, resolve: Resolver) -> None:
        raise AssertionError("a cell hosts nothing")

    def leave(self, slot: int) -> None:
        raise AssertionError("a cell hosts nothing")

    def send(self, envelope: Envelope) -> None:
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        self._trace.append(("send", envelope.message))
        if envelope.to == "client.1":
            self._answers.pop(envelope.request).set_result(envelope.message)
        elif envelope.to in self._receivers:
            try:
                self._receivers[envelope.to].deliver(envelope)
            except UnavailableError as error:
                self._refuse(envelope, error)
        else:
            self._refuse(envelope, NoSuchActorError(envelope.to))

    def _refuse(self, envelope: Envelope, error: UnavailableError) -> None:
        if envelope.request:
            self.send(Envelope(envelope.sender, Refusal.of(error), envelope.to, envelope.request))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        self._last_request += 1
        answer = self._answers[self._last_request] = asyncio.get_running_loop().create_future()
        self.send(Envelope(to, message, "client.1", self._last_request))
        try:
            return await asyncio.wait_for(answer, timeout_ms / 1000)
        except TimeoutError as error:
            raise DeadlineError(type(message).__name__, timeout_ms) from error


class Rows(list[tuple[str, int]]):
    """(key, total), as the counter's changes."""

    def __bool__(self) -> bool:
        return len(self) > 0


class MemoryStore:
    """What survives: totals by key. `commits` holds the rows of every commit, in order.

    `refusals`, `read_errors`, `start_errors`: raised by the next calls, one each; `lost_answers`: by the next commits, once
    their rows are written. `gate`: commits wait while closed.
    """

    def __init__(self, trace: list[tuple[str, Any]]) -> None:
        self._trace = trace
        self.epoch = 1
        self.totals: dict[str, int] = {}
        self.commits: list[Rows] = []
        self.refusals: list[Exception] = []
        self.lost_answers: list[Exception] = []
        self.read_errors: list[Exception] = []
        self.start_errors: list[Exception] = []
        self.poisoned: list[tuple[str, Any, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.read_gate = asyncio.Event()
        self.read_gate.set()

    def changes(self) -> Rows:
        return Rows()

    async def commit(self, changes: Any) -> None:
        await self.gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        for _, total in changes:
            total.to_bytes(8, "big")  # as a database would refuse it
        self.totals.update(changes)
        self.commits.append(changes)
        self._trace.append(("commit", list(changes)))
        if self.lost_answers:
            raise self.lost_answers.pop(0)

    async def read(self, query: Any) -> Any:
        await self.read_gate.wait()
        if self.read_errors:
            raise self.read_errors.pop(0)
        return Seen(query.key, self.totals.get(query.key, 0))

    async def keep(self, address: str, message: Any, error: BaseException) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.poisoned.append((address, message, str(error)))


class Add(msgspec.Struct, frozen=True):
    """Answers: Total."""

    key: str
    by: int = 1


class Total(msgspec.Struct, frozen=True):
    key: str
    value: int


class Look(msgspec.Struct, frozen=True):
    """Read the store; the actor tells its peer what it has Seen."""

    key: str


class Seen(msgspec.Struct, frozen=True):
    key: str
    value: int


class Break(msgspec.Struct, frozen=True):
    """Raises when handled."""

    why: str = "cannot be handled"


class Alarm(msgspec.Struct, frozen=True):
    """Ring at an instant: Rang goes to the peer. 0: no more."""

    at_ms: int
    broken: bool = False


class Rang(msgspec.Struct, frozen=True):
    at_ms: int
    adds: int


class Note(msgspec.Struct, frozen=True):
    """Sent to the actor by itself."""

    text: str


class Echo(msgspec.Struct, frozen=True):
    """Makes the actor send itself a Note, and its peer that note again once it comes."""

    text: str


class Counter(Actor[Any]):
    """Counts by key; its totals are in the store before anybody hears of them."""

    def __init__(self, totals: dict[str, int]) -> None:
        self.totals = dict(totals)
        self.alarm: Alarm | None = None
        self.adds = 0

    def handle(self, message: Any, turn: Turn) -> None:
        match message:
            case Add(key, by):
                total = self.totals[key] = self.totals.get(key, 0) + by
                self.adds += 1
                turn.changes.append((key, total))
                turn.send(PEER, Total(key, total))
                turn.reply(Total(key, total))
            case Look():
                turn.read(message)
            case Echo(text):
                turn.send(ADDRESS, Note(text))
            case Alarm():
                self.alarm = message if message.at_ms else None
            case Break(why):
                raise ValueError(why)
            case _:
                turn.send(PEER, message)

    def due_ms(self) -> int | None:
        return self.alarm.at_ms if self.alarm else None

    def on_time(self, turn: Turn) -> None:
        assert self.alarm is not None
        if self.alarm.broken:
            raise ValueError("the alarm is broken")
        turn.send(PEER, Rang(turn.now_ms, self.adds))
        self.alarm = None


class Harness:
    """One cell and its world. `trace` is what happened, in order: ("commit", rows) and ("send", message)."""

    def __init__(self) -> None:
        self.trace: list[tuple[str, Any]] = []
        self.clock = ManualClock()
        self.bus = LocalBus(self.trace)
        self.store = MemoryStore(self.trace)
        self.actors: list[Counter] = []
        self.durable = True
        self.cell = self.build()

    def build(self, **config: int) -> Cell:
        """Make the cell anew with other bounds; back-offs are a millisecond unless told."""
        quick = {"restart_backoff_ms": 1, "store_backoff_ms": 1}
        self.cell = Cell(
            ADDRESS, self._make, bus=self.bus, clock=self.clock, rng=Rng(7), poison=self.store.keep,
            config=CellConfig(**{**quick, **config}),
        )  # fmt: skip
        self.bus.bind(ADDRESS, self.cell)
        return self.cell

    async def _make(self) -> tuple[Actor[Any], Journal | None]:
        if self.store.start_errors:
            raise self.store.start_errors.pop(0)
        self.actors.append(Counter(self.store.totals))
        return self.actors[-1], self.store if self.durable else None

    def tell(self, *messages: Any, sender: str = PEER) -> None:
        for message in messages:
            self.cell.deliver(Envelope(ADDRESS, message, sender))

    async def ask(self, message: Any) -> Any:
        return await self.bus.request(ADDRESS, message, timeout_ms=10_000)

    def heard(self, *kinds: type) -> list[Any]:
        """Return the messages sent so far, of these kinds if any are named."""
        return [what for event, what in self.trace if event == "send" and (not kinds or isinstance(what, kinds))]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        life = asyncio.create_task(self.cell.run())
        try:
            yield life
        finally:
            life.cancel()
            with suppress(asyncio.CancelledError):
                await life

    async def settle(self) -> None:
        """Wait until the cell has nothing left to do."""
        await self.until(lambda: self.cell.is_idle)

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(20):  # mostly it is a matter of a few steps of the loop
            if holds():
                return
            await asyncio.sleep(0)
        for _ in range(10_000):
            if holds():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not come to that")

