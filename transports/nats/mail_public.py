"""One-way submissions in the public protocol's own form: the map of `submit`, in msgpack or JSON, as an entry of an inbox.

An entry that is an array is the message of Foliot's own clients instead. An entry of which something cannot be made is
refused as a whole: nobody waits for an answer that could tell of one task. A delay counts from when the broker took it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ...actors.messages import SubmitTasks, TaskSpec, Template
from ..admission import EdgeLimits, InvalidOptionError, TooLargeError
from . import protocol as p
from .mail import decode_submit, tenant_of
from .port import Entry
from .protocol_codec import Codec, Format
from .protocol_views import spec_of

Known = Callable[[], Mapping[str, tuple[Template, int]]]

_SUBMIT: Final = "submit"
_NS_PER_MS: Final = 1_000_000


class PublicMail:
    """Reads entries. `known`: tells handlers' own templates and priorities, by name."""

    def __init__(self, known: Known, limits: EdgeLimits | None = None) -> None:
        self._known = known
        self._limits = limits or EdgeLimits()
        self._codec = Codec({_SUBMIT: p.CALLS[_SUBMIT]})

    def decode(self, entry: Entry) -> SubmitTasks:
        """Return what an entry asks for. Raises: UsageError."""
        form = map_of(entry.data)
        if form is None:
            return decode_submit(entry)
        ask: p.Submit = self._codec.read(_SUBMIT, entry.data, form)
        if not ask.tasks:
            raise InvalidOptionError("tasks", "empty", "at least one task")
        if len(ask.tasks) > self._limits.max_tasks:
            raise TooLargeError("the number of tasks in a batch", len(ask.tasks), self._limits.max_tasks)
        tenant, now_ms, known = tenant_of(entry), entry.stamp // _NS_PER_MS, self._known()
        templates: dict[Template, int] = {}
        tasks: list[TaskSpec] = [
            spec_of(task, tenant, templates, form, now_ms=now_ms, known=known, limits=self._limits) for task in ask.tasks
        ]
        return SubmitTasks(tenant, list(templates), tasks, ask.request_id)


def map_of(data: bytes) -> Format | None:
    """Return the format of a map; None if the bytes are anything else."""
    begin = data.lstrip(b" \t\r\n")[:1]
    if begin == b"{":
        return "json"
    return "msgpack" if begin and (0x80 <= begin[0] <= 0x8F or begin[0] in (0xDE, 0xDF)) else None
