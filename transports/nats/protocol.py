"""The public protocol: what any program asks of Foliot over NATS, whatever language it is written in.

A request goes to `foliot.v1.<tenant>.<op>`, where the subject alone says which tenant asks. Requests and answers are maps,
in msgpack or JSON; an answer comes in the format of its request. Task ids are texts of 13 characters, instants and spans are
whole milliseconds, payloads and results are documents: any JSON or msgpack value. Fields that are not known are ignored, so
new ones may be added; whatever else changes gets another version. A request that was not carried out is answered with
`Failed`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, field

VERSION: Final = 1
PREFIX: Final = "foliot"
OPERATORS: Final = "$operator"
"""Stands where a tenant is named, in the subject of requests that concern all tenants. No tenant can have this name."""

Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
PoolName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{0,64}$")]
TaskId = Annotated[str, Meta(description="A task's id: 13 characters, upper or lower case.")]
NUMBER_MAX: Final = 1 << 53  # the largest whole number every language holds exactly
Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
InstantMs = Annotated[int, Meta(ge=0, le=NUMBER_MAX, description="Milliseconds since 1970 UTC.")]
SpanMs = Annotated[int, Meta(ge=0, le=NUMBER_MAX, description="Milliseconds.")]
WaitMs = Annotated[int, Meta(ge=-1, le=NUMBER_MAX, description="Milliseconds, or -1.")]
Document = Annotated[Raw, Meta(description="Any value of the format; in JSON, bytes inside are base64.")]
Outcome = Literal["completed", "failed", "timed_out", "cancelled", "returned", "interrupted"]
ATTEMPT_MAX: Final = 1_000_000_000
Attempt = Annotated[int, Meta(ge=1, le=ATTEMPT_MAX)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]


def _nothing() -> Raw:
    """A document that was not given."""
    return Raw(b"")


def edge_subject(prefix: str, tenant: str) -> str:
    """Return where clients of this very version of Foliot ask, by the messages of `transports.api`."""
    return f"{prefix}.v1.{tenant}.edge"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all maps of the protocol."""


class Ask(Part, frozen=True, kw_only=True):
    """The base of all requests."""

    version: int = VERSION


class Error(Part, frozen=True, kw_only=True):
    """Why something was not done. `retry_after_ms`: when the same may pass, -1: never as it is."""

    code: str
    text: str
    retry_after_ms: int = -1
    details: dict[str, str] = field(default_factory=dict)


class Failed(Part, frozen=True, kw_only=True):
    """The answer to a request that was not carried out."""

    error: Error


class Done(Part, frozen=True, kw_only=True):
    """The answer where there is nothing to tell."""

    ok: bool = True


# -- clients -----------------------------------------------------------------------------------------------------------


class Ping(Ask, frozen=True, kw_only=True):
    """Ask who listens. Answers: Pong."""


class Pong(Part, frozen=True, kw_only=True):
    """`max_payload`: bytes of one message, the larger ones are refused."""

    version: int
    product: str
    shards: int
    now_ms: InstantMs
    max_payload: int


class Retries(Part, frozen=True, kw_only=True):
    """The delay before attempt n+1: random in 0..min(cap, base * factor^(n-1)) with jitter, else exactly that."""

    base_ms: SpanMs = 1_000
    factor: float = 2.0
    cap_ms: SpanMs = 300_000
    jitter: bool = True
    fatal: tuple[str, ...] = ()
    retry_on: tuple[str, ...] = ()


