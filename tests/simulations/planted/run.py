"""Hunts every planted bug and prints how long each could hide: `python -m foliot.tests.simulations.planted.run`.

Then come the mutants of the harness and the canary. Ends with exit code 1 if a bug was not caught, a mutant was not noticed,
or the canary was not heard where it sings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from foliot.simulations.run import run

from . import canary
from .broker_bugs import BUGS as BROKER_BUGS
from .bug import Bug, Catch, hunt
from .mutants import MUTANTS, is_noticed
from .patching import planted
from .queue_bugs import BUGS as QUEUE_BUGS
from .schedule_bugs import BUGS as SCHEDULE_BUGS
from .store_bugs import BUGS as STORE_BUGS
from .task_bugs import BUGS as TASK_BUGS

BUGS: Final[tuple[Bug, ...]] = (*STORE_BUGS, *TASK_BUGS, *QUEUE_BUGS, *SCHEDULE_BUGS, *BROKER_BUGS)
CANARY_SEEDS: Final = range(300)

Hunted = tuple[Catch, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Hunt the planted bugs.")
    parser.add_argument("words", nargs="*", help="only bugs whose name contains one of these; no mutants, no canary")
    parser.add_argument("--seeds", type=int, default=0, help="at most so many seeds for each bug, instead of its own budget")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if not options.words or any(word in bug.name for word in options.words)]
    everything = [entry.changes for entry in BUGS] + [entry.changes for entry in MUTANTS]
    for changes in everything:  # now, before what is on disk can change under a long hunt
        with planted(changes):
            pass
    print(f"{'bug':<42} {'seeds':>5} {'seconds':>8}  caught by", flush=True)
    caught = 0
    for catch, seconds in _hunted([bug.name for bug in bugs], options.seeds, options.jobs):
        caught += catch.identity != ""
        print(line_of(catch, seconds), flush=True)
    is_complete = caught == len(bugs)
    if not options.words:
        is_complete = _mutants() and _canary(options.jobs) and is_complete
    print(f"caught {caught} of {len(bugs)}")
    return 0 if is_complete else 1


def line_of(catch: Catch, seconds: float) -> str:
    """Return a row of the table."""
    what = catch.identity or "MISSED"
    if catch.shared and not catch.identity:
        what += f" (seen without it as well: {', '.join(catch.shared)})"
    return f"{catch.bug:<42} {catch.seeds:>5} {seconds:>8.1f}  {what}"


def _hunted(names: Iterable[str], seeds: int, jobs: int) -> Iterator[Hunted]:
    """Hunt in processes of their own, each bug in a new one, so that nothing of a bug stays."""
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        for hunted in [pool.submit(_hunt, name, seeds) for name in names]:
            yield hunted.result()


def _hunt(name: str, seeds: int) -> Hunted:
    begun = time.monotonic()
    [bug] = [bug for bug in BUGS if bug.name == name]
    catch = hunt(bug, run, seeds=seeds)
    return catch, time.monotonic() - begun


def _mutants() -> bool:
    unsound = [mutant.name for mutant in MUTANTS if not mutant.is_sound()]
    unnoticed = [mutant.name for mutant in MUTANTS if not is_noticed(mutant)]
    for name in unsound:
        print(f"the harness is not sound: {name}")
    for name in unnoticed:
        print(f"mutant of the harness not noticed: {name}")
    print(f"noticed {len(MUTANTS) - len(unnoticed)} of {len(MUTANTS)} mutants of the harness", flush=True)
    return not unsound and not unnoticed


def _canary(jobs: int) -> bool:
    expected, heard = canary.expected(CANARY_SEEDS), canary.heard(CANARY_SEEDS, jobs=jobs)
    print(f"heard the canary in {len(heard)} of {len(CANARY_SEEDS)} seeds, it sings in {len(expected)}")
    return heard == expected


if __name__ == "__main__":
    sys.exit(main())
