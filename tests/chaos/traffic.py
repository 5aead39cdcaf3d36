"""Traffic of every kind, and the book of what was acknowledged: for each task the states in which it may end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from foliot import Client, Task
from foliot.runtime.errors import FoliotError, UnavailableError
from foliot.runtime.rng import Rng

from .app import doomed, flaky, handed, maybe, once, ticked, work

SCHEDULES: Final = ("chaos.first", "chaos.second")
TICK_MS: Final = 1_000
_BATCH: Final = 40
_HANDED: Final = 10
_PAUSE_S: Final = 0.2
_COMPLETED: Final = frozenset({"completed"})


@dataclass
class Book:
    """`owed`: by task id, the states in which it may end. `keys`: by dedupe key, the ids that were told. `never`: tasks that
    must not have started. `handed`: the numbers of one-way submissions that the broker confirmed. `unanswered`: requests
    without an answer, by kind and code; `odd`: refusals that do not say that it is for now only."""

    owed: dict[str, frozenset[str]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[str]] = field(default_factory=dict)
    never: set[str] = field(default_factory=set)
    handed: list[int] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    def refuse(self, kind: str, error: FoliotError) -> None:
        self.unanswered[f"{kind}: {error.code}"] += 1
        if not isinstance(error, UnavailableError):
            self.odd.append(f"{kind}: {type(error).__name__}: {error}")

    def accept(self, kind: str, task: str, states: frozenset[str] = _COMPLETED) -> None:
        self.owed[task] = states
        self.kinds[kind] += 1


class Traffic:
    """Submits until it is stopped. Whatever is refused or unanswered is noted and, but for exactly-once tasks, forgotten."""

    def __init__(self, client: Client, rng: Rng, *, rate: int) -> None:
        self._client = client
        self._rng = rng
        self._rate = rate
        self._is_over = False
        self._number = 0
        self.book = Book()

    async def run(self) -> None:
        """Submit until `stop`. Every kind has a loop of its own, so that one that waits holds up no other."""
        async with asyncio.TaskGroup() as group:
            for name in ("bulk", "once", "retries", "cancels", "one_way"):
                group.create_task(self._again(name, getattr(self, f"_{name}"), self._rng.stream(name)))

    def stop(self) -> None:
        self._is_over = True

    async def begin_schedules(self) -> None:
        for name in SCHEDULES:
            await self._client.schedules.create(
                name, ticked, every="1s", overlap="allow_all", missed="all", max_catchup=1_000
            )

    async def end_schedules(self) -> None:
        await self._client.schedules.pause(SCHEDULES)

    async def _again(self, name: str, submit: Any, rng: Rng) -> None:
        while not self._is_over:
            try:
                await submit(rng)
            except FoliotError as error:
                self.book.refuse(name, error)
                await asyncio.sleep(_PAUSE_S)

    # -- the kinds -------------------------------------------------------------------------------------------------------

    async def _bulk(self, rng: Rng) -> None:
        """Plain tasks, at-most-once ones and ones that are due later, many in one request."""
        client, specs, kinds = self._client, [], []
        for _ in range(_BATCH):
            kind = rng.below(10)
            pause_ms = rng.below(200)
            if kind == 0:
                specs.append(client.spec(maybe, pause_ms=pause_ms))
            elif kind == 1:
                specs.append(client.spec(work, pause_ms=pause_ms, delay=1 + rng.below(4_000) / 1000))
            elif kind == 2:
                specs.append(client.spec(work, pause_ms=2_000 + rng.below(3_000)))
            else:
                specs.append(client.spec(work, pause_ms=pause_ms))
            kinds.append(kind)
        result = await client.submit_many(specs, ids=True, patience=60)
        for kind, number in zip(kinds, result.ids, strict=True):
            if number:
                states = frozenset({"completed", "dead"}) if kind == 0 else _COMPLETED
                self.book.accept(("maybe", "later", "long")[kind] if kind < 3 else "plain", client.task(number).id, states)
        await asyncio.sleep(_BATCH / self._rate)

    async def _once(self, rng: Rng) -> None:
        """An exactly-once task, submitted with its key until it is acknowledged, and now and then once more after that."""
        key = f"once-{rng.bits(64):x}"
        self.book.keys[key] = set()
        for turn in range(1 + (rng.below(5) == 0)):
            while True:
                try:
                    task = await self._client.submit(once, pause_ms=rng.below(300), dedupe_key=key)
                except FoliotError as error:
                    self.book.refuse("once", error)
                    if self._is_over and turn:
                        return
                    await asyncio.sleep(_PAUSE_S)
                else:
                    break
            if task.id not in self.book.keys[key]:
                self.book.keys[key].add(task.id)
                self.book.accept("once", task.id)
        await asyncio.sleep(rng.below(100) / 1000)

    async def _retries(self, rng: Rng) -> None:
        if rng.below(5) == 0:
            task: Task[Any] = await self._client.submit(doomed)
            self.book.accept("doomed", task.id, frozenset({"dead"}))
        else:
            task = await self._client.submit(flaky, failures=1 + rng.below(3))
            self.book.accept("flaky", task.id)
        await asyncio.sleep(rng.below(400) / 1000)

    async def _cancels(self, rng: Rng) -> None:
        """Cancel a task that waits for its time, or one that runs."""
        waits = rng.below(2) == 0
        if waits:
            task = await self._client.submit(work, pause_ms=10, delay=30)
        else:
            task = await self._client.submit(work, pause_ms=3_000)
        either = frozenset({"completed", "cancelled"})
        self.book.accept("cancelled", task.id, either)
        await asyncio.sleep(rng.below(1_000) / 1000)
        said = await self._client.cancel(task, reason="chaos")
        if said == "cancelled":
            self.book.owed[task.id] = frozenset({"cancelled"})
            self.book.never |= {task.id} if waits else set()
        await asyncio.sleep(rng.below(400) / 1000)

    async def _one_way(self, rng: Rng) -> None:
        """Hand some tasks to the broker. Those it does not confirm it may have all the same, but once only."""
        numbers = range(self._number, self._number + _HANDED)
        self._number += _HANDED
        told = await asyncio.gather(
            *[self._client.submit_one_way(handed, number=number) for number in numbers], return_exceptions=True
        )
        self.book.handed += [number for number, error in zip(numbers, told, strict=True) if error is None]
        for error in told:
            if isinstance(error, FoliotError):
                self.book.refuse("one_way", error)
            elif error is not None:
                raise error
        await asyncio.sleep(rng.below(500) / 1000)