class TaskIn(Part, frozen=True, kw_only=True):
    """A task to submit. What is null or not given is as the handler has it, if it is known, else as the manual says.

    `pool`: of the workers, by default the tenant's name. `due_ms`: 0 is now; `delay_ms` counts from now, instead.
    `dedupe_key`: while a task holds it, there is no second one."""

    handler: str
    payload: Document = field(default_factory=_nothing)
    queue: str | None = None
    pool: str | None = None
    priority: Number | None = None
    due_ms: InstantMs = 0
    delay_ms: SpanMs = 0
    key: str = ""
    dedupe_key: str = ""
    on_conflict: Literal["return_existing", "reject", "replace"] | None = None
    cost: Number | None = None
    max_attempts: Number | None = None
    retry: Retries | None = None
    timeout_ms: SpanMs | None = None
    wait_timeout_ms: SpanMs | None = None
    total_timeout_ms: SpanMs | None = None
    cancel_grace_ms: SpanMs | None = None
    delivery: Literal["at_least_once", "at_most_once", "exactly_once"] | None = None
    require: tuple[str, ...] | None = None
    prefer: tuple[str, ...] | None = None
    key_limit: Number | None = None
    key_rate: Number | None = None
    key_rate_ms: SpanMs | None = None
    dead_letter: bool | None = None
    dedupe_window_ms: SpanMs | None = None


class Submit(Ask, frozen=True, kw_only=True):
    """Accept tasks. Answers: Submitted, once they are durable.

    `request_id`: where not empty, a repetition within 10 minutes is answered as the first time and adds nothing."""

    tasks: list[TaskIn]
    request_id: str = ""


class TaskOut(Part, frozen=True, kw_only=True):
    """What became of one task of a submission: an id, or an error. `existing`: an earlier task holds the dedupe key, and the
    id is its."""

    id: TaskId = ""
    existing: bool = False
    error: Error | None = None


class Submitted(Part, frozen=True, kw_only=True):
    """By position. `repeated`: this is the answer to an earlier request of the same id."""

    tasks: list[TaskOut]
    repeated: bool = False


class Get(Ask, frozen=True, kw_only=True):
    """Read tasks with their payloads, results and histories. Answers: Found."""

    ids: list[TaskId]


class Failure(Part, frozen=True, kw_only=True):
    """Why an attempt failed."""

    type: str
    message: str = ""
    traceback: str = ""


class AttemptInfo(Part, frozen=True, kw_only=True):
    """An attempt that did not complete."""

    attempt: int
    outcome: str
    session: str
    started_ms: InstantMs
    ended_ms: InstantMs
    error: Failure | None


class TaskInfo(Part, frozen=True, kw_only=True):
    """A task. Instants of 0 have not come. Where tasks are listed, `payload` and `result` are null and `attempts` is empty.

    `permille`: progress, -1: not told."""

    id: TaskId
    handler: str
    queue: str
    pool: str
    state: str
    priority: int
    attempt: int
    max_attempts: int
    created_ms: InstantMs
    due_ms: InstantMs
    started_ms: InstantMs
    ended_ms: InstantMs
    key: str
    dedupe_key: str
    session: str
    is_cancelling: bool
    payload: Document
    result: Document
    error: Failure | None
    attempts: list[AttemptInfo]
    permille: int
    note: str


class Found(Part, frozen=True, kw_only=True):
    """In the order asked; tasks that are not there are left out."""

    tasks: list[TaskInfo]


class List(Ask, frozen=True, kw_only=True):
    """Newest first; `before`: ids below this one only. Answers: Listed."""

    states: list[str] = field(default_factory=list)
    queue: str = ""
    handler: str = ""
    before: TaskId = ""
    limit: Number = 100


class Listed(Part, frozen=True, kw_only=True):
    """`next_before`: where the next page begins, empty at the end."""

    tasks: list[TaskInfo]
    next_before: TaskId


class Cancel(Ask, frozen=True, kw_only=True):
    """End tasks before they are done. Answers: Answered with `cancelled` (it never started), `cancelling` (it runs, and was
    told), `ended` (too late), `not_found`, `unavailable` (try again)."""

    ids: list[TaskId]
    reason: str = ""


class Retry(Ask, frozen=True, kw_only=True):
    """Queue ended tasks again, their attempts counted anew; `payload` replaces the old ones if given. Answers: Answered with
    `retried`, `alive` (not ended), `not_found`, `unavailable`."""

    ids: list[TaskId]
    payload: Document = field(default_factory=_nothing)


class Answered(Part, frozen=True, kw_only=True):
    """A word for each id, by position."""

    outcomes: list[str]


