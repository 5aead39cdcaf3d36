"""A case: everything a simulated run does, as data.

A seed is expanded once (`simulations.plan`) into options, a list of faults and a list of work; the run executes these lists
and nothing else. So a case can be stored, replayed without its seed, and shrunk by taking entries away. Instants are
milliseconds of simulated time since the run began, spans are milliseconds; names are those of `Options`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..runtime.errors import UsageError

FORMAT: Final = 1


class _Part(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The base of everything a case is made of."""


# -- faults: each begins at `at_ms`; those with `for_ms` end by themselves ------------------------------------------------


class Crash(_Part, frozen=True, tag="crash"):
    """End a process, or the servers `db` and `broker`. `how`: kill (no code of it runs any more), power (its whole machine),
    stop (asked to leave, killed after the grace). It is started again after `down_ms`; -1: only when the run heals."""

    at_ms: int
    process: str
    how: str = "kill"
    down_ms: int = 1_000


class CrashAt(_Part, frozen=True, tag="crash_at"):
    """Kill a process in the middle of its `nth` passing (from 1) of a point since `at_ms`. `point`: a name of
    `simulations.points`, empty: any."""

    at_ms: int
    process: str
    point: str = ""
    nth: int = 1
    down_ms: int = 1_000


class Pause(_Part, frozen=True, tag="pause"):
    """Let a process stand still, as a stopped virtual machine or a long collection of garbage does."""

    at_ms: int
    process: str
    for_ms: int


class Slow(_Part, frozen=True, tag="slow"):
    """Let every step of a process take `step_us` of time."""

    at_ms: int
    process: str
    step_us: int
    for_ms: int


class Partition(_Part, frozen=True, tag="partition"):
    """Cut all links between machines of different sides; machines that are not named stay connected to all."""

    at_ms: int
    sides: list[list[str]]
    for_ms: int


class Block(_Part, frozen=True, tag="block"):
    """Cut the link one way. `hold`: keep what is sent and deliver it at the end, instead of losing it."""

    at_ms: int
    source: str
    target: str
    for_ms: int
    hold: bool = False


class Lossy(_Part, frozen=True, tag="lossy"):
    """Make links bad: per thousand of messages that are lost, come twice, overtake others. Empty names mean all."""

    at_ms: int
    for_ms: int
    loss: int = 0
    duplicate: int = 0
    reorder: int = 0
    delay_ms: int = 0  # added to every message, with as much again at random
    source: str = ""
    target: str = ""


class ClockStep(_Part, frozen=True, tag="clock_step"):
    """Set a machine's wall clock forward or back."""

    at_ms: int
    machine: str
    by_ms: int


class ClockFreeze(_Part, frozen=True, tag="clock_freeze"):
    """Let a machine's wall clock stand still; afterwards it goes on from where it stood."""

    at_ms: int
    machine: str
    for_ms: int


class ClockDrift(_Part, frozen=True, tag="clock_drift"):
    """Let both clocks of a machine run fast or slow, in parts per million, until the end."""

    at_ms: int
    machine: str
    ppm: int


class StoreTrouble(_Part, frozen=True, tag="store_trouble"):
    """Make the store fail: per thousand of its calls that are refused, and of its commits whose answer is lost (half of
    those are written). `slow_ms`: added to every call."""

    at_ms: int
    for_ms: int
    refused: int = 0
    unknown: int = 0
    slow_ms: int = 0


class FailOver(_Part, frozen=True, tag="fail_over"):
    """Let a database server fail over: connections are lost and what is under way is undone, it is away, then takes no
    writes for a while. Nothing that was answered is lost."""

    at_ms: int
    down_ms: int = 500
    read_only_ms: int = 1_000


class RowLock(_Part, frozen=True, tag="row_lock"):
    """Let another session of the database server hold a shard's row."""

    at_ms: int
    shard: int
    for_ms: int


class BrokerTrouble(_Part, frozen=True, tag="broker_trouble"):
    """Make the broker fail: per thousand of entries that nobody takes, of entries that are stored and not confirmed, of
    acknowledgements that are lost, of entries that are lost on their way to who reads them."""

    at_ms: int
    for_ms: int
    refused: int = 0
    unanswered: int = 0
    unacknowledged: int = 0
    undelivered: int = 0


class BrokerWipe(_Part, frozen=True, tag="broker_wipe"):
    """Delete the `consumers` of all streams, or every `stream` with all it has."""

    at_ms: int
    gone: str = "stream"


