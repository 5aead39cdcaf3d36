"""How actors reach each other: envelopes, addresses, and the bus port that transports implement.

An address is a dotted name, `kind.key`, which is also a NATS subject. A message is any `msgspec.Struct`; what it means
is the actors' affair. A request is an envelope with a number; its answer goes to the sender under the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgspec

from .errors import FoliotError, UnavailableError


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message on its way. `request` is 0 where no answer is awaited."""

    to: str
    message: Any
    sender: str = ""
    request: int = 0


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal", gc=False):
    """The answer to a request that was not carried out: nothing of it was done.

    `code`: an error's `code`. `text`: what a person reads. `retry_after_ms`: -1 where a retry cannot help.
    """

    code: str
    text: str
    retry_after_ms: int = -1
    details: dict[str, str] = {}

    @classmethod
    def of(cls, error: FoliotError) -> Refusal:
        """Return the refusal that says what `error` says."""
        retry_after_ms = error.retry_after_ms if isinstance(error, UnavailableError) else -1
        return cls(code=error.code, text=str(error), retry_after_ms=retry_after_ms)


class RefusedError(FoliotError):
    """A request was answered with a refusal that has no error class of its own here."""

    code: ClassVar[str] = "refused"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class Receiver(Protocol):
    """Where a transport delivers."""

    def deliver(self, envelope: Envelope) -> None:
        """Take the envelope or raise UnavailableError (a full mailbox, say). Returns at once."""
        ...


Resolver = Callable[[str], Receiver | None]
"""Returns who receives what is sent to an address of a hosted slot, brought to life if need be; None: nobody."""


class Bus(Protocol):
    """What an actor's shell, a worker and a gateway need of a transport.

    There are two ways to be found. Sessions, replies and broadcasts are bound by their address. Actors are found by the
    slot they live in: the node that hosts a slot gets all that is sent to an actor of it. An address without a dot
    (`nodes`, `slots`) is a *broadcast* address, bound by as many as want to listen, in one process or in many: each gets
    every message, and that there is nobody is no error. Two nodes may host one slot for a moment, since their views may
    differ; then both get its messages, and the epoch in the store decides.
    """

    def bind(self, address: str, receiver: Receiver) -> None:
        """Deliver what is sent to `address` to the receiver, from now on."""
        ...

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        """Stop delivering what is sent to `address` to this process, or of several receivers of a broadcast only to this
        one; harmless if nothing is bound. Harmless too for the address of a hosted actor: it says that the actor has
        ended, and the next message asks the resolver again."""
        ...

    def host(self, slot: int, resolve: Resolver) -> None:
        """From now on, what is sent to an actor of the slot reaches the receiver that `resolve(address)` returns. That
        receiver may be kept for the next message, until `unbind` or `leave`."""
        ...

    def leave(self, slot: int) -> None:
        """Stop receiving for the slot; harmless if it is not hosted."""
        ...

    def send(self, envelope: Envelope) -> None:
        """Hand over a message: at most once, in order between two addresses. A request that cannot be delivered is
        answered with a `Refusal`; any other undeliverable message is counted and dropped, since every protocol
        above repairs a lost message."""
        ...

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        """Send `message` and return the answer, which may be a `Refusal`. Raises: DeadlineError."""
        ...
