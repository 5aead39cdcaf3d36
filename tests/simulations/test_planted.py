"""Planted bugs are found, and only where they are; mutants of the harness are noticed; the canary is heard.

The whole hunt is `make planted`; here are the bugs that show within a few seeds, and that all of them can be planted.
"""

from __future__ import annotations

import inspect

import pytest
from foliot.actors.lifecycle import Lifecycle
from foliot.simulations.case import Case
from foliot.simulations.history import Violation
from foliot.simulations.oracles import ORACLES
from foliot.simulations.plan import PROFILES
from foliot.simulations.result import Result
from foliot.simulations.run import run

from .planted import canary
from .planted.bug import Bug, Catch, hunt
from .planted.mutants import MUTANTS, Mutant, is_noticed
from .planted.patching import CannotPlantError, Edit, Swap, planted
from .planted.run import BUGS, line_of

QUICK = (
    "effects before commit",
    "epoch not raised",
    "dedupe key forgotten at take-over",
    "early by 500 ms",
    "back-off ignored",
    "backfill cursor runs ahead",
    "position not stored",
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted_and_is_gone_afterwards(bug: Bug) -> None:
    before = [inspect.getattr_static(change.owner, change.name) for change in bug.changes]

    with planted(bug.changes):
        during = [inspect.getattr_static(change.owner, change.name) for change in bug.changes]

    assert all(a is not b for a, b in zip(before, during, strict=True))
    assert before == [inspect.getattr_static(change.owner, change.name) for change in bug.changes]


def test_bugs_are_described_once_and_wait_for_oracles_that_exist() -> None:
    oracles = {oracle.name for oracle in ORACLES}

    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 30
    for bug in BUGS:
        assert {identity.partition(":")[0] for identity in bug.caught_by} <= oracles, bug.name
        assert set(bug.profiles) <= {"", *PROFILES}, bug.name


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in QUICK], ids=lambda bug: bug.name)
def test_a_bug_is_caught(bug: Bug) -> None:
    assert hunt(bug, run).identity != ""


def test_without_a_bug_nothing_is_caught() -> None:
    sound = Bug("none", "nothing", (), tuple(oracle.name for oracle in ORACLES), profiles=("calm",))

    assert hunt(sound, run, seeds=2) == Catch("none", 2)


def test_what_is_seen_without_the_bug_as_well_does_not_count() -> None:
    always = Violation("live", "unfinished", 0, "t", "always there")

    def noisy(case: Case) -> Result:
        return Result(case=case, digest="", virtual_ms=0, steps=0, tasks=0, faults=0, violations=[always])

    catch = hunt(Bug("noise", "nothing", (), ("live",)), noisy, seeds=3)

    assert catch == Catch("noise", 3, shared=("live:unfinished",))
    assert line_of(catch, 1.0).endswith("MISSED (seen without it as well: live:unfinished)")


def test_a_bug_whose_place_is_gone_is_not_planted_silently() -> None:
    with pytest.raises(CannotPlantError, match=r"Lifecycle\.end has 0 times what is to be replaced"):
        Edit(Lifecycle, "end", "no such line", "").changed()
    with pytest.raises(CannotPlantError, match=r"has \d+ times"):
        Edit(Lifecycle, "end", "task", "").changed()


def test_changes_of_one_function_add_up() -> None:
    class Two:
        a = 1

        def both(self) -> tuple[str, str]:
            return "first", "second"

    with planted([Edit(Two, "both", '"first"', '"1"'), Edit(Two, "both", '"second"', '"2"'), Swap(Two, "a", 2)]):
        assert (Two().both(), Two.a) == (("1", "2"), 2)
    assert (Two().both(), Two.a) == (("first", "second"), 1)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_of_the_harness_is_noticed(mutant: Mutant) -> None:
    assert mutant.is_sound()
    assert is_noticed(mutant)


def test_the_canary_is_heard_where_it_sings_and_nowhere_else() -> None:
    seeds = [seed for seed in range(1_000) if canary.sings(seed)][:2]
    seeds += [seed for seed in range(12) if not canary.sings(seed)]

    assert canary.heard(sorted(seeds)) == canary.expected(seeds)
    assert len(canary.expected(seeds)) == 2
    assert 0.5 < sum(canary.sings(seed) for seed in range(10_000)) / 100 < 1.5
