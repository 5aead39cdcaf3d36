"""What rows may become, and whether the books agree with them.

A turn writes one row for a task whatever happened to it meanwhile, so what is seen of a turn is a path of the state table.
Not every path: an outcome can only be of a lease that was durable before, since bodies leave after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...actors.messages import LedgerEntry
from ...actors.states import FIRST_FINAL, TRANSITIONS, State
from ..history import Committed, Observation, Submitted
from ..history import Final as End
from .steps import Step
from .watch import Watch

_RUNNING = int(State.RUNNING)
_BIRTHS: Final = frozenset({int(State.SCHEDULED), int(State.QUEUED), int(State.BLOCKED), int(State.AWAITING_APPROVAL)})
_BY_OUTCOME: Final = frozenset({State.COMPLETED, State.RETRYING})
"""What RUNNING becomes by an outcome only."""


def _paths() -> frozenset[tuple[int, int]]:
    """Return all (before, after) that one turn can lead to. The first step is any of the table; a later one neither ends a
    lease by an outcome nor leaves a final state, since an ended task is read again from the store before anything else."""
    found: set[tuple[int, int]] = set()
    for before in State:
        reached: list[State] = sorted(TRANSITIONS[before])
        for state in reached:  # grows as it goes
            found.add((int(before), int(state)))
            if not state.is_final:
                further = sorted(TRANSITIONS[state])
                reached += [after for after in further if after not in reached and after not in _BY_OUTCOME]
    return frozenset(found)


_PATHS: Final = _paths()


class Legal(Watch):
    """Every change of a row is a path of the state table, and at the end the rows are what the commits made them."""

    name = "legal"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        for task_id, row in self.tasks.strays:
            self.broken("stray", seen.at_ns, task_id, f"has a row in {row!r} that fits no task of the store")
        for step in self.tasks.steps:
            self._check(step, seen)

    def _check(self, step: Step, seen: Committed) -> None:
        task, before, after = step.task, step.before, step.after
        if not before:
            before = step.born
            if before not in _BIRTHS:
                self.broken("birth", seen.at_ns, task.id, f"was made {State(before).label}")
        if task.shard != seen.shard:
            self.broken("shard", seen.at_ns, task.id, f"of shard {task.shard} was changed by shard {seen.shard}")
        if before != after and (before, after) not in _PATHS:
            text = f"went from {State(before).label} to {State(after).label}, which no path of the table does"
            self.broken("transition", seen.at_ns, task.id, text)
        elif before == after >= FIRST_FINAL and not step.purged and not step.revived:
            self.broken("transition", seen.at_ns, task.id, f"was changed though it was {State(after).label}")
        elif step.revived and after >= FIRST_FINAL and task.spent:
            text = f"ended as {State(after).label} though it had ended before, with {task.spent} attempts counted"
            self.broken("ended_twice", seen.at_ns, task.id, text)
        if after == _RUNNING and before != _RUNNING and not step.leased:
            self.broken("unleased", seen.at_ns, task.id, "is running without a lease")
        if step.leased and not task.is_shaken:
            most = max([step.was_attempt, *[attempt for attempt, _ in task.noted]])
            if task.attempt > most + 1:
                text = f"was leased as attempt {task.attempt} after attempt {most}"
                self.broken("attempt", seen.at_ns, task.id, text)

    def end(self, final: End) -> None:
        for row in final.rows:
            task = self.tasks.tasks.get(row.id)
            if task is None or (self.tasks.deadline_ns >= 0 and task.changed_ns > self.tasks.deadline_ns):
                continue  # what goes on while the cluster is stopped comes after the rows were read
            made = (task.state, task.attempt, task.spent, task.interruptions, task.due_ms)
            if made != (row.state, row.attempt, row.spent, row.interruptions, row.due_ms):
                text = f"is stored as {State(row.state).label} in attempt {row.attempt}, but commits left it {made}"
                self.broken("differs", final.at_ns, row.id, text)


class Ledger(Watch):
    """Each commit counts what its rows change, and the counters are the rows in the end."""

    name = "ledger"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._acknowledged: dict[str, dict[int, None]] = {}  # tenant → ids
        return {Committed: self._committed, Submitted: self._submitted}

    def _committed(self, seen: Committed) -> None:
        counted = seen.changes.ledger
        steps = self.tasks.steps
        if not steps and not counted:
            return
        expected: dict[tuple[str, str, str], int] = {}
        fired = {row.task_id for row in seen.changes.ticks}
        for step in steps:
            if not step.before:
                _count(expected, step, "accepted", 1)
                if step.task.id in fired:
                    _count(expected, step, "fired", 1)
            if step.before != step.after or step.revived:
                if step.before >= FIRST_FINAL:
                    _count(expected, step, State(step.before).label, -1)
                if step.after >= FIRST_FINAL:
                    _count(expected, step, State(step.after).label, 1)
        if expected == counted:
            return
        for key in sorted({*expected, *counted}):
            if expected.get(key, 0) != counted.get(key, 0):
                tenant, queue, what = key
                text = (
                    f"a commit of shard {seen.shard} counts {counted.get(key, 0):+} {what} of {tenant}/{queue}, "
                    f"its rows say {expected.get(key, 0):+}"
                )
                self.violated("commit", seen.at_ns, f"{tenant}/{queue}", text)

    def _submitted(self, seen: Submitted) -> None:
        ids = self._acknowledged.setdefault(seen.tenant, {})
        ids.update((task_id, None) for task_id in seen.ids if task_id)

    def _was_lost(self, task_id: int) -> bool:
        return self.bounds.may_lose and task_id in self.tasks.taken_back

    def end(self, final: End) -> None:
        counters = {(entry.tenant, entry.queue): entry for entry in final.counters}
        recount = {(entry.tenant, entry.queue): entry for entry in final.recount}
        for key in sorted({*counters, *recount}):
            left, right = counters.get(key) or LedgerEntry(*key), recount.get(key) or LedgerEntry(*key)
            name = "/".join(key)
            for entry, book in ((left, "counters"), (right, "rows")):
                total = entry.waiting + entry.running + sum(getattr(entry, label) for label in _FINALS)
                if entry.accepted != total:
                    text = f"the {book} of {name} have {entry.accepted} accepted, but {total} in all states"
                    self.violated("unbalanced", final.at_ns, name, text)
            for what in ("accepted", "fired", *_FINALS):
                if getattr(left, what) != getattr(right, what):
                    text = f"{name} counts {getattr(left, what)} {what}, its rows are {getattr(right, what)}"
                    self.violated("recount", final.at_ns, name, text)
        for tenant, ids in sorted(self._acknowledged.items()):
            told = sum(not self._was_lost(task_id) for task_id in ids)
            accepted = sum(entry.accepted for entry in final.counters if entry.tenant == tenant)
            if told > accepted:
                text = f"{told} tasks were acknowledged to {tenant}, its counters accepted {accepted}"
                self.violated("accepted", final.at_ns, tenant, text)


_FINALS: Final = tuple([state.label for state in State if state.is_final])


def _count(counts: dict[tuple[str, str, str], int], step: Step, what: str, by: int) -> None:
    key = (step.task.kind.tenant, step.task.kind.template.queue, what)
    total = counts.get(key, 0) + by
    if total:
        counts[key] = total
    else:
        counts.pop(key, None)
