"""Whole runs: alike in every process, right in the small, and right at every point of a crash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from foliot.simulations.case import Cancel, Case, Crash, CrashAt, Options, Pause, Submit, Timings, Work, encode_case
from foliot.simulations.plan import plan
from foliot.simulations.run import run

QUICK = Timings(
    worker_heartbeat_ms=1_000, worker_dead_ms=3_000, node_heartbeat_ms=300, node_dead_ms=1_100, reconcile_ms=1_000
)
SMALL = Options(nodes=2, workers=2, slots=2, concurrency=2, duration_ms=4_000, heal_ms=60_000, timings=QUICK)
WORK: list[Work] = [
    Submit(at_ms=600, ref="a", count=2, delivery="exactly_once"),
    Submit(at_ms=700, ref="b", acts=["fail", "ok"], retry_base_ms=100, dedupe_key="k"),
    Submit(at_ms=700, ref="e", delay_ms=700, delivery="at_most_once"),
    Submit(at_ms=800, ref="d", takes_ms=500),
    Submit(at_ms=900, ref="c", dedupe_key="k"),
    Cancel(at_ms=1_000, ref="d"),
]


def small(*faults: Crash | CrashAt | Pause) -> Case:
    return Case(seed=7, options=SMALL, work=list(WORK), faults=list(faults))


def test_a_quiet_run_does_its_work() -> None:
    result = run(small())

    assert result.violations == []
    assert result.tasks == 5
    assert result.figures["submit.ok"] == 5
    assert result.figures["cancel.cancelling"] == 1
    assert result.figures["point.effect.after"] >= 4


def test_a_seed_runs_alike_alone_and_after_others() -> None:
    first = run(plan(11)).digest
    run(plan(12))

    assert run(plan(11)).digest == first


def test_another_seed_runs_otherwise() -> None:
    assert run(plan(11)).digest != run(plan(12)).digest


_PROGRAM = """
import sys
from foliot.simulations.plan import plan
from foliot.simulations.run import run
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    result = run(plan(seed))
    print(seed, result.digest, result.steps)
"""


def test_seeds_run_alike_in_processes_of_other_hash_seeds_and_allocators() -> None:
    outputs = []
    environments = [("0", "default"), ("1", "malloc"), ("12345", "default")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "20", "24"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONMALLOC": allocator},
        )
        for seed, allocator in environments
    ]  # fmt: skip
    for process in processes:
        outputs.append(process.communicate(timeout=120)[0])

    assert len(outputs[0].splitlines()) == 4
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_case_is_its_lists_not_its_seeds_expansion() -> None:
    case = plan(13)
    fewer = Case(seed=case.seed, profile=case.profile, options=case.options, work=case.work)

    assert run(fewer).faults == 0
    assert encode_case(fewer) != encode_case(case)


@pytest.mark.parametrize("process", ["n1", "n2", "w1"])
def test_nothing_is_lost_whatever_point_a_process_dies_at(process: str) -> None:
    """Kill it at its first passing of any point, at its second, …, until it has no more."""
    at = 0
    while True:
        at += 1
        result = run(small(CrashAt(at_ms=0, process=process, nth=at, down_ms=300)))
        if not any(name.startswith("crash_at.") for name in result.figures):
            break
        assert result.violations == [], f"{process} at its {at}th point"
    assert at > 20


def test_what_an_exactly_once_handler_did_just_before_its_worker_died_is_not_done_again() -> None:
    results = [run(small(CrashAt(at_ms=0, process=name, point="effect.after", down_ms=300))) for name in ("w1", "w2")]

    assert [result.violations for result in results] == [[], []]
    assert sum(result.figures.get("crash_at.effect.after", 0) for result in results) >= 1


def test_a_paused_owner_that_wakes_up_is_fenced() -> None:
    results = [run(small(Pause(at_ms=900, process=name, for_ms=2_500))) for name in ("n1", "n2")]

    assert all(result.violations == [] for result in results)
    assert any(result.figures.get("log.slot_lost", 0) or result.figures.get("log.slot_taken", 0) for result in results)
