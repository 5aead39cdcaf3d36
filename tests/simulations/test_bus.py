"""The bus of a simulated process: a message reaches whoever listens now, whatever it found there before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from foliot.actors.messages import TenantStarted
from foliot.actors.wire import encode
from foliot.runtime.bus import Envelope, Refusal
from foliot.simulations.bus import SimBus
from foliot.simulations.case import Options
from foliot.simulations.database import empty_database
from foliot.simulations.process import Process
from foliot.simulations.trace import Trace
from foliot.simulations.world import World


class Inbox:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def deliver(self, envelope: Envelope) -> None:
        self.got.append(envelope.message.tenant)


@pytest.fixture
def bus() -> Iterator[SimBus]:
    world = World(1, Options(slots=1), Trace(), image=empty_database(1, start_ms=0))
    yield SimBus(Process(world, "a", 1, world.add_machine("a")))
    world.close()


def send(bus: SimBus, to: str, tenant: str) -> None:
    bus.send(Envelope(to, TenantStarted(tenant)))


def test_an_address_that_is_bound_anew_gets_what_is_sent_from_then_on(bus: SimBus) -> None:
    first, second = Inbox(), Inbox()
    bus.bind("session.s", first)
    send(bus, "session.s", "one")
    bus.bind("session.s", second)
    send(bus, "session.s", "two")
    bus.unbind("session.s")
    send(bus, "session.s", "three")

    assert (first.got, second.got) == (["one"], ["two"])


def test_an_actor_is_looked_for_again_once_it_has_ended(bus: SimBus) -> None:
    actors = [Inbox(), Inbox()]
    asked: list[str] = []

    def resolve(address: str) -> Inbox:
        asked.append(address)
        return actors[len(asked) - 1]

    bus.host(0, resolve)
    for tenant in ("one", "two"):
        send(bus, "shard.0", tenant)
    bus.unbind("shard.0")
    send(bus, "shard.0", "three")

    assert [actor.got for actor in actors] == [["one", "two"], ["three"]]
    assert asked == ["shard.0", "shard.0"]


def test_a_slot_that_was_left_gets_nothing_and_one_that_is_hosted_anew_asks_anew(bus: SimBus) -> None:
    old, new = Inbox(), Inbox()
    bus.host(0, lambda address: old)
    send(bus, "shard.0", "one")
    bus.leave(0)
    send(bus, "shard.0", "two")
    bus.host(0, lambda address: new)
    send(bus, "shard.0", "three")

    assert (old.got, new.got) == (["one"], ["three"])


def test_the_copy_of_a_request_that_was_refused_is_not_taken_and_any_other_is(bus: SimBus) -> None:
    inbox = Inbox()
    bus.bind("session.s", inbox)
    data = encode(TenantStarted("one"))
    bus.send(Envelope("reply.b.1", Refusal("overloaded", "full", 1), "session.s", 7))

    for request in (7, 8):
        bus.arrive("session.s", data, "reply.b.1", request, 1, bus._process, is_copy=True)
    bus.arrive("session.s", data, "reply.b.1", 7, 1, bus._process)

    assert inbox.got == ["one", "one"]
