"""Actors decide purely: a message and the time go in, changes and messages come out.

`handle` is synchronous; it changes the actor's own memory and collects on the turn what shall become durable
(`turn.changes`), what shall be sent once it is (`turn.send`), and what shall be looked up in the store (`turn.read`).
The shell around it (`runtime.cell`) drains the mailbox, commits once, then sends.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from .bus import Envelope
from .rng import Rng

M = TypeVar("M")


class Changes(Protocol):
    """Rows a durable actor wants written, in one commit."""

    def __bool__(self) -> bool:
        """Tell whether there is anything to write."""
        ...


class Turn:
    """What one activation of an actor sees and collects. `sender` and `request` belong to the message in hand. `mono_ms`: a
    clock that never steps, of use only to notice that the wall clock did; -1 where there is none."""

    __slots__ = ("address", "changes", "mono_ms", "now_ms", "outbox", "reads", "request", "rng", "sender")

    def __init__(self, *, address: str, now_ms: int, rng: Rng, changes: Any = None, mono_ms: int = -1) -> None:
        self.address = address
        self.now_ms = now_ms
        self.mono_ms = mono_ms
        self.rng = rng
        self.changes = changes
        self.outbox: list[Envelope] = []
        self.reads: list[Any] = []
        self.sender = ""
        self.request = 0

    def send(self, to: str, message: Any, *, request: int = 0) -> None:
        """Send after the commit. `request`: the number of the request this answers, 0 if none."""
        self.outbox.append(Envelope(to, message, self.address, request))

    def reply(self, message: Any) -> None:
        """Answer the message in hand, if its sender waits for an answer."""
        if self.request:
            self.outbox.append(Envelope(self.sender, message, self.address, self.request))

    def read(self, query: Any) -> None:
        """Look something up after the commit; the answer arrives as a message of its own."""
        self.reads.append(query)


class Actor(Generic[M]):
    """The base of every actor: its state is its own, and it handles one message at a time."""

    def started(self, turn: Turn) -> None:
        """Run once, before the first message."""

    def handle(self, message: M, turn: Turn) -> None:
        """Take one message."""
        raise NotImplementedError

    def note(self, message: M, now_ms: int, mono_ms: int) -> bool:
        """Take a message at once, without a turn of its own, and tell whether it was taken; if not it comes to `handle`. For
        messages so many that a turn costs more than they do.

        Asked only while nothing waits for the actor. What is taken may change the actor's own memory and nothing else: it
        writes, sends and reads nothing, never finishes the actor, and makes nothing due earlier. `now_ms`, `mono_ms`: as on
        a turn.
        """
        return False

    @property
    def is_spent(self) -> bool:
        """Tell whether one that begins anew with the next message would do all the same: it remembers nothing that counts,
        and waits for nothing. A node ends such actors, once it has many, while they are idle."""
        return False

    def end_turn(self, turn: Turn) -> None:
        """Run once at the end of each turn, before the commit: the place to put together what is sent by the batch."""

    @property
    def finished(self) -> bool:
        """Tell whether nothing is left to do or to remember, so that the node may forget the actor. Its address stays: the
        next message there brings a new one to life."""
        return False

    def due_ms(self) -> int | None:
        """Return when `on_time` wants to run next, in wall-clock milliseconds, or None."""
        return None

    def on_time(self, turn: Turn) -> None:
        """Run because `due_ms` was reached."""


class Journal(Protocol):
    """What makes an actor durable: the store as its shell sees it, under one epoch."""

    @property
    def epoch(self) -> int:
        """The fencing number of this ownership; the store refuses commits under an older one."""
        ...

    def changes(self) -> Changes:
        """Return an empty collection of changes for one turn."""
        ...

    async def commit(self, changes: Changes) -> None:
        """Make the changes durable, all or none, fenced by the owner's epoch. Returns once they are.

        Raises: StaleEpochError if ownership is gone; CommitUnknownError if they may have been written; other StoreErrors
        if they cannot be written now.
        """
        ...

    async def read(self, query: Any) -> Any:
        """Return the answer to a query, as a message; it sees every commit that returned before."""
        ...
