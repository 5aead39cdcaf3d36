"""The simulated world: machines, programs that run on them, the network between them, one database, and what befalls them.

It knows nothing of what the programs do. What holds: everything that happens is caused by the case and its seed; observers
see it in order and change nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..runtime.rng import Rng
from .case import Options, StoreTrouble
from .database import Database
from .history import LeftBehind, Observation, Oracle, ProcessChanged, TakenBack, Trouble
from .loop import MS, NS, Lane, SimLoop
from .machine import Machine
from .network import Network
from .process import Process
from .trace import Trace

if TYPE_CHECKING:
    from .database_server import DatabaseServer
    from .jetstream_server import JetStreamServer

Main = Callable[[Process], Awaitable[None]]
_UNREACHABLE_NS: Final = 500 * MS  # until a connection that leads nowhere is given up
_RESTART_NS: Final = NS  # a program that ended by a failure is started again after this
_STOP_GRACE_NS: Final = 60 * NS
DB: Final = "db"
BROKER: Final = "broker"


@dataclass
class Program:
    """Something that can be started on a machine, again and again."""

    name: str
    machine: Machine
    main: Main
    boots: int = 0
    process: Process | None = None
    wanted: bool = True  # whether a failure or an outage is followed by a start


class World:
    """One run's world. `watchers`: oracles, told of everything."""

    def __init__(
        self, seed: int, options: Options, trace: Trace, *, image: bytes, watchers: Sequence[Oracle] = (),
        loop: SimLoop | None = None, database_on: str = "",
    ) -> None:  # fmt: skip
        """`loop`: one that runs already. `database_on`: the machine of the database, where it is not the usual one."""
        self.rng = Rng(seed)
        self.options = options
        self.loop = loop or SimLoop(self.rng, trace, schedule=options.schedule)
        self.loop.on_error = self._step_failed
        self.network = Network(
            self.loop, self.rng, latency_ns=options.latency_us * 1_000, jitter_ns=options.jitter_us * 1_000,
            slots=options.slots,
        )  # fmt: skip
        self.database = Database(
            image, is_lazy=options.synchronous != "full", reverse_selects=options.reverse_selects
        )  # fmt: skip
        self.machines: dict[str, Machine] = {}
        self.programs: dict[str, Program] = {}
        self.points: Points | None = None
        self.broker: JetStreamServer | None = None
        self.database_server: DatabaseServer | None = None
        self.troubles: list[StoreTrouble] = []
        self.figures: dict[str, int] = {}
        self.tenants: dict[str, str] = {}
        """Whose tasks a name of the work means."""

        self.is_over = False
        self._watchers = list(watchers)
        self._watching: dict[type[Observation], list[Callable[[Any], None]]] = {}
        self._store_bits: dict[str, Callable[[int], int]] = {}
        self._db_down = 0
        db = self.add_machine(database_on or ("n1" if options.embedded else DB))
        self.db = Process(self, DB, 1, db)

    # -- observing ---------------------------------------------------------------------------------------------------

    def observe(self, seen: Observation) -> None:
        """Tell the watchers that want to know."""
        steps = self._watching.get(type(seen))
        if steps is None:
            kind = type(seen)
            all_steps = [step for watcher in self._watchers for step in watcher.steps_for(kind)]
            steps = self._watching[kind] = list(dict.fromkeys(all_steps))
        for step in steps:
            step(seen)

    def count(self, name: str, by: int = 1) -> None:
        """Count something that a run can reach."""
        self.figures[name] = self.figures.get(name, 0) + by

    def trouble(self, process: str, what: str, text: str) -> None:
        """Something happened that nobody handled."""
        self.loop.trace.note(self.loop.now_ns, process, 0, "trouble", what=what)
        self.observe(Trouble(self.loop.now_ns, process, what, text))

    def _step_failed(self, lane: Lane, what: str, text: str) -> None:
        if lane is self.loop.system:
            raise AssertionError(f"the simulation itself failed: {what}: {text}")
        self.trouble(lane.name, what, text)

    # -- machines and programs ---------------------------------------------------------------------------------------

    def add_machine(self, name: str) -> Machine:
        """Return the machine of that name, made at first with clocks of its own."""
        machine = self.machines.get(name)
        if machine is None:
            options, rng = self.options, self.rng.stream(f"machine/{name}")
            skew_ms = rng.below(2 * options.skew_ms + 1) - options.skew_ms
            ppm = rng.below(2 * options.drift_ppm + 1) - options.drift_ppm
            wall_ns = (options.start_ms + skew_ms) * MS + self.loop.now_ns
            machine = self.machines[name] = Machine(
                name, self.loop, wall_ns=wall_ns, mono_ns=rng.below(100_000) * NS, ppm=ppm
            )
        return machine

    def add_program(self, name: str, machine: str, main: Main) -> Program:
        program = self.programs[name] = Program(name, self.add_machine(machine), main)
        return program

    def start(self, name: str) -> None:
        """Start a program that does not run."""
        program = self.programs[name]
        program.wanted = True
        if program.process is not None or self.is_over:
            return
        program.boots += 1
        process = program.process = Process(self, name, program.boots, program.machine)
        process.lane.step_ns = self.options.step_us * 1_000
        process.note("start")
        self.observe(ProcessChanged(self.loop.now_ns, name, process.boot, "started"))
        process.main = self.loop.spawn(process.lane, self._live(program, process), name=name)

    async def _live(self, program: Program, process: Process) -> None:
        try:
            await program.main(process)
        except Exception as error:
            if process.is_dead:
                return
            self.trouble(process.name, type(error).__name__, f"{program.name} ended: {error!r}")
            self._end(program, "killed", "kill")
            self.loop.at(self.loop.now_ns + _RESTART_NS, self.loop.system, self._start_if_wanted, program.name)
        else:
            if not process.is_leaving:
                self.trouble(process.name, "Ended", f"{program.name} ended without being asked to")
            self.loop.post(self.loop.system, self._left, program, process)

    def _left(self, program: Program, process: Process) -> None:
        """A process has ended by itself: see what it left."""
        if process.is_dead:
            return
        left = [
            ("task", task.get_name()) for task in process.lane.tasks
            if not task.done() and task.get_name() not in ("stop", "stubborn", "purge")
        ]  # fmt: skip
        if process.bus is not None:
            left += [("binding", address) for address in process.bus.left]
        self._end(program, "stopped", "stop")
        for what, name in left:
            self.observe(LeftBehind(self.loop.now_ns, process.name, what, name))

    def _start_if_wanted(self, name: str) -> None:
        program = self.programs[name]
        if program.wanted and not self.is_over:
            self.start(name)

    def kill(self, name: str, *, how: str = "killed", down_ns: int = -1) -> bool:
        """End a process within its step: nothing of it has any effect from now on. Returns whether there was one."""
        program = self.programs[name]
        if program.process is None:
            return False
        self._end(program, how, "power" if how == "powered_off" else "kill")
        self._start_later(program, down_ns)
        return True

    def _end(self, program: Program, what: str, kind: str) -> None:
        process = program.process
        assert process is not None
        process.note(kind)
        process.is_dead = True
        program.process = None
        self.network.forget(process)
        self.loop.kill(process.lane)
        self.observe(ProcessChanged(self.loop.now_ns, program.name, process.boot, what))
        for callback in process.on_death:
            callback()

    def _start_later(self, program: Program, down_ns: int) -> None:
        if down_ns < 0:
            program.wanted = False
        else:
            self.loop.at(self.loop.now_ns + down_ns, self.loop.system, self._start_if_wanted, program.name)

    def power_off(self, machine: str, *, down_ns: int) -> None:
        """Let a machine lose its power: its processes, its clock's reading since boot, what its disk had not written."""
        for program in list(self.programs.values()):
            if program.machine.name == machine:
                self.kill(program.name, how="powered_off", down_ns=down_ns)
        if self.db.machine.name == machine:
            self._lose_database(down_ns)

    def _lose_database(self, down_ns: int) -> None:
        taken = self.database.lose_power(self.rng.stream(f"power/{self.loop.now_ns}").bits(32))
        self.loop.trace.note(self.loop.now_ns, DB, 1, "power", taken=taken)
        if taken:
            self.observe(TakenBack(self.loop.now_ns, taken))
        if self.database_server is not None:
            self.database_server.fail_over(max(down_ns, MS), 0)
        self._db_down += 1
        self.loop.at(self.loop.now_ns + max(down_ns, MS), self.loop.system, self._database_back)

    def _database_back(self) -> None:
        self._db_down -= 1

    def stop(self, name: str, *, down_ns: int = -1) -> bool:
        """Ask a process to leave in order; it is killed if it has not within a minute. Returns whether there was one."""
        program = self.programs[name]
        process = program.process
        if process is None or process.is_leaving:
            return False
        process.is_leaving = True
        process.asked_to_leave.set()
        process.note("stop_asked")
        if process.stop is None:  # not up yet
            return self.kill(name, down_ns=down_ns)
        process.on_death.append(lambda: self._start_later(program, down_ns))
        self.loop.spawn(process.lane, process.stop(), name="stop")
        self.loop.at(self.loop.now_ns + _STOP_GRACE_NS, self.loop.system, self._stop_is_late, program, process)
        return True

    def _stop_is_late(self, program: Program, process: Process) -> None:
        if program.process is process:
            self.count("stop_killed")
            self._end(program, "killed", "kill")

    def pause(self, name: str, for_ns: int) -> None:
        """Let a process stand still for a while."""
        process = self.programs[name].process
        if process is None:
            return
        process.note("pause")
        self.observe(ProcessChanged(self.loop.now_ns, name, process.boot, "paused"))
        process.pauses += 1
        self.loop.block(process.lane)
        self.loop.at(self.loop.now_ns + for_ns, self.loop.system, self._resume, process)

    def _resume(self, process: Process) -> None:
        if process.pauses and not process.is_dead:
            process.pauses -= 1
            process.note("resume")
            self.observe(ProcessChanged(self.loop.now_ns, process.name, process.boot, "resumed"))
            self.loop.unblock(process.lane)

    def resume_all(self) -> None:
        for program in self.programs.values():
            while program.process is not None and program.process.pauses:
                self._resume(program.process)

    def running(self, prefix: str = "") -> list[Process]:
        """Return the live processes whose names begin so, in the order of the programs."""
        found = [program.process for name, program in self.programs.items() if name.startswith(prefix)]
        return [process for process in found if process is not None]

    # -- the way to the database -------------------------------------------------------------------------------------

    def store_trouble(self, process: Process, what: str) -> str:
        """Return what befalls a call: nothing, refused, unknown_done, unknown_undone."""
        for trouble in self.troubles:
            bits = self._store_bits.get(process.name)
            if bits is None:
                bits = self._store_bits[process.name] = self.rng.stream(f"store/{process.name}").bits
            draw = bits(32)
            if draw % 1000 < trouble.refused:
                self.count("store_refused")
                return "refused"
            if what == "commit" and (draw >> 10) % 1000 < trouble.unknown:
                self.count("store_unknown")
                return "unknown_done" if draw >> 31 else "unknown_undone"
        return ""

    def answer_later(self, process: Process, callback: Callable[..., None], *args: Any) -> None:
        """Run a callback in the process's lane a little later."""
        self.loop.at(self.loop.now_ns + MS, process.lane, callback, *args)

    def reach_database(self, process: Process, arrive: Callable[[], None], unreachable: Callable[[], None]) -> None:
        """Bring a call to the database: `arrive` runs there, or `unreachable` in the process after a while."""
        slow_ns = self.options.commit_us * 1_000
        if self.troubles:
            slow_ns += sum(trouble.slow_ms for trouble in self.troubles) * MS
        if self._db_down or not self.network.stream(
            process, self.db, slow_ns, self._at_database, process, arrive, unreachable
        ):  # fmt: skip
            self.loop.at(self.loop.now_ns + _UNREACHABLE_NS, process.lane, unreachable)

    def _at_database(self, process: Process, arrive: Callable[[], None], unreachable: Callable[[], None]) -> None:
        if self._db_down:
            self.loop.at(self.loop.now_ns + _UNREACHABLE_NS, process.lane, unreachable)
        elif process.is_dead and self.rng.stream(f"orphan/{process.label}/{self.loop.now_ns}").bits(1):
            self.count("orphan_call_dropped")
        else:
            arrive()

    def return_from_database(self, process: Process, deliver: Callable[[], None], lost: Callable[[], None]) -> None:
        """Bring an answer back; on the same machine it is there at once."""
        if process.is_dead:
            return
        if self.network.is_at_hand(self.db, process):
            self.loop.call_in(process.lane, deliver)
        elif not self.network.stream(self.db, process, 0, deliver):
            self.loop.at(self.loop.now_ns + _UNREACHABLE_NS, process.lane, lost)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything; nothing of it is observed."""
        self.is_over = True
        for program in self.programs.values():
            if program.process is not None:
                program.process.is_dead = True
        self._watchers.clear()
        self._watching.clear()
        self.loop.tear_down()
        self.database.close()


class Points:
    """Named points at which processes may be killed: where something has become durable, visible, or is about to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._armed: list[_Armed] = []
        self.total: dict[str, int] = {}
        """By process: points passed so far."""
        self._figures: dict[str, str] = {}  # by point: what its passings are counted as

    def arm(self, process: str, point: str, nth: int, down_ns: int) -> None:
        """Kill the process at its nth passing from now on. `point`: empty for any."""
        self._armed.append(_Armed(process, point, nth, down_ns))

    def passed(self, process: Process, name: str) -> None:
        """A process passes a point."""
        figure = self._figures.get(name)
        if figure is None:
            figure = self._figures[name] = f"point.{name}"
        figures = self._world.figures
        figures[figure] = figures.get(figure, 0) + 1
        self.total[process.name] = self.total.get(process.name, 0) + 1
        for armed in self._armed:
            if armed.process == process.name and armed.point in ("", name):
                armed.left -= 1
                if armed.left <= 0:
                    self._armed.remove(armed)
                    process.note("point", name=name)
                    self._world.count(f"crash_at.{name}")
                    self._world.kill(process.name, down_ns=armed.down_ns)
                    return


@dataclass
class _Armed:
    process: str
    point: str
    left: int
    down_ns: int
