"""CPU time of other processes, as the system counts it: of a process with all its threads, and of whole families.

A family's time is what its members used, those included that ended and were waited for. Where the system tells nothing
(no /proc), it is 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from ..sdk.server_process import children_of

_TICK_NS = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)


def process_ns(pid: int) -> int:
    """Return what a process used so far, with its children that ended; 0 if it is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the name may contain anything
    return sum(int(field) for field in fields[11:15]) * _TICK_NS


def family_ns(pid: int) -> int:
    """Return what a process and its living children used so far."""
    return process_ns(pid) + sum(process_ns(child) for child in children_of(pid))


class CpuMeter:
    """What some processes use while its block runs. `read`: by name, how to read what each used so far."""

    def __init__(self, read: Mapping[str, Callable[[], int]]) -> None:
        self._read = dict(read)
        self.took_ns = 0
        self.used_ns: dict[str, int] = {}

    def __enter__(self) -> CpuMeter:
        self.start_ns = time.perf_counter_ns()
        self._before = {name: read() for name, read in self._read.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.used_ns = {name: max(read() - self._before[name], 0) for name, read in self._read.items()}
        self.took_ns = time.perf_counter_ns() - self.start_ns

    def us_per_task(self, tasks: int) -> dict[str, float]:
        """Return µs of CPU for each task by process, and of all together."""
        found = {name: round(used / tasks / 1e3, 2) for name, used in self.used_ns.items()}
        return found | {"all": round(sum(self.used_ns.values()) / tasks / 1e3, 2)}

    @property
    def cores(self) -> float:
        return round(sum(self.used_ns.values()) / max(self.took_ns, 1), 2)
