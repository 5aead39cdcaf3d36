"""What a client of a cluster asks of the broker itself: the connection, if there is one, and the errors if there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.errors import UsageError
from .channel import Channel

if TYPE_CHECKING:
    from ..transports.nats.link import NatsLink


class ClusterOnlyError(UsageError):
    """The scheduler is one process, which has no broker."""

    code = "cluster_only"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs a cluster, expected a client of its NATS servers, such as nats://host:4222")
        self.what = what


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
