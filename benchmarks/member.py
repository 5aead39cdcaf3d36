"""A process of a cluster under measurement: acts as `foliot …`, and says where its CPU time goes.

SIGUSR1 begins to look at it, SIGUSR2 ends that and writes what was found, as JSON, into a file named after the process in
the folder that FOLIOT_BENCH_FOLDER names; figures are per task, of which there are FOLIOT_BENCH_TASKS. Both signals come
from the benchmark that started it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from ..sdk.cli import main
from .stages import StageClock

FOLDER_VARIABLE: Final = "FOLIOT_BENCH_FOLDER"
TASKS_VARIABLE: Final = "FOLIOT_BENCH_TASKS"
PROGRAM: Final = "import sys; from foliot.benchmarks.member import run; sys.exit(run())"


class Found(msgspec.Struct, frozen=True):
    """`stages`: µs of CPU for each task, as StageClock tells them; `hot`: by function, as rows of text."""

    stages: dict[str, float]
    hot: list[str]


def found_file(folder: str, pid: int) -> Path:
    return Path(folder, f"{pid}.json")


def read_found(path: Path) -> Found:
    return msgspec.json.decode(path.read_bytes(), type=Found)


def run() -> int | None:
    """Run the command line. Returns: its exit code."""
    clocks: list[StageClock] = []

    def begin(_: int, __: FrameType | None) -> None:
        clock = StageClock(lines=True)
        clock.__enter__()
        clocks.append(clock)

    def end(_: int, __: FrameType | None) -> None:
        clock = clocks.pop()
        clock.__exit__(None, None, None)
        tasks = int(os.environ[TASKS_VARIABLE])
        path = found_file(os.environ[FOLDER_VARIABLE], os.getpid())
        made = path.with_suffix(".new")
        made.write_bytes(msgspec.json.encode(Found(clock.us_per_task(tasks), clock.hot(tasks))))
        made.rename(path)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    code: int | None = main()
    return code


if __name__ == "__main__":
    sys.exit(run())
