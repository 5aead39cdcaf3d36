"""Pages of the event feed, read from a real server."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.transports.nats import protocol as p
from foliot.transports.nats.events import EventsMessage, FeedConfig
from foliot.transports.nats.feed import FeedDesk
from foliot.transports.nats.streams import NatsStreams

from .nats_harness import open_link


@pytest.mark.parametrize("wait_ms", [0, 30_000])
async def test_a_page_is_as_long_as_was_asked_however_small_its_messages(nats_server: LocalNats, wait_ms: int) -> None:
    clock, rng = SystemClock(), Rng.of_the_system()
    config = FeedConfig(prefix=f"feed{rng.bits(48):x}")
    link = await open_link(nats_server.url)
    try:
        streams = NatsStreams(link, clock=clock)
        await streams.ensure(config.stream)
        subject = f"{config.prefix}.v1.acme.events.3"
        told = [EventsMessage(1, 3, 1, number, 1_000, [("1psm4a2000040", "", "queued", 0)]) for number in range(1, 701)]
        await asyncio.gather(*[streams.publish(subject, msgspec.msgpack.encode(message)) for message in told])
        desk = FeedDesk(streams, clock=clock, rng=rng, config=config)

        page = await desk.read("acme", p.Feed(since_ms=0, limit=600, wait_ms=wait_ms))
        rest = await desk.read("acme", p.Feed(cursor=page.cursor, limit=600, wait_ms=wait_ms))
    finally:
        await link.close()

    assert [message.number for message in page.messages] == list(range(1, 601))
    assert ([message.number for message in rest.messages], rest.at_end) == (list(range(601, 701)), True)
