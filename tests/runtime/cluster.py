"""Several nodes over a small network, on a loop whose time jumps from event to event.

The nodes are real; the network between them, the store and the actors are small implementations of their ports, all in
memory. `cut` and `crash` take links away.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from foliot.actors.addresses import slot_of_address
from foliot.runtime.actor import Actor, Journal, Turn
from foliot.runtime.bus import Envelope, Receiver, Refusal, Resolver
from foliot.runtime.cell import CellConfig
from foliot.runtime.clock import Timer
from foliot.runtime.errors import CommitUnknownError, DeadlineError, NoSuchActorError, StaleEpochError, UnavailableError
from foliot.runtime.membership import MembershipConfig, SlotClaimed
from foliot.runtime.node import Node, NodeConfig
from foliot.runtime.ownership import MakeDurable
from foliot.runtime.rng import Rng

SLOTS = 64
LATENCY_MS = 1
STORE_MS = 2
START_MS = 1_700_000_000_000

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time it would have waited has passed."""

    slept = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing would ever happen"
        self.slept += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.slept


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a scenario in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario())


class LoopClock:
    """Tells the loop's time. `skew_ms`: how far the wall clock is off."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return START_MS + self.skew_ms + self.mono_ns() // 1_000_000

    def mono_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def call_at_ms(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(when_ms - self.now_ms(), 0) / 1000, callback)


class Put(msgspec.Struct, frozen=True):
    """Kept by the durable actor. Answers: Kept."""

    key: str


class Kept(msgspec.Struct, frozen=True):
    key: str
    epoch: int


class Poke(msgspec.Struct, frozen=True):
    """Brings a volatile actor to life. Answers: Poked."""


class Poked(msgspec.Struct, frozen=True):
    epoch: int


class Keeper(Actor[Any]):
    """A slot's durable actor. `heard`: the slots it was told were claimed."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self.heard: list[SlotClaimed] = []

    def handle(self, message: Any, turn: Turn) -> None:
        if isinstance(message, SlotClaimed):
            self.heard.append(message)
            return
        turn.changes.append(message.key)
        turn.reply(Kept(message.key, self._epoch))


