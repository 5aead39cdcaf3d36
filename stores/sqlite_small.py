"""A small group commit on SQLite: a few rows, written by a statement each.

`sqlite_staged` writes any group in one step, which is what counts while the event loop is busy; but setting that step up
takes 200 us, however few rows there are, and 300 more if they are of schedules. A turn of one or two tasks, as of a single
submission on an idle machine, or of a tick that fires, is written here in a quarter of that. Same rows, same order, same
refusal; the store's contract is run against both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..actors.states import State
from .sqlite_staged import STALE
from .sqlite_turn import WIDTH, Turn

_FENCE: Final = "select 1 from shards where shard = ? and epoch = ?"
_FENCE_AND_ID: Final = "update shards set last_id = max(last_id, ?3) where shard = ?1 and epoch = ?2"
_INSERT: Final = """
insert into tasks (id, shard, state, template_id, due_ms, lane, priority, attempt, spent, interruptions, cancelling,
    updated_ms, started_ms, ended_ms, key, dedupe_key, session, result, error)
values (?1, ?1 >> 12 & 1023, ?3, ?2, ?5, ?7, ?4, 0, 0, 0, 0, ?6, 0, 0, ?8, ?9, '', x'', x'')
"""
_PAYLOAD: Final = "insert into payloads (id, payload) values (?, ?)"
_LEASE: Final = f"""
update tasks set state = {int(State.RUNNING)}, attempt = ?2, session = ?3, updated_ms = ?4 where id = ?1
"""
_MOVE: Final = f"""
update tasks set state = ?2, due_ms = ?3, spent = ?4, interruptions = ?5, cancelling = ?6, updated_ms = ?7, ended_ms = 0,
    session = case ?2 when {int(State.RUNNING)} then session else '' end where id = ?1
"""
_END: Final = """
update tasks set state = ?2, spent = ?3, started_ms = ?4, ended_ms = ?5, updated_ms = ?5, result = ?6, error = ?7
where id = ?1
"""
_MOVE_SCHEDULE: Final = "update schedules set next_ms = ?2, calendars = ?3, state = ?4 where id = ?1"
_TICK: Final = """
insert into ticks (schedule_id, tick_ms, source, revision, task_id, at_ms, outcome, template_id) values (
    ?1, ?2, ?3, ?4, ?5, ?6, ?7,
    case ?5 when 0 then 0 else coalesce((select template_id from tasks where tasks.id = ?5), 0) end)
"""
_END_TICK: Final = "update ticks set outcome = ?4 where schedule_id = ?1 and tick_ms = ?2 and source = ?3"
_COUNT: Final = """
insert into ledger (shard, tenant, queue, what, count) values (?, ?, ?, ?, ?)
on conflict do update set count = count + excluded.count
"""


def write_small(connection: sqlite3.Connection, turns: Sequence[Turn]) -> None:
    """Write turns that have no rare rows, in one transaction. Raises: sqlite3.IntegrityError with `STALE` if one of them is
    under an old epoch, and other errors of SQLite; then nothing was written."""
    execute = connection.execute
    execute("begin immediate")
    try:
        for turn in turns:
            if turn.last_id:
                is_owner = execute(_FENCE_AND_ID, (turn.shard, turn.epoch, turn.last_id)).rowcount == 1
            else:
                is_owner = execute(_FENCE, (turn.shard, turn.epoch)).fetchone() is not None
            if not is_owner:
                raise sqlite3.IntegrityError(STALE)
            for row in _rows(turn.inserted):
                execute(_INSERT, row[:9])
                execute(_PAYLOAD, (row[0], row[9]))
            for row in _rows(turn.leased):
                execute(_LEASE, row[:4])
            for row in _rows(turn.moved):
                execute(_MOVE, row[:7])
            for row in _rows(turn.ended):
                execute(_END, row[:7])
            if turn.has_schedules:
                for row in _rows(turn.schedule_moves):
                    execute(_MOVE_SCHEDULE, row[:4])
                for row in _rows(turn.ticks):
                    execute(_TICK, row[:7])
                for row in _rows(turn.ticks_ended):
                    execute(_END_TICK, row[:4])
            for count in turn.counts:
                execute(_COUNT, count)
        execute("commit")
    except BaseException:
        if connection.in_transaction:
            execute("rollback")
        raise


def _rows(cells: list[Any]) -> Iterator[list[Any]]:
    """Return the rows of wide cells."""
    return (cells[start : start + WIDTH] for start in range(0, len(cells), WIDTH))
