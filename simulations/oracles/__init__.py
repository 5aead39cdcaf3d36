"""The invariants: passive observers of a run, each incremental and deterministic."""

from __future__ import annotations

from typing import Final

from ..history import Oracle
from .attempts import DeadLetters, Retries
from .backfills import Backfills
from .bounds import Bounds, bounds_of
from .decided import Decided
from .delivery import Cancelled, Once
from .edges import Hygiene, Mailbox, Unhandled
from .inboxes import Inboxes
from .leases import Leases
from .limits import Limits
from .liveness import Live
from .order import Order
from .orders import Orders
from .overlaps import Overlaps
from .ownership import Owner, Unique
from .rows import Ledger, Legal
from .submissions import Dedupe, Lost
from .tasks import Tasks
from .ticks import Ticks
from .times import Early, Expiry
from .watch import Watch

__all__ = ["ORACLES", "Bounds", "bounds_of", "standard"]

ORACLES: Final[tuple[type[Watch], ...]] = (
    Owner, Unique, Legal, Ledger, Lost, Dedupe, Leases, Once, Early, Expiry, Retries, DeadLetters, Cancelled, Limits, Order,
    Ticks, Decided, Overlaps, Orders, Backfills, Inboxes, Mailbox, Unhandled, Hygiene, Live,
)  # fmt: skip
"""All of them, those first whose violations explain those of others."""


def standard(bounds: Bounds | None = None) -> list[Oracle]:
    """Return a set of all oracles for one run, always in the same order."""
    tasks = Tasks()
    return [oracle(bounds, tasks) for oracle in ORACLES]
