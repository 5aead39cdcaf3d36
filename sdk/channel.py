"""How a client reaches a gateway: the channel port. A gateway is itself the channel of clients in its process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..runtime.clock import Clock
from ..transports.local import LocalChannel
from .errors import AddressError
from .logs import configure_logging_once

DEFAULT_SOCKET: Final = "./foliot.sock"
ADDRESS_VARIABLE: Final = "FOLIOT_ADDRESS"
_HOST_AND_PORT: Final = re.compile(r"([^/@]*@)?([\w.-]+|\[[0-9a-fA-F:]+\]):\d+(,.*)?")  # with a user before it, perhaps


class Channel(Protocol):
    """A way to a gateway. `may_repeat`: a request may reach it twice, so submissions carry a request id."""

    @property
    def may_repeat(self) -> bool: ...

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        """Return the answer, which may be a Refusal. Raises: UnavailableError, UsageError."""
        ...

    async def close(self) -> None: ...


def open_channel(
    address: str | None, *, clock: Clock, connect_timeout_ms: int, tenant: str = "default",
    on_wait: Callable[[str], object] | None = None,
) -> Channel:  # fmt: skip
    """Return a channel to `address`: a socket's path, or the servers of a cluster as `nats://host:port`; None: what
    FOLIOT_ADDRESS says, else ./foliot.sock. `tenant`: whose client it is. `on_wait`: called with what a request waits for,
    if it waits for a cluster for more than a moment.

    Raises: AddressError, NatsConfigError.
    """
    where = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_SOCKET
    where = where.removeprefix("unix://").removeprefix("unix:")
    if where.startswith(("nats://", "tls://")):
        from ..transports.nats.channel import NatsChannel  # takes as long to import as all else of a client

        configure_logging_once()  # a connection tells of what happens to it, and not on standard output
        return NatsChannel(where, tenant=tenant, connect_timeout_ms=connect_timeout_ms, clock=clock, on_wait=on_wait)
    if "://" in where or _HOST_AND_PORT.fullmatch(where):
        raise AddressError(where)
    return LocalChannel(where, connect_timeout_ms=connect_timeout_ms, clock=clock)
