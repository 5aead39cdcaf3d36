"""What people ask of SQLite: tasks by id and by filter, logs, the ledger and its recount, configurations.

Like `sqlite_rows`: one statement, one row, and everything a caller sees in one answer comes from one snapshot.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.messages import Kind, LedgerEntry, QueueConfig, TenantConfig
from ..actors.rows import TaskRow
from ..actors.states import State
from ..runtime.ids import MAX_ID
from .counts import entries as entries
from .counts import recounted
from .port import AttemptRow, TaskDetail, TaskFilter
from .sqlite_pack import KINDS, Statement, blob, encode_json, kinds_of
from .sqlite_rows import PACKED, unpack
from .sqlite_staged import LABELS_SQL

LIST_MAX: Final = 1_000
"""The longest page of a list."""

_ATTEMPTS: Final = """select * from attempts where id in (select id from page)
    order by id, attempt, rowid"""
_DETAILS: Final = f"""
with page as materialized (
    select tasks.*, payload from json_each(?1) asked cross join tasks on tasks.id = asked.value
    left join payloads on payloads.id = tasks.id
)
select {PACKED}, {KINDS},
    (select json_group_array(json_array(id, attempt, kind, session, started_ms, ended_ms, length(error)))
        from ({_ATTEMPTS})),
    (select {blob('error')} from ({_ATTEMPTS})),
    (select json_group_array(json_array(id, permille, note, updated_ms)) from progress
        where id in (select id from page))
from page
"""

# A list without a filter walks the table backwards. Any other walks (state, kind, id) backwards in several places at
# once: the recursion's queue, ordered by id, holds the next id of each place, so a page costs a look-up a place and one
# a row, whatever the filter and however rare its matches.
_NEWEST: Final = "select id from tasks where id < ?1 order by id desc limit ?2"
_FILTERED: Final = """
with recursive places (state, template_id) as materialized (
    select states.value, template_id from json_each(?3) states cross join kinds
    where (?4 = '' or tenant = ?4) and (?5 = '' or queue = ?5) and (?6 = '' or handler = ?6)
), walk (state, template_id, id) as (
    select state, template_id, newest from (
        select state, template_id, (
            select max(id) from tasks indexed by by_state
            where tasks.state = places.state and tasks.template_id = places.template_id and id < ?1
        ) as newest from places
    ) where newest is not null
    union all
    select state, template_id, (
        select max(id) from tasks indexed by by_state
        where tasks.state = walk.state and tasks.template_id = walk.template_id and tasks.id < walk.id
    ) from walk where walk.id is not null
    order by 3 desc
    limit ?2
)
select id from walk where id is not null
"""
_LIST: Final = f"""
with page as materialized (
    select tasks.*, null as payload from ({{}}) chosen cross join tasks on tasks.id = chosen.id order by tasks.id desc
)
select {PACKED}, {KINDS} from page
"""
_LOGS: Final = """select attempt, text from logs where id = ?1 and (?2 = 0 or attempt = ?2) order by attempt, part"""
_LOGS_ROW: Final = f"select json_group_array(json_array(attempt, length(text))), {blob('text')} from ({_LOGS})"
_LEDGER: Final = f"""
select (
    select json_group_array(json_array(tenant, queue, what, total))
    from (select tenant, queue, what, sum(count) as total from ledger group by tenant, queue, what
          order by tenant, queue, what)
), (
    select json_group_array(json_array(tenant, queue, {LABELS_SQL}, state, total))
    from (select tenant, queue, state, sum(total) as total
          from (select state, template_id, count(*) as total from tasks indexed by by_state group by state, template_id)
          cross join kinds using (template_id) group by tenant, queue, state order by tenant, queue, state)
), (
    select json_group_array(json_array(tenant, queue, total))
    from (select tenant, queue, sum(total) as total
          from (select template_id, count(*) as total from ticks where task_id > 0 group by template_id)
          cross join kinds using (template_id) group by tenant, queue order by tenant, queue)
)
"""
_CONFIGS: Final = """
select (select json_group_array(json(body)) from (select body from queues order by pool, queue)),
       (select json_group_array(json(body)) from (select body from tenants order by tenant))
