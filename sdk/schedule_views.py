"""What a client hands to people about schedules: names, aware datetimes and words instead of numbers and bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from ..actors.rules import Rule
from ..actors.schedule_rows import SOURCE_RULE, SOURCE_TRIGGER
from ..actors.ticks import Ticks
from ..runtime.ids import to_text
from ..transports.schedule_api import BackfillView, Forecast, ScheduleCompared, ScheduleView, TickView
from ..transports.schedule_views import forecast
from .client_views import decoded, moment, state_label

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


class ScheduleInfo(msgspec.Struct, frozen=True):
    """A schedule as it stands. Moments that have not come are None, and all are in UTC.

    `state`: active, paused or over (it never ticks again). `when`: its rule in a few words; `rule`: in full. `next_at`: when
    the next tick is to fire, jitter included, and `next_tick` the moment it names; none while it is paused or over, or
    waits for a run to end. `fired`, `triggered`: ticks of the rule and of people that made tasks; `missed`: that nobody
    could fire in time; `skipped` and `buffered`: that met a run; `late`: that fired late; `failures`: runs in a row that
    ended badly; `waiting`: ticks that wait for a run to end. `declared_in`: the app whose code declares it.
    `timeout`: of each attempt, None: no limit.
    In lists, `payload` is left out."""

    id: str
    name: str
    tenant: str
    handler: str
    queue: str
    state: str
    when: str
    zone: str
    rule: Rule
    payload: Any
    priority: int
    key: str
    max_attempts: int
    timeout: timedelta | None
    overlap: str
    missed_policy: str
    grace: timedelta
    max_lateness: timedelta | None
    max_catchup: int
    pause_after: int
    note: str
    declared_in: str
    revision: int
    next_at: datetime | None
    next_tick: datetime | None
    last_tick: datetime | None
    last_task: str
    last_outcome: str
    last_ended_at: datetime | None
    fired: int
    triggered: int
    missed: int
    skipped: int
    buffered: int
    late: int
    failures: int
    waiting: int
    paused_by: str
    paused_why: str
    paused_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None


class TickInfo(msgspec.Struct, frozen=True):
    """A tick that was decided. `tick`: the moment it names; `fired_at`: when it was decided.

    `source`: rule, trigger or backfill, which `backfill` then names. `outcome`: the state in which its task ended, `alive`
    while it has not, `skipped` where the tick made none."""

    tick: datetime | None
    fired_at: datetime | None
    source: str
    backfill: str
    task: str
    outcome: str
    revision: int


class NextTick(msgspec.Struct, frozen=True):
    """A tick to come, in the schedule's zone: the moment it names and the one at which it fires, jitter included.

    `notes`: "dst_gap", "dst_overlap", "moved from 2026-12-31T18:00:00", "holiday NAME"."""

    at: datetime
    fires_at: datetime
    notes: tuple[str, ...]


class ScheduleDiff(msgspec.Struct, frozen=True):
    """What an edit would change among the next ticks, up to `until` (None: as far as both rules go): those that go, come,
    and stay."""

    gone: list[NextTick]
    come: list[NextTick]
    stay: list[NextTick]
    until: datetime | None


class BackfillInfo(msgspec.Struct, frozen=True):
    """A backfill as it stands. `status`: running, paused, done or cancelled. `cursor`: how far it has come. `fired`: ticks
    that made tasks, `left_out`: that had fired before, `failed`: runs that ended badly."""

    id: str
    schedule: str
    status: str
    start: datetime | None
    end: datetime | None
    cursor: datetime | None
    reprocess: str
    concurrency: int
    backwards: bool
    by: str
    fired: int
    left_out: int
    failed: int
    created_at: datetime | None
    ended_at: datetime | None


class BackfillForecast(msgspec.Struct, frozen=True):
    """What a backfill would do: its ticks in the order in which they would fire, and how many of the window it would leave
    out. `has_more`: these are only the first ones."""

    ticks: list[NextTick]
    left_out: int
    has_more: bool


def schedule_info(view: ScheduleView) -> ScheduleInfo:
    """Return a schedule for people."""
    spec, state, template = view.spec, view.state, view.template
    word = "over" if state.is_over else "paused" if state.paused else "active"
    return ScheduleInfo(
        id=to_text(view.id), name=spec.name, tenant=view.tenant, handler=template.handler, queue=template.queue,
        state=word, when=rule_text(spec.rule), zone=spec.rule.zone, rule=spec.rule, payload=decoded(spec.payload),
        priority=spec.priority, key=spec.key, max_attempts=template.max_attempts,
        timeout=timedelta(milliseconds=template.timeout_ms) if template.timeout_ms else None, overlap=spec.overlap,
        missed_policy=spec.missed, grace=timedelta(milliseconds=spec.grace_ms),
        max_lateness=timedelta(milliseconds=spec.max_lateness_ms) if spec.max_lateness_ms else None,
        max_catchup=spec.max_catchup, pause_after=spec.pause_after, note=spec.note, declared_in=spec.declared_in,
        revision=view.revision,
        next_at=moment(view.next_ms) if word == "active" else None,
        next_tick=moment(state.cursor_ms) if word == "active" else None,
        last_tick=moment(state.last_tick_ms), last_task=to_text(state.last_task) if state.last_task else "",
        last_outcome=state_label(state.last_outcome) if state.last_outcome else "",
        last_ended_at=moment(state.last_ended_ms), fired=state.fired, triggered=state.triggered, missed=state.missed,
        skipped=state.skipped, buffered=state.buffered, late=state.late, failures=state.failures,
        waiting=len(state.buffer), paused_by=state.paused_by, paused_why=state.paused_why,
        paused_at=moment(state.paused_at_ms), created_at=moment(state.created_ms), updated_at=moment(state.updated_ms),
    )  # fmt: skip


def tick_info(view: TickView) -> TickInfo:
    """Return a decided tick for people."""
    source = {SOURCE_RULE: "rule", SOURCE_TRIGGER: "trigger"}.get(view.source, "backfill")
    return TickInfo(
        tick=moment(view.tick_ms),
        fired_at=moment(view.at_ms),
        source=source,
        backfill=to_text(view.source) if source == "backfill" else "",
        task=to_text(view.task_id) if view.task_id else "",
        outcome=state_label(view.outcome) if view.outcome else "alive",
        revision=view.revision,
    )


def backfill_info(view: BackfillView) -> BackfillInfo:
    """Return a backfill for people."""
    spec, state = view.spec, view.state
    return BackfillInfo(
        id=to_text(view.id), schedule=spec.schedule, status=state.status, start=moment(spec.from_ms),
        end=moment(spec.until_ms), cursor=moment(state.cursor_ms), reprocess=spec.reprocess,
        concurrency=spec.concurrency, backwards=spec.is_backwards, by=spec.by, fired=state.fired,
        left_out=state.left_out, failed=state.failed, created_at=moment(state.created_ms), ended_at=moment(state.ended_ms),
    )  # fmt: skip


def next_ticks(forecasts: list[Forecast], zone: str) -> list[NextTick]:
    """Return foretold ticks as moments of a zone."""
    place = ZoneInfo(zone)
    return [NextTick(_moment_in(at.tick_ms, place), _moment_in(at.due_ms, place), at.notes) for at in forecasts]


def diff_of(compared: ScheduleCompared, old_zone: str, new_zone: str) -> ScheduleDiff:
    """Return a comparison for people; ticks that go are told in the old zone."""
    return ScheduleDiff(
        next_ticks(compared.gone, old_zone), next_ticks(compared.come, new_zone), next_ticks(compared.stay, new_zone),
        moment(compared.until_ms),
    )  # fmt: skip


def preview_of(ticks: Ticks, *, begin_ms: int, count: int, until_ms: int = 0) -> list[NextTick]:
    """Return the next ticks of a rule at or after an instant, without any scheduler; `sdk.rules.ticks_of` makes the ticks
    of a rule in words."""
    count = min(count, ticks.rule.limit or count)
    return next_ticks(forecast(ticks, begin_ms, until_ms, count), ticks.rule.zone)


def _moment_in(at_ms: int, zone: ZoneInfo) -> datetime:
    seconds, ms = divmod(at_ms, 1_000)
    return (datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=ms)).astimezone(zone)


def span_words(span_ms: int) -> str:
    """Return a span exactly, as `parse_span` reads it: "1h30m"."""
    words = ""
    for unit, size in _UNITS:
        count, span_ms = divmod(span_ms, size)
        if count:
            words += f"{count}{unit}"
    return words or "0ms"


def rule_text(rule: Rule) -> str:
    """Return when a rule ticks, in a few words."""
    if rule.cron:
        when = rule.cron
    elif rule.every_ms:
        when = f"every {span_words(rule.every_ms)}"
    elif rule.after_ms:
        when = f"{span_words(rule.after_ms)} after each run"
    else:
        first = moment(rule.at_ms[0]) if rule.at_ms else None
        more = f" and {len(rule.at_ms) - 1} more" if len(rule.at_ms) > 1 else ""
        when = f"at {first.isoformat() if first else '?'}{more}"
    if rule.calendar:
        when += {"skip": " on ", "next": " moved forward to ", "previous": " moved back to "}[rule.excluded] + rule.calendar
    return when
