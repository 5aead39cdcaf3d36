"""Whether a case says only what can be done: a file may have been edited, or be of another version.

What holds: a case that is refused names the first entry that is wrong. Without this a fault of a machine that is not there
would do nothing, and the case would pass for the wrong reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from ..actors.schedule_messages import MISSED, OVERLAPS, REPROCESS
from .case import Case, CommandSchedule, Crash, CrashAt, InvalidCaseError, Options, Submit
from .points import NAMES

DB: Final = "db"
CLIENT: Final = "client"
BROKER: Final = "broker"
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "how": ("kill", "power", "stop"),
    "point": ("", *NAMES),
    "schedule": ("random", "round_robin", "burst"),
    "synchronous": ("full", "normal"),
    "database": ("sqlite", "postgres"),
    "broker_sync": ("lazy", "always"),
    "gone": ("stream", "consumers"),
    "dst_gap": ("shift", "skip"),
    "dst_overlap": ("first", "last", "both"),
    "excluded": ("skip", "next", "previous"),
    "precision": ("high", "normal", "low"),
    "mode": ("create", "replace", "update"),
    "action": ("pause", "resume", "trigger", "delete"),
    "overlap": OVERLAPS,
    "missed": MISSED,
    "reprocess": REPROCESS,
}
_SIGNED: Final = ("by_ms", "start_ms", "from_ms", "until_ms", "anchor_ms")
_PER_THOUSAND: Final = ("loss", "duplicate", "reorder", "refused", "unknown", "unanswered", "unacknowledged", "undelivered")
_PPM: Final = ("ppm", "drift_ppm")
_FROM_ONE: Final = ("nth", "slots", "concurrency", "lane_window", "drain_max", "timers_max", "broker_waiting")
_FROM_ZERO: Final = ("workers", "count", "payload_bytes")
_MACHINES_MAX: Final = 1_000
_PPM_MAX: Final = 500_000  # a clock that stands or runs backwards never gets anywhere
_OPEN: Final = (1 << 62) - 1


def checked_case(case: Case, *, where: str = "the input") -> Case:
    """Return the case. Raises: InvalidCaseError."""
    for reason in _problems(case):
        raise InvalidCaseError(where, reason)
    return case


def _problems(case: Case) -> Iterator[str]:
    options = case.options
    yield from _numbers("options", options)
    yield from _numbers("options.timings", options.timings, least=1)
    for name in ("nodes", "workers"):
        if getattr(options, name) > _MACHINES_MAX:
            yield f"{name} is {getattr(options, name)}, expected {_MACHINES_MAX} at most (options)"
    if options.nodes < 1:
        yield f"nodes is {options.nodes}, expected 1 at least (options)"
    nodes, workers = _names("n", options.nodes), _names("w", 0 if options.embedded else options.workers)
    machines = nodes if options.embedded else [*nodes, *workers, CLIENT, DB, *([BROKER] if options.broker else [])]
    for number, fault in enumerate(case.faults):
        at = f"faults[{number}]"
        yield from _numbers(at, fault)
        servers = [DB, *([BROKER] if options.broker else [])] if isinstance(fault, Crash) else []
        processes = [*nodes, *workers, CLIENT, *servers]
        yield from _known(at, fault, "process", processes)
        for field in ("machine", "source", "target"):
            yield from _known(at, fault, field, machines)
        for name in (name for side in getattr(fault, "sides", ()) for name in side):
            if name not in machines:
                yield f"there is no machine {name!r} ({at}.sides)"
        if isinstance(fault, CrashAt) and fault.process == CLIENT and fault.point not in ("", "bus.send"):
            yield f"the client never passes {fault.point!r} ({at})"
    for number, entry in enumerate(case.work):
        at = f"work[{number}]"
        yield from _numbers(at, entry)
        yield from _known(at, entry, "worker", workers)
        if isinstance(entry, Submit) and entry.one_way and not options.broker:
            yield f"there is no broker for what is one way ({at})"


def _names(prefix: str, many: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(1, many + 1)]


def _known(at: str, entry: msgspec.Struct, field: str, known: Collection[str]) -> Iterator[str]:
    """Lossy links leave a name empty and mean all, so a default is always known."""
    name = getattr(entry, field, None)
    defaults = {one.name: one.default for one in msgspec.structs.fields(entry)}
    if name is not None and name not in known and name != defaults.get(field):
        yield f"there is no {field} {name!r} ({at})"


def _numbers(at: str, entry: msgspec.Struct, *, least: int = 0) -> Iterator[str]:
    for field in entry.__struct_fields__:
        value: Any = getattr(entry, field)
        may_be_empty = value == "" and isinstance(entry, CommandSchedule)  # by the schedule's own
        if field in _WORDS and isinstance(value, str) and value not in _WORDS[field] and not may_be_empty:
            yield f"{field} is {value!r}, expected one of {', '.join(map(repr, _WORDS[field]))} ({at})"
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        low, high = _bounds(entry, field, least)
        if not low <= value <= high:
            yield f"{field} is {value}, expected a number from {low} to {high} ({at})"


def _bounds(entry: msgspec.Struct, field: str, least: int) -> tuple[int, int]:
    if field in _PPM:
        return -_PPM_MAX if field == "ppm" else 0, _PPM_MAX
    if field in _PER_THOUSAND:
        return 0, 1_000
    if field == "down_ms":
        return -1, _OPEN
    if field in _FROM_ONE and (isinstance(entry, Options) or field == "nth"):
        return 1, _OPEN
    if field in _FROM_ZERO or (field.endswith(("_ms", "_us")) and field not in _SIGNED):
        return least, _OPEN
    return -_OPEN, _OPEN
