"""A group commit on SQLite: the turns of many shards, written by one statement.

Measured, and the reason for the shape of this module: a thread that calls SQLite gives the GIL away at every step and
waits for it afterwards, up to a whole switch interval (5 ms) when the event loop is busy. So the number of steps
matters more than what they do. One `insert` puts all rows of the group, whatever they mean, into a narrow table in
memory; its last row fires a trigger that checks the epochs and applies everything, table by table; the same step
commits and waits for the disk. Against a busy thread that is three times as fast as one statement for each table.

Stage rows are `WIDTH` wide. Tasks' rows come first, in four ranges whose ends the last row carries: inserted, leased,
moved, ended. All other rows follow with a number in front that says what they are. Binding costs 50 ns for an integer,
90 for a text or bytearray, but 530 for bytes and 400 for None, hence the zeros and bytearrays.

What holds: a group is written whole or not at all; a turn under an old epoch refuses the group, and only then it is
looked up which turns are old, and the rest is written without them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from ..actors.rows import ShardChanges
from ..actors.states import State
from ..runtime.errors import StaleEpochError

WIDTH: Final = 10
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
MAX_STAGED: Final = _SIZES[-1]  # rows to a statement, 20,480 variables; larger groups take several
_NOTHING: Final = bytearray()

_GO: Final = -1
(_FENCE, _KIND, _ATTEMPT, _PAYLOAD, _DEDUPE, _CLEARED, _REQUEST, _PROGRESS, _LOG, _PURGED, _QUEUE, _TENANT,
 _LEDGER) = range(1, 14)  # fmt: skip
_STALE: Final = "stale epoch"

LABELS_SQL: Final = "case state {} end".format(
    " ".join([f"when {int(state)} then '{state.label}'" for state in State if state.is_final])
)
_COMMON: Final = f"""
create temp trigger go_apply instead of insert on go begin
    select raise(abort, '{_STALE}') from stage left join shards on shards.shard = c2
        where n > new.ended and c1 = {_FENCE} and epoch is not c3;
    update shards set last_id = c4 from stage
        where n > new.ended and c1 = {_FENCE} and c4 > 0 and shards.shard = c2 and c4 > last_id;
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
    insert into go_rare select new.ended where new.rare;
    insert into ledger (shard, tenant, queue, what, count)
        select c2, c3, c4, c5, c6 from stage where n > new.ended and c1 = {_LEDGER}
        on conflict do update set count = count + excluded.count;
    delete from stage;
end
"""
_RARE: Final = f"""
create temp trigger go_apply_rare instead of insert on go_rare begin
    insert into kinds (template_id, tenant, handler, queue, pool, body)
        select c2, c3, c4, c5, c6, c7 from stage where n > new.ended and c1 = {_KIND} on conflict do nothing;
    insert into attempts (id, attempt, kind, session, started_ms, ended_ms, error)
        select c2, c3, c4, c5, c6, c7, c8 from stage where n > new.ended and c1 = {_ATTEMPT};
    update payloads set payload = c3
        from stage where n > new.ended and c1 = {_PAYLOAD} and payloads.id = c2;
    insert into dedupe (shard, tenant, key, task_id, expires_ms)
        select c2, c3, c4, c5, c6 from stage where n > new.ended and c1 = {_DEDUPE}
        on conflict do update set task_id = excluded.task_id, expires_ms = excluded.expires_ms;
    delete from dedupe where rowid in (select dedupe.rowid from stage
        cross join dedupe on dedupe.shard = c2 and dedupe.tenant = c3 and dedupe.key = c4
        where n > new.ended and c1 = {_CLEARED});
    insert into requests (shard, request_id, answer, expires_ms)
        select c2, c3, c4, c5 from stage where n > new.ended and c1 = {_REQUEST}
        on conflict do update set answer = excluded.answer, expires_ms = excluded.expires_ms;
    insert into progress (id, attempt, permille, note, checkpoint, updated_ms)
        select c2, c3, c4, c5, c6, c7 from stage where n > new.ended and c1 = {_PROGRESS}
        on conflict do update set attempt = excluded.attempt, permille = excluded.permille, note = excluded.note,
            checkpoint = coalesce(excluded.checkpoint, checkpoint), updated_ms = excluded.updated_ms;
    insert into logs (id, attempt, part, text)
        select c2, c3, c4, c5 from stage where n > new.ended and c1 = {_LOG}
        on conflict do update set text = excluded.text;
    insert into ledger (shard, tenant, queue, what, count)
        select shard, tenant, queue, 'purged_' || {LABELS_SQL}, count(*)
        from (select distinct c2 as id from stage where n > new.ended and c1 = {_PURGED})
        cross join tasks using (id) cross join kinds using (template_id)
        where true group by shard, tenant, queue, state
        on conflict do update set count = count + excluded.count;
    delete from tasks where id in (select c2 from stage where n > new.ended and c1 = {_PURGED});
    delete from payloads where id in (select c2 from stage where n > new.ended and c1 = {_PURGED});
    delete from attempts where id in (select c2 from stage where n > new.ended and c1 = {_PURGED});
    delete from logs where id in (select c2 from stage where n > new.ended and c1 = {_PURGED});
    delete from progress where id in (select c2 from stage where n > new.ended and c1 = {_PURGED});
    insert into queues (pool, queue, shard, body)
        select c2, c3, c4, c5 from stage where n > new.ended and c1 = {_QUEUE} order by n
        on conflict do update set shard = excluded.shard, body = excluded.body;
    insert into tenants (tenant, shard, body)
        select c2, c3, c4 from stage where n > new.ended and c1 = {_TENANT} order by n
        on conflict do update set shard = excluded.shard, body = excluded.body;
