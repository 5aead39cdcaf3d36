"""What a gateway does for schedules: checks requests, cuts them up by shard, and puts the answers together by position.

It holds no state. A definition that is wrong is refused alone; a part whose shard does not answer is refused with the
reason, position by position, unless nothing at all was done: then the whole request is. Looks go to the store's readers.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import msgspec
import structlog

from ..actors.addresses import check_name, shard_address
from ..actors.calendar_book import DELETED, calendar_slot
from ..actors.calendars import check_calendar, names_in
from ..actors.days import END_MS
from ..actors.messages import TaskRefusal, Template
from ..actors.rule_errors import instant_text
from ..actors.rules import Calendar, Rule
from ..actors.schedule import seed_of
from ..actors.schedule_messages import (
    BackfillsAnswered,
    BackfillSpec,
    CalendarConfigured,
    CommandBackfills,
    CommandSchedules,
    ConfigureCalendar,
    PutSchedules,
    SchedulesAnswered,
    SchedulesPut,
    StartBackfill,
    schedule_slot,
)
from ..actors.schedule_rows import TickRow
from ..actors.ticks import Ticks, check
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.errors import UsageError
from ..runtime.ids import MAX_ID, shard_of
from ..stores.port import ScheduleDetail, ScheduleFilter, Store
from .admission import EdgeLimits, InvalidOptionError, TooLargeError, check_template
from .entrance import Misfit
from .schedule_api import (
    BackfillForeseen,
    BackfillsListed,
    CalendarsListed,
    DeleteCalendar,
    DiffSchedule,
    DryRunBackfill,
    GetSchedules,
    ListBackfills,
    ListCalendars,
    ListSchedules,
    ListTicks,
    PreviewSchedule,
    ScheduleCompared,
    SchedulePreviewed,
    SchedulesFound,
    ScheduleView,
    SetCalendar,
    TicksListed,
)
from .schedule_checks import (
    check_backfill,
    check_backfill_command,
    check_command,
    check_count,
    check_definition,
    check_ending,
    check_put,
    check_schedule_name,
    is_right,
)
from .schedule_errors import (
    CalendarEndsSchedulesError,
    CalendarInUseError,
    CalendarNotFoundError,
    ScheduleNotFoundError,
    UnknownHandlerError,
)
from .schedule_views import (
    compared,
    decode_spec,
    forecast,
    foretold,
    left_out_by,
    next_of,
    ticks_after,
    view_of_backfill,
    view_of_schedule,
    view_of_tick,
)

log = structlog.get_logger("foliot.transports")

MAX_CALENDARS: Final = 1_000  # of one tenant
_PAGE: Final = 1_000
_SMALL_PAGE_BYTES: Final = 1 << 20  # a page that is short and has no more than this was the last one
_NAMED: Final = 5  # schedules named in a refusal
_AHEAD_MS: Final = 1_000  # by so much a client's clock may be ahead
_DRY_RUN_MAX: Final = 20_000  # rows of ticks looked at

AskEach = Callable[[list[tuple[str, Any]], int], Awaitable[list[Any]]]
"""Asks actors, at most so many milliseconds; answers in order, Refusals among them."""


class ScheduleGate:
    """Answers the requests of `transports.schedule_api`. `known`: handlers by name, None where any may be known."""

    def __init__(
        self, store: Store, clock: Clock, ask_each: AskEach,
        *, shards: int, limits: EdgeLimits, known: Callable[[], Collection[str] | None], misfit: Misfit | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._ask_each = ask_each
        self._shards = shards
        self._limits = limits
        self._known = known
        self._misfit = misfit

    def routes(self) -> dict[type, Callable[[Any, int], Awaitable[Any]]]:
        """Return what answers each request, given it and the milliseconds there are. All raise FoliotError."""
        return {
            PutSchedules: self._put,
            CommandSchedules: self._command,
            StartBackfill: self._start_backfill,
            CommandBackfills: self._command_backfills,
            GetSchedules: self._get,
            ListSchedules: self._list,
            ListTicks: self._ticks,
            ListBackfills: self._backfills,
            ListCalendars: self._calendars,
            SetCalendar: self._set_calendar,
            DeleteCalendar: self._delete_calendar,
            PreviewSchedule: self._preview,
            DiffSchedule: self._diff,
            DryRunBackfill: self._dry_run,
        }

    # -- create and change ---------------------------------------------------------------------------------------------

    async def _put(self, request: PutSchedules, timeout_ms: int) -> SchedulesPut | Refusal:
        check_name("tenant", request.tenant)
        check_put(request, self._limits)
        refused = self._refusals(request)
        parts: dict[int, list[int]] = {}
        for position, spec in enumerate(request.schedules):
            if position not in refused:
                parts.setdefault(schedule_slot(request.tenant, spec.name, self._shards), []).append(position)
        questions = [
            (
                shard_address(shard),
                PutSchedules(
                    request.tenant, request.templates, [request.schedules[at] for at in positions], request.mode,
                ),
            )
            for shard, positions in parts.items()
        ]  # fmt: skip
        answers = await self._ask_each(questions, timeout_ms)
        if answers and not refused and all(isinstance(answer, Refusal) for answer in answers):
            first: Refusal = answers[0]
            return first
        outcomes = ["refused"] * len(request.schedules)
        for positions, answer in zip(parts.values(), answers, strict=True):
            if isinstance(answer, SchedulesPut):
                for position, word in zip(positions, answer.outcomes, strict=True):
                    outcomes[position] = word
                for each in answer.refused:
                    refused[positions[each.position]] = TaskRefusal(positions[each.position], each.code, each.text)
            else:
                for position in positions:
                    refused[position] = TaskRefusal(position, answer.code, answer.text)
        return SchedulesPut(outcomes, [refused[position] for position in sorted(refused)])

    def _refusals(self, request: PutSchedules) -> dict[int, TaskRefusal]:
        """Return the definitions that are wrong in anything but their rule, by position."""
        bad_templates: dict[int, tuple[str, str]] = {}
        for index, template in enumerate(request.templates):
            try:
                self._check_template(template)
            except UsageError as error:
                bad_templates[index] = (error.code, str(error))
        refused: dict[int, TaskRefusal] = {}
        templates, limits, misfit = len(request.templates), self._limits, self._misfit
        for position, spec in enumerate(request.schedules):
            if not is_right(spec, templates, limits):
                try:
                    check_definition(spec, templates, limits)
                except UsageError as error:
                    refused[position] = TaskRefusal(position, error.code, str(error))
                    continue
            if spec.template in bad_templates:
                refused[position] = TaskRefusal(position, *bad_templates[spec.template])
            elif misfit is not None:
                problem = misfit(request.templates[spec.template].handler, spec.payload)
                if problem is not None:
                    refused[position] = TaskRefusal(position, "payload", problem)
        return refused

    def _check_template(self, template: Template) -> None:
        check_template(template, self._limits)
        known = self._known()
        if known is not None and template.handler not in known:
            alike = difflib.get_close_matches(template.handler, sorted(known), n=3)
            names = list(dict.fromkeys([*alike, *sorted(known)]))[:20]
            raise UnknownHandlerError(template.handler, names)

    # -- commands ------------------------------------------------------------------------------------------------------

    async def _command(self, request: CommandSchedules, timeout_ms: int) -> SchedulesAnswered | Refusal:
        """Give each shard its names. If some shards refuse, their names are answered `unavailable`; if all, so is all."""
        check_name("tenant", request.tenant)
        check_command(request, self._limits)
        parts: dict[int, list[int]] = {}
        for position, name in enumerate(request.names):
            parts.setdefault(schedule_slot(request.tenant, name, self._shards), []).append(position)
        questions = [
            (shard_address(shard), msgspec.structs.replace(request, names=[request.names[at] for at in positions]))
            for shard, positions in parts.items()
        ]
        answers = await self._ask_each(questions, timeout_ms)
        if answers and all(isinstance(answer, Refusal) for answer in answers):
            first: Refusal = answers[0]
            return first
        outcomes = ["unavailable"] * len(request.names)
        tasks = [0] * len(request.names) if request.action == "trigger" else []
        for positions, answer in zip(parts.values(), answers, strict=True):
            if not isinstance(answer, SchedulesAnswered):
                continue
            for at, position in enumerate(positions):
                outcomes[position] = answer.outcomes[at]
                if tasks:
                    tasks[position] = answer.tasks[at]
        return SchedulesAnswered(outcomes, tasks)

    async def _start_backfill(self, request: StartBackfill, timeout_ms: int) -> Any:
        request = msgspec.structs.replace(request, backfill=self._of_the_past(request.backfill))
        await self._backfilled(request.tenant, request.backfill)
        shard = schedule_slot(request.tenant, request.backfill.schedule, self._shards)
        (answer,) = await self._ask_each([(shard_address(shard), request)], timeout_ms)
        if isinstance(answer, BackfillsAnswered) and answer.outcomes == ["not_found"]:
            raise ScheduleNotFoundError(request.backfill.schedule, request.tenant)
        return answer

    def _of_the_past(self, backfill: BackfillSpec) -> BackfillSpec:
        """Return a backfill that ends now if it was meant to by a clock that is a little ahead of this one."""
        now_ms = self._clock.now_ms()
        is_now = now_ms < backfill.until_ms <= now_ms + _AHEAD_MS
        return msgspec.structs.replace(backfill, until_ms=now_ms) if is_now else backfill

    async def _backfilled(self, tenant: str, backfill: BackfillSpec) -> ScheduleView:
        """Return the schedule of a backfill. Raises: UsageError, ScheduleNotFoundError."""
        check_name("tenant", tenant)
        check_backfill(backfill, self._clock.now_ms(), self._limits)
        view = view_of_schedule(await self._found(tenant, backfill.schedule))
        if view.spec.rule.after_ms:
            raise InvalidOptionError(
                "the schedule of a backfill", backfill.schedule,
                "one with ticks in the past: a fixed delay (`after`) counts from the end of each run",
            )  # fmt: skip
        return view

    async def _command_backfills(self, request: CommandBackfills, timeout_ms: int) -> BackfillsAnswered | Refusal:
        check_name("tenant", request.tenant)
        check_backfill_command(request)
        if len(request.ids) > self._limits.max_ids:
            raise TooLargeError("the number of ids", len(request.ids), self._limits.max_ids)
        listed = await self._store.backfills(request.tenant, limit=self._limits.max_page)
        known = {row.id for row, _ in listed}  # a shard does not remember those that have ended
        parts: dict[int, list[int]] = {}
        for position, id in enumerate(request.ids):
            if (shard := shard_of(id)) < self._shards:
                parts.setdefault(shard, []).append(position)
        questions = [
            (shard_address(shard), msgspec.structs.replace(request, ids=[request.ids[at] for at in positions]))
            for shard, positions in parts.items()
        ]
        answers = await self._ask_each(questions, timeout_ms)
        if answers and all(isinstance(answer, Refusal) for answer in answers):
            first: Refusal = answers[0]
            return first
        outcomes = ["not_found"] * len(request.ids)
        for positions, answer in zip(parts.values(), answers, strict=True):
            words = answer.outcomes if isinstance(answer, BackfillsAnswered) else ["unavailable"] * len(positions)
            for position, word in zip(positions, words, strict=True):
                if word != "ended" or request.ids[position] in known:
                    outcomes[position] = word
        return BackfillsAnswered(outcomes, request.ids)

    # -- calendars -----------------------------------------------------------------------------------------------------

    async def _set_calendar(self, request: SetCalendar, timeout_ms: int) -> Any:
        check_name("tenant", request.tenant)
        calendar = msgspec.structs.replace(request.calendar, version=0)
        check_calendar(calendar)
        check_ending(request.ending)
        known = await self._calendars_of(request.tenant)
        if calendar.name not in known and len(known) >= MAX_CALENDARS:
            raise TooLargeError("the number of calendars", len(known) + 1, MAX_CALENDARS)
        ended = await self._ended_by(request.tenant, calendar, known) if request.ending != "let" else []
        if ended and request.ending == "refuse":
            raise CalendarEndsSchedulesError(calendar.name, ended)
        answer = await self._configure(request.tenant, calendar, timeout_ms)
        if ended and isinstance(answer, CalendarConfigured):
            log.warning(
                "calendar_ends_schedules", tenant=request.tenant, calendar=calendar.name, schedules=ended,
                are_all=len(ended) < _NAMED,
            )  # fmt: skip
        return answer

    async def _ended_by(self, tenant: str, calendar: Calendar, known: Mapping[str, Calendar]) -> list[str]:
        """Return the names of the first few schedules that tick by the calendars of now, and never would by a new one."""
        old = known.get(calendar.name)
        if old is None or msgspec.structs.replace(old, version=0) == calendar:
            return []  # nobody names it, or nothing changes
        now_ms = self._clock.now_ms()
        changed = {**known, calendar.name: calendar}
        found: list[str] = []
        looked_at: dict[tuple[Rule, str], bool] = {}  # many schedules have one rule
        async for detail in self._each_schedule(tenant):
            if not detail.row.calendars:
                continue
            view = view_of_schedule(detail, is_listed=True)
            rule = view.spec.rule
            if view.state.is_over or calendar.name not in names_in(rule.calendar):
                continue
            seed = seed_of(tenant, view.spec.name)
            key = (rule, seed if "H" in rule.cron else "")
            if key not in looked_at:
                if len(looked_at) >= _PAGE:
                    looked_at.clear()
                looked_at[key] = ticks_after(rule, known, seed, now_ms) and not ticks_after(rule, changed, seed, now_ms)
            if looked_at[key]:
                found.append(view.spec.name)
                if len(found) == _NAMED:
                    break
        return found

    async def _delete_calendar(self, request: DeleteCalendar, timeout_ms: int) -> Any:
        check_name("tenant", request.tenant)
        calendar = next((each for each in await self._store.calendars(request.tenant) if each.name == request.name), None)
        if calendar is None:
            raise CalendarNotFoundError(request.name[:80], request.tenant)
        users = await self._users(request.tenant, request.name)
        if users:
            raise CalendarInUseError(request.name, users)
        return await self._configure(request.tenant, msgspec.structs.replace(calendar, version=DELETED), timeout_ms)

    async def _configure(self, tenant: str, calendar: Calendar, timeout_ms: int) -> Any:
        """Tell the calendar's home shard, then, with its stamp, all others: those that do not answer hear it from home."""
        home = calendar_slot(tenant, calendar.name, self._shards)
        (answer,) = await self._ask_each([(shard_address(home), ConfigureCalendar(tenant, calendar))], timeout_ms)
        if isinstance(answer, CalendarConfigured):
            order = ConfigureCalendar(tenant, answer.calendar, answer.epoch, answer.number)
            others = [(shard_address(shard), order) for shard in range(self._shards) if shard != home]
            await self._ask_each(others, timeout_ms)
        return answer

    async def _users(self, tenant: str, calendar: str) -> list[str]:
        """Return the names of the first few schedules that name a calendar."""
        users: list[str] = []
        async for detail in self._each_schedule(tenant):
            if detail.row.calendars and calendar in names_in(decode_spec(detail.row.body).rule.calendar):
                users.append(detail.row.name)
                if len(users) == _NAMED:
                    break
        return users

    async def _each_schedule(self, tenant: str) -> AsyncIterator[ScheduleDetail]:
        after = ""
        while page := await self._store.schedules(ScheduleFilter(tenant, after=after, limit=_PAGE)):
            for detail in page:
                yield detail
            after = page[-1].row.name

    async def _calendars(self, request: ListCalendars, timeout_ms: int) -> CalendarsListed:
        check_name("tenant", request.tenant)
        return CalendarsListed(await self._store.calendars(request.tenant))

    # -- looks ---------------------------------------------------------------------------------------------------------

    async def _found(self, tenant: str, name: str) -> ScheduleDetail:
        """Raises: ScheduleNotFoundError."""
        check_schedule_name(name)
        found = await self._store.schedules(ScheduleFilter(tenant, names=(name,), limit=1))
        if not found:
            raise ScheduleNotFoundError(name, tenant)
        return found[0]

    async def _get(self, request: GetSchedules, timeout_ms: int) -> SchedulesFound:
        check_name("tenant", request.tenant)
        if len(request.names) > self._limits.max_ids:
            raise TooLargeError("the number of names", len(request.names), self._limits.max_ids)
        names = tuple(dict.fromkeys(request.names))
        found: dict[str, ScheduleDetail] = {}
        after = ""
        while names and (
            page := await self._store.schedules(ScheduleFilter(request.tenant, names=names, after=after, limit=_PAGE))
        ):
            found.update({detail.row.name: detail for detail in page})
            after = page[-1].row.name
            if len(found) == len(names):
                break
        return SchedulesFound([view_of_schedule(found[name]) for name in names if name in found])

    async def _list(self, request: ListSchedules, timeout_ms: int) -> SchedulesFound:
        check_name("tenant", request.tenant)
        check_count("limit", request.limit, self._limits)
        found = await self._store.schedules(
            ScheduleFilter(
                request.tenant, prefix=request.prefix, paused=request.paused, after=request.after, limit=request.limit
            )
        )
        size = sum([len(detail.row.body) for detail in found])
        is_last = len(found) < request.limit and size < _SMALL_PAGE_BYTES
        views = [view_of_schedule(detail, is_listed=True) for detail in found]
        return SchedulesFound(views, "" if is_last or not found else found[-1].row.name)

    async def _ticks(self, request: ListTicks, timeout_ms: int) -> TicksListed:
        check_name("tenant", request.tenant)
        check_count("limit", request.limit, self._limits)
        if not 0 <= request.before_ms <= MAX_ID:
            raise InvalidOptionError("before", request.before_ms, "an instant, or 0")
        detail = await self._found(request.tenant, request.name)
        rows = await self._store.ticks(detail.row.id, before_ms=request.before_ms, limit=request.limit)
        next_before_ms = rows[-1].tick_ms if len(rows) >= request.limit else 0
        return TicksListed([view_of_tick(row) for row in rows], next_before_ms)

    async def _backfills(self, request: ListBackfills, timeout_ms: int) -> BackfillsListed:
        check_name("tenant", request.tenant)
        check_count("limit", request.limit, self._limits)
        limit = request.limit if not request.id else self._limits.max_page
        found = await self._store.backfills(request.tenant, schedule=request.schedule, limit=limit)
        return BackfillsListed([view_of_backfill(row) for row, _ in found if request.id in (0, row.id)])

    # -- what is to come -----------------------------------------------------------------------------------------------

    async def _calendars_of(self, tenant: str) -> Mapping[str, Calendar]:
        return {each.name: each for each in await self._store.calendars(tenant)}

    async def _preview(self, request: PreviewSchedule, timeout_ms: int) -> SchedulePreviewed:
        check_name("tenant", request.tenant)
        check_count("count", request.count, self._limits)
        self._check_span(request.from_ms, request.until_ms)
        now_ms = self._clock.now_ms()
        from_ms = request.from_ms or now_ms
        calendars = await self._calendars_of(request.tenant)
        if request.rule is not None:
            ticks = check(request.rule, calendars, from_ms, seed=seed_of(request.tenant, request.name))
            count = min(request.count, request.rule.limit or request.count)
            return SchedulePreviewed(forecast(ticks, from_ms, request.until_ms, count), request.rule)
        view = view_of_schedule(await self._found(request.tenant, request.name))
        ticks = Ticks(view.spec.rule, calendars, seed=seed_of(request.tenant, request.name))
        if from_ms < now_ms:  # what has passed is no more the schedule's: what the rule says, whatever became of it
            count = min(request.count, view.spec.rule.limit or request.count)
            found = forecast(ticks, from_ms, request.until_ms, count)
        else:
            found = next_of(view, ticks, from_ms, request.until_ms, request.count)
        return SchedulePreviewed(found, view.spec.rule, view.state.paused)

    async def _diff(self, request: DiffSchedule, timeout_ms: int) -> ScheduleCompared:
        check_name("tenant", request.tenant)
        check_count("count", request.count, self._limits)
        now_ms = self._clock.now_ms()
        calendars = await self._calendars_of(request.tenant)
        view = view_of_schedule(await self._found(request.tenant, request.name))
        seed = seed_of(request.tenant, request.name)
        old = Ticks(view.spec.rule, calendars, seed=seed)
        return compared(old, check(request.rule, calendars, now_ms, seed=seed), now_ms, request.count)

    async def _dry_run(self, request: DryRunBackfill, timeout_ms: int) -> BackfillForeseen:
        check_count("limit", request.limit, self._limits)
        backfill, limit = self._of_the_past(request.backfill), request.limit
        view = await self._backfilled(request.tenant, backfill)
        calendars = await self._calendars_of(request.tenant)
        ticks = Ticks(view.spec.rule, calendars, seed=seed_of(request.tenant, view.spec.name))
        rows = await self._decided(view.id, backfill) if backfill.reprocess != "all" else []
        left_out = left_out_by(backfill.reprocess, rows)
        found: list[int] = []
        passed = 0
        for tick_ms in _window(ticks, backfill, limit + len(left_out) + 1):
            if tick_ms in left_out:
                passed += 1
            else:
                found.append(tick_ms)
        return BackfillForeseen([foretold(ticks, each) for each in found[:limit]], passed, len(found) > limit)

    async def _decided(self, schedule_id: int, backfill: BackfillSpec) -> list[TickRow]:
        """Return the ticks of the window that were decided. Raises: TooLargeError."""
        rows: list[TickRow] = []
        before_ms = backfill.until_ms
        while True:
            page = await self._store.ticks(schedule_id, before_ms=before_ms, limit=_PAGE)
            rows += [row for row in page if row.tick_ms >= backfill.from_ms]
            if len(page) < _PAGE or page[-1].tick_ms < backfill.from_ms:
                return rows
            if len(rows) > _DRY_RUN_MAX:
                raise TooLargeError("the number of ticks decided before in the window of a dry run", len(rows), _DRY_RUN_MAX)
            before_ms = page[-1].tick_ms

    @staticmethod
    def _check_span(from_ms: int, until_ms: int) -> None:
        if not 0 <= from_ms < END_MS:
            expected = f"an instant before {instant_text(END_MS)}, where all schedules end, or 0: now"
            raise InvalidOptionError("begin", instant_text(from_ms), expected)
        if until_ms and not from_ms < until_ms <= MAX_ID:
            expected = f"an instant after {instant_text(from_ms)}, or 0: no end"
            raise InvalidOptionError("until", instant_text(until_ms), expected)


def _window(ticks: Ticks, backfill: BackfillSpec, most: int) -> list[int]:
    """Return the ticks of a backfill's window in the order in which they fire, at most so many."""
    if not backfill.is_backwards:
        return ticks.between(backfill.from_ms, backfill.until_ms, most)
    found: list[int] = []
    tick_ms = ticks.last_before(backfill.until_ms - 1, backfill.from_ms)
    while tick_ms is not None and len(found) < most:
        found.append(tick_ms)
        tick_ms = ticks.last_before(tick_ms - 1, backfill.from_ms)
    return found
