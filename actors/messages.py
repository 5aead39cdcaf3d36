"""Every message of the cast: the wire contract.

Structs are frozen, tagged and encoded as arrays. Each names its answers; commands are imperative, answers are facts.
Every message on a hot path is a batch. Instants are wall-clock milliseconds, spans are milliseconds, ids are integers
(`runtime.ids`), payloads and results are opaque msgpack documents which nothing in the control plane opens.
A request that is not carried out is answered with `runtime.bus.Refusal`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from ..runtime.bus import Refusal
from ..runtime.membership import SlotClaimed


class Priority(IntEnum):
    """Lower runs first. Any number from 0 to 9 is a priority; these have names (`medium` is `normal`)."""

    CRITICAL = 0
    HIGH = 2
    NORMAL = 5
    LOW = 8


LOWEST_PRIORITY: Final = 9
Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""An id as somebody from outside names it: whatever fits into a store's column."""


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages and of what they are made of."""


# -- what a task is ----------------------------------------------------------------------------------------------------


class RetryPolicy(Message, frozen=True):
    """Delay before attempt n+1: random in 0..min(cap, base * factor^(n-1)) with full jitter, else exactly that."""

    base_ms: int = 1_000
    factor: float = 2.0
    cap_ms: int = 300_000
    jitter: bool = True
    fatal: tuple[str, ...] = ()  # error type names that are never retried, subclasses included
    retry_on: tuple[str, ...] = ()  # if not empty, only these are retried


class Template(Message, frozen=True):
    """What many tasks have in common: the handler and the policy. Sent once a batch, stored once a shard.

    A span of 0 means no limit.
    """

    handler: str
    queue: str = "default"
    pool: str = "default"
    cost: int = 1  # worker slots one attempt takes
    max_attempts: int = 3
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: int = 300_000  # of one attempt
    wait_timeout_ms: int = 0  # from due to the first start
    total_timeout_ms: int = 0  # from submission to the end
    heartbeat_timeout_ms: int = 0  # between two signs of life of the handler
    cancel_grace_ms: int = 10_000  # cooperative cancellation becomes a kill after this
    delivery: str = "at_least_once"  # at_most_once | at_least_once | exactly_once
    require: tuple[str, ...] = ()  # label requirements, see actors.labels
    prefer: tuple[str, ...] = ()
    key_limit: int = 0  # running at once per concurrency key
    key_rate: int = 0  # starts per concurrency key ...
    key_rate_ms: int = 60_000  # ... within this span
    dead_letter: bool = True  # False: used-up tasks end as failed and are not kept
    dedupe_window_ms: int = 86_400_000
    on_conflict: str = "return_existing"  # return_existing | reject | replace
    max_interruptions: int = 10  # worker deaths before the task is taken for the cause


class Kind(Message, frozen=True):
    """A tenant's template and its id (64-bit hash of both, so every shard finds the same)."""

    tenant: str
    template_id: int
    template: Template


class TaskSpec(Message, frozen=True):
    """One task to submit. `template` is an index into the batch's templates."""

    template: int
    payload: bytes
    due_ms: int = 0  # 0: now
    priority: int = int(Priority.NORMAL)
    key: str = ""  # concurrency key
    dedupe_key: str = ""


class TaskError(Message, frozen=True):
    """Why an attempt failed."""

    type: str
    message: str
    traceback: str = ""


# -- edge: a client and the shards -------------------------------------------------------------------------------------


class SubmitTasks(Message, frozen=True, tag=True):
    """Accept tasks, all in one commit per shard. Answers: TasksSubmitted.

    `request_id`: where not empty, a repetition within 10 minutes is answered as the first time and adds nothing.
    `checked`: the sender made every payload by its handler's signature, so the edge need not look into it.
    """

    tenant: str
    templates: list[Template]
    tasks: list[TaskSpec]
    request_id: str = ""
    checked: bool = False


