"""Steady traffic while something happens to a cluster: what was acknowledged, when each task started, and what was lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ..runtime.bus import Envelope
from ..runtime.errors import FoliotError
from ..runtime.hashing import slot_of
from ..runtime.ids import shard_of
from ..runtime.membership import NodeBeat, SlotClaimed, SlotReleased
from ..sdk.client import Client, number_of
from .moves_app import steady
from .numbers import percentile

TOGETHER: Final = 10
"""Tasks in a request."""

_UNDER_WAY_MAX: Final = 8_000  # submissions; beyond it the traffic waits
_STEP_S: Final = 0.001


@dataclass
class Traffic:
    """Submits tasks at a rate, a few in each request, to one shard after the other, until stopped. `rate`: a second."""

    client: Client
    rate: int
    shards: int
    seed: int
    acknowledged: dict[int, int] = field(default_factory=dict)  # id: when its submission began
    unanswered: Counter[str] = field(default_factory=Counter)
    settled: dict[int, None] = field(default_factory=dict)  # ids of those that were not answered, asked for again
    held_up: int = 0  # were not submitted, for so much was under way
    _unsure: list[tuple[str, int]] = field(default_factory=list)  # (dedupe key, when its submission began)
    _keys: Iterator[str] = field(init=False)
    _under_way: dict[asyncio.Task[None], None] = field(default_factory=dict)
    _is_over: bool = False

    async def run(self) -> None:
        """Submit until `stop`, then wait for what is under way."""
        loop, begun_ns, sent = asyncio.get_running_loop(), time.perf_counter_ns(), 0
        while not self._is_over:
            due = (time.perf_counter_ns() - begun_ns) * self.rate // 1_000_000_000
            while sent + TOGETHER <= due:
                sent += TOGETHER
                if len(self._under_way) >= _UNDER_WAY_MAX:
                    self.held_up += TOGETHER
                    continue
                for _ in range(TOGETHER):
                    task = loop.create_task(self._submit(next(self._keys)))
                    self._under_way[task] = None
                    task.add_done_callback(self._under_way.pop)
                await asyncio.sleep(0)  # they travel together, the next ones not with them
            await asyncio.sleep(_STEP_S)
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    def __post_init__(self) -> None:
        self._keys = _keys(self.client.tenant, self.shards, self.seed)

    def stop(self) -> None:
        self._is_over = True

    async def _submit(self, key: str) -> None:
        at_ns = time.perf_counter_ns()
        try:
            task = await self.client.submit(steady, at_ns=at_ns, dedupe_key=key)
        except FoliotError as error:
            self.unanswered[error.code] += 1
            self._unsure.append((key, at_ns))
        else:
            self.acknowledged[task.number] = at_ns

    async def settle(self) -> None:
        """Ask again for what was not answered, as callers have to: whether it had been accepted is theirs to find out."""
        for key, at_ns in self._unsure:
            task = await self.client.submit(steady, at_ns=at_ns, dedupe_key=key)
            self.settled[task.number] = None

    async def starts(self) -> Starts:
        """Return what became of all of it, once nothing is left to do."""
        numbers = [*self.acknowledged, *self.settled]
        infos = await self.client.get_many(numbers)
        ended = {number_of(info.id): info for info in infos if info.state == "completed"}
        lost = [number for number in numbers if number not in ended]
        began = self.acknowledged
        started = {number: began[number] + info.result for number, info in ended.items() if number in began}
        return Starts(self.acknowledged, started, lost)


def _keys(tenant: str, shards: int, seed: int) -> Iterator[str]:
    """Yield dedupe keys, so many of one shard as go together, then of the next."""
    found: list[list[str]] = [[] for _ in range(shards)]
    number = 0
    while True:
        for waiting in found:
            while len(waiting) < TOGETHER:
                key = f"{seed:x}-{number:x}"
                number += 1
                found[slot_of(f"{tenant}/{key}", shards)].append(key)
            yield from waiting[:TOGETHER]
            del waiting[:TOGETHER]


@dataclass
class Starts:
    """`at`: when submissions began; `started`: when the attempts with an accepted outcome did; both by task, in ns."""

    at: dict[int, int]
    started: dict[int, int]
    lost: list[int]

    def worst_ms(self, since_ns: int, until_ns: int) -> dict[str, float]:
        """Return from submission to start, of tasks whose submission began in that span."""
        late = [(self.started[n] - at) / 1e6 for n, at in self.at.items() if since_ns <= at < until_ns and n in self.started]
        return {
            "task_p50_ms": round(percentile(late, 50), 1), "task_p99_ms": round(percentile(late, 99), 1),
            "task_max_ms": round(max(late, default=0.0), 1),
        }  # fmt: skip

    def again_s(self, down_ns: int, back_ns: int, shards: Iterable[int]) -> float:
        """Return how long after `back_ns` the last of some shards had a task start that was submitted after `down_ns`."""
        first: dict[int, int] = {}
        for number, started_ns in self.started.items():
            if self.at[number] >= down_ns and started_ns >= back_ns:
                shard = shard_of(number)
                first[shard] = min(first.get(shard, started_ns), started_ns)
        silent = [shard for shard in shards if shard not in first]
        assert not silent, f"no task ran any more in the shards {silent}"
        return round((max((first[shard] for shard in shards), default=back_ns) - back_ns) / 1e9, 3)


class Watcher:
    """Hears what nodes tell each other of their slots, and when."""

    def __init__(self) -> None:
        self.left_ns: dict[str, int] = {}  # by node: it said that it leaves
        self.released_ns: dict[int, int] = {}  # by slot, the last time
        self.claimed_ns: dict[int, int] = {}
        self.claimed_by: dict[int, str] = {}

    def deliver(self, envelope: Envelope) -> None:
        message: Any = envelope.message
        now_ns = time.perf_counter_ns()
        if isinstance(message, NodeBeat) and message.leaving:
            self.left_ns.setdefault(message.name, now_ns)
        elif isinstance(message, SlotReleased) and message.epoch:
            self.released_ns[message.slot] = now_ns
        elif isinstance(message, SlotClaimed):
            self.claimed_ns[message.slot] = now_ns
            self.claimed_by[message.slot] = message.node

    def forget(self) -> None:
        """Begin anew, before something happens."""
        for notes in (self.left_ns, self.released_ns, self.claimed_ns, self.claimed_by):
            notes.clear()
