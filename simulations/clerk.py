"""The part of a generated run's client that deals with schedules: asks what the work says, and tells observers.

Observers hear of each request before it is sent, since from then on it may happen, and of its answer. What holds: one
request names one schedule, so that each answer is about one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..actors import schedule_messages as sm
from ..actors.messages import Message, RetryPolicy, Template
from ..actors.rules import Calendar, Rule
from ..runtime.errors import UnavailableError
from ..transports import schedule_api
from .acts import handler_of
from .case import Backfill, CommandSchedule, PutSchedule, SetCalendar
from .client import SimChannel
from .history import ScheduleAsked, ScheduleTold
from .process import Process

if TYPE_CHECKING:
    from .world import World

_TIMEOUT_MS: Final = 8_000
_INSIST: Final = 40
_PAUSE: Final = 0.5  # seconds between two tries


class Clerk:
    """`start_ms`: the wall clock when the run began, as a right clock had it."""

    def __init__(self, process: Process, channel: SimChannel, start_ms: int) -> None:
        self._process = process
        self._world: World = process.world
        self._channel = channel
        self._start_ms = start_ms
        self._asked = 0
        self._put: dict[tuple[str, str], None] = {}  # schedules there may be

    async def put(self, entry: PutSchedule) -> None:
        spec = spec_of(entry, self._start_ms)
        self._put[entry.tenant, entry.name] = None
        message = sm.PutSchedules(entry.tenant, [template_of(entry)], [spec], entry.mode)
        await self._ask("put", entry.tenant, entry.name, message, spec=spec)

    async def command(self, entry: CommandSchedule) -> bool:
        """Returns whether it was answered."""
        message = sm.CommandSchedules(
            entry.tenant, [entry.name], entry.action, "operator", missed=entry.missed, overlap=entry.overlap
        )
        return await self._ask(
            entry.action, entry.tenant, entry.name, message, missed=entry.missed, overlap=entry.overlap
        )  # fmt: skip

    async def backfill(self, entry: Backfill) -> None:
        start_ms = self._start_ms
        spec = sm.BackfillSpec(
            entry.name, start_ms + entry.from_ms, start_ms + entry.until_ms, entry.reprocess, entry.concurrency,
            is_backwards=entry.is_backwards,
        )  # fmt: skip
        await self._ask("backfill", entry.tenant, entry.name, sm.StartBackfill(entry.tenant, spec))

    async def calendar(self, entry: SetCalendar) -> None:
        calendar = Calendar(
            entry.name, weekdays=tuple(entry.weekdays), dates=tuple(entry.dates), hours=tuple(entry.hours), zone=entry.zone
        )
        await self._ask("calendar", entry.tenant, entry.name, schedule_api.SetCalendar(entry.tenant, calendar, "let"))

    async def pause_all(self) -> None:
        """Pause whatever there may be, again and again until it is."""
        for tenant, name in list(self._put):
            for _ in range(_INSIST):
                if await self.command(CommandSchedule(0, name, "pause", tenant=tenant)):
                    break
                await asyncio.sleep(_PAUSE)

    # -- asking ----------------------------------------------------------------------------------------------------------

    async def _ask(self, command: str, tenant: str, name: str, message: Message, **said: Any) -> bool:
        world, process = self._world, self._process
        self._asked += 1
        number = self._asked
        world.observe(ScheduleAsked(world.loop.now_ns, number, process.name, tenant, name, command, **said))
        answer = await self._request(message)
        outcome, word, id = _told(answer)
        world.count(f"schedule.{command}.{word or outcome}")
        process.note("schedule", what=command, name=name, outcome=outcome, word=word)
        world.observe(ScheduleTold(world.loop.now_ns, number, outcome, word, id))
        return outcome == "ok"

    async def _request(self, message: Message) -> Any:
        """Return the answer, None if there was none."""
        try:
            return await self._channel.request(message, timeout_ms=_TIMEOUT_MS)
        except UnavailableError:
            return None


def _told(answer: Any) -> tuple[str, str, int]:
    """Return the outcome, the word and the id of an answer."""
    match answer:
        case None:
            return "unknown", "", 0
        case sm.SchedulesPut(outcomes=[word]):
            if word != "refused":
                return "ok", word, 0
            return "unknown" if answer.refused[0].code in _UNSETTLED else "refused", "", 0
        case sm.SchedulesAnswered(outcomes=[word]):
            return ("unknown", "", 0) if word == "unavailable" else ("ok", word, answer.tasks[0] if answer.tasks else 0)
        case sm.CalendarConfigured():
            return "ok", "set", 0
        case sm.BackfillsAnswered(outcomes=[word]):
            return "ok", word, answer.ids[0]
        case _:
            return "unknown" if getattr(answer, "retry_after_ms", -1) >= 0 else "refused", "", 0


_UNSETTLED: Final = ("unavailable", "deadline", "overloaded", "no_such_actor", "store", "disk_full", "no_members")


def rule_of(entry: PutSchedule, start_ms: int) -> Rule:
    """Return the rule of an entry, with instants of the wall clock."""

    def instant(at_ms: int) -> int:
        return start_ms + at_ms if at_ms else 0

    return Rule(
        cron=entry.cron, every_ms=entry.every_ms, after_ms=entry.after_ms,
        at_ms=tuple(start_ms + moment for moment in entry.moments),
        anchor_ms=start_ms + entry.anchor_ms, zone=entry.zone, dst_gap=entry.dst_gap, dst_overlap=entry.dst_overlap,
        start_ms=instant(entry.starts_ms), end_ms=instant(entry.ends_ms), limit=entry.limit, calendar=entry.calendar,
        excluded=entry.excluded, jitter_ms=entry.jitter_ms, precision=entry.precision,
    )  # fmt: skip


def spec_of(entry: PutSchedule, start_ms: int) -> sm.ScheduleSpec:
    """Return the schedule of an entry. Its tasks carry its name."""
    arguments = {
        "acts": entry.acts, "takes_ms": entry.takes_ms, "effects": entry.effects, "filler": entry.name.encode()
    }  # fmt: skip
    return sm.ScheduleSpec(
        entry.name, 0, msgspec.msgpack.encode(arguments), rule_of(entry, start_ms), priority=entry.priority,
        overlap=entry.overlap, missed=entry.missed, grace_ms=entry.grace_ms, max_lateness_ms=entry.max_lateness_ms,
        max_catchup=entry.max_catchup, pause_after=entry.pause_after,
    )  # fmt: skip


def template_of(entry: PutSchedule) -> Template:
    return Template(
        handler_of(entry.queue), queue=entry.queue, max_attempts=entry.max_attempts, timeout_ms=entry.timeout_ms,
        retry=RetryPolicy(base_ms=500, cap_ms=5_000), cancel_grace_ms=2_000,
    )  # fmt: skip
