"""Cases that name what is not there, or ask for what cannot be, are refused; what is planned and stored is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from foliot.simulations.case import (
    Block,
    Case,
    ClockDrift,
    ClockStep,
    Crash,
    CrashAt,
    Fault,
    InvalidCaseError,
    Lossy,
    Options,
    Partition,
    Pause,
    Scale,
    Submit,
    encode_case,
)
from foliot.simulations.case_check import checked_case
from foliot.simulations.corpus import read_case
from foliot.simulations.plan import PROFILES, plan


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Crash(5, "n9"), "no process 'n9'"),
        (Crash(5, "n1", how="nuke"), "how is 'nuke'"),
        (Crash(5, "n1", down_ms=-2), "down_ms is -2"),
        (CrashAt(5, "n1", nth=0), "nth is 0"),
        (CrashAt(5, "n1", point="no.such"), "point is 'no.such'"),
        (Pause(5, "db", 10), "no process 'db'"),
        (Pause(5, "n1", -1), "for_ms is -1"),
        (Partition(5, [["n1"], ["w1", "zz"]], 10), "no machine 'zz'"),
        (Block(5, "n1", "zz", 10), "no target 'zz'"),
        (Lossy(5, 10, loss=1_001), "loss is 1001"),
        (ClockStep(5, "zz", 1), "no machine 'zz'"),
        (ClockDrift(5, "n1", -1_000_000), "ppm is -1000000"),
        (Crash(-5, "n1"), "at_ms is -5"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused(tmp_path: Path, fault: Fault, reason: str) -> None:
    path = tmp_path / "case.json"
    path.write_bytes(encode_case(Case(1, faults=[fault])))

    with pytest.raises(InvalidCaseError, match=reason):
        read_case(path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(nodes=0), "nodes is 0"),
        (Options(nodes=10**7), "nodes is 10000000"),
        (Options(slots=0), "slots is 0"),
        (Options(drain_max=0), "drain_max is 0"),
        (Options(drift_ppm=-10_000_000), "drift_ppm is"),
        (Options(schedule="zz"), "schedule is 'zz'"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(options: Options, reason: str) -> None:
    with pytest.raises(InvalidCaseError, match=reason):
        checked_case(Case(1, options=options))


def test_work_that_cannot_be_done_is_refused() -> None:
    with pytest.raises(InvalidCaseError, match="no worker 'zz'"):
        checked_case(Case(1, work=[Scale(5, "zz", up=False)]))
    with pytest.raises(InvalidCaseError, match="count is -1"):
        checked_case(Case(1, work=[Submit(5, "a", count=-1)]))


def test_no_planned_case_is_refused() -> None:
    cases = [plan(seed, profile) for profile in PROFILES for seed in range(20)]

    assert [checked_case(case) for case in cases] == cases
