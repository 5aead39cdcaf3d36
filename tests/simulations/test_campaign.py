"""A campaign says of every seed what became of it, in order, and what all of them came to."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from foliot.simulations.campaign import CampaignError, Outcome, Plan, campaign
from foliot.simulations.case import decode_case
from foliot.simulations.corpus import NoCaseError, check_cases, load_cases, store_case
from foliot.simulations.result import Result
from foliot.simulations.safe_run import describe
from foliot.simulations.tally import Tally, line_of
from msgspec.structs import replace

from . import toy_runs
from .toy_runs import LOST, result, violation


@pytest.fixture(autouse=True)
def _children_find_the_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def toys(run: str = "run", **settings: object) -> Plan:
    return Plan(run=f"toy_runs:{run}", plan="toy_runs:plan", **settings)  # type: ignore[arg-type]


def test_seeds_come_in_order_with_what_each_showed() -> None:
    outcomes = list(campaign(toys(recycle=4), range(2, 14)))

    assert [outcome.seed for outcome in outcomes] == list(range(2, 14))
    assert {outcome.seed: outcome.identity for outcome in outcomes if outcome.violations} == {3: LOST, 8: LOST, 13: LOST}
    for outcome in outcomes:
        expected = toy_runs.run(toy_runs.plan(outcome.seed))
        assert (outcome.digest, outcome.steps, outcome.figures) == (expected.digest, expected.steps, expected.figures)
        assert (outcome.profile, outcome.virtual_ms, outcome.tasks) == ("swarm", 30_000, 4)


def test_a_failing_seed_brings_its_case() -> None:
    [fine, failing] = campaign(toys(profile="storm", jobs=1), [2, 3])

    assert fine.case == ""
    case = decode_case(failing.case.encode())
    assert (case.seed, case.profile) == (3, "storm")
    assert toy_runs.run(case).violations == failing.violations


def test_a_run_that_raises_hangs_or_dies_fails_its_own_seed_only() -> None:
    outcomes = list(campaign(toys("run_badly", limit_s=2.0), range(6)))

    assert [outcome.identity for outcome in outcomes] == ["", "run:ValueError", "run:hang", LOST, "run:died", ""]
    texts = [outcome.violations[0].text if outcome.violations else "" for outcome in outcomes]
    assert texts[1].startswith("ValueError: boom (toy_runs.py:")
    assert texts[2] == "the run does not end within 2 s"
    assert texts[4].startswith("its process ended with code 9")
    for number in (1, 2, 4):
        assert decode_case(outcomes[number].case.encode()) == toy_runs.plan(number)


def test_a_plan_that_raises_fails_the_seed() -> None:
    [outcome] = campaign(Plan(run="toy_runs:run", plan="toy_runs:plan_badly", jobs=1), [7])

    assert outcome.identity == "run:plan"
    assert outcome.violations[0].text.startswith("LookupError: no plan for 7 (toy_runs.py:")
    assert outcome.case == ""


def test_no_seed_is_begun_after_the_end() -> None:
    seen: list[Outcome] = []

    for outcome in campaign(toys(jobs=2), count(), stop=lambda: len(seen) >= 5):
        seen.append(outcome)

    assert [outcome.seed for outcome in seen] == list(range(len(seen)))
    assert len(seen) < 200


def test_closing_a_campaign_ends_it_while_a_run_hangs() -> None:
    outcomes = campaign(toys("run_badly", jobs=1), [0, 2])

    assert next(outcomes).seed == 0
    outcomes.close()


def test_children_that_do_not_start_say_why() -> None:
    with pytest.raises(CampaignError, match=r"no_such_run of foliot.simulations.plan:plan does not start: .*No module"):
        list(campaign(Plan(run="no_such_run"), [1]))


def test_a_digest_that_depends_on_the_process_is_found() -> None:
    [outcome] = campaign(toys("run_by_hash", check_percent=100, jobs=1), [5])

    assert outcome.identity == "determinism:digest"
    assert "PYTHONMALLOC=malloc" in outcome.violations[0].text
    assert decode_case(outcome.case.encode()).seed == 5


def test_a_digest_that_does_not_is_left_alone_and_few_are_checked() -> None:
    assert not any(outcome.violations for outcome in campaign(toys(check_percent=100), [1, 2]))
    assert not any(outcome.violations for outcome in campaign(toys("run_by_hash", check_percent=0), [1, 2]))


# -- sums --------------------------------------------------------------------------------------------------------------


def outcomes(*results: Result) -> list[Outcome]:
    return [
        Outcome(
            seed=each.case.seed, profile=each.case.profile, digest=each.digest, virtual_ms=each.virtual_ms, steps=each.steps,
            tasks=each.tasks, faults=each.faults, violations=each.violations, figures=each.figures,
        )
        for each in results
    ]  # fmt: skip


def test_the_summary_names_each_identity_with_its_seeds_and_commands() -> None:
    tally = Tally("storm")
    early = violation(kind="early", subject="t2")
    for seed in range(30):
        case = toy_runs.plan(seed)
        shown = [violation()] * (seed % 2) + [early] * (seed == 4)
        for outcome in outcomes(result(case, *shown)):
            tally.add(outcome)

    lines = tally.lines(wall_s=7.5, cases={LOST: "sim failures/tasks.lost-1.json"})

    assert lines[0].startswith("30 seeds in 7.5 s, 14,400 an hour: 0.25 virtual hours, ")
    assert lines[1:] == [
        "16 seeds with violations:",
        "  tasks:lost: 15 seeds: 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, …",
        "    task t1 is lost",
        "    foliot sim replay 1 --profile storm",
        "    foliot sim shrink 'sim failures/tasks.lost-1.json'",
        "  tasks:early: 1 seeds: 4",
        "    task t2 is early",
        "    foliot sim replay 4 --profile storm",
    ]


def test_what_never_happened_is_named() -> None:
    tally = Tally()
    for outcome in outcomes(toy_runs.run(toy_runs.plan(1)), toy_runs.run(toy_runs.plan(2))):
        tally.add(outcome)

    assert tally.figures == {"fault.crash": 2, "fault.partition": 0}
    assert tally.never(["fault.crash", "fault.partition", "point.commit"]) == ["fault.partition", "point.commit"]


def test_a_seed_is_one_json_object() -> None:
    [outcome] = outcomes(toy_runs.run(toy_runs.plan(3)))

    assert line_of(outcome) == {
        "seed": 3,
        "profile": "swarm",
        "digest": f"{3:032x}",
        "virtual_s": 30.0,
        "steps": 13,
        "tasks": 4,
        "faults": 2,
        "violations": [{"oracle": "tasks", "kind": "lost", "subject": "t1", "text": "task t1 is lost"}],
    }


def test_an_exception_is_told_in_a_line_with_its_place() -> None:
    try:
        raise ExceptionGroup("several", [ValueError("one\ntwo"), KeyError("x")])
    except ExceptionGroup as error:
        text = describe(error)

    assert text.startswith("ValueError: one two")


# -- stored cases ------------------------------------------------------------------------------------------------------


def test_stored_cases_run_in_order_and_those_that_still_fail_are_seen(tmp_path: Path) -> None:
    for seed in (13, 2, 3):
        store_case(tmp_path, replace(toy_runs.plan(seed), expect=LOST))
    (tmp_path / "notes.txt").write_text("not a case")

    checked = [(path.name, len(found.violations)) for path, found in check_cases(tmp_path, toy_runs.run)]

    assert checked == [("tasks.lost-13.json", 1), ("tasks.lost-2.json", 0), ("tasks.lost-3.json", 1)]
    assert load_cases(tmp_path)[1][1] == replace(toy_runs.plan(2), expect=LOST)


def test_a_stored_case_whose_run_raises_has_failed(tmp_path: Path) -> None:
    store_case(tmp_path, toy_runs.plan(1))

    [(path, found)] = check_cases(tmp_path, toy_runs.run_badly)

    assert (path.name, found.identity) == ("case-1.json", "run:ValueError")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoCaseError, match=r"there is no .*none', expected a folder of cases"):
        load_cases(tmp_path / "none")
