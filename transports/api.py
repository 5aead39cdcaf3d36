"""The edge's own messages: what a client asks beyond the shard messages of `actors.messages`, and every answer.

Submitting, cancelling, retrying, purging and watching travel as the shard messages themselves; what is asked of schedules is
in `schedule_api`. All of them are `msgspec` structs, tagged, encoded as arrays in msgpack behind one byte that names the
version of this protocol. A request that was not carried out is answered with `runtime.bus.Refusal`, whose layout never
changes between versions. An empty `tenant` in a question means all tenants; commands always name one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..actors.messages import (
    CancelTasks,
    Id,
    Message,
    PurgeTasks,
    QueueConfig,
    QueueConfigured,
    RetryTasks,
    SubmitTasks,
    TaskError,
    TasksAnswered,
    TasksEnded,
    TasksSubmitted,
    Template,
    TenantConfig,
    TenantConfigured,
    WatchTasks,
    WorkerRead,
)
from ..runtime.bus import Refusal
from ..runtime.errors import UsageError
from . import schedule_api as schedules

VERSION: Final = 1


class MalformedError(UsageError):
    """Bytes that are not a message of this protocol."""

    code = "malformed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the message cannot be read: {reason}; expected a version byte, then a tagged msgpack array")
        self.reason = reason


class NotEncodableError(UsageError):
    """A request with a value that cannot travel."""

    code = "not_encodable"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(
            f"{message} cannot be encoded: {reason}; expected texts of Unicode and whole numbers of at most 64 bits"
        )
        self.message = message
        self.reason = reason


class VersionError(UsageError):
    """The peer speaks another version of the protocol."""

    code = "version"

    def __init__(self, theirs: int) -> None:
        super().__init__(
            f"the peer speaks version {theirs} of the protocol, expected {VERSION}; use the same foliot on both sides"
        )
        self.theirs = theirs


# -- questions and commands --------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=True):
    """Ask who listens. Answers: Welcome."""

    client: str = ""


class GetTasks(Message, frozen=True, tag=True):
    """Read tasks with all that hangs on them. Answers: TasksFound."""

    tenant: str
    ids: list[Id]


class ListTasks(Message, frozen=True, tag=True):
    """Newest first, without payloads; `before`: ids below this one only. Answers: TasksListed."""

    tenant: str = ""
    states: list[int] = msgspec.field(default_factory=list)
    queue: str = ""
    handler: str = ""
    before: Id = 0
    limit: int = 100


class ReadLogs(Message, frozen=True, tag=True):
    """Captured output; `attempt` 0: of all attempts. Answers: LogsRead."""

    tenant: str
    id: Id
    attempt: int = 0


class WhyTasks(Message, frozen=True, tag=True):
    """Why do these tasks not run? Answers: WhyRead."""

    tenant: str
    ids: list[Id]


class ListQueues(Message, frozen=True, tag=True):
    """Answers: QueuesListed."""


class SetQueue(Message, frozen=True, tag=True):
    """Change what is not None of a queue's settings. Answers: QueueConfigured."""

    queue: str
    pool: str = "default"
    concurrency: int | None = None
    max_waiting: int | None = None
    ageing_ms: int | None = None
    paused: bool | None = None
    by: str = ""
    why: str = ""


class ListWorkers(Message, frozen=True, tag=True):
    """Answers: WorkersListed."""


class ListTenants(Message, frozen=True, tag=True):
    """Answers: TenantsListed."""


class SetTenant(Message, frozen=True, tag=True):
    """Change what is not None of a tenant's settings. Answers: TenantConfigured."""

    tenant: str
    weight: int | None = None
    rate: int | None = None
    rate_per_ms: int | None = None
    burst: int | None = None
    max_pending: int | None = None
    concurrency: int | None = None


class Verify(Message, frozen=True, tag=True):
    """Do the ledgers agree? Answers: LedgerVerified."""


class ReadStats(Message, frozen=True, tag=True):
    """Answers: StatsRead."""


