"""The ledger's arithmetic: counters as they are kept, and a recount from rows. Knows no database."""

from __future__ import annotations

from typing import Final

from ..actors.messages import LedgerEntry
from ..actors.states import State

_FINALS: Final = tuple([state.label for state in State if state.is_final])
_COUNTED: Final = ("accepted", "fired", *_FINALS)
_PURGED: Final = {"fired_purged": "fired", **{f"purged_{label}": label for label in _FINALS}}


def entries(counters: list[tuple[str, str, str, int]], running: dict[tuple[str, str], int]) -> list[LedgerEntry]:
    """Return what (tenant, queue, what, count) rows say; what is neither final nor in `running` waits."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for tenant, queue, what, count in counters:
        counts = found.setdefault((tenant, queue), {})
        if what in _COUNTED:
            counts[what] = counts.get(what, 0) + count
    for place, counts in found.items():
        ended = sum([counts.get(label, 0) for label in _FINALS])
        counts["running"] = running.get(place, 0)
        counts["waiting"] = counts.get("accepted", 0) - ended - counts["running"]
    return [LedgerEntry(tenant, queue, **found[tenant, queue]) for tenant, queue in sorted(found)]


def recounted(
    rows: list[tuple[str, str, str | None, int, int]],
    ticks: list[tuple[str, str, int]],
    counters: list[tuple[str, str, str, int]],
) -> list[LedgerEntry]:
    """Return what is there: `rows` of tasks as (tenant, queue, label of a final state or None, state, count), `ticks` that
    made a task, and of the counters those of what was purged."""
    found: dict[tuple[str, str], dict[str, int]] = {}

    def add(tenant: str, queue: str, what: str, count: int) -> None:
        counts = found.setdefault((tenant, queue), {"accepted": 0})
        counts[what] = counts.get(what, 0) + count
        if what != "fired":
            counts["accepted"] += count

    for tenant, queue, label, state, count in rows:
        add(tenant, queue, label or ("running" if state == State.RUNNING else "waiting"), count)
    for tenant, queue, count in ticks:
        add(tenant, queue, "fired", count)
    for tenant, queue, what, count in counters:
        if what in _PURGED:
            add(tenant, queue, _PURGED[what], count)
    return [LedgerEntry(tenant, queue, **found[tenant, queue]) for tenant, queue in sorted(found)]
