"""The shell around an actor: a bounded mailbox, one turn per drain, one commit per turn, then the messages.

The cell owns the actor: nobody else touches it. What holds: nothing is sent before the rows that justify it are
durable; a message whose handling raises, or whose rows the store cannot encode, is set aside with its bytes and the
actor starts again from the store; every other message drained with it is handled again, in order; while the store
cannot write or read, the cell waits, since its memory is ahead of the store, and refuses requests from the edge. A commit of
which nobody knows whether it was written is not repeated: the actor starts again from the store, which knows, and the
messages of that turn go unanswered. An idle actor may note a message without a turn, if it only has to remember it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

import structlog

from .actor import Actor, Journal, Turn
from .bus import Bus, Envelope, Refusal
from .clock import SET_BACK_MS, Clock, Timer
from .errors import (
    CommitUnknownError,
    EscalationError,
    MailboxFullError,
    OutdatedError,
    StaleEpochError,
    StoreError,
    UnavailableError,
)
from .rng import Rng

log = structlog.get_logger("foliot.runtime")

T = TypeVar("T")

_STORE: Final = "store"  # the sender of answers to reads; no address, since it has no dot


@dataclass(frozen=True)
class CellConfig:
    """The bounds of one cell."""

    mailbox_capacity: int = 4_096  # messages; each is a batch of at most a few hundred items
    request_capacity: int = 512  # requests from the edge are refused beyond this, before anything is half done
    drain_max: int = 64  # messages to a turn: bounds the size of one commit
    restart_backoff_ms: int = 100
    restart_backoff_max_ms: int = 5_000
    escalate_after: int = 10  # failures ...
    escalate_window_ms: int = 60_000  # ... within this window
    store_backoff_ms: int = 50  # between two tries while the store cannot write or read, doubling ...
    commit_backoff_max_ms: int = 2_000  # ... up to this


@dataclass
class CellStats:
    """What a cell has done since it started; `busy_ns` by message type is CPU spent in `handle` or `note`."""

    turns: int = 0
    messages: int = 0
    restarts: int = 0
    set_aside: int = 0
    unknown_commits: int = 0
    busy_ns: dict[str, int] = field(default_factory=dict)


PoisonSink = Callable[[str, Any, BaseException], Awaitable[None]]
"""Keeps a message that could not be handled: (address, message, error)."""


class Cell:
    """One actor, alive."""

    def __init__(
        self,
        address: str,
        make: Callable[[], Awaitable[tuple[Actor[Any], Journal | None]]],
        *,
        bus: Bus,
        clock: Clock,
        rng: Rng,
        poison: PoisonSink,
        config: CellConfig | None = None,
    ) -> None:
        self.address = address
        self.stats = CellStats()
        self._make = make
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._poison = poison
        self._config = config or CellConfig()
        self._mailbox: deque[Envelope] = deque()
        self._is_woken = False
        self._waiter: asyncio.Future[None] | None = None  # while it sleeps
        self._timer: Timer | None = None
        self._timer_due_ms = 0
        self._due_ms: int | None = None  # when the actor wants its next turn, as it said at the end of the last one
        self._turned_ms = 0  # the wall clock at the last turn
        self._stall: StoreError | None = None  # why nothing can be written at this moment ...
        self._read_stall: StoreError | None = None  # ... or read
        self._failures: deque[int] = deque()
        self._pause_ms = 0  # before the actor is started again
        self._unknown = 0  # commits in a row whose outcome is unknown
        self._retiring = False
        self._careful = 0  # messages still to be handled one per turn, to find the one that raises
        self._reads: dict[asyncio.Task[None], None] = {}  # in order of asking, since order can show
        self._read_error: Exception | None = None
        self._idle = False
        self._resting: Actor[Any] | None = None  # the actor, while it sleeps
        self._notes = False  # whether there is anything it takes without a turn

    # -- the mailbox -------------------------------------------------------------------------------------------------

    def deliver(self, envelope: Envelope) -> None:
        """Take a message into the mailbox. Raises: MailboxFullError, or the store's error while a commit is stuck."""
        if self._notes and not envelope.request and not self._is_woken:
            actor = self._resting
            if actor is not None and self._note(actor, envelope.message):
                return
        depth = len(self._mailbox)
        if envelope.request and not envelope.sender.startswith("session."):
            stall = self._stall or self._read_stall
            if stall is not None:
                raise stall.with_traceback(None)  # one error for all, so it must not gather their frames
            if depth >= self._config.request_capacity:
                raise MailboxFullError(self.address, self._config.request_capacity)
        elif depth >= self._config.mailbox_capacity:
            raise MailboxFullError(self.address, self._config.mailbox_capacity)
        self._mailbox.append(envelope)
        self._wake()

    def _note(self, actor: Actor[Any], message: Any) -> bool:
        """Let the idle actor take a message without a turn. Its timer stays: it may fire early now, and is armed again."""
        clock = self._clock
        at, now_ms = clock.mono_ns(), clock.now_ms()
        try:
            if not actor.note(message, now_ms, at // 1_000_000):
                return False
        except Exception as error:  # `handle` will say the same, within a turn that can fail
            log.warning("note_failed", address=self.address, message=type(message).__name__, error=repr(error))
            return False
        stats, name = self.stats, type(message).__name__
        stats.messages += 1
        stats.busy_ns[name] = stats.busy_ns.get(name, 0) + clock.mono_ns() - at
        self._turned_ms = now_ms
        return True

    def __len__(self) -> int:
        return len(self._mailbox)

    @property
    def capacity(self) -> int:
        """How many messages its mailbox may hold."""
        return self._config.mailbox_capacity

    @property
    def is_idle(self) -> bool:
        """Tell whether it has started, nothing waits and nothing is being committed or read."""
        return self._idle and not self._mailbox and not self._reads and not self._is_woken

    @property
    def is_spent(self) -> bool:
        """Tell whether its actor is idle, and nothing is lost if it ends now."""
        actor = self._resting
        return actor is not None and self.is_idle and actor.is_spent

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until the actor has finished or was retired, or until cancelled. Raises: EscalationError, StaleEpochError."""
        try:
            while True:
                if self._pause_ms:
                    await asyncio.sleep(self._pause_ms / 1000)
                actor, journal = await self._persist("start", self._make)
                try:
                    await self._live(actor, journal)
                except _ActorFailedError:
                    continue
                return
        finally:
            self._idle = False
            self._resting = None
            self._stop_timer()
            if reads := self._cancel_reads():
                await asyncio.wait(reads)

    async def _live(self, actor: Actor[Any], journal: Journal | None) -> None:
        await self._turn(actor, journal, [], starting=True)
        mailbox = self._mailbox
        self._notes = type(actor).note is not Actor.note
        while mailbox or self._reads or not self._retiring:  # a message may wait for what the store says
            if mailbox or self._is_due():
                await asyncio.sleep(0)  # an actor without a journal must not keep the loop to itself
            else:
                self._arm()
                self._idle = True
                if not self._is_woken:
                    self._resting = actor
                    await self._sleep()
                    self._resting = None
                self._idle = False
            self._is_woken = False
            if self._read_error is not None:
                await self._failed([], None, self._read_error)
            limit = 1 if self._careful else self._config.drain_max
            batch = [mailbox.popleft() for _ in range(min(limit, len(mailbox)))]
            if batch or self._is_due():
                await self._turn(actor, journal, batch)
                if self._careful:
                    self._careful -= len(batch)
                if actor.finished and not mailbox:
                    return

    def retire(self) -> None:
        """End the actor once it has handled what waits in its mailbox. Nothing more is delivered by then."""
        self._retiring = True
        self._wake()

    def _wake(self) -> None:
        """Let it look at what there is."""
        self._is_woken = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _sleep(self) -> None:
        """Wait for the next call of `_wake`; an event would keep a list of waiters, where there is one."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def refuse_waiting(self, error: UnavailableError) -> None:
        """Answer the requests that wait in the mailbox of an actor that has ended: nothing of them was done. Not for an
        actor whose slot was lost: then another node may have got the same messages, and done what they ask for."""
        while self._mailbox:
            envelope = self._mailbox.popleft()
            if envelope.request:
                self._bus.send(Envelope(envelope.sender, Refusal.of(error), self.address, envelope.request))

    def _is_due(self) -> bool:
        """Tell whether the actor wants a turn: it is due, or the clock was set back and its intervals must know."""
        due = self._due_ms
        if due is None:
            return False
        now_ms = self._clock.now_ms()
        return due <= now_ms or now_ms <= self._turned_ms - SET_BACK_MS

    def _arm(self) -> None:
        due = self._due_ms
        if self._timer is not None:
            if due == self._timer_due_ms:
                return
            self._stop_timer()
        if due is not None:
            self._timer_due_ms = due
            self._timer = self._clock.call_at_ms(due, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    async def _turn(
        self, actor: Actor[Any], journal: Journal | None, batch: list[Envelope], *, starting: bool = False
    ) -> None:
        mono_ns = self._clock.mono_ns
        at = mono_ns()
        self._turned_ms = self._clock.now_ms()
        turn = Turn(
            address=self.address,
            now_ms=self._turned_ms,
            mono_ms=at // 1_000_000,
            rng=self._rng,
            changes=journal.changes() if journal else None,
        )
        current: Envelope | None = None
        busy = self.stats.busy_ns
        try:
            if starting:
                actor.started(turn)
            for current in batch:
                turn.sender = current.sender
                turn.request = current.request
                actor.handle(current.message, turn)
                at, before = mono_ns(), at
                name = type(current.message).__name__
                busy[name] = busy.get(name, 0) + at - before
            current = None
            due = actor.due_ms()  # after the mail: what was sent before a deadline counts as in time
            if due is not None and due <= turn.now_ms:
                turn.sender, turn.request = "", 0
                actor.on_time(turn)
                at, before = mono_ns(), at
                busy["timers"] = busy.get("timers", 0) + at - before
            current = batch[0] if batch and self._careful else None  # alone, so what follows is its own doing
            actor.end_turn(turn)
            self._due_ms = actor.due_ms()
            busy["finish"] = busy.get("finish", 0) + mono_ns() - at
            if turn.changes:
                assert journal is not None
                await self._persist("commit", journal.commit, turn.changes)
                self._unknown = 0
        except StaleEpochError:
            raise
        except CommitUnknownError as error:
            self.stats.unknown_commits += 1
            log.warning("commit_unknown", address=self.address, messages=len(batch), error=str(error))
            await self._start_over([], len(batch))
        except OutdatedError as error:
            log.warning("actor_outdated", address=self.address, messages=len(batch), error=str(error))
            await self._start_over(batch, 0)
        except Exception as error:
            await self._failed(batch, current, error)
        self.stats.turns += 1
        self.stats.messages += len(batch)
        try:
            send = self._bus.send
            for envelope in turn.outbox:
                send(envelope)
            for query in turn.reads:
                assert journal is not None
                task = asyncio.get_running_loop().create_task(self._read(journal, query))
                self._reads[task] = None
                task.add_done_callback(self._forget_read)
        except Exception as error:
            await self._failed([], None, error)  # the batch is committed, so it is not handled again

    async def _persist(self, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call to the store, and while it cannot be served, again: nothing else may happen first."""
        backoff_ms = self._config.store_backoff_ms
        while True:
            try:
                result = await call(*args)
            except StoreError as error:
                if what == "commit" and isinstance(error, CommitUnknownError):
                    self._stall = None  # it is over, one way or the other
                    raise
                if self._stall is None:
                    log.error("store_stalled", address=self.address, at=what, code=error.code, error=str(error))
                self._stall = error
                await asyncio.sleep(backoff_ms / 1000)
                backoff_ms = min(backoff_ms * 2, self._config.commit_backoff_max_ms)
            else:
                if self._stall is not None:
                    log.info("store_resumed", address=self.address, at=what, code=self._stall.code)
                    self._stall = None
                return result

    async def _read(self, journal: Journal, query: Any) -> None:
        backoff_ms = self._config.store_backoff_ms
        while True:
            try:
                answer = await journal.read(query)
            except StoreError as error:
                if self._read_stall is None:
                    log.error("read_stalled", address=self.address, query=type(query).__name__, error=str(error))
                self._read_stall = error
                await asyncio.sleep(backoff_ms / 1000)
                backoff_ms = min(backoff_ms * 2, self._config.commit_backoff_max_ms)
            except Exception as error:  # without its answer the actor would wait for ever
                self._read_error = error
                break
            else:
                self._read_stall = None
                self._mailbox.append(Envelope(self.address, answer, _STORE))  # asked for, so never refused
                break
        self._wake()

    def _forget_read(self, task: asyncio.Task[None]) -> None:
        self._reads.pop(task, None)
        if self._retiring:
            self._wake()  # it may have been the last thing to wait for

    def _cancel_reads(self) -> list[asyncio.Task[None]]:
        reads = list(self._reads)
        for task in reads:
            task.cancel()
        return reads

    async def _failed(self, batch: list[Envelope], current: Envelope | None, error: Exception) -> NoReturn:
        """Nothing of `batch` was committed or sent: put the messages back, set aside the one that raises.

        Raises: _ActorFailedError, or EscalationError at the bound.
        """
        name = type(current.message).__name__ if current else ""
        self.stats.restarts += 1
        log.error("actor_failed", address=self.address, message=name, messages=len(batch), exc_info=error)
        await self._end_reads()
        if isinstance(error, StaleEpochError):
            raise error
        if current is not None and len(batch) == 1:
            await self._set_aside(current, error)
            batch = []
            self._careful = max(self._careful - 1, 0)
        waiting = [*batch, *self._mailbox]
        self._mailbox.clear()  # and what the old actor asked the store is no answer for the new one
        self._mailbox.extend(envelope for envelope in waiting if envelope.sender != _STORE)
        self._careful = min(max(self._careful, len(batch)), len(self._mailbox))
        now_ms = self._clock.mono_ns() // 1_000_000
        self._failures.append(now_ms)
        while self._failures[0] < now_ms - self._config.escalate_window_ms:
            self._failures.popleft()
        if len(self._failures) >= self._config.escalate_after:
            raise EscalationError(self.address, len(self._failures), self._config.escalate_window_ms) from error
        doublings = min(len(self._failures) - 1, 16)
        self._pause_ms = min(self._config.restart_backoff_ms << doublings, self._config.restart_backoff_max_ms)
        raise _ActorFailedError from error

    async def _start_over(self, batch: list[Envelope], dropped: int) -> NoReturn:
        """Only the store knows what is written, and the actor of the next epoch reads it there. `batch`: messages that are
        handled again. Of those that were dropped the rows are written or not: whoever sent them hears nothing, and repeats
        what must not be lost. Raises: _ActorFailedError."""
        await self._end_reads()
        waiting = [envelope for envelope in (*batch, *self._mailbox) if envelope.sender != _STORE]
        self._mailbox.clear()
        self._mailbox.extend(waiting)
        self._careful = min(max(self._careful - dropped, 0), len(waiting))
        doublings = min(self._unknown, 16)
        self._unknown += 1
        self._pause_ms = min(self._config.store_backoff_ms << doublings, self._config.commit_backoff_max_ms)
        raise _ActorFailedError

    async def _end_reads(self) -> None:
        """End what the old actor asked of the store: it is no answer for the new one."""
        if reads := self._cancel_reads():
            await asyncio.wait(reads)
        self._read_error = self._read_stall = None

    async def _set_aside(self, envelope: Envelope, error: Exception) -> None:
        name = type(envelope.message).__name__
        self.stats.set_aside += 1
        try:
            await self._persist("set_aside", self._poison, self.address, envelope.message, error)
        except Exception as why:  # the log is then the only place that has it
            log.error("set_aside_failed", address=self.address, content=repr(envelope.message), exc_info=why)
        if envelope.request:
            refusal = Refusal("internal", f"{name} could not be handled; it was set aside")
            self._bus.send(Envelope(envelope.sender, refusal, self.address, envelope.request))


class _ActorFailedError(Exception):
    """The actor raised and must start again from the store."""
