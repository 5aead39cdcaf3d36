"""The cluster of a simulated test: real nodes, workers and clients, on simulated ports.

Machines and processes have the same names: nodes n1, n2, …, workers w1, w2, …, the database `db`, the test itself `test`.
`store="sqlite"` is one node whose machine has the database; `store="cluster"` has the database on a machine of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar, overload

from ..actors.messages import QueueConfig, TenantConfig
from ..runtime.errors import FoliotError, UsageError
from ..sdk.app import Foliot
from ..sdk.client import Client, Task, number_of
from ..sdk.client_spec import Options as TaskOptions
from ..sdk.client_spec import Spec
from ..sdk.client_submit import BulkResult
from ..sdk.client_views import TaskInfo
from ..sdk.declared import put_declared
from ..sdk.durations import Span, parse_span
from ..sdk.errors import ResultTimeoutError
from ..sdk.handler import Handler
from ..transports.gateway import Gateway
from .bus import SimBus
from .case import Options, Timings
from .client import SimChannel
from .database import empty_database
from .history import Oracle
from .loop import MS, Lane, SimLoop
from .machine import SimClock
from .observed import ObservedChannel, observed_app
from .process import Process
from .programs import node_program, worker_program
from .strands import Strands, StrandThreads
from .survey import Survey
from .trace import Trace
from .world import World

R = TypeVar("R")
WITHIN: Final = "1d"
"""How long a test waits for a result if it says nothing else: simulated time, so it costs little."""
_UP_MS: Final = 60_000  # so long the cluster may take to come up
_DECLARE_AGAIN_S: Final = 1.0  # until a node that started tries again to put what the apps declare
_QUIET: Final = 20_000  # by how much an idle cluster stretches its spans
_QUIET_HORIZON_MS: Final = 400 * 86_400_000  # so far ahead timers are in memory
TEST: Final = "test"
_PARTS_OF_MS: Final = re.compile(r"(\d+(?:\.\d+)?) *ms")
_OPTIONS_OF_SIM: Final = ("start", "tz")  # which `sim.cluster` takes itself


class NotUpError(FoliotError):
    """The simulated cluster did not come up."""

    code = "not_up"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"after {_UP_MS // 1000} s these are not up: {', '.join(missing)}; expected all of them")
        self.missing = list(missing)


class InvalidClusterError(UsageError):
    """A cluster that cannot be."""

    code = "invalid_cluster"

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"{option} {value!r} is not possible, expected {expected}")
        self.option = option
        self.value = value


class UnknownOptionError(UsageError):
    """An option of the cluster that there is not."""

    code = "unknown_option"

    def __init__(self, option: str, known: Sequence[str]) -> None:
        super().__init__(f"a cluster has no option {option!r}, expected some of {', '.join(known)}")
        self.option = option
        self.known = list(known)


class ScheduleRefusedError(UsageError):
    """Schedules that the apps declare, and that the cluster does not take."""

    code = "schedule_refused"

    def __init__(self, refused: Mapping[str, str]) -> None:
        told = "; ".join(f"{name} is refused: {text}" for name, text in refused.items())
        super().__init__(
            f"{told}; expected what it needs, such as a calendar, to be there: `sim.cluster(..., declare=False)`, then make "
            "it, then `await cluster.declare()`"
        )
        self.refused = dict(refused)


@dataclass(frozen=True)
class ClusterOptions:
    """How a simulated cluster is made. `slots`: attempts at once, for each worker. `embedded`: node and workers in one
    process, as `foliot up` runs them. `idle`: `quiet` stretches heartbeats and checks, so that a year passes quickly.
    `labels`: by worker. `skew`, `drift_ppm`: how far clocks differ at the start, and how fast they part. `declare`: whether
    the schedules that the apps declare are there from the start."""

    workers: int = 3
    nodes: int = 1
    store: Literal["sqlite", "cluster"] = "sqlite"
    embedded: bool = False
    concurrency: int = 16
    idle: Literal["", "quiet"] = ""
    latency: Span = "0.3ms"
    commit: Span = "0.3ms"
    skew: Span = 0
    drift_ppm: int = 0
    synchronous: Literal["full", "normal"] = "full"
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    declare: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ClusterOptions:
        """Return the options of these names. Raises: UnknownOptionError, InvalidClusterError, InvalidSpanError."""
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownOptionError(name, [*known, *_OPTIONS_OF_SIM])
        return cls(**options)

    def __post_init__(self) -> None:
        for name, least, most in (("workers", 0, 64), ("nodes", 1, 16), ("concurrency", 1, 4_096)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InvalidClusterError(name, value, f"a number from {least} to {most}")
        for name in ("latency", "commit", "skew"):
            parse_span(getattr(self, name), what=name)
        if self.store not in ("sqlite", "cluster"):
            raise InvalidClusterError("store", self.store, "'sqlite' or 'cluster'")
        if not isinstance(self.declare, bool):
            raise InvalidClusterError("declare", self.declare, "True or False")
        if self.idle not in ("", "quiet"):
            raise InvalidClusterError("idle", self.idle, "'quiet', or nothing")
        if self.nodes > 1 and (self.store == "sqlite" or self.embedded):
            raise InvalidClusterError("nodes", self.nodes, "1 with store='sqlite'; several need store='cluster'")
        if self.embedded and self.store == "cluster":
            raise InvalidClusterError("embedded", True, "store='sqlite'")

    def of_world(self, *, start_ms: int, heal_ms: int) -> Options:
        """Return the options of the world."""
        factor = _QUIET if self.idle == "quiet" else 1
        usual = Timings()
        timings = Timings(**{name: getattr(usual, name) * factor for name in usual.__struct_fields__})
        return Options(
            nodes=self.nodes, workers=self.workers, slots=2 if self.store == "sqlite" else 8, concurrency=self.concurrency,
            embedded=self.embedded, heal_ms=heal_ms, start_ms=start_ms, latency_us=_us(self.latency),
            commit_us=_us(self.commit), skew_ms=parse_span(self.skew, what="skew"), drift_ppm=self.drift_ppm,
            synchronous=self.synchronous, timings=timings,
            timer_horizon_ms=_QUIET_HORIZON_MS if self.idle == "quiet" else Options().timer_horizon_ms,
        )  # fmt: skip


def _us(span: Span) -> int:
    """Return microseconds; spans of people are milliseconds at the least."""
    if isinstance(span, str) and (parts := _PARTS_OF_MS.fullmatch(span.strip().lower())):
        return max(round(float(parts[1]) * 1_000), 1)
    return max(parse_span(span, what="latency") * 1_000, 1)


class TaskHandle(Task[R]):
    """A submitted task. `state` and `done` look into the store at once, which the simulated cluster does not notice."""

    __slots__ = ("_cluster",)

    def __init__(self, cluster: Cluster, client: Client, task: Task[R]) -> None:
        super().__init__(client, task.number, handler=task._handler or task.handler, existing=task.existing)
        self._cluster = cluster

    @property
    def state(self) -> str:
        return self._cluster.survey.state(self.number)

    @property
    def attempt(self) -> int:
        """The attempt it is in, or ended with."""
        return self._cluster.survey.attempt(self.number)

    def done(self) -> bool:
        """Tell whether it has ended, in whatever way."""
        return self.state in _ENDED

    async def result(self, timeout: Span | None = WITHIN) -> R:
        """Wait for its result. Raises: what `Task.result` raises, ResultTimeoutError with the reason after `timeout`."""
        try:
            return await super().result(timeout)
        except ResultTimeoutError as error:
            reasons = [reason.text for reason in self._cluster.survey.reasons() if reason.id == self.number]
            error.add_note("; ".join(reasons) or "it is over in the store")
            raise


_ENDED: Final = frozenset(("completed", "failed", "cancelled", "dead", "expired", "skipped", "not_found"))


class Cluster:
    """A running simulated cluster. Made by `sim.cluster`."""

    def __init__(
        self, apps: Sequence[Foliot], options: ClusterOptions, *, seed: int, loop: SimLoop, lane: Lane, trace: Trace,
        start_ms: int, heal_ms: int, watchers: Sequence[Oracle], strands: Strands, told_delay: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.options = options
        self.world_options = options.of_world(start_ms=start_ms, heal_ms=heal_ms)
        self._apps = list(apps)
        self._strands = strands
        self._told_delay = told_delay
        image = empty_database(self.world_options.slots, start_ms=start_ms)
        self.world = World(
            seed, self.world_options, trace, image=image, watchers=watchers, loop=loop,
            database_on="n1" if options.store == "sqlite" else "",
        )  # fmt: skip
        self.test = Process(self.world, TEST, 1, self.world.add_machine(TEST))
        self.test.lane = lane  # whose clock is the loop's own
        self._bus = SimBus(self.test)
        self.node_names = [f"n{number}" for number in range(1, options.nodes + 1)]
        self.worker_names = [] if options.embedded else [f"w{number}" for number in range(1, options.workers + 1)]
        channel = SimChannel(self._bus, self.node_names)
        self.survey = Survey(self.world, self.world_options.slots, lambda: (self.test, channel))
        self._clients: dict[str, Client] = {}
        self._has_declared = False
        self._add_programs()

    def _add_programs(self) -> None:
        names = [queue for app in self._apps for queue in app.queues()]
        own = [("default", name) for name in self.options.queues]
        queues = list(dict.fromkeys([*names, *own])) or [("default", "default")]

        def apps(process: Process, session: Callable[[], str]) -> list[Foliot]:
            return [observed_app(app, process, session, self._strands, self._told_delay) for app in self._apps]

        def threads_of(limit: int, work: Any, done: Any) -> StrandThreads:
            return StrandThreads(self._strands, limit, work, done)

        declare = self._declare_again if any(app.schedules or app.calendars for app in self._apps) else None
        for name in self.node_names:
            program = node_program(self.world_options, apps=apps, queues=queues, threads_of=threads_of, declare=declare)
            self.world.add_program(name, name, program)
        for name in self.worker_names:
            labels = self.options.labels.get(name, {})
            program = worker_program(self.world_options, apps, queues, labels, threads_of=threads_of)
            self.world.add_program(name, name, program)

    async def up(self, sleep: Callable[[int], Any]) -> None:
        """Start everything, and wait until the nodes own the shards, the workers are known and the schedules that the apps
        declare are there. Raises: NotUpError, ScheduleRefusedError."""
        for name in self.world.programs:
            self.world.start(name)
        loop = self.world.loop
        deadline_ns = loop.now_ns + _UP_MS * MS
        while missing := self._missing():
            if loop.now_ns >= deadline_ns:
                raise NotUpError(missing)
            await sleep(10 * MS)
        if self.options.declare:
            await self.declare()

    async def declare(self) -> None:
        """Have the cluster hold the schedules and calendars that the apps declare, as a scheduler does at its start. After
        `sim.cluster(..., declare=False)`; else it was done. Raises: ScheduleRefusedError; the others are there then."""
        self._has_declared = True
        refused = await put_declared(self._apps, self.client())
        if refused:
            raise ScheduleRefusedError({f"{each.kind} {each.name!r}": each.reason for each in refused})

    async def _declare_again(self, process: Process, gateway: Gateway) -> None:
        """A node has started: put what the apps declare, as the product does at each start. At the first, with everything
        coming up, `declare` does it, which can tell the test of a refusal."""
        client = Client(channel=gateway, clock=process.clock, rng=process.rng.stream("declarations"))
        while self._has_declared and process.boot > 1:
            try:
                await put_declared(self._apps, client)
                return
            except FoliotError as error:  # the others, or the database, cannot be reached yet
                process.note("declare_failed", error=type(error).__name__)
            await asyncio.sleep(_DECLARE_AGAIN_S)

    def _missing(self) -> list[str]:
        missing = [f"an owner of shard {slot}" for slot, names in self.survey.owners().items() if not names]
        for name in self.worker_names:
            process = self.world.programs[name].process
            if process is None or not process.workers:
                missing.append(name)
        return missing

    @property
    def labels(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """The labels of each worker."""
        names = self.worker_names or ["n1"]
        return tuple(tuple(sorted(self.options.labels.get(name, {}).items())) for name in names)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def client(self, *, tenant: str = "default") -> Client:
        """Return the real client of a tenant; it talks to the nodes over the simulated network, from the test's machine."""
        client = self._clients.get(tenant)
        if client is None:
            process = self.test
            channel = ObservedChannel(SimChannel(self._bus, self.node_names), process)
            rng = process.rng.stream(f"client/{tenant}")
            client = self._clients[tenant] = Client(channel=channel, tenant=tenant, clock=process.clock, rng=rng)
        return client

    def _handler(self, handler: Handler[..., Any] | str) -> Handler[..., Any] | str:
        if isinstance(handler, str):
            return next((app.handlers[handler] for app in self._apps if handler in app.handlers), handler)
        return handler

    @overload
    async def submit(self, handler: Handler[..., R], /, *args: Any, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    async def submit(self, handler: str, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...
    async def submit(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Submit a task; it is durable when this returns. Arguments and options as for `Client.submit`."""
        client = self.client()
        return TaskHandle(self, client, await client.submit(self._handler(handler), *args, **kwargs))

    async def submit_with(
        self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: TaskOptions | None = None
    ) -> TaskHandle[Any]:
        """Submit a task whose arguments and options are told apart."""
        client = self.client()
        return TaskHandle(self, client, await client.submit_with(self._handler(handler), arguments, options))

    def spec(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> Spec:
        """Return a task to submit with `submit_many`."""
        return self.client().spec(self._handler(handler), *args, **kwargs)

    async def submit_many(self, specs: Iterable[Spec] | AsyncIterable[Spec]) -> list[TaskHandle[Any]]:
        """Submit many tasks. Returns: a handle for each, in order; refused ones are left out."""
        client = self.client()
        result = await client.submit_many(specs, ids=True)
        return [TaskHandle(self, client, Task(client, number)) for number in result.ids if number]

    async def load(self, specs: Iterable[Spec] | AsyncIterable[Spec]) -> BulkResult:
        """Submit many tasks, and say only how many."""
        return await self.client().submit_many(specs)

    def task(self, task: Task[Any] | TaskInfo | str | int) -> TaskHandle[Any]:
        """Return the handle of a task that came to be in any way: of a task, of one in a list, of an id."""
        client = self.client()
        return TaskHandle(self, client, Task(client, number_of(task.id if isinstance(task, TaskInfo) else task)))

    async def tasks(self, *, states: Iterable[str] = (), queue: str = "", handler: str = "") -> list[TaskInfo]:
        """Return all tasks, oldest first."""
        found = [info async for info in self.client().list(states=states, queue=queue, handler=handler)]
        return found[::-1]

    async def cancel(self, task: Task[Any] | str | int, *, reason: str = "") -> str:
        """Cancel a task; see `Client.cancel`."""
        return await self.client().cancel(task, reason=reason)

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in which state, as the store has it."""
        return self.survey.counts()

    # -- settings ------------------------------------------------------------------------------------------------------

    async def pause_queue(self, queue: str = "default") -> QueueConfig:
        return await self.client().pause_queue(queue)

    async def resume_queue(self, queue: str = "default") -> QueueConfig:
        return await self.client().resume_queue(queue)

    async def limit_queue(self, queue: str = "default", **limits: Any) -> QueueConfig:
        """Change a queue's limits; see `Client.limit_queue`."""
        return await self.client().limit_queue(queue, **limits)

    async def configure_tenant(self, tenant: str | None = None, **limits: Any) -> TenantConfig:
        """Change a tenant's limits; see `Client.configure_tenant`."""
        return await self.client().configure_tenant(tenant, **limits)

    def clock(self) -> SimClock:
        """Return the test's own clock, which is right."""
        return self.test.clock

    def __repr__(self) -> str:
        return f"<cluster of {', '.join([*self.node_names, *self.worker_names])}>"
