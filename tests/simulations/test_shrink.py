"""Shrinking keeps the violation, takes everything else away, and ends within its budget."""

from __future__ import annotations

import pytest
from foliot.runtime.rng import Rng
from foliot.simulations.case import (
    Block,
    Cancel,
    Case,
    ClockStep,
    Crash,
    Fault,
    Options,
    Partition,
    Pause,
    Purge,
    Retry,
    Scale,
    SetQueue,
    Submit,
    Timings,
    Work,
    encode_case,
)
from foliot.simulations.case_edits import without_dangling
from foliot.simulations.result import Result
from foliot.simulations.safe_run import Run
from foliot.simulations.shrink import NothingToShrinkError, shrink
from msgspec.structs import replace

from .toy_runs import LOST, result, violation


def large_case(seed: int = 1) -> Case:
    """Return a case with thirty faults and forty entries of work, of all sorts."""
    rng = Rng(seed)
    nodes, workers = ["n1", "n2", "n3"], ["w1", "w2", "w3", "w4"]
    faults: list[Fault] = []
    work: list[Work] = []
    for number in range(10):
        at_ms = 1_000 + rng.below(50_000)
        faults += [
            Crash(at_ms, nodes[number % 3], "power", 1_234),
            Pause(at_ms + 17, workers[number % 4], 777),
            ClockStep(at_ms + 29, nodes[number % 3], 5_000),
        ]
        work += [
            Submit(at_ms=rng.below(50_000), ref=f"s{number}", count=37, queue="mail", acts=["fail", "ok"], takes_ms=345),
            Cancel(rng.below(50_000), f"s{number}"),
            SetQueue(rng.below(50_000), concurrency=3),
            Retry(rng.below(50_000), f"s{rng.below(number + 1)}"),
        ]
    options = Options(skew_ms=300, drift_ppm=100, jitter_us=900, timings=Timings(reconcile_ms=3_000), lane_window=2)
    return Case(seed=seed, options=options, faults=faults, work=work)


def loses_with_crash_of(process: str, *, tasks: int = 5) -> Run:
    """Return a run that loses a task if `process` crashes while at least `tasks` of s4 are there and w2 was paused."""

    def run(case: Case) -> Result:
        enough = any(isinstance(e, Submit) and e.ref == "s4" and e.count >= tasks for e in case.work)
        paused = any(isinstance(f, Pause) and f.process == "w2" for f in case.faults)
        crash = next((f for f in case.faults if isinstance(f, Crash) and f.process == process), None)
        if enough and paused and crash is not None:
            return result(case, violation(55_000))
        return result(case)

    return run


def test_what_is_left_is_what_the_violation_needs() -> None:
    smaller, runs = shrink(large_case(), loses_with_crash_of("n2"))

    assert sorted(type(fault).__name__ for fault in smaller.faults) == ["Crash", "Pause"]
    [submit] = smaller.work
    assert isinstance(submit, Submit)
    assert 5 <= submit.count < 10
    assert smaller.expect == LOST
    assert runs <= 300


def test_values_that_do_not_matter_become_plain() -> None:
    smaller, _ = shrink(large_case(), loses_with_crash_of("n2"))

    [submit] = smaller.work
    assert isinstance(submit, Submit)
    assert (submit.queue, submit.acts, submit.takes_ms) == ("default", ["ok"], 20)
    assert all(entry.at_ms % 1_000 == 0 for entry in (*smaller.faults, *smaller.work))
    assert smaller.options == Options(
        nodes=2, workers=2, slots=1, duration_ms=smaller.options.duration_ms, schedule="round_robin", jitter_us=0
    )
    assert smaller.options.duration_ms < 60_000