end
"""
_SETUP: Final = (
    "create temp table stage (n integer primary key, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10)",
    "create temp view go as select 0 as inserted, 0 as leased, 0 as moved, 0 as ended, 0 as rare",
    "create temp view go_rare as select 0 as ended",
    # This one runs for every row, so it has to be small: a trigger's registers are set up each time.
    f"create temp trigger stage_go after insert on stage when new.c1 = {_GO}"
    " begin insert into go values (new.c2, new.c3, new.c4, new.c5, new.c6); end",
    _RARE,
    _COMMON,
)


class Turn:
    """One turn's rows as they are bound: made on the event loop while the group before is being written."""

    __slots__ = ("ended", "epoch", "inserted", "is_rare", "leased", "moved", "others", "rows", "shard")

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
        others: list[tuple[Any, ...]] = [(_FENCE, shard, self.epoch, last_id)]
        if changes.kinds:
            others += [(_KIND, kind.template_id, kind.tenant, kind.template.handler, kind.template.queue,
                        kind.template.pool, _json(kind)) for kind in changes.kinds]  # fmt: skip
        if changes.attempts:
            others += [(_ATTEMPT, *row) for row in changes.attempts]
        if changes.payloads:
            others += [(_PAYLOAD, *row) for row in changes.payloads]
        if changes.dedupe:
            others += [(_DEDUPE, shard, *row) for row in changes.dedupe]
        if changes.cleared:
            others += [(_CLEARED, shard, *row) for row in changes.cleared]
        if changes.requests:
            others += [(_REQUEST, shard, *row) for row in changes.requests]
        if changes.progress:
            others += [(_PROGRESS, *row) for row in changes.progress]
        if changes.logs:
            others += [(_LOG, *row) for row in changes.logs]
        if changes.purged:
            others += [(_PURGED, task_id) for task_id in changes.purged]
        if changes.queues:
            others += [(_QUEUE, config.pool, config.queue, shard, _json(config)) for config in changes.queues]
        if changes.tenants:
            others += [(_TENANT, config.tenant, shard, _json(config)) for config in changes.tenants]
        self.is_rare = len(others) > 1
        others += [(_LEDGER, shard, *key, by) for key, by in changes.ledger.items() if by]
        padding = (0,) * WIDTH
        self.others = list(chain.from_iterable([(row + padding)[:WIDTH] for row in others]))
        self.rows = (
            len(self.inserted) + len(self.leased) + len(self.moved) + len(self.ended) + len(self.others)
        ) // WIDTH


class GroupWriter:
    """Writes groups on one connection, which it prepares for that. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in _SETUP:
            connection.execute(statement)
        values = "(" + ",".join("?" * WIDTH) + ")"
        columns = ",".join([f"c{column}" for column in range(1, WIDTH + 1)])
        self._statements = {size: f"insert into stage ({columns}) values " + ",".join([values] * size) for size in _SIZES}

    def write(self, turns: Sequence[Turn]) -> list[StaleEpochError | None]:
        """Write the turns in one transaction, durable on return, but for those refused: their errors, by position.
        Raises: sqlite3.Error, and then nothing was written."""
        try:
            self._write(turns)
        except sqlite3.IntegrityError as error:
            if str(error) != _STALE:
                raise
        else:
            return [None] * len(turns)
        refused = self._stale(turns)
        self._write([turn for turn, error in zip(turns, refused, strict=True) if error is None])
        return refused

    def _write(self, turns: Sequence[Turn]) -> None:
        if not turns:
            return
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

    def _stale(self, turns: Sequence[Turn]) -> list[StaleEpochError | None]:
        epochs: dict[int, int] = dict(self._connection.execute("select shard, epoch from shards order by shard"))
        return [
            None if epochs.get(turn.shard) == turn.epoch
            else StaleEpochError(turn.shard, turn.epoch, epochs.get(turn.shard, 0))
            for turn in turns
        ]  # fmt: skip


def staged(turns: Sequence[Turn]) -> list[Any]:
    """Return the cells of a group, row after row, filled up to a size there is a statement for; the last row goes."""
    cells: list[Any] = []
    ends: list[int] = []
    for parts in (
        [turn.inserted for turn in turns],
        [turn.leased for turn in turns],
        [turn.moved for turn in turns],
        [turn.ended for turn in turns],
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
    cells += (_GO, *ends, int(any(turn.is_rare for turn in turns)), 0, 0, 0, 0)
    return cells


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
