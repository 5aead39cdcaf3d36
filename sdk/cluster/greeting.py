"""How a process that knows only the broker meets a cluster: it asks whoever is there how many slots there are.

Every node answers at one subject, one of them each time. Nothing else can be said before, since the number of slots tells
where an actor lives.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from ...runtime.clock import Clock
from ...runtime.errors import DeadlineError, UnavailableError
from ...transports.nats.errors import NoRespondersError
from ...transports.nats.link import Delivery, NatsLink, Subscription
from .errors import NoNodesError, ProductError

log = structlog.get_logger("foliot")

VERSION: Final = 1
_ASK_MS: Final = 1_000
_PAUSE_MS: Final = 200


class Greeting(msgspec.Struct, frozen=True):
    """What a node says to a newcomer. `version`: of the actors' protocol."""

    version: int
    product: str
    slots: int
    node: str
    now_ms: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Greeting).decode


def _subject(prefix: str) -> str:
    return f"{prefix}.hello"


def answer_greetings(link: NatsLink, prefix: str, *, product: str, slots: int, node: str, clock: Clock) -> Subscription:
    """Answer newcomers until the subscription is closed."""

    def take(delivery: Delivery) -> None:
        if delivery.reply:
            link.publish(delivery.reply, _encode(Greeting(VERSION, product, slots, node, clock.now_ms())))

    return link.subscribe(_subject(prefix), take, group="gateways")


async def meet(link: NatsLink, prefix: str, *, clock: Clock, where: str, wait_ms: int | None = None) -> Greeting:
    """Return what a node says, waiting for one to appear. `wait_ms`: None waits for ever.

    Raises: NoNodesError, ProductError.
    """
    started_ns = clock.mono_ns()
    has_said = False
    while True:
        try:
            answer = await link.request(_subject(prefix), b"", timeout_ms=_ASK_MS)
            greeting = _decode(answer.data)
        except (NoRespondersError, DeadlineError, UnavailableError, msgspec.DecodeError) as error:
            waited_ms = (clock.mono_ns() - started_ns) // 1_000_000
            if wait_ms is not None and waited_ms >= wait_ms:
                raise NoNodesError(where, waited_ms) from error
            if not has_said:
                has_said = True
                log.info("waiting_for_nodes", server=where, reason=str(error))
            await asyncio.sleep(_PAUSE_MS / 1000)
            continue
        if greeting.version != VERSION:
            raise ProductError(greeting.version, VERSION)
        return greeting
