"""A large group commit on SQLite: the turns of many shards, written by one statement.

Measured, and the reason for the shape of this module: a thread that calls SQLite gives the GIL away at every step and
waits for it afterwards, up to a whole switch interval when the event loop is busy. So the number of steps matters more
than what they do. One `insert` puts all rows of the group, whatever they mean, into a narrow table in memory; its last
row fires a trigger that checks the epochs and applies everything, table by table; the same step commits and waits for the
disk. Against a busy thread that is three times as fast as one statement for each table.

Tasks' rows come first, in four ranges whose ends the last row carries: inserted, leased, moved, ended. Then come four
ranges of schedules: schedules, moves, ticks, ticks ended. All others follow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from ..actors.states import State
from . import sqlite_schedule_turn
from .sqlite_turn import (
    ATTEMPT,
    DEDUPE,
    FENCE,
    INBOX,
    KIND,
    LEDGER,
    LOG,
    PAYLOAD,
    PROGRESS,
    PURGED,
    QUEUE,
    REQUEST,
    REVIVED,
    TENANT,
    WIDTH,
    Turn,
)  # fmt: skip

_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
MAX_STAGED: Final = _SIZES[-1]  # rows to a statement, 20,480 variables; larger groups take several
STALE: Final = "stale epoch"
_GO: Final = -1
_RARE_FLAG: Final = 1
_SCHEDULES_FLAG: Final = 2
_RARE_SCHEDULES_FLAG: Final = 4
GONE: Final = "a task to be revived was deleted"

LABELS_SQL: Final = "case state {} end".format(
    " ".join([f"when {int(state)} then '{state.label}'" for state in State if state.is_final])
)
_COMMON: Final = f"""
create temp trigger go_apply instead of insert on go begin
    select raise(abort, '{STALE}') from stage left join shards on shards.shard = c2
        where n > new.others and c1 = {FENCE} and epoch is not c3;
    update shards set last_id = c4 from stage
        where n > new.others and c1 = {FENCE} and c4 > 0 and shards.shard = c2 and c4 > last_id;
    insert into tasks (id, shard, state, template_id, due_ms, lane, priority, attempt, spent, interruptions, cancelling,
            updated_ms, started_ms, ended_ms, key, dedupe_key, session, result, error)
        select c1, c1 >> 12 & 1023, c3, c2, c5, c7, c4, 0, 0, 0, 0, c6, 0, 0, c8, c9, '', x'', x''
        from stage where n <= new.inserted;
    insert into payloads (id, payload) select c1, c10 from stage where n <= new.inserted;
    update tasks set state = {int(State.RUNNING)}, attempt = c2, session = c3, updated_ms = c4
        from stage where n > new.inserted and n <= new.leased and tasks.id = c1;
    update tasks set state = c2, due_ms = c3, spent = c4, interruptions = c5, cancelling = c6, updated_ms = c7,
            ended_ms = 0, session = case c2 when {int(State.RUNNING)} then session else '' end
        from stage where n > new.leased and n <= new.moved and tasks.id = c1;
    update tasks set state = c2, spent = c3, started_ms = c4, ended_ms = c5, updated_ms = c5, result = c6, error = c7
        from stage where n > new.moved and n <= new.ended and tasks.id = c1;
    insert into go_rare select new.others where new.flags & {_RARE_FLAG};
    insert into go_schedules select new.ended, new.schedules, new.moves, new.ticks, new.others,
        new.flags & {_RARE_SCHEDULES_FLAG} where new.flags & {_SCHEDULES_FLAG};
    insert into ledger (shard, tenant, queue, what, count)
        select c2, c3, c4, c5, c6 from stage where n > new.others and c1 = {LEDGER}
        on conflict do update set count = count + excluded.count;
    delete from stage;
