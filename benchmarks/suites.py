"""What each command measures: its parts, how often, and how their figures come together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from .backlog import BacklogPlan
from .children import run
from .crash import CrashPlan
from .latency import LatencyPlan
from .memory import InsertPlan, StartPlan
from .numbers import medians
from .place import scratch
from .schedules import PeakPlan, PutPlan, StoredPlan
from .sleepers import SleepersPlan
from .throughput import LifecyclePlan, SubmitPlan
from .ticks import TicksPlan
from .timers import AlonePlan, InstantPlan, SpreadPlan

SMALL_BACKLOG = 100_000


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Common to all commands. `folder`: where the temporary folder is made."""

    seed: int
    repeat: int
    folder: str = "."
    shards: int = 2
    concurrency: int = 2_000
    encode: bool = False
    show_progress: bool = False

    def common(self, folder: str) -> dict[str, Any]:
        """Return what every plan is told. `folder`: of this run alone."""
        return {
            "folder": os.path.abspath(folder),
            "seed": self.seed,
            "shards": self.shards,
            "concurrency": self.concurrency,
            "encode": self.encode,
            "show_progress": self.show_progress,
        }


def repeated(settings: Settings, measure: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of several runs, each in an empty folder, and the runs themselves. `measure`: gets what every
    plan is told."""
    runs = []
    for _ in range(settings.repeat):
        with scratch(settings.folder) as folder:
            runs.append(measure(settings.common(folder)))
    return medians(runs) | ({"runs": runs} if len(runs) > 1 else {})


def throughput(
    settings: Settings,
    *,
    tasks: int,
    floor: str | None = None,
    backlog: int = 0,
    stages: bool = True,
    hot: bool = False,
    submit: bool = True,
    singles: int = 2_000,
    together: int = 20_000,
) -> dict[str, Any]:
    """`floor`: a script that does the least that must be done, run around each of ours, so that both see the same
    machine. `stages`: a further run that says where the time went; `hot`: by function."""

    def measure(common: dict[str, Any]) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        before = floor_tasks_per_s(floor, tasks, common["folder"]) if floor else 0
        figures |= run("throughput", LifecyclePlan(**common, tasks=tasks))
        if floor:
            after = floor_tasks_per_s(floor, tasks, common["folder"])
            figures["floor_tasks_per_s"] = round((before + after) / 2)
            figures["floor_ratio"] = round(figures["tasks_per_s"] * 2 / (before + after), 3)
        return figures

    figures = repeated(settings, measure)
    if submit:

        def measure_submit(common: dict[str, Any]) -> dict[str, Any]:
            return run("submit", SubmitPlan(**common, tasks=tasks, one_by_one=singles, together=together))

        figures |= {name: value for name, value in repeated(settings, measure_submit).items() if name != "runs"}
    if stages or hot:
        with scratch(settings.folder) as folder:
            found = run("throughput", LifecyclePlan(**settings.common(folder), tasks=tasks, stages=True, hot=hot))
        figures["us_per_task"] = found["us_per_task"]
        figures["us_per_task"]["wall"] = round(1e6 / found["tasks_per_s"], 2)
        if hot:
            figures["hot"] = found["hot"]
    if backlog:
        figures |= _backlog(settings, backlog)
    return figures


def floor_tasks_per_s(script: str, tasks: int, folder: str) -> int:
    """Run a floor script, `SCRIPT N lease`, and return the `tasks_per_s` of the JSON line it prints."""
    output = subprocess.run(
        [sys.executable, os.path.abspath(script), str(tasks), "lease"],
        stdout=subprocess.PIPE, check=True, text=True, cwd=folder,
    ).stdout  # fmt: skip
    return int(msgspec.json.decode(output.strip().splitlines()[-1])["tasks_per_s"])


def _backlog(settings: Settings, tasks: int) -> dict[str, Any]:
    """Work off a large backlog, and a small one to compare it with."""
    with scratch(settings.folder) as folder:
        small = run("backlog", BacklogPlan(**settings.common(folder), tasks=min(SMALL_BACKLOG, tasks)))
    with scratch(settings.folder) as folder:
        large = run("backlog", BacklogPlan(**settings.common(folder), tasks=tasks))
    return {
        "backlog_tasks": tasks,
        "backlog_submit_per_s": large["submit_per_s"],
        "backlog_tasks_per_s": large["tasks_per_s"],
        "backlog_small_tasks_per_s": small["tasks_per_s"],
        "backlog_ratio": round(large["tasks_per_s"] / small["tasks_per_s"], 3),
        "backlog_rss_mb": large["rss_mb"],
        "backlog_rss_full_mb": large["rss_full_mb"],
    }


def latency(settings: Settings, *, rate: int, seconds: float, outside: bool) -> dict[str, Any]:
    def measure(common: dict[str, Any]) -> dict[str, Any]:
        return run("latency", LatencyPlan(**common, rate=rate, seconds=seconds, outside=outside))

    return repeated(settings, measure)


def timers(settings: Settings, *, tasks: int, singles: int, lead_ms: int) -> dict[str, Any]:
    """The figures of the instant have no prefix."""
    instant = repeated(settings, lambda common: run("timers_instant", InstantPlan(**common, tasks=tasks, lead_ms=lead_ms)))
    spread = repeated(settings, lambda common: run("timers_spread", SpreadPlan(**common, tasks=tasks, lead_ms=lead_ms)))
    alone = repeated(settings, lambda common: run("timers_alone", AlonePlan(**common, tasks=singles)))
    return instant | _prefixed("spread_", spread) | _prefixed("alone_", alone)


def _prefixed(prefix: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in figures.items()}


def ticks(settings: Settings, *, questions: int) -> dict[str, Any]:
    return repeated(settings, lambda common: run("ticks", TicksPlan(**common, questions=questions)))


def schedules(
    settings: Settings, *, size: int, stored: int, peak: int, precise: int, lead_ms: int,
    stages: bool = False, hot: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`size`: put in one call; `stored`: in the file of a fresh process; `peak`: due at once, `precise` of them of high
    precision. 0 leaves a part out. The file of the second part is filled through the client, too."""

    def measure_put(common: dict[str, Any]) -> dict[str, Any]:
        return run("schedules_put", PutPlan(**common, schedules=size, stages=stages, hot=hot))

    def measure_stored(common: dict[str, Any]) -> dict[str, Any]:
        filled = run("schedules_put", PutPlan(**common, schedules=stored))
        return {"fill_per_s": filled["put_per_s"]} | run("schedules_start", StoredPlan(**common, schedules=stored))

    def measure_peak(common: dict[str, Any]) -> dict[str, Any]:
        plan = PeakPlan(
            **common, schedules=peak, precise=min(precise, peak), lead_ms=lead_ms, stages=stages, hot=hot
        )  # fmt: skip
        return run("schedules_peak", plan)

    figures: dict[str, Any] = {}
    if size:
        figures["put"] = repeated(settings, measure_put)
    if stored:
        figures["stored"] = repeated(settings, measure_stored)
    if peak:
        figures["peak"] = repeated(settings, measure_peak)
    return figures


def memory(settings: Settings, *, tasks: int, queries: int, running: int, hold_s: float) -> dict[str, Any]:
    def measure(common: dict[str, Any]) -> dict[str, Any]:
        figures = run("memory_insert", InsertPlan(**common, tasks=tasks))
        first_id = figures.pop("first_id")
        return figures | run("memory_start", StartPlan(**common, first_id=first_id, tasks=tasks, queries=queries))

    def measure_running(common: dict[str, Any]) -> dict[str, Any]:
        return run("sleepers", SleepersPlan(**(common | {"concurrency": running}), tasks=running, hold_s=hold_s))

    figures = repeated(settings, measure)
    if running:
        found = repeated(settings, measure_running)
        figures["runs"] = [*figures.get("runs", []), *found.pop("runs", [])]
        figures |= found
        if not figures["runs"]:
            del figures["runs"]
    return figures


def crash(settings: Settings, *, tasks: int, kills: int) -> dict[str, Any]:
    """Each run has moments of its own. A median would hide the one run that lost something, so the worst counts."""
    seeds = iter(range(settings.seed, settings.seed + settings.repeat))

    def measure(common: dict[str, Any]) -> dict[str, Any]:
        seed = next(seeds)
        return run("crash", CrashPlan(**(common | {"seed": seed}), tasks=tasks, kills=kills)) | {"seed": seed}

    figures = repeated(settings, measure)
    runs = figures.get("runs", [figures])
    for name in ("lost", "duplicates", "not_witnessed", "accepted_twice", "dedupe_broken", "unanswered", "recovery_s"):
        figures[name] = max(each[name] for each in runs)
    figures["balanced"] = all(each["balanced"] for each in runs)
    return figures