class TaskRefusal(Message, frozen=True):
    """Why one task of a batch was not accepted. `details`: for a duplicate, the existing `task_id`."""

    position: int
    code: str
    text: str
    existing_id: int = 0


class TasksSubmitted(Message, frozen=True, tag=True):
    """Durable. `ids` by position, 0 where refused; `existing` holds the positions whose id is an older task's. `repeated`:
    the request had been answered before, by its id, and this is that answer."""

    ids: list[int]
    existing: list[int] = []
    refused: list[TaskRefusal] = []
    repeated: bool = False


class InboxEntry(Message, frozen=True):
    """One entry of a shard's inbox. `position` and `stamp` (nanoseconds) are the stream's. `submit`: None where nothing of
    it can be accepted, and it is only to be passed."""

    position: int
    stamp: int
    submit: SubmitTasks | None


class TakeInbox(Message, frozen=True, tag=True):
    """inbox reader → shard. Accept what was submitted one-way, in this order, each entry once: how far the shard has come is
    committed with the tasks. Answers: InboxTaken; Refusal `stale_epoch` where a reader of a later epoch has spoken.

    `stream`: which life of the stream this is; `epoch`: of the reader."""

    epoch: int
    stream: str
    entries: list[InboxEntry]


class InboxTaken(Message, frozen=True, tag=True):
    """Durable: all entries were applied, now or before. `answers`: by index of the entry, those applied now."""

    answers: dict[int, TasksSubmitted | Refusal]


class CancelTasks(Message, frozen=True, tag=True):
    """End tasks before they are done. Answers: TasksAnswered with, by position, `cancelled` (it never started),
    `cancelling` (it runs; its worker was told and kills it after the grace), `ended` (too late), `not_found`."""

    tenant: str
    ids: list[Id]
    reason: str = ""


class RetryTasks(Message, frozen=True, tag=True):
    """Queue ended tasks again, attempts counted anew; `payload` replaces the old one where not None.
    Answers: TasksAnswered with `retried`, `alive` (not ended), `not_found`."""

    tenant: str
    ids: list[Id]
    payload: bytes | None = None


class PurgeTasks(Message, frozen=True, tag=True):
    """Delete ended tasks for good. Answers: TasksAnswered with `purged`, `alive`, `not_found`."""

    tenant: str
    ids: list[Id]


class TasksAnswered(Message, frozen=True, tag=True):
    """What became of a command, one word for each id, by position."""

    outcomes: list[str]


class WatchTasks(Message, frozen=True, tag=True):
    """Wait for tasks to end. Answers: TasksEnded, once all have ended or after `wait_ms` with those that have."""

    tenant: str
    ids: list[Id]
    wait_ms: int


class TaskEnd(Message, frozen=True):
    """How a task ended; `state` 0: no such task."""

    id: int
    state: int
    attempt: int = 0
    result: bytes = b""
    error: TaskError | None = None


class TasksEnded(Message, frozen=True, tag=True):
    """Answers WatchTasks; tasks still alive are missing."""

    ended: list[TaskEnd]


class DescribeTasks(Message, frozen=True, tag=True):
    """Ask what the shard holds in memory about tasks. Answers: TasksDescribed; others are to be read in the store."""

    ids: list[int]


class TaskInMemory(Message, frozen=True):
    """`session`: the lease's holder, if running. `offered`: the queue actor has it."""

    id: int
    state: int
    attempt: int
    due_ms: int
    session: str = ""
    offered: bool = False


class TasksDescribed(Message, frozen=True, tag=True):
    tasks: list[TaskInMemory]


class ReadLedger(Message, frozen=True, tag=True):
    """Ask a shard's counters. Answers: LedgerRead."""


class LedgerEntry(Message, frozen=True):
    """Counts of one tenant and queue. Balanced when accepted = all the others together.

    Finals count tasks that are in that state now, purged ones included."""

    tenant: str
    queue: str
    accepted: int = 0
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    dead: int = 0
    expired: int = 0
    skipped: int = 0
    fired: int = 0  # of those accepted, how many a tick made


