"""Calls to the database of a run: those from its own machine are answered at once, others travel back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from foliot.actors.rows import ShardChanges
from foliot.runtime.errors import StaleEpochError
from foliot.simulations.case import Options
from foliot.simulations.database import empty_database
from foliot.simulations.loop import MS
from foliot.simulations.network import LOCAL_NS, Quality
from foliot.simulations.process import Process
from foliot.simulations.store import SimStore
from foliot.simulations.trace import Trace
from foliot.simulations.world import Points, World

OPTIONS = Options(slots=1, embedded=True, commit_us=300)
COMMIT_NS = LOCAL_NS + 300_000


@pytest.fixture
def world() -> Iterator[World]:
    made = World(1, OPTIONS, Trace(), image=empty_database(1, start_ms=0))
    yield made
    made.close()


class Caller:
    """A process that claims the shard and commits `commits` times. `done`: when what was answered."""

    def __init__(self, world: World, machine: str, commits: int = 1) -> None:
        self.world = world
        self.process = Process(world, machine, 1, world.add_machine(machine))
        self.store = SimStore(self.process)
        self.done: list[tuple[str, int]] = []
        self.task = world.loop.spawn(self.process.lane, self._work(commits), name="caller")

    async def _work(self, commits: int) -> None:
        epoch = (await self.store.claim(0, "n1")).epoch
        self._note("claim")
        for _ in range(commits):
            await self._commit(epoch)
        try:
            await self._commit(epoch - 1)
        except StaleEpochError:
            self._note("refused")

    async def _commit(self, epoch: int) -> None:
        changes = ShardChanges(0, epoch)
        changes.fence = True
        await self.store.commit(changes)
        self._note("commit")

    def _note(self, what: str) -> None:
        self.done.append((what, self.world.loop.now_ns))

    def run(self, span_ms: int = 1_000) -> list[tuple[str, int]]:
        loop = self.world.loop
        future = loop.create_future()
        loop.at(loop.now_ns + span_ms * MS, loop.system, future.set_result, None)

        async def wait() -> None:
            await future

        loop.run_task(loop.spawn(loop.system, wait(), name="wait"))
        return self.done


def test_on_the_same_machine_an_answer_is_there_when_the_work_is_done(world: World) -> None:
    assert Caller(world, "n1").run() == [("claim", COMMIT_NS), ("commit", 2 * COMMIT_NS), ("refused", 3 * COMMIT_NS)]


def test_from_another_machine_an_answer_travels_back(world: World) -> None:
    [(what, at_ns), *_] = Caller(world, "far").run()

    assert what == "claim"
    assert at_ns >= 300_000 + 2 * OPTIONS.latency_us * 1_000


def test_on_a_bad_link_an_answer_travels_back_even_on_the_same_machine(world: World) -> None:
    world.network.worsen(Quality(delay_ns=5 * MS))

    [(what, at_ns), *_] = Caller(world, "n1").run()

    assert (what, at_ns) == ("claim", COMMIT_NS + LOCAL_NS + 10 * MS)


def test_a_process_that_dies_as_its_commit_becomes_durable_hears_of_nothing(world: World) -> None:
    world.points = Points(world)
    caller = Caller(world, "n1")
    program = world.add_program("n1", "n1", lambda process: caller.store.close())
    program.process = caller.process
    world.points.arm("n1", "store.commit.after", 1, -1)

    assert [what for what, _ in caller.run()] == ["claim"]
    assert world.database.commits == 1
    assert caller.process.is_dead


def test_a_process_that_stands_still_hears_of_its_commit_when_it_goes_on(world: World) -> None:
    caller = Caller(world, "n1")
    loop = world.loop
    loop.at(COMMIT_NS + 1, loop.system, loop.block, caller.process.lane)
    loop.at(100 * MS, loop.system, loop.unblock, caller.process.lane)

    assert caller.run()[:2] == [("claim", COMMIT_NS), ("commit", 100 * MS)]
    assert world.database.commits == 1
