"""`foliot bench`: what this machine and this version reach.

Each measurement runs in a process of its own on files of its own, both gone when the command ends, however it ends.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import click
import msgspec

from ..runtime.rng import Rng
from . import cluster_suites, suites
from .children import PartFailedError
from .moves import KINDS
from .place import machine
from .report import lines_of

F = TypeVar("F", bound=Callable[..., Any])


@click.group("bench")
def bench() -> None:
    """Measure throughput, latency, timers, schedules, memory and crashes, through the public client on a real file."""


def _common(repeat: int) -> Callable[[F], F]:
    """Options of every command. `repeat`: by default."""
    options = [
        click.option("--repeat", type=click.IntRange(1), default=repeat, show_default=True, help="Runs; medians count."),
        click.option("--seed", type=click.IntRange(0), default=None, help="Of everything random; by default a new one."),
        click.option("--dir", "folder", type=click.Path(exists=True, file_okay=False, writable=True), default=".",
                     show_default=True, help="Where the temporary files lie; a real disk, not memory."),
        click.option("--shards", type=click.IntRange(1, 64), default=2, show_default=True),
        click.option("--concurrency", type=click.IntRange(1), default=2_000, show_default=True, help="Attempts at once."),
        click.option("--encode", is_flag=True, help="Really encode and decode every message between actors."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON only."),
    ]  # fmt: skip

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _clustered(function: F) -> F:
    """Options that make a measurement one of a real cluster; they arrive together as `where`."""

    @click.option("--cluster", is_flag=True, help="Of a cluster: broker, database, node and worker, each a process.")
    @click.option("--nats", default="", metavar="URL", help="The broker to use; by default one is started.")
    @click.option("--postgres", default="", metavar="DSN", help="An empty database; by default one is started.")
    @click.option("--nodes", type=click.IntRange(1, 16), default=1, show_default=True, help="Of the cluster.")
    @click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes of the cluster.")
    @click.option("--slots", type=click.IntRange(1, 4_096), default=64, show_default=True, help="Shards of the cluster.")
    @functools.wraps(function)
    def command(
        *args: Any, cluster: bool, nats: str, postgres: str, nodes: int, workers: int, slots: int, **options: Any
    ) -> Any:
        where = None
        if cluster or nats or postgres:
            where = cluster_suites.Where(nats=nats, postgres=postgres, nodes=nodes, workers=workers, slots=slots)
        return function(*args, where=where, **options)

    return cast(F, command)


def _settings(repeat: int, seed: int | None, folder: str, shards: int, concurrency: int, encode: bool) -> suites.Settings:
    return suites.Settings(
        seed=Rng.of_the_system().below(1 << 32) if seed is None else seed,
        repeat=repeat,
        folder=folder,
        shards=shards,
        concurrency=concurrency,
        encode=encode,
        show_progress=sys.stderr.isatty(),
    )


def _run(
    title: str, common: dict[str, Any], as_json: bool, measure: Callable[[suites.Settings], dict[str, Any]]
) -> dict[str, Any]:
    """Measure and print."""
    settings = _settings(**common)
    found = machine(settings.folder)
    if not as_json:
        click.echo(f"{title}: seed {settings.seed}, runs {settings.repeat}, {settings.concurrency} attempts at once")
        click.echo(f"{found}")
        if found.file_system in ("tmpfs", "ramfs"):
            click.echo("these files are memory, not a disk: commits look faster than they are; see --dir", err=True)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        figures = measure(settings)
    except PartFailedError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    whole = {**figures, "machine": msgspec.to_builtins(found), "seed": settings.seed, "repeat": settings.repeat}
    click.echo(msgspec.json.encode(whole).decode() if as_json else "\n".join(lines_of(figures)))
    return figures


def _terminated(number: int, _: object) -> NoReturn:
    """Leave through every `finally`: children are ended, files removed."""
    sys.exit(128 + number)


@bench.command()
@_common(repeat=3)
@click.option("--tasks", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--floor", type=click.Path(exists=True, dir_okay=False), help="A script to compare with.")
@click.option("--backlog", type=click.IntRange(0), default=0, help="Also work off a backlog of so many, such as 1000000.")
@click.option("--stages/--no-stages", default=True, show_default=True, help="A further run says where the time went.")
@click.option("--profile", is_flag=True, help="Also by function.")
@click.option("--submit/--no-submit", default=True, show_default=True, help="Also submit with no worker there.")
@click.option("--singles", type=click.IntRange(1), default=2_000, show_default=True, help="Submitted one after the other.")
@click.option("--together", type=click.IntRange(1), default=20_000, show_default=True, help="Submitted by 64 callers.")
@_clustered
def throughput(
    tasks: int, floor: str | None, backlog: int, stages: bool, profile: bool, submit: bool, singles: int, together: int,
    where: cluster_suites.Where | None, as_json: bool, **common: Any,
) -> None:  # fmt: skip
    """Tasks a second from submission to completion, and submissions a second.

    Of a cluster: how much CPU each process uses for a task; --profile says what for; --backlog and --submit do not apply.
    """

    def measure(settings: suites.Settings) -> dict[str, Any]:
        if where is not None:
            return cluster_suites.throughput(settings, where, tasks=tasks, floor=floor, profile=profile)
        return suites.throughput(
            settings, tasks=tasks, floor=floor, backlog=backlog, stages=stages, hot=profile, submit=submit,
            singles=singles, together=together,
        )  # fmt: skip

    _run("throughput", common, as_json, measure)


@bench.command()
@_common(repeat=3)
@click.option("--rate", type=click.IntRange(1), default=100, show_default=True, help="Tasks a second.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True)
@click.option("--socket", "outside", is_flag=True, help="Submit from another process, through the local socket.")
@click.option("--queries", type=click.IntRange(1), default=200, show_default=True, help="Of 100 ids each; of a cluster.")
@_clustered
def latency(
    rate: int, seconds: float, outside: bool, queries: int, where: cluster_suites.Where | None, as_json: bool, **common: Any
) -> None:
    """From the call of submit to the first line of the handler, with little going on."""

    def measure(settings: suites.Settings) -> dict[str, Any]:
        if where is not None:
            return cluster_suites.latency(settings, where, rate=rate, seconds=seconds, queries=queries)
        return suites.latency(settings, rate=rate, seconds=seconds, outside=outside)

    _run("latency", common, as_json, measure)


@bench.command()
@_common(repeat=3)
@click.option("--tasks", type=click.IntRange(1), default=20_000, show_default=True, help="Due at once, or in a second.")
@click.option("--singles", type=click.IntRange(1), default=100, show_default=True, help="Timers with nothing else going on.")
@click.option("--lead-ms", type=click.IntRange(100), default=4_000, show_default=True, help="From submission to due.")
def timers(tasks: int, singles: int, lead_ms: int, as_json: bool, **common: Any) -> None:
    """How late scheduled tasks start; none may be early."""
    _run("timers", common, as_json, lambda s: suites.timers(s, tasks=tasks, singles=singles, lead_ms=lead_ms))


@bench.command()
@_common(repeat=3)
@click.option("--questions", type=click.IntRange(1), default=20_000, show_default=True, help="Of each kind of rule.")
def ticks(questions: int, as_json: bool, **common: Any) -> None:
    """The next tick of a schedule: what finding it costs, by kind of rule."""
    _run("ticks", common, as_json, lambda s: suites.ticks(s, questions=questions))


@bench.command()
@_common(repeat=1)
@click.option("--size", type=click.IntRange(0), default=200_000, show_default=True, help="Put in one call; 0: leave it out.")
@click.option("--stored", type=click.IntRange(0), default=2_000_000, show_default=True, help="In the file at a start.")
@click.option("--peak", type=click.IntRange(0), default=60_000, show_default=True, help="Due at the same second.")
@click.option("--precise", type=click.IntRange(0), default=100, show_default=True, help="Of those, with high precision.")
@click.option("--lead-ms", type=click.IntRange(100), default=15_000, show_default=True, help="From putting to the peak.")
@click.option("--stages", is_flag=True, help="Also say where the CPU time went.")
@click.option("--profile", is_flag=True, help="Also by function.")
def schedules(
    size: int, stored: int, peak: int, precise: int, lead_ms: int, stages: bool, profile: bool, as_json: bool, **common: Any
) -> None:
    """Schedules put in bulk, a start with millions of them, and very many due at the same second; fails if one is lost."""

    def measure(settings: suites.Settings) -> dict[str, Any]:
        return suites.schedules(
            settings, size=size, stored=stored, peak=peak, precise=precise, lead_ms=lead_ms, stages=stages or profile,
            hot=profile,
        )  # fmt: skip

    figures = _run("schedules", common, as_json, measure).get("peak", {})
    for each in figures.get("runs", [figures]):
        wrong = [name for name in ("early", "precise_early", "lost", "duplicates") if each.get(name)]
        if wrong or not each.get("balanced", True):
            raise click.ClickException(f"not as promised: {', '.join(wrong) or 'the ledger does not balance'}")


@bench.command()
@_common(repeat=1)
@click.option("--tasks", type=click.IntRange(1_000), default=2_000_000, show_default=True, help="Timers far apart.")
@click.option("--queries", type=click.IntRange(1), default=300, show_default=True, help="Questions of each kind.")
@click.option("--running", type=click.IntRange(0), default=10_000, show_default=True, help="Sleeping attempts at once.")
@click.option("--hold", "hold_s", type=click.FloatRange(0), default=35.0, show_default=True, help="Seconds each sleeps.")
def memory(tasks: int, queries: int, running: int, hold_s: float, as_json: bool, **common: Any) -> None:
    """Millions of timers: how fast they are stored, what a start with them takes; and very many attempts at once."""

    def measure(settings: suites.Settings) -> dict[str, Any]:
        return suites.memory(settings, tasks=tasks, queries=queries, running=running, hold_s=hold_s)

    _run("memory", common, as_json, measure)


@bench.command()
@_common(repeat=1)
@click.option("--tasks", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=10, show_default=True)
def crash(tasks: int, kills: int, as_json: bool, **common: Any) -> None:
    """Kill the scheduler at random moments; fails if anything was lost or took effect twice."""
    figures = _run("crash", common, as_json, lambda s: suites.crash(s, tasks=tasks, kills=kills))
    wrong = [name for name in ("lost", "duplicates", "not_witnessed", "accepted_twice", "dedupe_broken") if figures[name]]
    if wrong or not figures["balanced"]:
        raise click.ClickException(f"not as promised: {', '.join(wrong) or 'the ledger does not balance'}")


@bench.command()
@_common(repeat=3)
@click.option("--sessions", "count", type=click.IntRange(1), default=2_000, show_default=True, help="Live worker sessions.")
@click.option("--beats", type=click.IntRange(1), default=20_000, show_default=True, help="Heartbeats a second, of all.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True)
@click.option("--public", is_flag=True, help="Sessions of the public protocol, whose heartbeats are answered.")
@click.option("--profile", is_flag=True, help="Also say where the node's CPU time goes.")
@_clustered
def sessions(
    count: int, beats: int, seconds: float, public: bool, profile: bool, where: cluster_suites.Where | None, as_json: bool,
    **common: Any,
) -> None:  # fmt: skip
    """What worker sessions that only beat cost the node of a cluster; fails if one is given up or not heard."""
    place = where or cluster_suites.Where()
    figures = _run(
        "sessions", common, as_json,
        lambda s: cluster_suites.sessions(
            s, place, count=count, beats=beats, seconds=seconds, public=public, profile=profile
        ),
    )  # fmt: skip
    for each in figures.get("runs", [figures]):
        wrong = [name for name in ("given_up", "not_heard", "not_answered") if each[name]]
        if each["beats_per_s"] < 0.9 * each["asked_per_s"]:
            wrong.append("beats_per_s")
        if wrong:
            raise click.ClickException(f"not as promised: {', '.join(wrong)}")


@bench.command()
@_common(repeat=1)
@click.option("--cluster", is_flag=True, help="Said for the reader: it is always a cluster of its own.")
@click.option("--slots", type=click.IntRange(2, 4_096), default=64, show_default=True, help="Shards of the cluster.")
@click.option("--rate", type=click.IntRange(10), default=1_000, show_default=True, help="Tasks a second.")
@click.option("--held", type=click.IntRange(1), default=500, show_default=True, help="Running on the worker that dies.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Of what happens; by default all, in turn.")
def moves(cluster: bool, slots: int, rate: int, held: int, kinds: tuple[str, ...], as_json: bool, **common: Any) -> None:
    """How long until all goes on when a node, a worker, a server is taken away; fails if tasks are lost."""

    def measure(settings: suites.Settings) -> dict[str, Any]:
        return cluster_suites.moves(settings, slots=slots, rate=rate, held=held, kinds=kinds or KINDS)

    figures = _run("moves", common, as_json, measure)
    for each in figures.get("runs", [figures]):
        if each["lost"] or each["accepted_twice"] or not each["balanced"]:
            raise click.ClickException("not as promised: tasks were lost or accepted twice, or the ledger does not balance")


@bench.command("all")
@_common(repeat=1)
@click.option("--quick", is_flag=True, help="A twentieth of everything: to see that all of it works.")
@click.option("--floor", type=click.Path(exists=True, dir_okay=False), help="A script to compare the throughput with.")
def everything(quick: bool, floor: str | None, as_json: bool, **common: Any) -> None:
    """All of them, one after the other."""
    part = 20 if quick else 1

    def measure(settings: suites.Settings) -> dict[str, Any]:
        return {
            "throughput": suites.throughput(
                settings, tasks=100_000 // part, floor=floor, backlog=1_000_000 // part,
                singles=2_000 // part, together=20_000 // part,
            ),
            "latency": suites.latency(settings, rate=100, seconds=10 / part, outside=False),
            "timers": suites.timers(settings, tasks=20_000 // part, singles=100 // part, lead_ms=4_000 // min(part, 4)),
            "ticks": suites.ticks(settings, questions=20_000 // part),
            "schedules": suites.schedules(
                settings, size=200_000 // part, stored=2_000_000 // part, peak=60_000 // part, precise=100,
                lead_ms=15_000 // min(part, 4),
            ),
            "memory": suites.memory(
                settings, tasks=2_000_000 // part, queries=300 // part, running=10_000 // part, hold_s=35 / part
            ),
            "crash": suites.crash(settings, tasks=20_000 // part, kills=10 if part == 1 else 2),
        }  # fmt: skip

    _run("all", common, as_json, measure)
