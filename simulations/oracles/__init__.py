"""The invariants: passive observers of a run, each incremental and deterministic."""

from __future__ import annotations

from typing import Final

from ..history import Oracle
from .attempts import DeadLetters, Retries
from .bounds import Bounds, bounds_of
from .delivery import Cancelled, Once
from .edges import Hygiene, Mailbox, Unhandled
from .leases import Leases
from .limits import Limits
from .liveness import Live
from .order import Order
from .ownership import Owner, Unique
from .rows import Ledger, Legal
from .submissions import Dedupe, Lost
from .tasks import Tasks
from .times import Early, Expiry
from .watch import Watch

__all__ = ["ORACLES", "Bounds", "bounds_of", "standard"]

ORACLES: Final[tuple[type[Watch], ...]] = (
    Owner, Unique, Legal, Ledger, Lost, Dedupe, Leases, Once, Early, Expiry, Retries, DeadLetters, Cancelled, Limits, Order,
    Mailbox, Unhandled, Hygiene, Live,
)  # fmt: skip
"""All of them, those first whose violations explain those of others."""


def standard(bounds: Bounds | None = None) -> list[Oracle]:
    """Return a set of all oracles for one run, always in the same order."""
    tasks = Tasks()
    return [oracle(bounds, tasks) for oracle in ORACLES]
