"""The command line, `foliot`: its commands, each loaded when it is called, so that help is there at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 nobody there or try again later.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import click

_TOP: Final = {
    "up": ("cli_up:up", "Run the scheduler and its workers in this process."),
    "submit": ("cli_submit:submit", "Submit one task, or one for each line of a file."),
    "tasks": ("cli_tasks:tasks", "List, show, cancel and retry tasks; their logs; why they wait."),
    "events": ("cli_events:events", "Print what becomes of tasks, in a cluster that tells events."),
    "dlq": ("cli_dlq:dlq", "Dead letters: list, show, retry, purge."),
    "schedules": ("cli_schedules:schedules", "Schedules: list, create, pause, trigger, preview, diff, backfill, history."),
    "backfills": ("cli_backfills:backfills", "Backfills: list, show, pause, resume, cancel."),
    "calendars": ("cli_calendars:calendars", "Calendars that schedules share: list, set, show, delete."),
    "crontab": ("cli_crontab:crontab", "Run a crontab with history, logs and retries, or import it."),
    "queues": ("cli_queues:queues", "List, pause, resume and limit queues."),
    "workers": ("cli_node:workers", "List worker sessions."),
    "tenants": ("cli_node:tenants", "List and limit tenants."),
    "node": ("cluster.cli:node", "Run a node of a cluster, over NATS and PostgreSQL."),
    "worker": ("cluster.cli:worker", "Run a worker of a cluster."),
    "cluster": ("cluster.cli:cluster", "Nodes of a cluster: members, status, drain."),
    "verify": ("cli_node:verify", "Check that nothing is lost: compare all ledgers."),
    "nats-config": ("cli_nats_config:nats_config", "Write and check the configuration of a NATS broker."),
    "bench": ("", "Measure this machine: throughput, latency, timers, memory, crash."),
    "sim": ("", "Simulate the whole cluster from seeds: run, replay, shrink, timeline, explain."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called. `lazy`: name → (module:attribute, help)."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._lazy.get(cmd_name)
        if found is None:
            return None
        if cmd_name == "bench":
            return _bench()
        if cmd_name == "sim":
            return _sim()
        module, _, attribute = found[0].partition(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            names = ", ".join(self._lazy)
            raise click.UsageError(f"there is no command {args[0]!r}, expected one of {names}", ctx)
        return super().resolve_command(ctx, args)


def _bench() -> click.Command:
    """Benchmarks are optional at run time: a package without them says so."""
    try:
        from ..benchmarks.cli import bench
    except ImportError as error:
        return _missing("bench", f"the benchmarks are not in this installation: {error}")
    command: click.Command = bench
    return command


def _sim() -> click.Command:
    """Simulations are optional at run time, as benchmarks are."""
    try:
        from ..simulations.cli import sim
    except ImportError as error:
        return _missing("sim", f"the simulations are not in this installation: {error}")
    command: click.Command = sim
    return command


def _missing(name: str, reason: str) -> click.Command:
    """Return a command that says why it is not there."""

    @click.command(name, context_settings={"ignore_unknown_options": True})
    @click.argument("args", nargs=-1, type=click.UNPROCESSED)
    def missing(args: tuple[str, ...]) -> None:
        """Not in this installation."""
        raise click.ClickException(reason)

    return missing


class _Main(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from .cli_common import end_if_unread

            end_if_unread()
            raise

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        """Run a command. Standing alone, an error is one line on standard error, as JSON where JSON was asked for."""
        kwargs.setdefault("prog_name", "foliot")
        run: Callable[..., Any] = super().main
        if not kwargs.pop("standalone_mode", True):
            return run(args, *rest, standalone_mode=False, **kwargs)
        try:
            code = run(args, *rest, standalone_mode=False, **kwargs)
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # not in all versions of click that will do
                error.show()
            else:
                _tell(error, as_json="--json" in (sys.argv[1:] if args is None else args))
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("foliot: aborted", err=True)
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _tell(error: click.ClickException, *, as_json: bool) -> None:
    text = " ".join(error.format_message().split()).rstrip(".")
    is_usage = isinstance(error, click.UsageError)
    if as_json:
        code = "usage" if is_usage else "failed"
        click.echo(json.dumps({"error": {"code": code, "message": text}}, ensure_ascii=False), err=True)
        return
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else ""
    click.echo(f"foliot: {text}" + (f" (see {path} --help)" if path else ""), err=True)


@click.group(cls=_Main, lazy=_TOP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="foliot", message="foliot %(version)s")
def main() -> None:
    """Foliot: a distributed task scheduler and job queue.

    Start a scheduler with `foliot up --app module:app`; the other commands talk to it through its local socket: the one
    given with --socket, or in FOLIOT_ADDRESS, or ./foliot.sock.
    """
