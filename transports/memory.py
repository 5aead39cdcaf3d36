"""The bus of one process: messages are handed over in memory, in order, at once.

With `encode=True` every message is really encoded and decoded, which proves that it could travel and that no object is
shared between actors. Nothing is lost here, except what a full mailbox refuses, which is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from ..actors.messages import decode, encode
from ..runtime.bus import Envelope, Receiver, Refusal
from ..runtime.errors import DeadlineError, NoSuchActorError, UnavailableError

log = structlog.get_logger("foliot.transports")

Resolver = Callable[[str], Receiver | None]
"""Makes the receiver of an address that nobody has bound, or says there is none."""


class MemoryBus:
    """Implements `runtime.bus.Bus`. Lives on one event loop."""

    def __init__(self, *, name: str = "local", encode: bool = False) -> None:
        self._receivers: dict[str, Receiver] = {}
        self._resolver: Resolver | None = None
        self._encode = encode
        self._reply_address = f"reply.{name}"
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._request = 0
        self.dropped = 0

    def bind(self, address: str, receiver: Receiver) -> None:
        self._receivers[address] = receiver

    def unbind(self, address: str) -> None:
        self._receivers.pop(address, None)

    def resolve_with(self, resolver: Resolver | None) -> None:
        """Ask `resolver` for the receivers of unknown addresses: the node that hosts actors on demand."""
        self._resolver = resolver

    def send(self, envelope: Envelope) -> None:
        if self._encode:
            message = decode(encode(envelope.message))
            envelope = Envelope(envelope.to, message, envelope.sender, envelope.request)
        to = envelope.to
        receiver = self._receivers.get(to)
        if receiver is None:
            if to == self._reply_address:
                self._answer(envelope.request, envelope.message)
                return
            receiver = self._resolver(to) if self._resolver is not None else None
        try:
            if receiver is None:
                raise NoSuchActorError(to)
            receiver.deliver(envelope)
        except UnavailableError as error:
            if envelope.request and envelope.sender == self._reply_address:
                self._answer(envelope.request, Refusal.of(error))
                return
            self.dropped += 1
            log.warning("message_dropped", to=to, message=type(envelope.message).__name__, error=str(error))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        loop = asyncio.get_running_loop()
        self._request += 1
        number = self._request
        future: asyncio.Future[Any] = loop.create_future()
        self._requests[number] = future
        error = DeadlineError(f"{type(message).__name__} to {to}", timeout_ms)
        timer = loop.call_later(timeout_ms / 1000, self._fail, number, error)
        try:
            self.send(Envelope(to, message, self._reply_address, number))
            return await future
        finally:
            timer.cancel()
            self._requests.pop(number, None)

    def _answer(self, number: int, message: Any) -> None:
        future = self._requests.get(number)
        if future is not None and not future.done():
            future.set_result(message)

    def _fail(self, number: int, error: DeadlineError) -> None:
        future = self._requests.get(number)
        if future is not None and not future.done():
            future.set_exception(error)
