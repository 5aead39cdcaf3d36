"""The faults of a generated case.

Each family has one maker, which draws from a stream of its own. What holds: everything ends within the run, and what is
crashed comes back; spans are drawn by octave, so that a hiccup comes as often as an outage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

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
    Options,
    Partition,
    Pause,
    RowLock,
    Slow,
    StoreTrouble,
)
from .draws import Dice
from .plan_options import FARTHEST_MS
from .points import points_of

SHORTEST_MS: Final = 50
LONGEST_DOWN_MS: Final = 15_000
_FAR_MS: Final = (10_000, 60_000, 600_000, 3_600_000, FARTHEST_MS)
_NEAR_MS: Final = 2_000  # so close to a crowded moment faults are drawn
_MOST_BUSY: Final = 75  # per cent of the run in which there is work


class FaultMaker:
    """Draws faults for one case. `hostile`: wall clocks may be set hours off."""

    def __init__(self, seed: int, options: Options, *, longest_ms: int, hostile: bool) -> None:
        self._seed = seed
        self._options = options
        self._longest_ms = min(longest_ms, options.duration_ms // 2)
        self._hostile = hostile
        self._embedded = options.embedded
        self._nodes = [f"n{number}" for number in range(1, options.nodes + 1)]
        self._workers = [] if options.embedded else [f"w{number}" for number in range(1, options.workers + 1)]
        self._machines = self._nodes if options.embedded else [*self._nodes, *self._workers, "client", "db"]
        self._clocks = [name for name in self._machines if name != "db"]  # the store reads no clock of its own
        if options.broker:
            self._machines.append("broker")  # whose clock nobody sets, see `jetstream_server`
        moments = Dice(seed, "faults/moments")
        busy_ms = options.duration_ms * _MOST_BUSY // 100
        self._crowded = [moments.below(busy_ms) for _ in range(moments.pick((0, 1, 1, 2, 3)))]
        self._dice: dict[str, Dice] = {}

    def make(self, families: Sequence[str], total: int) -> list[Fault]:
        """Return about so many faults of these families, each family with a rate of its own, in order of time."""
        if not families:
            return []
        rates = Dice(self._seed, "faults/rates")
        weights = [rates.log_between(1, 31) for _ in families]
        faults: list[Fault] = []
        for _ in range(total):
            family = rates.weighted(families, weights)
            faults += self._one(family)
        faults.sort(key=lambda fault: fault.at_ms)
        return _from_goals(faults) if self._hostile else faults

    def _one(self, family: str) -> Sequence[Fault]:
        makers: dict[str, Callable[[Dice], Sequence[Fault]]] = {
            "kill": lambda dice: self._crash(dice, "kill"), "power": lambda dice: self._crash(dice, "power"),
            "stop": lambda dice: self._crash(dice, "stop"), "crash_at": self._crash_at, "pause": self._pause,
            "slow": self._slow, "partition": self._partition, "block": self._block, "lossy": self._lossy,
            "clock_step": self._clock_step, "clock_freeze": self._clock_freeze, "clock_drift": self._clock_drift,
            "store": self._store, "db_power": self._db_power, "broker": self._broker, "broker_crash": self._broker_crash,
            "fail_over": self._fail_over, "row_lock": self._row_lock,
            "broker_wipe": self._broker_wipe, "broker_cut": self._broker_cut,
        }  # fmt: skip
        dice = self._dice.get(family)
        if dice is None:
            dice = self._dice[family] = Dice(self._seed, f"faults/{family}")
        return makers[family](dice)

    # -- when, how long, who -----------------------------------------------------------------------------------------------

    def _moment(self, dice: Dice, for_ms: int) -> int:
        """Return when something begins that takes so long; a third of all faults come close together."""
        last_ms = max(self._options.duration_ms - for_ms, 0)
        if self._crowded and dice.chance(1, 3):
            return min(dice.pick(self._crowded) + dice.below(_NEAR_MS), last_ms)
        return dice.below(last_ms + 1)

    def _span(self, dice: Dice, longest_ms: int = 0) -> tuple[int, int]:
        """Return (at_ms, for_ms)."""
        for_ms = dice.log_between(SHORTEST_MS, min(longest_ms or self._longest_ms, self._longest_ms))
        return self._moment(dice, for_ms), for_ms

    def _process(self, dice: Dice) -> str:
        """Return a node in most cases, else a worker."""
        return dice.pick(self._workers) if self._workers and dice.chance(2, 5) else dice.pick(self._nodes)

    # -- processes ---------------------------------------------------------------------------------------------------------

    def _crash(self, dice: Dice, how: str) -> list[Fault]:
        at_ms, down_ms = self._span(dice, LONGEST_DOWN_MS)
        if dice.chance(1, 12) and not self._embedded:  # all nodes at once: nothing but the store is left
            return [Crash(at_ms, name, how, max(down_ms - 7 * place, SHORTEST_MS)) for place, name in enumerate(self._nodes)]
        return [Crash(at_ms, self._process(dice), how, down_ms)]

    def _crash_at(self, dice: Dice) -> list[Fault]:
        process = self._process(dice)
        names = points_of(process, embedded=self._embedded)
        point = "" if dice.chance(1, 4) else dice.pick(names)
        rare = point.startswith(("store.claim", "handler", "effect"))
        nth = dice.log_between(1, 8 if rare else 127)
        down_ms = dice.log_between(SHORTEST_MS, min(LONGEST_DOWN_MS, self._longest_ms))
        busy_ms = self._options.duration_ms * _MOST_BUSY // 100
        at_ms = min(self._moment(dice, down_ms), max(busy_ms - down_ms, 0))
        if point.startswith("store.claim") and dice.chance(1, 2):
            at_ms = 0  # the first claims come as the cluster starts
        return [CrashAt(at_ms, process, point, nth, down_ms)]

    def _pause(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        return [Pause(at_ms, self._process(dice), for_ms)]

    def _slow(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice, 10_000)
        return [Slow(at_ms, self._process(dice), dice.log_between(10, 2_000), for_ms)]

    # -- links -------------------------------------------------------------------------------------------------------------

    def _partition(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        return [Partition(at_ms, self._sides(dice), for_ms)]

    def _sides(self, dice: Dice) -> list[list[str]]:
        nodes, workers = self._nodes, self._workers
        everybody = [*nodes, *workers]
        match dice.below(7 if len(nodes) > 1 else 5):
            case 0:  # one machine is alone
                alone = dice.pick(everybody)
                return [[alone], [name for name in self._machines if name != alone]]
            case 1:  # two halves, the store in one of them
                names = dice.shuffled(self._machines)
                cut = dice.between(1, len(names) - 1)
                return [names[:cut], names[cut:]]
            case 2:  # the client is cut off
                return [["client"], list(nodes)]
            case 3:  # a node cannot reach the store
                return [[dice.pick(nodes)], ["db"]]
            case 4:  # workers cannot reach the nodes
                some = dice.shuffled(workers)[: dice.between(1, len(workers))]
                return [some, list(nodes)]
            case 5:  # the nodes see each other no more, but all of them the store
                names = dice.shuffled(nodes)
                cut = dice.between(1, len(names) - 1)
                return [names[:cut], names[cut:]]
            case _:  # a node sees none of its peers, all else works
                one = dice.pick(nodes)
                return [[one], [name for name in nodes if name != one]]

    def _block(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        source = dice.pick(self._machines)
        target = dice.pick([name for name in self._machines if name != source])
        return [Block(at_ms, source, target, for_ms, hold=dice.chance(1, 2))]

    def _lossy(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        source = dice.pick(self._machines) if dice.chance(1, 4) else ""
        return [
            Lossy(
                at_ms, for_ms, loss=_some(dice, 300), duplicate=_some(dice, 300), reorder=_some(dice, 300),
                delay_ms=_some(dice, 400), source=source,
            )
        ]  # fmt: skip

    # -- clocks ------------------------------------------------------------------------------------------------------------

    def _clock_step(self, dice: Dice) -> list[Fault]:
        machine, at_ms = dice.pick(self._clocks), self._moment(dice, 0)
        if not self._hostile:
            by_ms = dice.log_between(1, 1_000)
            return [ClockStep(at_ms, machine, by_ms if dice.chance(1, 2) else -by_ms)]
        goal = dice.pick(_FAR_MS) * dice.pick((1, -1)) if dice.chance(2, 3) else 0
        return [ClockStep(at_ms, machine, goal)]

    def _clock_freeze(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice, self._longest_ms if self._hostile else 1_000)
        return [ClockFreeze(at_ms, dice.pick(self._clocks), for_ms)]

    def _clock_drift(self, dice: Dice) -> list[Fault]:
        ppm = dice.log_between(10, 10_000 if self._hostile else 500)
        return [ClockDrift(self._moment(dice, 0), dice.pick(self._clocks), ppm if dice.chance(1, 2) else -ppm)]

    # -- the store ---------------------------------------------------------------------------------------------------------

    def _store(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        fields: dict[str, Any] = {name: _some(dice, 500) for name in ("refused", "unknown")}
        return [StoreTrouble(at_ms, for_ms, **fields, slow_ms=_some(dice, 200))]

    def _db_power(self, dice: Dice) -> list[Fault]:
        at_ms, down_ms = self._span(dice, 5_000)
        return [Crash(at_ms, "db", "power", down_ms)]


    def _fail_over(self, dice: Dice) -> list[Fault]:
        at_ms, down_ms = self._span(dice, 5_000)
        return [FailOver(at_ms, down_ms, _some(dice, 5_000))]

    def _row_lock(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice, 10_000)
        return [RowLock(at_ms, dice.below(self._options.slots), for_ms)]

    # -- the broker --------------------------------------------------------------------------------------------------------

    def _broker(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        names = ("refused", "unanswered", "unacknowledged", "undelivered")
        return [BrokerTrouble(at_ms, for_ms, **{name: _some(dice, 300) for name in names})]

    def _broker_crash(self, dice: Dice) -> list[Fault]:
        at_ms, down_ms = self._span(dice, 5_000)
        return [Crash(at_ms, "broker", dice.pick(("kill", "power")), down_ms)]

    def _broker_wipe(self, dice: Dice) -> list[Fault]:
        return [BrokerWipe(self._moment(dice, 0), dice.pick(("stream", "consumers", "consumers")))]

    def _broker_cut(self, dice: Dice) -> list[Fault]:
        at_ms, for_ms = self._span(dice)
        return [Partition(at_ms, [["broker"], [dice.pick([*self._nodes, "client"])]], for_ms)]


def _from_goals(faults: list[Fault]) -> list[Fault]:
    """Return the faults with clock steps as differences, which were drawn as distances from the true time: so many steps
    lead no farther off than one, and a third of them lead back."""
    offsets: dict[str, int] = {}
    out: list[Fault] = []
    for fault in faults:
        if isinstance(fault, ClockStep):
            goal, before = fault.by_ms, offsets.get(fault.machine, 0)
            offsets[fault.machine] = goal
            if goal != before:
                out.append(ClockStep(fault.at_ms, fault.machine, goal - before))
        else:
            out.append(fault)
    return out


def _some(dice: Dice, most: int) -> int:
    """Return 0 or anything up to `most`, half of the time each."""
    value = dice.log_between(1, most)
    return value if dice.chance(1, 2) else 0
