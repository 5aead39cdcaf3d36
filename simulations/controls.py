"""What a test does to its cluster: crashes, pauses, clocks, links, and crashes at named points.

Every fault is one of `simulations.case`, so it is told in words and traced as those of campaigns are. A fault without a span
lasts until the test heals the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from ..runtime.errors import UsageError
from ..sdk.durations import Span, parse_span
from .case import Block, ClockDrift, ClockFreeze, ClockStep, Crash, Fault, Lossy, Partition, Pause, Slow, StoreTrouble
from .faults import Faults
from .loop import MS
from .outside import InvalidChanceError
from .points import NAMES
from .process import Process
from .words import fault_words
from .words import span as span_words
from .world import DB, Points, World

FOREVER_MS: Final = 100 * 366 * 86_400_000
_STEP_MAX_MS: Final = 10_000
CrashKind = Literal["process", "power", "graceful"]
_HOW: Final = {"process": "kill", "power": "power", "graceful": "stop"}


class UnknownNodeError(UsageError):
    """No process or machine of that name."""

    code = "unknown_node"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no {name!r} in this cluster, expected one of {', '.join(known)}")
        self.name = name


class UnknownPointError(UsageError):
    """No point of that name."""

    code = "unknown_point"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no point {name!r}, expected one of {', '.join(NAMES)}")
        self.name = name


class UnknownKindError(UsageError):
    """A way to crash that there is not."""

    code = "unknown_kind"

    def __init__(self, kind: str) -> None:
        super().__init__(f"crash kind {kind!r} is unknown, expected one of {', '.join(_HOW)}")
        self.kind = kind


class Controls:
    """The faults of one test. `told`: called with (instant, words) for each."""

    def __init__(self, world: World, told: Callable[[int, str], None]) -> None:
        self.world = world
        self.done: list[Fault] = []
        self.on_fault: Callable[[], None] = lambda: None
        self._told = told
        self._faults = Faults(world, [])
        self.marks = Marks(world, told)
        world.points = self.marks

    @property
    def now_ms(self) -> int:
        return self.world.loop.now_ns // MS

    def begin(self, fault: Fault) -> None:
        """Let a fault happen now."""
        words = fault_words(fault).replace(f" for {span_words(FOREVER_MS)}", " until the test heals it")
        self.tell(words.replace(", back when the run heals", ""))
        self.done.append(fault)
        self.on_fault()
        self._faults.begin(fault)

    def tell(self, words: str) -> None:
        self._told(self.world.loop.now_ns, words)

    def heal(self) -> None:
        """End all that lasts, and start what is down."""
        self._faults.heal()
        self.marks = Marks(self.world, self._told)
        self.world.points = self.marks
        self.tell("everything is healed")

    def node(self, name: str) -> NodeControl:
        """Raises: UnknownNodeError."""
        if name not in self.world.programs and name != DB:
            raise UnknownNodeError(name, [*self.world.programs, DB])
        return NodeControl(self, name)

    def machine(self, name: str) -> str:
        """Return the machine that a name means. Raises: UnknownNodeError."""
        if name == DB:
            return self.world.db.machine.name
        if name not in self.world.machines:
            raise UnknownNodeError(name, [*self.world.machines, DB])
        return name

    # -- the network ---------------------------------------------------------------------------------------------------

    def partition(self, sides: Sequence[Sequence[str] | str], span: Span | None) -> None:
        names = [[self.machine(name) for name in ([side] if isinstance(side, str) else side)] for side in sides]
        if len(names) == 1:
            names.append([name for name in self.world.machines if name not in names[0]])
        self.begin(Partition(self.now_ms, [list(dict.fromkeys(side)) for side in names], span_ms(span)))

    def block(self, source: str, target: str, span: Span | None, *, hold: bool) -> None:
        self.begin(Block(self.now_ms, self.machine(source), self.machine(target), span_ms(span), hold=hold))

    def link(
        self, source: str, target: str, *, loss: float, duplicate: float, reorder: float, latency: Span, span: Span | None
    ) -> None:
        """Make links bad. Empty names mean all."""
        ends = [self.machine(name) if name else "" for name in (source, target)]
        delay_ms = parse_span(latency, what="latency")
        self.begin(
            Lossy(
                self.now_ms, span_ms(span), per_mille("loss", loss), per_mille("duplicate", duplicate),
                per_mille("reorder", reorder), delay_ms, *ends,
            )
        )  # fmt: skip

    def database(self, *, refused: float, unknown: float, slow: Span, span: Span | None) -> None:
        slow_ms = parse_span(slow, what="slow")
        self.begin(
            StoreTrouble(
                self.now_ms, span_ms(span), per_mille("refused", refused), per_mille("unknown", unknown), slow_ms
            )
        )


class NodeControl:
    """One process, or the database, and what can be done to it."""

    def __init__(self, controls: Controls, name: str) -> None:
        self._controls = controls
        self.name = name

    @property
    def is_up(self) -> bool:
        program = self._controls.world.programs.get(self.name)
        return program is None or program.process is not None

    @property
    def clock(self) -> ClockControl:
        """The clocks of its machine."""
        return ClockControl(self._controls, self._controls.machine(self.name))

    def crash(self, kind: CrashKind = "process", *, down: Span | None = None) -> None:
        """End it: `process` as `kill -9` does, `power` with its whole machine, `graceful` as SIGTERM does. It comes back
        after `down`, else when it is restarted or the test heals everything. Raises: UnknownKindError."""
        if kind not in _HOW:
            raise UnknownKindError(kind)
        down_ms = -1 if down is None else parse_span(down, what="down")
        self._controls.begin(Crash(self._controls.now_ms, self.name, _HOW[kind], down_ms))

    def restart(self) -> None:
        """Start it again, if it does not run."""
        if self.name != DB and not self.is_up:
            self._controls.tell(f"{self.name} is started")
            self._controls.world.start(self.name)

    def pause(self, span: Span) -> None:
        """Let it stand still for so long, as a virtual machine that is moved does."""
        self._controls.begin(Pause(self._controls.now_ms, self.name, parse_span(span, what="span")))

    def slow(self, step: Span = "5ms", span: Span | None = None) -> None:
        """Let each of its steps take so long."""
        step_ms = min(parse_span(step, what="step"), _STEP_MAX_MS)
        self._controls.begin(Slow(self._controls.now_ms, self.name, step_ms * 1_000, span_ms(span)))

    def __repr__(self) -> str:
        return f"<{self.name}, {'up' if self.is_up else 'down'}>"


class ClockControl:
    """The clocks of a machine."""

    def __init__(self, controls: Controls, machine: str) -> None:
        self._controls = controls
        self._machine = machine

    def jump(self, by: Span) -> None:
        """Set the wall clock: `"5m"` forward, `"-5m"` back."""
        back = isinstance(by, str) and by.startswith("-")
        if isinstance(by, str):
            by_ms = parse_span(by.lstrip("+-"), what="by") * (-1 if back else 1)
        else:
            seconds = by if isinstance(by, int | float) else by.total_seconds()
            by_ms = parse_span(abs(seconds), what="by") * (-1 if seconds < 0 else 1)
        self._controls.begin(ClockStep(self._controls.now_ms, self._machine, by_ms))

    def drift(self, ppm: int) -> None:
        """Let both clocks run fast, or slow, by so many parts per million."""
        self._controls.begin(ClockDrift(self._controls.now_ms, self._machine, ppm))

    def freeze(self, span: Span) -> None:
        """Let the wall clock stand still for so long."""
        self._controls.begin(ClockFreeze(self._controls.now_ms, self._machine, parse_span(span, what="span")))


class Mark:
    """A named point, armed: what happens when a process passes it."""

    def __init__(self, marks: Marks, point: str, node: str) -> None:
        self._marks = marks
        self._node = node
        self._nth = 1
        self._times = 1
        self.point = point
        self.passed = 0
        """How often it was passed since it was armed."""
        self.hits = 0
        self._what: Callable[[Process], str] | None = None

    def nth(self, number: int) -> Mark:
        """Wait for the nth passing."""
        self._nth = number
        return self

    def times(self, number: int) -> Mark:
        """Do it so many times, at passings that follow each other."""
        self._times = number
        return self

    def crash(self, *, down: Span | None = "1s") -> Mark:
        """Kill the process there; it comes back after `down`."""
        down_ns = -1 if down is None else parse_span(down, what="down") * MS

        def crash(process: Process) -> str:
            process.world.kill(process.name, down_ns=down_ns)
            return f"{process.name} is killed at {self.point}"

        self._what = crash
        return self

    def pause(self, span: Span) -> Mark:
        """Let the process stand still once it has passed."""
        span_ns = parse_span(span, what="span") * MS

        def pause(process: Process) -> str:
            process.world.pause(process.name, span_ns)
            return f"{process.name} stands still for {span_words(span_ns / MS)} after {self.point}"

        self._what = pause
        return self

    def pass_by(self, process: Process, name: str) -> str:
        """Returns: what was done, in words."""
        if self._what is None or name != self.point or self._node not in ("", process.name):
            return ""
        self.passed += 1
        if self.passed < self._nth or self.hits >= self._times:
            return ""
        self.hits += 1
        process.note("point", name=name)
        return self._what(process)


class Marks(Points):
    """The points of a test, beside those that plain faults arm."""

    def __init__(self, world: World, told: Callable[[int, str], None]) -> None:
        super().__init__(world)
        self._told = told
        self._marks: list[Mark] = []

    def add(self, point: str, node: str) -> Mark:
        """Raises: UnknownPointError."""
        if point not in NAMES:
            raise UnknownPointError(point)
        mark = Mark(self, point, node)
        self._marks.append(mark)
        return mark

    def passed(self, process: Process, name: str) -> None:
        for mark in self._marks:
            if process.is_dead:
                return
            words = mark.pass_by(process, name)
            if words:
                process.world.count(f"mark.{name}")
                self._told(process.world.loop.now_ns, words)
        if not process.is_dead:
            super().passed(process, name)


def span_ms(span: Span | None) -> int:
    return FOREVER_MS if span is None else parse_span(span, what="span")


def per_mille(what: str, chance: float) -> int:
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
        raise InvalidChanceError(what, chance)
    return round(chance * 1_000)
