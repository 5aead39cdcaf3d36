"""The ledger's balance: what was accepted must have ended, or still wait or run, whoever counts.

Counts that do not know of each other are compared: the store's counters with a recount of its rows, exactly and in one
snapshot; the edge's count with the counters; the workers' counts with the counters. The last two run on while the
snapshot is taken, so they are bounds. Let `before` and `after` be an edge count read before and after the snapshot:

    before.accepted  ≤  accepted by the store since the start - fired since  ≤  after.accepted + after.unsettled

Ticks of schedules make their tasks in the shard, so the edge has not seen those; how many they are is counted apart, and
recounted from the ticks there are.

Nothing promised may be missing (left), and nothing may be there that nobody sent (right). When nothing is under way both
sides are equal, and the check is exact. Of completions only one side can be told: a shard cannot count more than handlers
finished. It may count fewer, since an attempt whose lease was lost is run again, and its first outcome is refused; a
completion that was finished but not yet stored shows as running, and is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..actors.messages import LedgerEntry, OutcomeKind
from .api import Difference, LedgerLine, LedgerVerified

Key = tuple[str, str]  # tenant, queue
WorkerCounts = Callable[[], Mapping[tuple[str, str, int], int]]
"""By tenant, queue and OutcomeKind: attempts that ended at the workers of this process, all there are, since it began."""

_FINALS: Final = ("completed", "failed", "cancelled", "dead", "expired", "skipped")


@dataclass(frozen=True)
class Baseline:
    """What had been counted when the gateway began, so that later figures are differences."""

    accepted: Mapping[Key, int] = field(default_factory=dict)
    completed: Mapping[Key, int] = field(default_factory=dict)
    fired: Mapping[Key, int] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[LedgerEntry]) -> Baseline:
        """`entries`: of all shards; several of one key are added up."""
        accepted: dict[Key, int] = {}
        completed: dict[Key, int] = {}
        fired: dict[Key, int] = {}
        for entry in entries:
            key = (entry.tenant, entry.queue)
            accepted[key] = accepted.get(key, 0) + entry.accepted
            completed[key] = completed.get(key, 0) + entry.completed
            fired[key] = fired.get(key, 0) + entry.fired
        return cls(accepted, completed, fired)


@dataclass(frozen=True)
class EdgeSnapshot:
    """The edge's and the workers' counts at one moment. `done`: completions by the workers' count. `is_whole`: no other edge
    can have let anything in; else what the store has is compared with what was promised, but not the other way."""

    edge: Mapping[Key, tuple[int, int]]  # accepted, unsettled
    done: Mapping[Key, int] | None = None
    is_whole: bool = True


def completions(counts: Mapping[tuple[str, str, int], int]) -> dict[Key, int]:
    """Return how many attempts workers completed, by tenant and queue."""
    out: dict[Key, int] = {}
    for (tenant, queue, kind), count in counts.items():
        if kind == OutcomeKind.COMPLETED:
            out[tenant, queue] = out.get((tenant, queue), 0) + count
    return out


def balance(
    counters: list[LedgerEntry],
    recount: list[LedgerEntry],
    *,
    baseline: Baseline,
    before: EdgeSnapshot,
    after: EdgeSnapshot,
    since_ms: int,
) -> LedgerVerified:
    """Compare them all. `before` and `after` were taken around the snapshot that `counters` and `recount` share."""
    by_counters = {(entry.tenant, entry.queue): entry for entry in counters}
    by_recount = {(entry.tenant, entry.queue): entry for entry in recount}
    keys = sorted({*by_counters, *by_recount, *before.edge, *after.edge, *(after.done or ())})
    lines: list[LedgerLine] = []
    differences: list[Difference] = []
    for key in keys:
        tenant, queue = key
        left = by_counters.get(key) or LedgerEntry(tenant, queue)
        right = by_recount.get(key) or LedgerEntry(tenant, queue)
        line = _line(key, left, right, baseline, after)
        lines.append(line)
        differences += _exact(left, right)
        differences += _bounds(key, line, before, after)
    return LedgerVerified(balanced=not differences, lines=lines, differences=differences, since_ms=since_ms)


def _line(key: Key, counters: LedgerEntry, recount: LedgerEntry, baseline: Baseline, after: EdgeSnapshot) -> LedgerLine:
    accepted, unsettled = after.edge.get(key, (0, 0))
    return LedgerLine(
        tenant=key[0],
        queue=key[1],
        accepted=counters.accepted,
        waiting=recount.waiting,
        running=recount.running,
        completed=counters.completed,
        failed=counters.failed,
        cancelled=counters.cancelled,
        dead=counters.dead,
        expired=counters.expired,
        skipped=counters.skipped,
        stored=counters.accepted - baseline.accepted.get(key, 0),
        edge=accepted,
        unsettled=unsettled,
        completed_since=counters.completed - baseline.completed.get(key, 0),
        done=-1 if after.done is None else after.done.get(key, 0),
        fired=counters.fired - baseline.fired.get(key, 0),
    )


def _exact(counters: LedgerEntry, recount: LedgerEntry) -> list[Difference]:
    """The store's counters against its rows, figure by figure, and the rows' own sum."""
    pairs = [("accepted", counters.accepted, recount.accepted)]
    pairs.append(("fired", counters.fired, recount.fired))
    pairs += [(name, getattr(counters, name), getattr(recount, name)) for name in _FINALS]
    pairs.append(("alive", counters.waiting + counters.running, recount.waiting + recount.running))
    out = [
        _difference(counters, what, counted, found, f"the counters say {counted} {what}, the rows {found}")
        for what, counted, found in pairs
        if counted != found
    ]
    ended = sum(getattr(counters, name) for name in _FINALS)
    alive = recount.waiting + recount.running
    if counters.accepted != ended + alive:
        text = f"{counters.accepted} were accepted, but {ended} ended and {alive} are alive, {ended + alive} together"
        out.append(_difference(counters, "balance", counters.accepted, ended + alive, text))
    return out


def _bounds(key: Key, line: LedgerLine, before: EdgeSnapshot, after: EdgeSnapshot) -> list[Difference]:
    """The edge and the workers against the store's counters."""
    entry = LedgerEntry(*key)
    out: list[Difference] = []
    promised, _ = before.edge.get(key, (0, 0))
    accepted, unsettled = after.edge.get(key, (0, 0))
    stored = line.stored - line.fired
    besides = f" besides {line.fired} that ticks made" if line.fired else ""
    if stored < promised:
        text = (
            f"the edge promised {promised} tasks, the store has accepted {stored}{besides}: {promised - stored} are missing"
        )
        out.append(_difference(entry, "edge", promised, stored, text))
    elif stored > accepted + unsettled and before.is_whole and after.is_whole:
        text = (
            f"the store has accepted {stored} tasks{besides}, the edge let in {accepted} and {unsettled} have no known"
            f" outcome: {stored - accepted - unsettled} came from nowhere"
        )
        out.append(_difference(entry, "edge", accepted + unsettled, stored, text))
    if after.done is not None and line.completed_since > line.done:
        text = f"the store counts {line.completed_since} completed tasks, workers finished {line.done}"
        out.append(_difference(entry, "workers", line.done, line.completed_since, text))
    return out


def _difference(entry: LedgerEntry, what: str, expected: int, found: int, text: str) -> Difference:
    return Difference(entry.tenant, entry.queue, what, expected, found, f"{entry.tenant}/{entry.queue}: {text}")
