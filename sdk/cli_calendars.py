"""`foliot calendars`: named sets of days and hours that schedules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..actors.rules import Calendar
from .calendar_files import read_calendar_file
from .calendars import calendar_of
from .cli_common import Session, connected, echo_json
from .client import Client
from .errors import InvalidRequestError

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def record_of(calendar: Calendar) -> dict[str, Any]:
    """Return a calendar as JSON, in the words of a calendar file."""
    return {
        "name": calendar.name,
        "version": calendar.version,
        "weekdays": [_WEEKDAYS[day] for day in calendar.weekdays],
        "dates": list(calendar.dates),
        "yearly": list(calendar.yearly),
        "easter": list(calendar.easter),
        "nth": [[_MONTHS[month - 1], _WEEKDAYS[day], n] for month, day, n in calendar.nth_weekdays],
        "hours": [f"{_clock(start)}-{_clock(end)}" for start, end in calendar.hours],
        "zone": calendar.zone,
    }


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _days(record: dict[str, Any]) -> str:
    """Return what a calendar holds, on one line."""
    parts = [" ".join(record[name]) for name in ("weekdays", "dates", "yearly")]
    parts += [" ".join(f"easter{days:+d}" for days in record["easter"])]
    parts += [", ".join(f"{month} {day} {n}" for month, day, n in record["nth"]), " ".join(record["hours"])]
    return ", ".join(part for part in parts if part) or "every day"


@click.group()
def calendars() -> None:
    """Calendars that schedules share: list, set, show, delete."""


@calendars.command("list")
@connected
def list_(session: Session) -> None:
    """List calendars; weekdays and weekends are built in and not listed."""
    records = [record_of(each) for each in session.run(lambda client: client.calendars.list())]
    rows = records if session.as_json else [{**each, "days": _days(each)[:100]} for each in records]
    session.rows(rows, ("name", "version", "zone", "days"), empty="none but weekdays and weekends, which are built in")


@calendars.command()
@click.argument("name")
@connected
def show(session: Session, name: str) -> None:
    """Show a calendar in full, in the form a calendar file has."""
    record = record_of(session.run(lambda client: client.calendars.get(name)))
    if session.as_json:
        echo_json(record)
        return
    click.echo(f"# {record['name']}, version {record['version']}")
    lines = [*record["weekdays"], *record["yearly"], *[f"easter{days:+d}" for days in record["easter"]]]
    lines += [f"{month} {day} {n}" for month, day, n in record["nth"]]
    lines += [*record["dates"], *record["hours"], *([f"zone {record['zone']}"] if record["zone"] else [])]
    for line in lines:
        click.echo(line)


@calendars.command("set")
@click.argument("name", required=False)
@click.option("--file", "path", metavar="FILE", help="Days from a file: JSON, or a line for each.")
@click.option("--weekday", "weekdays", multiple=True, metavar="DAY", help="mon to sun; repeatable, as all these.")
@click.option("--date", "dates", multiple=True, metavar="DATE", help="A single day, 2026-12-24.")
@click.option("--yearly", multiple=True, metavar="DAY", help="A day of every year, 12-25.")
@click.option("--easter", type=int, multiple=True, metavar="DAYS", help="Days after Easter Sunday; -2 is Good Friday.")
@click.option("--nth", type=(str, str, int), multiple=True, metavar="MONTH DAY N", help="nov thu 4; -1 is the last.")
@click.option("--hours", multiple=True, metavar="FROM-TO", help="A part of the day, 09:00-17:00.")
@click.option("--zone", default="", metavar="NAME", help="IANA zone. [default: that of each schedule]")
@click.option("--force", is_flag=True, help="Even if schedules never tick again, or it would be every day.")
@connected
def set_(session: Session, name: str | None, path: str | None, zone: str, force: bool, **days: Any) -> None:
    """Create or replace the calendar NAME, or those of a file. Schedules that use it follow at once."""
    if path is not None and (zone or any(days.values())):
        raise click.UsageError("--file holds the whole calendar: give it, or days, not both")
    if path is None and name is None:
        raise click.UsageError("give NAME, or --file FILE, whose name is the calendar's")
    if path is None and not force and not any(days.values()):
        raise click.UsageError(
            f"calendar {name!r} would be every day: give days with --yearly, --date and so on, or --file; --force sets it"
        )

    async def work(client: Client) -> Sequence[Calendar]:
        if path is not None:
            found = read_calendar_file(path, name=name or "", is_empty_right=force)
        else:
            found = [calendar_of(name or "", zone=zone, **days)]
        return [await _put(session, client, each, force) for each in found]

    for calendar in session.run(work):
        record = record_of(calendar)
        session.document(record, f"{record['name']}, version {record['version']}: {_days(record)}")


async def _put(session: Session, client: Client, calendar: Calendar, force: bool) -> Calendar:
    """Set a calendar; if it has to be by force, say what that ends."""
    try:
        return await client.calendars.put(calendar)
    except InvalidRequestError as error:
        if not force:
            raise
        session.tell(f"forced: {error}")
        return await client.calendars.put(calendar, force=True)


@calendars.command()
@click.argument("name")
@connected
def delete(session: Session, name: str) -> None:
    """Delete a calendar that no schedule uses."""
    session.run(lambda client: client.calendars.delete(name))
    session.document({"name": name, "outcome": "deleted"}, f"{name} deleted")
