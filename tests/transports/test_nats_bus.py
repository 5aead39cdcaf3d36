"""The bus over real servers: the contract of every bus, in one process and between two links, what only a network can do,
and nodes that share slots over it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
import pytest
from foliot.actors.messages import ReadQueue, SessionEnded
from foliot.actors.node_messages import HandlersTold
from foliot.actors.wire import encode as encode_message
from foliot.runtime.actor import Actor, Journal, Turn
from foliot.runtime.bus import Bus, Envelope, Receiver, Refusal
from foliot.runtime.cell import CellConfig
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError, MailboxFullError
from foliot.runtime.hashing import slot_of
from foliot.runtime.membership import MembershipConfig
from foliot.runtime.node import Node, NodeConfig
from foliot.runtime.ownership import MakeDurable
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.transports.memory import MemoryBus
from foliot.transports.nats.bus import NatsBus
from foliot.transports.nats.errors import NatsConfigError
from foliot.transports.nats.frames import FrameError, decode, encode
from foliot.transports.nats.link import Delivery, NatsLink
from hypothesis import given, settings
from hypothesis import strategies as st

from ..runtime.cluster import SLOTS as CLUSTER_SLOTS
from ..runtime.cluster import SlotJournal, Store
from .nats_harness import Proxy, open_link, until

SLOTS = 4
MESSAGE = SessionEnded("w", "left")
_PREFIXES = count()


@dataclass
class Ear:
    """`full`: it takes nothing."""

    full: bool = False
    heard: list[Envelope] = field(default_factory=list)

    def deliver(self, envelope: Envelope) -> None:
        if self.full:
            raise MailboxFullError(envelope.to, 0)
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


class Answerer:
    """Answers what it is asked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def deliver(self, envelope: Envelope) -> None:
        self._bus.send(Envelope(envelope.sender, envelope.message, envelope.to, envelope.request))


class Ends:
    """`near` sends, `far` receives; they may be one. `links`: what is between them."""

    def __init__(self, near: Any, far: Any, links: list[NatsLink]) -> None:
        self.near = near
        self.far = far
        self.links = links

    async def settle(self) -> None:
        """Let everything arrive that is under way."""
        for _ in range(2):  # there, and an answer back
            for link in self.links:
                await link.flush()


@pytest.fixture(params=["memory", "nats, one link", "nats, two links"])
async def ends(request: pytest.FixtureRequest, nats_server: LocalNats) -> AsyncIterator[Ends]:
    if request.param == "memory":
        memory = MemoryBus(encode=True)
        yield Ends(memory, memory, [])
        return
    prefix = f"contract{next(_PREFIXES)}"
    links = [await open_link(nats_server.url) for _ in range(1 if request.param == "nats, one link" else 2)]
    buses = [NatsBus(link, slots=SLOTS, name="p", clock=SystemClock(), prefix=prefix) for link in links]
    ends = Ends(buses[0], buses[-1], links)
    await ends.settle()
    yield ends
    for bus, link in zip(buses, links, strict=True):
        bus.close()
        await link.close()


def address_in(slot: int) -> str:
    return next(f"queue.default.n{n}" for n in count() if slot_of(f"queue.default.n{n}", SLOTS) == slot)


# -- the contract --------------------------------------------------------------------------------------------------------


async def test_what_is_sent_to_an_actor_of_a_hosted_slot_reaches_whom_the_host_names(ends: Ends) -> None:
    host, to = Host("queue."), address_in(1)
    for slot in range(SLOTS):
        ends.far.host(slot, host.resolve)
    await ends.settle()

    for _ in range(3):
        ends.near.send(Envelope(to, MESSAGE, "shard.1", 0))
    await ends.settle()

    assert host.ears[to].heard == [Envelope(to, MESSAGE, "shard.1", 0)] * 3
    assert host.asked == 1, "who was found is kept"
    assert (ends.near.dropped, ends.far.dropped) == (0, 0)


