"""The bus of one process: bound addresses, hosted slots, broadcasts."""

from __future__ import annotations

from foliot.actors.messages import ReadQueue, SessionEnded
from foliot.runtime.bus import Envelope, Receiver, Refusal
from foliot.transports.memory import MemoryBus


class Ear:
    def __init__(self) -> None:
        self.heard: list[Envelope] = []

    def deliver(self, envelope: Envelope) -> None:
        self.heard.append(envelope)


class Host:
    """Resolves addresses of a prefix, each to an ear of its own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.ears: dict[str, Ear] = {}
        self.asked = 0

    def resolve(self, address: str) -> Receiver | None:
        self.asked += 1
        return self.ears.setdefault(address, Ear()) if address.startswith(self.prefix) else None


MESSAGE = SessionEnded("w", "left")


def test_what_is_sent_to_an_actor_of_a_hosted_slot_reaches_whom_the_host_names() -> None:
    bus, host = MemoryBus(), Host("queue.")
    bus.host(0, host.resolve)
    bus.host(1, host.resolve)

    for _ in range(3):
        bus.send(Envelope("queue.default.a", MESSAGE))

    assert len(host.ears["queue.default.a"].heard) == 3
    assert host.asked == 1, "who was found is kept"
    assert bus.dropped == 0


def test_an_actor_that_has_ended_is_looked_for_again() -> None:
    bus, host = MemoryBus(), Host("queue.")
    bus.host(0, host.resolve)
    bus.send(Envelope("queue.default.a", MESSAGE))
    first = host.ears.pop("queue.default.a")

    bus.unbind("queue.default.a")
    bus.send(Envelope("queue.default.a", MESSAGE))

    assert len(first.heard) == 1
    assert len(host.ears["queue.default.a"].heard) == 1


def test_nothing_reaches_a_slot_that_was_left() -> None:
    bus, one, other, session = MemoryBus(), Host("queue."), Host("tenant."), Ear()
    bus.bind("session.1", session)
    bus.host(0, one.resolve)
    bus.host(1, other.resolve)
    for to in ("queue.default.a", "tenant.b", "session.1"):
        bus.send(Envelope(to, MESSAGE))

    bus.leave(0)
    bus.leave(7)
    for to in ("queue.default.a", "tenant.b", "session.1"):
        bus.send(Envelope(to, MESSAGE))

    assert [len(one.ears["queue.default.a"].heard), len(other.ears["tenant.b"].heard), len(session.heard)] == [1, 2, 2]
    assert bus.dropped == 1


def test_what_is_bound_comes_before_what_a_host_would_say() -> None:
    bus, host, ear = MemoryBus(), Host("queue."), Ear()
    bus.host(0, host.resolve)
    bus.send(Envelope("queue.default.a", MESSAGE))
    bus.bind("queue.default.a", ear)
    bus.leave(0)
    bus.send(Envelope("queue.default.a", MESSAGE))

    assert len(ear.heard) == 1


async def test_a_request_to_nobody_is_refused() -> None:
    bus = MemoryBus()
    bus.host(0, Host("queue.").resolve)

    answer = await bus.request("tenant.a", ReadQueue(), timeout_ms=1_000)

    assert isinstance(answer, Refusal)
    assert answer.code == "no_such_actor"


def test_a_broadcast_reaches_all_who_listen_and_may_reach_nobody() -> None:
    bus, ears = MemoryBus(encode=True), [Ear(), Ear()]
    bus.send(Envelope("slots", MESSAGE))
    for ear in ears:
        bus.bind("slots", ear)
    bus.send(Envelope("slots", MESSAGE))
    bus.unbind("slots", ears[0])
    bus.send(Envelope("slots", MESSAGE))
    bus.unbind("slots")
    bus.send(Envelope("slots", MESSAGE))

    assert [len(ear.heard) for ear in ears] == [1, 2]
    assert bus.dropped == 0