class Desk(Actor[Any]):
    """A volatile actor, which has something to remember once it was poked twice."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._poked = 0

    def handle(self, message: Any, turn: Turn) -> None:
        self._poked += 1
        turn.reply(Poked(self._epoch))

    @property
    def is_spent(self) -> bool:
        return self._poked < 2


class Store:
    """What survives: epochs, owners and keys by slot. `claims`: (slot, epoch, node) in order. `unknown`: so many of the
    next commits are written without an answer. `commit_ms`: how long a commit takes until it is written; `told_late_ms`: how
    much later than it is done the node hears of a claim."""

    def __init__(self) -> None:
        self.epochs = dict.fromkeys(range(SLOTS), 0)
        self.owners: dict[int, str] = {}
        self.claims: list[tuple[int, int, str]] = []
        self.kept: dict[int, list[str]] = {}
        self.unknown = 0
        self.commit_ms = STORE_MS
        self.told_late_ms = 0

    def durable(self, node: ClusterNode) -> Callable[[int], tuple[str, MakeDurable]]:
        def of(slot: int) -> tuple[str, MakeDurable]:
            async def make() -> tuple[Actor[Any], Journal]:
                await asyncio.sleep(STORE_MS / 1000)
                self.epochs[slot] += 1
                self.owners[slot] = node.name
                self.claims.append((slot, self.epochs[slot], node.name))
                epoch = self.epochs[slot]
                if self.told_late_ms:
                    await asyncio.sleep(self.told_late_ms / 1000)
                keeper = node.keepers[slot] = Keeper(epoch)
                return keeper, SlotJournal(self, slot, epoch)

            return f"shard.{slot}", make

        return of


class Keys(list[str]):
    """What a keeper wants written."""

    def __bool__(self) -> bool:
        return len(self) > 0


class SlotJournal:
    def __init__(self, store: Store, slot: int, epoch: int) -> None:
        self._store = store
        self._slot = slot
        self.epoch = epoch

    def changes(self) -> Keys:
        return Keys()

    async def commit(self, changes: Any) -> None:
        store, slot = self._store, self._slot
        await asyncio.sleep(store.commit_ms / 1000)
        if store.epochs[slot] != self.epoch:
            raise StaleEpochError(slot, self.epoch, store.epochs[slot])
        store.kept.setdefault(slot, []).extend(changes)
        if store.unknown:
            store.unknown -= 1
            raise CommitUnknownError(slot, self.epoch)

    async def read(self, query: Any) -> Any:
        raise NotImplementedError


class Network:
    """Carries messages between the buses of processes. `sent`: how many, by name of the message."""

    def __init__(self) -> None:
        self.buses: dict[str, NodeBus] = {}
        self.sent: dict[str, int] = {}
        self._cut: dict[tuple[str, str], None] = {}

    def cut(self, *sides: tuple[str, ...]) -> None:
        """Lose all messages between the sides."""
        for side in sides:
            for other in sides:
                if side is not other:
                    self._cut.update({(a, b): None for a in side for b in other})

    def heal(self) -> None:
        self._cut.clear()

    def carry(self, source: str, envelope: Envelope) -> None:
        name = type(envelope.message).__name__
        self.sent[name] = self.sent.get(name, 0) + 1
        found = [bus for bus in list(self.buses.values()) if bus.listens(envelope.to)]
        for bus in found:
            if (source, bus.name) not in self._cut:
                asyncio.get_running_loop().call_later(LATENCY_MS / 1000, bus.arrive, envelope)
        if not found and envelope.request:
            refusal = Refusal.of(NoSuchActorError(envelope.to))
            asyncio.get_running_loop().call_later(
                LATENCY_MS / 1000, self.buses[source].arrive, Envelope(envelope.sender, refusal, "", envelope.request)
            )


class NodeBus:
    """One process's end of the network. Implements `runtime.bus.Bus`."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self._network = network
        self._bound: dict[str, Receiver] = {}
        self._hosts: dict[int, Resolver] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        network.buses[name] = self

    def bind(self, address: str, receiver: Receiver) -> None:
        self._bound[address] = receiver

    def unbind(self, address: str, receiver: Receiver | None = None) -> None:
        self._bound.pop(address, None)

    def host(self, slot: int, resolve: Resolver) -> None:
        self._hosts[slot] = resolve

    def leave(self, slot: int) -> None:
        self._hosts.pop(slot, None)

    def listens(self, address: str) -> bool:
        return address in self._bound or slot_of_address(address, SLOTS) in self._hosts or address == f"reply.{self.name}"

    def send(self, envelope: Envelope) -> None:
        self._network.carry(self.name, envelope)

    def arrive(self, envelope: Envelope) -> None:
        if envelope.to == f"reply.{self.name}":
            answer = self._answers.get(envelope.request)
            if answer is not None and not answer.done():
                answer.set_result(envelope.message)
            return
        receiver = self._bound.get(envelope.to)
        slot = slot_of_address(envelope.to, SLOTS)
        if receiver is None and slot in self._hosts:
            receiver = self._hosts[slot](envelope.to)
        try:
            if receiver is None:
                raise NoSuchActorError(envelope.to)
            receiver.deliver(envelope)
        except UnavailableError as error:
            if envelope.request:
                self.send(Envelope(envelope.sender, Refusal.of(error), envelope.to, envelope.request))

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        self.send(Envelope(to, message, f"reply.{self.name}", self._number))
        try:
            return await asyncio.wait_for(answer, timeout_ms / 1000)
        except TimeoutError as error:
            raise DeadlineError(type(message).__name__, timeout_ms) from error