class ListMembers(Message, frozen=True, tag=True):
    """Which nodes are there? Answers: MembersListed."""


class DrainMember(Message, frozen=True, tag=True):
    """Have a node of the cluster hand over its slots and end. Answers: MemberDraining, at once."""

    name: str
    why: str = ""


# -- answers -----------------------------------------------------------------------------------------------------------


class HandlerView(Message, frozen=True):
    """A handler that is known by name: what its tasks have in common."""

    template: Template
    priority: int


class Welcome(Message, frozen=True, tag=True):
    """`product`: the version of foliot; `started_ms`: since when this gateway has been there. `handlers`: those that
    tasks may name; empty where any name may be known to some worker."""

    version: int
    product: str
    shards: int
    started_ms: int
    now_ms: int
    handlers: list[HandlerView] = msgspec.field(default_factory=list)


class AttemptView(Message, frozen=True):
    """An attempt that did not complete.

    `outcome`: failed | timed_out | cancelled | returned | interrupted | worker_died."""

    attempt: int
    outcome: str
    session: str
    started_ms: int
    ended_ms: int
    error: TaskError | None = None


class TaskView(Message, frozen=True):
    """A task as people see it. Instants of 0 have not come. Where tasks are listed, `payload` and `result` are empty,
    and so is the history."""

    id: int
    tenant: str
    handler: str
    queue: str
    pool: str
    state: int
    priority: int
    attempt: int
    spent: int
    max_attempts: int
    created_ms: int
    due_ms: int
    updated_ms: int
    started_ms: int
    ended_ms: int
    key: str = ""
    dedupe_key: str = ""
    session: str = ""
    is_cancelling: bool = False
    payload: bytes = b""
    result: bytes = b""
    error: TaskError | None = None
    attempts: list[AttemptView] = msgspec.field(default_factory=list)
    permille: int = -1
    note: str = ""
    progress_at_ms: int = 0


class TasksFound(Message, frozen=True, tag=True):
    """In the order asked; missing ones are left out."""

    tasks: list[TaskView]


class TasksListed(Message, frozen=True, tag=True):
    """`next_before`: where the next page begins, 0 at the end."""

    tasks: list[TaskView]
    next_before: int


class LogPart(Message, frozen=True):
    attempt: int
    text: bytes


class LogsRead(Message, frozen=True, tag=True):
    parts: list[LogPart]


class Why(Message, frozen=True):
    """`reason`: a word of `actors.messages.Explanation`, or scheduled | retrying | running | ended | blocked |
    awaiting_approval | no_queue | not_found. `ahead`: -1 if unknown; `retry_at_ms`: 0 if unknown."""

    id: int
    state: int
    reason: str
    text: str
    ahead: int = -1
    retry_at_ms: int = 0


class WhyRead(Message, frozen=True, tag=True):
    """One for each id, by position."""

    tasks: list[Why]


class QueueView(Message, frozen=True):
    """`is_live`: an actor answers for it at this moment. `waiting` is the whole backlog over all tenants, timers
    included; `offered` by priority is only what the queue actor holds in its window."""

    config: QueueConfig
    is_live: bool
    waiting: int
    running: int
    offered: dict[int, int] = msgspec.field(default_factory=dict)
    free_credits: int = 0
    sessions: int = 0


class QueuesListed(Message, frozen=True, tag=True):
    queues: list[QueueView]


class WorkersListed(Message, frozen=True, tag=True):
    workers: list[WorkerRead]


class TenantView(Message, frozen=True):
    """`tokens`: admissions left at this moment, -1: no limit or not known."""

    config: TenantConfig
    is_live: bool
    waiting: int
    running: int
    tokens: int = -1


class TenantsListed(Message, frozen=True, tag=True):
    tenants: list[TenantView]


