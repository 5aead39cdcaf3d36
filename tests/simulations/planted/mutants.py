"""Mutants of the harness itself: an oracle that says yes to everything, a network that loses nothing, a crash that keeps the
memory. Each comes with the check that tells a sound harness from it.

A check runs a small case, in which the thing in question happens for sure, and says whether it had the effect it must have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from foliot.runtime.rng import Rng
from foliot.simulations.acts import Witness
from foliot.simulations.case import (
    Case,
    ClockFreeze,
    ClockStep,
    Crash,
    CrashAt,
    Fault,
    Lossy,
    Options,
    Partition,
    Pause,
    StoreTrouble,
    Submit,
    Work,
)
from foliot.simulations.database import Database
from foliot.simulations.faults import Faults
from foliot.simulations.history import (
    BodyStarted,
    ClockChanged,
    Committed,
    Effect,
    Healed,
    Observation,
    Oracle,
    ProcessChanged,
    TakenBack,
)
from foliot.simulations.machine import Machine
from foliot.simulations.network import Network
from foliot.simulations.result import Result
from foliot.simulations.run import run
from foliot.simulations.world import Points, World

from .patching import Change, Edit, planted
from .task_bugs import BUGS

_SECOND_NS: Final = 1_000_000_000
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Mutant:
    """`breaks`: what the harness no longer does. `is_sound`: says whether it does it."""

    name: str
    breaks: str
    changes: tuple[Change, ...]
    is_sound: Callable[[], bool]


class Recorder(Oracle):
    """Keeps all it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Observation] = []

    def see(self, seen: Observation) -> None:
        self.seen.append(seen)

    def of(self, *kinds: type[Observation]) -> list[Any]:
        return [seen for seen in self.seen if isinstance(seen, kinds)]


def small_case(*faults: Fault, seed: int = 1, acts: tuple[str, ...] = ("ok",), **options: Any) -> Case:
    """Return a case of ten seconds on two nodes and two workers, with something to do in each of the first eight."""
    work: list[Work] = [
        Submit(300 + 500 * number, f"s{number}", count=3, takes_ms=200, acts=list(acts), effects=2) for number in range(15)
    ]
    sizes = {"nodes": 2, "workers": 2, "slots": 2, "duration_ms": 10_000, **options}
    return Case(seed=seed, profile="mutants", options=Options(**sizes), faults=list(faults), work=work)


def recorded(case: Case) -> tuple[Recorder, Result]:
    recorder = Recorder()
    return recorder, run(case, oracles=[recorder])


# -- checks ---------------------------------------------------------------------------------------------------------------


def violations_are_told() -> bool:
    [bug] = [bug for bug in BUGS if bug.name == "dead letter dropped"]
    with planted(bug.changes):
        return "deadletters:kind" in {found.identity for found in run(small_case(acts=("fatal",))).violations}


def partitions_cut() -> bool:
    _, result = recorded(small_case(Partition(1_000, [["n1", "w1"], ["n2", "w2", "client"]], 5_000)))
    return result.figures["lost"] > 0


def bad_links_lose() -> bool:
    _, result = recorded(small_case(Lossy(0, 9_000, loss=200)))
    return result.figures["lost"] > 0


def bad_links_double() -> bool:
    _, result = recorded(small_case(Lossy(0, 9_000, duplicate=200)))
    return result.figures["doubled"] > 0


def bad_links_delay() -> bool:
    """A submission through a slow link takes as long as the link."""
    quick, _ = recorded(small_case())
    slow, _ = recorded(small_case(Lossy(0, 10_000, delay_ms=200)))
    return min(_starts(slow)) > min(_starts(quick)) + 200 * 1_000_000


def crashes_end_processes() -> bool:
    recorder, _ = recorded(small_case(Crash(2_000, "w1", down_ms=-1)))
    first = _moment(recorder, "w1", "killed")
    back = _moment(recorder, "w1", "started", after_ns=first)
    acts = [seen.at_ns for seen in recorder.of(BodyStarted, Effect) if seen.process == "w1"]
    return any(at_ns < first for at_ns in acts) and not any(first < at_ns < back for at_ns in acts)


