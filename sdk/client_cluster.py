"""What a client of a cluster has besides its gateway: the broker's connection, and the public protocol over it; and the
errors if there is none."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from ..runtime.bus import Refusal
from ..runtime.errors import UsageError
from .channel import Channel
from .errors import error_of

if TYPE_CHECKING:
    from ..transports.nats.link import NatsLink

OPERATORS_ONLY: Final = "operators_only"
"""The code of what a tenant's own user may not ask."""

R = TypeVar("R")


class ClusterOnlyError(UsageError):
    """The scheduler is one process, which has no broker."""

    code = "cluster_only"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs a cluster, expected a client of its NATS servers, such as nats://host:4222")
        self.what = what


def unheard_of(channel: Channel, handler: str, known: Sequence[str]) -> str:
    """Return what to say of a handler that no worker of a cluster has told of; empty if one has, or if the scheduler is one
    process, which refuses such a task itself. `known`: those that workers told of."""
    if handler in known or not hasattr(channel, "open_link"):
        return ""
    alike = difflib.get_close_matches(handler, sorted(known), n=3)
    mean = f"; did you mean {' or '.join(alike)}?" if alike else ""
    fate = "a worker without it fails the task, which is then kept as a dead letter"
    return f"no worker has told of a handler {handler!r}{mean or ';'} {fate}"


def broker_of(channel: Channel, what: str) -> Broker:
    """Return the way to the broker. Raises: ClusterOnlyError."""
    if not hasattr(channel, "open_link"):
        raise ClusterOnlyError(what)
    return Broker(channel)


class Broker:
    """The connection of a channel that has one."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    @property
    def prefix(self) -> str:
        """The first word of all subjects."""
        found: str = self._channel.prefix
        return found

    async def link(self, timeout_ms: int) -> NatsLink:
        """Return the connection, made now if need be. Raises: NatsUnreachableError, NatsCredentialsError, ..."""
        found: NatsLink = await self._channel.open_link(timeout_ms)
        return found

    def tell_wait(self, what: str, since_ns: int) -> None:
        """Say what somebody waits for, who has waited since then, if that is long enough and was not said before."""
        self._channel.tell_wait(what, since_ns)

    async def ask(
        self, tenant: str, op: str, message: Any, expected: type[R], *, timeout_ms: int, answer_ms: int | None = None
    ) -> R:  # fmt: skip
        """Ask an operation of the public protocol. `timeout_ms`: for the connection, and for the answer unless `answer_ms`
        says otherwise. Raises: what the answer says went wrong; UnavailableError."""
        from ..transports.nats import protocol as p

        link = await self.link(timeout_ms)
        subject = f"{self.prefix}.v{p.VERSION}.{tenant}.{op}"
        answer = await link.request(subject, msgspec.msgpack.encode(message), timeout_ms=answer_ms or timeout_ms)
        try:
            return msgspec.msgpack.decode(answer.data, type=expected)
        except msgspec.ValidationError:
            error = msgspec.msgpack.decode(answer.data, type=p.Failed).error
            raise error_of(Refusal(error.code, error.text, error.retry_after_ms, error.details)) from None
