"""The rows of schedules in a turn: their cells, and the triggers that apply them to a staged group.

Schedules, what ticks change of them, ticks and ends of ticks come in a range each, as tasks' rows do, since they go by the
hundred; deletions, backfills and calendars come among the others. What holds: a schedule that is deleted in a turn is not
there after it, whatever else the turn says of it; so its name is free for another of the same turn.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.rows import ShardChanges

SCHEDULE_GONE, BACKFILL, CALENDAR = range(14, 17)  # what rows among the others are, after those of `sqlite_turn`

Row = tuple[Any, ...]

_DELETED: Final = f"(select c2 from stage where n > new.others and c1 = {SCHEDULE_GONE})"

# A tick takes its template from its task, which is inserted before it: the ledger counts it where the task counts. The
# tenant of a schedule is its kind's; without that, null, it is refused.
_FIRING: Final = f"""
create temp trigger go_apply_schedules instead of insert on go_schedules begin
    delete from schedules where new.rare and id in {_DELETED};
    insert into schedules (id, shard, tier, next_ms, template_id, revision, calendars, tenant, name, state, body)
        select c1, c1 >> 12 & 1023, c3, c4, c5, c6, c7, (select tenant from kinds where kinds.template_id = c5), c2, c9, c8
        from stage where n > new.ended and n <= new.schedules order by n
        on conflict (id) do update set tier = excluded.tier, next_ms = excluded.next_ms, template_id = excluded.template_id,
            revision = excluded.revision, calendars = excluded.calendars, tenant = excluded.tenant, name = excluded.name,
            state = excluded.state, body = excluded.body;
    update schedules set next_ms = c2, calendars = c3, state = c4
        from stage where n > new.schedules and n <= new.moves and schedules.id = c1;
    insert into ticks (schedule_id, tick_ms, source, revision, task_id, at_ms, outcome, template_id)
        select c1, c2, c3, c4, c5, c6, c7,
            case c5 when 0 then 0 else coalesce((select template_id from tasks where tasks.id = c5), 0) end
        from stage where n > new.moves and n <= new.ticks;
    update ticks set outcome = c4
        from stage where n > new.ticks and n <= new.others and schedule_id = c1 and tick_ms = c2 and source = c3;
    insert into go_schedules_rare select new.others where new.rare;
end
"""
_RARE: Final = f"""
create temp trigger go_apply_schedules_rare instead of insert on go_schedules_rare begin
    insert into ledger (shard, tenant, queue, what, count)
        select schedule_id >> 12 & 1023, tenant, queue, 'fired_purged', count(*)
        from ticks cross join kinds using (template_id) where schedule_id in {_DELETED} and task_id > 0
        group by 1, tenant, queue
        on conflict do update set count = count + excluded.count;
    delete from ticks where schedule_id in {_DELETED};
    delete from backfills where schedule_id in {_DELETED};
    insert into backfills (id, schedule_id, is_over, body, state)
        select c2, c3, c4, c5, c6 from stage where n > new.others and c1 = {BACKFILL}
        on conflict do update set is_over = excluded.is_over, body = excluded.body, state = excluded.state;
    delete from calendars where (tenant, name) in (
        select c2, c3 from stage where n > new.others and c1 = {CALENDAR} and length(c4) = 0);
    insert into calendars (tenant, name, body, epoch, number, shard)
        select c2, c3, c4, c5, c6, c7 from stage where n > new.others and c1 = {CALENDAR} and length(c4) > 0
        on conflict do update set shard = excluded.shard, body = excluded.body, epoch = excluded.epoch,
            number = excluded.number;
end
"""
SETUP: Final = (
    "create temp view go_schedules as select 0 as ended, 0 as schedules, 0 as moves, 0 as ticks, 0 as others, 0 as rare",
    "create temp view go_schedules_rare as select 0 as others",
    _RARE,
    _FIRING,
)


def is_repeated_tick(error: str) -> bool:
    """Return whether this is what SQLite says of a tick that is there already."""
    return error.startswith("UNIQUE constraint failed: ticks.")


class ScheduleCells:
    """What a turn has of schedules, as rows of cells. Of several rows of one thing the last one counts."""

    __slots__ = ("last_id", "moves", "others", "schedules", "ticks", "ticks_ended")

    def __init__(self, changes: ShardChanges) -> None:
        gone = dict.fromkeys(changes.schedules_deleted)
        schedules = {row.id: row for row in changes.schedules if row.id not in gone}
        self.schedules: list[Row] = [
            (row.id, row.name, row.tier, row.next_ms, row.template_id, row.revision, row.calendars, bytearray(row.body),
             bytearray(row.state)) for row in schedules.values()
        ]  # fmt: skip
        moves = {row[0]: row for row in changes.schedule_moves}
        self.moves: list[Row] = [
            (id, next_ms, calendars, bytearray(state)) for id, next_ms, calendars, state in moves.values()
        ]
        self.ticks: list[Row] = [msgspec.structs.astuple(row) for row in changes.ticks]
        self.ticks_ended: list[Row] = list({row[:3]: row for row in changes.ticks_ended}.values())
        backfills = {row.id: row for row in changes.backfills if row.schedule_id not in gone}
        self.others: list[Row] = [(SCHEDULE_GONE, id) for id in gone]
        self.others += [(BACKFILL, row.id, row.schedule_id, int(row.is_over), bytearray(row.body), bytearray(row.state))
                        for row in backfills.values()]  # fmt: skip
        calendars = {row[:2]: row for row in changes.calendars}
        self.others += [(CALENDAR, tenant, name, bytearray(body), epoch, number, changes.shard)
                        for tenant, name, body, epoch, number in calendars.values()]  # fmt: skip
        self.last_id = max([*[row.id for row in changes.schedules], *[row.id for row in changes.backfills]], default=0)


def has_schedules(changes: ShardChanges) -> bool:
    """Return whether a turn has any rows of schedules."""
    return bool(
        changes.schedule_moves or changes.ticks or changes.ticks_ended or changes.schedules or changes.schedules_deleted
        or changes.backfills or changes.calendars
    )  # fmt: skip
