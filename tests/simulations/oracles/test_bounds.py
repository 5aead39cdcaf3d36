"""Allowances follow from the case."""

from __future__ import annotations

from foliot.simulations.case import Case, ClockFreeze, ClockStep, Crash, Fault, Lossy, Options, Pause, Submit
from foliot.simulations.oracles.bounds import Bounds, bounds_of


def test_a_quiet_run_needs_no_allowance() -> None:
    assert bounds_of(Case(1)) == Bounds()


def test_clocks_add_up() -> None:
    case = Case(1, options=Options(skew_ms=200), faults=[ClockStep(5, "n1", -1_000), ClockFreeze(9, "n2", 300)])

    assert bounds_of(case).skew_ms == 2 * 200 + 1_000 + 300


def test_faults_that_overlap_are_one_trouble_and_all_end_when_the_run_heals() -> None:
    faults: list[Fault] = [Pause(8_000, "n2", 100_000), Pause(1_000, "n1", 3_000), Lossy(3_500, 1_000), Crash(6_000, "n1")]

    assert bounds_of(Case(1, faults=faults)).troubles == ((1_000, 4_500), (8_000, 60_000))


def test_a_database_that_is_down_is_trouble_and_a_node_is_not() -> None:
    case = Case(1, faults=[Crash(1_000, "db", "power", 500), Crash(5_000, "n1"), Crash(7_000, "db", "power", -1)])

    assert bounds_of(case).troubles == ((1_000, 1_500), (7_000, 60_000))


def test_quiet_is_counted_from_the_end_of_the_last_trouble() -> None:
    bounds = Bounds(troubles=((1_000, 2_000), (5_000, 6_000)))

    assert [bounds.quiet_ms(at_ms) for at_ms in (1_000, 1_999, 2_500, 5_500, 7_000)] == [0, 0, 500, 0, 1_000]
    assert bounds.quiet_ms(999) > 1_000_000


def test_a_setting_settles_in_the_first_quiet_stretch() -> None:
    bounds = Bounds(troubles=((1_000, 2_000), (5_000, 6_000)), repair_ms=20_000)

    assert [bounds.settled_ms(at_ms, 1_000) for at_ms in (0, 500, 1_500, 4_500)] == [1_000, 3_000, 3_000, 7_000]
    assert bounds.settled_ms(500, 1_000, repair=True) == 23_000


def test_a_network_that_disorders_is_not_asked_for_order() -> None:
    assert bounds_of(Case(1, faults=[Lossy(0, 1_000, loss=10)])).ordered
    assert not bounds_of(Case(1, faults=[Lossy(0, 1_000, reorder=5)])).ordered


def test_lazy_commits_may_be_lost() -> None:
    assert bounds_of(Case(1, options=Options(synchronous="normal"))).may_lose
    assert not bounds_of(Case(1)).may_lose


def test_a_task_may_need_more_slots_than_any_worker_has() -> None:
    case = Case(1, options=Options(concurrency=4), work=[Submit(0, "a", cost=5)])

    assert bounds_of(case).slots == 4
