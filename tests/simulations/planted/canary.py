"""The canary: a bug that is there in one seed of a hundred. A campaign that does not report exactly those seeds is broken,
however green it looks.

`campaign_child` imports this module by name, in place of the real run and plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from foliot.runtime.hashing import fnv1a
from foliot.simulations.campaign import Plan, campaign
from foliot.simulations.case import Case, Options, Submit
from foliot.simulations.result import Result
from foliot.simulations.run import run as run_soundly

from .patching import planted
from .task_bugs import BUGS

IDENTITY: Final = "deadletters:kind"
ONE_IN: Final = 100
_HERE: Final = "foliot.tests.simulations.planted.canary"


def sings(seed: int) -> bool:
    """Tell whether the bug is there in that seed."""
    return fnv1a(f"canary/{seed}".encode()) % ONE_IN == 0


def plan(seed: int, profile: str = "") -> Case:
    """Return a case of a few seconds in which a task fails for good."""
    work = [Submit(100, "good", count=3), Submit(500, "bad", acts=["fatal"])]
    options = Options(nodes=1, workers=1, slots=1, duration_ms=2_000, heal_ms=30_000)
    return Case(seed=seed, profile=profile or "canary", options=options, work=list(work))


def run(case: Case) -> Result:
    """Run a case, with the bug where the canary is to sing."""
    [bug] = [bug for bug in BUGS if bug.name == "dead letter dropped"]
    with planted(bug.changes if sings(case.seed) else ()):
        return run_soundly(case)


def heard(seeds: Iterable[int], *, jobs: int = 1) -> dict[int, str]:
    """Return what a campaign reports, by seed: the identity of the first violation."""
    outcomes = campaign(Plan(jobs=jobs, run=f"{_HERE}:run", plan=f"{_HERE}:plan"), seeds)
    return {outcome.seed: outcome.identity for outcome in outcomes if outcome.violations}


def expected(seeds: Iterable[int]) -> dict[int, str]:
    """Return what it has to report."""
    return {seed: IDENTITY for seed in seeds if sings(seed)}
