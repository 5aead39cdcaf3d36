"""What people see of schedules: views made from the store's rows, and ticks foretold by a rule.

Forecasts are pure: they say what the rule says, as if every tick fired when it is due and every run of a fixed delay ended
at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ..actors.rules import Calendar, Rule
from ..actors.schedule_messages import BackfillSpec, BackfillState, ScheduleSpec, ScheduleState
from ..actors.schedule_rows import BackfillRow, TickRow
from ..actors.states import State
from ..actors.ticks import Ticks
from ..runtime.errors import UsageError
from ..stores.port import ScheduleDetail
from .schedule_api import BackfillView, Forecast, ScheduleCompared, ScheduleView, TickView

FOREVER_MS: Final = 1 << 62
decode_spec = msgspec.msgpack.Decoder(ScheduleSpec).decode
_decode_state = msgspec.msgpack.Decoder(ScheduleState).decode
_decode_backfill = msgspec.msgpack.Decoder(BackfillSpec).decode
_decode_backfill_state = msgspec.msgpack.Decoder(BackfillState).decode


def view_of_schedule(detail: ScheduleDetail, *, is_listed: bool = False) -> ScheduleView:
    """Return a stored schedule; without its payload if it is one of a list."""
    row, kind = detail.row, detail.kind
    spec = decode_spec(row.body)
    if is_listed:
        spec = msgspec.structs.replace(spec, payload=b"")
    return ScheduleView(row.id, kind.tenant, row.revision, row.next_ms, kind.template, spec, _decode_state(row.state))


def view_of_tick(row: TickRow) -> TickView:
    return TickView(row.tick_ms, row.source, row.revision, row.task_id, row.at_ms, row.outcome)


def view_of_backfill(row: BackfillRow) -> BackfillView:
    return BackfillView(row.id, _decode_backfill(row.body), _decode_backfill_state(row.state))


# -- what is to come ---------------------------------------------------------------------------------------------------


def forecast(ticks: Ticks, from_ms: int, until_ms: int, count: int) -> list[Forecast]:
    """Return the first `count` ticks in [from_ms, until_ms); `until_ms` 0: without end."""
    return [foretold(ticks, each) for each in ticks.between(from_ms, until_ms or FOREVER_MS, count)]


def foretold(ticks: Ticks, tick_ms: int) -> Forecast:
    return Forecast(tick_ms, ticks.due(tick_ms), ticks.notes(tick_ms))


def next_of(view: ScheduleView, ticks: Ticks, from_ms: int, until_ms: int, count: int) -> list[Forecast]:
    """Return the ticks a stored schedule will have at or after an instant, no more than it has left."""
    state, rule = view.state, view.spec.rule
    if state.is_over:
        return []
    if rule.limit:
        waiting = sum([1 for tick_ms in state.buffer if tick_ms > 0])
        count = max(min(count, rule.limit - state.fired - waiting), 0)
    if rule.after_ms and not state.cursor_ms:
        from_ms = ticks.after_end(from_ms) or FOREVER_MS  # it runs: nothing before a delay from now, at the earliest
    return forecast(ticks, max(from_ms, state.cursor_ms), until_ms, count)


def ticks_after(rule: Rule, calendars: Mapping[str, Calendar], seed: str, now_ms: int) -> bool:
    """Tell whether a rule still has a tick. One that cannot be meant with these calendars has none."""
    try:
        return Ticks(rule, calendars, seed=seed).after(now_ms) is not None
    except UsageError:
        return False


def compared(old: Ticks, new: Ticks, now_ms: int, count: int) -> ScheduleCompared:
    """Return which of the next ticks an edit would take away, add and leave."""
    before, after = (each.between(now_ms, FOREVER_MS, count) for each in (old, new))
    ends = [found[-1] for found in (before, after) if len(found) == count]
    until_ms = min(ends, default=0)
    if until_ms:
        before, after = ([each for each in found if each <= until_ms] for found in (before, after))
    was, is_now = dict.fromkeys(before), dict.fromkeys(after)
    return ScheduleCompared(
        gone=[foretold(old, each) for each in before if each not in is_now],
        come=[foretold(new, each) for each in after if each not in was],
        stay=[foretold(new, each) for each in after if each in was],
        until_ms=until_ms,
    )


def left_out_by(reprocess: str, rows: Iterable[TickRow]) -> set[int]:
    """Return the ticks a backfill leaves out, by what became of them before: of each, the newest that made a task.

    `rows`: newest tick first, and of one tick the latest source first, as the store lists them."""
    seen: set[int] = set()
    left_out: set[int] = set()
    for row in rows:
        if not row.task_id or row.tick_ms in seen:
            continue
        seen.add(row.tick_ms)
        is_bad = row.outcome not in (0, State.COMPLETED)
        if reprocess == "none" or (reprocess == "failed" and not is_bad):
            left_out.add(row.tick_ms)
    return left_out
