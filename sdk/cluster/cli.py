"""`foliot node`, `foliot worker` and `foliot cluster`: the processes of a cluster, and a look at them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from ...actors.messages import WorkerRead
from ...runtime.errors import UnavailableError, UsageError
from ...transports.api import MembersListed, MemberView, Tally
from ..cli_common import Session, connected, counted, guarded, plain, table
from ..cli_up import run_loop
from ..client import Client
from ..client_views import moment

NATS_VARIABLE: Final = "FOLIOT_NATS"
POSTGRES_VARIABLE: Final = "FOLIOT_POSTGRES"
_COUNTING_S: Final = 3.0  # nodes are shown soon, also while some shards are on their way


@dataclass(frozen=True)
class BrokerOptions:
    """How a process reaches the broker, as the command line gives it."""

    nats: str
    creds: str
    nkey: str
    tls_ca: str
    tls_cert: str
    tls_key: str

    def config(self, name: str) -> Any:
        """Return the link's settings. Raises: NatsConfigError."""
        from ...transports.nats.config import NatsConfig

        return NatsConfig(
            self.nats, name=name, credentials=self.creds, nkey_seed=self.nkey, tls_ca=self.tls_ca, tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )  # fmt: skip


def broker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a broker, together as `broker`."""
    import functools

    @click.option("--nats", default="nats://127.0.0.1:4222", show_default=True, envvar=NATS_VARIABLE, metavar="URL",
                  help="NATS servers, separated by commas; may carry user:password.")  # fmt: skip
    @click.option("--creds", default="", metavar="FILE", help="A NATS credentials file.")
    @click.option("--nkey", default="", metavar="FILE", help="A file with the seed of a user nkey.")
    @click.option("--tls-ca", default="", metavar="FILE", help="Whom to trust, instead of the system's list.")
    @click.option("--tls-cert", default="", metavar="FILE", help="This process's certificate.")
    @click.option("--tls-key", default="", metavar="FILE", help="Its key.")
    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        names = ("nats", "creds", "nkey", "tls_ca", "tls_cert", "tls_key")
        broker = BrokerOptions(**{name: options.pop(name) for name in names})
        return function(*args, broker=broker, **options)

    return command


def _ready(text: str) -> None:
    click.echo(f"ready {text}")


@click.command()
@broker_options
@click.option("--postgres", envvar=POSTGRES_VARIABLE, required=True, metavar="DSN", help="The database, postgresql://….")
@click.option("--name", metavar="NAME", help="Unique in the cluster. [default: machine and process]")
@click.option("--slots", type=click.IntRange(1, 4_096), default=64, show_default=True, help="Of a new database.")
@click.option("--heartbeat", default="10s", show_default=True, metavar="SPAN", help="The workers', the longest of them.")
@click.option("--retention", default="7d", show_default=True, metavar="SPAN", help="How long ended tasks are kept.")
@click.option("--events", is_flag=True, help="Tell what becomes of tasks, for `foliot events`.")
@click.option("--replicas", type=click.IntRange(1, 5),
              help="NATS servers that keep each stream. [default: 3 if they are a cluster, else 1]")  # fmt: skip
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
def node(
    broker: BrokerOptions, postgres: str, name: str | None, slots: int, heartbeat: str, retention: str, events: bool,
    replicas: int | None, log_json: bool,
) -> None:  # fmt: skip
    """Run a node of a cluster until Ctrl-C or SIGTERM; then hand over its shards.

    Nodes find each other over the NATS servers, and share the shards of one PostgreSQL database.
    """

    def serve() -> None:
        from ..durations import parse_span
        from ..logs import configure_logging
        from .names import own_name
        from .node import ClusterNode, NodeOptions
        from .run import run_member

        configure_logging(json=log_json)
        called = name or own_name()
        options = NodeOptions(
            broker.config(called),
            postgres,
            called,
            slots,
            retention_ms=parse_span(retention, what="--retention"),
            heartbeat_interval_ms=parse_span(heartbeat, what="--heartbeat"),
            events=events,
            replicas=replicas or 0,
        )
        member = ClusterNode(options)

        def ready() -> None:
            hosted = f"hosts {len(member.node.hosted)} of {member.slots} shards"
            _ready(f"node {called}: {len(member.peers.members)} members, {hosted}")

        run_loop(run_member(member, ready=ready))

    guarded(serve)


@click.command()
@broker_options
@click.option("--app", "app_ref", metavar="MODULE:APP", help="Where the app is, such as shop.tasks:app.")
@click.option("--shell", is_flag=True, help="Run shell commands: whoever may submit can then do what this user can.")
@click.option("--shell-user", "shell_users", multiple=True, metavar="NAME",
              help="Commands may run as this user, too; needs root; repeatable.")  # fmt: skip
@click.option("--name", metavar="NAME", help="What people see. [default: machine and process]")
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=2_000, show_default=True, help="Attempts at once.")
@click.option("--threads", type=click.IntRange(1, 10_000), default=32, show_default=True, help="For plain functions.")
@click.option("--processes", type=click.IntRange(0, 1_000), help="For isolated handlers. [default: the number of cores]")
@click.option("--commands", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Shell commands at once.")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Serve only these. [default: all the app names]")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of this worker; repeatable.")
@click.option("--heartbeat", default="10s", show_default=True, metavar="SPAN",
              help="Between signs of life; after three that are missing its tasks go to others.")  # fmt: skip
@click.option("--drain-grace", default="30s", show_default=True, metavar="SPAN", help="For running tasks, at the end.")
@click.option("--wait", metavar="SPAN", help="How long to wait for a node at the start. [default: for ever]")
@click.option("--log-json", is_flag=True, help="Log JSON lines.")
def worker(
    broker: BrokerOptions,
    app_ref: str | None,
    shell: bool,
    shell_users: tuple[str, ...],
    name: str | None,
    concurrency: int,
    threads: int,
    processes: int | None,
    commands: int,
    queues: tuple[str, ...],
    labels: tuple[str, ...],
    heartbeat: str,
    drain_grace: str,
    wait: str | None,
    log_json: bool,
) -> None:
    """Run a worker of a cluster until Ctrl-C or SIGTERM; then finish what runs.

    It needs the NATS servers only. Start as many as wanted, on any machine.
    """
    if app_ref is None and not shell:
        raise click.UsageError("Missing option '--app', such as shop.tasks:app; or --shell, to run shell commands")
    named = dict(label.partition("=")[::2] for label in labels)
    if not all("=" in label for label in labels) or "" in named:
        raise click.BadParameter("a label is KEY=VALUE, such as gpu=true")

    def serve() -> None:
        from ..durations import parse_span
        from ..logs import configure_logging
        from ..up import apps_of
        from .names import own_name
        from .run import run_member
        from .worker import ClusterWorker, WorkerOptions

        apps = apps_of(app_ref, shell=shell, shell_users=shell_users)
        configure_logging(json=log_json)
        called = name or own_name()
        options = WorkerOptions(
            broker.config(called), called, wait_ms=None if wait is None else parse_span(wait, what="--wait"),
            concurrency=concurrency, threads=threads, processes=os.cpu_count() or 1 if processes is None else processes,
            commands=commands, queues=queues, labels=named, drain_grace_ms=parse_span(drain_grace, what="--drain-grace"),
            heartbeat_interval_ms=parse_span(heartbeat, what="--heartbeat"),
        )  # fmt: skip
        member = ClusterWorker(apps, options)
        run_loop(run_member(member, ready=lambda: _ready(f"worker {called}: session {member.session}")))

    guarded(serve)


# -- looking at a cluster ------------------------------------------------------------------------------------------------


class NoClusterError(UsageError):
    """What answers is one process."""

    code = "no_cluster"

    def __init__(self) -> None:
        super().__init__("this scheduler is one process, expected a cluster: give its NATS server, such as nats://host:4222")


@click.group()
def cluster() -> None:
    """Look at the nodes of a cluster; have one leave."""


@cluster.command()
@connected
def members(session: Session) -> None:
    """List the nodes."""
    listed = _listed(session)
    if session.as_json:
        session.rows([plain(member) for member in listed.members], (), empty="")
        return
    rows = [_row(member) for member in listed.members]
    session.rows(rows, ("node", "state", "shards", "host", "pid", "since", "skew_ms", "version"), empty="no members")


@cluster.command()
@connected
def status(session: Session) -> None:
    """Say how the cluster stands: nodes, shards without a node, tasks waiting and running, workers."""

    async def read(client: Client) -> tuple[MembersListed, Sequence[Tally] | None, Sequence[WorkerRead] | None, str]:
        listed = await client.members()
        away = await _why_no_database(client)
        try:
            async with asyncio.timeout(_COUNTING_S):
                return listed, await client.tallies(all_tenants=True), await client.workers(), away
        except (UnavailableError, TimeoutError):
            return listed, None, None, away

    listed, tallies, workers, away = session.run(read)
    if not listed.members:
        guarded(_no_cluster, as_json=session.as_json)
    hosted = {shard for member in listed.members for shard in member.shards}
    missing = [shard for shard in range(listed.shards) if shard not in hosted]
    up = sum(member.state == "up" for member in listed.members)
    found = {
        "nodes": len(listed.members),
        "up": up,
        "shards": listed.shards,
        "shards_without_node": missing,
        "database": away or "up",
        "workers": None,
        "waiting": None,
        "running": None,
        "skew_ms": max((abs(member.skew_ms) for member in listed.members), default=0),
    }
    counts = "tasks and workers cannot be counted now: not all shards answer, or the database is away"
    if tallies is not None and workers is not None:
        alive, waiting, running = (
            sum(read.state != "silent" for read in workers),
            sum(tally.waiting for tally in tallies),
            sum(tally.running for tally in tallies),
        )
        found |= {"workers": alive, "waiting": waiting, "running": running}
        counts = f"{counted(alive, 'worker')}; {counted(waiting, 'task')} waiting, {running} running"
    if session.as_json:
        session.document(found, "")
        return
    table([_row(member) for member in listed.members], ("node", "state", "shards", "skew_ms"))
    lost = f", {len(missing)} of them without a node" if missing else ""
    click.echo(f"{up} of {counted(len(listed.members), 'node')} up; {listed.shards} shards{lost}")
    if away:
        click.echo(f"nothing can be submitted: {away}")
    click.echo(counts)


async def _why_no_database(client: Client) -> str:
    """Return why a node cannot read its database, empty if it can, or if what it says cannot be known."""
    with contextlib.suppress(TimeoutError):  # a shard may be away, whose part of a page is missing
        async with asyncio.timeout(_COUNTING_S):
            try:
                await client.page(all_tenants=True, limit=1)
            except UnavailableError as error:
                return str(error) if error.code.startswith("store") else ""
    return ""


@cluster.command()
@click.argument("name", metavar="NODE")
@connected
def drain(session: Session, name: str) -> None:
    """Have NODE hand over its shards and end."""
    draining = session.run(lambda client: client.drain_member(name))
    session.document(plain(draining), f"{draining.name} hands over its shards and ends")


def _listed(session: Session) -> MembersListed:
    listed = session.run(lambda client: client.members())
    if not listed.members:
        guarded(_no_cluster, as_json=session.as_json)
    return listed


def _no_cluster() -> None:
    raise NoClusterError


def _row(member: MemberView) -> dict[str, Any]:
    return {
        "node": member.name,
        "state": member.state,
        "shards": len(member.shards),
        "host": member.host,
        "pid": member.pid,
        "since": moment(member.since_ms),
        "skew_ms": member.skew_ms,
        "version": member.product,
    }
