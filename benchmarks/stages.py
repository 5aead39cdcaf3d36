"""Where the microseconds went: the CPU time of the event loop's thread, by stage of a task's life.

Every millisecond a signal looks at what the thread is doing, and the CPU time it used since the last look is counted for
that stage. So the stages add up to the thread's CPU time exactly; neither waiting nor the looking itself counts. The other
threads (the store's writer, readers and checkpoints) have clocks of their own. It slows a run down a little, so it is done
in one apart.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

_ROOT: Final = str(Path(__file__).resolve().parents[1]) + "/"
_INTERVAL_S: Final = 0.001

_BY_MESSAGE: Final = {
    "SubmitTasks": "shard_submit",
    "PutSchedules": "shard_submit",
    "SchedulesRead": "shard_submit",  # what the store says of names that are put
    "GrantLeases": "shard_lease",
    "ReportOutcomes": "shard_outcome",
}
_ROOTS: Final = frozenset({"handle", "on_time", "end_turn", "started"})
_ACTORS: Final = {"ShardActor": "shard", "QueueActor": "queue", "TenantActor": "tenant", "WorkerActor": "worker_actor"}

_BY_FILE: Final = {
    "benchmarks/part.py": "loop",  # the thread's first own frame: the event loop itself
    "runtime/cell.py": "cell",
    "runtime/node.py": "cell",
    "transports/memory.py": "cell",
    "sdk/scheduler.py": "other",
    "sdk/cli.py": "loop",
    "benchmarks/member.py": "loop",
    "benchmarks/jobs.py": "worker",
    "benchmarks/stages.py": "",  # a collection of garbage that was looked at: whoever set it off
    "actors/intake.py": "shard_submit",  # done at the end of the turn
}
_BY_START: Final = (
    ("sdk/client", "client"),
    ("sdk/cli_", "loop"),
    ("sdk/cluster/", "loop"),
    ("transports/nats/", "broker"),
    ("sdk/schedule_", "client"),
    ("sdk/schedules", "client"),
    ("benchmarks/", "client"),
    ("transports/", "gateway"),
    ("stores/", "store_loop"),
)  # the rest of the SDK is the worker
_UNDECIDED: Final = frozenset(
    {
        *(f"sdk/{name}.py" for name in ("payload", "handler", "context", "options", "durations", "failure")),
        *(f"runtime/{name}.py" for name in ("clock", "rng", "ids", "hashing", "bus", "actor", "errors", "blocking")),
    }
)

_LIBRARIES: Final = (("/nats/", "broker"), ("/asyncpg/", "store_loop"))  # they have tasks of their own

STAGES: Final = (
    "client", "broker", "gateway", "tenant", "shard_submit", "shard_lease", "shard_outcome", "shard_other", "queue", "cell",
    "store_loop", "worker", "worker_actor", "loop", "other",
)  # fmt: skip


class StageClock:
    """Counts CPU time by stage while its block runs; on the main thread only."""

    def __init__(self, *, lines: bool = False) -> None:
        """`lines`: also by function, for `hot`."""
        self._lines = lines
        self._ns: Counter[str] = Counter()
        self._hot: Counter[tuple[str, str, str, int]] = Counter()
        self._known: dict[str, str] = {}
        self._last_ns = 0
        self._own_ns = 0
        self._is_looking = False
        self._gc_since_ns = 0
        self.gc_ns = 0
        self.threads_ns = 0
        self.loop_ns = 0

    def __enter__(self) -> StageClock:
        self._threads_before = _other_threads_ns()
        self._start_ns = self._last_ns = time.thread_time_ns()
        self._before = signal.signal(signal.SIGALRM, self._look)
        gc.callbacks.append(self._collecting)
        signal.setitimer(signal.ITIMER_REAL, _INTERVAL_S, _INTERVAL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        gc.callbacks.remove(self._collecting)
        self.loop_ns = time.thread_time_ns() - self._start_ns - self._own_ns
        self.threads_ns = _other_threads_ns() - self._threads_before

    def us_per_task(self, tasks: int) -> dict[str, float]:
        """Return µs of CPU for each task: by stage on the event loop's thread, then of the other threads together.

        `gc` is a part of the stages above it, not in addition."""
        seen = sum(self._ns.values()) or 1
        found = {stage: self._ns[stage] * self.loop_ns / seen / tasks / 1e3 for stage in STAGES}
        found["loop_thread"] = self.loop_ns / tasks / 1e3
        found["store_threads"] = self.threads_ns / tasks / 1e3
        found["gc"] = self.gc_ns / tasks / 1e3
        return {name: round(value, 2) for name, value in found.items()}

    def hot(self, tasks: int, count: int = 40) -> list[str]:
        """Return the functions that took most, as text: µs per task, stage, function, file and the line it is at."""
        functions: Counter[tuple[str, str, str]] = Counter()
        lines: dict[tuple[str, str, str], Counter[int]] = {}
        for (stage, path, name, line), spent in self._hot.items():
            functions[stage, path, name] += spent
            lines.setdefault((stage, path, name), Counter())[line] += spent
        rows = []
        for key, spent in functions.most_common(count):
            at = ", ".join(f"{line} ({ns / tasks / 1e3:.2f})" for line, ns in lines[key].most_common(4))
            rows.append(f"{spent / tasks / 1e3:6.2f} us  {key[0]:<14} {key[2]:<28} {key[1]}: {at}")
        return rows

    def _collecting(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._gc_since_ns = time.thread_time_ns()
        else:
            self.gc_ns += time.thread_time_ns() - self._gc_since_ns

    def _look(self, _: int, frame: FrameType | None) -> None:
        if self._is_looking:  # so slow that the next signal is here already
            return
        self._is_looking = True
        now_ns = time.thread_time_ns()
        spent = now_ns - self._last_ns
        stage = self._stage(frame)
        self._ns[stage] += spent
        if self._lines and frame is not None:
            self._hot[stage, _short(frame.f_code.co_filename), frame.f_code.co_name, frame.f_lineno] += spent
        self._last_ns = time.thread_time_ns()
        self._own_ns += self._last_ns - now_ns
        self._is_looking = False

    def _stage(self, frame: FrameType | None) -> str:
        """Return whose doing it is: the innermost frame that decides it."""
        while frame is not None:
            code = frame.f_code
            place = self._known.get(code.co_filename)
            if place is None:
                place = self._known[code.co_filename] = _place(code.co_filename)
            if place == "actor":
                if code.co_name in _ROOTS:
                    kind = _ACTORS.get(type(frame.f_locals.get("self")).__name__)
                    if kind == "shard":
                        return _BY_MESSAGE.get(type(frame.f_locals.get("message")).__name__, "shard_other")
                    if kind is not None:
                        return kind
            elif place:
                return place
            frame = frame.f_back
        return "loop"


def _place(filename: str) -> str:
    """Return the stage of a file, `actor` where the actor decides, empty where the caller does."""
    if not filename.startswith(_ROOT) or "/site-packages/" in filename:
        return next((stage for part, stage in _LIBRARIES if f"/site-packages{part}" in filename), "")
    path = filename.removeprefix(_ROOT)
    if path in _BY_FILE:
        return _BY_FILE[path]
    if path in _UNDECIDED:
        return ""
    if path.startswith("actors/"):
        return "actor"
    for start, stage in _BY_START:
        if path.startswith(start):
            return stage
    return "worker" if path.startswith("sdk/") else "other"


def _short(filename: str) -> str:
    if filename.startswith(_ROOT):
        return filename.removeprefix(_ROOT)
    return "/".join(filename.rsplit("/", 2)[-2:])


def _other_threads_ns() -> int:
    """Return the CPU time of all threads but this one that are alive."""
    total = 0.0
    if not hasattr(time, "pthread_getcpuclockid"):
        return 0
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident is not None:
            total += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return int(total * 1e9)
