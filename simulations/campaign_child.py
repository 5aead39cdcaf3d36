"""A process of a campaign: reads a seed from each line of standard input, plans and runs it.

It answers with two lines: the case, before it is run, so that it is known even if the run ends this process; then the
outcome. Started as `python -m foliot.simulations.campaign_child RUN PLAN PROFILE`, the first two as module:function.
Nothing that the code under test prints can get between the answers: its standard output is this process's standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import msgspec

from .campaign import Outcome
from .case import Case, encode_case
from .history import Violation
from .safe_run import RAN, Run, describe, safely


def outcomes_of(seed: int, profile: str, plan: Callable[[int, str], Case], run: Run) -> Iterator[str | Outcome]:
    """Yield the encoded case of a seed, then its outcome. Never raises: a plan that does is a violation, `run:plan`."""
    try:
        case = plan(seed, profile)
        yield encode_case(case).decode()
    except Exception as error:
        broken = Violation(oracle=RAN, kind="plan", at_ns=0, subject="", text=describe(error))
        yield from ("", Outcome(seed=seed, profile=profile, violations=[broken]))
        return
    result = safely(run)(case)
    yield Outcome(
        seed=seed,
        profile=case.profile,
        digest=result.digest,
        virtual_ms=result.virtual_ms,
        steps=result.steps,
        tasks=result.tasks,
        faults=result.faults,
        violations=result.violations,
        figures=result.figures,
    )


def main() -> None:
    run_name, plan_name, profile = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this decides when it ends
    run, plan = _load(run_name), _load(plan_name)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        for part in outcomes_of(int(line), profile, plan, run):
            answers.write(msgspec.json.encode(part) + b"\n")
            answers.flush()


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


if __name__ == "__main__":
    main()
