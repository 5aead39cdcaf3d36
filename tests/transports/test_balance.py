"""The ledger balances although ticks make tasks that the edge never sees."""

from __future__ import annotations

import msgspec
from foliot.actors.messages import LedgerEntry
from foliot.transports.balance import Baseline, EdgeSnapshot, balance

KEY = ("acme", "default")
COUNTERS = LedgerEntry(*KEY, accepted=10, waiting=4, completed=6, fired=7)
RECOUNT = LedgerEntry(*KEY, accepted=10, waiting=4, completed=6, fired=7)


def texts(
    edge: tuple[int, int], *, counters: LedgerEntry = COUNTERS, recount: LedgerEntry = RECOUNT,
    baseline: Baseline | None = None,
) -> list[str]:  # fmt: skip
    snapshot = EdgeSnapshot({KEY: edge})
    verified = balance(
        [counters], [recount], baseline=baseline or Baseline(), before=snapshot, after=snapshot, since_ms=0
    )
    return [difference.text for difference in verified.differences]


def test_what_ticks_made_is_not_asked_of_the_edge() -> None:
    assert texts((3, 0)) == []
    assert texts((2, 1)) == []


def test_a_task_is_missing_although_ticks_made_more_than_the_edge_promised() -> None:
    assert texts((4, 0)) == [
        "acme/default: the edge promised 4 tasks, the store has accepted 3 besides 7 that ticks made: 1 are missing"
    ]


def test_a_task_that_neither_a_tick_nor_the_edge_made_comes_from_nowhere() -> None:
    assert texts((2, 0)) == [
        "acme/default: the store has accepted 3 tasks besides 7 that ticks made, the edge let in 2 and 0 have no known"
        " outcome: 1 came from nowhere"
    ]


def test_only_ticks_since_the_baseline_count() -> None:
    baseline = Baseline.of([
        LedgerEntry(*KEY, accepted=3, completed=3, fired=2), LedgerEntry(*KEY, accepted=1, waiting=1, fired=1)
    ])  # fmt: skip
    snapshot = EdgeSnapshot({KEY: (2, 0)})

    verified = balance([COUNTERS], [RECOUNT], baseline=baseline, before=snapshot, after=snapshot, since_ms=0)

    [line] = verified.lines
    assert verified.balanced
    assert (line.stored, line.fired, line.edge) == (6, 4, 2)


def test_ticks_are_recounted_exactly() -> None:
    lost = msgspec.structs.replace(RECOUNT, fired=6)

    assert texts((3, 0), recount=lost) == ["acme/default: the counters say 7 fired, the rows 6"]