class LedgerRead(Message, frozen=True, tag=True):
    entries: list[LedgerEntry]


# -- shard and queue ---------------------------------------------------------------------------------------------------
#
# What a shard tells a queue is numbered: `epoch` is the shard's, `number` counts its messages to that queue, from 1. A queue
# actor ignores what is late or comes twice, and where a number is missing it asks (QueueStarted). What a queue actor tells a
# shard carries which queue actor it is (`epoch` of its slot, then `born_ms`) and the number of its grants; a shard ignores
# an older queue actor, and grants that are late or come twice.


class Lot(Message, frozen=True):
    """References to ready tasks alike in everything but their ids: one kind, priority and concurrency key.

    `ready_ms`: since when each has been due, ascending, parallel to `ids`."""

    kind: Kind
    priority: int
    key: str
    ids: list[int]
    ready_ms: list[int]


class LeasedLot(Message, frozen=True):
    """Running tasks of one kind, priority and key, by worker session: what a queue actor must count as running."""

    kind: Kind
    priority: int
    key: str
    session: str
    ids: list[int]


class OfferTasks(Message, frozen=True, tag=True):
    """shard → queue. Ready tasks within the shard's window; none, to show which number it has come to.
    Offering an id twice is harmless.

    `full`: the answer to QueueStarted, all that is offered and, in `leased`, all that runs. Whatever else the queue believes
    of this shard is over, but for grants under way: `owner` and `granted` are as in ReleaseTasks."""

    shard: int
    lots: list[Lot]
    leased: list[LeasedLot] = []
    epoch: int = 0
    number: int = 0
    full: bool = False
    owner: tuple[int, int] = (0, 0)
    granted: int = 0


class WithdrawTasks(Message, frozen=True, tag=True):
    """shard → queue. Offered tasks that are no longer ready (cancelled, expired)."""

    shard: int
    ids: list[int]
    epoch: int = 0
    number: int = 0


class ReleaseTasks(Message, frozen=True, tag=True):
    """shard → queue. Attempts that ended, or grants the shard refused: they no longer count as running.
    `refused_by_session`: of these, how many credits return to which session, since no body will be sent.

    `owner`: (epoch, born_ms) of the newest queue actor the shard has heard of, `granted`: number of its newest grants. Later
    ones, under way to the shard, are not released by this."""

    shard: int
    ids: list[int]
    refused_by_session: dict[str, int] = {}
    epoch: int = 0
    number: int = 0
    owner: tuple[int, int] = (0, 0)
    granted: int = 0


class GrantLeases(Message, frozen=True, tag=True):
    """queue → shard. Lease these to the worker session, in this order. Answered by ReleaseTasks where refused; not answered
    where a later queue actor, or a later number of this one, has been heard of."""

    queue: str  # the granting queue's address
    session: str
    ids: list[int]
    epoch: int = 0
    born_ms: int = 0
    number: int = 0


class QueueStarted(Message, frozen=True, tag=True):
    """queue → shard. A queue actor began with an empty memory, or has missed something. Answers: OfferTasks that is `full`,
    and from its home shard ConfigureQueue. `number`: of the newest grants it sent; such that come later are void."""

    queue: str  # address
    epoch: int = 0
    born_ms: int = 0
    number: int = 0


class ConfirmLeases(Message, frozen=True, tag=True):
    """queue → shard. These were granted a while ago: do they still run? Answered by ReleaseTasks for those that do not, and
    OfferTasks for those of them that are ready. `number`: as in QueueStarted."""

    queue: str  # address
    ids: list[int]
    epoch: int = 0
    born_ms: int = 0
    number: int = 0