Fault = (
    Crash | CrashAt | Pause | Slow | Partition | Block | Lossy | ClockStep | ClockFreeze | ClockDrift | StoreTrouble
    | FailOver | RowLock | BrokerTrouble | BrokerWipe
)  # fmt: skip


# -- work: what clients and operators do ----------------------------------------------------------------------------------


class Submit(_Part, frozen=True, tag="submit"):
    """Submit `count` tasks alike. `acts`: what the handler does in attempt 1, 2, …, the last for all further ones:
    `ok`, `fail`, `fatal` (never to be retried), `hang` (until it is stopped), `stubborn` (ignores its cancellation),
    `poison` (kills its worker), `later` (fails, wants its own retry delay). `effects`: how many times an attempt calls
    the outside world. `ref` names them for `Cancel`, `Retry`."""

    at_ms: int
    ref: str
    count: int = 1
    client: str = "client"
    tenant: str = "acme"
    queue: str = "default"
    priority: int = 5
    delay_ms: int = 0
    key: str = ""
    key_limit: int = 0
    dedupe_key: str = ""  # with count > 1: a number is added to it
    on_conflict: str = "return_existing"
    dedupe_window_ms: int = 86_400_000
    acts: list[str] = msgspec.field(default_factory=lambda: ["ok"])
    takes_ms: int = 20
    effects: int = 1
    cost: int = 1
    max_attempts: int = 3
    max_interruptions: int = 10
    retry_base_ms: int = 500
    retry_cap_ms: int = 5_000
    jitter: bool = True
    timeout_ms: int = 10_000
    wait_timeout_ms: int = 0
    total_timeout_ms: int = 0
    delivery: str = "at_least_once"
    require: list[str] = []
    dead_letter: bool = True
    payload_bytes: int = 16
    one_way: bool = False  # by the broker; nobody hears of the ids, so nothing is done with `ref`


class Cancel(_Part, frozen=True, tag="cancel"):
    at_ms: int
    ref: str
    client: str = "client"


class Retry(_Part, frozen=True, tag="retry"):
    """Queue ended tasks again, as a person would."""

    at_ms: int
    ref: str
    client: str = "client"


class SetQueue(_Part, frozen=True, tag="set_queue"):
    at_ms: int
    queue: str = "default"
    concurrency: int | None = None
    paused: bool | None = None
    max_waiting: int | None = None
    client: str = "client"


class SetTenant(_Part, frozen=True, tag="set_tenant"):
    at_ms: int
    tenant: str = "acme"
    concurrency: int | None = None
    weight: int | None = None
    rate: int | None = None
    rate_per_ms: int | None = None
    max_pending: int | None = None
    client: str = "client"


class Scale(_Part, frozen=True, tag="scale"):
    """Let a worker leave cleanly, or come back."""

    at_ms: int
    worker: str
    up: bool


class RollingRestart(_Part, frozen=True, tag="rolling_restart"):
    """Stop and start every node in turn, `gap_ms` apart."""

    at_ms: int
    gap_ms: int = 3_000


class Purge(_Part, frozen=True, tag="purge"):
    """Run retention: delete what ended `older_ms` ago or earlier."""

    at_ms: int
    older_ms: int = 10_000


# -- work with schedules; instants a rule names are milliseconds since the run began, on a clock that is right ----------


class PutSchedule(_Part, frozen=True, tag="put_schedule"):
    """Create or change a schedule. The fields of its rule are those of `actors.rules.Rule`, those of its policy those of
    `actors.schedule_messages.ScheduleSpec`; what its tasks do is said as in `Submit`."""

    at_ms: int
    name: str
    cron: str = ""
    every_ms: int = 0
    after_ms: int = 0
    moments: list[int] = []
    anchor_ms: int = 0
    zone: str = "UTC"
    dst_gap: str = "shift"
    dst_overlap: str = "first"
    starts_ms: int = 0
    ends_ms: int = 0
    limit: int = 0
    calendar: str = ""
    excluded: str = "skip"
    jitter_ms: int = 0
    precision: str = "normal"
    overlap: str = "skip"
    missed: str = "skip"
    grace_ms: int = 60_000
    max_lateness_ms: int = 0
    max_catchup: int = 100
    pause_after: int = 0
    priority: int = 5
    mode: str = "replace"
    tenant: str = "acme"
    queue: str = "default"
    acts: list[str] = msgspec.field(default_factory=lambda: ["ok"])
    takes_ms: int = 20
    effects: int = 1
    max_attempts: int = 3
    timeout_ms: int = 10_000


