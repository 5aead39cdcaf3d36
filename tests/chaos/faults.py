"""The faults, and how long traffic takes to flow again after each.

Traffic flows again when a task in every shard, submitted after the fault, has completed. For nodes, workers and one broker
of three that is counted from the fault; for the database, a node's way to it, and all brokers at once from the moment they
are back. It is only counted where no other fault came between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from foliot import Client, Task, TaskInfo
from foliot.runtime.errors import FoliotError
from foliot.runtime.hashing import slot_of
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats

from .app import probe
from .place import SLOTS, Kept, Place, now_ns

KINDS: Final = (
    "node_kill", "node_stop", "node_drain", "node_cut", "node_astray", "worker_kill", "worker_stop", "worker_drain",
    "worker_cut", "nats_kill", "nats_stop", "nats_all", "postgres_kill", "postgres_stop", "postgres_restart",
)  # fmt: skip
_TWO_AT_ONCE: Final = 3  # every third fault has company
_SPAN_MS: Final = 11_000  # of most faults; longer than others take to notice
_FLOWS_S: Final = 120.0
_SLOW_NS: Final = 8_000_000_000


class _Probe(NamedTuple):
    """A task that showed whether traffic flows, and the moments of its way."""

    task: Task[None]
    since_ns: int
    accepted_ns: int
    heard_ns: int


class Deck:
    """Kinds without end: all of them in one order, then in another."""

    def __init__(self, kinds: Sequence[str], rng: Rng) -> None:
        self._kinds = kinds
        self._rng = rng
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            left = list(self._kinds)
            self._left = [left.pop(self._rng.below(len(left))) for _ in self._kinds]
        return self._left.pop()

    def draw_beside(self, kind: str) -> str | None:
        """Return the next kind that hits something else, None if none is left in this order."""
        other = next((each for each in reversed(self._left) if _what(each) != _what(kind)), None)
        if other is not None:
            self._left.remove(other)
        return other


class Storm:
    """Brings fault after fault over a place."""

    def __init__(self, place: Place, client: Client, rng: Rng, *, kinds: Sequence[str], say: Callable[[str], None]) -> None:
        self._place = place
        self._client = client
        self._rng = rng
        self._kinds = kinds
        self._deck = Deck(kinds, rng.stream("deck"))
        self._say = say
        self._probes = 0
        self.faults: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        self.killed_workers: list[tuple[int, int]] = []
        """Process and moment."""

    async def rage(self, until_ns: int, after_each: Callable[[], Awaitable[None]]) -> None:
        """Go on until every kind was there, and a moment on the clock of `now_ns`; leave everything up and running."""
        while now_ns() < until_ns or len(self.faults) < len(self._kinds):
            kind = self._deck.draw()
            other = self._deck.draw_beside(kind) if not self._rng.below(_TWO_AT_ONCE) else None
            if other is None:
                took_s = await self._one(kind)
                self.recovery_s.setdefault(kind, []).append(round(took_s, 2))
                self._say(f"{kind}: traffic again after {took_s:.2f} s")
            else:
                await asyncio.gather(self._one(kind), self._one(other))
                self._say(f"{kind} and {other} together")
            await self._place.all_up()
            await after_each()
            await asyncio.sleep(0.5 + self._rng.below(1_000) / 1000)

    async def _one(self, kind: str) -> float:
        """Let one fault happen and pass. Returns: how long until traffic flowed again."""
        self.faults[kind] += 1
        rng = self._rng.stream(f"{kind}-{self.faults[kind]}")
        what, how = _what(kind), kind.partition("_")[2]
        if what == "postgres":
            return await self._database(how, rng)
        if what == "nats":
            brokers = self._place.brokers
            return await self._all_brokers(rng) if how == "all" else await self._broker(how, brokers[rng.below(3)], rng)
        members = self._place.nodes if what == "node" else self._place.workers
        member = members[rng.below(len(members))]
        if how == "cut":
            return await self._cut_off(member, "nats", rng)
        if how == "astray":
            return await self._cut_off(member, "postgres", rng)
        return await self._member(how, member, rng)

    # -- nodes and workers -----------------------------------------------------------------------------------------------

    async def _member(self, how: str, member: Kept, rng: Rng) -> float:
        await member.until_ready()
        since_ns = now_ns()
        if how == "kill":
            if member in self._place.workers:
                self.killed_workers.append((member.pid, since_ns))
            member.kill()
        elif how == "stop":
            member.hold()
        flows = asyncio.create_task(self._flows(since_ns))
        try:
            if how == "drain":
                await member.drain()
            await asyncio.sleep(1 + rng.below(_SPAN_MS) / 1000)
        finally:
            member.let_go() if how == "stop" else member.bring_up()
        took_s = await flows
        await member.until_ready()
        return took_s

    async def _cut_off(self, member: Kept, server: str, rng: Rng) -> float:
        """A way may open again with all that waited in it, or with none of it."""
        await member.until_ready()
        since_ns = now_ns()
        member.cut_off(server)
        is_waited_for = server == "postgres"  # its node stays one, and keeps its shards
        flows = None if is_waited_for else asyncio.create_task(self._flows(since_ns))
        try:
            await asyncio.sleep(1 + rng.below(_SPAN_MS) / 1000)
        finally:
            member.join(anew=rng.below(2) == 0)
        took_s = await (flows or self._flows(now_ns()))
        await member.until_ready()
        return took_s

    # -- servers ---------------------------------------------------------------------------------------------------------

    async def _broker(self, how: str, broker: LocalNats, rng: Rng) -> float:
        if not broker.is_running:
            return 0.0
        since_ns = now_ns()
        broker.kill() if how == "kill" else broker.stop_process()
        flows = asyncio.create_task(self._flows(since_ns))
        await asyncio.sleep(1 + rng.below(_SPAN_MS) / 1000)
        if how == "kill":
            await broker.start()
        else:
            broker.resume()
        return await flows

    async def _all_brokers(self, rng: Rng) -> float:
        running = [broker for broker in self._place.brokers if broker.is_running]
        for broker in running:
            broker.kill()
        await asyncio.sleep(rng.below(5_000) / 1000)
        await asyncio.gather(*[broker.start() for broker in running])
        return await self._flows(now_ns())

    async def _database(self, how: str, rng: Rng) -> float:
        postgres = self._place.postgres
        if not postgres.is_running:
            return 0.0
        if how == "restart":
            await postgres.restart()
        elif how == "kill":
            postgres.kill()
            await asyncio.sleep(rng.below(5_000) / 1000)
            await postgres.start()
        else:
            postgres.stop_process()
            await asyncio.sleep(rng.below(10_000) / 1000)
            postgres.resume()
        return await self._flows(now_ns())

    # -- recovery --------------------------------------------------------------------------------------------------------

    async def _flows(self, since_ns: int) -> float:
        """Return how long after a moment a task of every shard has completed."""
        self._probes += 1
        keys = _keys_of_all_shards(f"probe-{self._probes}", self._client.tenant)
        async with asyncio.timeout(_FLOWS_S):
            probes = await asyncio.gather(*[self._completed(key) for key in keys])
        took_s = (now_ns() - since_ns) / 1e9
        slowest = max(probes, key=lambda each: each.heard_ns)
        if slowest.heard_ns - slowest.since_ns > _SLOW_NS:
            with suppress(FoliotError):
                self._say_slow(await slowest.task.info(), slowest)
        return took_s

    async def _completed(self, key: str) -> _Probe:
        """Return when a task of that key has completed."""
        since_ns = now_ns()
        while True:
            try:
                task = await self._client.submit(probe, dedupe_key=key)
                accepted_ns = now_ns()
                await task.result(timeout=30)
            except FoliotError:
                await asyncio.sleep(0.1)
            else:
                return _Probe(task, since_ns, accepted_ns, now_ns())

    def _say_slow(self, info: TaskInfo, probe: _Probe) -> None:
        moments = {"accepted": probe.accepted_ns / 1e9, "heard": probe.heard_ns / 1e9}
        for name, at in (("created", info.created_at), ("started", info.started_at), ("ended", info.ended_at)):
            if at is not None:
                moments[name] = at.timestamp()
        told = ", ".join(
            f"{name} {at - probe.since_ns / 1e9:.2f}" for name, at in sorted(moments.items(), key=lambda each: each[1])
        )
        self._say(f"  the slowest: {info.id}, attempt {info.attempt}: {told}")


def _what(kind: str) -> str:
    """Return what a fault of a kind hits; only one at a time may."""
    return kind.partition("_")[0]


def _keys_of_all_shards(prefix: str, tenant: str) -> list[str]:
    """Return a dedupe key for each shard: the key of a task tells its shard."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS:
        key = f"{prefix}-{number}"
        found.setdefault(slot_of(f"{tenant}/{key}", SLOTS), key)
        number += 1
    return [found[slot] for slot in sorted(found)]
