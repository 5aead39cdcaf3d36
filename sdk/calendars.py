"""Named calendars, shared by schedules: `client.calendars`.

    await client.calendars.set("holidays", yearly=["12-25", "12-26"], easter=[-2, 1])
    await client.calendars.set("office", weekdays=["mon", "tue", "wed", "thu", "fri"], hours=["09:00-17:00"])

A schedule names them in an expression: `calendar="office and not holidays"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from ..actors.calendars import check_calendar
from ..actors.rules import Calendar
from ..actors.schedule_messages import CalendarConfigured
from ..transports.schedule_api import CalendarsListed, DeleteCalendar, ListCalendars, SetCalendar
from .options import InvalidOptionError
from .schedule_errors import CalendarNotFoundError

if TYPE_CHECKING:
    from .schedules import Ask

_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_MINUTES: Final = 1_440


class Calendars:
    """The calendars of a client's tenant."""

    def __init__(self, ask: Ask, tenant: str) -> None:
        self._ask = ask
        self._tenant = tenant

    async def set(
        self,
        name: str,
        *,
        weekdays: Iterable[str | int] = (),
        dates: Iterable[date | str] = (),
        yearly: Iterable[str] = (),
        easter: Iterable[int] = (),
        nth: Iterable[tuple[str | int, str | int, int]] = (),
        hours: Iterable[str] = (),
        zone: str = "",
        force: bool = False,
    ) -> Calendar:
        """Create or replace a calendar, as `calendar_of` says. When this returns, the schedules that use it know it.
        `force`: as for `put`. Raises: InvalidOptionError, InvalidCalendarError, InvalidZoneError, InvalidRequestError."""
        calendar = calendar_of(
            name, weekdays=weekdays, dates=dates, yearly=yearly, easter=easter, nth=nth, hours=hours, zone=zone
        )
        return await self.put(calendar, force=force)

    async def put(self, calendar: Calendar, *, force: bool = False) -> Calendar:
        """Create or replace a calendar. Returns it with its version.

        `force`: also if schedules that name it never tick again because of it, which is refused otherwise.
        Raises: InvalidCalendarError, InvalidZoneError; InvalidRequestError, naming some of those schedules.
        """
        check_calendar(calendar)
        message = SetCalendar(self._tenant, calendar, "tell" if force else "refuse")
        answer = await self._ask(message, CalendarConfigured, calendar.name)
        return answer.calendar

    async def get(self, name: str) -> Calendar:
        """Raises: CalendarNotFoundError."""
        for calendar in await self.list():
            if calendar.name == name:
                return calendar
        raise CalendarNotFoundError(name, self._tenant)

    async def delete(self, name: str) -> None:
        """Delete a calendar. Raises: CalendarNotFoundError; InvalidRequestError, naming some, if schedules use it."""
        await self._ask(DeleteCalendar(self._tenant, name), CalendarConfigured, name)

    # Last in the class: below this line the name `list` means the method to a type checker.
    async def list(self) -> Sequence[Calendar]:
        """Return all calendars by name, but for `weekdays` and `weekends`, which are built in."""
        answer: CalendarsListed = await self._ask(ListCalendars(self._tenant), CalendarsListed, "")
        return answer.calendars


def calendar_of(
    name: str,
    *,
    weekdays: Iterable[str | int] = (),
    dates: Iterable[date | str] = (),
    yearly: Iterable[str] = (),
    easter: Iterable[int] = (),
    nth: Iterable[tuple[str | int, str | int, int]] = (),
    hours: Iterable[str] = (),
    zone: str = "",
) -> Calendar:
    """Return a calendar in words.

    `weekdays`: "mon" or 0 to "sun" or 6. `dates`: dates or "2026-12-24". `yearly`: "12-25". `easter`: days after Easter
    Sunday, -2 is Good Friday. `nth`: (month, weekday, n) such as ("nov", "thu", 4), -1 the last. `hours`: "09:00-17:00", the
    end excluded and at most 24:00. `zone`: an IANA name, else that of each schedule. Raises: InvalidOptionError.
    """
    return Calendar(
        name=name,
        weekdays=tuple(_number("weekdays", day, _WEEKDAYS, 0) for day in weekdays),
        dates=tuple(day.isoformat()[:10] if isinstance(day, date) else day for day in dates),
        yearly=tuple(yearly),
        easter=tuple(easter),
        nth_weekdays=tuple(
            (_number("nth", month, _MONTHS, 1), _number("nth", day, _WEEKDAYS, 0), n) for month, day, n in nth
        ),
        hours=tuple(_span_of_day(text) for text in hours),
        zone=zone,
    )


def _number(option: str, value: Any, names: Sequence[str], first: int) -> int:
    """Return the number of a day or month, which may be given by its name."""
    if isinstance(value, str) and value[:3].lower() in names:
        return names.index(value[:3].lower()) + first
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionError(option, value, f"one of {', '.join(names)}")
    return value


def _span_of_day(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-") if isinstance(text, str) else ("", "", "")
    try:
        return _minutes(start), _minutes(end)
    except ValueError:
        raise InvalidOptionError("hours", text, "a part of the day such as '09:00-17:00'") from None


def _minutes(text: str) -> int:
    hour, _, minute = text.strip().partition(":")
    if not (hour.isdecimal() and len(hour) <= 2 and (not minute or (minute.isdecimal() and len(minute) == 2))):
        raise ValueError(text)
    minutes = int(hour) * 60 + int(minute or "0")
    if int(minute or "0") > 59 or minutes > _DAY_MINUTES:
        raise ValueError(text)
    return minutes
