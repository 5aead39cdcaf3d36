"""The timeline: a run as one page that needs nothing else, with a lane for each process.

The page is `timeline.html` with the run's data put in as JSON: spans in which processes were up or stood still, bands in
which something was broken, handler runs as bars, messages as arrows, everything else as marks. At most `EVENTS_MAX`
events are put in; messages are left out first, evenly, and never one that led to a violation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec

from ..runtime.errors import FoliotError
from .event_words import event_words, fault_of, identity_of
from .events import Event, TraceFile, case_of, shown_id
from .explain import chain_of
from .words import options_words, span

EVENTS_MAX: Final = 20_000
_PLACE: Final = "/*DATA*/null/*DATA*/"
_TEXT_MAX: Final = 300
_ENDS: Final = frozenset(("stop", "kill", "power"))
_NOISE: Final = (("step", "carry", "deliver"), ("send",), ("point", "log", "claim"), ("commit", "effect"))
"""Kinds of events in the order in which they are left out."""

_LANE_ORDER: Final = (r"world", r"client.*", r"n\d+", r"db", r"w\d+")


class TemplateError(FoliotError):
    """The page's template is not the one that belongs to this version."""

    code = "template"

    def __init__(self) -> None:
        super().__init__("timeline.html has no place for the data, expected the one of this version")


def page(trace: TraceFile) -> str:
    """Return the page, HTML in one piece."""
    template = files(__package__).joinpath("timeline.html").read_text(encoding="utf-8")
    if template.count(_PLACE) != 1:
        raise TemplateError
    data = msgspec.json.encode(page_data(trace)).decode()
    return template.replace(_PLACE, data.replace("</", "<\\/").replace("<!--", "<\\!--"))


def page_data(trace: TraceFile, *, limit: int = EVENTS_MAX) -> dict[str, Any]:
    """Return what the page shows. Instants are nanoseconds; `events` and `messages` refer to events by their place in
    `events`, of which the cause is a place too, -1 for none."""
    kept, left_out = thin(trace.events, limit=limit)
    lanes = lane_names(trace.events)
    number = {name: place for place, name in enumerate(lanes)}
    places = {event.index: place for place, event in enumerate(kept)}
    causes = _nearest_kept(trace.events, places)
    end_ns = max((event.at_ns for event in trace.events), default=0)
    faults = [event for event in trace.events if event.kind == "fault"]
    return {
        "title": _title(trace),
        "about": _about(trace, left_out),
        "end": end_ns,
        "busy": _busy_until(trace.events, end_ns),
        "lanes": lanes,
        "spans": _spans(trace.events, lanes, end_ns),
        "bands": [
            {"from": event.at_ns, "to": _end_of(event, end_ns), "lanes": _lanes_of(event, number), "text": fault_of(event)}
            for event in faults
            if event.number("for_ms") and event.text("what") != "pause"
        ],
        "bodies": _bodies(trace.events, number, places, end_ns),
        "events": [
            [event.at_ns, number.get(event.process, 0), event.kind, causes[event.index], event_words(event)[:_TEXT_MAX],
             event.tasks()]
            for event in kept
        ],
        "messages": [
            [places[event.index], number[receiver], at_ns]
            for event in kept
            if event.kind == "send"
            for receiver, at_ns in event.arrivals()
            if receiver in number
        ],
        "violations": [
            [places[event.index], identity_of(event), event.text("text")[:_TEXT_MAX]] for event in trace.violations()
        ],
        "faults": [[places[event.index], event.at_ns, fault_of(event)] for event in faults if event.index in places],
    }  # fmt: skip