def test_a_value_that_matters_stays_as_it_was() -> None:
    def run(case: Case) -> Result:
        slow = [entry for entry in case.work if isinstance(entry, Submit) and entry.takes_ms == 345]
        return result(case, violation(60_000)) if slow and case.options.skew_ms == 300 else result(case)

    smaller, _ = shrink(large_case(), run)

    [submit] = smaller.work
    assert isinstance(submit, Submit)
    assert (submit.takes_ms, submit.queue, smaller.options.skew_ms, smaller.options.drift_ppm) == (345, "default", 300, 0)


def test_the_same_case_ends_in_the_same_smaller_one() -> None:
    first = shrink(large_case(3), loses_with_crash_of("n1"))
    second = shrink(large_case(3), loses_with_crash_of("n1"))

    assert encode_case(first[0]) == encode_case(second[0])
    assert first[1] == second[1]


def test_another_violation_does_not_count() -> None:
    def run(case: Case) -> Result:
        if any(isinstance(fault, Crash) for fault in case.faults):
            return result(case, violation(1, kind="early"), violation(2))
        return result(case, violation(1, kind="early"))

    smaller, _ = shrink(large_case(), run, identity=LOST)

    assert [type(fault) for fault in smaller.faults] == [Crash]
    assert smaller.work == []
    assert smaller.expect == LOST


def test_what_comes_after_the_violation_goes_first() -> None:
    tried: list[Case] = []

    def run(case: Case) -> Result:
        tried.append(case)
        return result(case, violation(20_000))

    shrink(large_case(), run, budget=2)

    assert len(tried) == 2
    assert 0 < len(tried[1].faults) < len(tried[0].faults)
    assert max(entry.at_ms for entry in (*tried[1].faults, *tried[1].work)) <= 20_000


@pytest.mark.parametrize("budget", [1, 2, 10, 40])
def test_the_budget_is_kept_and_the_case_still_fails(budget: int) -> None:
    run = loses_with_crash_of("n2")

    smaller, runs = shrink(large_case(), run, budget=budget)

    assert runs <= budget
    assert run(smaller).violations


def test_it_stops_when_it_is_told_to() -> None:
    runs_seen = 0

    def run(case: Case) -> Result:
        nonlocal runs_seen
        runs_seen += 1
        return result(case, violation(1_000))

    _, runs = shrink(large_case(), run, stop=lambda: runs_seen >= 3)

    assert runs == 3


def test_a_run_that_raises_is_shrunk_too() -> None:
    def run(case: Case) -> Result:
        if any(isinstance(fault, Pause) for fault in case.faults):
            raise KeyError("w3")
        return result(case)

    smaller, _ = shrink(large_case(), run)

    assert smaller.expect == "run:KeyError"
    assert [type(fault) for fault in smaller.faults] == [Pause]


def test_a_case_that_shows_nothing_is_refused() -> None:
    with pytest.raises(NothingToShrinkError) as raised:
        shrink(large_case(), lambda case: result(case, violation(kind="early")), identity=LOST)

    assert str(raised.value) == (
        "the case does not show the violation 'tasks:lost', its violations are: tasks:early; expected a case that fails"
    )


def test_commands_go_with_their_submission_and_faults_with_their_machine() -> None:
    case = Case(
        seed=1,
        faults=[
            Partition(1_000, [["n1", "n2"], ["n3", "w4"]], 500),
            Partition(2_000, [["n1"], ["n2"], ["n3"]], 500),
            Block(3_000, "n3", "db", 500),
            Pause(4_000, "w1", 500),
        ],
        work=[Submit(at_ms=1, ref="a"), Cancel(2, "a"), Submit(at_ms=3, ref="b"), Scale(4, "w4", up=False), Purge(5)],
    )
    fewer = replace(case, options=replace(case.options, nodes=2, workers=3), work=case.work[1:])

    whole = without_dangling(case, fewer)

    assert whole.faults == [Partition(2_000, [["n1"], ["n2"]], 500), Pause(4_000, "w1", 500)]
    assert whole.work == [Submit(at_ms=3, ref="b"), Purge(5)]
    assert without_dangling(case, case) == case
