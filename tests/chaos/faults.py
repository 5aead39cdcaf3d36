"""The faults, and how long traffic takes to flow again after each.

Traffic flows again when a task in every shard, submitted after the fault, has completed. For nodes, workers and one broker
of three that is counted from the fault; for the database and all brokers at once from the moment they are back. It is only
counted where no other fault came between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Final

from foliot import Client, TaskInfo
from foliot.runtime.errors import FoliotError
from foliot.runtime.hashing import slot_of
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats

from .app import probe
from .place import SLOTS, Kept, Place, now_ns

KINDS: Final = (
    "node_kill", "node_stop", "node_drain", "worker_kill", "worker_stop", "worker_drain", "nats_kill", "nats_stop",
    "nats_all", "postgres_kill", "postgres_stop", "postgres_restart",
)  # fmt: skip
_TWO_AT_ONCE: Final = 4  # every fourth fault has company
_FLOWS_S: Final = 120.0
_SLOW_NS: Final = 8_000_000_000


def deck(rng: Rng) -> Iterator[str]:
    """Yield kinds without end: all of them in one order, then in another."""
    while True:
        left = list(KINDS)
        while left:
            yield left.pop(rng.below(len(left)))


class Storm:
    """Brings fault after fault over a place."""

    def __init__(self, place: Place, client: Client, rng: Rng, *, kinds: Iterator[str], say: Callable[[str], None]) -> None:
        self._place = place
        self._client = client
        self._rng = rng
        self._kinds = kinds
        self._say = say
        self._probes = 0
        self.faults: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        self.killed_workers: list[tuple[int, int]] = []
        """Process and moment."""

    async def rage(self, until_ns: int, after_each: Callable[[], Awaitable[None]]) -> None:
        """Go on until a moment on the clock of `now_ns`; leave everything up and running."""
        while now_ns() < until_ns:
            kind = next(self._kinds)
            other = self._other(kind) if not self._rng.below(_TWO_AT_ONCE) else None
            if other is None:
                took_s = await self._one(kind)
                self.recovery_s.setdefault(kind, []).append(round(took_s, 2))
                self._say(f"{kind}: traffic again after {took_s:.2f} s")
            else:
                await asyncio.gather(self._one(kind), self._one(other))
                self._say(f"{kind} and {other} together")
            await self._place.all_up()
            await after_each()
            await asyncio.sleep(0.5 + self._rng.below(2_000) / 1000)

    def _other(self, kind: str) -> str | None:
        """Return a kind that hits something else, None if there is none."""
        return next((other for other in islice(self._kinds, len(KINDS)) if _what(other) != _what(kind)), None)

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
        return await self._member(how, members[rng.below(len(members))], rng)

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
            await asyncio.sleep(1 + rng.below(14_000) / 1000)
        finally:
            member.let_go() if how == "stop" else member.bring_up()
        took_s = await flows
        await member.until_ready()
        return took_s

    # -- servers ---------------------------------------------------------------------------------------------------------

    async def _broker(self, how: str, broker: LocalNats, rng: Rng) -> float:
        if not broker.is_running:
            return 0.0
        since_ns = now_ns()
        broker.kill() if how == "kill" else broker.stop_process()
        flows = asyncio.create_task(self._flows(since_ns))
        await asyncio.sleep(1 + rng.below(12_000) / 1000)
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
            await asyncio.gather(*[self._completed(key) for key in keys])
        return (now_ns() - since_ns) / 1e9

    async def _completed(self, key: str) -> None:
        """Return when a task of that key has completed; of a slow one, say what took so long."""
        since_ns = now_ns()
        while True:
            try:
                task = await self._client.submit(probe, dedupe_key=key)
                accepted_ns = now_ns()
                await task.result(timeout=30)
                heard_ns = now_ns()
                if heard_ns - since_ns > _SLOW_NS:
                    self._say_slow(await task.info(), since_ns, accepted_ns, heard_ns)
            except FoliotError:
                await asyncio.sleep(0.1)
            else:
                return

    def _say_slow(self, info: TaskInfo, since_ns: int, accepted_ns: int, heard_ns: int) -> None:
        moments = {"accepted": accepted_ns / 1e9, "heard": heard_ns / 1e9}
        for name, at in (("created", info.created_at), ("started", info.started_at), ("ended", info.ended_at)):
            if at is not None:
                moments[name] = at.timestamp()
        told = ", ".join(
            f"{name} {at - since_ns / 1e9:.2f}" for name, at in sorted(moments.items(), key=lambda each: each[1])
        )
        self._say(f"  slow: {info.id}, attempt {info.attempt}: {told}")


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
