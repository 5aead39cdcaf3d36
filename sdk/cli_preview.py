"""`foliot schedules preview` and `diff`: what a rule comes to, before it does.

A rule given in options is looked at right here, without a scheduler and without a database, unless it names calendars that
only a scheduler knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from ..actors.calendars import names_in
from ..actors.rules import Calendar
from ..runtime.clock import SystemClock
from .calendar_files import read_calendars
from .cli_common import Session, connected, echo_json, guarded
from .cli_rules import in_options, in_utc, moment_in, rule_options, rule_words, says_when
from .client import Client
from .durations import instant_of
from .rules import check_until, ticks_of
from .schedule_views import NextTick, ScheduleDiff, preview_of

_NONE_TO_COME: Final = "no tick from now on; --start shows those of the past"
_CHANGES: Final = (("gone", "-"), ("come", "+"), ("stay", "="))


def ticks_json(ticks: Sequence[NextTick], *, details: bool = False) -> dict[str, Any]:
    """Return ticks as JSON: the moments in UTC, and if they are wanted, lists beside that in the same order."""
    record: dict[str, Any] = {"ticks": [in_utc(tick.at) for tick in ticks]}
    if details:
        record["local"] = [tick.at.isoformat() for tick in ticks]
        record["fires_at"] = [in_utc(tick.fires_at) for tick in ticks]
        record["notes"] = [list(tick.notes) for tick in ticks]
    return record


def tick_row(tick: NextTick) -> dict[str, Any]:
    """Return a tick as a line of a table has it."""
    fires_at = in_utc(tick.fires_at) if tick.fires_at != tick.at else None
    local = tick.at.replace(tzinfo=None).isoformat(sep=" ") + tick.at.strftime(" %a %Z")
    return {"tick": in_utc(tick.at), "local": local, "fires_at": fires_at, "notes": ", ".join(tick.notes)}


def print_ticks(session: Session, ticks: Sequence[NextTick], *, details: bool = False, empty: str = "no tick") -> None:
    """Print ticks as one JSON document, or as a table with the columns that say something."""
    if session.as_json:
        echo_json(ticks_json(ticks, details=details))
        return
    rows = [tick_row(tick) for tick in ticks]
    columns = [name for name in ("fires_at", "notes") if any(row[name] for row in rows)]
    session.rows(rows, ("tick", "local", *columns), empty=empty)


@click.command()
@click.argument("name", required=False, default="")
@rule_options
@click.option("--count", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many.")
@click.option("--until", metavar="MOMENT", help="Only those before.")
@click.option("--calendar-file", "files", multiple=True, metavar="FILE", help="Calendars to know, instead of a scheduler's.")
@click.option("--details", is_flag=True, help="With --json: local times, firing times and notes beside the ticks.")
@connected
def preview(
    session: Session,
    name: str,
    rule: dict[str, Any],
    count: int,
    until: str | None,
    files: tuple[str, ...],
    details: bool,
) -> None:
    """Print the next ticks of a schedule or a rule.

    Those of the schedule NAME, or of a rule given in options, which needs no scheduler. The ticks of a rule begin at
    --start, by default now; H and jitter are drawn for NAME, if that is given. The moments are in UTC, with the local time
    and notes beside them: dst_gap, dst_overlap, moved, holiday.
    """
    if not says_when(rule):
        if not name:
            raise click.UsageError("give NAME, or a rule: --cron, --every, --after or --at")
        if files or not rule.keys() <= {"start"}:
            raise click.UsageError(f"without a new rule only --start, --until and --count go with schedule {name!r}")
        ticks = session.run(lambda client: _of_schedule(session, client, name, rule.get("start"), until, count))
    elif files or not guarded(lambda: names_in(rule.get("calendar", "")), as_json=session.as_json):
        ticks = guarded(lambda: _of_rule(session, name, rule, until, count, read_calendars(files)), as_json=session.as_json)
    else:

        async def known(client: Client) -> list[NextTick]:
            return _of_rule(session, name, rule, until, count, await client.calendars.list())

        ticks = session.run(known)
    since = rule.get("start")
    print_ticks(session, ticks, details=details, empty=f"no tick from {since} on" if since else _NONE_TO_COME)


async def _of_schedule(
    session: Session, client: Client, name: str, start: str | None, until: str | None, count: int
) -> Sequence[NextTick]:  # fmt: skip
    info = await client.schedules.get(name)
    begin = moment_in(start, info.zone, what="start") if start else None
    end = moment_in(until, info.zone, what="until") if until else None
    if info.state == "paused":
        why = f", {info.paused_why}" if info.paused_why else ""
        session.tell(f"schedule {name!r} is paused{why}: none of these fires before it is resumed")
    return await client.schedules.preview(name, count=count, begin=begin, until=end)


def _of_rule(
    session: Session, name: str, rule: dict[str, Any], until: str | None, count: int, calendars: Sequence[Calendar]
) -> list[NextTick]:  # fmt: skip
    with in_options():
        words = rule_words(rule)
        start = words.get("start")
        begin_ms = SystemClock().now_ms() if start is None else instant_of(start, what="start")
        until_ms = instant_of(moment_in(until, words.get("zone", "UTC"), what="until"), what="until") if until else 0
        check_until(begin_ms, until_ms)
        ticks = ticks_of(words, now_ms=begin_ms, name=name, tenant=session.tenant, calendars=calendars)
        return preview_of(ticks, begin_ms=begin_ms, count=count, until_ms=until_ms)


@click.command()
@click.argument("name")
@rule_options
@click.option("--count", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Of the next ticks.")
@connected
def diff(session: Session, name: str, rule: dict[str, Any], count: int) -> None:
    """Say what another rule would change.

    Prints which of its next ticks the schedule would lose (-), get (+) and keep (=). Nothing is changed;
    `foliot schedules update` with the same options does it.
    """
    if not rule:
        raise click.UsageError("nothing to compare: give what would change, such as --cron or --zone")

    async def work(client: Client) -> ScheduleDiff:
        info = await client.schedules.get(name)
        with in_options():
            return await client.schedules.diff(name, count=count, **rule_words(rule, info.zone))

    found = session.run(work)
    if session.as_json:
        changes = {kind: ticks_json(getattr(found, kind))["ticks"] for kind, _ in _CHANGES}
        echo_json({**changes, "until": in_utc(found.until)})
        return
    marked = [{"": sign, **tick_row(tick)} for kind, sign in _CHANGES for tick in getattr(found, kind)]
    marked.sort(key=lambda row: str(row["tick"]))
    session.rows(marked, ("", "tick", "local", "notes"), empty="no tick, neither before nor after")
    if found.until is not None:
        session.tell(f"the ticks up to {in_utc(found.until)} were compared")