async def test_an_actor_that_has_ended_is_looked_for_again(ends: Ends) -> None:
    host, to = Host("queue."), address_in(0)
    ends.far.host(0, host.resolve)
    await ends.settle()
    ends.near.send(Envelope(to, MESSAGE))
    await ends.settle()
    first = host.ears.pop(to)

    ends.far.unbind(to)
    ends.near.send(Envelope(to, MESSAGE))
    await ends.settle()

    assert len(first.heard) == 1
    assert len(host.ears[to].heard) == 1


async def test_nothing_reaches_a_slot_that_was_left(ends: Ends) -> None:
    addresses = (address_in(0), address_in(1), "session.1")
    one, other, session = Host(addresses[0]), Host(addresses[1]), Ear()
    ends.far.bind("session.1", session)
    ends.far.host(0, one.resolve)
    ends.far.host(1, other.resolve)
    await ends.settle()
    for to in addresses:
        ends.near.send(Envelope(to, MESSAGE))
    await ends.settle()

    ends.far.leave(0)
    ends.far.leave(7)
    await ends.settle()
    for to in addresses:
        ends.near.send(Envelope(to, MESSAGE))
    await ends.settle()

    assert [len(one.ears[addresses[0]].heard), len(other.ears[addresses[1]].heard), len(session.heard)] == [1, 2, 2]


async def test_what_is_bound_is_delivered_until_it_is_not(ends: Ends) -> None:
    first, second = Ear(), Ear()
    ends.far.bind("session.a", first)
    ends.far.bind("session.a", second)
    await ends.settle()
    ends.near.send(Envelope("session.a", MESSAGE))
    await ends.settle()
    ends.far.unbind("session.a")
    ends.far.unbind("session.a")
    await ends.settle()
    ends.near.send(Envelope("session.a", MESSAGE))
    await ends.settle()

    assert (len(first.heard), len(second.heard)) == (0, 1)


async def test_a_request_to_nobody_is_refused(ends: Ends) -> None:
    ends.far.host(0, Host("tenant.").resolve)
    await ends.settle()

    for to in (address_in(0), address_in(1), "session.nobody"):
        answer = await ends.near.request(to, ReadQueue(), timeout_ms=60_000)

        assert isinstance(answer, Refusal)
        assert answer.code == "no_such_actor"
        assert answer.text == f"no actor at {to!r} at this moment, expected a node that hosts it"


async def test_a_request_is_answered(ends: Ends) -> None:
    ends.far.bind("session.answers", Answerer(ends.far))
    ends.far.bind("session.silent", Ear())
    ends.far.bind("session.full", Ear(full=True))
    await ends.settle()

    answers = await asyncio.gather(
        *(ends.near.request("session.answers", SessionEnded(str(n), ""), timeout_ms=60_000) for n in range(100))
    )
    refused = await ends.near.request("session.full", MESSAGE, timeout_ms=60_000)
    with pytest.raises(DeadlineError, match=r"^SessionEnded to session\.silent was not answered within 20 ms"):
        await ends.near.request("session.silent", MESSAGE, timeout_ms=20)

    assert answers == [SessionEnded(str(n), "") for n in range(100)]
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.retry_after_ms) == ("overloaded", 200)


async def test_a_broadcast_reaches_all_who_listen_once_and_may_reach_nobody(ends: Ends) -> None:
    ears, near = [Ear(), Ear()], Ear()
    ends.near.send(Envelope("slots", MESSAGE))
    await ends.settle()
    for ear in ears:
        ends.far.bind("slots", ear)
    ends.near.bind("slots", near)
    await ends.settle()
    ends.near.send(Envelope("slots", MESSAGE))
    await ends.settle()
    ends.far.unbind("slots", ears[0])
    ends.near.send(Envelope("slots", MESSAGE))
    await ends.settle()
    ends.near.unbind("slots", near)
    ends.far.unbind("slots")
    ends.far.unbind("slots")
    await ends.settle()
    ends.near.send(Envelope("slots", MESSAGE))
    await ends.settle()

    assert [len(ear.heard) for ear in (*ears, near)] == [1, 2, 2]
    assert (ends.near.dropped, ends.far.dropped) == (0, 0)


