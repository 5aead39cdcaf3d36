"""Each command measures what it promises, on a small scale; no figure of time is judged."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from foliot.benchmarks.cli import bench
from foliot.benchmarks.jobs import AT_BYTES, PAYLOAD_BYTES, Jobs, pad
from foliot.benchmarks.numbers import medians, percentile
from foliot.benchmarks.place import file_system_of, machine, peak_rss_mb, rss_mb, scratch
from foliot.benchmarks.report import lines_of
from foliot.benchmarks.stages import STAGES, StageClock
from foliot.runtime.rng import Rng

FLOOR = """
import json, sys
assert sys.argv[2] == "lease"
print("hello")
print(json.dumps({"tasks_per_s": int(sys.argv[1])}))
"""

CLUSTER_FLOOR = """
import json, os, sys
assert sys.argv[2] == "lease"
assert os.environ["NATS"].startswith("nats://127.0.0.1:")
assert os.environ["DSN"].startswith("postgresql://")
print(json.dumps({"tasks_per_s": int(sys.argv[1])}))
"""


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command in a folder and return the JSON it printed, once it is sure that it left nothing there."""
    result = invoke(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(result.stdout)
    assert list(folder.iterdir()) == []
    assert figures["machine"]["cores"] >= 1
    return figures


def invoke(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(bench, [*arguments, "--dir", str(folder)])


def test_throughput_says_how_many_and_where_the_time_went(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    floor = tmp_path / "floor.py"
    floor.write_text(FLOOR)

    figures = measure(
        folder, "throughput", "--tasks", "600", "--repeat", "1", "--seed", "7", "--singles", "20", "--together", "100",
        "--backlog", "400", "--profile", "--floor", str(floor),
    )  # fmt: skip

    assert figures["seed"] == 7
    assert figures["tasks"] == 600
    for name in (
        "tasks_per_s", "submit_while_running_per_s", "submit_per_s", "submit_one_per_s", "submit_64_per_s", "commits",
        "rows_per_commit", "cpu_us_per_task", "rss_mb", "backlog_tasks_per_s", "backlog_small_tasks_per_s", "backlog_rss_mb",
    ):  # fmt: skip
        assert figures[name] > 0, name
    assert figures["floor_tasks_per_s"] == 600
    assert figures["floor_ratio"] == pytest.approx(figures["tasks_per_s"] / 600, abs=0.001)
    assert figures["backlog_ratio"] > 0
    stages = figures["us_per_task"]
    assert {*STAGES, "loop_thread", "store_threads", "store_busy", "gc", "wall"} == set(stages)
    assert sum(stages[name] for name in STAGES) == pytest.approx(stages["loop_thread"], abs=0.2)
    assert figures["hot"]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder another user can get to: root's database runs as somebody else."""
    with scratch(tempfile.gettempdir()) as folder:
        path = Path(folder)
        path.chmod(0o711)
        (path / "empty").mkdir(mode=0o711)
        yield path


def test_a_cluster_is_measured_by_process_and_against_a_floor_on_its_servers(open_path: Path) -> None:
    floor = open_path / "floor.py"
    floor.write_text(CLUSTER_FLOOR)

    figures = measure(
        open_path / "empty", "throughput", "--cluster", "--tasks", "600", "--repeat", "1", "--slots", "8", "--profile",
        "--floor", str(floor),
    )  # fmt: skip

    used = figures["cpu_us_per_task"]
    assert {"client", "node", "worker", "nats", "postgres", "all"} == set(used)
    assert used["all"] == pytest.approx(sum(used.values()) - used["all"], abs=0.1)
    assert used["node"] > 0
    assert figures["tasks"] == figures["floor_tasks_per_s"] == 600
    assert figures["floor_ratio"] == pytest.approx(figures["tasks_per_s"] / 600, abs=0.001)
    assert {"node-1", "worker-1", "client"} == set(figures["profiles"])
    assert figures["profiles"]["node-1"]["stages"]["store_loop"] > 0
    assert figures["profiles"]["worker-1"]["hot"]


def test_the_latency_of_a_cluster_and_of_questions_about_100_tasks(open_path: Path) -> None:
    figures = measure(
        open_path / "empty", "latency", "--cluster", "--repeat", "1", "--slots", "8", "--seconds", "0.5", "--rate", "200",
        "--queries", "5", "--nodes", "2", "--workers", "2",
    )  # fmt: skip

    assert figures["tasks"] == 100
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["max_ms"]
    assert 0 < figures["query_100_p50_ms"] <= figures["query_100_p95_ms"]
    assert set(figures["idle_percent"]) == {"client", "node", "worker", "nats", "postgres"}


def test_latency_from_inside_and_from_another_process(tmp_path: Path) -> None:
    inside = measure(tmp_path, "latency", "--repeat", "2", "--rate", "200", "--seconds", "0.1")
    outside = measure(tmp_path, "latency", "--repeat", "1", "--rate", "200", "--seconds", "0.1", "--socket")

    for figures in (inside, outside):
        assert figures["tasks"] == 20
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
        assert figures["submit_p50_ms"] > 0
    assert [run["tasks"] for run in inside["runs"]] == [20, 20]
    assert inside["p50_ms"] == pytest.approx(sum(run["p50_ms"] for run in inside["runs"]) / 2)


def test_timers_are_late_but_never_early(tmp_path: Path) -> None:
    figures = measure(
        tmp_path, "timers", "--repeat", "1", "--tasks", "200", "--singles", "3", "--lead-ms", "300", "--encode"
    )  # fmt: skip

    for prefix, tasks in (("", 200), ("spread_", 200), ("alone_", 3)):
        assert figures[f"{prefix}tasks"] == tasks
        assert figures[f"{prefix}early"] == 0
        late = [figures[f"{prefix}late_{name}_ms"] for name in ("p50", "p95", "p99", "max")]
        assert late[0] >= 0
        assert late == sorted(late)


def test_ticks_says_what_the_next_tick_of_each_kind_of_rule_costs(tmp_path: Path) -> None:
    figures = measure(tmp_path, "ticks", "--questions", "50", "--repeat", "1", "--seed", "7")

    assert figures["questions"] == 50
    for name in ("interval_us", "cron_us", "cron_daily_p99_us", "calendar_skip_us", "calendar_moved_us", "new_rule_us"):
        assert figures[name] > 0, name


def test_schedules_are_put_start_again_and_all_fire_at_the_same_second(tmp_path: Path) -> None:
    figures = measure(
        tmp_path, "schedules", "--size", "700", "--stored", "600", "--peak", "300", "--precise", "7", "--lead-ms", "1500",
        "--profile", "--seed", "7",
    )  # fmt: skip

    put, stored, peak = figures["put"], figures["stored"], figures["peak"]
    assert put["schedules"] == 700
    assert put["active"] == 702  # with the first one, and the one that beats
    assert stored["schedules"] == 600
    assert peak["schedules"] == 300
    assert peak["precise"] == 7
    for part, names in (
        (put, ("put_per_s", "loop_us", "cpu_us", "rss_mb")),
        (stored, ("fill_per_s", "startup_s", "rss_mb")),
        (peak, ("peak_s", "loop_us", "cpu_us", "rss_mb")),
    ):
        for name in names:
            assert part[name] > 0, name
    for name in ("early", "precise_early", "lost", "duplicates"):
        assert peak[name] == 0, name
    assert peak["balanced"] is True
    for prefix in ("", "precise_"):
        late = [peak[f"{prefix}late_{name}_ms"] for name in ("p50", "p95", "p99", "max")]
        assert late[0] >= 0
        assert late == sorted(late)
    for part in (put, peak):
        stages = part["us_per_schedule"]
        assert stages["shard_submit"] > 0
        assert sum(stages[name] for name in STAGES) == pytest.approx(stages["loop_thread"], abs=0.2)
        assert part["hot"]


def test_a_part_of_the_schedules_can_be_left_out(tmp_path: Path) -> None:
    figures = measure(tmp_path, "schedules", "--size", "0", "--stored", "0", "--peak", "20", "--precise", "0",
                      "--lead-ms", "1000", "--repeat", "2")  # fmt: skip

    assert "put" not in figures
    assert "stored" not in figures
    assert [run["lost"] for run in figures["peak"]["runs"]] == [0, 0]
    assert "precise_late_max_ms" not in figures["peak"]


def test_memory_stores_timers_starts_with_them_and_runs_many_at_once(tmp_path: Path) -> None:
    figures = measure(
        tmp_path, "memory", "--tasks", "2000", "--queries", "7", "--running", "60", "--hold", "0.3"
    )  # fmt: skip

    assert figures["timers"] == 2_000
    for name in ("insert_per_s", "insert_rss_mb", "startup_s", "rss_mb", "query_p95_ms", "list_p95_ms"):
        assert figures[name] > 0, name
    assert figures["list_worst_p95_ms"] == max(figures["list_by_filter_p95_ms"].values())
    assert figures["running_at_once"] == 60
    assert figures["running_started_twice"] == 0
    assert figures["sessions_lost"] == 0
    assert figures["balanced"] is True


def test_a_crash_loses_nothing(tmp_path: Path) -> None:
    figures = measure(tmp_path, "crash", "--tasks", "300", "--kills", "1", "--seed", "3")

    assert figures["kills"] == len(figures["recoveries_s"]) == 1
    for name in ("lost", "duplicates", "not_witnessed", "accepted_twice", "dedupe_broken", "unanswered"):
        assert figures[name] == 0, name
    assert figures["balanced"] is True
    assert figures["recovery_s"] > 0


def test_a_measurement_that_fails_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    result = invoke(tmp_path, "timers", "--repeat", "1", "--tasks", "20000", "--lead-ms", "100")

    assert result.exit_code == 1
    assert "the measurement 'timers_instant' ended with code 1 and no figures" in result.output
    assert list(tmp_path.iterdir()) == []


def test_payloads_have_the_size_they_should_have() -> None:
    jobs, rng = Jobs(), Rng(1)
    late = pad(rng, taken=AT_BYTES)

    assert len(jobs.noop.encode((), {"pad": pad(rng)})) == PAYLOAD_BYTES
    assert len(jobs.due.encode((), {"at_ns": time.time_ns(), "pad": late})) == PAYLOAD_BYTES


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert [percentile(values, share) for share in (0, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]
    assert percentile([], 50) == 0.0


def test_medians_go_figure_by_figure_and_keep_words() -> None:
    runs = [
        {"a": 1, "deep": {"b": 1.0}, "word": "x", "flag": True},
        {"a": 9, "deep": {"b": 5.0}, "word": "y", "flag": True},
        {"a": 2, "deep": {"b": 2.0}, "word": "z", "flag": False, "new": 4},
    ]

    assert medians(runs) == {"a": 2, "deep": {"b": 2.0}, "word": "z", "flag": False, "new": 4}


def test_a_scratch_folder_goes_even_when_the_run_is_interrupted(tmp_path: Path) -> None:
    def run() -> None:
        with scratch(str(tmp_path)) as folder:
            Path(folder, "bench.db").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_told(tmp_path: Path) -> None:
    found = machine(str(tmp_path))

    assert found.python.count(".") == 2
    assert found.file_system == file_system_of(str(tmp_path))
    assert f"{found.cores} cores" in str(found)
    assert 0 < rss_mb() <= peak_rss_mb()


def test_the_stage_clock_counts_work_and_not_waiting() -> None:
    with StageClock(lines=True) as stages:
        time.sleep(0.05)
        end_ns = time.thread_time_ns() + 50_000_000
        while time.thread_time_ns() < end_ns:
            pass

    spent = stages.us_per_task(1)
    assert 45_000 < spent["loop_thread"] < 90_000
    assert sum(spent[name] for name in STAGES) == pytest.approx(spent["loop_thread"], abs=1)
    assert "test_the_stage_clock" in stages.hot(1)[0]


def test_a_report_names_every_figure() -> None:
    text = "\n".join(lines_of({"early": 0, "us_per_task": {"client": 3.25}, "hot": ["a line"], "runs": [{}]}))

    assert "must be 0" in text
    assert "client" in text
    assert "a line" in text
    assert "runs" not in text
