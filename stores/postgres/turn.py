"""A group of turns as PostgreSQL takes it: each table's rows as columns, which are bound as arrays.

What holds: of several rows of one thing in a turn the last one counts; a shard is in a group once. Texts that may hold a NUL
travel as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ...actors.rows import ShardChanges

Columns = list[Sequence[Any]]

_RARE: Final = (
    "kinds", "attempts", "payloads", "dedupe", "requests", "progress", "logs", "revived", "purged", "queues", "tenants"
)  # fmt: skip
_SCHEDULES: Final = (
    "schedule_moves", "ticks", "ticks_ended", "schedules", "schedules_deleted", "backfills", "calendars"
)  # fmt: skip


class Turn:
    """One turn that waits to be written."""

    __slots__ = ("changes", "epoch", "has_schedules", "is_rare", "last_id", "rows", "shard")

    def __init__(self, changes: ShardChanges) -> None:
        self.changes = changes
        self.shard = changes.shard
        self.epoch = changes.epoch
        self.last_id = max(changes.inserted)[0] if changes.inserted else 0
        rare = sum([len(getattr(changes, name)) for name in _RARE])
        of_schedules = sum([len(getattr(changes, name)) for name in _SCHEDULES])
        if of_schedules:
            made = [row.id for row in changes.schedules] + [row.id for row in changes.backfills]
            self.last_id = max([self.last_id, *made])
        self.is_rare = rare > 0
        self.has_schedules = of_schedules > 0
        self.rows = rare + of_schedules + len(changes.ledger) + len(changes.inserted) + len(changes.leased)
        self.rows += len(changes.moved) + len(changes.ended)


def fence(turns: Sequence[Turn]) -> Columns:
    """Return shards, epochs, newest ids and marks of inboxes, by shard: every group takes its locks in one order."""
    rows = []
    for turn in sorted(turns, key=_shard):
        mark = turn.changes.inbox
        place = (None, None, None) if mark is None else (mark.stream, mark.position, mark.stamp)
        rows.append((turn.shard, turn.epoch, turn.last_id, *place))
    return columns(rows, 6)


def _shard(turn: Turn) -> int:
    return turn.shard


def tasks(turns: Sequence[Turn]) -> Columns:
    """Return inserted, leased, moved and ended tasks."""
    inserted = columns([row for turn in turns for row in turn.changes.inserted], 10)
    if inserted[0]:
        inserted[7], inserted[8] = _bytes(inserted[7]), _bytes(inserted[8])
    leased = columns(_last([row for turn in turns for row in turn.changes.leased]), 4)
    if leased[0]:
        sessions = {name: name.encode() for name in dict.fromkeys(leased[2])}
        leased[2] = [sessions[name] for name in leased[2]]
    moved = columns(_last([row for turn in turns for row in turn.changes.moved]), 7)
    ended = columns(_last([row for turn in turns for row in turn.changes.ended]), 7)
    return [*inserted, *leased, *moved, *ended]


def counts(turns: Sequence[Turn]) -> Columns:
    """Return the differences of the ledger."""
    rows = [(turn.shard, *key, by) for turn in turns for key, by in turn.changes.ledger.items() if by]
    return columns(sorted(rows), 5)


def before(turns: Sequence[Turn]) -> Columns:
    """Return kinds, and the ids of tasks that are to be revived."""
    kinds = {kind.template_id: kind for turn in turns for kind in reversed(turn.changes.kinds)}
    rows = [
        (id, kind.tenant, kind.template.handler, kind.template.queue, kind.template.pool, _json(kind))
        for id, kind in sorted(kinds.items())
    ]
    revived = sorted({id for turn in turns for id in turn.changes.revived})
    return [*columns(rows, 6), revived]


def rare(turns: Sequence[Turn]) -> Columns:
    """Return attempts, payloads, dedupe keys, requests, progress, logs, purged tasks, queues and tenants."""
    every = [(turn.shard, turn.changes) for turn in turns]
    attempts = [
        (id, attempt, kind, session.encode(), started_ms, ended_ms, error)
        for _, changes in every for id, attempt, kind, session, started_ms, ended_ms, error in changes.attempts
    ]  # fmt: skip
    payloads = _last([row for _, changes in every for row in changes.payloads])
    dedupe = {
        (shard, tenant, key): (shard, tenant, key.encode(), task_id, expires_ms)
        for shard, changes in every for tenant, key, task_id, expires_ms in changes.dedupe
    }  # fmt: skip
    requests = {
        (shard, id): (shard, id.encode(), answer, expires_ms)
        for shard, changes in every for id, answer, expires_ms in changes.requests
    }  # fmt: skip
    progress: dict[int, tuple[Any, ...]] = {}
    for _, changes in every:
        for id, attempt, permille, note, checkpoint, updated_ms in changes.progress:
            if checkpoint is None and id in progress:
                checkpoint = progress[id][4]
            progress[id] = (id, attempt, permille, note.encode(), checkpoint, updated_ms)
    logs = {row[:3]: row for _, changes in every for row in changes.logs}
    purged = sorted({id for _, changes in every for id in changes.purged})
    queues = {
        (config.pool, config.queue): (config.pool, config.queue, shard, _json(config))
        for shard, changes in every for config in changes.queues
    }  # fmt: skip
    tenants = {
        config.tenant: (config.tenant, shard, _json(config)) for shard, changes in every for config in changes.tenants
    }
    return [
        *columns(attempts, 7), *columns(payloads, 2), *columns(dedupe.values(), 5), *columns(requests.values(), 4),
        *columns(progress.values(), 6), *columns(logs.values(), 4), purged, *columns(queues.values(), 4),
        *columns(tenants.values(), 3),
    ]  # fmt: skip


def schedules(turns: Sequence[Turn]) -> Columns:
    """Return everything of schedules. What is deleted in a turn is not written by it."""
    gone: dict[int, None] = {}
    rows: dict[int, tuple[Any, ...]] = {}
    moves: dict[int, tuple[Any, ...]] = {}
    ticks: list[tuple[Any, ...]] = []
    ended: dict[tuple[int, ...], tuple[Any, ...]] = {}
    backfills: dict[int, tuple[Any, ...]] = {}
    calendars: dict[tuple[str, str], tuple[Any, ...]] = {}
    for turn in turns:
        changes = turn.changes
        own = dict.fromkeys(changes.schedules_deleted)
        gone.update(own)
        for row in changes.schedules:
            if row.id not in own:
                rows[row.id] = (row.id, row.name.encode(), row.tier, row.next_ms, row.template_id, row.revision,
                                row.calendars, row.body, row.state)  # fmt: skip
        moves.update((row[0], row) for row in changes.schedule_moves)
        ticks += [msgspec.structs.astuple(row) for row in changes.ticks]
        ended.update((row[:3], row) for row in changes.ticks_ended)
        for backfill in changes.backfills:
            if backfill.schedule_id not in own:
                backfills[backfill.id] = msgspec.structs.astuple(backfill)
        for tenant, name, body, epoch, number in changes.calendars:
            calendars[tenant, name] = (tenant, name.encode(), body, epoch, number, changes.shard)
    return [
        sorted(gone), *columns(rows.values(), 9), *columns(moves.values(), 4), *columns(ticks, 7),
        *columns(ended.values(), 4), *columns(backfills.values(), 5), *columns(calendars.values(), 6),
    ]  # fmt: skip


def columns(rows: Iterable[Sequence[Any]], width: int) -> Columns:
    """Return the columns of rows, each empty if there are none."""
    return list(zip(*rows, strict=True)) or [()] * width


def _last(rows: list[Any]) -> list[Any]:
    """Return rows, of several of one id the last."""
    found = {row[0]: row for row in rows}
    return rows if len(found) == len(rows) else list(found.values())


def _bytes(texts: Sequence[str]) -> list[bytes]:
    return [text.encode() if text else b"" for text in texts]


def _json(message: Any) -> str:
    return msgspec.json.encode(message).decode()