"""

_decode_attempts = msgspec.json.Decoder(list[tuple[int, int, int, str, int, int, int]]).decode
_decode_progress = msgspec.json.Decoder(list[tuple[int, int, str, int]]).decode
_decode_logs = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_counters = msgspec.json.Decoder(list[tuple[str, str, str, int]]).decode
_decode_recount = msgspec.json.Decoder(list[tuple[str, str, str | None, int, int]]).decode
_decode_fired = msgspec.json.Decoder(list[tuple[str, str, int]]).decode
_decode_queues = msgspec.json.Decoder(list[QueueConfig]).decode
_decode_tenants = msgspec.json.Decoder(list[TenantConfig]).decode

LEDGER: Final[Statement] = (_LEDGER, ())
CONFIGS: Final[Statement] = (_CONFIGS, ())


def details(ids: list[int]) -> Statement:
    """Return the statement that `details_of` reads."""
    return _DETAILS, (encode_json(ids),)


def details_of(row: Any) -> list[TaskDetail]:
    """Return the tasks in the order asked."""
    kinds = {kind.template_id: kind for kind in kinds_of(row[4])}
    attempts: dict[int, list[AttemptRow]] = {}
    at, errors = 0, row[6] or b""
    for task_id, attempt, kind, session, started_ms, ended_ms, length in _decode_attempts(row[5]):
        entry = AttemptRow(attempt, kind, session, started_ms, ended_ms, errors[at : at + length])
        attempts.setdefault(task_id, []).append(entry)
        at += length
    told = {task_id: (permille, note, at_ms) for task_id, permille, note, at_ms in _decode_progress(row[7])}
    return [
        TaskDetail(task, kinds[task.template_id], attempts.get(task.id, []), *told.get(task.id, (-1, "", 0)))
        for task in unpack(row)
    ]


def listed(filter: TaskFilter) -> Statement:
    """Return the statement that `listed_of` reads. Pages are at most `LIST_MAX` long."""
    before = min(filter.before, MAX_ID) or MAX_ID
    limit = max(min(filter.limit, LIST_MAX), 0)
    if not (filter.tenant or filter.queue or filter.handler or filter.states):
        return _LIST.format(_NEWEST), (before, limit)
    states = sorted(set(filter.states)) if filter.states else [int(state) for state in State]
    # A place that ran out sorts last (null), so it takes a turn of the recursion only when all rows are out.
    return _LIST.format(_FILTERED), (before, limit, encode_json(states), filter.tenant, filter.queue, filter.handler)


def listed_of(row: Any) -> tuple[list[TaskRow], dict[int, Kind]]:
    """Return tasks without payloads and their kinds."""
    return unpack(row), {kind.template_id: kind for kind in kinds_of(row[4])}


def logs(task_id: int, attempt: int) -> Statement:
    """Return the statement that `logs_of` reads."""
    return _LOGS_ROW, (task_id, attempt)


def logs_of(row: Any) -> list[tuple[int, bytes]]:
    """Return (attempt, text) in order."""
    found: list[tuple[int, bytes]] = []
    at, texts = 0, row[1] or b""
    for attempt, length in _decode_logs(row[0]):
        found.append((attempt, texts[at : at + length]))
        at += length
    return found


def ledger_of(row: Any) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    """Return counters and recount, each sorted by (tenant, queue)."""
    counters = _decode_counters(row[0])
    return entries(counters, {}), recounted(_decode_recount(row[1]), _decode_fired(row[2]), counters)


def configs_of(row: Any) -> tuple[list[QueueConfig], list[TenantConfig]]:
    """Return all configurations, sorted by name."""
    return _decode_queues(row[0]), _decode_tenants(row[1])