class Wait(Ask, frozen=True, kw_only=True):
    """Wait for tasks to end. Answers: Ended, once all have, or after `timeout_ms` (60,000 at most) with those that have."""

    ids: list[TaskId]
    timeout_ms: SpanMs = 30_000


class End(Part, frozen=True, kw_only=True):
    """How a task ended; the state is `not_found` if there is none of that id."""

    id: TaskId
    state: str
    attempt: int
    result: Document
    error: Failure | None


class Ended(Part, frozen=True, kw_only=True):
    """`alive`: those that have not ended."""

    ended: list[End]
    alive: list[TaskId]


class Queues(Ask, frozen=True, kw_only=True):
    """How many tasks of the tenant wait and run? Answers: QueuesTold."""


class QueueInfo(Part, frozen=True, kw_only=True):
    """`waiting`: with those whose time has not come. `paused_in`: pools in which the queue is paused."""

    queue: str
    accepted: int
    waiting: int
    running: int
    paused_in: list[str]


class QueuesTold(Part, frozen=True, kw_only=True):
    """The queues in which the tenant has had tasks, by name."""

    queues: list[QueueInfo]


class Events(Part, frozen=True, kw_only=True):
    """What became of some tasks of the tenant, told by one shard once it is durable. Each event is [task id, state before,
    state after, attempt]; the state before is empty for a new task.

    `number`: counts the messages of this shard in this epoch to this tenant, so a gap shows what is missing; a number that
    came before is a repetition."""

    v: int = VERSION
    shard: Count
    epoch: Count
    number: Number
    at_ms: InstantMs
    events: list[tuple[TaskId, str, str, int]]


class Feed(Ask, frozen=True, kw_only=True):
    """Read what became of tasks. Answers: FeedPage, at once if there is something, else after `wait_ms` (30,000 at most).

    `cursor`: of the answer before, to go on; without one, from `since_ms` on, which is 0 for all that is kept, and -1 for
    what comes from now on. `limit`: events, about."""

    cursor: Annotated[str, Meta(max_length=200)] = ""
    since_ms: WaitMs = -1
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 500
    wait_ms: SpanMs = 0


class FeedPage(Part, frozen=True, kw_only=True):
    """`cursor`: to go on with; `start`: to read this page again. `at_end`: nothing more was there. `lost`: the events after
    the cursor given are gone with the stream that kept them."""

    messages: list[Events]
    start: str
    cursor: str
    at_end: bool = False
    lost: bool = False


# -- workers -----------------------------------------------------------------------------------------------------------


class WorkerQueue(Part, frozen=True, kw_only=True):
    """A queue to serve. `pool`: empty is the tenant's own."""

    queue: Name
    pool: PoolName = ""


class Register(Ask, frozen=True, kw_only=True):
    """Begin a session, or go on with `session` at another node. Answers: Registered.

    `slots`: attempts at once; `labels`: what tasks may require."""

    queues: Annotated[list[WorkerQueue], Meta(min_length=1, max_length=64)]
    slots: Annotated[int, Meta(ge=1, le=1_000_000)]
    name: Annotated[str, Meta(max_length=200)] = ""
    host: Annotated[str, Meta(max_length=255)] = ""
    pid: Count = 0
    labels: Annotated[dict[str, Annotated[str, Meta(max_length=200)]], Meta(max_length=64)] = field(default_factory=dict)
    session: str = ""


class Registered(Part, frozen=True, kw_only=True):
    """`subject`: where this session's other requests go, with the operation behind it: `<subject>.credits`. `bodies`: what
    to subscribe to before the first credits. A session that is silent for `dead_after_ms` is over."""

    session: str
    subject: str
    bodies: str
    heartbeat_interval_ms: SpanMs
    dead_after_ms: SpanMs


class QueueCredit(Part, frozen=True, kw_only=True):
    """Absolute: `free` slots are meant for this queue, beyond those of all bodies that came from it in this session, whose
    costs are `seen` together; an attempt that came twice counts once."""

    queue: Name
    free: Count
    seen: Count
    pool: PoolName = ""


