"""Cases made from seeds: the same in every process, whole, and spread over everything that can be drawn."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import pytest
from foliot.actors.labels import matches, parse_all
from foliot.actors.rule_check import check_fields
from foliot.actors.schedule_messages import MISSED, OVERLAPS
from foliot.simulations.case import (
    Block,
    BrokerTrouble,
    BrokerWipe,
    Cancel,
    Case,
    ClockStep,
    Crash,
    CrashAt,
    FailOver,
    Fault,
    Options,
    Partition,
    PutSchedule,
    Retry,
    RowLock,
    Scale,
    ScheduleWork,
    SetQueue,
    SetTenant,
    Submit,
    decode_case,
    encode_case,
)
from foliot.simulations.clerk import rule_of, spec_of, template_of
from foliot.simulations.driver import specs_of
from foliot.simulations.plan import PROFILES, plan
from foliot.simulations.plan_options import zone_at
from foliot.simulations.points import NAMES, points_of
from foliot.simulations.profiles import FAMILIES, FEATURES, SCHEDULING, UnknownProfileError
from foliot.transports.admission import EdgeLimits, check_template
from foliot.transports.schedule_checks import check_definition

SEEDS: Final = range(2_000)
FEW: Final = range(20)


def submits_of(case: Case) -> list[Submit]:
    return [entry for entry in case.work if isinstance(entry, Submit)]


def machines_of(options: Options) -> list[str]:
    nodes = [f"n{number}" for number in range(1, options.nodes + 1)]
    servers = ["db", "broker"] if options.broker else ["db"]
    return nodes if options.embedded else [*nodes, *workers_of(options), "client", *servers]


def workers_of(options: Options) -> list[str]:
    return [f"w{number}" for number in range(1, options.workers + 1)]


def defaults_of_submit() -> Iterator[tuple[str, object]]:
    names = (
        "queue", "tenant", "priority", "delay_ms", "key", "key_limit", "dedupe_key", "cost", "max_attempts", "timeout_ms",
        "max_interruptions", "wait_timeout_ms", "total_timeout_ms", "dead_letter", "payload_bytes", "dedupe_window_ms",
    )  # fmt: skip
    for field in msgspec.structs.fields(Submit):
        if field.name in names:
            yield field.name, field.default


def names_in(fault: Fault) -> Iterator[str]:
    if isinstance(fault, Partition):
        for side in fault.sides:
            assert side
            yield from side
    for field in ("process", "machine", "source", "target"):
        if name := getattr(fault, field, ""):
            yield name


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    """One case for each of the seeds."""
    return [plan(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def some() -> list[Case]:
    """Some cases of every profile."""
    return [plan(seed, profile) for profile in PROFILES for seed in FEW]


def test_the_same_seed_gives_the_same_case_in_other_processes() -> None:
    code = (
        "import hashlib\n"
        "from foliot.simulations.case import encode_case\n"
        "from foliot.simulations.plan import PROFILES, plan\n"
        "cases = [encode_case(plan(seed, profile)) for profile in ('', *PROFILES) for seed in range(12)]\n"
        "print(hashlib.sha256(b''.join(cases)).hexdigest())"
    )

    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "12345")
    }  # fmt: skip

    assert len(digests) == 1


def test_seeds_give_different_cases(drawn: list[Case]) -> None:
    assert len({encode_case(msgspec.structs.replace(case, seed=0)) for case in drawn}) == len(drawn)


def test_a_case_survives_being_stored(some: list[Case]) -> None:
    for case in some:
        assert decode_case(encode_case(case)) == case


def test_a_profile_that_is_named_is_the_one_that_is_drawn() -> None:
    for profile in PROFILES:
        assert plan(1, profile).profile == profile


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownProfileError, match=r"no profile 'swam'; expected one of swarm, failover, mail, "):
        plan(1, "swam")


def test_options_can_be_set_before_anything_is_drawn_from_them() -> None:
    case = plan(7, "everything", nodes=2, workers=1, duration_ms=20_000)

    assert (case.options.nodes, case.options.workers, case.options.duration_ms) == (2, 1, 20_000)
    assert all(set(names_in(fault)) <= set(machines_of(case.options)) for fault in case.faults)
    assert all(entry.at_ms <= 15_000 for entry in case.work)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="nodez"):
        plan(7, nodez=2)


def test_profiles_are_drawn_as_often_as_stated(drawn: list[Case]) -> None:
    shares = Counter(case.profile for case in drawn)

    stated = {
        "swarm": 420, "schedules": 40, "everything": 190, "single": 95, "calm": 95, "embedded": 50, "hostile_clocks": 50
    }  # fmt: skip
    for profile, per_mille in stated.items():
        assert abs(shares[profile] - 2 * per_mille) < 6 * (2 * per_mille) ** 0.5, profile
    for profile in PROFILES:
        assert shares[profile] > 0, profile


def test_every_kind_of_fault_and_of_work_is_drawn(drawn: list[Case]) -> None:
    faults = Counter(type(fault) for case in drawn for fault in case.faults)
    work = Counter(type(entry) for case in drawn for entry in case.work)
    crashes = Counter(fault.how for case in drawn for fault in case.faults if isinstance(fault, Crash))

    servers = (BrokerTrouble, BrokerWipe, FailOver, RowLock)  # of profiles that few seeds draw
    assert set(faults) == set(Fault.__args__)
    assert all(count >= (20 if kind in servers else 200) for kind, count in faults.items())
    assert all(count >= (30 if kind in ScheduleWork.__args__ else 200) for kind, count in work.items())
    assert len(work) == 12
    assert set(crashes) == {"kill", "power", "stop"}


def test_every_point_is_crashed_at(drawn: list[Case]) -> None:
    points = Counter(fault.point for case in drawn for fault in case.faults if isinstance(fault, CrashAt))

    assert set(points) == {"", *NAMES}
    assert min(points.values()) >= 5


def test_a_point_is_crashed_at_only_where_it_is_passed(some: list[Case]) -> None:
    for case in some:
        for fault in case.faults:
            if isinstance(fault, CrashAt) and fault.point:
                assert fault.point in points_of(fault.process, embedded=case.options.embedded)


def test_every_act_and_every_option_of_a_task_is_drawn(drawn: list[Case]) -> None:
    submits = [submit for case in drawn for submit in submits_of(case)]

    acts = Counter(act for submit in submits for act in submit.acts)
    assert set(acts) == {"ok", "fail", "fatal", "hang", "stubborn", "poison", "later"}
    for field, default in (("takes_ms", 20), ("effects", 1), *defaults_of_submit()):
        values = Counter(getattr(submit, field) == default for submit in submits)
        assert values[False] > 500, field
        assert values[True] > 500, field
    assert {submit.on_conflict for submit in submits} == {"return_existing", "reject", "replace"}
    assert {submit.delivery for submit in submits} == {"at_least_once", "at_most_once", "exactly_once"}


def test_features_and_families_are_left_out_at_random(drawn: list[Case]) -> None:
    swarm = [case for case in drawn if case.profile == "swarm"]
    without = sum(not any(isinstance(fault, Partition) for fault in case.faults) for case in swarm)
    plain = sum(not any(submit.dedupe_key for submit in submits_of(case)) for case in swarm)

    assert 0.4 < without / len(swarm) < 0.8
    assert 0.4 < plain / len(swarm) < 0.7


def test_a_single_family_comes_alone_and_calm_has_no_faults(drawn: list[Case]) -> None:
    for case in drawn:
        if case.profile == "single":
            assert len({type(fault) for fault in case.faults}) == 1
            assert case.faults
        elif case.profile == "calm":
            assert case.faults == []


def test_sizes_are_such_that_a_run_costs_about_a_second(drawn: list[Case]) -> None:
    for case in drawn:
        tasks = sum(submit.count for submit in submits_of(case))
        assert (60 if case.profile not in ("schedules", "dst") else 5) <= tasks <= 250
        assert len(case.faults) <= 40
        if case.profile not in ("rolling", "extremes", "long", "dst"):
            assert case.options.nodes <= 4
            assert case.options.duration_ms == 60_000
    usual = [case for case in drawn if case.profile in ("swarm", "everything")]
    assert sum(5 <= len(case.faults) <= 25 for case in usual) > 0.9 * len(usual)


def test_times_lie_inside_the_run(some: list[Case]) -> None:
    for case in some:
        duration_ms = case.options.duration_ms
        for fault in case.faults:
            assert fault.at_ms >= 0
            span_ms = 0 if isinstance(fault, CrashAt) else getattr(fault, "for_ms", 0) or getattr(fault, "down_ms", 0)
            assert fault.at_ms + span_ms <= duration_ms, fault
            assert span_ms <= 20_000
            assert getattr(fault, "down_ms", 50) >= 50
        for entry in case.work:
            assert 0 <= entry.at_ms <= duration_ms * 3 // 4, entry
        assert [fault.at_ms for fault in case.faults] == sorted(fault.at_ms for fault in case.faults)
        assert [entry.at_ms for entry in case.work] == sorted(entry.at_ms for entry in case.work)


def test_everything_that_is_named_is_there(some: list[Case]) -> None:
    for case in some:
        machines = set(machines_of(case.options))
        for fault in case.faults:
            assert set(names_in(fault)) <= (machines | {"db"} if not case.options.embedded else machines), fault
            if isinstance(fault, Partition):
                assert len(fault.sides) >= 2
                names = list(names_in(fault))
                assert len(set(names)) == len(names)
            if isinstance(fault, Block):
                assert fault.source != fault.target
        submitted: dict[str, int] = {}
        for entry in case.work:
            match entry:
                case Submit():
                    assert entry.ref not in submitted
                    submitted[entry.ref] = entry.at_ms
                case Cancel() | Retry():
                    assert submitted[entry.ref] <= entry.at_ms
                case Scale():
                    assert entry.worker in workers_of(case.options)


def test_the_product_accepts_what_is_submitted(some: list[Case]) -> None:
    for case in some:
        for submit in submits_of(case):
            [spec, *_] = specs_of(submit, case.options.start_ms)
            check_template(spec.template, EdgeLimits())


def test_every_task_can_run_in_the_end(some: list[Case]) -> None:
    for case in some:
        options = case.options
        labels = [{"size": "large" if number % 2 else "small"} for number in range(1, options.workers + 1)]
        paused: dict[str, bool] = {}
        limits: dict[tuple[str, str], int] = {}
        up = dict.fromkeys(workers_of(options), True)
        for entry in case.work:
            match entry:
                case SetQueue():
                    paused[entry.queue] = paused.get(entry.queue, False) if entry.paused is None else entry.paused
                    if entry.concurrency is not None:
                        limits["queue", entry.queue] = entry.concurrency
                case SetTenant(concurrency=int(limit)):
                    limits["tenant", entry.tenant] = limit
                case Scale():
                    up[entry.worker] = entry.up
                    assert any(up.values())
        assert not any(paused.values())
        assert all(limit == 0 or limit >= 8 for limit in limits.values())
        assert all(up.values())
        for submit in submits_of(case):
            assert submit.cost <= min(options.concurrency, 4)
            assert any(matches(parse_all(submit.require), each) for each in labels) or not submit.require
            assert options.embedded <= (not submit.require)


def test_clocks_are_set_off_by_hours_only_where_the_profile_says_so(drawn: list[Case]) -> None:
    farthest = 0
    for case in drawn:
        offsets: Counter[str] = Counter()
        for fault in case.faults:
            if isinstance(fault, ClockStep):
                assert fault.by_ms != 0
                offsets[fault.machine] += fault.by_ms
                if case.profile == "hostile_clocks":
                    farthest = max(farthest, abs(offsets[fault.machine]))
                else:
                    assert abs(fault.by_ms) <= 1_000
        if case.profile == "hostile_clocks":
            assert case.options.heal_ms > 2 * max(abs(offset) for offset in (*offsets.values(), 0))
    assert farthest == 7_200_000


def test_a_keys_limit_is_the_same_all_through_a_case(some: list[Case]) -> None:
    for case in some:
        limits: dict[str, int] = {}
        for submit in submits_of(case):
            if submit.key:
                assert limits.setdefault(submit.key, submit.key_limit) == submit.key_limit


def test_dedupe_keys_are_repeated_within_one_tenant(some: list[Case]) -> None:
    repeated = 0
    for case in some:
        tenants: dict[str, str] = {}
        for submit in submits_of(case):
            if submit.dedupe_key:
                repeated += submit.dedupe_key in tenants
                assert tenants.setdefault(submit.dedupe_key, submit.tenant) == submit.tenant
    assert repeated > len(some)


def test_extremes_are_extreme() -> None:
    cases = [plan(seed, "extremes") for seed in range(60)]

    assert {case.options.slots for case in cases} >= {1, 64}
    assert {case.options.nodes for case in cases} >= {1, 5}
    assert any(case.options.concurrency == 1 for case in cases)
    assert any(case.options.drain_max == 1 and case.options.lane_window == 4 for case in cases)
    assert {submit.payload_bytes for case in cases for submit in submits_of(case)} >= {0, 65_536}


def test_names_of_families_and_features_are_told_apart() -> None:
    assert len({*FAMILIES, *FEATURES, *SCHEDULING}) == len(FAMILIES) + len(FEATURES) + len(SCHEDULING)


def test_schedules_of_every_policy_are_drawn_and_the_product_accepts_them() -> None:
    puts: list[PutSchedule] = []
    for profile in ("schedules", "dst"):
        for case in [plan(seed, profile) for seed in range(60)]:
            for entry in case.work:
                if isinstance(entry, PutSchedule):
                    puts.append(entry)
                    check_definition(spec_of(entry, case.options.start_ms), 1, EdgeLimits())
                    check_template(template_of(entry), EdgeLimits())
                    check_fields(rule_of(entry, case.options.start_ms))

    assert {put.overlap for put in puts} == set(OVERLAPS)
    assert {put.missed for put in puts} == set(MISSED)
    for field in ("cron", "every_ms", "after_ms", "moments", "calendar", "jitter_ms", "limit", "ends_ms", "starts_ms"):
        assert any(getattr(put, field) for put in puts), field


def test_clocks_of_the_zone_change_within_a_case_of_dst() -> None:
    for seed in range(40):
        options = plan(seed, "dst").options
        zone, start_s = ZoneInfo(zone_at(options.start_ms)), options.start_ms // 1_000
        end_s = start_s + options.duration_ms // 1_000
        assert datetime.fromtimestamp(start_s, zone).utcoffset() != datetime.fromtimestamp(end_s, zone).utcoffset()


def test_what_is_new_in_the_swarm_leaves_other_seeds_as_they_were() -> None:
    profiles = Counter(plan(seed).profile for seed in range(400))

    assert min(profiles["schedules"], profiles["dst"]) > 0
    assert not any(isinstance(entry, PutSchedule) for seed in FEW for entry in plan(seed, "everything").work)
