"""The bus of one process: messages are handed over in memory, in order, at once.

With `encode=True` every message is really encoded and decoded, which proves that it could travel and that no object is
shared between actors. Nothing is lost here, except what a full mailbox refuses, which is counted.
"""

from __future__ import annotations

from typing import Any

import structlog

from ..actors.wire import decode, encode
from ..runtime.bus import Envelope, Receiver, Refusal, Resolver
from ..runtime.errors import NoSuchActorError, UnavailableError
from .requests import Requests

log = structlog.get_logger("foliot.transports")


class MemoryBus:
    """Implements `runtime.bus.Bus`. Lives on one event loop."""

    def __init__(self, *, name: str = "local", encode: bool = False) -> None:
        self._receivers: dict[str, Receiver] = {}  # bound, or found at a host and kept: one look-up a message
        self._found: dict[str, None] = {}  # the latter
        self._hosts: dict[int, Resolver] = {}
        self._resolvers: tuple[Resolver, ...] = ()  # of the hosts, each once
        self._encode = encode
        self._reply_address = f"reply.{name}"
        self._requests = Requests()
        self.dropped = 0

    def bind(self, address: str, receiver: Receiver) -> None:
        if "." in address:
            self._receivers[address] = receiver
            self._found.pop(address, None)
            return
        broadcast = self._receivers.get(address)
        if not isinstance(broadcast, _Broadcast):
            broadcast = self._receivers[address] = _Broadcast()
        broadcast.receivers.append(receiver)

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        broadcast = self._receivers.get(address)
        if isinstance(broadcast, _Broadcast) and receiver in broadcast.receivers:
            broadcast.receivers.remove(receiver)
            if broadcast.receivers:
                return
        self._receivers.pop(address, None)
        self._found.pop(address, None)

    def host(self, slot: int, resolve: Resolver) -> None:
        self._hosts[slot] = resolve
        self._hosts_changed()

    def leave(self, slot: int) -> None:
        if self._hosts.pop(slot, None) is not None:
            self._hosts_changed()

    def _hosts_changed(self) -> None:
        self._resolvers = tuple(dict.fromkeys(self._hosts.values()))
        for address in self._found:
            del self._receivers[address]
        self._found.clear()

    def _resolve(self, address: str) -> Receiver | None:
        for resolve in self._resolvers:
            receiver = resolve(address)
            if receiver is not None:
                self._receivers[address] = receiver
                self._found[address] = None
                return receiver
        return None

    def send(self, envelope: Envelope) -> None:
        if self._encode:
            message = decode(encode(envelope.message))
            envelope = Envelope(envelope.to, message, envelope.sender, envelope.request)
        to = envelope.to
        receiver = self._receivers.get(to)
        if receiver is None:
            if to == self._reply_address:
                self._requests.answer(envelope.request, envelope.message)
                return
            if "." not in to:
                return  # a broadcast to nobody
            receiver = self._resolve(to)
        try:
            if receiver is None:
                raise NoSuchActorError(to)
            receiver.deliver(envelope)
        except UnavailableError as error:
            if envelope.request and envelope.sender == self._reply_address:
                self._requests.answer(envelope.request, Refusal.of(error))
                return
            self.dropped += 1
            log.warning("message_dropped", to=to, message=type(envelope.message).__name__, error=str(error))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        def send(number: int) -> None:
            self.send(Envelope(to, message, self._reply_address, number))

        return await self._requests.ask(f"{type(message).__name__} to {to}", send, timeout_ms=timeout_ms)


class _Broadcast:
    """All who listen at one address."""

    def __init__(self) -> None:
        self.receivers: list[Receiver] = []

    def deliver(self, envelope: Envelope) -> None:
        for receiver in list(self.receivers):
            receiver.deliver(envelope)
