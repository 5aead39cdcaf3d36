"""The commands of `foliot sim` about one case: run it again, make it smaller, show it, explain it, compare two."""

from __future__ import annotations

import cProfile
import io
import pstats
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from ..runtime.clock import SystemClock
from ..sdk.cli_common import EXIT_FAILED, echo_json
from ..sdk.durations import parse_span
from . import explain as explaining
from .case import encode_case
from .cli_targets import (
    case_of_target,
    checked_output,
    is_file,
    profile_option,
    run_of,
    told,
    trace_in,
    trace_of_target,
    write_file,
    write_trace_file,
)
from .corpus import NoCaseError, file_name
from .events import InvalidTraceError, TraceFile
from .result import Result
from .shrink import BUDGET
from .shrink import shrink as shrink_case
from .timeline import page
from .words import case_words, span

_HOT: Final = 30
_level = click.option("--level", type=click.IntRange(1, 2), default=1, show_default=True, help="2: each step as well.")


@click.command()
@click.argument("target", metavar="SEED|CASE")
@profile_option
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write what happened here.")
@_level
@click.option("--hot", is_flag=True, help="Also say where the time goes, by function.")
@told
def replay(target: str, profile: str, trace: Path | None, level: int, hot: bool, as_json: bool) -> None:
    """Run a case again: what is done to the cluster, and what it shows."""
    checked_output(trace)
    case = case_of_target(target, profile)
    if not as_json:
        _say(case_words(case, with_work=False))
    run = run_of(keep_trace=trace is not None, level=level)
    profiler = cProfile.Profile()
    result = profiler.runcall(run, case) if hot else run(case)
    if trace is not None:
        write_trace_file(trace, result)
    if as_json:
        echo_json({**_result(result), "case": msgspec.to_builtins(case)})
    else:
        _say(_result_words(result))
        if hot:
            text = io.StringIO()
            pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(_HOT)
            click.echo(text.getvalue())
    if result.violations:
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("target", metavar="SEED|CASE")
@profile_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write the case here.")
@click.option("--budget", type=click.IntRange(1), default=BUDGET, show_default=True, help="Runs at most.")
@click.option("--for", "limit", metavar="SPAN", default=None, help="Stop after so long, such as 60s.")
@click.option("--expect", default="", metavar="ORACLE:KIND", help="Which violation to keep; by default the first.")
@told
def shrink(
    target: str, profile: str, output: Path | None, budget: int, limit: str | None, expect: str, as_json: bool
) -> None:
    """Find the least that still shows the violation, and tell what is left."""
    checked_output(output)
    case = case_of_target(target, profile)
    clock = SystemClock()
    end_ns = None if limit is None else clock.mono_ns() + parse_span(limit, what="for") * 1_000_000
    smaller, runs = shrink_case(
        case,
        run_of(),
        identity=expect,
        budget=budget,
        stop=lambda: end_ns is not None and clock.mono_ns() >= end_ns,
    )
    if output is not None:
        write_file(output, encode_case(smaller))
    if as_json:
        echo_json({"runs": runs, "expect": smaller.expect, "case": msgspec.to_builtins(smaller)})
        return
    faults, work = f"{len(case.faults)} to {len(smaller.faults)} faults", f"{len(case.work)} to {len(smaller.work)}"
    click.echo(f"{smaller.expect}: from {faults}, from {work} entries of work, in {runs} runs")
    _say(case_words(smaller))
    if output is not None:
        click.echo(f"foliot sim replay {output}")


@click.command()
@click.argument("target", metavar="SEED|CASE|TRACE")
@profile_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The page; by default named after what it shows.",
)
@_level
@told
def timeline(target: str, profile: str, output: Path | None, level: int, as_json: bool) -> None:
    """Draw a run as a page with a lane for each process, which a browser opens from the disk."""
    checked_output(output)
    trace = trace_of_target(target, profile, level)
    path = output if output is not None else Path(f"timeline-{file_name(Path(target).stem)}.html")
    write_file(path, page(trace).encode())
    found = [event.text("text") for event in trace.violations()]
    if as_json:
        echo_json({"file": str(path), "events": len(trace.events), "violations": found})
    else:
        click.echo(f"{path}: {len(trace.events):,} events, {len(found)} violations")


@click.command()
@click.argument("target", metavar="SEED|CASE|TRACE")
@profile_option
@click.option("--task", default="", metavar="ID", help="Tell the life of this task.")
@_level
@told
def explain(target: str, profile: str, task: str, level: int, as_json: bool) -> None:
    """Tell how it came to a violation: the chain of causes, and the lives of the tasks in it."""
    lines = explaining.explain(trace_of_target(target, profile, level), task=task)
    if as_json:
        echo_json({"lines": lines})
    else:
        _say(lines)


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@told
def diff(first: str, second: str, as_json: bool) -> None:
    """Find where two traces part: their first different event."""
    lines = explaining.differ(_trace_file(first), _trace_file(second))
    if as_json:
        echo_json({"same": not lines, "lines": lines})
    else:
        _say(lines or ["the traces are the same"])
    if lines:
        sys.exit(EXIT_FAILED)


def _trace_file(target: str) -> TraceFile:
    if not is_file(target):
        raise NoCaseError(target, "a file that `foliot sim replay --trace` wrote")
    found = trace_in(target)
    if found is None:
        raise InvalidTraceError(target, "its first line is no header")
    return found


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


def _result(result: Result) -> dict[str, Any]:
    return {
        "seed": result.case.seed,
        "digest": result.digest,
        "virtual_s": result.virtual_ms / 1_000,
        "steps": result.steps,
        "tasks": result.tasks,
        "faults": result.faults,
        "violations": [msgspec.to_builtins(each) for each in result.violations],
    }


def _result_words(result: Result) -> list[str]:
    out = [
        f"{span(result.virtual_ms)} of simulated time, {result.steps:,} steps, {result.tasks:,} tasks, "
        f"{result.faults:,} faults took place; digest {result.digest or 'none'}"
    ]
    if not result.violations:
        return [*out, "no violations"]
    out.append(f"{len(result.violations)} violations:")
    return out + [f"  {each.at_ns / 1e9:9.3f} s  {each.identity}: {each.text}" for each in result.violations]
