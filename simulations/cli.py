"""`foliot sim`: run many seeds, and look at one.

A case is named by its seed, which is planned anew, or by a file, which holds what to do in full. Exit codes: 0 nothing
found, 1 violations or differences, 2 wrong usage.
"""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Final

import click
import msgspec

from ..runtime.clock import Clock, SystemClock
from ..sdk.cli_common import EXIT_FAILED, echo_json
from ..sdk.durations import parse_span
from .campaign import Outcome, Plan, campaign
from .case import decode_case
from .cli_case import diff, explain, replay, shrink, timeline
from .cli_targets import SEED_DIGITS, FileAccessError, checked_profile, told
from .corpus import CASES, check_cases, store_case
from .tally import Tally, line_of

SEEDS: Final = 100
_FIRST_MAX: Final = 10 ** (SEED_DIGITS - 1)  # so that all seeds that follow have digits few enough to be named
_CASES_KEPT: Final = 10  # files of each identity
_NS: Final = 1_000_000_000


@click.group("sim")
def sim() -> None:
    """Run the whole cluster in one process, from a seed, and look at what went wrong."""


for _command in (replay, diff, shrink, timeline, explain):
    sim.add_command(_command)


@sim.command()
@click.option("--seeds", type=click.IntRange(1), default=None, help=f"How many; {SEEDS} unless --for says how long.")
@click.option("--from", "first", type=click.IntRange(0, _FIRST_MAX), default=0, show_default=True, help="The first seed.")
@click.option("--for", "span", metavar="SPAN", default=None, help="Begin seeds for so long, such as 5m.")
@click.option("--profile", default="", help="What kind of faults and work; by default each seed draws one.")
@click.option("--jobs", type=click.IntRange(1, 256), default=2, show_default=True, help="Processes at once.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="sim-failures",
    show_default=True,
    help="Where failing cases are written.",
)
@click.option(
    "--check-determinism",
    "check",
    type=click.IntRange(0, 100),
    default=0,
    metavar="PERCENT",
    help="Run so many of the seeds again in a process with other hashes and another allocator.",
)
@click.option(
    "--coverage",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A file of figures' names, one a line: print those that were never counted.",
)
@click.option("--figures", is_flag=True, help="Print all figures, summed over the seeds.")
@click.option("--limit", default="5m", show_default=True, metavar="SPAN", help="A run that takes longer hangs.")
@told
def run(
    seeds: int | None, first: int, span: str | None, profile: str, jobs: int, out: Path, check: int, coverage: Path | None,
    figures: bool, limit: str, as_json: bool,
) -> None:  # fmt: skip
    """Run many seeds, and keep the cases that fail."""
    limit_s = max(parse_span(limit, what="limit"), 1) / 1_000
    plan = Plan(profile=checked_profile(profile), jobs=jobs, check_percent=check, limit_s=limit_s)
    many = seeds if seeds is not None or span is not None else SEEDS
    names = _names_in(coverage)
    keeper = _Keeper(out, Tally(profile))
    watch = _Watch(SystemClock(), None if span is None else parse_span(span, what="for"))
    numbers = range(first, first + many) if many is not None else count(first)
    is_ended_early = False
    try:
        with closing(campaign(plan, numbers, watch.is_over)) as outcomes:
            for outcome in outcomes:
                keeper.take(outcome)
                if as_json:
                    echo_json(line_of(outcome))
                else:
                    _progress(keeper.tally, many, watch)
    except KeyboardInterrupt:
        is_ended_early = True
    if sys.stderr.isatty() and not as_json:
        click.echo("\r\x1b[K", err=True, nl=False)
    never = keeper.tally.never(names)
    if not as_json:
        _print_summary(keeper, watch, figures=figures, never=never, has_names=bool(names))
    elif figures or names:
        summed = {"figures": dict(sorted(keeper.tally.figures.items()))} if figures else {}
        echo_json({**summed, **({"never": never} if names else {})})
    if is_ended_early:
        sys.exit(130)
    if keeper.tally.failed:
        sys.exit(EXIT_FAILED)


class _Watch:
    """Real time, for how long a campaign lasts and how fast it is. `span_ms`: None for no end."""

    def __init__(self, clock: Clock, span_ms: int | None) -> None:
        self._clock = clock
        self._start_ns = clock.mono_ns()
        self._span_ms = span_ms

    def elapsed_s(self) -> float:
        return (self._clock.mono_ns() - self._start_ns) / _NS

    def is_over(self) -> bool:
        return self._span_ms is not None and self.elapsed_s() * 1_000 >= self._span_ms


class _Keeper:
    """Sums outcomes and writes failing cases, the first few of each identity."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._folder = folder
        self._written: dict[str, int] = {}
        self._is_told = False  # that cases cannot be written
        self.tally = tally
        self.first: dict[str, str] = {}  # the first file of each identity

    def take(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        identity = outcome.identity
        if not outcome.case or not identity or self._written.get(identity, 0) >= _CASES_KEPT:
            return
        self._written[identity] = self._written.get(identity, 0) + 1
        case = decode_case(outcome.case.encode())
        try:
            path = store_case(self._folder, msgspec.structs.replace(case, expect=identity))
        except OSError as error:  # no place to write is no reason to lose what the other seeds show
            if not self._is_told:
                click.echo(f"foliot: cannot write cases to {self._folder}: {error.strerror or error}", err=True)
            self._is_told = True
            return
        self.first.setdefault(identity, str(path))


def _progress(tally: Tally, many: int | None, watch: _Watch) -> None:
    """Say how far it is: all the time on a terminal, else now and then."""
    of = f" of {many:,}" if many is not None else ""
    rate = tally.seeds / max(watch.elapsed_s(), 0.001) * 3_600
    text = f"{tally.seeds:,}{of} seeds, {rate:,.0f} an hour, {tally.failed:,} with violations"
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
    elif tally.seeds % (max(many // 10, 1) if many is not None else 200) == 0:
        click.echo(text, err=True)


def _print_summary(keeper: _Keeper, watch: _Watch, *, figures: bool, never: list[str], has_names: bool) -> None:
    for line in keeper.tally.lines(watch.elapsed_s(), keeper.first):
        click.echo(line)
    if figures:
        for name, number in sorted(keeper.tally.figures.items()):
            click.echo(f"  {name:<40} {number:>12,}")
    if has_names:
        click.echo(f"never counted: {', '.join(never)}" if never else "all that should be counted was")


def _names_in(path: Path | None) -> list[str]:
    """Raises: FileAccessError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    except OSError as error:
        raise FileAccessError("read", str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise FileAccessError("read", str(path), "it is no text") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@sim.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=CASES)
@told
def corpus(folder: Path, as_json: bool) -> None:
    """Run the stored cases of a folder; none may show a violation any more."""
    from .run import run as run_case

    failed = checked = 0
    for path, result in check_cases(folder, run_case):
        checked += 1
        failed += bool(result.violations)
        shown = list(dict.fromkeys(each.identity for each in result.violations))
        if as_json:
            echo_json({"file": path.name, "digest": result.digest, "expect": result.case.expect, "violations": shown})
        elif shown:
            click.echo(f"{path.name}: {', '.join(shown)}: {result.violations[0].text}")
    if not as_json:
        click.echo(f"{checked} cases, {failed} with violations")
    if failed:
        sys.exit(EXIT_FAILED)
