"""What a shard tells tenants of their tasks here: how many wait and how many run.

Reports are absolute, numbered, and only sent when something has changed; each is repeated once a while later, and while
tasks run, so a lost one is made good. An idle shard is silent.
"""

from __future__ import annotations

from typing import Final

from ..runtime.actor import Turn
from ..runtime.hashing import slot_of
from .addresses import tenant_address
from .messages import ReportUsage
from .table import TaskTable

_QUEUES_MAX: Final = 256  # named to a tenant that began anew


class Usage:
    """The reports of one shard, gathered for `interval_ms`."""

    def __init__(self, table: TaskTable, epoch: int, interval_ms: int) -> None:
        self._table = table
        self._epoch = epoch
        self._interval_ms = interval_ms
        self._told: dict[str, tuple[int, int]] = {}  # by tenant
        self._lately: dict[str, None] = {}  # told since the last repetition
        self._asked: dict[str, None] = {}  # tenants that began anew, and are told of their queues as well
        self._number = 0
        self.due_ms: int | None = None

    @property
    def any_to_repeat(self) -> bool:
        return bool(self._lately)

    def changed(self, now_ms: int) -> None:
        """Tasks changed: see in a while what is worth telling."""
        if self.due_ms is None:
            self.due_ms = now_ms + self._interval_ms

    def tell(self, tenant: str, now_ms: int) -> None:
        """Tell this tenant in any case, at once."""
        self._asked[tenant] = None
        self.due_ms = now_ms

    def tell_slot(self, slot: int, slots: int, now_ms: int) -> None:
        """Tell all tenants whose actors live in a slot."""
        for tenant in self._amounts():
            if slot_of(tenant_address(tenant), slots) == slot:
                self.tell(tenant, now_ms)

    def on_time(self, turn: Turn) -> None:
        """Report what has changed, if it is time."""
        if self.due_ms is None or turn.now_ms < self.due_ms:
            return
        self.due_ms = None
        all_amounts = self._amounts()
        asked, self._asked = self._asked, {}
        for tenant in asked:
            self._report(tenant, all_amounts.get(tenant, (0, 0)), turn, full=True)
            self._lately[tenant] = None
        for tenant, amounts in all_amounts.items():
            if self._told.get(tenant) != amounts:
                self._report(tenant, amounts, turn)
                self._lately[tenant] = None

    def repeat(self, turn: Turn) -> None:
        """Report again what was reported lately, and what runs."""
        lately, self._lately = self._lately, {}
        for tenant, amounts in self._amounts().items():
            if tenant in lately or (amounts[1] and tenant in self._told):
                self._report(tenant, amounts, turn)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        if self.due_ms is not None:
            self.due_ms += by_ms

    def _amounts(self) -> dict[str, tuple[int, int]]:
        amounts: dict[str, tuple[int, int]] = {}
        for counts in self._table.counts.values():
            waiting, running = amounts.get(counts.tenant, (0, 0))
            amounts[counts.tenant] = (waiting + counts.waiting, running + counts.running)
        return amounts

    def _report(self, tenant: str, amounts: tuple[int, int], turn: Turn, *, full: bool = False) -> None:
        self._told[tenant] = amounts
        self._number += 1
        queues = self._table.queues_of(tenant)[:_QUEUES_MAX] if full else []
        message = ReportUsage(self._table.shard, *amounts, self._epoch, self._number, full, queues)
        turn.send(tenant_address(tenant), message)
