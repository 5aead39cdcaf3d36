"""A shard's turn as SQLite takes it: rows as flat lists of cells, made on the event loop.

Rows are `WIDTH` wide. Tasks' rows come in four lists, those of schedules in four more, all other rows in one with a number
in front that says what they are. Binding costs 50 ns for an integer, 90 for a text or bytearray, but 530 for bytes and 400
for None, hence the zeros and bytearrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from ..actors.rows import ShardChanges
from .sqlite_schedule_turn import ScheduleCells, has_schedules

WIDTH: Final = 10
SMALL_MAX: Final = 4  # rows of tasks, and as many of ticks: up to here a statement each is faster than a step for all
_NOTHING: Final = bytearray()
_NO_CELLS: Final[list[Any]] = []  # never changed

(FENCE, KIND, ATTEMPT, PAYLOAD, DEDUPE, REQUEST, PROGRESS, LOG, PURGED, QUEUE, TENANT, LEDGER, REVIVED) = range(1, 14)
INBOX: Final = 17  # after those of `sqlite_schedule_turn`


class Turn:
    """One turn's rows as they are bound: made on the event loop while the group before is being written."""

    __slots__ = (
        "counts", "ended", "epoch", "has_rare_schedules", "has_schedules", "inserted", "is_rare", "is_small", "last_id",
        "leased", "moved", "others", "rows", "schedule_moves", "schedules", "shard", "ticks", "ticks_ended",
    )  # fmt: skip

    def __init__(self, changes: ShardChanges) -> None:
        shard = self.shard = changes.shard
        self.epoch = changes.epoch
        self.inserted = _wide(changes.inserted)
        self.leased = _wide(changes.leased)
        self.moved = _wide(changes.moved)
        self.ended = _wide(changes.ended)
        if changes.inserted:
            self.inserted[9::WIDTH] = map(bytearray, self.inserted[9::WIDTH])
        if changes.ended:
            for column in (5, 6):
                self.ended[column::WIDTH] = [
                    bytearray(data) if data else _NOTHING for data in self.ended[column::WIDTH]
                ]
        last_id = max(changes.inserted)[0] if changes.inserted else 0
        self.has_schedules = has_schedules(changes)
        self.has_rare_schedules = False
        self.schedules = self.schedule_moves = self.ticks = self.ticks_ended = _NO_CELLS
        if self.has_schedules:
            cells = ScheduleCells(changes)
            self.schedules, self.schedule_moves = _wide(cells.schedules), _wide(cells.moves)
            self.ticks, self.ticks_ended = _wide(cells.ticks), _wide(cells.ticks_ended)
            last_id = max(last_id, cells.last_id)
            self.has_rare_schedules = bool(cells.others)
        self.last_id = last_id
        others: list[tuple[Any, ...]] = [(FENCE, shard, self.epoch, last_id)]
        if changes.kinds:
            others += [(KIND, kind.template_id, kind.tenant, kind.template.handler, kind.template.queue,
                        kind.template.pool, _json(kind)) for kind in changes.kinds]  # fmt: skip
        if changes.attempts:
            others += [(ATTEMPT, *row) for row in changes.attempts]
        if changes.payloads:
            others += [(PAYLOAD, *row) for row in changes.payloads]
        if changes.dedupe:
            others += [(DEDUPE, shard, *row) for row in changes.dedupe]
        if changes.requests:
            others += [(REQUEST, shard, *row) for row in changes.requests]
        if changes.progress:
            others += [(PROGRESS, *row) for row in changes.progress]
        if changes.logs:
            others += [(LOG, *row) for row in changes.logs]
        if changes.revived:
            others += [(REVIVED, task_id) for task_id in changes.revived]
        if changes.purged:
            others += [(PURGED, task_id) for task_id in changes.purged]
        if changes.queues:
            others += [(QUEUE, config.pool, config.queue, shard, _json(config)) for config in changes.queues]
        if changes.tenants:
            others += [(TENANT, config.tenant, shard, _json(config)) for config in changes.tenants]
        if changes.inbox is not None:
            others.append((INBOX, shard, changes.inbox.stream, changes.inbox.position, changes.inbox.stamp))
        self.is_rare = len(others) > 1
        if self.has_schedules:
            others += cells.others
        self.counts = [(shard, *key, by) for key, by in changes.ledger.items() if by]
        others += [(LEDGER, *row) for row in self.counts]
        padding = (0,) * WIDTH
        self.others = list(chain.from_iterable([(row + padding)[:WIDTH] for row in others]))
        of_tasks = (len(self.inserted) + len(self.leased) + len(self.moved) + len(self.ended)) // WIDTH
        self.is_small = of_tasks <= SMALL_MAX and len(self.counts) <= SMALL_MAX and not self.is_rare
        self.rows = of_tasks + len(self.others) // WIDTH
        if self.has_schedules:
            of_ticks = (len(self.schedule_moves) + len(self.ticks) + len(self.ticks_ended)) // WIDTH
            if of_ticks > SMALL_MAX or self.schedules or self.has_rare_schedules:
                self.is_small = False
            self.rows += of_ticks + len(self.schedules) // WIDTH


def _wide(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the cells of rows, each filled up with zeros."""
    if not rows:
        return []
    if len(rows[0]) == WIDTH:
        return list(chain.from_iterable(rows))
    cells: list[Any] = [0] * (len(rows) * WIDTH)
    for column, values in enumerate(zip(*rows, strict=True)):
        cells[column::WIDTH] = values
    return cells


def _json(message: Any) -> str:
    return msgspec.json.encode(message).decode()
