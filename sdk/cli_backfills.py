"""`foliot schedules backfill` and `foliot backfills`: the ticks of a past window, fired beside the schedule itself."""

from __future__ import annotations

from typing import Any, Literal

import click

from ..actors.schedule_messages import REPROCESS
from .cli_common import Session, cell, connected, current_user, echo_json, plain
from .cli_preview import print_ticks, ticks_json
from .cli_rules import in_utc, rule_words
from .client import Client
from .schedule_views import BackfillForecast, BackfillInfo
from .schedules import Backfill


def _row(info: BackfillInfo) -> dict[str, Any]:
    record: dict[str, Any] = plain(info)
    return {**record, **{name: in_utc(getattr(info, name)) for name in ("start", "end", "cursor", "created_at", "ended_at")}}


@click.command()
@click.argument("name")
@click.option("--start", required=True, metavar="MOMENT", help="From this moment on.")
@click.option("--end", required=True, metavar="MOMENT", help="Before this moment; it must be past.")
@click.option("--reprocess", type=click.Choice(REPROCESS), default="none", show_default=True,
              help="Of ticks that have fired: none, those that failed, all.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Runs alive at a time.")
@click.option("--priority", help="critical, high, normal, low, or 0 to 9. [default: one step below the schedule's]")
@click.option("--backwards", is_flag=True, help="The latest tick first.")
@click.option("--dry-run", is_flag=True, help="Only say which ticks would fire.")
@connected
def backfill(
    session: Session,
    name: str,
    start: str,
    end: str,
    reprocess: str,
    concurrency: int,
    priority: str | None,
    backwards: bool,
    dry_run: bool,
) -> None:
    """Fire the ticks of a past window.

    Prints the backfill's id; `foliot backfills show ID` has its progress.
    """
    urgency = int(priority) if priority is not None and priority.isascii() and priority.isdigit() else priority

    async def work(client: Client) -> Backfill | BackfillForecast:
        info = await client.schedules.get(name)
        window = rule_words({"start": start, "end": end}, info.zone)
        if dry_run:
            return await client.schedules.backfill(
                name, window["start"], window["end"], reprocess=reprocess, backwards=backwards, dry_run=True
            )
        return await client.schedules.backfill(
            name, window["start"], window["end"], reprocess=reprocess, concurrency=concurrency, priority=urgency,
            backwards=backwards, by=current_user(),
        )  # fmt: skip

    found = session.run(work)
    if isinstance(found, Backfill):
        session.document({"id": found.id, "schedule": name}, found.id)
    elif session.as_json:
        echo_json({**ticks_json(found.ticks), "left_out": found.left_out, "has_more": found.has_more})
    else:
        print_ticks(session, found.ticks)
        count = f"{len(found.ticks)} and more" if found.has_more else str(len(found.ticks))
        until = " up to the last of these" if found.has_more else ""
        click.echo(f"{count} would fire, {found.left_out} would be left out{until}", err=True)


@click.group()
def backfills() -> None:
    """Backfills: list, show, pause, resume, cancel."""


@backfills.command("list")
@click.argument("schedule", required=False, default="")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@connected
def list_(session: Session, schedule: str, limit: int) -> None:
    """List backfills, of SCHEDULE or of all, newest first."""
    infos = session.run(lambda client: client.schedules.backfills(schedule, limit=limit))
    columns = ("id", "schedule", "status", "start", "end", "cursor", "fired", "left_out", "failed", "by")
    session.rows([_row(info) for info in infos], columns, empty="no backfills")
    session.tell_limit(len(infos), limit)


@backfills.command()
@click.argument("id")
@connected
def show(session: Session, id: str) -> None:
    """Show how far a backfill has come."""
    row = _row(session.run(lambda client: client.schedules.get_backfill(id)))
    if session.as_json:
        echo_json(row)
        return
    for name, value in row.items():
        if value not in (None, "", False):
            click.echo(f"{name.replace('_', ' '):<14}{cell(value)}")


def _command(action: Literal["pause", "resume", "cancel"], text: str) -> None:
    @connected
    def command(session: Session, id: str) -> None:
        word = session.run(lambda client: client.schedules.command_backfill(id, action))
        session.document({"id": id, "outcome": word}, word)

    command.__doc__ = text
    backfills.command(action)(click.argument("id")(command))


_command("pause", "Start no more of its ticks until it is resumed.")
_command("resume", "Go on where it was paused.")
_command("cancel", "Start no more of its ticks, for good; what runs goes on.")
