"""What an oracle has to allow for in a particular run: clocks that differ, messages under way, faults that delay.

An oracle that is too strict costs trust, one that is too lax finds nothing; so every allowance has a name here, and a value
that follows from the case. Faults that delay or lose messages and commits are known by their times: outside of these a
run is held to what a quiet one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..case import (
    Block,
    Case,
    ClockDrift,
    ClockFreeze,
    ClockStep,
    Crash,
    FailOver,
    Lossy,
    Partition,
    Pause,
    RowLock,
    Slow,
    StoreTrouble,
    Submit,
)

Labels = tuple[tuple[str, str], ...]
_FOREVER_MS: Final = 1 << 50
_FOUND_AGAIN_MS: Final = 3_000  # a database server that is back, by all nodes


@dataclass(frozen=True)
class Bounds:
    """Allowances of one run; the defaults are those of a quiet one. Instants are milliseconds of simulated time."""

    skew_ms: int = 0
    """The most two readings of wall clocks differ by at one instant, set-backs and freezes included."""
    troubles: tuple[tuple[int, int], ...] = ()
    """(from, until): when messages or commits may be late or lost. Ascending, without overlaps."""
    repair_ms: int = 30_000
    """So long after trouble the protocols have noticed and repaired whatever was lost."""
    settle_ms: int = 2_000
    """So long after its commit a lowered limit of a queue need not hold yet."""
    permits_settle_ms: int = 5_000
    """The same for a tenant's limit, which travels to each queue."""
    in_flight_ms: int = 10_000
    """The longest a message can be under way: a limit set where there was none holds after so long."""
    first_limit_ms: int = 35_000
    """The same for a tenant's: queues go by its having had none for up to half a minute without hearing of it."""
    order_ms: int = 5_000
    """A task that waited so long in calm is in its queue's sight, so that order can be judged."""
    fair_slots: int = 160
    """What a tenant may get in one queue, beyond 16 slots for each multiple of its weight, while another one waits."""
    window: int = 8_192
    """How many ready tasks of one lane a shard offers; beyond half of it, tasks of a lane may be out of sight."""
    dead_ms: int = 45_000
    """So long after its worker died, in calm, a lease is over."""
    take_over_ms: int = 17_000
    """So long after an owner is gone, in calm, another one is at work."""
    undecided_ms: int = 3_000
    """The longest a tick that is due waits to be decided, in calm."""
    ordered: bool = True
    """Whether the network keeps the order of each sender's messages."""
    may_lose: bool = False
    """Whether power loss may take back commits that had returned."""
    retry_after_ms: tuple[int, ...] = ()
    """Delays that handlers of this run may choose for themselves."""
    labels: tuple[Labels, ...] = ((),)
    """The labels of each worker, as pairs."""
    slots: int = 0
    """Slots of the largest worker; a task that needs more never runs. 0: no such task."""

    def quiet_ms(self, at_ms: int) -> int:
        """Return for how long there has been no trouble at an instant: 0 within one."""
        quiet_ms = _FOREVER_MS
        for from_ms, until_ms in self.troubles:
            if from_ms > at_ms:
                break
            quiet_ms = max(at_ms - until_ms, 0)
        return quiet_ms

    def settled_ms(self, at_ms: int, span_ms: int, *, repair: bool = False) -> int:
        """Return the end of the first stretch of that length from then on that is free of trouble. `repair`: what trouble
        may have swallowed has to be repaired first."""
        start_ms = at_ms
        for from_ms, until_ms in self.troubles:
            if from_ms < start_ms + span_ms and until_ms > start_ms:
                start_ms = until_ms + (self.repair_ms if repair else 0)
        return start_ms + span_ms


def bounds_of(case: Case, *, retry_after_ms: tuple[int, ...] = (), labels: tuple[Labels, ...] = ((),)) -> Bounds:
    """Return the allowances that follow from a case. What handlers choose and workers are labelled with is not in it."""
    options = case.options
    timings = options.timings
    skew_ms = _skew_ms(case)
    # A clock that is set may cost a worker's watcher one whole interval more.
    watch_ms = timings.worker_dead_ms * (2 if skew_ms else 1)
    disordered = any(
        isinstance(fault, Lossy) and (fault.reorder or fault.duplicate or fault.delay_ms) for fault in case.faults
    )
    return Bounds(
        skew_ms=skew_ms,
        troubles=_troubles(case),
        repair_ms=2 * timings.reconcile_ms + 10_000,
        window=options.lane_window,
        dead_ms=watch_ms + timings.reconcile_ms + 5_000,
        take_over_ms=timings.node_dead_ms + 2 * timings.node_heartbeat_ms + 5_000,
        ordered=not disordered,
        may_lose=options.synchronous != "full",
        retry_after_ms=retry_after_ms,
        labels=labels,
        slots=options.concurrency if any(isinstance(work, Submit) and work.cost > 1 for work in case.work) else 0,
    )


def _skew_ms(case: Case) -> int:
    options = case.options
    span_ms = options.duration_ms + options.heal_ms
    skew_ms = 2 * options.skew_ms + 2 * abs(options.drift_ppm) * span_ms // 1_000_000 + (1 if options.drift_ppm else 0)
    for fault in case.faults:
        if isinstance(fault, ClockStep):
            skew_ms += abs(fault.by_ms)
        elif isinstance(fault, ClockFreeze):
            skew_ms += fault.for_ms
        elif isinstance(fault, ClockDrift):
            skew_ms += abs(fault.ppm) * span_ms // 1_000_000 + 1
    return skew_ms


def _troubles(case: Case) -> tuple[tuple[int, int], ...]:
    """Return the stretches in which faults delay or lose, those that overlap as one; all end when the run heals."""
    found: list[tuple[int, int]] = []
    for from_ms, until_ms in sorted(_delays(case)):
        until_ms = min(until_ms, case.options.duration_ms)
        if found and from_ms <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until_ms))
        elif until_ms > from_ms:
            found.append((from_ms, until_ms))
    return tuple(found)


def _delays(case: Case) -> Iterator[tuple[int, int]]:
    """Yield (from, until) of each fault that delays or loses. Crashes of nodes show in what is observed."""
    for fault in case.faults:
        if isinstance(fault, Pause | Slow | Partition | Block | Lossy | StoreTrouble):
            yield fault.at_ms, fault.at_ms + fault.for_ms
        elif isinstance(fault, FailOver):
            yield fault.at_ms, fault.at_ms + fault.down_ms + fault.read_only_ms + _FOUND_AGAIN_MS
        elif isinstance(fault, RowLock):
            yield fault.at_ms, fault.at_ms + fault.for_ms + _FOUND_AGAIN_MS
        elif isinstance(fault, Crash) and fault.process == "db":
            yield fault.at_ms, fault.at_ms + fault.down_ms if fault.down_ms >= 0 else case.options.duration_ms
