"""What an entry of an inbox comes to: the part its own shard accepts, the parts of others, and how all of it is counted.

Checked as any submission at the edge is; tasks that cannot be accepted are left out, and told of together.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...actors.messages import SubmitTasks, TasksSubmitted
from ...runtime.errors import UsageError
from ..admission import EdgeLimits, InvalidOptionError, check_batch, check_tasks
from ..entrance import EdgeCount
from .mail import Decode, named, parts_of, submit_of, tenant_of
from .port import Entry


class Incoming:
    """An entry that was read. `own`: what its shard accepts, None if nothing; `elsewhere`: parts by other shards."""

    __slots__ = ("elsewhere", "entry", "own")

    def __init__(self, entry: Entry, own: SubmitTasks | None, elsewhere: dict[int, SubmitTasks]) -> None:
        self.entry = entry
        self.own = own
        self.elsewhere = elsewhere

    @property
    def tenant(self) -> str:
        return tenant_of(self.entry)

    @property
    def tasks(self) -> int:
        """How many tasks it asks for."""
        own = len(self.own.tasks) if self.own is not None else 0
        return own + sum(len(part.tasks) for part in self.elsewhere.values())

    def postpone(self, due_ms: int) -> None:
        """Have its tasks fall due at that instant at the earliest."""
        if self.own is not None:
            self.own = _postponed(self.own, due_ms)
        self.elsewhere = {shard: _postponed(part, due_ms) for shard, part in self.elsewhere.items()}

    def refuse(self) -> None:
        """Accept nothing of it; its shard only passes it."""
        self.own = None
        self.elsewhere = {}


def incoming(
    entry: Entry, shard: int, slots: int, *, decode: Decode, now_ms: int, limits: EdgeLimits
) -> tuple[Incoming, UsageError | None]:
    """Return what an entry comes to in its shard, and what was wrong with some of its tasks. Raises: UsageError if nothing
    of it can be accepted."""
    submit = submit_of(entry, decode)
    check_batch(submit, limits)
    _, refused, _ = check_tasks(submit, now_ms=now_ms, limits=limits)
    problem: UsageError | None = None
    if refused:
        first = refused[0]
        places = [refusal.position for refusal in refused]
        problem = InvalidOptionError(f"{len(refused)} of {len(submit.tasks)} tasks, the first", first.position, first.text)
        if len(refused) == len(submit.tasks):
            raise problem
        skip = dict.fromkeys(places)
        good = [spec for position, spec in enumerate(submit.tasks) if position not in skip]
        submit = msgspec.structs.replace(submit, tasks=good)
    parts = {to: named(part, to, slots) for to, part in parts_of(submit, shard, slots).items()}
    return Incoming(entry, parts.pop(shard, None), parts), problem


class Tally:
    """What the readers of a process let in, in the counts that a gateway's edge keeps too; and what they did not, by why.

    `accepted`: tasks; `dropped`: entries set aside or malformed, tasks refused."""

    def __init__(self, counts: dict[tuple[str, str], EdgeCount]) -> None:
        self.accepted = 0
        self.dropped: dict[str, int] = {}
        self._counts = counts

    def drop(self, why: str, count: int = 1) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + count

    def send(self, part: SubmitTasks) -> None:
        """A part is on its way: its outcome is not known."""
        for entry, count in self._each(part, [*range(len(part.tasks))]):
            entry.unsettled += count

    def withdraw(self, part: SubmitTasks) -> None:
        """Nothing was done with a part that was on its way."""
        for entry, count in self._each(part, [*range(len(part.tasks))]):
            entry.unsettled -= count

    def settle(self, part: SubmitTasks, answer: Any, *, is_certain: bool = True) -> None:
        """A shard has answered. What it had answered before was counted then, here or elsewhere, which cannot be told; so it
        stays unsettled. `is_certain`: a refusal means that nothing was done."""
        if not isinstance(answer, TasksSubmitted):
            self.drop(getattr(answer, "code", "refused"), len(part.tasks))
            if not is_certain:
                return
            taken: list[int] = []
        elif answer.repeated:
            return
        else:
            not_new = dict.fromkeys((*answer.existing, *(refusal.position for refusal in answer.refused)))
            taken = [position for position in range(len(part.tasks)) if position not in not_new]
        for entry, count in self._each(part, [*range(len(part.tasks))]):
            entry.unsettled -= count
        for entry, count in self._each(part, taken):
            entry.accepted += count
        self.accepted += len(taken)

    def _each(self, part: SubmitTasks, positions: list[int]) -> list[tuple[EdgeCount, int]]:
        """Return how many of these tasks count where."""
        by_template: dict[int, int] = {}
        for position in positions:
            template = part.tasks[position].template
            by_template[template] = by_template.get(template, 0) + 1
        found = []
        for template, count in by_template.items():
            key = (part.tenant, part.templates[template].queue)
            found.append((self._counts.setdefault(key, EdgeCount()), count))
        return found


def _postponed(part: SubmitTasks, due_ms: int) -> SubmitTasks:
    tasks = [spec if spec.due_ms >= due_ms else msgspec.structs.replace(spec, due_ms=due_ms) for spec in part.tasks]
    return msgspec.structs.replace(part, tasks=tasks)
