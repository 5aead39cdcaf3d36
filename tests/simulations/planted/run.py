"""Hunts every planted bug and prints how long each could hide: `python -m tests.simulations.planted.run`.

Ends with `caught N of M`, and with exit code 1 if a bug was missed, a mutant of the harness went unnoticed, or the canary
did not sing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Final

from foliot.simulations.run import run

from .bug import Bug, Catch, hunt
from .queue_bugs import BUGS as QUEUE_BUGS
from .store_bugs import BUGS as STORE_BUGS
from .task_bugs import BUGS as TASK_BUGS

BUGS: Final[tuple[Bug, ...]] = (*STORE_BUGS, *TASK_BUGS, *QUEUE_BUGS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Hunt the planted bugs.")
    parser.add_argument("words", nargs="*", help="only bugs whose name contains one of these")
    parser.add_argument("--seeds", type=int, default=0, help="at most so many seeds for each bug, instead of its own budget")
    options = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if not options.words or any(word in bug.name for word in options.words)]
    print(f"{'bug':<42} {'seeds':>5} {'seconds':>8}  caught by", flush=True)
    caught = 0
    for bug in bugs:
        begun = time.monotonic()
        catch = hunt(bug, run, seeds=options.seeds)
        caught += catch.identity != ""
        print(line_of(catch, time.monotonic() - begun), flush=True)
    print(f"caught {caught} of {len(bugs)}")
    return 0 if caught == len(bugs) else 1


def line_of(catch: Catch, seconds: float) -> str:
    what = catch.identity or "MISSED"
    if catch.shared and not catch.identity:
        what += f" (seen without it as well: {', '.join(catch.shared)})"
    return f"{catch.bug:<42} {catch.seeds:>5} {seconds:>8.1f}  {what}"


if __name__ == "__main__":
    sys.exit(main())