def thin(events: Sequence[Event], *, limit: int) -> tuple[list[Event], dict[str, int]]:
    """Return at most `limit` events, and how many of each kind were left out. Noisy kinds go first, evenly spread;
    violations and what led to them go last."""
    left_out: dict[str, int] = {}
    by_index = {event.index: event for event in events}
    precious: dict[int, None] = {}
    for event in events:
        if event.kind == "violation":
            precious |= dict.fromkeys(each.index for each in chain_of(by_index, event)[-limit // 20 :])
    kept = list(events)
    for kinds in (*_NOISE, ()):
        surplus = len(kept) - limit
        if surplus <= 0:
            break
        candidates = [
            event for event in kept
            if event.index not in precious and (event.kind in kinds or not kinds) and event.kind != "violation"
        ]  # fmt: skip
        gone = {each.index: each.kind for each in _evenly(candidates, surplus)}
        for kind in gone.values():
            left_out[kind] = left_out.get(kind, 0) + 1
        kept = [event for event in kept if event.index not in gone]
    return kept[:limit], left_out


def _evenly(items: Sequence[Event], many: int) -> list[Event]:
    """Return `many` of the items, or all, spread over them."""
    if many >= len(items):
        return list(items)
    return [items[place * len(items) // many] for place in range(many)]


def _nearest_kept(events: Iterable[Event], places: dict[int, int]) -> dict[int, int]:
    """Return for each event the place of the nearest event before it in its chain that was kept, -1 for none."""
    nearest: dict[int, int] = {}
    for event in sorted(events, key=lambda event: event.index):
        cause = event.cause if event.cause < event.index else -1
        nearest[event.index] = places.get(cause, nearest.get(cause, -1))
    return nearest


def lane_names(events: Iterable[Event]) -> list[str]:
    """Return the lanes: the world first, clients, nodes, the database, workers, then others, by number."""
    seen: dict[str, None] = dict.fromkeys(["world"])
    for event in events:
        if event.process:
            seen[event.process] = None
        seen |= dict.fromkeys(event.texts("rx"))

    def order(name: str) -> tuple[int, int, str]:
        group = next((at for at, shape in enumerate(_LANE_ORDER) if re.fullmatch(shape, name)), len(_LANE_ORDER))
        digits = re.search(r"\d+", name)
        return group, int(digits[0]) if digits else 0, name

    return sorted(seen, key=order)


def _spans(events: Sequence[Event], lanes: Sequence[str], end_ns: int) -> list[list[Any]]:
    """Return [lane, from, to, up|paused] for each span a process lived and stood still in. What never starts, such as a
    machine, is up from the beginning to the end."""
    started = {event.process for event in events if event.kind == "start"}
    out: list[list[Any]] = []
    for lane, name in enumerate(lanes):
        own = [event for event in events if event.process == name]
        up_ns = -1 if name in started else 0
        paused_ns = -1
        for event in own:
            if event.kind == "start" and up_ns < 0:
                up_ns = event.at_ns
            elif event.kind == "pause" and paused_ns < 0:
                paused_ns = event.at_ns
            elif event.kind == "resume" or (event.kind in _ENDS and name in started):
                if paused_ns >= 0:
                    out.append([lane, paused_ns, event.at_ns, "paused"])
                    paused_ns = -1
                if event.kind != "resume" and up_ns >= 0:
                    out.append([lane, up_ns, event.at_ns, "up"])
                    up_ns = -1
        out += [[lane, up_ns, end_ns, "up"]] if up_ns >= 0 else []
        out += [[lane, paused_ns, end_ns, "paused"]] if paused_ns >= 0 else []
    return sorted(out, key=lambda each: each[3] != "up")


def _busy_until(events: Iterable[Event], end_ns: int) -> int:
    """Return until when most happens: a run that waits long for what does not come is shown without the wait at first."""
    healed_ns = next((event.at_ns for event in events if event.kind == "heal" and not event.fields), 0)
    return healed_ns * 6 // 5 if 0 < healed_ns * 3 // 2 < end_ns else end_ns


def _bodies(events: Iterable[Event], number: dict[str, int], places: dict[int, int], end_ns: int) -> list[list[Any]]:
    """Return [lane, from, to, task, attempt, how, place] for each handler run; `how` is lost if its process ended first."""
    out: list[list[Any]] = []
    running: dict[tuple[str, str, str], list[Any]] = {}
    for event in events:
        key = (event.process, shown_id(event.text("task")), event.text("attempt"))
        if event.kind == "body":
            place = places.get(event.index, -1)
            running[key] = [number.get(event.process, 0), event.at_ns, end_ns, key[1], key[2], "running", place]
            out.append(running[key])
        elif event.kind == "body_end" and key in running:
            body = running.pop(key)
            body[2], body[5] = event.at_ns, event.text("how") or "ended"
        elif event.kind in _ENDS:
            for each in [each for each in running if each[0] == event.process]:
                body = running.pop(each)
                body[2], body[5] = event.at_ns, "lost"
    return out


def _end_of(fault: Event, end_ns: int) -> int:
    return min(fault.at_ns + fault.number("for_ms") * 1_000_000, end_ns)


def _lanes_of(fault: Event, number: dict[str, int]) -> list[int]:
    """Return the lanes a fault is about; empty for all."""
    names = [fault.text(name) for name in ("process", "machine", "source", "target")]
    sides = fault.fields.get("sides")
    if isinstance(sides, list):
        names += [str(name) for side in sides if isinstance(side, list) for name in side]
    return [number[name] for name in names if name in number]


def _title(trace: TraceFile) -> str:
    header = trace.header
    found = list(dict.fromkeys(identity_of(event) for event in trace.violations()))
    seed = f"seed {header['seed']}" if "seed" in header else "a run"
    return f"{seed}: {', '.join(found[:3]) + (', …' if len(found) > 3 else '') or 'no violations'}"


def _about(trace: TraceFile, left_out: dict[str, int]) -> list[str]:
    """Return what was run, in lines."""
    header, case = trace.header, case_of(trace)
    out = [f"profile {header['profile']}"] if header.get("profile") else []
    out += [options_words(case.options)] if case is not None else []
    out += [f"{span(header['virtual_ms'])} of simulated time"] if "virtual_ms" in header else []
    out += [f"digest {header['digest']}"] if header.get("digest") else []
    if left_out:
        kinds = ", ".join(f"{many:,} {kind}" for kind, many in sorted(left_out.items()))
        out.append(f"not shown, there are too many: {kinds}")
    return out