class QueueConfig(Message, frozen=True):
    """Durable settings of one queue. 0 means no limit."""

    pool: str
    queue: str
    concurrency: int = 0  # running at once, in slots
    paused: bool = False
    paused_by: str = ""
    paused_why: str = ""
    paused_at_ms: int = 0
    max_waiting: int = 0  # beyond it submissions are refused as overloaded
    ageing_ms: int = 60_000  # waiting this long raises a task by one priority step; 0: never


class ConfigureQueue(Message, frozen=True, tag=True):
    """edge → home shard (durable), then home shard → queue and every other shard, repeated until answered.
    Answers: QueueConfigured.

    `epoch`, `number`: of the home shard; the highest is the newest. `number` 0: from the edge."""

    config: QueueConfig
    epoch: int = 0
    number: int = 0


class QueueConfigured(Message, frozen=True, tag=True):
    """`number`: of the ConfigureQueue it answers."""

    config: QueueConfig
    number: int = 0


class ReadQueue(Message, frozen=True, tag=True):
    """Ask a queue actor how it stands. Answers: QueueRead."""


class QueueRead(Message, frozen=True, tag=True):
    """`offered` by priority counts what is in the window, not the backlog in the store."""

    config: QueueConfig
    offered: dict[int, int]
    running: int
    free_credits: int
    sessions: int


class ExplainTasks(Message, frozen=True, tag=True):
    """Ask a queue actor why offered tasks do not run. Answers: TasksExplained."""

    ids: list[int]


class Explanation(Message, frozen=True):
    """`reason`: next_in_line | queue_paused | queue_limit | tenant_limit | key_limit | key_rate | no_worker |
    no_matching_worker | no_free_slot | not_offered. `text`: a sentence with the values. `ahead`: tasks before it in its
    own line, -1 if unknown. `retry_at_ms`: when it can run at the earliest, 0 if unknown."""

    id: int
    reason: str
    text: str
    ahead: int = -1
    retry_at_ms: int = 0


class TasksExplained(Message, frozen=True, tag=True):
    tasks: list[Explanation]


# -- tenant ------------------------------------------------------------------------------------------------------------


class TenantConfig(Message, frozen=True):
    """Durable settings of one tenant. 0 means no limit."""

    tenant: str
    weight: int = 1  # share of a contended queue
    rate: int = 0  # tasks admitted ...
    rate_per_ms: int = 60_000  # ... per this span, on average
    burst: int = 0  # bucket size in tasks; 0: `rate`
    max_pending: int = 0  # waiting tasks over all queues
    concurrency: int = 0  # running at once over all queues, in slots


class ConfigureTenant(Message, frozen=True, tag=True):
    """edge → home shard (durable), then home shard → tenant, repeated until answered. Answers: TenantConfigured.

    `epoch`, `number`: as in ConfigureQueue."""

    config: TenantConfig
    epoch: int = 0
    number: int = 0


class TenantConfigured(Message, frozen=True, tag=True):
    """`number`: of the ConfigureTenant it answers."""

    config: TenantConfig
    number: int = 0


class TenantStarted(Message, frozen=True, tag=True):
    """tenant → shard. A tenant actor began with an empty memory, or doubts what it knows. Answers: ReportUsage, and from the
    tenant's home shard ConfigureTenant."""

    tenant: str


class AdmitTasks(Message, frozen=True, tag=True):
    """gateway → tenant. May this many tasks be submitted? Answers: TasksAdmitted, or Refusal `rate_limited` or
    `quota_exceeded`."""

    count: int


class TasksAdmitted(Message, frozen=True, tag=True):
    count: int


class ReportUsage(Message, frozen=True, tag=True):
    """shard → tenant. How many tasks of the tenant the shard holds; absolute, so the next one repairs a lost report.
    `epoch`, `number`: of the shard; the highest is the newest. `full`: answers TenantStarted, and `queues` are those (by
    address, the first few hundred) in which the shard has tasks of the tenant: one of them may hold permits."""

    shard: int
    waiting: int
    running: int
    epoch: int = 0
    number: int = 0
    full: bool = False
    queues: list[str] = []


