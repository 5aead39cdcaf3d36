"""Figures as people read them: one a line, with what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .numbers import rounded

_MEANINGS: Final = {
    "tasks_per_s": "submitted, leased, run and completed, each step durable",
    "submit_while_running_per_s": "submissions meanwhile",
    "submit_per_s": "submissions in bulk, no worker there",
    "submit_one_per_s": "submissions one after the other, each durable before the next",
    "submit_64_per_s": "submissions by 64 callers, each of which waits for its own",
    "cpu_us_per_task": "µs of CPU in all threads, the benchmark's own included",
    "cpu_cores": "cores busy on average",
    "rows_per_commit": "rows written in one transaction, on average",
    "store_busy_us": "µs the writer was at work, waiting for the disk included",
    "floor_ratio": "share of what the floor script reached around it",
    "backlog_ratio": "throughput with the large backlog, as a share of that with a small one",
    "backlog_rss_mb": "most memory held meanwhile",
    "shard_commits": "of single shards, some of which share a transaction",
    "floor_us_per_task": "µs of CPU the floor script and the servers use for each task",
    "floor_cpu_ratio": "that, as a share of what was used here; holds on a busy machine, too",
    "query_100_p95_ms": "status of 100 tasks by their ids, in one question",
    "p50_ms": "from the call of submit to the first line of the handler",
    "submit_p50_ms": "until the submission was durable and answered",
    "early": "tasks that started before they were due; must be 0",
    "late_p50_ms": "after the instant at which all of them were due",
    "late_max_ms": "the last of them started",
    "spread_late_p99_ms": "due one after the other within a second",
    "alone_late_p95_ms": "due with nothing else going on",
    "interval_us": "the next tick of an interval, in µs",
    "cron_us": "of cron expressions of all kinds",
    "calendar_skip_us": "with business days, others skipped",
    "calendar_moved_us": "with business days, others moved to the day before",
    "new_rule_us": "of an expression that is read for the first time",
    "put_per_s": "schedules created in one call, durable",
    "loop_us": "µs of CPU of the event loop's thread for each, the benchmark's own included",
    "cpu_us": "µs of CPU in all threads for each",
    "active": "of the schedules in the file, those that wait for a tick",
    "fill_per_s": "schedules created in one call to fill the file",
    "precise_early": "those of high precision; must be 0",
    "precise_late_max_ms": "the last one of high precision started",
    "peak_s": "from the second at which all were due until the last task was completed",
    "insert_per_s": "timers stored, through the client",
    "startup_s": "from opening the file to the first new task completed",
    "rss_mb": "memory held",
    "query_p95_ms": "status of a task by its id",
    "list_p95_ms": "a page of 100 tasks, over all filters",
    "list_worst_p95_ms": "with the filter that takes longest",
    "running_at_once": "attempts at the same moment",
    "heartbeat_gap_max_s": "longest silence of the worker; every 10 s is on time, 30 s is dead",
    "sessions_lost": "times the worker was taken for dead; must be 0",
    "lost": "acknowledged tasks, or ticks, that were not completed; must be 0",
    "duplicates": "tasks with more than one accepted outcome, or ticks that fired twice; must be 0",
    "not_witnessed": "accepted outcomes of attempts that left no witness; must be 0",
    "accepted_twice": "tasks the ledger accepted beyond those acknowledged; must be 0",
    "dedupe_broken": "dedupe keys that were taken for new afterwards; must be 0",
    "started_again_percent": "starts beyond the first of a task",
    "recovery_s": "from the start of the process to a new task completed, the slowest",
}
_TITLES: Final = {
    "cpu_us_per_task": "µs of CPU for each task, by process",
    "node_us_per_task": "µs in the nodes for each task, by actor and message; store: its threads and waiting for the disk",
    "idle_percent": "percent of a core while nothing is going on, by process",
    "stages": "µs of CPU of the event loop's thread for each task, by stage",
    "us_per_task": "µs of CPU for each task, by stage",
    "us_per_schedule": "µs of CPU for each schedule, by stage",
    "put": "put in one call",
    "stored": "a start with a file of schedules",
    "peak": "all due at the same second",
}
_HIDDEN: Final = frozenset({"runs", "seed"})


def lines_of(figures: dict[str, Any], indent: str = "  ") -> Iterator[str]:
    """Yield the lines of a report."""
    for name, value in figures.items():
        if name in _HIDDEN:
            continue
        if isinstance(value, dict):
            yield f"{indent}{_TITLES.get(name, name)}"
            yield from lines_of(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{name}"
            yield from [f"{indent}  {each}" for each in value]
        else:
            shown = f"{rounded(value):,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            yield f"{indent}{name:<28} {shown:>12}  {_MEANINGS.get(name, '')}".rstrip()
