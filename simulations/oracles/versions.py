"""By which calendars a shard may go: those of now, and older ones of which it need not have heard yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from ...actors.rules import Calendar
from ..almanac_days import BUILT_IN
from .bounds import Bounds
from .diary import Page, Version
from .steps import NS
from .tasks import Tasks

_BUILT_IN: Final = frozenset(calendar.name for calendar in BUILT_IN)
_OPERATORS: Final = ("and", "or", "not")
_SOON_MS: Final = 5_000  # in calm everybody hears of a change, and has computed by it, within this
_BEFORE_MS: Final = 2_000


class Versions:
    """The calendars in force, as the commits of their home shards made them."""

    def __init__(self, bounds: Bounds, tasks: Tasks) -> None:
        self._bounds = bounds
        self._tasks = tasks

    def of(self, page: Page) -> Iterator[tuple[Calendar, ...]]:
        """Yield what the calendars a schedule names may be, the newest first; once nothing if it names none."""
        return self.named(page.key[0], page.spec.rule.calendar)

    def named(self, tenant: str, text: str) -> Iterator[tuple[Calendar, ...]]:
        """Yield the same for an expression."""
        if not text:
            yield ()
            return
        words = text.replace("(", " ").replace(")", " ").split()
        names = [name for name in dict.fromkeys(words) if name not in _OPERATORS and name not in _BUILT_IN]
        known: list[list[Version]] = [self._tasks.diary.calendars.get((tenant, name), []) for name in names]
        for combination in itertools.product(*(reversed(versions) for versions in known)):
            calendars = tuple([version.calendar for version in combination if version.calendar is not None])
            if len(calendars) == len(names):
                yield calendars

    def forget(self, at_ns: int) -> None:
        """Leave out versions that everybody has heard the end of."""
        calm_ms = min(self._tasks.calm_ms(at_ns), self._bounds.quiet_ms(at_ns // NS))
        for versions in self._tasks.diary.calendars.values():
            while len(versions) > 1 and self._is_over((at_ns - versions[0].until_ns) // NS, calm_ms):
                del versions[0]

    def _is_over(self, since_ms: int, calm_ms: int) -> bool:
        repair_ms = self._bounds.repair_ms
        if since_ms > repair_ms and calm_ms > repair_ms:
            return True
        return since_ms > _SOON_MS and calm_ms > since_ms + _BEFORE_MS