class WantPermits(Message, frozen=True, tag=True):
    """queue → tenant. How many slots the tenant uses and could use in this queue; absolute. Answers: PermitsGranted,
    at once and again whenever the share changes; none where the queue has the newest already, unless it asks for one.

    `allowed`, `number`, `granted_by`: of the newest PermitsGranted the queue goes by. `step`: slots of the largest task.
    `epoch`, `born_ms`: which queue actor it is; the tenant listens to the newest only. `refresh`: it wants to hear that the
    tenant still knows of its permits, since it may not go by them for long otherwise. `partial`: not every shard has told
    the queue what runs, so it may be more."""

    queue: str  # address
    running: int
    waiting: int
    allowed: int = 0
    number: int = 0
    step: int = 1
    granted_by: int = 0
    epoch: int = 0
    born_ms: int = 0
    refresh: bool = False
    partial: bool = False


class PermitsGranted(Message, frozen=True, tag=True):
    """tenant → queue. At most `allowed` slots of the tenant may run in this queue (-1: no limit).
    `weight`: its share. A limit that is lowered or repeated is acknowledged with WantPermits. `number` grows.
    `epoch`: of the slot the tenant actor lives in; what an older one says is ignored. `confirms`: nothing is new."""

    tenant: str
    allowed: int
    weight: int
    number: int = 0
    epoch: int = 0
    confirms: bool = False


class ReadTenant(Message, frozen=True, tag=True):
    """Answers: TenantRead."""


class TenantRead(Message, frozen=True, tag=True):
    config: TenantConfig
    waiting: int
    running: int
    tokens: int  # admissions left in the bucket at this moment, -1: no limit


# -- workers -----------------------------------------------------------------------------------------------------------


class WorkerCredits(Message, frozen=True, tag=True):
    """session → queue. Absolute, so a lost one is repaired by the next: `free` slots are meant for this queue beyond
    the `seen` bodies received from it so far (cost counted). `refresh`: sent with each heartbeat; the queue then also
    forgets credits it believes under way for longer than a few seconds."""

    session: str
    labels: dict[str, str]
    free: int
    seen: int
    refresh: bool = False


class Body(Message, frozen=True):
    """One attempt to run. `kind` is an index into the message's kinds. `deadline_ms`: of the whole task, 0 if none."""

    id: int
    attempt: int
    kind: int
    payload: bytes
    priority: int = 5
    key: str = ""
    deadline_ms: int = 0
    checkpoint: bytes = b""
    schedule: str = ""  # the schedule whose tick made the task
    tick_ms: int = 0  # the moment that tick names


class RunTasks(Message, frozen=True, tag=True):
    """shard → session. Leases granted to the session, durable. Answered in time by ReportOutcomes."""

    shard: int
    kinds: list[Kind]
    bodies: list[Body]


class OutcomeKind(IntEnum):
    COMPLETED = 1
    FAILED = 2
    TIMED_OUT = 3
    CANCELLED = 4
    RETURNED = 5  # never started; the attempt is not spent
    INTERRUPTED = 6  # started, then stopped by a drain or recycle; the attempt is not spent


class Outcome(Message, frozen=True):
    """How an attempt ended. The first outcome of an attempt wins; later ones and those of other attempts are refused.

    `retry_after_ms`: chosen by the handler, -1: by policy. `fatal`: not to be retried. `killed`: it had to be."""

    id: int
    attempt: int
    kind: int
    started_ms: int
    ended_ms: int
    result: bytes = b""
    error: TaskError | None = None
    retry_after_ms: int = -1
    fatal: bool = False
    killed: bool = False


class ReportOutcomes(Message, frozen=True, tag=True):
    """session → shard. Answers: OutcomesTaken; repeated until answered."""

    session: str
    outcomes: list[Outcome]


