"""What an observer of a run sees: the observations that invariants are checked on.

They are made at the edges of the simulated world (the store, the clients, the handlers, the processes), never by the
code under test. `at_ns` is simulated time; instants named `_ms` are wall-clock readings of the machine in question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..actors.messages import Kind, LedgerEntry, TaskSpec
from ..actors.rows import ShardChanges, TaskRow
from ..actors.schedule_messages import ScheduleSpec


class Observation(msgspec.Struct, frozen=True):
    """The base. `at_ns`: when."""

    at_ns: int


class Claimed(Observation, frozen=True):
    """A node became owner of a shard: the store raised the epoch."""

    shard: int
    epoch: int
    process: str
    boot: int  # how often the process has started, from 1


class Committed(Observation, frozen=True):
    """The store made the rows of one turn durable. `now_ms`: the wall clock of the node that asked for it, when it did.
    `kinds`: all kinds of tasks known so far, by template id."""

    shard: int
    epoch: int
    process: str
    boot: int
    now_ms: int
    changes: ShardChanges
    kinds: dict[int, Kind]


class TakenBack(Observation, frozen=True):
    """Power was lost and with it commits that had returned: `count` of them, the newest."""

    count: int


class Retained(Observation, frozen=True):
    """Retention deleted ended tasks."""

    ids: list[int]


class Submitted(Observation, frozen=True):
    """A client's submission is over. `outcome`: ok, refused, or unknown (no answer came; it may have happened).
    Parallel lists: `specs`; `ids` (0 where refused or unknown); `existing`: whether the id is an older task's."""

    asked_ns: int
    client: str
    tenant: str
    outcome: str
    kinds: list[Kind]  # parallel to specs
    specs: list[TaskSpec]
    ids: list[int]
    existing: list[bool]


class Commanded(Observation, frozen=True):
    """A client's command on one task is over. `command`: cancel, retry. `word`: the answer (`cancelled`, `cancelling`,
    `ended`, `retried`, `alive`, `not_found`), empty where the outcome is refused or unknown."""

    asked_ns: int
    client: str
    command: str
    id: int
    outcome: str
    word: str


class Configured(Observation, frozen=True):
    """A setting was changed. `what`: queue or tenant; `limits`: the fields that were set, by name, as asked for."""

    asked_ns: int
    client: str
    what: str
    name: str
    outcome: str
    limits: dict[str, int]


class ScheduleAsked(Observation, frozen=True):
    """A client asks something of a schedule: from now on it may happen, at any time until there is an answer, and at any
    time at all if there is none. `command`: put, pause, resume, trigger, delete, backfill, calendar; `missed`, `overlap`: as
    asked for; `spec`: of a put."""

    number: int  # of the request, from 1
    client: str
    tenant: str
    name: str
    command: str
    missed: str = ""
    overlap: str = ""
    spec: ScheduleSpec | None = None


class ScheduleTold(Observation, frozen=True):
    """What the client was told. `outcome`: ok, refused, or unknown; `word`: of `actors.schedule_messages`, empty unless ok;
    `id`: of the task of a trigger, or of the backfill that was started, else 0."""

    number: int
    outcome: str
    word: str = ""
    id: int = 0


class BodyStarted(Observation, frozen=True):
    """A handler began to run."""

    process: str
    boot: int
    session: str
    id: int
    attempt: int
    kind: Kind
    priority: int
    key: str


class BodyEnded(Observation, frozen=True):
    """A handler ended. `how`: ok, raised, cancelled, or lost (its process died)."""

    process: str
    boot: int
    id: int
    attempt: int
    how: str


class Effect(Observation, frozen=True):
    """A handler called the outside world, which keeps only the first effect of a (task, number) under the newest attempt
    token. `accepted`: whether it did."""

    process: str
    id: int
    attempt: int
    number: int
    accepted: bool


class Delivered(Observation, frozen=True):
    """A message entered an actor's mailbox. `number`: counts what this sender sent to this address, from 1."""

    address: str
    process: str
    sender: str
    sender_process: str
    number: int
    depth: int  # messages in the mailbox, this one included
    capacity: int


class ProcessChanged(Observation, frozen=True):
    """`what`: started, killed, powered_off, stopped (it left by itself), paused, resumed."""

    process: str
    boot: int
    what: str


class ClockChanged(Observation, frozen=True):
    machine: str
    by_ms: int


class Trouble(Observation, frozen=True):
    """Something nobody handled. `what`: the kind (an exception's class name, or an event that was logged as an error);
    `text`: for people only."""

    process: str
    what: str
    text: str


class LeftBehind(Observation, frozen=True):
    """A process stopped by itself and left something. `what`: task, timer, binding."""

    process: str
    what: str
    name: str


class Healed(Observation, frozen=True):
    """The faults are over: from here on everything has to end within `within_ms`."""

    within_ms: int


class Reason(msgspec.Struct, frozen=True):
    """Why a task is not over, in words, as far as the system itself can tell."""

    id: int
    text: str


class Final(Observation, frozen=True):
    """The end of a run, read from the store and from what still lives."""

    rows: list[TaskRow]
    kinds: dict[int, Kind]
    attempts: dict[int, list[tuple[int, int]]]  # task id → (attempt, outcome kind) of those that did not complete
    counters: list[LedgerEntry]
    recount: list[LedgerEntry]
    epochs: dict[int, int]
    owners: dict[int, list[str]]  # shard → processes that host it
    queues: dict[str, tuple[int, int]]  # address → (running slots, waiting) as the queue actor believes
    purged: int
    reasons: list[Reason]
    schedules: dict[int, tuple[int, int, bytes]] = {}  # id → (revision, next_ms, state)
    ticks: dict[tuple[int, int, int], tuple[int, int]] = {}  # (schedule, tick_ms, source) → (task, outcome)


class Violation(msgspec.Struct, frozen=True):
    """An invariant does not hold. Its identity is `oracle:kind`; `subject` names the task or shard, `text` is for people."""

    oracle: str
    kind: str
    at_ns: int
    subject: str
    text: str

    @property
    def identity(self) -> str:
        return f"{self.oracle}:{self.kind}"


class Oracle:
    """One invariant, checked as the run goes on. Sees every observation in order, then the end."""

    name = ""
    kinds: tuple[type[Observation], ...] | None = None
    """The observations it wants to see; None: all."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def see(self, seen: Observation) -> None:
        """Take one observation."""

    def steps_for(self, kind: type[Observation]) -> list[Callable[[Any], None]]:
        """Return what `see` calls for an observation of that kind, in order. What several oracles share, and name alike
        here, is called once for all of them."""
        return [self.see] if self.kinds is None or kind in self.kinds else []

    def end(self, final: Final) -> None:
        """Take the end of the run."""

    def violated(self, kind: str, at_ns: int, subject: Any, text: str) -> None:
        """Note a violation; each kind is kept for a subject once, and at most a hundred in all."""
        name = str(subject)
        if len(self.violations) < 100 and not any((v.kind, v.subject) == (kind, name) for v in self.violations):
            self.violations.append(Violation(self.name, kind, at_ns, name, text))
