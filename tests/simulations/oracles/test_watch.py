"""How observations reach several oracles: what they share takes each in once, before any of them looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foliot.simulations.case import Options
from foliot.simulations.database import empty_database
from foliot.simulations.history import ClockChanged, Healed, Observation, Oracle, TakenBack
from foliot.simulations.oracles.tasks import Tasks
from foliot.simulations.oracles.watch import Watch
from foliot.simulations.trace import Trace
from foliot.simulations.world import World


class CountingTasks(Tasks):
    """Says in which order things are told."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def take(self, seen: Observation) -> None:
        self.told.append("tasks")
        super().take(seen)


class Looking(Watch):
    def __init__(self, name: str, tasks: CountingTasks) -> None:
        self.name = name
        super().__init__(tasks=tasks)

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        told, name = self.tasks.told, self.name  # type: ignore[attr-defined]
        return {Healed: lambda seen: told.append(name)}


class Everything(Oracle):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def see(self, seen: Observation) -> None:
        self.told.append("everything")


def test_what_oracles_share_takes_an_observation_in_once_and_first() -> None:
    told: list[str] = []
    tasks = CountingTasks(told)
    watchers = [Looking("a", tasks), Everything(told), Looking("b", tasks)]
    world = World(1, Options(slots=1), Trace(), image=empty_database(1, start_ms=0), watchers=watchers)

    world.observe(Healed(0, 1))
    assert told == ["tasks", "a", "everything", "b"]
    told.clear()
    world.observe(ClockChanged(0, "n1", 5))  # only what they share wants to know
    assert told == ["tasks", "everything"]
    world.close()


def test_an_oracle_alone_is_told_the_same_by_see() -> None:
    told: list[str] = []
    oracle = Looking("a", CountingTasks(told))
    for seen in (Healed(0, 1), TakenBack(0, 0)):
        oracle.see(seen)
    alone, told[:] = list(told), []
    for seen in (Healed(0, 1), TakenBack(0, 0)):
        for step in oracle.steps_for(type(seen)):
            step(seen)

    assert alone == told == ["tasks", "a", "tasks"]