async def test_messages_between_two_addresses_keep_their_order(ends: Ends) -> None:
    ear = Ear()
    ends.far.bind("session.order", ear)
    await ends.settle()

    for n in range(2_000):
        ends.near.send(Envelope("session.order", SessionEnded(str(n), ""), "shard.1"))
    await ends.settle()

    assert [envelope.message.session for envelope in ear.heard] == [str(n) for n in range(2_000)]


# -- what only a network can do --------------------------------------------------------------------------------------------


@pytest.fixture
async def pair(nats_server: LocalNats) -> AsyncIterator[tuple[NatsBus, NatsBus, NatsLink, NatsLink, str]]:
    """Two buses of one cluster, their links, and the prefix of their subjects."""
    prefix = f"pair{next(_PREFIXES)}"
    links = [await open_link(nats_server.url) for _ in range(2)]
    one, two = (NatsBus(link, slots=SLOTS, name="same", clock=SystemClock(), prefix=prefix) for link in links)
    for link in links:
        await link.flush()
    yield one, two, links[0], links[1], prefix
    for link in links:
        await link.close()


Pair = tuple[NatsBus, NatsBus, NatsLink, NatsLink, str]


async def test_frames_that_cannot_be_read_are_counted_and_requests_among_them_refused(pair: Pair) -> None:
    one, two, link, other, prefix = pair
    ear = Ear()
    one.bind("session.ear", ear)
    one.bind("nodes", ear)
    one.host(0, Host("queue.").resolve)
    await link.flush()
    good = msgspec.msgpack.encode([1, "session.ear", "", 0, msgspec.Raw(encode_message(MESSAGE))])
    bad = [
        b"", b"\xc1", b"{}", b'{"to":1}', good[:-1], good + b"\x00", b"\x91" * 10_000, b"\xff" * 1_000,
        msgspec.msgpack.encode([2, "session.ear", "", 0, msgspec.Raw(encode_message(MESSAGE))]),
        msgspec.msgpack.encode([1, "session.ear", "", 0, ["no_such_message", 1]]),
        msgspec.msgpack.encode([1, "session.ear", "", "0", None]),
        msgspec.msgpack.encode([1, "session.ear", "", 2**70 // 2**10, msgspec.Raw(encode_message(MESSAGE))])[:-2],
        msgspec.msgpack.encode([1, b"\xff\xfe", "", 0, None]),
    ]  # fmt: skip

    for data in bad:
        for subject in ("to.session.ear", "slot.0", "all.nodes", f"to.{one.reply_address}"):
            link.publish(f"{prefix}.{subject}", data)
    link.publish(f"{prefix}.to.session.ear", good)
    await link.flush()
    future = msgspec.msgpack.encode([1, "session.ear", two.reply_address, 1, ["of_the_future", 1]])
    asked = asyncio.create_task(two.request("session.elsewhere", MESSAGE, timeout_ms=60_000))  # request 1

    def misdirect(_: Delivery) -> None:
        other.publish(f"{prefix}.to.session.ear", future)

    other.subscribe(f"{prefix}.to.session.elsewhere", misdirect)
    answer = await asked

    assert len(ear.heard) == 1
    assert one.drops == {"malformed": len(bad) * 4 + 1}
    assert isinstance(answer, Refusal)
    assert answer.code == "malformed"
    assert link.dropped == {}
    assert link.is_up


@pytest.mark.parametrize("to", ["shard.0", "queue.default.default", "tenant.acme", "worker.w"])
async def test_a_message_of_a_kind_that_an_actor_does_not_take_never_reaches_it(pair: Pair, to: str) -> None:
    one, two, link, _, _ = pair
    host = Host("")
    for slot in range(SLOTS):
        one.host(slot, host.resolve)
    await link.flush()

    answer = await two.request(to, HandlersTold([]), timeout_ms=5_000)

    assert answer.code == "malformed"
    assert f"HandlersTold is nothing that '{to}' takes" in answer.text
    assert host.ears == {}
    assert one.drops == {"malformed": 1}


async def test_no_answer_goes_to_an_actor(pair: Pair) -> None:
    one, _, link, other, prefix = pair
    host = Host("queue.")
    for slot in range(SLOTS):
        one.host(slot, host.resolve)
    await link.flush()

    other.publish(f"{prefix}.slot.0", encode(address_in(0), "shard.1", 5, ReadQueue()))
    await other.flush()
    await link.flush()

    assert host.ears == {}
    assert one.drops == {"malformed": 1}


async def test_an_actors_answer_reaches_a_session(pair: Pair) -> None:
    one, two, link, _, _ = pair
    ear = Ear()
    one.bind("session.w1", ear)
    await link.flush()
    two.send(Envelope("session.w1", SessionEnded("w1", "left"), "shard.1", 5))
    await until(lambda: bool(ear.heard))
    assert (ear.heard[0].sender, ear.heard[0].request, one.drops) == ("shard.1", 5, {})


async def test_frames_for_nobody_here_are_counted(pair: Pair) -> None:
    one, two, link, _, prefix = pair
    one.host(0, Host("queue.").resolve)
    await link.flush()

    for to in ("shard.1", "nodes", "shard.x", "shard.-1", "session.x", "", "."):
        data = msgspec.msgpack.encode([1, to, "reply. \r\n", 5, msgspec.Raw(encode_message(MESSAGE))])
        link.publish(f"{prefix}.slot.0", data)
    link.publish(f"{prefix}.to.{one.reply_address}.notanumber", b"")
    await link.flush()

    assert one.drops["no_such_actor"] == 7
    assert two.drops == {}
    assert link.is_up


async def test_what_is_local_does_not_travel(pair: Pair, nats_server: LocalNats) -> None:
    one, _, link, other, prefix = pair
    spied: list[str] = []
    other.subscribe(f"{prefix}.>", lambda delivery: spied.append(delivery.subject))
    await other.flush()
    host, session = Host("queue."), Ear()
    one.host(2, host.resolve)
    one.bind("session.here", session)
    one.bind("session.answers", Answerer(one))

    one.send(Envelope(address_in(2), MESSAGE))
    one.send(Envelope("session.here", MESSAGE))
    answer = await one.request("session.answers", MESSAGE, timeout_ms=1_000)
    await link.flush()
    await other.flush()

    assert (len(host.ears[address_in(2)].heard), len(session.heard), answer) == (1, 1, MESSAGE)
    assert spied == []


async def test_two_nodes_that_host_one_slot_both_hear_it(pair: Pair, nats_server: LocalNats) -> None:
    one, two, link, other, prefix = pair
    hosts = [Host("queue."), Host("queue.")]
    for bus, host in zip((one, two), hosts, strict=True):
        bus.host(3, host.resolve)
    await link.flush()
    await other.flush()
    third_link = await open_link(nats_server.url)
    third = NatsBus(third_link, slots=SLOTS, name="third", clock=SystemClock(), prefix=prefix)

    third.send(Envelope(address_in(3), MESSAGE))
    await third_link.flush()
    await link.flush()
    await other.flush()

    assert [len(host.ears[address_in(3)].heard) for host in hosts] == [1, 1]
    await third_link.close()


async def test_a_request_that_comes_while_a_slot_is_left_is_refused_not_lost(pair: Pair) -> None:
    one, two, link, other, _ = pair
    one.host(0, Host("queue.").resolve)
    await link.flush()

    asked = asyncio.create_task(two.request(address_in(0), MESSAGE, timeout_ms=60_000))
    await other.flush()  # the server has sent it on, and this process has not read it yet or just has
    one.leave(0)
    again = await two.request(address_in(0), MESSAGE, timeout_ms=60_000)
    asked.cancel()

    assert isinstance(again, Refusal)
    assert again.code == "no_such_actor"


async def test_while_there_is_no_connection_requests_are_refused_and_messages_counted(nats_server: LocalNats) -> None:
    async with Proxy(nats_server.url) as proxy:
        link = await open_link(proxy.url, reconnect_min_ms=60_000, reconnect_max_ms=60_000)
        bus = NatsBus(link, slots=SLOTS, name="cut", clock=SystemClock())
        ear = Ear()
        bus.bind("session.here", ear)
        bus.bind("nodes", ear)
        proxy.cut()
        await until(lambda: not link.is_up)

        answer = await bus.request("session.there", MESSAGE, timeout_ms=60_000)
        for to in ("session.there", "session.here", "nodes"):
            bus.send(Envelope(to, MESSAGE))

        assert isinstance(answer, Refusal)
        assert (answer.code, answer.retry_after_ms) == ("disconnected", 500)
        assert bus.drops == {"disconnected": 2}
        assert len(ear.heard) == 2
        await link.close()


async def test_requests_that_were_not_written_when_the_connection_ended_are_refused(nats_server: LocalNats) -> None:
    async with Proxy(nats_server.url) as proxy:
        link = await open_link(proxy.url, ping_timeout_ms=60_000)
        bus = NatsBus(link, slots=SLOTS, name="cut", clock=SystemClock())
        await link.flush()
        proxy.stall()
        big = SessionEnded("x" * 30_000, "")
        tasks = []
        while link.queued < 10:  # until sockets hold no more
            tasks.append(asyncio.create_task(bus.request("session.there", big, timeout_ms=60_000)))
            await asyncio.sleep(0)
        waiting = link.queued

        proxy.cut()
        await until(lambda: not link.is_up)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = [task for task in tasks if task.done() and task.exception() is None]

        assert len(done) == waiting
        assert {task.result().code for task in done} == {"disconnected"}
        assert {str(task.exception()) for task in tasks if task not in done} == {
            "a request to session.there was under way when the connection was lost; its outcome is unknown"
        }
        await link.close()


async def test_a_message_larger_than_the_servers_travels_in_parts(pair: Pair) -> None:
    one, two, link, other, _ = pair
    ear = Ear()
    two.bind("session.large", ear)
    await other.flush()
    sizes = [1_048_400, 1_048_576, 3_000_000, 10, 7_000_000]

    for size in sizes:
        one.send(Envelope("session.large", SessionEnded("x" * size, "left"), "shard.1"))
        await until(lambda: link.queued == 0)

    await until(lambda: len(ear.heard) == len(sizes))
    assert [len(envelope.message.session) for envelope in ear.heard] == sizes
    assert one.drops == two.drops == {}


async def test_a_message_that_is_too_large_is_counted_and_a_request_refused(pair: Pair) -> None:
    one, two, link, other, _ = pair
    two.bind("session.large", Ear())
    await other.flush()
    big = SessionEnded("x" * 9_000_000, "")

    one.send(Envelope("session.large", big))
    answer = await one.request("session.large", big, timeout_ms=60_000)

    assert isinstance(answer, Refusal)
    assert (answer.code, answer.retry_after_ms) == ("too_large", -1)
    assert one.drops == {"too_large": 1}
    assert link.is_up


async def test_after_a_reconnection_all_is_bound_as_before(nats_server: LocalNats) -> None:
    async with Proxy(nats_server.url) as proxy:
        prefix = f"again{next(_PREFIXES)}"
        link, other = await open_link(proxy.url), await open_link(nats_server.url)
        near = NatsBus(other, slots=SLOTS, name="near", clock=SystemClock(), prefix=prefix)
        far = NatsBus(link, slots=SLOTS, name="far", clock=SystemClock(), prefix=prefix)
        host, ear = Host("queue."), Ear()
        far.host(0, host.resolve)
        far.bind("nodes", ear)
        far.bind("session.answers", Answerer(far))
        far.bind("session.gone", ear)
        far.unbind("session.gone")
        await link.flush()

        proxy.cut()
        await until(lambda: not link.is_up)
        await until(lambda: link.is_up)
        await link.flush()
        near.send(Envelope(address_in(0), MESSAGE))
        near.send(Envelope("nodes", MESSAGE))
        answer = await near.request("session.answers", MESSAGE, timeout_ms=60_000)
        gone = await near.request("session.gone", MESSAGE, timeout_ms=60_000)

        assert answer == MESSAGE
        assert isinstance(gone, Refusal)
        assert (len(host.ears[address_in(0)].heard), len(ear.heard)) == (1, 1)
        await link.close()
        await other.close()


@pytest.mark.parametrize(("name", "prefix"), [("a b", "f"), ("a.b", "f"), ("", "f"), ("a", "x.y"), ("a", ">")])
async def test_names_that_cannot_be_subjects_are_refused(pair: Pair, name: str, prefix: str) -> None:
    with pytest.raises(NatsConfigError, match="expected 1 to 64 letters, digits, '_' and '-'"):
        NatsBus(pair[2], slots=SLOTS, name=name, clock=SystemClock(), prefix=prefix)


CHILD = """
import asyncio, sys
from foliot.runtime.bus import Envelope
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.transports.nats.bus import NatsBus
from foliot.transports.nats.link import NatsConfig, NatsLink

class Answerer:
    def deliver(self, envelope):
        bus.send(Envelope(envelope.sender, envelope.message, envelope.to, envelope.request))

async def main():
    global bus
    link = await NatsLink.open(NatsConfig(url=sys.argv[1]), clock=SystemClock(), rng=Rng.of_the_system())
    bus = NatsBus(link, slots=4, name="child", clock=SystemClock(), prefix=sys.argv[2])
    bus.host(0, lambda address: Answerer())
    await link.flush()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_another_process_answers_and_is_missed_at_once_when_it_is_killed(pair: Pair, nats_server: LocalNats) -> None:
    one, _, _, _, prefix = pair
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, nats_server.url, prefix, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        to = address_in(0)

        answers = await asyncio.gather(
            *(one.request(to, SessionEnded(str(n), ""), timeout_ms=60_000) for n in range(500))
        )
        child.kill()
        await child.wait()
        answer: Any = None
        while not isinstance(answer, Refusal):  # until the server has noticed, a request may be lost
            with suppress(DeadlineError):
                answer = await one.request(to, MESSAGE, timeout_ms=200)

        assert answers == [SessionEnded(str(n), "") for n in range(500)]
        assert answer.code == "no_such_actor"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@settings(max_examples=100)
@given(data=st.binary(max_size=200) | st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=9), st.lists).map(
    msgspec.msgpack.encode
))  # fmt: skip
def test_any_bytes_are_a_frame_or_a_frame_error(data: bytes) -> None:
    with suppress(FrameError):
        envelope = decode(data)
        assert decode(encode(envelope.to, envelope.sender, envelope.request, envelope.message)) == envelope


# -- nodes over it ---------------------------------------------------------------------------------------------------------

QUICK_MEMBERS = MembershipConfig(interval_ms=100, dead_after_ms=800, ask_before_ms=200, join_ms=150)


class Keeper(Actor[Any]):
    """A slot's durable actor: keeps the session it is told of, and answers with the epoch it did so under."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def handle(self, message: Any, turn: Turn) -> None:
        if isinstance(message, SessionEnded):
            turn.changes.append(message.session)
            turn.reply(SessionEnded(message.session, str(self._epoch)))


class NatsNode:
    """A node with a link of its own."""

    def __init__(self, name: str, link: NatsLink, store: Store, prefix: str, boot: int) -> None:
        self.name = name
        self.link = link
        self.started = asyncio.Event()
        self.bus = NatsBus(link, slots=CLUSTER_SLOTS, name=name, clock=SystemClock(), prefix=prefix)

        def durable(slot: int) -> tuple[str, MakeDurable]:
            async def make() -> tuple[Actor[Any], Journal]:
                store.epochs[slot] += 1
                store.owners[slot] = name
                return Keeper(store.epochs[slot]), SlotJournal(store, slot, store.epochs[slot])

            return f"shard.{slot}", make

        async def keep(address: str, message: Any, error: BaseException) -> None:
            raise AssertionError(f"{address} could not handle {message}: {error}")

        self.node = Node(
            NodeConfig(name, CLUSTER_SLOTS, CellConfig(store_backoff_ms=10), membership=QUICK_MEMBERS),
            bus=self.bus, clock=SystemClock(), rng=Rng(7).stream(f"{name}/{boot}"), kinds={}, poison=keep,
        )  # fmt: skip
        self.life = asyncio.create_task(self.node.run(durable, started=self.started.set), name=name)

    async def end(self, *, abruptly: bool = False) -> None:
        """End the node; abruptly: the network first, so that it cannot say a word."""
        if abruptly:
            session = self.link._session
            assert session is not None
            self.link._is_closing = True
            for task in self.link._tasks:
                task.cancel()
            session.end("killed")
        self.life.cancel()
        await asyncio.wait([self.life])
        self.link._is_closing = False
        await self.link.close()


class NatsCluster:
    def __init__(self, url: str) -> None:
        self.store = Store()
        self.nodes: dict[str, NatsNode] = {}
        self._url = url
        self._prefix = f"nodes{next(_PREFIXES)}"
        self._boots = 0

    async def start(self, *names: str) -> None:
        for name in names:
            self._boots += 1
            self.nodes[name] = NatsNode(name, await open_link(self._url), self.store, self._prefix, self._boots)
        for name in names:
            await self.nodes[name].started.wait()

    async def client(self) -> NatsBus:
        self._client_link = await open_link(self._url)
        return NatsBus(self._client_link, slots=CLUSTER_SLOTS, name="client", clock=SystemClock(), prefix=self._prefix)

    def is_settled(self) -> bool:
        """Tell whether every slot is hosted once, by the node that claimed it last, and all have some."""
        nodes = self.nodes.items()
        hosted = {slot: [name for name, each in nodes if slot in each.node.hosted] for slot in range(CLUSTER_SLOTS)}
        owners = {slot: [self.store.owners.get(slot, "")] for slot in range(CLUSTER_SLOTS)}
        return hosted == owners and all(each.node.hosted for each in self.nodes.values())

    async def end(self) -> None:
        for each in self.nodes.values():
            await each.end()
        await self._client_link.close()


async def ask_all(client: NatsBus, text: str) -> list[SessionEnded]:
    """Ask every shard until it answers, as clients do."""

    async def ask(slot: int) -> SessionEnded:
        while True:
            try:
                answer = await client.request(f"shard.{slot}", SessionEnded(f"{text}{slot}", ""), timeout_ms=2_000)
            except DeadlineError:
                continue
            if isinstance(answer, SessionEnded):
                return answer
            await asyncio.sleep(0.02)

    return list(await asyncio.gather(*(ask(slot) for slot in range(CLUSTER_SLOTS))))


async def test_nodes_share_slots_and_take_over_from_one_that_is_closed_abruptly(nats_server: LocalNats) -> None:
    cluster = NatsCluster(nats_server.url)
    client = await cluster.client()
    try:
        await cluster.start("a", "b", "c")
        await until(cluster.is_settled)
        before = await ask_all(client, "k")
        gone = cluster.nodes.pop("b")
        lost = list(gone.node.hosted)

        await gone.end(abruptly=True)
        after = await ask_all(client, "l")
        await until(cluster.is_settled)
        moved = [slot for slot in range(CLUSTER_SLOTS) if after[slot].reason != before[slot].reason]

        assert [kept.session for kept in before] == [f"k{slot}" for slot in range(CLUSTER_SLOTS)]
        assert sorted(moved) == sorted(lost)
        assert all(kept[0] == f"k{slot}" and f"l{slot}" in kept for slot, kept in cluster.store.kept.items())

        await cluster.start("b")
        await until(cluster.is_settled)
        assert len(await ask_all(client, "m")) == CLUSTER_SLOTS
    finally:
        await cluster.end()


async def test_nodes_go_on_after_their_server_was_killed() -> None:
    async with LocalNats() as server:
        cluster = NatsCluster(server.url)
        client = await cluster.client()
        try:
            await cluster.start("a", "b")
            await until(cluster.is_settled)
            await ask_all(client, "k")

            server.kill()
            await until(lambda: not any(each.link.is_up for each in cluster.nodes.values()))
            await asyncio.sleep(1)  # longer than a node may be silent
            await server.restart()
            await ask_all(client, "l")
            await until(cluster.is_settled)

            assert all(f"k{slot}" in cluster.store.kept[slot] for slot in range(CLUSTER_SLOTS))
            assert all(f"l{slot}" in cluster.store.kept[slot] for slot in range(CLUSTER_SLOTS))
        finally:
            await cluster.end()
