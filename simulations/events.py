"""Trace files, read and written: a header with the case and what came of it, then events.

Tolerant: kinds and fields that are not known are kept, what is missing is empty. A line that is no event is an error,
since what follows it cannot be trusted. Each violation is an event among the others, its cause the last that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from ..runtime.errors import UsageError
from ..runtime.ids import MAX_ID, to_text
from .case import Case
from .result import Result
from .trace import write_trace

HEADER: Final = "foliot_trace"
"""The field by which a trace file is known; its value is the version of the format."""

FORMAT: Final = 1
_OWN: Final = frozenset(("i", "t", "n", "b", "k", "c"))


class InvalidTraceError(UsageError):
    """A file that holds no trace."""

    code = "invalid_trace"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} holds no trace: {reason}; expected what `foliot sim replay --trace` wrote")
        self.where = where
        self.reason = reason


class Event(msgspec.Struct, frozen=True):
    """One event. `index`: unique, ascending; `cause`: the index of another, -1 for none; `fields`: those of its kind."""

    index: int
    at_ns: int
    process: str
    boot: int
    kind: str
    cause: int
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """Return a field as text, empty if it is not there."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return a field as an integer, 0 if it is none."""
        value = self.fields.get(name)
        return int(value) if isinstance(value, int | float) else 0

    def texts(self, name: str) -> list[str]:
        """Return a field that is a list, as texts."""
        value = self.fields.get(name)
        return [str(each) for each in value] if isinstance(value, list) else []

    def arrivals(self) -> list[tuple[str, int]]:
        """Return who a message was sent to and when it arrives there; -1 if it was lost."""
        instants = self.fields.get("at")
        if not isinstance(instants, list) or self.text("lost"):
            return [(name, -1) for name in self.texts("rx")]
        whole = [at_ns if isinstance(at_ns, int) else -1 for at_ns in instants]
        return [
            (name, -1 if at_ns < 0 else max(at_ns, self.at_ns))  # 0 is at once: within the process
            for name, at_ns in zip(self.texts("rx"), whole, strict=False)
        ]

    def tasks(self) -> list[str]:
        """Return the tasks it is about, as people see their ids."""
        names = [*self.texts("tasks"), *self.texts("ids"), *([self.text("task")] if self.text("task") else [])]
        if self.kind == "violation" and is_task(self.text("subject")):
            names.append(self.text("subject"))
        return list(dict.fromkeys(shown_id(name) for name in names if name not in ("", "0")))


class TraceFile(msgspec.Struct, frozen=True):
    """A run as it was recorded. `header`: what was run and what came of it. `events`: in order of their instants."""

    header: dict[str, Any]
    events: list[Event]

    def violations(self) -> list[Event]:
        return [event for event in self.events if event.kind == "violation"]


def shown_id(name: str) -> str:
    """Return a task's id as people see it, whether it was written so or as an integer."""
    return to_text(int(name)) if name.isdecimal() and len(name) > 13 and int(name) <= MAX_ID else name


def is_task(subject: str) -> bool:
    """Tell whether the subject of a violation is a task's id."""
    return len(shown_id(subject)) == 13 and subject.isalnum() and any(letter.isdecimal() for letter in subject)


def read_trace(data: bytes, *, where: str = "the input") -> TraceFile:
    """Return the trace of these bytes. Raises: InvalidTraceError."""
    first, _, rest = data.partition(b"\n")
    header = _object(first, where, 1)
    if "k" in header:  # no header at all
        return _whole({}, read_events(data.splitlines(), where=where))
    return _whole(header, read_events(rest.splitlines(), where=where, first=2))


def read_events(lines: Iterable[bytes], *, where: str = "the trace", first: int = 1) -> Iterator[Event]:
    """Yield the events of lines. `first`: the number of the first line. Raises: InvalidTraceError."""
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        found = _object(line, where, number)
        own = {name: value for name, value in found.items() if name not in _OWN}
        event = Event(
            index=found.get("i", number),
            at_ns=found.get("t", 0),
            process=str(found.get("n", "")),
            boot=found.get("b", 0),
            kind=str(found.get("k", "")),
            cause=found.get("c", -1),
            fields=own,
        )
        if not all(isinstance(value, int) for value in (event.index, event.at_ns, event.boot, event.cause)):
            raise InvalidTraceError(where, f"line {number} has no integers where its index, time, boot and cause should be")
        yield event


def _whole(header: dict[str, Any], events: Iterable[Event]) -> TraceFile:
    """Return a trace in which the violations that only the header knows are events, and have a cause where one is known."""
    known = list(events)
    if not any(event.kind == "violation" for event in known):
        index = max((event.index for event in known), default=-1)
        for number, fields in enumerate(header.get("violations", []), 1):
            known.append(Event(index + number, fields.get("at_ns", 0), "", 0, "violation", -1, fields))
    known.sort(key=lambda event: event.at_ns)
    return TraceFile(header, [_with_cause(event, known) if event.kind == "violation" else event for event in known])


def _with_cause(violation: Event, events: list[Event]) -> Event:
    """Return the violation with the last event about its task, or its shard, as the cause if it has none."""
    if violation.cause >= 0:
        return violation
    tasks, shard = violation.tasks(), violation.text("subject")
    about = [
        event.index
        for event in events
        if event.kind != "violation" and event.at_ns <= violation.at_ns
        and (any(task in tasks for task in event.tasks()) if tasks else event.text("shard") == shard != "")
    ]  # fmt: skip
    return msgspec.structs.replace(violation, cause=about[-1] if about else -1)


def _object(line: bytes, where: str, number: int) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise InvalidTraceError(where, f"line {number} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InvalidTraceError(where, f"line {number} is no object")
    return found


def trace_of(result: Result) -> TraceFile:
    """Return a run that kept its trace as if it was read from a file."""
    return _whole(header_of(result), read_events(result.lines))


def header_of(result: Result) -> dict[str, Any]:
    return {
        HEADER: FORMAT,
        "seed": result.case.seed,
        "profile": result.case.profile,
        "digest": result.digest,
        "virtual_ms": result.virtual_ms,
        "violations": [msgspec.to_builtins(each) for each in result.violations],
        "case": msgspec.to_builtins(result.case),
    }


def encode_trace(result: Result) -> bytes:
    """Return the trace file of a run that kept its trace."""
    return write_trace(header_of(result), result.lines)


def case_of(trace: TraceFile) -> Case | None:
    """Return the case that a trace is of, if it says so."""
    try:
        return msgspec.convert(trace.header.get("case"), Case)
    except msgspec.ValidationError:
        return None
