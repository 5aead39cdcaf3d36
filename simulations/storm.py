"""Random faults for a while: `async with sim.faults("crash", "partition"):`, drawn from the seed.

Each fault ends by itself and what is crashed comes back, so a cluster is in trouble and never gone. Every family draws from
a stream of its own; without names the profile says which families take part.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from ..runtime.errors import UsageError
from ..sdk.durations import Span, parse_span
from .case import Block, ClockDrift, ClockStep, Crash, CrashAt, Fault, Lossy, Partition, Pause, Slow, StoreTrouble
from .controls import Controls
from .draws import Dice
from .loop import MS, Step
from .points import points_of

SHORTEST_MS: Final = 50
PROFILES: Final = ("swarm", "everything", "calm")


class UnknownFamilyError(UsageError):
    """A kind of random faults that there is not."""

    code = "unknown_family"

    def __init__(self, name: str) -> None:
        super().__init__(f"there are no random faults {name!r}, expected some of {', '.join(FAMILIES)}")
        self.name = name


class Storm:
    """Random faults. `every`: how far apart on average. `longest`: of one fault."""

    def __init__(
        self, controls: Controls, seed: int, families: tuple[str, ...], *, number: int, profile: str, every: Span,
        longest: Span,
    ) -> None:  # fmt: skip
        """Raises: UnknownFamilyError."""
        for name in families:
            if name not in FAMILIES:
                raise UnknownFamilyError(name)
        self._controls = controls
        self._world = controls.world
        self._seed = seed
        self._number = number
        self._when = self._dice("when")
        self._every_ms = max(parse_span(every, what="every"), 1)
        self._longest_ms = max(parse_span(longest, what="longest"), SHORTEST_MS)
        self._families = list(families) or self._of_profile(profile)
        self._by_family = {name: self._dice(name) for name in self._families}
        self._next: Step | None = None

    def _dice(self, name: str) -> Dice:
        return Dice(self._seed, f"storm/{self._number}/{name}")

    def _of_profile(self, profile: str) -> list[str]:
        if profile == "calm":
            return []
        coin = self._dice("families")
        return [name for name in FAMILIES if profile == "everything" or coin.chance(1, 2)]

    async def __aenter__(self) -> Storm:
        self._schedule()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:  # fmt: skip
        if self._next is not None:
            self._next.cancel()

    def _schedule(self) -> None:
        if self._families:
            loop = self._world.loop
            wait_ms = self._when.between(1, 2 * self._every_ms)
            self._next = loop.at(loop.now_ns + wait_ms * MS, loop.system, self._strike)

    def _strike(self) -> None:
        name = self._when.pick(self._families)
        fault = FAMILIES[name](self, self._by_family[name])
        if fault is not None:
            self._controls.begin(fault)
        self._schedule()

    # -- what one fault needs --------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._world.loop.now_ns // MS

    def span_ms(self, dice: Dice) -> int:
        return dice.log_between(SHORTEST_MS, self._longest_ms)

    def program(self, dice: Dice) -> str:
        return dice.pick(list(self._world.programs))

    def machine(self, dice: Dice) -> str:
        return dice.pick([name for name in self._world.machines if name != "test"])

    def sides(self, dice: Dice) -> list[list[str]] | None:
        """Return two sides that are both somebody."""
        names = dice.shuffled(list(self._world.machines))
        if len(names) < 2:
            return None
        cut = dice.between(1, len(names) - 1)
        return [names[:cut], names[cut:]]

    def crash_at(self, dice: Dice) -> CrashAt:
        name = self.program(dice)
        point = dice.pick(points_of(name, embedded=self._world.options.embedded))
        return CrashAt(self.now_ms(), name, point, dice.between(1, 5), self.span_ms(dice))

    def block(self, dice: Dice) -> Block | None:
        sides = self.sides(dice)
        return None if sides is None else Block(self.now_ms(), sides[0][0], sides[1][0], self.span_ms(dice))

    def partition(self, dice: Dice) -> Partition | None:
        sides = self.sides(dice)
        return None if sides is None else Partition(self.now_ms(), sides, self.span_ms(dice))


FAMILIES: Final[dict[str, Callable[[Storm, Dice], Fault | None]]] = {
    "crash": lambda storm, dice: Crash(storm.now_ms(), storm.program(dice), "kill", storm.span_ms(dice)),
    "power": lambda storm, dice: Crash(storm.now_ms(), storm.program(dice), "power", storm.span_ms(dice)),
    "restart": lambda storm, dice: Crash(storm.now_ms(), storm.program(dice), "stop", storm.span_ms(dice)),
    "crash_point": lambda storm, dice: storm.crash_at(dice),
    "pause": lambda storm, dice: Pause(storm.now_ms(), storm.program(dice), storm.span_ms(dice)),
    "slow": lambda storm, dice: Slow(
        storm.now_ms(), storm.program(dice), dice.log_between(100, 2_000), storm.span_ms(dice)
    ),
    "partition": lambda storm, dice: storm.partition(dice),
    "block": lambda storm, dice: storm.block(dice),
    "loss": lambda storm, dice: Lossy(storm.now_ms(), storm.span_ms(dice), loss=dice.between(10, 300)),
    "duplicate": lambda storm, dice: Lossy(storm.now_ms(), storm.span_ms(dice), duplicate=dice.between(10, 500)),
    "reorder": lambda storm, dice: Lossy(storm.now_ms(), storm.span_ms(dice), reorder=dice.between(10, 500)),
    "delay": lambda storm, dice: Lossy(storm.now_ms(), storm.span_ms(dice), delay_ms=dice.log_between(10, 2_000)),
    "skew": lambda storm, dice: ClockStep(storm.now_ms(), storm.machine(dice), dice.between(-2_000, 2_000)),
    "drift": lambda storm, dice: ClockDrift(storm.now_ms(), storm.machine(dice), dice.between(-200, 200)),
    "database": lambda storm, dice: StoreTrouble(
        storm.now_ms(), storm.span_ms(dice), dice.between(0, 200), dice.between(0, 100), dice.between(0, 50)
    ),
}  # fmt: skip
