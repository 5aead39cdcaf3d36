"""Other processes: a measurement in one of its own, and the end of what was started."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final

import msgspec

from .plan import Plan

_END_GRACE_S: Final = 10


class PartFailedError(RuntimeError):
    """A measurement ended without figures."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"the measurement {name!r} ended with code {code} and no figures; what it said is above")
        self.code = code


def command(name: str, plan: Plan) -> list[str]:
    """Return the command line that runs a part. -P: the current folder is no place to import from."""
    return [sys.executable, "-P", "-m", "foliot.benchmarks.part", name, msgspec.json.encode(plan).decode()]


def run(name: str, plan: Plan) -> dict[str, Any]:
    """Run a part in a process of its own and return its figures. Raises: PartFailedError."""
    process = subprocess.Popen(command(name, plan), stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate()
    finally:
        end(process)
    if process.returncode or not output.strip():
        raise PartFailedError(name, process.returncode)
    figures: dict[str, Any] = msgspec.json.decode(output.strip().splitlines()[-1])
    return figures


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, by force if it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