class LedgerLine(Message, frozen=True):
    """The ledger of one tenant and queue: `waiting` and `running` by recount, the rest by the store's counters.

    Since `LedgerVerified.since_ms`: `stored` tasks were accepted by the store's counters, `fired` of them made by ticks and
    never seen by the edge, `edge` by the edge's, and `unsettled` there have no known outcome (under way, or unanswered in
    time). `completed_since` by the counters
    is at most `done`, the completions at workers, which is -1 where no workers are known."""

    tenant: str
    queue: str
    accepted: int
    waiting: int
    running: int
    completed: int
    failed: int
    cancelled: int
    dead: int
    expired: int
    skipped: int
    stored: int
    edge: int
    unsettled: int
    completed_since: int = 0
    done: int = -1
    fired: int = 0


class Difference(Message, frozen=True):
    """Two figures that do not agree. `text`: a sentence with both."""

    tenant: str
    queue: str
    what: str
    expected: int
    found: int
    text: str


class LedgerVerified(Message, frozen=True, tag=True):
    """`balanced`: no differences. Counters, recount and the sum of states are compared exactly, in one snapshot; edge
    and worker counts run on meanwhile, so they are compared as bounds, which close when nothing is under way."""

    balanced: bool
    lines: list[LedgerLine]
    differences: list[Difference]
    since_ms: int


class Tally(Message, frozen=True):
    """How many tasks of a tenant wait and run in a queue at this moment, as the shards hold it in memory."""

    tenant: str
    queue: str
    accepted: int
    waiting: int
    running: int


class StatsRead(Message, frozen=True, tag=True):
    """`figures`: what the node tells about itself, by name."""

    now_ms: int
    since_ms: int
    shards: int
    tallies: list[Tally]
    figures: dict[str, float]


class MemberView(Message, frozen=True):
    """A node. `state`: up | draining | silent (it is a member and does not answer). `shards`: those it hosts. `skew_ms`: its
    clock against the store's. `figures`: what it measured of itself."""

    name: str
    state: str
    host: str = ""
    pid: int = 0
    product: str = ""
    since_ms: int = 0
    shards: list[int] = msgspec.field(default_factory=list)
    skew_ms: int = 0
    figures: dict[str, float] = msgspec.field(default_factory=dict)


class MembersListed(Message, frozen=True, tag=True):
    """By name. `shards`: how many there are; those that no member hosts are just being moved, or lost their node."""

    shards: int
    members: list[MemberView]


class MemberDraining(Message, frozen=True, tag=True):
    name: str


Request = (
    SubmitTasks | CancelTasks | RetryTasks | PurgeTasks | WatchTasks | Hello | GetTasks | ListTasks | ReadLogs
    | WhyTasks | ListQueues | SetQueue | ListWorkers | ListTenants | SetTenant | Verify | ReadStats
    | ListMembers | DrainMember | schedules.ScheduleRequest
)  # fmt: skip
Answer = (
    TasksSubmitted | TasksAnswered | TasksEnded | Welcome | TasksFound | TasksListed | LogsRead | WhyRead
    | QueuesListed | QueueConfigured | WorkersListed | TenantsListed | TenantConfigured | LedgerVerified | StatsRead
    | MembersListed | MemberDraining | schedules.EdgeAnswer | Refusal
)  # fmt: skip

_PREFIX: Final = bytes((VERSION,))
_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def encode(message: Any) -> bytes:
    """Return the bytes of a request or an answer: the version byte, then its msgpack."""
    return _PREFIX + _encode(message)


def encode_request(message: Any) -> bytes:
    """Return the bytes of a request. Raises: NotEncodableError."""
    try:
        return encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotEncodableError(type(message).__name__, str(error)) from error


def decode_request(data: bytes | memoryview) -> Any:
    """Return the `Request` of these bytes. Raises: VersionError, MalformedError."""
    return _decoded(_decode_request, data)


def decode_answer(data: bytes | memoryview) -> Any:
    """Return the `Answer` of these bytes. Raises: VersionError, MalformedError."""
    return _decoded(_decode_answer, data)


def _decoded(decode: Any, data: bytes | memoryview) -> Any:
    if not data:
        raise MalformedError("it is empty")
    if data[0] != VERSION:
        raise VersionError(data[0])
    try:
        return decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)) from error
