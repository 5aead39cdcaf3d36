"""`foliot crontab`: run the commands of a crontab, or put them into a scheduler as schedules."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from ..actors.schedule_messages import OVERLAPS
from ..runtime.clock import SystemClock
from ..runtime.errors import FoliotError
from .cli_common import EXIT_FAILED, Session, connected, guarded, table
from .cli_rules import in_utc
from .client import Client
from .crontab import prefix_of
from .crontab_plan import Job, Plan, PlanOptions, default_database, machine_zone, others_of, own_account, plan_of
from .rules import RULE_WORDS, ticks_of
from .schedule_bulk import PutResult
from .schedule_views import preview_of
from .shell import SHELL, ShellNotServedError

_NO_START: Final = "a schedule of a scheduler has no start of the machine, expected `foliot crontab run`"
_COLUMNS: Final = ("file", "line", "when", "zone", "next", "user", "name", "command")
_COMMAND_SHOWN: Final = 60


@click.group()
def crontab() -> None:
    """Crontabs: run one as it is, or import it."""


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.argument("files", nargs=-1, required=True, metavar="FILE..."),
            click.option("--format", type=click.Choice(["user", "system"]),
                         help="system has a user's name before the command. [default: by the path]"),
            click.option("--zone", metavar="NAME", help="Of times without CRON_TZ. [default: the machine's]"),
            click.option("--user", default="", metavar="NAME",
                         help="As whom a user's crontab runs. [default: you; of a file in cron's spool, its owner]"),
            click.option("--retries", type=click.IntRange(0, 100), default=2, show_default=True,
                         help="After a failure; cron has none."),
            click.option("--overlap", type=click.Choice(OVERLAPS), default="allow_all", show_default=True,
                         help="While an earlier run is alive."),
            click.option("--timeout", default="none", metavar="SPAN", show_default=True, help="Of one run."),
            click.option("--strict", is_flag=True, help="Do nothing at all if a line cannot be honoured."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def _options(given: dict[str, Any]) -> PlanOptions:
    zone = given.pop("zone") or machine_zone(os.environ)
    timeout = given.pop("timeout")
    return PlanOptions(zone=zone, timeout=0 if timeout == "none" else timeout, **given)


@crontab.command()
@_common
@click.option("--db", "database", metavar="PATH", help="The history. [default: FILE.foliot.db, see the docs]")
@click.option("--socket", metavar="PATH", help="The local socket. [default: next to the database]")
@click.option("--commands", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Commands at once.")
@click.option("--log-json", "--json", "log_json", is_flag=True, help="Log JSON lines; an error at the start is one, too.")
def run(
    files: tuple[str, ...],
    database: str | None,
    socket: str | None,
    commands: int,
    log_json: bool,
    strict: bool,
    **given: Any,
) -> None:
    """Run the commands of crontabs, until Ctrl-C or SIGTERM; then drain.

    A line that cannot be honoured is named in the log, and the others run. Changes of the files are taken over within
    seconds. The other commands of foliot reach it through its socket: history, logs, pause, trigger.
    """

    def serve() -> None:
        from .cli_up import run_loop
        from .crontab_run import CrontabRun, run_crontabs

        if "-" in files:
            raise click.UsageError("a crontab that runs is read again when it changes: give files, not -")
        where = database or default_database(files[0], os.environ, is_root=os.geteuid() == 0)
        folder = os.path.dirname(os.path.abspath(where))
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"folder {folder!r} cannot be made: {error.strerror}, expected --db PATH") from error
        run_loop(run_crontabs(CrontabRun(files, where, _options(given), socket, commands, strict, log_json)))

    guarded(serve, as_json=log_json)


@crontab.command("import")
@_common
@click.option("--dry-run", is_flag=True, help="Only say what the lines come to; needs no scheduler.")
@click.option("--prune", is_flag=True, help="Delete the schedules of lines that are no longer in these files.")
@connected
def import_(
    session: Session, files: tuple[str, ...], strict: bool, dry_run: bool, prune: bool, **given: Any
) -> None:  # fmt: skip
    """Put the lines of crontabs into a scheduler as schedules of shell commands; - is standard input.

    Lines that cannot be honoured are named with their number, and the others are put; the exit code is then 1.
    """
    stdin = sys.stdin.buffer.read() if "-" in files else b""

    def read() -> Plan:
        plan = plan_of(files, _options(given), own_account(), stdin=stdin)
        plan.refuse_reboots(_NO_START)
        if strict:
            plan.check_strictly()
        return plan

    plan = guarded(read, as_json=session.as_json)
    if dry_run:
        _note_others(session, plan)
        _print(session, plan, None, {}, [])
        return

    async def work(client: Client) -> tuple[PutResult, list[str]]:
        from .crontab_run import drafts_of

        welcome = await client.hello()
        if all(handler.template.handler != SHELL for handler in welcome.handlers):
            raise ShellNotServedError
        result = await client.schedules.put_many(drafts_of(client, SHELL, plan.jobs))
        names = {job.name for job in plan.jobs}
        prefixes = dict.fromkeys(prefix_of("crontab" if path == "-" else path) for path in files)
        gone = [info.name for prefix in prefixes async for info in client.schedules.list(prefix=prefix)]
        gone = [name for name in gone if name not in names]
        if prune and gone:
            await client.schedules.delete(gone)
        return result, gone

    result, gone = session.run(work)
    refused = {refusal.position: refusal.text for refusal in result.refused}
    _print(session, plan, result, refused, gone, pruned=prune)


def _note_others(session: Session, plan: Plan) -> None:
    """Say which users the scheduler has to allow: whether it does, only the import itself can tell."""
    users = others_of(plan, own_account())
    if not users or session.as_json:
        return
    count = sum([job.user in users for job in plan.jobs])
    lines = "1 line runs" if count == 1 else f"{count} lines run"
    options = " ".join(f"--shell-user {user}" for user in users)
    click.echo(f"foliot: {lines} as another user, whom the scheduler has to allow: foliot up --shell {options}", err=True)


def _print(
    session: Session, plan: Plan, result: PutResult | None, refused: dict[int, str], gone: Sequence[str], *,
    pruned: bool = False,
) -> None:  # fmt: skip
    """Print what the lines came to; fail if some could not be honoured."""
    rows = [_row(session, job) for job in plan.jobs]
    problems: list[dict[str, Any]] = [
        {"file": each.path, "line": each.problem.line, "reason": each.problem.reason, "text": each.problem.text}
        for each in plan.problems
    ]
    for position, reason in refused.items():
        job = plan.jobs[position]
        problems.append({"file": job.path, "line": job.line, "reason": reason, "text": job.command})
    entries = [row for position, row in enumerate(rows) if position not in refused]
    if session.as_json:
        counts = {name: getattr(result, name) for name in ("created", "replaced", "unchanged")} if result else {}
        left = {"deleted" if pruned else "left": list(gone)} if result else {}
        session.document({**counts, **left, "entries": entries, "problems": problems}, "")
    else:
        if entries:
            left_out = {"file"} if len({row["file"] for row in rows}) == 1 else set()
            left_out |= {"name"} if result is None else set()  # nothing was made that has it
            columns = [name for name in _COLUMNS if name not in left_out]
            table([{**row, "command": _shown(row["command"])} for row in entries], columns)
        for problem in problems:
            place = f"{problem['file']}, line {problem['line']}"
            click.echo(f"foliot: {place}: {problem['reason']}: {problem['text']!r}", err=True)
        click.echo(_summary(entries, problems, result, gone, pruned))
    if problems:
        sys.exit(EXIT_FAILED)


def _shown(command: str) -> str:
    """Return a command as a table has it: a terminal has not room for all of a long one."""
    is_cut = sys.stdout.isatty() and len(command) > _COMMAND_SHOWN
    return f"{command[: _COMMAND_SHOWN - 3]}..." if is_cut else command


def _summary(
    entries: Sequence[Any], problems: Sequence[Any], result: PutResult | None, gone: Sequence[str], pruned: bool
) -> str:
    text = f"{len(entries)} entries"
    if result is not None:
        text = f"{result.created} created, {result.replaced} changed, {result.unchanged} as they were"
        if gone:
            text += f", {len(gone)} deleted" if pruned else f", {len(gone)} of lines no longer there are left (see --prune)"
    return text + (f", {len(problems)} not honoured" if problems else "")


def _row(session: Session, job: Job) -> dict[str, Any]:
    return {
        "file": job.path, "line": job.line, "name": job.name, "when": job.when, "zone": job.zone, "user": job.user,
        "next": _next(session, job), "command": job.command, "note": job.words["note"],
    }  # fmt: skip


def _next(session: Session, job: Job) -> str | None:
    """Return when a job comes next, as if it were put now."""
    rule = {word: job.words[word] for word in job.words if word in RULE_WORDS}
    now_ms = SystemClock().now_ms()
    try:
        ticks = ticks_of(rule, now_ms=now_ms, name=job.name, tenant=session.tenant)
    except FoliotError:
        return None
    return next((in_utc(tick.at) for tick in preview_of(ticks, begin_ms=now_ms, count=1)), None)