class ClusterNode:
    """One process with a node in it."""

    def __init__(self, cluster: Cluster, name: str, *, boot: int = 1, alone: bool = False, skew_ms: int = 0) -> None:
        self.name = name
        self.bus = NodeBus(cluster.network, name)
        self.keepers: dict[int, Keeper] = {}
        self.started = asyncio.Event()

        async def desk(address: str, epoch: int) -> Actor[Any]:
            return Desk(epoch)

        async def keep(address: str, message: Any, error: BaseException) -> None:
            raise AssertionError(f"{address} could not handle {message}: {error}")

        self.node = Node(
            NodeConfig(
                name, SLOTS, CellConfig(store_backoff_ms=10), membership=None if alone else MembershipConfig(),
            ),
            bus=self.bus, clock=LoopClock(skew_ms), rng=Rng(7).stream(f"{name}/{boot}"), kinds={"queue": desk},
            poison=keep,
        )  # fmt: skip
        durable = cluster.store.durable(self)
        self.life = asyncio.create_task(self.node.run(durable, started=self.started.set), name=name)

    @property
    def slots(self) -> list[int]:
        return list(self.node.hosted)


class Cluster:
    """The network, the store, and the nodes that live, by name."""

    def __init__(self) -> None:
        self.network = Network()
        self.store = Store()
        self.nodes: dict[str, ClusterNode] = {}
        self.client = NodeBus(self.network, "client")
        self._boots = 0

    def start(self, *names: str, alone: bool = False, skew_ms: int = 0) -> None:
        """Start nodes; they are up once time has passed."""
        for name in names:
            self._boots += 1
            self.nodes[name] = ClusterNode(self, name, boot=self._boots, alone=alone, skew_ms=skew_ms)

    async def settle(self, *names: str) -> None:
        """Start nodes together and wait until they host what they will."""
        self.start(*names)
        for name in names:
            await self.nodes[name].started.wait()
        await self.pass_ms(20)
        assert self.hosts() == {slot: [self.owner(slot)] for slot in range(SLOTS)}

    async def pass_ms(self, span_ms: int) -> None:
        await asyncio.sleep(span_ms / 1000)

    async def until(self, holds: Callable[[], bool], *, within_ms: int) -> int:
        """Let time pass until something holds. Returns: how many ms that took."""
        for passed_ms in range(within_ms + 1):
            if holds():
                return passed_ms
            await self.pass_ms(1)
        raise AssertionError(f"it did not come to that within {within_ms} ms")

    async def crash(self, name: str) -> None:
        """End a process without a word: nothing it does in its last moment reaches anybody."""
        crashed = self.nodes.pop(name)
        del self.network.buses[name]
        self.network.cut((name,), tuple(self.network.buses))
        crashed.life.cancel()
        await asyncio.wait([crashed.life])
        self.network.heal()

    async def end(self) -> None:
        """Stop all; a node that had ended by itself says why."""
        for each in self.nodes.values():
            each.life.cancel()
        await asyncio.wait([each.life for each in self.nodes.values()])
        for each in self.nodes.values():
            assert each.life.cancelled() or each.life.exception() is None, each.name

    def hosts(self) -> dict[int, list[str]]:
        """Return who hosts each slot."""
        return {slot: [name for name, each in self.nodes.items() if slot in each.slots] for slot in range(SLOTS)}

    def owner(self, slot: int) -> str:
        """Return who hosts a slot by the view of the first node."""
        return next(iter(self.nodes.values())).node.ring.owner(slot)

    def is_settled(self) -> bool:
        """Tell whether every slot is hosted once, by the node that claimed it last."""
        return self.hosts() == {slot: [self.store.owners.get(slot, "")] for slot in range(SLOTS)}

    async def ask(self, to: str, message: Any, *, timeout_ms: int = 1_000) -> Any:
        return await self.client.request(to, message, timeout_ms=timeout_ms)


def in_cluster(scenario: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in virtual time, with a cluster that is ended afterwards."""

    async def whole() -> None:
        cluster = Cluster()
        try:
            await scenario(cluster)
        finally:
            await cluster.end()

    run(whole)
