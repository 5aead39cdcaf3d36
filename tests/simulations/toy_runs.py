"""Small functions in place of the whole cluster: a case's result follows from its entries alone.

`campaign_child` imports this module by name too, so it stands on its own.
"""

from __future__ import annotations

import os

from foliot.simulations.case import Case, Crash, Fault, Options, Partition, Submit, Work
from foliot.simulations.history import Violation
from foliot.simulations.result import Result
from foliot.simulations.trace import Trace

LOST = "tasks:lost"


def result(case: Case, *violations: Violation, digest: str = "") -> Result:
    tasks = sum(entry.count for entry in case.work if isinstance(entry, Submit))
    figures = {"fault.crash": sum(isinstance(fault, Crash) for fault in case.faults), "fault.partition": 0}
    return Result(
        case=case, digest=digest or f"{case.seed:032x}", virtual_ms=case.options.duration_ms, steps=10 + case.seed,
        tasks=tasks, faults=len(case.faults), violations=list(violations), figures=figures,
    )  # fmt: skip


def violation(at_ms: int = 0, kind: str = "lost", subject: str = "t1") -> Violation:
    return Violation(oracle="tasks", kind=kind, at_ns=at_ms * 1_000_000, subject=subject, text=f"task {subject} is {kind}")


def plan(seed: int, profile: str = "") -> Case:
    """Every fifth seed crashes n1 once there is work, which `run` takes for a bug."""
    faults: list[Fault] = [
        Crash(at_ms=2_000, process="n1" if seed % 5 == 3 else "n2"),
        Partition(9_000, [["n1"], ["n2"]], 500),
    ]
    work: list[Work] = [Submit(at_ms=1_000, ref="a", count=4)]
    return Case(seed=seed, profile=profile or "swarm", options=Options(duration_ms=30_000), faults=faults, work=work)


def plan_badly(seed: int, profile: str = "") -> Case:
    raise LookupError(f"no plan for {seed}")


def run(case: Case, *, keep_trace: bool = False, level: int = 1) -> Result:
    """Lose a task if n1 crashes after a submission."""
    crashes = [fault for fault in case.faults if isinstance(fault, Crash) and fault.process == "n1"]
    if case.work and crashes and crashes[0].at_ms >= case.work[0].at_ms:
        return result(case, violation(crashes[0].at_ms + 500))
    return result(case)


def run_badly(case: Case, *, keep_trace: bool = False, level: int = 1) -> Result:
    """Raise, hang, die and print, by seed."""
    match case.seed:
        case 1:
            raise ValueError("boom")
        case 2:
            while True:
                pass
        case 4:
            os._exit(9)
        case _:
            print("a product that prints")
            return run(case)


def run_by_hash(case: Case, *, keep_trace: bool = False, level: int = 1) -> Result:
    """Depend on the interpreter's own hash, as a product that iterates a set would."""
    return result(case, digest=f"{hash('a name') & (1 << 128) - 1:032x}")


def traced() -> list[bytes]:
    """Return the trace of a small story: a task is submitted, leased, lost with its worker."""
    trace = Trace(keep=True)
    ms = 1_000_000
    for name in ("db", "n1", "n2", "w1", "client"):
        trace.cause = -1
        trace.note(0, name, 1, "start")
    submit = trace.note(100 * ms, "client", 1, "submit", ref="a", count=1)
    sent = trace.note(
        100 * ms, "client", 1, "send", src="client", to="shard.3", msg="submit", rx=["n1"], at=[101 * ms], lost=""
    )
    trace.note(102 * ms, "n1", 1, "commit", shard=3, epoch=1, rows=1, tasks=["0abc000000001"], states=["queued"])
    trace.note(103 * ms, "client", 1, "submitted", ref="a", ids=["0abc000000001"], outcome="ok")
    trace.cause = sent
    trace.note(110 * ms, "n1", 1, "send", src="shard.3", to="worker.w1", msg="run", rx=["w1"], at=[111 * ms], lost="")
    body = trace.note(111 * ms, "w1", 1, "body", task="0abc000000001", attempt=1, handler="toy")
    trace.cause = -1
    fault = trace.note(150 * ms, "w1", 1, "fault", what="crash", process="w1", how="kill", down_ms=1_000)
    trace.note(150 * ms, "w1", 1, "kill")
    trace.cause = -1
    trace.note(160 * ms, "n2", 1, "fault", what="partition", sides=[["n1"], ["n2"]], for_ms=200)
    trace.note(1_150 * ms, "w1", 2, "start")
    trace.cause = fault
    trace.note(1_200 * ms, "n1", 1, "mystery", odd=3)
    trace.note(
        1_300 * ms,
        "",
        0,
        "violation",
        oracle="tasks",
        kind="lost",
        subject="0abc000000001",
        text="task 0abc000000001 is lost",
    )
    assert (submit, body) == (5, 10)
    return trace.finish()