class CommandSchedule(_Part, frozen=True, tag="command_schedule"):
    """`action`: pause, resume, trigger, delete. `missed`: of a resumption; `overlap`: of a trigger."""

    at_ms: int
    name: str
    action: str
    missed: str = ""
    overlap: str = ""
    tenant: str = "acme"


class SetCalendar(_Part, frozen=True, tag="set_calendar"):
    """Create or change a shared calendar. `dates`: as in `actors.rules.Calendar`, and `hours`, `weekdays` as well."""

    at_ms: int
    name: str
    dates: list[str] = []
    weekdays: list[int] = []
    hours: list[tuple[int, int]] = []
    zone: str = ""
    tenant: str = "acme"


class Backfill(_Part, frozen=True, tag="backfill"):
    """Fire the ticks of a schedule in a window that is past. `from_ms`, `until_ms`: before now."""

    at_ms: int
    name: str
    from_ms: int
    until_ms: int = 0
    reprocess: str = "none"
    concurrency: int = 1
    is_backwards: bool = False
    tenant: str = "acme"


ScheduleWork = PutSchedule | CommandSchedule | SetCalendar | Backfill
Work = Submit | Cancel | Retry | SetQueue | SetTenant | Scale | RollingRestart | Purge | ScheduleWork


class Timings(_Part, frozen=True):
    """Every span of the product that a run may want to scale, in one place."""

    worker_heartbeat_ms: int = 10_000
    worker_dead_ms: int = 30_000
    node_heartbeat_ms: int = 2_500
    node_dead_ms: int = 7_000
    reconcile_ms: int = 10_000


class Options(_Part, frozen=True):
    """The cluster of a run. Machines and processes have the same names: n1…, w1…, client, db; with `embedded` all of
    them run on machine n1."""

    nodes: int = 3
    workers: int = 4
    slots: int = 8  # of the cluster
    concurrency: int = 8  # of each worker
    embedded: bool = False  # one node with its own database, workers in its process
    duration_ms: int = 60_000  # faults and work happen in this span ...
    heal_ms: int = 240_000  # ... then all is healed, and everything must end within this
    start_ms: int = 1_790_000_000_000  # wall clock at the start
    latency_us: int = 300  # least of a link ...
    jitter_us: int = 400  # ... and what is added at random
    commit_us: int = 300  # of the store
    skew_ms: int = 0  # machines' wall clocks differ by up to this at the start
    drift_ppm: int = 0
    schedule: str = "random"  # which node's turn it is: random | round_robin | burst
    step_us: int = 0  # what a step costs, of every process
    synchronous: str = "full"  # full | normal: whether power loss may take back commits
    reverse_selects: bool = False
    database: str = "sqlite"  # sqlite | postgres: whether it behaves as a server does that fails over
    lane_window: int = 8_192  # extreme values of the shard's bounds
    timer_horizon_ms: int = 60_000
    timers_max: int = 100_000
    drain_max: int = 64
    broker: bool = False  # whether there is one, on a machine `broker`: what is `one_way` needs it
    broker_sync: str = "lazy"  # lazy | always: whether power loss may take back what it has confirmed
    broker_waiting: int = 10_000  # entries of one tenant in one shard
    timings: Timings = Timings()


class Case(_Part, frozen=True):
    """`expect`: the identity of the violation a stored case once showed (`oracle:kind`), empty if none."""

    seed: int
    profile: str = "swarm"
    options: Options = Options()
    faults: list[Fault] = []
    work: list[Work] = []
    expect: str = ""
    note: str = ""
    format: int = FORMAT


class InvalidCaseError(UsageError):
    """A file that holds no case."""

    code = "invalid_case"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} holds no case: {reason}; expected what `foliot sim` wrote, format {FORMAT}")
        self.where = where
        self.reason = reason


def encode_case(case: Case) -> bytes:
    """Return a case as JSON, one entry to a line, so that versions can be compared."""
    lines = []
    for name in case.__struct_fields__:
        value: Any = getattr(case, name)
        if isinstance(value, list) and value:
            rows = ",\n".join("  " + msgspec.json.encode(entry).decode() for entry in value)
            lines.append(f'"{name}": [\n{rows}\n]')
        else:
            lines.append(f'"{name}": {msgspec.json.encode(value).decode()}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode_case(data: bytes, *, where: str = "the input") -> Case:
    """Return the case of these bytes. Raises: InvalidCaseError."""
    try:
        case = msgspec.json.decode(data, type=Case)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidCaseError(where, str(error)) from error
    if case.format != FORMAT:
        raise InvalidCaseError(where, f"its format is {case.format}")
    return case
