"""The balance: what was acknowledged against what became of it, by the product's word and by the witness's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foliot import Client

from .traffic import SCHEDULES, TICK_MS, Book
from .witness import Witness

_SHOWN = 5


@dataclass
class Verdict:
    """`lost`: acknowledged and not ended as it had to. `duplicates`: what happened twice. `wrong`: a line for each kind of
    trouble, with some of those it hit."""

    lost: int = 0
    duplicates: int = 0
    wrong: list[str] = field(default_factory=list)

    def add_lost(self, what: str, which: list[str]) -> None:
        self.lost += len(which)
        self._say(what, which)

    def add_duplicates(self, what: str, which: list[str]) -> None:
        self.duplicates += len(which)
        self._say(what, which)

    def _say(self, what: str, which: list[str]) -> None:
        if which:
            self.wrong.append(f"{len(which)} {what}: {', '.join(which[:_SHOWN])}")


@dataclass
class Seen:
    """What the product said in the end. `states`: by task id; `results`: of the exactly-once tasks; `outcomes`: every
    outcome of theirs that was ever read; `ticks`: the moments in each schedule's history; `ledger`:
    completed tasks by its count."""

    states: Mapping[str, str]
    results: Mapping[str, Any]
    outcomes: Mapping[str, set[tuple[Any, ...]]]
    ticks: Mapping[str, list[int]]
    ledger: int
    balanced: bool
    differences: list[str]


def judge(book: Book, witness: Witness, seen: Seen) -> Verdict:
    """Compare. Nothing here knows how the product works."""
    verdict = Verdict()
    states = seen.states
    verdict.add_lost(
        "acknowledged tasks ended otherwise than they had to",
        [f"{task} is {states.get(task, 'gone')}" for task, may in book.owed.items() if states.get(task) not in may],
    )
    verdict.add_lost(
        "tasks have not ended", [task for task, state in states.items() if state in ("queued", "running", "scheduled")]
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
    completed = sum(state == "completed" for state in states.values())
    if seen.ledger > completed:
        verdict.add_duplicates("completions beyond the completed tasks", [""] * (seen.ledger - completed))
    if seen.ledger < completed:
        verdict.add_lost("completed tasks the ledger does not count", [""] * (completed - seen.ledger))
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


async def look(client: Client, outcomes: dict[str, set[tuple[Any, ...]]]) -> None:
    """Note the outcomes of the exactly-once tasks that are over."""
    async for task in client.list(queue="once", states=["completed"]):
        outcomes.setdefault(task.id, set()).add((task.attempt, task.started_at, task.ended_at))


async def read(client: Client, outcomes: dict[str, set[tuple[Any, ...]]]) -> Seen:
    """Ask the product for all it has, when nothing is going on any more."""
    await look(client, outcomes)
    states = {task.id: task.state async for task in client.list()}
    once = [info for info in await client.get_many(list(outcomes)) if info.state == "completed"]
    ticks: dict[str, list[int]] = {}
    for name in SCHEDULES:
        history = [tick async for tick in client.schedules.history(name)]
        ticks[name] = [round(tick.tick.timestamp() * 1000) for tick in history if tick.tick is not None]
    verified = await client.verify()
    return Seen(
        states, {info.id: info.result for info in once}, outcomes, ticks, sum(line.completed for line in verified.lines),
        verified.balanced, [each.text for each in verified.differences],
    )  # fmt: skip