end
"""
_RARE: Final = f"""
create temp trigger go_apply_rare instead of insert on go_rare begin
    select raise(abort, '{GONE}') from stage
        where n > new.others and c1 = {REVIVED} and not exists (select 1 from tasks where tasks.id = c2);
    insert into kinds (template_id, tenant, handler, queue, pool, body)
        select c2, c3, c4, c5, c6, c7 from stage where n > new.others and c1 = {KIND} on conflict do nothing;
    insert into attempts (id, attempt, kind, session, started_ms, ended_ms, error)
        select c2, c3, c4, c5, c6, c7, c8 from stage where n > new.others and c1 = {ATTEMPT};
    update payloads set payload = c3
        from stage where n > new.others and c1 = {PAYLOAD} and payloads.id = c2;
    insert into dedupe (shard, tenant, key, task_id, expires_ms)
        select c2, c3, c4, c5, c6 from stage where n > new.others and c1 = {DEDUPE}
        on conflict do update set task_id = excluded.task_id, expires_ms = excluded.expires_ms;
    insert into requests (shard, request_id, answer, expires_ms)
        select c2, c3, c4, c5 from stage where n > new.others and c1 = {REQUEST}
        on conflict do update set answer = excluded.answer, expires_ms = excluded.expires_ms;
    insert into progress (id, attempt, permille, note, checkpoint, updated_ms)
        select c2, c3, c4, c5, c6, c7 from stage where n > new.others and c1 = {PROGRESS}
        on conflict do update set attempt = excluded.attempt, permille = excluded.permille, note = excluded.note,
            checkpoint = coalesce(excluded.checkpoint, checkpoint), updated_ms = excluded.updated_ms;
    insert into logs (id, attempt, part, text)
        select c2, c3, c4, c5 from stage where n > new.others and c1 = {LOG}
        on conflict do update set text = excluded.text;
    insert into ledger (shard, tenant, queue, what, count)
        select shard, tenant, queue, 'purged_' || {LABELS_SQL}, count(*)
        from (select distinct c2 as id from stage where n > new.others and c1 = {PURGED})
        cross join tasks using (id) cross join kinds using (template_id)
        where true group by shard, tenant, queue, state
        on conflict do update set count = count + excluded.count;
    delete from tasks where id in (select c2 from stage where n > new.others and c1 = {PURGED});
    delete from payloads where id in (select c2 from stage where n > new.others and c1 = {PURGED});
    delete from attempts where id in (select c2 from stage where n > new.others and c1 = {PURGED});
    delete from logs where id in (select c2 from stage where n > new.others and c1 = {PURGED});
    delete from progress where id in (select c2 from stage where n > new.others and c1 = {PURGED});
    insert into queues (pool, queue, shard, body)
        select c2, c3, c4, c5 from stage where n > new.others and c1 = {QUEUE} order by n
        on conflict do update set shard = excluded.shard, body = excluded.body;
    insert into tenants (tenant, shard, body)
        select c2, c3, c4 from stage where n > new.others and c1 = {TENANT} order by n
        on conflict do update set shard = excluded.shard, body = excluded.body;
    insert into inboxes (shard, stream, position, stamp)
        select c2, c3, c4, c5 from stage where n > new.others and c1 = {INBOX}
        on conflict do update set stream = excluded.stream, position = excluded.position, stamp = excluded.stamp;
end
"""
_SETUP: Final = (
    "create temp table stage (n integer primary key, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10)",
    "create temp view go as select 0 as inserted, 0 as leased, 0 as moved, 0 as ended, 0 as schedules, 0 as moves,"
    " 0 as ticks, 0 as others, 0 as flags",
    "create temp view go_rare as select 0 as others",
    # This one runs for every row, so it has to be small: a trigger's registers are set up each time.
    f"create temp trigger stage_go after insert on stage when new.c1 = {_GO}"
    " begin insert into go values (new.c2, new.c3, new.c4, new.c5, new.c6, new.c7, new.c8, new.c9, new.c10); end",
    _RARE,
    *sqlite_schedule_turn.SETUP,
    _COMMON,
)


class StagedWriter:
    """Writes groups of any size on one connection, which it prepares for that. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in _SETUP:
            connection.execute(statement)
        values = "(" + ",".join("?" * WIDTH) + ")"
        columns = ",".join([f"c{column}" for column in range(1, WIDTH + 1)])
        self._statements = {size: f"insert into stage ({columns}) values " + ",".join([values] * size) for size in _SIZES}

    def write(self, turns: Sequence[Turn]) -> None:
        """Write the turns in one transaction. Raises: sqlite3.IntegrityError with `STALE` if one of them is under an old
        epoch, and other errors of SQLite; then nothing was written."""
        cells = staged(turns)
        rows = len(cells) // WIDTH
        if rows <= MAX_STAGED:
            self._connection.execute(self._statements[rows], cells)
            return
        self._connection.execute("begin immediate")
        try:
            for start in range(0, rows, MAX_STAGED):
                size = min(rows - start, MAX_STAGED)
                self._connection.execute(self._statements[size], cells[start * WIDTH : (start + size) * WIDTH])
            self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise


def staged(turns: Sequence[Turn]) -> list[Any]:
    """Return the cells of a group, row after row, filled up to a size there is a statement for; the last row goes."""
    cells: list[Any] = []
    ends: list[int] = []
    for parts in (
        [turn.inserted for turn in turns],
        [turn.leased for turn in turns],
        [turn.moved for turn in turns],
        [turn.ended for turn in turns],
        [turn.schedules for turn in turns],
        [turn.schedule_moves for turn in turns],
        [turn.ticks for turn in turns],
        [turn.ticks_ended for turn in turns],
    ):
        for part in parts:
            cells += part
        ends.append(len(cells) // WIDTH)
    for turn in turns:
        cells += turn.others
    rows = len(cells) // WIDTH + 1
    last_statement = (rows - 1) % MAX_STAGED + 1
    size = next(size for size in _SIZES if size >= last_statement)
    cells += [0] * ((size - last_statement) * WIDTH)
    flags = any(turn.is_rare for turn in turns) * _RARE_FLAG
    flags |= any(turn.has_schedules for turn in turns) * _SCHEDULES_FLAG
    flags |= any(turn.has_rare_schedules for turn in turns) * _RARE_SCHEDULES_FLAG
    cells += (_GO, *ends, flags)
    return cells
