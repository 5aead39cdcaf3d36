"""`foliot sim`: what is printed, what is written, what the exit code says."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from foliot.sdk.cli import main
from foliot.simulations import cli
from foliot.simulations.campaign import Plan
from foliot.simulations.case import Case, decode_case, encode_case
from foliot.simulations.result import Result as RunResult
from msgspec.structs import replace

from . import toy_runs

Sim = Callable[..., Result]
TASK = "0abc000000001"


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sim:
    """Run `foliot sim` on the toys, in an empty folder."""

    def traced(case: Case, *, keep_trace: bool = False, level: int = 1) -> RunResult:
        result = toy_runs.run(case)
        return replace(result, lines=toy_runs.traced()) if keep_trace and result.violations else result

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr("foliot.simulations.run.run", traced)
    monkeypatch.setattr("foliot.simulations.plan.plan", toy_runs.plan)
    monkeypatch.setattr(cli, "Plan", functools.partial(Plan, run="toy_runs:run", plan="toy_runs:plan"))
    return lambda *args: CliRunner().invoke(main, ["sim", *args])


def test_the_cluster_runs_and_replays_to_the_same_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [first] = (
        CliRunner()
        .invoke(main, ["sim", "run", "--seeds", "1", "--from", "7", "--profile", "calm", "--json"])
        .stdout.splitlines()
    )

    again = CliRunner().invoke(main, ["sim", "replay", "7", "--profile", "calm", "--trace", "t", "--json"])
    page = CliRunner().invoke(main, ["sim", "timeline", "t", "-o", "t.html"])
    told = CliRunner().invoke(main, ["sim", "explain", "t"])

    run, replayed = json.loads(first), json.loads(again.stdout)
    assert list(run) == ["seed", "profile", "digest", "virtual_s", "steps", "tasks", "faults", "violations"]
    assert run["tasks"] > 0
    assert {name: run[name] for name in ("seed", "digest", "steps", "tasks", "faults")} == {
        name: replayed[name] for name in ("seed", "digest", "steps", "tasks", "faults")
    }
    assert page.exit_code == told.exit_code == 0
    assert "seed 7" in (tmp_path / "t.html").read_text()


def test_seeds_are_printed_in_order_and_failing_cases_written(sim: Sim, tmp_path: Path) -> None:
    result = sim("run", "--seeds", "10", "--from", "1", "--json", "--profile", "swarm")

    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["seed"] for line in lines] == list(range(1, 11))
    assert [line["seed"] for line in lines if line["violations"]] == [3, 8]
    assert result.exit_code == 1
    files = sorted((tmp_path / "sim-failures").iterdir())
    assert [path.name for path in files] == ["tasks.lost-3.json", "tasks.lost-8.json"]
    assert decode_case(files[0].read_bytes()).expect == "tasks:lost"


def test_the_summary_is_for_people_and_its_command_replays(sim: Sim, tmp_path: Path) -> None:
    result = sim("run", "--seeds", "30", "--out", "cases")

    assert result.exit_code == 1
    assert "30 seeds in " in result.stdout
    assert "  tasks:lost: 6 seeds: 3, 8, 13, 18, 23, 28\n" in result.stdout
    assert "    foliot sim replay 3\n" in result.stdout
    assert "    foliot sim shrink cases/tasks.lost-3.json\n" in result.stdout
    assert "30 of 30 seeds" in result.stderr
    assert sim("replay", "cases/tasks.lost-3.json").exit_code == 1


def test_seeds_without_violations_end_well(sim: Sim, tmp_path: Path) -> None:
    result = sim("run", "--seeds", "3")

    assert result.exit_code == 0
    assert result.stdout.endswith("no violations\n")
    assert not (tmp_path / "sim-failures").exists()


def test_a_span_bounds_a_campaign_without_end(sim: Sim) -> None:
    result = sim("run", "--for", "0s", "--json")

    assert (result.exit_code, result.stdout) == (0, "")


def test_figures_are_summed_and_those_never_counted_named(sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("# what must happen\nfault.crash\nfault.partition\n")

    told = sim("run", "--seeds", "3", "--coverage", "names", "--figures")
    as_json = sim("run", "--seeds", "3", "--coverage", "names", "--figures", "--json")

    assert told.stdout.endswith("never counted: fault.partition\n")
    assert "  fault.crash                                         3\n" in told.stdout
    assert json.loads(as_json.stdout.splitlines()[-1]) == {
        "figures": {"fault.crash": 3, "fault.partition": 0},
        "never": ["fault.partition"],
    }


def test_only_the_first_cases_of_an_identity_are_written(sim: Sim, tmp_path: Path) -> None:
    sim("run", "--seeds", "75")

    assert len(list((tmp_path / "sim-failures").iterdir())) == 10


def test_a_replay_tells_what_is_done_and_what_it_shows(sim: Sim, tmp_path: Path) -> None:
    result = sim("replay", "3", "--trace", "t")

    assert result.stdout.splitlines() == [
        "seed 3, profile swarm: 3 nodes, 4 workers, 8 slots, 30 s of work",
        "2 faults:",
        "      2.000 s  n1 is killed, back after 1 s",
        "      9.000 s  the network is cut between n1 | n2 for 500 ms",
        "1 entries of work",
        f"30 s of simulated time, 13 steps, 4 tasks, 2 faults took place; digest {3:032x}",
        "1 violations:",
        "      2.500 s  tasks:lost: task t1 is lost",
    ]
    assert result.exit_code == 1
    assert json.loads((tmp_path / "t").read_bytes().splitlines()[0])["seed"] == 3
    assert sim("replay", "4").exit_code == 0


def test_a_trace_replays_its_own_case(sim: Sim) -> None:
    sim("replay", "8", "--trace", "t")

    assert json.loads(sim("replay", "t", "--json").stdout)["seed"] == 8


def test_where_the_time_goes_is_told_by_function(sim: Sim) -> None:
    assert "tottime" in sim("replay", "4", "--hot").stdout


def test_a_shrunk_case_is_written_and_told(sim: Sim, tmp_path: Path) -> None:
    result = sim("shrink", "3", "-o", "small.json")

    assert result.exit_code == 0
    assert result.stdout.startswith("tasks:lost: from 2 to 1 faults, from 1 to 1 entries of work, in ")
    assert "n1 is killed" in result.stdout
    case = decode_case((tmp_path / "small.json").read_bytes())
    assert (len(case.faults), case.expect) == (1, "tasks:lost")
    assert result.stdout.endswith("foliot sim replay small.json\n")
    assert json.loads(sim("shrink", "small.json", "--json", "--budget", "1").stdout)["runs"] == 1


def test_the_stored_cases_are_run_and_those_that_fail_named(sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    for seed in (2, 3):
        (tmp_path / "cases" / f"{seed}.json").write_bytes(encode_case(toy_runs.plan(seed)))

    told, as_json = sim("corpus", "cases"), sim("corpus", "cases", "--json")

    assert told.stdout == "3.json: tasks:lost: task t1 is lost\n2 cases, 1 with violations\n"
    assert told.exit_code == as_json.exit_code == 1
    assert [json.loads(line)["violations"] for line in as_json.stdout.splitlines()] == [[], ["tasks:lost"]]


def test_a_timeline_is_written_of_a_seed_or_a_trace(sim: Sim, tmp_path: Path) -> None:
    sim("replay", "3", "--trace", "t")

    assert sim("timeline", "3").stdout == "timeline-3.html: 17 events, 1 violations\n"
    assert json.loads(sim("timeline", "t", "-o", "x.html", "--json").stdout)["events"] == 17
    assert (tmp_path / "x.html").read_text() == (tmp_path / "timeline-3.html").read_text()


def test_an_explanation_names_the_fault_or_tells_a_life(sim: Sim) -> None:
    assert "fault: w1 is killed, back after 1 s" in sim("explain", "3").stdout
    assert sim("explain", "3", "--task", TASK).stdout.startswith(f"task {TASK}:\n")
    assert len(json.loads(sim("explain", "3", "--task", TASK, "--json").stdout)["lines"]) == 4


def test_two_traces_are_compared(sim: Sim, tmp_path: Path) -> None:
    sim("replay", "3", "--trace", "a")
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes().replace(b'"rows":1', b'"rows":2'))

    differs, same = sim("diff", "a", "b"), sim("diff", "a", "a", "--json")

    assert (differs.exit_code, same.exit_code) == (1, 0)
    assert "  rows: 1 in A, 2 in B\n" in differs.stdout
    assert json.loads(same.stdout) == {"same": True, "lines": []}


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["replay", "none.json"], 1, "there is no 'none.json', expected a seed (a number) or a file"),
        (["replay", "3", "--profile", "nope"], 2, "there is no profile 'nope', expected one of swarm, "),
        (["run", "--profile", "nope"], 2, "there is no profile 'nope'"),
        (["run", "--for", "soon"], 2, "'soon'"),
        (["shrink", "4"], 2, "the case shows no violation, its violations are: none; expected a case that fails"),
        (["shrink", "3", "--expect", "a:b"], 2, "does not show the violation 'a:b', its violations are: tasks:lost"),
        (["explain", "3", "--task", "x"], 1, "no event is about task 'x', expected one of 0abc000000001"),
        (["replay", "broken"], 2, "broken holds no case: "),
        (["diff", "broken", "broken"], 2, "broken holds no trace: its first line is no header"),
        (["timeline", "cut"], 2, "cut holds no trace: line 2 is not JSON"),
        (["replay", "3", "--trace", "no/such/t"], 2, "cannot write 'no/such/t': there is no folder 'no/such'; expected"),
        (["replay", "3", "--trace", "/dev/full"], 2, "cannot write '/dev/full': No space left on device"),
        (["timeline", "3", "-o", "no/page"], 2, "cannot write 'no/page': there is no folder 'no'; expected a file in a"),
        (["timeline", "3", "-o", "/dev/full"], 2, "cannot write '/dev/full': No space left on device"),
        (["shrink", "3", "-o", "no/small"], 2, "cannot write 'no/small': there is no folder 'no'; expected a file in a"),
        (["shrink", "3", "-o", "/dev/full"], 2, "cannot write '/dev/full': No space left on device"),
        (["replay", "1" * 20], 2, f"{'1' * 19}… has 20 digits, expected a seed of at most 19, or the name of a file"),
        (["explain", "1" * 300], 2, "has 300 digits, expected a seed of at most 19"),
        (["replay", "x" * 300], 1, "expected a seed (a number) or a file"),
        (["run", "--seeds", "1", "--coverage", "binary"], 2, "cannot read 'binary': it is no text; expected a file"),
        (["corpus", "nowhere"], 1, "there is no 'nowhere', expected a folder of cases"),
    ],
)
def test_an_error_is_one_clear_line(sim: Sim, tmp_path: Path, args: list[str], code: int, words: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "broken").write_text("{\n")
    (tmp_path / "cut").write_text('{"foliot_trace":1}\n{"i":')

    result, as_json = sim(*args), sim(*args, "--json")

    assert result.exit_code == as_json.exit_code == code
    assert words in result.stderr
    assert result.stderr.startswith("foliot: ")
    assert result.stderr.count("\n") == 1
    assert set(json.loads(as_json.stderr)["error"]) == {"code", "message"}


def test_a_file_is_what_a_name_of_many_digits_may_mean(sim: Sim, tmp_path: Path) -> None:
    (tmp_path / ("2" * 20)).write_bytes(encode_case(toy_runs.plan(8)))

    assert json.loads(sim("replay", "2" * 20, "--json").stdout)["seed"] == 8


def test_nothing_is_run_that_could_not_be_written_down(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Case] = []
    monkeypatch.setattr("foliot.simulations.run.run", lambda case, **_: ran.append(case))

    for args in (["replay", "3", "--trace", "no/t"], ["timeline", "3", "-o", "no/t"], ["shrink", "3", "-o", "no/t"]):
        assert sim(*args).exit_code == 2
    assert ran == []


def test_every_seed_of_a_campaign_can_be_named(sim: Sim) -> None:
    refused = sim("run", "--seeds", "1", "--from", "1" + "0" * 19)
    done = sim("run", "--seeds", "2", "--from", "1" + "0" * 18, "--json")

    assert refused.exit_code == 2
    assert [sim("replay", str(json.loads(line)["seed"])).exit_code for line in done.stdout.splitlines()] == [0, 0]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_it_ends_quietly_once_nobody_reads_any_more(tmp_path: Path, stream: str) -> None:
    """As of `| head -1`. What goes to stderr is the progress."""
    trace = tmp_path / "a"
    trace.write_text('{"foliot_trace":1}\n')
    args = ["diff", str(trace), str(trace)] if stream == "stdout" else ["run", "--seeds", "1", "--profile", "calm"]
    command = [sys.executable, "-c", "from foliot.sdk.cli import main; main()", "sim", *args]
    reader, writer = os.pipe()
    os.close(reader)
    out, err = (writer, subprocess.PIPE) if stream == "stdout" else (subprocess.PIPE, writer)
    done = subprocess.run(command, cwd=tmp_path, stdout=out, stderr=err, timeout=60, check=False)
    os.close(writer)

    assert done.returncode == 141
    assert not (done.stderr if stream == "stdout" else done.stdout)


def test_a_folder_that_cannot_be_written_loses_no_results(sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")

    done = sim("run", "--seeds", "10", "--out", "taken/cases", "--json")

    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == list(range(10))
    assert done.stderr.count("cannot write cases to taken/cases") == 1
    assert done.exit_code == 1
