"""Schedules as a client handles them: `client.schedules`.

    await client.schedules.create("nightly", tidy_up, days=30, cron="0 3 * * *", zone="Europe/Berlin")
    await client.schedules.pause("nightly", why="moving the database")

A schedule makes a task of its handler at each tick. Its words (`cron`, `every`, `zone`, `overlap`, ...) and the handler's
arguments share one namespace; a name that is a word of schedules is always that, and an argument of such a name goes into
`arguments={...}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, overload

from ..actors.schedule_messages import (
    BackfillsAnswered,
    BackfillSpec,
    CommandBackfills,
    CommandSchedules,
    PutSchedules,
    SchedulesAnswered,
    SchedulesPut,
    StartBackfill,
)
from ..runtime.bus import Refusal
from ..runtime.clock import Clock
from ..runtime.ids import from_text, to_text
from ..transports.schedule_api import (
    BackfillForeseen,
    BackfillsListed,
    DiffSchedule,
    DryRunBackfill,
    GetSchedules,
    ListBackfills,
    ListSchedules,
    ListTicks,
    PreviewSchedule,
    ScheduleCompared,
    SchedulePreviewed,
    SchedulesFound,
    ScheduleView,
    TicksListed,
)
from .channel import Channel
from .durations import Span, instant_of, parse_span
from .handler import Handler
from .options import parse_priority
from .rules import check_rule, check_until, rule_of
from .schedule_bulk import BulkPut, PutResult
from .schedule_errors import (
    BackfillNotFoundError,
    ScheduleBusyError,
    ScheduleExistsError,
    ScheduleNotFoundError,
    error_of_definition,
)
from .schedule_views import (
    BackfillForecast,
    BackfillInfo,
    NextTick,
    ScheduleDiff,
    ScheduleInfo,
    TickInfo,
    backfill_info,
    diff_of,
    next_ticks,
    schedule_info,
    tick_info,
)
from .schedule_words import Draft, DraftMaker, assemble

R = TypeVar("R")
T = TypeVar("T")
_CHUNK: Final = 500  # names in one request
_DETAILED: Final = 50  # schedules with their payloads in one answer
_PAGE: Final = 200
_BATCH: Final = 500
_BACKFILLS_MAX: Final = 1_000

Moment = datetime | str


class Ask(Protocol):
    """Asks the scheduler about the schedule or calendar `name`, and raises the error a refusal means."""

    async def __call__(self, message: Any, expected: type[R], name: str) -> R: ...


class Backfill:
    """A backfill that was started."""

    __slots__ = ("_schedules", "number", "schedule")

    def __init__(self, schedules: Schedules[Any], number: int, schedule: str) -> None:
        self._schedules = schedules
        self.number = number
        self.schedule = schedule

    @property
    def id(self) -> str:
        """13 characters."""
        return to_text(self.number)

    async def status(self) -> BackfillInfo:
        """Return how far it has come. Raises: BackfillNotFoundError."""
        return await self._schedules.get_backfill(self.id, schedule=self.schedule)

    async def pause(self) -> str:
        """Start no more of its ticks. Returns: `paused`, or `ended`."""
        return await self._schedules.command_backfill(self.id, "pause")

    async def resume(self) -> str:
        """Go on where it was paused. Returns: `resumed`, or `ended`."""
        return await self._schedules.command_backfill(self.id, "resume")

    async def cancel(self) -> str:
        """Start no more of its ticks, for good; what runs goes on. Returns: `cancelled`, or `ended`."""
        return await self._schedules.command_backfill(self.id, "cancel")

    def __repr__(self) -> str:
        return f"<backfill {self.id} of {self.schedule}>"


class Schedules(Generic[T]):
    """The schedules of a client's tenant. `task_of`: makes the handle of a task."""

    def __init__(
        self, ask: Ask, channel: Channel, tenant: str, drafts: DraftMaker, *, clock: Clock, timeout_ms: int,
        meet: Callable[[], Awaitable[object]], task_of: Callable[[int], T],
    ) -> None:  # fmt: skip
        self._ask = ask
        self._channel = channel
        self._tenant = tenant
        self._drafts = drafts
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._meet = meet
        self._task_of = task_of

    # -- create and change ---------------------------------------------------------------------------------------------

    def draft(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> Draft:
        """Return a schedule to put with `put_many`; words as for `create`. A handler named by text is known by its
        options once the client was entered, or has said `hello`. Raises: UsageError."""
        return self._drafts.make(name, handler, args, words)

    async def create(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> ScheduleInfo:
        """Create a schedule; it is durable when this returns.

        When, exactly one of: cron="0 6 * * *"; every="5m" or "day at 18:00"; after="10m" (after the end of each run);
        at=moment or moments. anchor: from which `every` counts. zone="Europe/Berlin"; dst_gap="shift" or "skip";
        dst_overlap="first", "last" or "both". start, end: aware moments; limit: ticks that fire at most. calendar="weekdays
        and not holidays"; excluded="skip", "next" or "previous". jitter="30s", hashed=True for the same at every tick.
        precision="high", "normal" or "low".

        What if: overlap="skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other" or "allow_all". missed="skip",
        "last", "first" or "all", beyond `grace` (1m), within max_lateness, at most max_catchup. pause_after: failures in a
        row. note: for people.

        Its tasks: priority (if it is not given, with high precision at least "high"), key, queue, max_attempts, timeout, as
        for `submit`. All else are the handler's arguments; those with the name of a word here go into arguments={...}.

        Raises: ScheduleExistsError, InvalidRuleError and its kinds, InvalidOptionError, PayloadError, InvalidRequestError.
        """
        return await self._put_one(await self._drafted(name, handler, args, words), "create")

    async def put(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> ScheduleInfo:
        """Create a schedule, or replace the definition of the one of that name: what runs goes on, a pause stays, and no
        tick that is past fires because of it. Words as for `create`."""
        return await self._put_one(await self._drafted(name, handler, args, words), "replace")

    async def update(
        self, name: str, /, *, handler: Handler[..., Any] | str | None = None, **words: Any
    ) -> ScheduleInfo:  # fmt: skip
        """Change what is named of a schedule and leave the rest; None means the default. Arguments, if there are any,
        replace all it had. Of two updates at the same time the later one wins.
        Raises: ScheduleNotFoundError, and as `create`."""
        if isinstance(handler, str):
            await self._meet()
        view = await self._view(name)
        return await self._put_one(self._drafts.change(view, handler, words), "update")

    async def _drafted(
        self, name: str, handler: Handler[..., Any] | str, args: tuple[Any, ...], words: dict[str, Any]
    ) -> Draft:  # fmt: skip
        if isinstance(handler, str):
            await self._meet()
        return self._drafts.make(name, handler, args, words)

    async def _put_one(self, draft: Draft, mode: str) -> ScheduleInfo:
        name = draft.spec.name
        check_rule(draft.spec.rule, tenant=self._tenant, name=name, now_ms=self._clock.now_ms())
        message = PutSchedules(self._tenant, [draft.template], [draft.spec], mode)
        answer = await self._ask(message, SchedulesPut, name)
        match answer.outcomes[0]:
            case "exists":
                raise ScheduleExistsError(name, self._tenant)
            case "not_found":
                raise ScheduleNotFoundError(name, self._tenant)
            case "refused":
                raise error_of_definition(answer.refused[0], name, self._tenant)
        return await self.get(name)

    async def put_many(
        self,
        drafts: Iterable[Draft] | AsyncIterable[Draft],
        *,
        progress: Callable[[int], object] | None = None,
        batch: int = _BATCH,
        in_flight: int = 4,
        patience: Span = 60,
    ) -> PutResult:
        """Create or replace any number of schedules in bounded memory. Those that are wrong are refused by position, and the
        others are put.

        `progress`: called with how many were answered so far. `patience`: how long to go on while nothing at all is taken.
        Raises: BulkStoppedError.
        """
        bulk = BulkPut(self._send, self._clock, progress, parse_span(patience, what="patience"))
        return await bulk.run(drafts, batch, in_flight)

    async def _send(self, drafts: list[Draft]) -> SchedulesPut | Refusal:
        templates, schedules = assemble(drafts)
        message = PutSchedules(self._tenant, templates, schedules, "replace")
        answer = await self._channel.request(message, timeout_ms=self._timeout_ms)
        assert isinstance(answer, SchedulesPut | Refusal), f"{type(answer).__name__} answered PutSchedules"
        return answer

    # -- looking -------------------------------------------------------------------------------------------------------

    async def get(self, name: str) -> ScheduleInfo:
        """Raises: ScheduleNotFoundError."""
        return schedule_info(await self._view(name))

    async def get_many(self, names: Iterable[str]) -> Sequence[ScheduleInfo]:
        """Return those of the names that are there, in the order given, each with its payload."""
        many = [*names]
        found: Sequence[ScheduleInfo] = ()
        for start in range(0, len(many), _DETAILED):
            page = await self._ask(GetSchedules(self._tenant, many[start : start + _DETAILED]), SchedulesFound, "")
            found = [*found, *map(schedule_info, page.schedules)]
        return found

    async def _view(self, name: str) -> ScheduleView:
        found = await self._ask(GetSchedules(self._tenant, [name]), SchedulesFound, name)
        if not found.schedules:
            raise ScheduleNotFoundError(name, self._tenant)
        return found.schedules[0]

    async def preview(
        self,
        name: str = "",
        *,
        count: int = 10,
        begin: Moment | None = None,
        until: Moment | None = None,
        **words: Any,
    ) -> Sequence[NextTick]:
        """Return the next ticks from `begin` on, by default from now: of a schedule, or of a rule in words, as if the
        schedule `name` had it. Of a moment that has passed: what the rule says, whatever became of those ticks. `start` is
        `begin`, if no rule is given and no `begin`. Raises: ScheduleNotFoundError, and as `create`."""
        if begin is None and words.keys() == {"start"}:
            begin = words.pop("start")
        rule = rule_of(words) if words else None
        begin_ms = 0 if begin is None else instant_of(begin, what="begin")
        until_ms = 0 if until is None else instant_of(until, what="until")
        if rule is not None:
            check_rule(rule, tenant=self._tenant, name=name, now_ms=begin_ms or self._clock.now_ms())
        check_until(begin_ms or self._clock.now_ms(), until_ms)
        message = PreviewSchedule(self._tenant, name, rule, count, begin_ms, until_ms)
        previewed = await self._ask(message, SchedulePreviewed, name)
        return next_ticks(previewed.ticks, previewed.rule.zone)

    async def diff(self, name: str, *, count: int = 20, **words: Any) -> ScheduleDiff:
        """Return which of its next ticks a schedule would lose, get and keep if `update` changed these words of its rule.
        Raises: ScheduleNotFoundError, and as `create`."""
        view = await self._view(name)
        rule = rule_of(words, view.spec.rule)
        check_rule(rule, tenant=self._tenant, name=name, now_ms=self._clock.now_ms())
        compared = await self._ask(DiffSchedule(self._tenant, name, rule, count), ScheduleCompared, name)
        return diff_of(compared, view.spec.rule.zone, rule.zone)

    async def history(self, name: str, *, limit: int | None = None) -> AsyncIterator[TickInfo]:
        """Go through the ticks that were decided, the latest first. `limit`: at most so many. Raises:
        ScheduleNotFoundError."""
        left, before_ms = limit, 0
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = await self._ask(ListTicks(self._tenant, name, before_ms, size), TicksListed, name)
            for tick in page.ticks[:left]:
                yield tick_info(tick)
            left = None if left is None else left - len(page.ticks)
            before_ms = page.next_before_ms
            if not before_ms:
                return

    # -- commands ------------------------------------------------------------------------------------------------------

    @overload
    async def pause(self, names: str, *, why: str = "", by: str = "") -> str: ...
    @overload
    async def pause(self, names: Iterable[str], *, why: str = "", by: str = "") -> Sequence[str]: ...
    async def pause(self, names: str | Iterable[str], *, why: str = "", by: str = "") -> str | Sequence[str]:
        """Fire nothing until it is resumed; what runs goes on. Returns: `paused`, or `unchanged`; of many, a word for each,
        `not_found` among them. Raises: ScheduleNotFoundError, of one."""
        outcome: str | Sequence[str] = await self._command(names, "pause", by=by, why=why)
        return outcome

    @overload
    async def resume(self, names: str, *, missed: str = "skip") -> str: ...
    @overload
    async def resume(self, names: Iterable[str], *, missed: str = "skip") -> Sequence[str]: ...
    async def resume(self, names: str | Iterable[str], *, missed: str = "skip") -> str | Sequence[str]:
        """Tick again. `missed`: which of the ticks that passed fire now: "skip", "last", "first", "all", or "" as the
        schedule's own rule says. Returns: `resumed`, `unchanged`, or `over`; of many, a word for each."""
        outcome: str | Sequence[str] = await self._command(names, "resume", missed=missed)
        return outcome

    @overload
    async def delete(self, names: str) -> str: ...
    @overload
    async def delete(self, names: Iterable[str]) -> Sequence[str]: ...
    async def delete(self, names: str | Iterable[str]) -> str | Sequence[str]:
        """Delete schedules with their history; tasks they made go on. Returns: `deleted`; of many, a word for each."""
        outcome: str | Sequence[str] = await self._command(names, "delete")
        return outcome

    async def trigger(self, name: str, *, overlap: str = "") -> T | None:
        """Run it now, whatever its rule says. `overlap`: in place of the schedule's own for this once. Returns: the task, or
        None if it begins when the run that is alive has ended. Raises: ScheduleBusyError, ScheduleNotFoundError."""
        message = CommandSchedules(self._tenant, [name], "trigger", overlap=overlap)
        answer = await self._ask(message, SchedulesAnswered, name)
        word = self._one(name, answer.outcomes)
        if word == "skipped":
            raise ScheduleBusyError(name)
        return self._task_of(answer.tasks[0]) if answer.tasks and answer.tasks[0] else None

    async def _command(self, names: str | Iterable[str], action: str, **fields: str) -> Any:
        one = names if isinstance(names, str) else None
        many = [one] if one is not None else list(names)
        outcomes: Sequence[str] = []
        for start in range(0, len(many), _CHUNK):
            message = CommandSchedules(self._tenant, many[start : start + _CHUNK], action, **fields)
            answer = await self._ask(message, SchedulesAnswered, one or "")
            outcomes = [*outcomes, *answer.outcomes]
        return outcomes if one is None else self._one(one, outcomes)

    def _one(self, name: str, outcomes: Sequence[str]) -> str:
        if outcomes[0] == "not_found":
            raise ScheduleNotFoundError(name, self._tenant)
        return outcomes[0]

    # -- backfills -----------------------------------------------------------------------------------------------------

    @overload
    async def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: Literal[False] = False,
    ) -> Backfill: ...  # fmt: skip
    @overload
    async def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: Literal[True],
    ) -> BackfillForecast: ...  # fmt: skip
    async def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: bool = False,
    ) -> Backfill | BackfillForecast:  # fmt: skip
        """Fire the ticks of a past window, from `start` on and before `end`, beside the schedule itself.

        `reprocess`: "none" leaves out ticks that have fired, "failed" fires those again whose run ended badly, "all" fires
        all. `concurrency`: runs alive at a time. `priority`: by default one step below the schedule's. `dry_run`: only say
        which ticks would fire. Raises: ScheduleNotFoundError, InvalidRequestError.
        """
        spec = BackfillSpec(
            name, instant_of(start, what="start"), instant_of(end, what="end"), reprocess, concurrency,
            -1 if priority is None else parse_priority(priority), backwards, by,
        )  # fmt: skip
        if dry_run:
            view = await self._view(name)
            foreseen = await self._ask(DryRunBackfill(self._tenant, spec), BackfillForeseen, name)
            ticks = next_ticks(foreseen.ticks, view.spec.rule.zone)
            return BackfillForecast(ticks, foreseen.left_out, foreseen.has_more)
        answer = await self._ask(StartBackfill(self._tenant, spec), BackfillsAnswered, name)
        return Backfill(self, answer.ids[0], name)

    async def backfills(self, name: str = "", *, limit: int = 100) -> Sequence[BackfillInfo]:
        """Return the backfills of a schedule, or of all, the newest first."""
        listed = await self._ask(ListBackfills(self._tenant, name, 0, limit), BackfillsListed, name)
        return [backfill_info(view) for view in listed.backfills]

    async def get_backfill(self, id: str, *, schedule: str = "") -> BackfillInfo:
        """Return how far a backfill has come. Raises: BackfillNotFoundError, InvalidIdError."""
        message = ListBackfills(self._tenant, schedule, from_text(id), _BACKFILLS_MAX)
        listed = await self._ask(message, BackfillsListed, schedule)
        if not listed.backfills:
            raise BackfillNotFoundError(id, self._tenant)
        return backfill_info(listed.backfills[0])

    async def command_backfill(self, id: str, action: Literal["pause", "resume", "cancel"]) -> str:
        """Pause, resume or cancel a backfill. Returns: `paused`, `resumed`, `cancelled`, or `ended`."""
        await self.get_backfill(id)
        answer = await self._ask(CommandBackfills(self._tenant, [from_text(id)], action), BackfillsAnswered, "")
        if answer.outcomes[0] == "not_found":
            raise BackfillNotFoundError(id, self._tenant)
        return answer.outcomes[0]

    # Last in the class: below this line the name `list` means the method to a type checker.
    async def list(
        self, *, prefix: str = "", paused: bool | None = None, limit: int | None = None
    ) -> AsyncIterator[ScheduleInfo]:
        """Go through schedules by name, page by page. `paused`: only those that are, or are not. `limit`: at most so
        many."""
        left, after = limit, ""
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            message = ListSchedules(self._tenant, prefix, paused, after, size)
            page = await self._ask(message, SchedulesFound, "")
            for view in page.schedules:
                yield schedule_info(view)
            left = None if left is None else left - len(page.schedules)
            after = page.next_after
            if not after:
                return
