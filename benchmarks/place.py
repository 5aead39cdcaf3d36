"""Where a benchmark runs: the machine, the folder for its files, and how much memory a process holds.

Files lie in a folder of their own below the current one, since a temporary folder is often memory and would flatter every
durable commit. The folder is removed whatever happens.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """What figures depend on."""

    cores: int
    python: str
    sqlite: str
    system: str
    file_system: str
    event_loop: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores, Python {self.python}, SQLite {self.sqlite}, {self.event_loop}, "
            f"{self.system}, files on {self.file_system}"
        )


def machine(folder: str) -> Machine:
    """Return what this machine is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cores=cores,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        system=f"{platform.system()} {platform.machine()}",
        file_system=file_system_of(folder),
        event_loop="uvloop" if has_uvloop() else "asyncio",
    )


def has_uvloop() -> bool:
    return find_spec("uvloop") is not None


def file_system_of(path: str) -> str:
    """Return the kind of file system a path lies on, `unknown` where the system does not say."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    for fields in (line.split() for line in mounts):
        point = fields[1].replace("\\040", " ")
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, fields[2]
    return kind


@contextmanager
def scratch(parent: str) -> Iterator[str]:
    """Make a folder below `parent` for the time of the block."""
    folder = tempfile.mkdtemp(prefix=".foliot-bench-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rss_mb() -> float:
    """Return the memory this process holds now, in MB of 2**20 bytes; its peak where the system tells no more."""
    return _status_mb("VmRSS:")


def peak_rss_mb() -> float:
    """Return the most memory this process held so far."""
    return _status_mb("VmHWM:")


def _status_mb(field: str) -> float:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(field):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    units = 1 if sys.platform == "darwin" else 1024  # bytes there, KB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / (1 << 20), 1)
