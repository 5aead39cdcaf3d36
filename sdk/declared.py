"""Schedules that code declares: `@app.schedule(...)` on a task's handler, and how a scheduler comes to have them.

A declared schedule carries the name of its app. When a scheduler starts it puts what the code of its apps declares: what is
as it was stays untouched, and a pause stays a pause. What an app declared once and declares no more goes on, since nobody
can tell a schedule that was given up from one that another version of the code still wants; a warning names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from ..actors.ticks import Ticks
from ..runtime.clock import SystemClock
from ..runtime.errors import UsageError
from .client_spec import SpecMaker
from .handler import Handler
from .options import InvalidOptionError
from .schedule_words import Draft, DraftMaker

if TYPE_CHECKING:
    from .app import Foliot
    from .client import Client

log = structlog.get_logger("foliot")

_LOOKED_AT: Final = 10_000  # schedules among which those no longer declared are looked for


class DuplicateScheduleError(UsageError):
    """Two declarations of one app under one name."""

    code = "duplicate_schedule"

    def __init__(self, name: str, handler: str) -> None:
        super().__init__(f"schedule {name!r} is already declared for {handler!r}, expected another name=...")
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


async def put_declared(apps: Iterable[Foliot], client: Client) -> None:
    """Have the scheduler hold what the apps declare; what it refuses is logged, and the others are there."""
    drafts = [each.draft for app in apps for each in app.schedules.values()]
    if not drafts:
        return
    result = await client.schedules.put_many(drafts)
    for refusal in result.refused:
        name = drafts[refusal.position].spec.name
        log.error("schedule_refused", schedule=name, code=refusal.code, reason=refusal.text)
    if result.created or result.replaced:
        log.info("schedules_declared", created=result.created, replaced=result.replaced, unchanged=result.unchanged)


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
