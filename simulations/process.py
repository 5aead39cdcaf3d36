"""A simulated process: one life of a program on a machine.

Everything it does to the outside goes through its ports; once it is dead they do nothing, so the rest of the step in
which it was killed leaves no trace. A program that starts again is another process with the next boot number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..runtime.rng import Rng
from .loop import SimTask
from .machine import Machine, SimClock, lane_on

if TYPE_CHECKING:
    from ..runtime.node import Node
    from ..sdk.worker import Worker
    from .bus import SimBus
    from .network import Pair
    from .world import World


class Process:
    """`name`: of the program; `boot`: how often it has been started, from 1."""

    def __init__(self, world: World, name: str, boot: int, machine: Machine) -> None:
        self.world = world
        self.name = name
        self.boot = boot
        self.label = f"{name}#{boot}"
        self.machine = machine
        self.lane = lane_on(machine, name)
        self.clock = SimClock(machine, world.loop)
        self.rng: Rng = world.rng.stream(f"{name}/{boot}")
        self.is_dead = False
        self.is_leaving = False
        self.asked_to_leave = asyncio.Event()
        self.pauses = 0
        self.bus: SimBus | None = None
        self.main: SimTask[None] | None = None
        self.stop: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Ends the program in order; set by the program once it is up."""
        self.node: Node | None = None
        self.workers: list[Worker] = []
        self.janitor: Callable[[int], Coroutine[Any, Any, None]] | None = None
        """Deletes what ended longer ago than that many milliseconds."""
        self.pairs: dict[str, Pair] = {}
        """By receiver: the network's own memory."""
        self.on_death: list[Callable[[], None]] = []
        world.loop.add_lane(self.lane)

    def note(self, kind: str, **fields: Any) -> int:
        """Add an event to the trace."""
        loop = self.world.loop
        return loop.trace.add(loop.now_ns, self.name, self.boot, kind, fields)

    def point(self, name: str) -> bool:
        """Pass a point at which the process may be killed. Returns whether it still lives."""
        if self.is_dead:
            return False
        if self.world.points is not None:
            self.world.points.passed(self, name)
        return not self.is_dead
