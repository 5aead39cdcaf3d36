"""`foliot workers`, `foliot tenants`, `foliot verify`: who is there, who may, and whether the ledger balances."""

from __future__ import annotations

import sys

import click

from .cli_common import EXIT_FAILED, Session, connected, plain, table
from .client_views import moment


@click.command()
@connected
def workers(session: Session) -> None:
    """List worker sessions."""
    reads = session.run(lambda client: client.workers())
    if session.as_json:
        session.rows([plain(read) for read in reads], (), empty="")
        return
    rows = [
        {
            "worker": read.heartbeat.worker,
            "session": read.heartbeat.session,
            "state": read.state,
            "host": read.heartbeat.host,
            "pid": read.heartbeat.pid,
            "running": f"{read.heartbeat.running}/{read.heartbeat.slots}",
            "done": read.heartbeat.done,
            "since": moment(read.heartbeat.started_ms),
            "heard": moment(read.heard_ms),
        }
        for read in reads
    ]
    columns = ("worker", "session", "state", "host", "pid", "running", "done", "since", "heard")
    session.rows(rows, columns, empty="no workers")


@click.group()
def tenants() -> None:
    """List and limit tenants."""


@tenants.command("list")
@connected
def list_(session: Session) -> None:
    """List tenants: what waits and runs, and their limits."""
    views = session.run(lambda client: client.tenants())
    if session.as_json:
        session.rows([plain(view) for view in views], (), empty="")
        return
    rows = [
        {
            "tenant": view.config.tenant,
            "waiting": view.waiting,
            "running": view.running,
            "weight": view.config.weight,
            "rate": f"{view.config.rate}/{view.config.rate_per_ms / 1000:g}s" if view.config.rate else None,
            "tokens": view.tokens if view.tokens >= 0 else None,
            "max_pending": view.config.max_pending or None,
            "concurrency": view.config.concurrency or None,
        }
        for view in views
    ]
    columns = ("tenant", "waiting", "running", "weight", "rate", "tokens", "max_pending", "concurrency")
    session.rows(rows, columns, empty="no tenants yet: a tenant appears with its first task")


@tenants.command()
@click.argument("name")
@click.option("--weight", type=click.IntRange(1), help="Share of contended queues.")
@click.option("--rate", metavar="N/SPAN", help="Admissions, such as 1000/min; none: no limit.")
@click.option("--burst", type=click.IntRange(0), help="Admissions at once; 0: as many as the rate.")
@click.option("--max-pending", type=click.IntRange(0), help="Waiting tasks; 0: no limit.")
@click.option("--concurrency", type=click.IntRange(0), help="Slots running at once; 0: no limit.")
@connected
def limit(
    session: Session,
    name: str,
    weight: int | None,
    rate: str | None,
    burst: int | None,
    max_pending: int | None,
    concurrency: int | None,
) -> None:
    """Change a tenant's limits."""
    if all(value is None for value in (weight, rate, burst, max_pending, concurrency)):
        raise click.UsageError("nothing to change: give --weight, --rate, --burst, --max-pending or --concurrency")
    config = session.run(
        lambda client: client.configure_tenant(
            name, weight=weight, rate=rate, burst=burst, max_pending=max_pending, concurrency=concurrency
        )
    )
    text = f"tenant {config.tenant}: weight {config.weight}"
    text += f", {config.rate} tasks per {config.rate_per_ms / 1000:g}s" if config.rate else ", no rate limit"
    text += f", at most {config.max_pending} waiting" if config.max_pending else ""
    text += f", at most {config.concurrency} slots running" if config.concurrency else ""
    session.document(plain(config), text)


@click.command()
@connected
def verify(session: Session) -> None:
    """Compare all counts: what was accepted must have ended, or wait, or run. Fails if any two differ."""
    verified = session.run(lambda client: client.verify())
    if session.as_json:
        session.document(plain(verified), "")
    else:
        columns = (
            "tenant", "queue", "accepted", "completed", "failed", "dead", "cancelled", "expired", "skipped", "waiting",
            "running", "edge", "fired", "stored",
        )  # fmt: skip
        if verified.lines:
            table([plain(line) for line in verified.lines], columns)
            click.echo(
                "of this start, edge: acceptances that clients were told of; fired: tasks that ticks made; "
                "stored: all of these, as the store counts; what a node of a cluster had counted is gone when it dies"
            )
        for difference in verified.differences:
            click.echo(difference.text, err=True)
        accepted = sum(line.accepted for line in verified.lines)
        if verified.balanced:
            click.echo(f"balanced: {accepted} accepted, each of them ended, waiting or running")
        else:
            click.echo(f"NOT balanced: {len(verified.differences)} differences", err=True)
    if not verified.balanced:
        sys.exit(EXIT_FAILED)
