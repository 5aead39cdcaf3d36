"""Faults as they happen: each entry of a case's list, done to the world at its time and undone at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from .case import (
    Block,
    BrokerTrouble,
    BrokerWipe,
    ClockDrift,
    ClockFreeze,
    ClockStep,
    Crash,
    CrashAt,
    FailOver,
    Fault,
    Lossy,
    Partition,
    Pause,
    RowLock,
    Slow,
    StoreTrouble,
)
from .history import ClockChanged
from .loop import MS
from .network import Quality
from .world import BROKER, DB, Points, World


class Faults:
    """The faults of one run. `done`: how many took place."""

    def __init__(self, world: World, faults: list[Fault]) -> None:
        self._world = world
        self._undo: dict[int, Callable[[], None]] = {}  # what still has to end, by number
        self._number = 0
        self._is_healed = False
        self.done = 0
        world.points = Points(world)
        for fault in faults:
            world.loop.at(fault.at_ms * MS, world.loop.system, self._begin, fault)

    def heal(self) -> None:
        """End everything that still lasts, and begin nothing more."""
        self._is_healed = True
        for number in list(self._undo):
            self._undo.pop(number)()
        world = self._world
        world.points = Points(world)  # nothing armed
        world.troubles.clear()
        if world.broker is not None:
            world.broker.heal()
        if world.database_server is not None:
            world.database_server.heal()
        world.network.heal()
        world.resume_all()
        for program in world.programs.values():
            world.start(program.name)

    def begin(self, fault: Fault) -> None:
        """Let a fault happen now, after healing as well; when it was planned for does not matter."""
        self._is_healed = False
        self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        world = self._world
        if self._is_healed:
            return
        fields: dict[str, Any] = {name: getattr(fault, name) for name in fault.__struct_fields__}
        what = str(fault.__struct_config__.tag)
        world.loop.trace.note(world.loop.now_ns, "world", 0, "fault", what=what, **fields)
        if self._do(fault):
            self.done += 1
            world.count(f"fault.{what}")

    def _until(self, for_ms: int, undo: Callable[[], None]) -> None:
        """Undo a fault after its span, or when the run heals."""
        self._number += 1
        number = self._number
        self._undo[number] = undo
        self._world.loop.at(self._world.loop.now_ns + for_ms * MS, self._world.loop.system, self._end, number)

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def _do(self, fault: Fault) -> bool:
        """Returns whether it changed anything."""
        world, network = self._world, self._world.network
        match fault:
            case Crash():
                return self._crash(fault)
            case CrashAt():
                assert world.points is not None
                world.points.arm(fault.process, fault.point, fault.nth, fault.down_ms * MS)
            case Pause():
                world.pause(fault.process, fault.for_ms * MS)
            case Slow():
                self._slow(fault)
            case Partition():
                sides = fault.sides
                pairs = [(a, b) for one in sides for other in sides if one is not other for a in one for b in other]
                self._cut(pairs, fault.for_ms)
            case Block(hold=True):
                network.hold(fault.source, fault.target)
                self._until(fault.for_ms, lambda: network.release(fault.source, fault.target))
            case Block():
                self._cut([(fault.source, fault.target)], fault.for_ms)
            case Lossy():
                quality = Quality(
                    fault.loss, fault.duplicate, fault.reorder, fault.delay_ms * MS, fault.source, fault.target
                )
                network.worsen(quality)
                self._until(fault.for_ms, lambda: network.mend(quality))
            case ClockStep():
                self._clock(fault.machine, fault.by_ms, lambda machine: machine.step(fault.by_ms * MS))
            case ClockFreeze():
                self._clock(fault.machine, 0, lambda machine: machine.freeze())
                machine = world.machines[fault.machine]
                self._until(fault.for_ms, lambda: machine.unfreeze())
            case ClockDrift():
                self._clock(fault.machine, 0, lambda machine: machine.drift(fault.ppm))
            case StoreTrouble():
                world.troubles.append(fault)
                self._until(fault.for_ms, lambda: world.troubles.remove(fault) if fault in world.troubles else None)
            case FailOver():
                if world.database_server is None:
                    return False
                world.database_server.fail_over(fault.down_ms * MS, fault.read_only_ms * MS)
            case RowLock():
                if world.database_server is None:
                    return False
                world.database_server.hold_row(fault.shard, fault.for_ms * MS)
            case BrokerTrouble():
                if world.broker is None:
                    return False
                troubles = world.broker.troubles
                troubles.append(fault)
                self._until(fault.for_ms, lambda: troubles.remove(fault) if fault in troubles else None)
            case BrokerWipe():
                if world.broker is None:
                    return False
                world.broker.wipe(fault.gone)
            case _:
                assert_never(fault)
        return True

    def _crash(self, fault: Crash) -> bool:
        world = self._world
        down_ns = fault.down_ms * MS
        if fault.process == DB:
            world.power_off(world.db.machine.name, down_ns=down_ns)
            return True
        if fault.process == BROKER:
            if world.broker is not None:
                world.broker.crash(fault.how, down_ns)
            return world.broker is not None
        if fault.how == "stop":
            return world.stop(fault.process, down_ns=down_ns)
        if fault.how == "power":
            if world.programs[fault.process].process is None:
                return False
            world.power_off(world.programs[fault.process].machine.name, down_ns=down_ns)
            return True
        return world.kill(fault.process, down_ns=down_ns)

    def _slow(self, fault: Slow) -> None:
        process = self._world.programs[fault.process].process
        if process is None:
            return
        lane, before = process.lane, process.lane.step_ns
        lane.step_ns = fault.step_us * 1_000

        def undo() -> None:
            lane.step_ns = before

        self._until(fault.for_ms, undo)

    def _cut(self, pairs: list[tuple[str, str]], for_ms: int) -> None:
        network = self._world.network
        for source, target in pairs:
            network.block(source, target)

        def undo() -> None:
            for source, target in pairs:
                network.unblock(source, target)

        self._until(for_ms, undo)

    def _clock(self, name: str, by_ms: int, change: Callable[[Any], None]) -> None:
        world = self._world
        change(world.machines[name])
        world.loop.trace.note(world.loop.now_ns, name, 0, "clock", by_ms=by_ms)
        world.observe(ClockChanged(world.loop.now_ns, name, by_ms))
