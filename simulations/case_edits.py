"""Small changes of a case, for shrinking: each returns a new one that is still whole.

Whole means that nothing names what was taken away: no command a submission that is gone, no fault a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from .case import Backfill, Case, CommandSchedule, Fault, PutSchedule, Submit, Work

_INSTANTS: Final = ("at_ms", "for_ms", "down_ms")
_NAMING: Final = ("ref", "process", "machine", "source", "target", "worker")
_PREFIXES: Final = {"workers": "w", "nodes": "n"}

E = TypeVar("E")


def without_dangling(before: Case, after: Case) -> Case:
    """Return a case without entries that name what was taken away: submissions, workers, nodes."""
    gone = {w.ref for w in before.work if isinstance(w, Submit)} - {w.ref for w in after.work if isinstance(w, Submit)}
    unput = _schedules(before) - _schedules(after)
    if unput:
        work = [w for w in after.work if not (isinstance(w, CommandSchedule | Backfill) and (w.tenant, w.name) in unput)]
        after = msgspec.structs.replace(after, work=work)
    for field, prefix in _PREFIXES.items():
        fewer, many = getattr(after.options, field), getattr(before.options, field)
        gone |= {f"{prefix}{number}" for number in range(fewer + 1, many + 1)}
    if not gone:
        return after
    faults = [_without_names(fault, gone) for fault in after.faults]
    return msgspec.structs.replace(
        after,
        faults=[fault for fault in faults if fault is not None],
        work=[entry for entry in after.work if isinstance(entry, Submit) or not gone & _names(entry)],
    )


def _schedules(case: Case) -> set[tuple[str, str]]:
    return {(entry.tenant, entry.name) for entry in case.work if isinstance(entry, PutSchedule)}


def _without_names(fault: Fault, gone: set[str]) -> Fault | None:
    """Return the fault without these machines, or nothing if it is about one of them."""
    sides: list[list[str]] | None = getattr(fault, "sides", None)
    if sides is None:
        return None if gone & _names(fault) else fault
    left = [names for side in sides if (names := [name for name in side if name not in gone])]
    return msgspec.structs.replace(fault, sides=left) if len(left) > 1 else None


def _names(entry: msgspec.Struct) -> set[str]:
    return {value for field in _NAMING if isinstance(value := getattr(entry, field, None), str)}


def defaults_of(kind: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that have a default, and it."""
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            yield field.name, field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            yield field.name, field.default_factory()


def rounded(entry: Fault | Work, grid_ms: int) -> Fault | Work:
    """Return the entry with its instants and spans on a grid; a span never becomes 0."""
    changes = {}
    for field in _INSTANTS:
        value = getattr(entry, field, 0)
        if value > 0:
            changes[field] = max(value // grid_ms * grid_ms, 0 if field == "at_ms" else grid_ms)
    return msgspec.structs.replace(entry, **changes)


def changed_at(entries: Sequence[E], place: int, **changes: Any) -> list[E]:
    """Return the entries with other values in one of them."""
    out: list[Any] = list(entries)
    out[place] = msgspec.structs.replace(out[place], **changes)
    return out
