"""The balance: what was acknowledged against what became of it, by the product's word and by the witness's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foliot import Client

from .listener import Ends
from .traffic import SCHEDULES, TICK_MS, Book
from .witness import Witness

_SHOWN = 5
_UNTOLD_NS = 15_000_000_000
"""What a node did just before it died, or before others took its shards since it was held still or cut off, may stay untold;
so long, since those last, and since a broker may be held still at the time."""


@dataclass
class Verdict:
    """`lost`: acknowledged and not ended as it had to. `duplicates`: what happened twice. `untold`: ends that no event told,
    since their node died or was taken for dead. `wrong`: a line for each kind of trouble, with some of those it hit."""

    lost: int = 0
    duplicates: int = 0
    untold: int = 0
    wrong: list[str] = field(default_factory=list)

    def add_lost(self, what: str, which: list[str]) -> None:
        self.lost += len(which)
        self._say(what, which)

    def add_duplicates(self, what: str, which: list[str]) -> None:
        self.duplicates += len(which)
        self._say(what, which)

    def _say(self, what: str, which: list[str]) -> None:
        if which:
            self.wrong.append(f"{len(which)} {what}: {', '.join(dict.fromkeys(which[:_SHOWN]))}")


@dataclass
class Seen:
    """What the product said in the end. `states`: by task id; `results`: of the exactly-once tasks; `outcomes`: every
    outcome of theirs that was ever read; `ticks`: the moments in each schedule's history; `ledger`: completed tasks by its
    count; `ended_ns`: by task id, of those that ended."""

    states: Mapping[str, str]
    results: Mapping[str, Any]
    outcomes: Mapping[str, set[tuple[Any, ...]]]
    ticks: Mapping[str, list[int]]
    ledger: int
    balanced: bool
    differences: list[str]
    ended_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Told:
    """What events said of the ends of tasks. `heard`: a reader's who was there all the time; `kept`: all there is;
    `silences_ns`: until when a node could not speak."""

    heard: Ends
    kept: Ends
    silences_ns: list[int]


def judge(book: Book, witness: Witness, seen: Seen, told: Told) -> Verdict:
    """Compare. Nothing here knows how the product works."""
    verdict = Verdict()
    states = seen.states
    verdict.add_lost(
        "acknowledged tasks ended otherwise than they had to",
        [f"{task} is {states.get(task, 'gone')}" for task, may in book.owed.items() if states.get(task) not in may],
    )
    verdict.add_lost(
        "tasks have not ended",
        [task for task, state in states.items() if state in ("queued", "running", "scheduled", "retrying")],
    )
    verdict.add_lost(
        "accepted outcomes of attempts that had no effect",
        [f"{task}: {token}" for task, token in seen.results.items() if token not in witness.done],
    )
    verdict.add_duplicates("tasks whose outcome changed", [task for task, found in seen.outcomes.items() if len(found) > 1])
    verdict.add_duplicates("keys with more than one task", [key for key, ids in book.keys.items() if len(ids) > 1])
    verdict.add_duplicates(
        "attempts that started twice",
        [
            f"{task}: {token}" for task, starts in witness.starts.items()
            for token, count in Counter(start.token for start in starts).items() if count > 1
        ],
    )  # fmt: skip
    at_most = [task for task, may in book.owed.items() if may == {"completed", "dead"}]
    verdict.add_duplicates(
        "at-most-once tasks that started more than once", [task for task in at_most if len(witness.starts.get(task, ())) > 1]
    )
    verdict.add_duplicates("tasks cancelled in time that started", [task for task in book.never if task in witness.starts])
    verdict.add_duplicates(
        "ticks that made more than one task", [at for at, tasks in witness.ticks.items() if len(tasks) > 1]
    )
    for name in SCHEDULES:
        _judge_ticks(name, seen.ticks.get(name, []), witness, verdict)
    _judge_handed(book, witness, states, verdict)
    _judge_events(seen, told, verdict)
    completed = sum(state == "completed" for state in states.values())
    if seen.ledger > completed:
        verdict.add_duplicates("completions beyond the completed tasks", ["by the ledger"] * (seen.ledger - completed))
    if seen.ledger < completed:
        verdict.add_lost("completed tasks the ledger does not count", ["by the rows"] * (completed - seen.ledger))
    if not seen.balanced:
        verdict.wrong.append(f"the ledger does not balance: {'; '.join(seen.differences)}")
    return verdict


def _judge_ticks(name: str, ticks: list[int], witness: Witness, verdict: Verdict) -> None:
    twice = [f"{name}@{at}" for at, count in Counter(ticks).items() if count > 1]
    verdict.add_duplicates("ticks that stand twice in the history", twice)
    if ticks:
        due = range(min(ticks), max(ticks) + 1, TICK_MS)
        verdict.add_lost("ticks that never fired", [f"{name}@{at}" for at in due if at not in set(ticks)])
        verdict.add_lost(
            "ticks whose task never ran", [f"{name}@{at}" for at in ticks if f"{name}@{at}" not in witness.ticks]
        )
    else:
        verdict.add_lost("schedules without ticks", [name])


def _judge_handed(book: Book, witness: Witness, states: Mapping[str, str], verdict: Verdict) -> None:
    """A number that was not confirmed may have been taken, but no more than once either."""
    verdict.add_lost(
        "one-way submissions that did not end as a completed task",
        [
            str(number) for number in book.handed
            if "completed" not in [states.get(task) for task in sorted(witness.handed.get(number, ()))]
        ],
    )  # fmt: skip
    verdict.add_duplicates(
        "one-way submissions that became more than one task",
        [str(number) for number, tasks in witness.handed.items() if len(tasks) > 1],
    )


def _judge_events(seen: Seen, told: Told, verdict: Verdict) -> None:
    untold = []
    for task, at_ns in seen.ended_ns.items():
        if task not in told.kept:
            if any(0 <= until_ns - at_ns <= _UNTOLD_NS for until_ns in told.silences_ns):
                verdict.untold += 1
            else:
                untold.append(task)
    verdict.add_lost("ends that no event told", untold)
    verdict.add_lost("ends that the reader of events did not hear", [task for task in told.kept if task not in told.heard])
    verdict.add_lost(
        "tasks that ended otherwise than events told",
        [task for task, ends in told.kept.items() if seen.states.get(task) not in [state for state, _ in ends]],
    )
    verdict.add_duplicates(
        "tasks that ended more than once, as events told", [task for task, ends in told.heard.items() if len(ends) > 1]
    )


async def look(client: Client, outcomes: dict[str, set[tuple[Any, ...]]]) -> None:
    """Note the outcomes of the exactly-once tasks that are over."""
    async for task in client.list(queue="once", states=["completed"]):
        outcomes.setdefault(task.id, set()).add((task.attempt, task.started_at, task.ended_at))


async def read(client: Client, outcomes: dict[str, set[tuple[Any, ...]]]) -> Seen:
    """Ask the product for all it has, when nothing is going on any more."""
    await look(client, outcomes)
    states, ended_ns = {}, {}
    async for task in client.list():
        states[task.id] = task.state
        if task.ended_at is not None:
            ended_ns[task.id] = round(task.ended_at.timestamp() * 1_000) * 1_000_000
    once = [info for info in await client.get_many(list(outcomes)) if info.state == "completed"]
    ticks: dict[str, list[int]] = {}
    for name in SCHEDULES:
        history = [tick async for tick in client.schedules.history(name)]
        ticks[name] = [round(tick.tick.timestamp() * 1000) for tick in history if tick.tick is not None]
    verified = await client.verify()
    return Seen(
        states, {info.id: info.result for info in once}, outcomes, ticks, sum(line.completed for line in verified.lines),
        verified.balanced, [each.text for each in verified.differences], ended_ns,
    )  # fmt: skip