def crashes_take_the_memory() -> bool:
    """A node that comes back claims its shards anew."""
    recorder, _ = recorded(small_case(Crash(2_000, "n1", down_ms=200), nodes=1))
    boots: dict[tuple[str, int], int] = {(seen.process, seen.boot): seen.epoch for seen in recorder.of(Committed)}
    before, after = boots.get(("n1", 1), 0), boots.get(("n1", 2), 0)
    return after > before > 0


def points_kill() -> bool:
    fault = CrashAt(1_000, "n1", "store.commit.before", nth=2, down_ms=500)
    recorder, result = recorded(small_case(fault, nodes=1))
    return result.figures.get("crash_at.store.commit.before") == 1 and _moment(recorder, "n1", "killed") > 0


def pauses_stop() -> bool:
    recorder, _ = recorded(small_case(Pause(2_000, "w1", 3_000), Pause(2_000, "w2", 3_000)))
    starts = _starts(recorder)
    return not any(2 * _SECOND_NS < at_ns < 5 * _SECOND_NS for at_ns in starts) and max(starts) > 5 * _SECOND_NS


def power_loss_takes_back() -> bool:
    """Without a sync at each commit some of them are gone, in one of a few tries at least."""
    tries = [small_case(Crash(at_ms, "db", "power", 300), synchronous="normal") for at_ms in (2_100, 3_300, 4_500, 5_700)]
    return any(recorded(case)[0].of(TakenBack) for case in tries)


def synced_commits_stay() -> bool:
    tries = [small_case(Crash(at_ms, "db", "power", 300)) for at_ms in (2_100, 3_300, 4_500, 5_700)]
    return not any(recorded(case)[0].of(TakenBack) for case in tries)


