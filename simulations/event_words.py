"""Events of a trace in words, for people; kinds that are not known are told by their name and fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..actors.states import State
from .case import Fault
from .events import Event, shown_id
from .words import fault_words, fields_of, instant, list_of, span

_IDS_SHOWN: Final = 4


def event_words(event: Event) -> str:
    """Return what an event says, without when and where."""
    told = _told(event)
    return told if told else f"{event.kind} {fields_of(event.fields)}".strip()


def line_of(event: Event) -> str:
    """Return an event as a line: when, where, what."""
    boot = f"/{event.boot}" if event.boot > 1 else ""
    return f"{instant(event.at_ns):>13}  {event.process + boot:<8}  {event_words(event)}"


def _told(event: Event) -> str:
    text, number = event.text, event.number
    match event.kind:
        case "start":
            return f"starts, boot {event.boot}" if event.boot > 1 else "starts"
        case "stop_asked":
            return "is asked to stop"
        case "stop":
            return "stops by itself"
        case "kill":
            return "is killed"
        case "power":
            return "loses power"
        case "pause":
            return "stands still"
        case "resume":
            return "goes on"
        case "fault":
            return f"fault: {fault_of(event)}"
        case "heal":
            return "heals: " + (text("what") or fields_of(event.fields) or "all faults are over")
        case "send":
            return f"sends {text('msg') or 'a message'} to {text('to')}{_arrivals(event)}"
        case "deliver":
            return f"takes {text('msg') or 'a message'} from {text('src') or text('sender') or '?'} for {text('to')}"
        case "commit":
            return f"commits shard {text('shard')} epoch {text('epoch')}: {number('rows')} rows{_states(event)}"
        case "claim":
            return f"claims shard {text('shard')}, epoch {text('epoch')}"
        case "refused":
            return f"is refused a stale commit: {fields_of(event.fields)}"
        case "submit":
            return f"asks to submit {text('ref')} {fields_of(_rest(event, 'ref'))}".rstrip()
        case "submitted":
            return f"submission {text('ref')} ended: {text('outcome')}{_some(event.tasks())}"
        case "command":
            return f"asked to {text('what')} {text('ref')}: {text('outcome')} {' '.join(event.texts('words'))}".rstrip()
        case "body":
            return f"task {shown_id(text('task'))} attempt {text('attempt')} starts: {text('handler')}"
        case "body_end":
            return f"task {shown_id(text('task'))} attempt {text('attempt')} ends: {text('how')}"
        case "configured":
            return f"sets {text('what')} {text('name')}: {fields_of(_rest(event, 'what', 'name'))}"
        case "trouble":
            return f"trouble that nobody handled: {text('what')}"
        case "effect":
            verdict = text("outcome") or ("accepted" if event.fields.get("accepted") else "refused")
            return f"task {shown_id(text('task'))} effect {text('number')} of attempt {text('attempt') or '?'}: {verdict}"
        case "clock":
            return f"wall clock set by {span(number('by_ms'))}"
        case "log":
            return f"log {text('level')}: {text('event')} {fields_of(_rest(event, 'level', 'event'))}".rstrip()
        case "point":
            return f"passes {text('name')}"
        case "violation":
            return f"VIOLATION {identity_of(event)}: {text('text')}"
        case "note":
            return text("text") or fields_of(event.fields)
        case _:
            return ""


def identity_of(violation: Event) -> str:
    return f"{violation.text('oracle')}:{violation.text('kind')}"


def state_name(state: str) -> str:
    """Return the name of a task's state, given as its number or as it is."""
    numbers = {str(int(each)): each.name.lower() for each in State}
    return numbers.get(state, state)


def fault_of(event: Event) -> str:
    """Return what a fault's event says: as the case would, if its fields are those of a fault."""
    fields = {"at_ms": event.at_ns // 1_000_000, **_rest(event, "what"), "type": event.text("what")}
    try:
        return fault_words(msgspec.convert(fields, Fault))
    except msgspec.ValidationError:
        return f"{event.text('what') or 'unknown'} {fields_of(_rest(event, 'what'))}".strip()


def _rest(event: Event, *names: str) -> dict[str, Any]:
    return {name: value for name, value in event.fields.items() if name not in names}


def _arrivals(event: Event) -> str:
    if event.text("lost"):
        return f", lost: {event.text('lost')}"
    arrivals = event.arrivals()
    lost = [name for name, at_ns in arrivals if at_ns < 0]
    received = [name for name, at_ns in arrivals if at_ns >= 0]
    told = f", to arrive at {list_of(received)}" if received else ""
    return told + (f", lost on the way to {list_of(lost)}" if lost else "")


def _states(event: Event) -> str:
    tasks, states = event.tasks(), [state_name(state) for state in event.texts("states")]
    if len(states) == len(tasks):
        tasks = [f"{task} {state}" for task, state in zip(tasks, states, strict=True)]
    return _some(tasks)


def _some(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_IDS_SHOWN])}{', …' if len(names) > _IDS_SHOWN else ''})"