class Credits(Ask, frozen=True, kw_only=True):
    """Say what may come, at once when it changes. Answers: Done."""

    session: str
    queues: Annotated[list[QueueCredit], Meta(max_length=64)]


class Held(Part, frozen=True, kw_only=True):
    id: TaskId
    attempt: Attempt


class Beat(Ask, frozen=True, kw_only=True):
    """A sign of life, every `heartbeat_interval_ms`. Answers: Done.

    `held`: all attempts that run, or whose outcomes were not answered; a task missing here twice is queued again.
    `queues`: the credits once more. `done`: attempts ended in this session. `draining`: it takes nothing more."""

    session: str
    queues: Annotated[list[QueueCredit], Meta(max_length=64)] = field(default_factory=list)
    held: Annotated[list[Held], Meta(max_length=65_536)] = field(default_factory=list)
    done: Count = 0
    draining: bool = False


class OutcomeIn(Part, frozen=True, kw_only=True):
    """How an attempt ended. `returned`: it never started, `interrupted`: it was stopped; neither spends the attempt.

    `retry_after_ms`: -1: as the task's policy says. `fatal`: it is not to be retried."""

    id: TaskId
    attempt: Attempt
    outcome: Outcome
    result: Document = field(default_factory=_nothing)
    error: Failure | None = None
    started_ms: InstantMs = 0
    ended_ms: InstantMs = 0
    retry_after_ms: WaitMs = -1
    fatal: bool = False


class Outcomes(Ask, frozen=True, kw_only=True):
    """Report; repeat until answered. Answers: Taken, once it is durable."""

    session: str
    outcomes: Annotated[list[OutcomeIn], Meta(min_length=1, max_length=1_000)]


class Taken(Part, frozen=True, kw_only=True):
    """`stale`: positions of those that were refused, since the attempt is not, or no longer, this session's."""

    stale: list[int]


class Leave(Ask, frozen=True, kw_only=True):
    """Say goodbye; nothing is held any more. Answers: Done."""

    session: str


class TaskBody(Part, frozen=True, kw_only=True):
    """One attempt to run. `deadline_ms`: of the whole task, 0 if there is none; `timeout_ms`: of this attempt.
    `checkpoint`: what an earlier attempt left; `schedule`, `tick_ms`: whose tick made the task, and for which moment."""

    id: TaskId
    attempt: int
    handler: str
    queue: str
    pool: str
    cost: int
    payload: Document
    priority: int
    key: str
    timeout_ms: SpanMs
    deadline_ms: InstantMs
    cancel_grace_ms: SpanMs
    max_attempts: int
    delivery: str
    checkpoint: Document
    schedule: str
    tick_ms: InstantMs


class Push(Part, frozen=True, kw_only=True):
    """What comes at the session's `bodies`, by `kind`; not answered.

    `run`: begin these `tasks`. `cancel`: stop `attempts`, for the `reason` cancelled, lease_lost or timed_out. `ended`: the
    session is over (`reason`), and nothing it holds counts: register anew. `moved`: register again with this session."""

    kind: Literal["run", "cancel", "ended", "moved"]
    tasks: list[TaskBody] = field(default_factory=list)
    attempts: list[Held] = field(default_factory=list)
    reason: str = ""


CALLS: Final[dict[str, tuple[type[Ask], type[Part]]]] = {
    "ping": (Ping, Pong),
    "submit": (Submit, Submitted),
    "get": (Get, Found),
    "list": (List, Listed),
    "cancel": (Cancel, Answered),
    "retry": (Retry, Answered),
    "wait": (Wait, Ended),
    "queues": (Queues, QueuesTold),
    "feed": (Feed, FeedPage),
}
"""Request and answer by operation, at `foliot.v1.<tenant>.<op>`."""

WORKER_CALLS: Final[dict[str, tuple[type[Ask], type[Part]]]] = {
    "worker.register": (Register, Registered),
    "worker.credits": (Credits, Done),
    "worker.heartbeat": (Beat, Done),
    "worker.outcomes": (Outcomes, Taken),
    "worker.leave": (Leave, Done),
}
"""The same for workers. All but the first go to the subject that `Registered` names, without the `worker.`."""
