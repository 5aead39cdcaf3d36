"""`foliot schedules`: list, show, create, change, pause, resume, trigger, preview, diff, backfill, delete, history."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import click

from .cli_backfills import backfill
from .cli_common import Session, cell, connected, echo_json, parse_arguments, parse_object, plain, tell_unheard
from .cli_preview import diff, preview, tick_row
from .cli_rules import in_options, in_utc, policy_options, policy_words, rule_options, rule_words
from .cli_schedule_commands import delete, pause, resume, trigger
from .client import Client
from .errors import InvalidRequestError, UnknownTaskError
from .schedule_views import NextTick, ScheduleInfo, span_words
from .shell import SHELL, ShellNotServedError, command_line

_NEXT: Final = 3
_COMMAND_SHOWN: Final = 60
_COUNTERS: Final = ("fired", "triggered", "missed", "skipped", "buffered", "late", "failures", "waiting")
_HIDDEN: Final = ("rule", "zone", "when", *_COUNTERS)


@click.group()
def schedules() -> None:
    """Schedules: what makes tasks, and when."""


for _command in (pause, resume, trigger, preview, diff, backfill, delete):
    schedules.add_command(_command)


def record_of(info: ScheduleInfo) -> dict[str, Any]:
    """Return a schedule as JSON; spans are texts such as 1m."""
    return {name: _plain(getattr(info, name)) for name in info.__struct_fields__}


def _plain(value: Any) -> Any:
    return span_words(value // timedelta(milliseconds=1)) if isinstance(value, timedelta) else plain(value)


# -- looking -----------------------------------------------------------------------------------------------------------


@schedules.command("list")
@click.option("--prefix", default="", help="Those whose name begins so.")
@click.option("--paused/--not-paused", default=None, help="Those that are, or are not.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@connected
def list_(session: Session, prefix: str, paused: bool | None, limit: int) -> None:
    """List schedules, by name."""

    async def work(client: Client) -> None:
        rows = []
        async for info in client.schedules.list(prefix=prefix, paused=paused, limit=limit):
            if session.as_json:
                echo_json({name: value for name, value in record_of(info).items() if name != "payload"})
            else:
                rows.append({**plain(info), "next_at": info.next_at, "last_tick": info.last_tick})
        if not session.as_json:
            await _tell_commands(client, rows)
            columns = ("name", "state", "when", "zone", "handler", "next_at", "last_tick", "last_outcome", "fired", "missed")
            session.rows(rows, columns, empty="no such schedules")
            session.tell_limit(len(rows), limit)

    session.run(work)


async def _tell_commands(client: Client, rows: Sequence[dict[str, Any]]) -> None:
    """Put commands in the place of the handler that all of them share; in full where no terminal is too narrow for them."""
    limit = _COMMAND_SHOWN if sys.stdout.isatty() else sys.maxsize
    commands = {row["name"]: row for row in rows if row["handler"] == SHELL}
    for info in await client.schedules.get_many(commands):
        commands[info.name]["handler"] = command_line(info.payload, limit=limit) or SHELL


@schedules.command()
@click.argument("name")
@connected
def show(session: Session, name: str) -> None:
    """Show all that is known of a schedule, and its next ticks."""

    async def work(client: Client) -> tuple[ScheduleInfo, Sequence[NextTick]]:
        info = await client.schedules.get(name)
        return info, () if session.as_json else await client.schedules.preview(name, count=_NEXT)

    info, ticks = session.run(work)
    if session.as_json:
        echo_json(record_of(info))
    else:
        print_schedule(info, ticks)


def print_schedule(info: ScheduleInfo, ticks: Sequence[NextTick] = ()) -> None:
    """Print a schedule, a line for each thing that says something."""
    lines: list[tuple[str, Any]] = [("name", info.name), ("when", f"{info.when}, {info.zone}")]
    rule = info.rule
    if rule.dst_gap != "shift" or rule.dst_overlap != "first":
        lines.append(("dst", f"gap {rule.dst_gap}, overlap {rule.dst_overlap}"))
    if rule.precision != "normal" or rule.jitter_ms:
        jitter = f", jitter {span_words(rule.jitter_ms)}" if rule.jitter_ms else ""
        lines.append(("precision", rule.precision + jitter))
    lines.append(("limit", f"{rule.limit} ticks" if rule.limit else None))
    lines += [(name, getattr(info, name)) for name in info.__struct_fields__ if name not in (*_HIDDEN, "name")]
    lines.append(("ticks", ", ".join(f"{getattr(info, name)} {name}" for name in _COUNTERS if getattr(info, name))))
    for name, value in lines:
        if value not in (None, "", 0):
            shown = span_words(value // timedelta(milliseconds=1)) if isinstance(value, timedelta) else cell(value)
            click.echo(f"{name.replace('_', ' '):<14}{shown}")
    for tick in ticks if info.state == "active" else ():
        row = tick_row(tick)
        click.echo(f"{'next':<14}{row['tick']}  {row['local']}" + (f"  {row['notes']}" if row["notes"] else ""))


@schedules.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@connected
def history(session: Session, name: str, limit: int) -> None:
    """List the ticks that were decided.

    The latest first: what became of each, and its task.
    """

    async def work(client: Client) -> None:
        rows = []
        async for tick in client.schedules.history(name, limit=limit):
            source = f"backfill {tick.backfill}" if tick.backfill else tick.source
            row = {"tick": in_utc(tick.tick), "fired_at": in_utc(tick.fired_at), "source": source,
                   "task": tick.task, "outcome": tick.outcome, "revision": tick.revision}  # fmt: skip
            if session.as_json:
                echo_json({**row, "source": tick.source, "backfill": tick.backfill})
            else:
                rows.append(row)
        if not session.as_json:
            columns = ("tick", "fired_at", "source", "task", "outcome", "revision")
            session.rows(rows, columns, empty="no tick was decided yet")
            session.tell_limit(len(rows), limit)

    session.run(work)


# -- create and change -------------------------------------------------------------------------------------------------


def _payload(params: Sequence[str], json_payload: str | None) -> dict[str, Any]:
    text = sys.stdin.read() if json_payload == "-" else json_payload
    return (parse_object(text) if text is not None else {}) | parse_arguments(params)


@schedules.command()
@click.argument("name")
@click.argument("handler", required=False)
@click.option("--shell", "command", metavar="COMMAND", help="Instead of HANDLER: run this shell command.")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="An argument; JSON, else text.")
@click.option("--json-payload", metavar="JSON", help="All arguments as a JSON object; - reads standard input.")
@rule_options
@policy_options
@click.option("--replace", is_flag=True, help="Replace the schedule of that name, if there is one.")
@connected
def create(
    session: Session,
    name: str,
    handler: str | None,
    command: str | None,
    params: tuple[str, ...],
    json_payload: str | None,
    rule: dict[str, Any],
    policies: dict[str, Any],
    replace: bool,
) -> None:
    """Create a schedule.

    It is called NAME, and makes a task of HANDLER, such as shop.report, at each tick.
    """
    if (handler is None) == (command is None):
        raise click.UsageError("give HANDLER, such as shop.report, or --shell COMMAND")
    arguments = _payload(params, json_payload)
    if command is not None:
        if "command" in arguments:
            raise click.UsageError("the command is given by --shell and among the arguments, expected one of them")
        handler, arguments["command"] = SHELL, command
    assert handler is not None

    declared: dict[str, str] = {}

    async def work(client: Client) -> ScheduleInfo:
        tell_unheard(session, client, handler)
        with in_options():
            words = {**rule_words(rule), **policy_words(policies), "arguments": arguments}
            if not replace:
                return await client.schedules.create(name, handler, **words)
            for info in await client.schedules.get_many([name]):
                declared[name] = info.declared_in
            return await client.schedules.put(name, handler, **words)

    _print_changed(session, _changed(session, work, handler), declared.get(name, ""))


@schedules.command()
@click.argument("name")
@click.option("--handler", metavar="HANDLER", help="Another handler, with the arguments given here.")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="New arguments, instead of all old ones.")
@click.option("--json-payload", metavar="JSON", help="All arguments as a JSON object; - reads standard input.")
@rule_options
@policy_options
@connected
def update(
    session: Session,
    name: str,
    handler: str | None,
    params: tuple[str, ...],
    json_payload: str | None,
    rule: dict[str, Any],
    policies: dict[str, Any],
) -> None:
    """Change a schedule.

    What is named changes, the rest stays. What runs goes on, a pause stays, and no tick that is past fires because of it.
    """
    if not (handler or params or json_payload or rule or policies):
        raise click.UsageError("nothing to change: give options such as --cron, --overlap or --note")
    arguments = _payload(params, json_payload)

    async def work(client: Client) -> ScheduleInfo:
        info = await client.schedules.get(name)
        with in_options():
            words = {**rule_words(rule, info.zone), **policy_words(policies)}
            more = {"arguments": arguments} if arguments else {}
            return await client.schedules.update(name, handler=handler, **words, **more)

    info = _changed(session, work, handler or "")
    _print_changed(session, info, info.declared_in)


def _changed(session: Session, work: Callable[[Client], Awaitable[ScheduleInfo]], handler: str) -> ScheduleInfo:
    async def told(client: Client) -> ScheduleInfo:
        try:
            return await work(client)
        except InvalidRequestError as error:
            if handler == SHELL and error.reason == UnknownTaskError.code:
                raise ShellNotServedError from error
            raise

    return session.run(told)


def _print_changed(session: Session, info: ScheduleInfo, declared_in: str) -> None:
    if session.as_json:
        echo_json(record_of(info))
        return
    when = f"next at {in_utc(info.next_at)}" if info.next_at else info.state
    click.echo(f"{info.name}: {info.when}, {info.zone}; {when}")
    session.tell_declared({info.name: declared_in} if declared_in else {})
