"""Why: the way from a violation back to what began it, and the lives of the tasks on that way, in words.

Every event names the one that led to it, so the way back is a chain; it begins at the first fault or submission met on
the way. Where a cause was not recorded the chain ends there, and says so by what it starts with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..runtime.errors import NotFoundError
from .event_words import fault_of, identity_of, line_of, state_name
from .events import Event, TraceFile, shown_id
from .words import instant

CHAIN_SHOWN: Final = 40
LIFE_SHOWN: Final = 60
TASKS_SHOWN: Final = 4
FAULTS_SHOWN: Final = 12
_BEGINNINGS: Final = frozenset(("fault", "submit"))


class NoSuchTaskError(NotFoundError):
    """No event of the trace is about the task."""

    code = "no_such_task"

    def __init__(self, task: str, known: Sequence[str]) -> None:
        some = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
        super().__init__(f"no event is about task {task[:40]!r}, expected one of {some or 'none: the trace names no task'}")
        self.task = task


def explain(trace: TraceFile, *, task: str = "") -> list[str]:
    """Return the explanation in lines. `task`: only the life of this one. Raises: NoSuchTaskError."""
    if task:
        wanted = shown_id(task.strip().lower())
        life = life_of(trace.events, wanted)
        if not life:
            raise NoSuchTaskError(wanted, known_tasks(trace.events))
        return [f"task {wanted}:", *_indented(life)]
    violations = trace.violations()
    if not violations:
        return ["no violations; `--task ID` tells the life of a task"]
    out: list[str] = []
    told: dict[str, None] = {}  # by identity: one that happens to many tasks is explained once
    for violation in violations:
        if identity_of(violation) not in told:
            told[identity_of(violation)] = None
            out += ["", *_explain_one(trace, violation)]
    more = len(violations) - len(told)
    return [*out[1:], *([f"and {more} more of the same kinds"] if more else [])]


def _explain_one(trace: TraceFile, violation: Event) -> list[str]:
    by_index = {event.index: event for event in trace.events}
    chain = chain_of(by_index, violation)
    involved = violation.tasks() + [task for event in reversed(chain) for task in event.tasks()]
    out = [f"{identity_of(violation)} at {instant(violation.at_ns)}: {violation.text('text')}", "how it came to this:"]
    out += _indented([line_of(event) for event in chain], keep_ends=CHAIN_SHOWN)
    faults = [event for event in trace.events if event.kind == "fault" and event.at_ns <= violation.at_ns]
    if faults:
        out.append(f"faults until then{', the last of them' if len(faults) > FAULTS_SHOWN else ''}:")
        out += _indented([f"{instant(event.at_ns):>13}  {fault_of(event)}" for event in faults[-FAULTS_SHOWN:]])
    for task in list(dict.fromkeys(involved))[:TASKS_SHOWN]:
        out += [f"task {task}:", *_indented(life_of(trace.events, task), keep_ends=LIFE_SHOWN)]
    return out


def chain_of(by_index: Mapping[int, Event], event: Event) -> list[Event]:
    """Return the events that led to this one, the first of them first, and it. `by_index`: all events there are."""
    chain = [event]
    while (cause := by_index.get(chain[-1].cause)) is not None and cause.index < chain[-1].index:
        chain.append(cause)
        if cause.kind in _BEGINNINGS:
            break
    return chain[::-1]


def life_of(events: Sequence[Event], task: str) -> list[str]:
    """Return what happened to a task, a line for each step."""
    return [_step(event, task) for event in events if event.kind != "violation" and task in event.tasks()]


def known_tasks(events: Sequence[Event]) -> list[str]:
    """Return the tasks that events are about, in the order they appear."""
    return list(dict.fromkeys(_all_tasks(events)))


def _all_tasks(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        yield from event.tasks()


def _step(event: Event, task: str) -> str:
    """Return the event as a step of one task: of a commit only what it made of this one."""
    if event.kind != "commit":
        return line_of(event)
    tasks, states = event.tasks(), event.texts("states")
    state = state_name(states[tasks.index(task)]) if len(tasks) == len(states) else "changed"
    where = f"{instant(event.at_ns):>13}  {event.process:<8}"
    return f"{where}  is {state} in shard {event.text('shard')}, epoch {event.text('epoch')}"


def _indented(lines: Sequence[str], *, keep_ends: int = LIFE_SHOWN) -> list[str]:
    """Return the lines indented; of many the first few and the last."""
    if len(lines) > keep_ends:
        first = keep_ends // 4
        last = keep_ends - first
        lines = [*lines[:first], f"... {len(lines) - keep_ends} more ...", *lines[-last:]]
    return [f"  {line}" for line in lines]


def differ(first: TraceFile, second: TraceFile, *, context: int = 5) -> list[str]:
    """Return where two runs part, in lines: what they share just before, then either's next event; empty if nowhere."""
    place = next(
        (at for at, (a, b) in enumerate(zip(first.events, second.events, strict=False)) if a != b),
        min(len(first.events), len(second.events)),
    )
    if place == len(first.events) == len(second.events):
        return []
    out = [f"the same up to event {place}" if place else "different from the first event on"]
    out += _indented([line_of(event) for event in first.events[max(place - context, 0) : place]])
    for name, trace in (("A", first), ("B", second)):
        event = trace.events[place] if place < len(trace.events) else None
        out.append(f"{name} {line_of(event)}" if event is not None else f"{name} ends here")
    if place < min(len(first.events), len(second.events)):
        out += _fields_that_differ(first.events[place], second.events[place])
    return out


def _fields_that_differ(first: Event, second: Event) -> list[str]:
    pairs = [(_flat(first).get(name), _flat(second).get(name), name) for name in {**_flat(first), **_flat(second)}]
    return [f"  {name}: {a} in A, {b} in B" for a, b, name in pairs if a != b]


def _flat(event: Event) -> dict[str, object]:
    own = {name: getattr(event, name) for name in event.__struct_fields__ if name != "fields"}
    return {**own, **event.fields}
