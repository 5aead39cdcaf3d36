"""Schedules that code declares: `@app.schedule(...)` on a task's handler, and how a scheduler comes to have them.

A declared schedule carries the name of its app. When a scheduler starts it puts what the code of its apps declares, the
calendars (`app.calendar(...)`) first, since a schedule may name them: what is as the code says stays untouched, and a pause
stays a pause. Code wins: a schedule or calendar that somebody changed or deleted is as the code says again from the next
start on, and the log names those that were otherwise. What an app declared once and declares no more goes on, since nobody
can tell a schedule that was given up from one that another version of the code still wants; a warning names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from ..actors.calendars import check_calendar
from ..actors.rules import Calendar
from ..actors.ticks import Ticks
from ..runtime.clock import SystemClock
from ..runtime.errors import UsageError
from .calendars import calendar_of
from .client_spec import SpecMaker
from .handler import Handler
from .options import InvalidOptionError
from .schedule_words import Draft, DraftMaker

if TYPE_CHECKING:
    from .app import Foliot
    from .client import Client

log = structlog.get_logger("foliot")

_LOOKED_AT: Final = 10_000  # schedules among which those no longer declared are looked for
_SAID_AGAIN: Final = 20  # refusals that are repeated once the scheduler is ready
_NAMED: Final = 20  # of what was put otherwise than it was


class DuplicateScheduleError(UsageError):
    """Two declarations of one app under one name."""

    code = "duplicate_schedule"

    def __init__(self, name: str, handler: str) -> None:
        super().__init__(f"schedule {name!r} is already declared for {handler!r}, expected another name=...")
        self.name = name


class DuplicateCalendarError(UsageError):
    """Two different calendars under one name."""

    code = "duplicate_calendar"

    def __init__(self, name: str, app: str) -> None:
        super().__init__(f"calendar {name!r} is already declared otherwise by app {app!r}, expected another name")
        self.name = name


@dataclass(frozen=True)
class Declared:
    """One `@app.schedule(...)`."""

    handler: Handler[..., Any]
    draft: Draft


def declared(
    app: str, name: str | None, handler: Handler[..., Any], args: tuple[Any, ...], words: dict[str, Any]
) -> Declared:
    """Return a declaration, its words checked, so that a mistake shows where it was written.

    Raises: UsageError of a kind that names the word, its value and what was expected.
    """
    if not isinstance(handler, Handler):
        raise InvalidOptionError("handler", handler, "a task: write @app.schedule(...) above @app.task", where=app)
    # No word of a schedule is about now, so nothing asks this clock.
    maker = DraftMaker(SpecMaker(SystemClock()))
    draft = maker.make(name or handler.name, handler, args, words, declared_in=app)
    if not draft.spec.rule.calendar:  # which only a scheduler knows
        Ticks(draft.spec.rule)
    return Declared(handler, draft)


def declared_calendar(app: Foliot, name: str, words: dict[str, Any]) -> Calendar:
    """Return a calendar that code declares, checked, so that a mistake shows where it was written.

    Raises: InvalidOptionError, InvalidCalendarError, InvalidZoneError, DuplicateCalendarError.
    """
    calendar = calendar_of(name, **words)
    check_calendar(calendar)
    if app.calendars.get(name, calendar) != calendar:
        raise DuplicateCalendarError(name, app.name)
    return calendar


@dataclass(frozen=True)
class Refused:
    """What code declares and the scheduler did not take. `kind`: "schedule" or "calendar"."""

    kind: str
    name: str
    code: str
    reason: str

    def tell(self) -> None:
        event = f"{self.kind}_refused"
        log.error(event, **{self.kind: self.name}, code=self.code, reason=self.reason)


def tell_again(refused: Sequence[Refused]) -> None:
    """Log refusals once more where they are seen, after all that a start logs: the first few, and how many there are."""
    for each in refused[:_SAID_AGAIN]:
        each.tell()
    if len(refused) > _SAID_AGAIN:
        log.error("declarations_refused", refused=len(refused), shown=_SAID_AGAIN)


async def put_declared(apps: Sequence[Foliot], client: Client) -> list[Refused]:
    """Have the scheduler hold what the apps declare; what it refuses is logged and returned, and the others are there."""
    return [*await _put_calendars(apps, client), *await _put_schedules(apps, client)]


async def _put_calendars(apps: Iterable[Foliot], client: Client) -> list[Refused]:
    wanted: dict[str, tuple[str, Calendar]] = {}
    refused: list[Refused] = []
    for app in apps:
        for name, calendar in app.calendars.items():
            owner, known = wanted.setdefault(name, (app.name, calendar))
            if known != calendar:
                error = DuplicateCalendarError(name, owner)
                refused.append(Refused("calendar", name, error.code, str(error)))
    if not wanted:
        return []
    there = {each.name: msgspec.structs.replace(each, version=0) for each in await client.calendars.list()}
    names: list[str] = []
    for name, (_, calendar) in wanted.items():
        if there.get(name) == calendar:
            continue
        try:
            await client.calendars.put(calendar)
            names.append(name)
        except UsageError as error:
            refused.append(Refused("calendar", name, error.code, str(error)))
    for each in refused:
        each.tell()
    if names or refused:
        log.info(
            "calendars_declared", set=len(names), unchanged=len(wanted) - len(names) - len(refused), refused=len(refused),
            names=names[:_NAMED],
        )  # fmt: skip
    return refused


async def _put_schedules(apps: Iterable[Foliot], client: Client) -> list[Refused]:
    drafts = [each.draft for app in apps for each in app.schedules.values()]
    if not drafts:
        return []
    result = await client.schedules.put_many(drafts)
    refused = [Refused("schedule", drafts[each.position].spec.name, each.code, each.text) for each in result.refused]
    for each in refused:
        each.tell()
    if result.created or result.replaced or result.refused_count:
        log.info(
            "schedules_declared", created=result.created, replaced=result.replaced, unchanged=result.unchanged,
            refused=result.refused_count, replaced_names=[drafts[at].spec.name for at in result.replaced_at[:_NAMED]],
        )  # fmt: skip
    return refused


async def warn_of_undeclared(apps: Sequence[Foliot], client: Client) -> None:
    """Log which schedules the apps declared once and declare no more, of the first `_LOOKED_AT` by name."""
    names = [name for app in apps for name in app.schedules]
    own = [app.name for app in apps]
    looked_at = 0
    async for info in client.schedules.list(limit=_LOOKED_AT):
        looked_at += 1
        if info.declared_in in own and info.name not in names:
            log.warning(
                "schedule_no_longer_declared", schedule=info.name, app=info.declared_in, state=info.state,
                advice="it goes on; delete or pause it if nobody needs it",
            )  # fmt: skip
    if looked_at == _LOOKED_AT:
        log.info("schedules_not_all_looked_at", looked_at=looked_at)
