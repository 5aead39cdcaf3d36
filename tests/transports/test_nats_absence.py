"""Where nobody listens, over a real server: many addresses in one look, and nobody called absent without proof."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from foliot.actors.messages import SessionEnded
from foliot.runtime.bus import Envelope
from foliot.runtime.clock import SystemClock
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.bus import NatsBus
from foliot.transports.nats.link import NatsLink

from .nats_harness import Proxy, open_link, until

MESSAGE = SessionEnded("w", "left")
WAIT_MS = 1_000
_PREFIXES = count()


class Ear:
    def __init__(self) -> None:
        self.heard: list[Envelope] = []

    def deliver(self, envelope: Envelope) -> None:
        self.heard.append(envelope)


Ends = tuple[NatsBus, NatsBus, NatsLink]


@pytest.fixture
async def ends(nats_server: LocalNats) -> AsyncIterator[Ends]:
    """Who looks, who may be there, and the link of the latter."""
    prefix = f"absence{next(_PREFIXES)}"
    links = [await open_link(nats_server.url) for _ in range(2)]
    near, far = (NatsBus(link, slots=4, name="p", clock=SystemClock(), prefix=prefix) for link in links)
    yield near, far, links[1]
    for bus, link in zip((near, far), links, strict=True):
        bus.close()
        await link.close()


async def test_one_look_finds_all_of_thousands_of_addresses_where_nobody_listens(ends: Ends) -> None:
    near, far, link = ends
    addresses = [f"session.s{number}" for number in range(2_000)]
    ears = {address: Ear() for address in addresses[::2]}
    for address, ear in ears.items():
        far.bind(address, ear)
    await link.flush()

    assert await near.absent(addresses, MESSAGE, wait_ms=WAIT_MS) == addresses[1::2]

    assert all(len(ear.heard) == 1 for ear in ears.values())
    assert {ear.heard[0].message for ear in ears.values()} == {MESSAGE}
    assert near.drops == {}


async def test_who_stops_listening_is_absent_in_the_next_look(ends: Ends) -> None:
    near, far, link = ends
    far.bind("session.s", Ear())
    await link.flush()
    assert await near.absent(["session.s"], MESSAGE, wait_ms=WAIT_MS) == []
    far.unbind("session.s")
    await link.flush()
    assert await near.absent(["session.s"], MESSAGE, wait_ms=WAIT_MS) == ["session.s"]


async def test_what_is_bound_in_this_process_is_there_and_not_asked(ends: Ends) -> None:
    near, _, _ = ends
    ear = Ear()
    near.bind("session.own", ear)
    assert await near.absent(["session.own", "session.none"], MESSAGE, wait_ms=WAIT_MS) == ["session.none"]
    assert ear.heard == []


async def test_two_looks_at_once_do_not_take_each_others_answers(ends: Ends) -> None:
    near, far, link = ends
    far.bind("session.there", Ear())
    await link.flush()
    both = ["session.there", "session.none"]
    found = await asyncio.gather(
        near.absent(both, MESSAGE, wait_ms=WAIT_MS), near.absent(reversed(both), MESSAGE, wait_ms=WAIT_MS)
    )
    assert list(found) == [["session.none"], ["session.none"]]


async def test_without_a_connection_nobody_is_called_absent(nats_server: LocalNats) -> None:
    async with Proxy(nats_server.url) as proxy:
        link = await open_link(proxy.url)
        bus = NatsBus(link, slots=4, name="p", clock=SystemClock(), prefix="cut")
        assert await bus.absent(["session.none"], MESSAGE, wait_ms=WAIT_MS) == ["session.none"]
        proxy.closed = True
        proxy.cut()
        await until(lambda: not link.is_up)
        assert await bus.absent(["session.none"], MESSAGE, wait_ms=10) == []
        bus.close()
        await link.close()