class OutcomesTaken(Message, frozen=True, tag=True):
    """Durable. `stale`: positions refused because the attempt is not, or no longer, that session's."""

    stale: list[int] = []


class CancelAttempts(Message, frozen=True, tag=True):
    """shard → session. Stop these attempts: cooperatively, then by force after their template's grace.

    `reason`: cancelled | lease_lost | timed_out."""

    ids: list[int]
    attempts: list[int]
    reason: str = "cancelled"


class HeldLeases(Message, frozen=True, tag=True):
    """session → shard, with each heartbeat. All attempts of this shard the session has or is about to report. The body of a
    lease that is missing here is sent again; one older than two heartbeats was lost, and is queued again."""

    session: str
    ids: list[int]
    attempts: list[int]


class TellHeld(Message, frozen=True, tag=True):
    """shard → session, now and then while the session has leases of it. A session that got none of them on their way would
    not know that it owes this shard an account. Answers: HeldLeases with the next heartbeats."""

    shard: int


class LogChunk(Message, frozen=True):
    """Captured lines of one attempt: UTF-8 text, `part` counts from 0."""

    id: int
    attempt: int
    part: int
    text: bytes


class AppendLogs(Message, frozen=True, tag=True):
    """session → shard. Lossy: not answered."""

    session: str
    chunks: list[LogChunk]


class Progress(Message, frozen=True):
    """`permille`: 0..1000, -1: not told. `checkpoint` is handed to the next attempt; None: keep the one before."""

    id: int
    attempt: int
    permille: int
    note: str
    checkpoint: bytes | None = None


class ReportProgress(Message, frozen=True, tag=True):
    """session → shard. Lossy but for the last one of an attempt, which the worker repeats with the outcome."""

    session: str
    items: list[Progress]


class Heartbeat(Message, frozen=True, tag=True):
    """session → its worker actor, every `interval_ms`, the first one registers. Not answered."""

    session: str
    worker: str  # name people see
    pid: int
    host: str
    labels: dict[str, str]
    queues: list[str]  # addresses served
    slots: int
    running: int
    done: int  # attempts ended since the session began, by its own count
    interval_ms: int
    started_ms: int
    draining: bool = False


class WorkerLeft(Message, frozen=True, tag=True):
    """session → its worker actor. A clean goodbye: nothing is held any more."""

    session: str


class WatchSession(Message, frozen=True, tag=True):
    """shard → worker actor. Tell me when the session ends. Answered by SessionEnded, at once if it has."""

    shard: str  # address


class SessionEnded(Message, frozen=True, tag=True):
    """worker actor → shards that watch and queues it served. Its leases are void."""

    session: str
    reason: str  # left | silent


class ReadWorker(Message, frozen=True, tag=True):
    """Answers: WorkerRead."""


class WorkerRead(Message, frozen=True, tag=True):
    """`state`: alive | draining | silent."""

    heartbeat: Heartbeat
    state: str
    heard_ms: int


ShardMessage = (
    SubmitTasks | CancelTasks | RetryTasks | PurgeTasks | WatchTasks | DescribeTasks | ReadLedger | GrantLeases
    | QueueStarted | ConfirmLeases | ConfigureQueue | QueueConfigured | ConfigureTenant | TenantConfigured | TenantStarted
    | ReportOutcomes | HeldLeases | AppendLogs | ReportProgress | SessionEnded | SlotClaimed | TakeInbox
)  # fmt: skip
QueueMessage = (
    OfferTasks | WithdrawTasks | ReleaseTasks | ConfigureQueue | ReadQueue | ExplainTasks | WorkerCredits | SessionEnded
    | PermitsGranted
)  # fmt: skip
TenantMessage = ConfigureTenant | AdmitTasks | ReportUsage | WantPermits | ReadTenant
WorkerMessage = Heartbeat | WorkerLeft | WatchSession | ReadWorker
SessionMessage = RunTasks | CancelAttempts | OutcomesTaken | TellHeld