def clocks_can_be_set() -> bool:
    recorder, _ = recorded(small_case(ClockStep(2_000, "n1", _HOUR_MS), nodes=1))
    ahead = {seen.at_ns > 2 * _SECOND_NS: seen.now_ms - seen.at_ns // 1_000_000 for seen in recorder.of(Committed)}
    gained_ms = ahead[True] - ahead[False]  # a commit is asked for a little before it is seen, which may be a millisecond
    return len(recorder.of(ClockChanged)) == 1 and abs(gained_ms - _HOUR_MS) <= 1


def clocks_can_stand_still() -> bool:
    recorder, _ = recorded(small_case(ClockFreeze(2_000, "n1", 3_000), nodes=1))
    readings = {seen.now_ms for seen in recorder.of(Committed) if 2 * _SECOND_NS < seen.at_ns < 5 * _SECOND_NS}
    return len(readings) == 1


def the_store_refuses() -> bool:
    _, result = recorded(small_case(StoreTrouble(1_000, 6_000, refused=300, unknown=300)))
    return min(result.figures.get(name, 0) for name in ("store_refused", "store_unknown")) > 0


def the_end_heals() -> bool:
    recorder, _ = recorded(small_case(Crash(2_000, "n1", down_ms=-1), Partition(4_000, [["w1"], ["n2"]], 6_000)))
    [healed] = recorder.of(Healed)
    return _moment(recorder, "n1", "started", after_ns=healed.at_ns - 1) > 0


def the_witness_counts_once() -> bool:
    recorder, _ = recorded(small_case(acts=("fail", "ok")))
    effects = recorder.of(Effect)
    taken = [(seen.id, seen.number) for seen in effects if seen.accepted]
    return len(taken) == len(set(taken)) < len(effects)


def a_case_repeats_itself() -> bool:
    return run(small_case()).digest == run(small_case()).digest


def the_seed_matters() -> bool:
    return run(small_case(seed=1)).digest != run(small_case(seed=2)).digest


def _starts(recorder: Recorder) -> list[int]:
    return [seen.at_ns for seen in recorder.of(BodyStarted)]


def _moment(recorder: Recorder, process: str, what: str, *, after_ns: int = -1) -> int:
    """Return when that befell a process first, 0 if never."""
    found = [seen for seen in recorder.of(ProcessChanged) if (seen.process, seen.what) == (process, what)]
    return next((seen.at_ns for seen in found if seen.at_ns > after_ns), 0)


# -- mutants --------------------------------------------------------------------------------------------------------------

MUTANTS: Final = (
    Mutant("oracles say yes", "no violation is ever told",
           (Edit(Oracle, "violated", "if len(self.violations) < 100", "if False"),), violations_are_told),
    Mutant("partitions cut nothing", "messages pass through a partition",
           (Edit(Network, "block", "        link.blocked += 1\n", ""),), partitions_cut),
    Mutant("bad links lose nothing", "every message arrives",
           (Edit(Network, "_carry_badly", "if (draw >> 24) % _MILLE < quality.loss:", "if False:"),), bad_links_lose),
    Mutant("bad links double nothing", "no message comes twice",
           (Edit(Network, "_carry_badly", "if (draw >> 44) % _MILLE < quality.duplicate:", "if False:"),),
           bad_links_double),
    Mutant("bad links delay nothing", "a slow link is as fast as any other",
           (Edit(Network, "_carry_badly", "if quality.delay_ns:", "if False:"),
            Edit(Network, "stream", "            delay_ns += quality.delay_ns\n", "")), bad_links_delay),
    Mutant("killed processes go on", "what was killed still acts",
           (Edit(World, "_end", "        process.is_dead = True\n", ""),
            Edit(World, "_end", "        self.loop.kill(process.lane)\n", "")), crashes_end_processes),
    Mutant("crashes keep the memory", "a process that is killed is only paused until it would come back",
           (Edit(World, "kill", '        self._end(program, how, "power" if how == "powered_off" else "kill")\n'
                                "        self._start_later(program, down_ns)\n",
                 "        self.pause(name, max(down_ns, 0))\n"),), crashes_take_the_memory),
    Mutant("points are passed", "no process dies at a point",
           (Edit(Points, "passed", "if armed.left <= 0:", "if False:"),), points_kill),
    Mutant("pauses do not stop", "a paused process goes on",
           (Edit(World, "pause", "        self.loop.block(process.lane)\n", ""),
            Edit(World, "_resume", "            self.loop.unblock(process.lane)\n", "")), pauses_stop),
    Mutant("power loss takes nothing", "what was not synced is durable all the same",
           (Edit(Database, "lose_power", "if not self._since:", "if True:"),), power_loss_takes_back),
    Mutant("fsync lies", "power loss takes back what was synced",
           (Edit(Database, "__init__", "self._is_lazy = is_lazy", "self._is_lazy = True"),), synced_commits_stay),
    Mutant("clocks are never set", "a clock step changes no clock",
           (Edit(Machine, "step", "        self._wall_ns += by_ns\n", ""),), clocks_can_be_set),
    Mutant("clocks never stand still", "a frozen clock goes on",
           (Edit(Machine, "freeze", "        self._is_frozen = True\n", ""),), clocks_can_stand_still),
    Mutant("the store never refuses", "every call to the store succeeds",
           (Edit(World, "store_trouble", "for trouble in self.troubles:", "for trouble in self.troubles[:0]:"),),
           the_store_refuses),
    Mutant("nothing is healed", "what is down at the end of the faults stays down",
           (Edit(Faults, "heal", "            world.start(program.name)\n", "            pass\n"),), the_end_heals),
    Mutant("the witness takes all", "an effect counts as often as it is made",
           (Edit(Witness, "call", "accepted = attempt >= newest and (task, number) not in self._taken", "accepted = True"),),
           the_witness_counts_once),
    Mutant("chance from outside", "draws do not follow from the seed",
           (Edit(Rng, "stream", "Rng(self._seed ^", 'Rng(int.from_bytes(os.urandom(8), "big") ^'),), a_case_repeats_itself),
    Mutant("one seed for all", "every run draws the same",
           (Edit(World, "__init__", "self.rng = Rng(seed)", "self.rng = Rng(0)"),), the_seed_matters),
)  # fmt: skip


def is_noticed(mutant: Mutant) -> bool:
    """Tell whether the mutant's check finds it; one that brings down the check is noticed as well."""
    with planted(mutant.changes):
        try:
            return not mutant.is_sound()
        except Exception:
            return True
