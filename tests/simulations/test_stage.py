"""What runs on every commit: the stored cases, two hundred seeds, and some of them twice in unlike processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from foliot.simulations.campaign import Plan, campaign
from foliot.simulations.case import Case
from foliot.simulations.corpus import load_cases
from foliot.simulations.run import run

CASES = load_cases(Path(__file__).parent / "cases")
SEEDS = range(1_000_000, 1_000_200)


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[path.stem for path, _ in CASES])
def test_what_was_found_once_is_not_there_any_more(case: Case) -> None:
    assert run(case).violations == []


def test_two_hundred_seeds_hold_every_invariant_and_some_of_them_are_run_twice() -> None:
    """Twice: in another process, with another hash seed and another allocator, to the same digest."""
    reached: dict[str, int] = {}
    broken: list[str] = []
    for outcome in campaign(Plan(jobs=2, check_percent=5), SEEDS):
        for name, count in outcome.figures.items():
            reached[name] = reached.get(name, 0) + count
        name = f"seed {outcome.seed} ({outcome.profile})"
        broken += [f"{name}: {found.identity}: {found.text}" for found in outcome.violations]

    assert broken == []
    rare = ("fault.", "crash_at.", "point.", "work.")
    assert len([name for name in reached if name.startswith(rare)]) > 25  # the seeds do what they are there for
    assert reached["log.slot_lost"] > 20
    assert reached["log.commit_unknown"] > 20
