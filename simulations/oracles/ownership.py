"""Who may commit for a shard, and the names it hands out: epochs, task ids, attempt tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...runtime.ids import shard_of
from ..history import Claimed, Committed, Observation, TakenBack
from .watch import Watch

Holder = tuple[str, int]
"""(process, boot)"""


class Owner(Watch):
    """One process commits under an epoch, the one that claimed it; and nobody commits under an older one."""

    name = "owner"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._owners: dict[int, tuple[int, Holder]] = {}  # shard → (highest epoch claimed, by whom)
        self._has_forgotten = False
        return {Claimed: self._claimed, Committed: self._committed, TakenBack: self._taken_back}

    def _claimed(self, seen: Claimed) -> None:
        before = self._owners.get(seen.shard)
        if before is not None and seen.epoch != before[0] + 1:
            text = f"shard {seen.shard} was claimed under epoch {seen.epoch} by {seen.process} after epoch {before[0]}"
            self.violated("epoch", seen.at_ns, seen.shard, text)
        if before is None or seen.epoch > before[0]:
            self._owners[seen.shard] = (seen.epoch, (seen.process, seen.boot))

    def _committed(self, seen: Committed) -> None:
        who = f"{seen.process} (boot {seen.boot})"
        if (seen.changes.shard, seen.changes.epoch) != (seen.shard, seen.epoch):
            text = f"{who} committed rows of shard {seen.changes.shard} as shard {seen.shard}"
            self.violated("mixed", seen.at_ns, seen.shard, text)
        owner = self._owners.get(seen.shard)
        if owner is None and self._has_forgotten:
            self._owners[seen.shard] = (seen.epoch, (seen.process, seen.boot))
        elif owner is None or seen.epoch > owner[0]:
            text = f"{who} committed to shard {seen.shard} under epoch {seen.epoch}, which nobody claimed"
            self.violated("unclaimed", seen.at_ns, seen.shard, text)
            self._owners[seen.shard] = (seen.epoch, (seen.process, seen.boot))
        elif seen.epoch < owner[0]:
            text = f"{who} committed to shard {seen.shard} under epoch {seen.epoch}, though {owner[1][0]} holds {owner[0]}"
            self.violated("stale", seen.at_ns, seen.shard, text)
        elif owner[1] != (seen.process, seen.boot):
            text = f"{who} committed to shard {seen.shard} under epoch {seen.epoch} of {owner[1][0]} (boot {owner[1][1]})"
            self.violated("shared", seen.at_ns, seen.shard, text)

    def _taken_back(self, seen: TakenBack) -> None:
        self._owners.clear()  # claims may have gone with the commits, so who commits next is where it starts from
        self._has_forgotten = True


class Unique(Watch):
    """Ids grow within their shard and name it; a task's attempt numbers never come again."""

    name = "unique"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._last: dict[int, int] = {}  # shard → newest id
        return {Committed: self._committed, TakenBack: self._taken_back}

    def _committed(self, seen: Committed) -> None:
        if seen.changes.inserted:
            last = self._last.get(seen.shard, 0)
            for row in seen.changes.inserted:
                task_id: int = row[0]
                if shard_of(task_id) != seen.shard:
                    self.broken("shard", seen.at_ns, task_id, f"was made by shard {seen.shard}, not the one its id names")
                if task_id <= last:
                    self.broken("not_growing", seen.at_ns, task_id, f"was made by shard {seen.shard} after a greater id")
                last = max(last, task_id)
            self._last[seen.shard] = last
        for step in self.tasks.steps:
            if step.leased and step.task.attempt <= step.was_attempt and not step.task.is_shaken:
                text = f"was leased as attempt {step.task.attempt} after attempt {step.was_attempt}: a token used twice"
                self.broken("token", seen.at_ns, step.task.id, text)

    def _taken_back(self, seen: TakenBack) -> None:
        self._last.clear()
        for table in (self.tasks.tasks, self.tasks.gone):
            for task in table.values():
                self._last[task.shard] = max(self._last.get(task.shard, 0), task.id)
