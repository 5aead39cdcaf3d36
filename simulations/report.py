"""The report of a failed simulated test: how to run it again, what happened to the cluster, and who still waits for what."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Final

from .event_words import event_words
from .events import Event, TraceFile, read_events
from .harness import Outcome

_FAULTS_MAX: Final = 40
_EVENTS_MAX: Final = 25
_LISTED_MAX: Final = 20
_DULL: Final = frozenset(("send", "claim", "log"))


def replay_command(nodeid: str, seed: int, *, profile: str = "") -> str:
    """Return the line that runs one seed of a test again. `profile`: if one was given on the command line."""
    chosen = f" --sim-profile {shlex.quote(profile)}" if profile else ""
    return f"pytest {shlex.quote(nodeid)} --sim-seed {seed}{chosen}"


def headline(outcome: Outcome, nodeid: str, number: int, total: int, *, profile: str = "") -> str:
    """Return what stands under the error itself."""
    which = f" ({number} of {total})" if total > 1 else ""
    return f"simulated under seed {outcome.seed}{which}, replay: {replay_command(nodeid, outcome.seed, profile=profile)}"


def report(outcome: Outcome, nodeid: str, number: int, total: int, *, page: str = "", profile: str = "") -> str:
    """Return the whole report. `page`: where the timeline was written, if it was."""
    lines = [
        headline(outcome, nodeid, number, total, profile=profile),
        f"it failed at {outcome.when}, {_s(outcome.virtual_ns)} after the start, {outcome.steps:,} steps",
    ]
    lines += _section("faults", [f"{_s(at_ns):>12}  {words}" for at_ns, words in outcome.faults], _FAULTS_MAX)
    lines += _section("tasks that are not over", outcome.reasons, _LISTED_MAX)
    lines += _section("tasks that ended without success", outcome.undone, _LISTED_MAX)
    lines += _section("outside services", outcome.services, _LISTED_MAX)
    found = [f"{_s(one.at_ns):>12}  {one.identity}: {one.text}" for one in outcome.violations]
    lines += _section("invariants that do not hold", found, _LISTED_MAX)
    waiting = [line for line in outcome.pending if line.startswith("test/")]
    lines += _section("the test waits in", waiting, _LISTED_MAX)
    lines += _section("last events", list(_last(outcome.lines)), _EVENTS_MAX)
    if page:
        lines.append(f"timeline: {page}")
    return "\n".join(lines)


def timeline_of(outcome: Outcome, nodeid: str) -> str:
    """Return the page of a run, HTML in one piece."""
    from .timeline import page

    header: dict[str, Any] = {"foliot_trace": 1, "seed": outcome.seed, "test": nodeid, "digest": outcome.digest}
    return page(TraceFile(header, list(read_events(outcome.lines))))


def _section(title: str, lines: Sequence[str], most: int) -> list[str]:
    if not lines:
        return []
    left = len(lines) - most
    more = [f"  ... and {left} more"] if left > 0 else []
    return [f"{title}:", *[f"  {line}" for line in lines[:most]], *more]


def _last(lines: Sequence[bytes]) -> Iterator[str]:
    """Yield the newest events that mean something, oldest first."""
    found: list[Event] = []
    for start in range(len(lines), 0, -500):
        for event in reversed(list(read_events(lines[max(start - 500, 0) : start]))):
            if event.kind not in _DULL and len(found) < _EVENTS_MAX:
                found.append(event)
        if len(found) >= _EVENTS_MAX:
            break
    for event in reversed(found):
        yield f"{_s(event.at_ns):>12}  {event.process:<8} {event_words(event)}"


def _s(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"
