"""Cases and events in words, for people: what was broken when, what was asked for, what happened.

Tolerant, since traces outlive versions: what is not known is told by its name and fields.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .case import (
    Backfill,
    Block,
    BrokerTrouble,
    BrokerWipe,
    Cancel,
    Case,
    ClockDrift,
    ClockFreeze,
    ClockStep,
    CommandSchedule,
    Crash,
    CrashAt,
    FailOver,
    Fault,
    Lossy,
    Options,
    Partition,
    Pause,
    Purge,
    PutSchedule,
    Retry,
    RollingRestart,
    RowLock,
    Scale,
    SetCalendar,
    SetQueue,
    SetTenant,
    Slow,
    StoreTrouble,
    Submit,
    Work,
)  # fmt: skip
from .case_edits import defaults_of

_SIZES: Final = ("nodes", "workers", "slots", "duration_ms")
_SUBMIT_TOLD: Final = ("count", "client", "tenant", "queue", "acts", "takes_ms", "effects")


def span(ms: float) -> str:
    """Return a span: `250 ms`, `2.5 s`, `3 min`."""
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    if ms < 1_000:
        return f"{sign}{ms:g} ms"
    if ms < 120_000 or (ms % 60_000 and ms < 600_000):
        return f"{sign}{round(ms / 1_000, 3):g} s"
    return f"{sign}{round(ms / 60_000, 1):g} min"


def instant(at_ns: int) -> str:
    """Return an instant of a run, in seconds with microseconds."""
    return f"{at_ns / 1e9:.6f} s"


def list_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nobody"


def fields_of(fields: dict[str, Any]) -> str:
    """Return fields as `name=value`, without the empty ones."""
    return " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None, [], {}))


# -- faults and work ---------------------------------------------------------------------------------------------------


def fault_words(fault: Fault) -> str:
    """Return what a fault does, without when it begins."""
    match fault:
        case Crash():
            return f"{_CRASHES.get(fault.how, fault.how + ' of {}').format(fault.process)}{_back(fault.down_ms)}"
        case CrashAt():
            where = f"{_ordinal(fault.nth)} passing of {fault.point or 'any point'}"
            return f"{fault.process} is killed at its {where}{_back(fault.down_ms)}"
        case Pause():
            return f"{fault.process} stands still for {span(fault.for_ms)}"
        case Slow():
            return f"{fault.process} takes {fault.step_us} us for every step, for {span(fault.for_ms)}"
        case Partition():
            sides = " | ".join(" ".join(side) for side in fault.sides)
            return f"the network is cut between {sides} for {span(fault.for_ms)}"
        case Block():
            fate = "held back" if fault.hold else "lost"
            return f"messages from {fault.source} to {fault.target} are {fate} for {span(fault.for_ms)}"
        case Lossy():
            parts = [f"{value / 10:g} % {name}" for name, value in _lossy(fault) if value]
            parts += [f"delayed by {span(fault.delay_ms)}"] if fault.delay_ms else []
            return f"{_links(fault)} are bad for {span(fault.for_ms)}: {', '.join(parts) or 'nothing'}"
        case ClockStep():
            way = "forward" if fault.by_ms >= 0 else "back"
            return f"the wall clock of {fault.machine} is set {way} by {span(abs(fault.by_ms))}"
        case ClockFreeze():
            return f"the wall clock of {fault.machine} stands still for {span(fault.for_ms)}"
        case ClockDrift():
            return f"the clocks of {fault.machine} run {abs(fault.ppm)} ppm {'fast' if fault.ppm >= 0 else 'slow'}"
        case StoreTrouble():
            parts = [f"{fault.refused / 10:g} % refused"] if fault.refused else []
            parts += [f"{fault.unknown / 10:g} % of commits unanswered"] if fault.unknown else []
            parts += [f"{span(fault.slow_ms)} slower"] if fault.slow_ms else []
            return f"the store is in trouble for {span(fault.for_ms)}: {', '.join(parts) or 'nothing'}"
        case FailOver():
            return f"the database fails over: away for {span(fault.down_ms)}, then read-only for {span(fault.read_only_ms)}"
        case RowLock():
            return f"the row of shard {fault.shard} is held by another session for {span(fault.for_ms)}"
        case BrokerTrouble():
            named = ("refused", "unanswered", "unacknowledged", "undelivered")
            parts = [f"{getattr(fault, name) / 10:g} % {name}" for name in named if getattr(fault, name)]
            return f"the broker is in trouble for {span(fault.for_ms)}: {', '.join(parts) or 'nothing'}"
        case BrokerWipe():
            return f"the broker loses {'its streams' if fault.gone == 'stream' else 'all consumers'}"


_BACKFILL_TOLD: Final = ("at_ms", "name", "tenant", "from_ms", "until_ms")
_CRASHES: Final = {"kill": "{} is killed", "power": "the machine of {} loses power", "stop": "{} is asked to stop"}


def _back(down_ms: int) -> str:
    return ", back when the run heals" if down_ms < 0 else f", back after {span(down_ms)}"


def _ordinal(number: int) -> str:
    return {1: "next", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _lossy(fault: Lossy) -> list[tuple[str, int]]:
    return [("lost", fault.loss), ("twice", fault.duplicate), ("out of order", fault.reorder)]


def _links(fault: Lossy) -> str:
    source = f" from {fault.source}" if fault.source else ""
    target = f" to {fault.target}" if fault.target else ""
    return f"links{source}{target}" if source or target else "all links"


def work_words(work: Work) -> str:
    """Return what a client or an operator does, without when."""
    match work:
        case Submit():
            told = f"{work.client} submits {work.count} tasks {work.ref!r} to {work.tenant}/{work.queue}"
            acts = f"{', then '.join(work.acts)}; take {span(work.takes_ms)}; {work.effects} effects each"
            return f"{told}: {acts}{_others(work, (*_SUBMIT_TOLD, 'ref', 'at_ms'))}"
        case Cancel():
            return f"{work.client} cancels {work.ref!r}"
        case Retry():
            return f"{work.client} retries {work.ref!r}"
        case SetQueue():
            return f"{work.client} sets queue {work.queue}{_others(work, ('at_ms', 'queue', 'client'))}"
        case SetTenant():
            return f"{work.client} sets tenant {work.tenant}{_others(work, ('at_ms', 'tenant', 'client'))}"
        case Scale():
            return f"worker {work.worker} {'comes back' if work.up else 'leaves'}"
        case RollingRestart():
            return f"every node in turn is restarted, {span(work.gap_ms)} apart"
        case Purge():
            return f"what ended {span(work.older_ms)} ago or earlier is deleted"
        case PutSchedule():
            return f"schedule {work.tenant}/{work.name} is put{_others(work, ('at_ms', 'name', 'tenant'))}"
        case CommandSchedule():
            return f"schedule {work.tenant}/{work.name}: {work.action}{_others(work, ('at_ms', 'name', 'tenant', 'action'))}"
        case SetCalendar():
            return f"calendar {work.tenant}/{work.name} is set{_others(work, ('at_ms', 'name', 'tenant'))}"
        case Backfill():
            window = f"from {span(work.from_ms)} to {span(work.until_ms)} of the run"
            return f"schedule {work.tenant}/{work.name} is filled {window}{_others(work, _BACKFILL_TOLD)}"


def _others(entry: msgspec.Struct, told: tuple[str, ...]) -> str:
    """Return the values that are not the default ones and were not told."""
    defaults = defaults_of(type(entry))
    others = [(name, getattr(entry, name), value) for name, value in defaults if name not in told]
    changed = [f"{name}={found}" for name, found, value in others if found != value]
    return f" ({', '.join(changed)})" if changed else ""


def options_words(options: Options) -> str:
    """Return the cluster in a line: its size, then what is not as usual."""
    kind = "embedded, " if options.embedded else ""
    size = f"{kind}{options.nodes} nodes, {options.workers} workers, {options.slots} slots"
    return f"{size}, {span(options.duration_ms)} of work{_others(options, (*_SIZES, 'embedded'))}"


def case_words(case: Case, *, with_work: bool = True) -> list[str]:
    """Return a case in lines: the cluster, the faults and the work in order of time."""
    out = [f"seed {case.seed}, profile {case.profile}: {options_words(case.options)}"]
    out += [f"expected: {case.expect}"] if case.expect else []
    out += [f"note: {case.note}"] if case.note else []
    faults = sorted(case.faults, key=lambda fault: fault.at_ms)
    work = sorted(case.work, key=lambda entry: entry.at_ms)
    out.append(f"{len(faults)} faults{':' * bool(faults)}")
    out += [f"  {_when(fault.at_ms)}  {fault_words(fault)}" for fault in faults]
    out.append(f"{len(work)} entries of work{':' * bool(work and with_work)}")
    return [*out, *[f"  {_when(entry.at_ms)}  {work_words(entry)}" for entry in work if with_work]]


def _when(at_ms: int) -> str:
    return f"{at_ms / 1_000:9.3f} s"
