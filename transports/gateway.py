"""The gateway: the edge of a node, which takes every request of a client and answers it.

It holds no state but the edge's count of what it let in. Commands go to the actors over the bus, each with a deadline;
looks go to the store's readers, so that they never wait for a writer. What cannot be carried out is answered with a
`Refusal`, never raised: a gateway outlives every bad request.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import structlog

from ..actors.addresses import check_name, queue_address, shard_address, tenant_address
from ..actors.messages import (
    CancelTasks,
    ConfigureQueue,
    ConfigureTenant,
    DescribeTasks,
    ExplainTasks,
    Explanation,
    LedgerEntry,
    LedgerRead,
    PurgeTasks,
    QueueConfig,
    QueueRead,
    ReadLedger,
    ReadQueue,
    ReadTenant,
    ReadWorker,
    RetryTasks,
    SubmitTasks,
    TaskEnd,
    TaskInMemory,
    TasksAnswered,
    TasksDescribed,
    TasksEnded,
    TasksExplained,
    Template,
    TenantConfig,
    TenantRead,
    WatchTasks,
    WorkerRead,
)
from ..actors.node_messages import ReadPeer
from ..actors.schedule_messages import PutSchedules
from ..actors.states import State
from ..runtime.bus import Bus, Refusal
from ..runtime.clock import Clock
from ..runtime.errors import FoliotError, NotFoundError
from ..runtime.hashing import slot_of
from ..runtime.ids import MAX_ID, shard_of, to_text
from ..runtime.rng import Rng
from ..stores.port import Store, TaskFilter
from .admission import EdgeLimits, InvalidOptionError, TooLargeError
from .api import (
    VERSION,
    DrainMember,
    GetTasks,
    HandlerView,
    Hello,
    LedgerVerified,
    ListMembers,
    ListQueues,
    ListTasks,
    ListTenants,
    ListWorkers,
    LogPart,
    LogsRead,
    MemberDraining,
    MembersListed,
    MemberView,
    QueuesListed,
    QueueView,
    ReadLogs,
    ReadStats,
    SetQueue,
    SetTenant,
    StatsRead,
    Tally,
    TasksFound,
    TasksListed,
    TaskView,
    TenantsListed,
    TenantView,
    Verify,
    Welcome,
    Why,
    WhyRead,
    WhyTasks,
    WorkersListed,
    decode_request,
    encode_request,
)
from .balance import Baseline, EdgeSnapshot, WorkerCounts, balance, completions
from .entrance import EdgeCount, Entrance, Misfit
from .peers import Edges, Peers
from .schedule_gate import ScheduleGate
from .views import view_of_detail, views_of_rows, why_without_queue

log = structlog.get_logger("foliot.transports")

DEFAULT_TIMEOUT_MS: Final = 30_000
_MARGIN_MS: Final = 5_000  # beyond a long poll's wait
_MAX_ATTEMPT: Final = 1_000_000_000
_FANOUT: Final = 64  # actors asked at once


class Gateway:
    """Answers the edge requests of `transports.api`.

    `directory`: the addresses of the live actors of a kind ("worker", "queue", "tenant") on this node, sorted.
    `worker_counts`: the third count of the ledger, if this process has workers. `figures`: what the node tells about
    itself, by name. `handlers`: template and default priority by name, if other names are to be refused.
    `misfit`: says what is wrong with a payload its sender did not check. `is_shared`: there are other gateways.

    A gateway is also the channel (`sdk.channel`) of clients in its own process.
    """

    may_repeat = False

    def __init__(
        self,
        bus: Bus,
        store: Store,
        *,
        clock: Clock,
        rng: Rng,
        shards: int,
        directory: Callable[[str], list[str]],
        worker_counts: WorkerCounts | None = None,
        figures: Callable[[], dict[str, float]] | None = None,
        handlers: Callable[[], Mapping[str, tuple[Template, int]]] | None = None,
        misfit: Misfit | None = None,
        limits: EdgeLimits | None = None,
        product: str = "",
        is_shared: bool = False,
    ) -> None:
        self.limits = limits or EdgeLimits()
        self.peers: Peers | None = None
        self.told: Callable[[], Mapping[str, tuple[Template, int]]] | None = None
        """Handlers that some worker has; unlike `handlers`, others may be named too."""
        self.worker_counts = worker_counts
        self.figures = figures
        self._bus = bus
        self._store = store
        self._clock = clock
        self._shards = shards
        self._directory = directory
        self._handlers = handlers
        self._misfit = misfit
        self._product = product
        self._since_ms = clock.now_ms()
        self._entrance = Entrance(
            bus, clock, rng, shards=shards, limits=self.limits, since_ms=self._since_ms, misfit=misfit,
            is_shared=is_shared,
        )  # fmt: skip
        schedules = ScheduleGate(
            store, clock, self._ask_each, shards=shards, limits=self.limits, known=handlers or (lambda: None), misfit=misfit
        )
        self._baseline: Baseline | None = None
        self._beginning: asyncio.Lock = asyncio.Lock()
        self._routes: dict[type, Callable[[Any, int], Awaitable[Any]]] = {
            SubmitTasks: self._submit,
            CancelTasks: self._command,
            RetryTasks: self._command,
            PurgeTasks: self._command,
            WatchTasks: self._watch,
            Hello: self._hello,
            GetTasks: self._get,
            ListTasks: self._list,
            ReadLogs: self._logs,
            WhyTasks: self._why,
            ListQueues: self._queues,
            SetQueue: self._set_queue,
            ListWorkers: self._workers,
            ListTenants: self._tenants,
            SetTenant: self._set_tenant,
            Verify: self._verify,
            ReadStats: self._stats,
            ListMembers: self._members,
            DrainMember: self._drain_member,
            **schedules.routes(),
        }

    @property
    def edge_counts(self) -> dict[tuple[str, str], EdgeCount]:
        """What clients were promised since the gateway began, by (tenant, queue)."""
        return self._entrance.counts

    def edge_report(self) -> tuple[Baseline | None, dict[tuple[str, str], EdgeCount]]:
        """Return what had been counted when the gateway began, None if it has not, and what it let in since."""
        return self._baseline, self._entrance.counts

    async def begin(self) -> None:
        """Note what the shards have counted so far; the first submission does it otherwise. Raises: UnavailableError."""
        async with self._beginning:
            if self._baseline is None:
                self._baseline = Baseline.of(await self._read_ledgers(DEFAULT_TIMEOUT_MS))

    async def handle(self, request: Any, *, timeout_ms: int = DEFAULT_TIMEOUT_MS) -> Any:
        """Return the answer to a request, within about `timeout_ms`; a Refusal if it was not carried out."""
        route = self._routes.get(type(request))
        if route is None:
            return Refusal("malformed", f"{type(request).__name__} is not a request of the edge")
        try:
            return await route(request, max(timeout_ms, 1))
        except _RefusedByActorError as error:
            return error.refusal
        except FoliotError as error:
            return Refusal.of(error)
        except Exception as error:
            log.error("request_failed", request=type(request).__name__, exc_info=error)
            return Refusal("internal", f"{type(request).__name__} failed with {type(error).__name__}: {error}")

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        """Answer a client of this process. Raises: UsageError for what could not have come over a socket: nothing else
        compares the values of a message with their types, and one of a wrong type could not be read back."""
        if not isinstance(message, SubmitTasks):  # those are made by `sdk.client_spec`, which compares them
            data = encode_request(message)
            if not isinstance(message, PutSchedules):  # and those by `sdk.schedule_words`; they go by the million
                message = decode_request(data)
        return await self.handle(message, timeout_ms=timeout_ms)

    async def close(self) -> None:
        """A client of this process is done: nothing to close, the gateway belongs to its node."""

    async def _ask(self, to: str, message: Any, timeout_ms: int) -> Any:
        """Return an actor's answer. Raises: FoliotError for a refusal."""
        answer = await self._bus.request(to, message, timeout_ms=timeout_ms)
        if isinstance(answer, Refusal):
            raise _RefusedByActorError(answer)
        return answer

    async def _ask_each(self, questions: list[tuple[str, Any]], timeout_ms: int) -> list[Any]:
        """Return the answers in order, Refusals among them; at most `_FANOUT` are under way."""
        answers: list[Any] = []
        for start in range(0, len(questions), _FANOUT):
            part = questions[start : start + _FANOUT]
            answers += await asyncio.gather(*[self._answer(to, message, timeout_ms) for to, message in part])
        return answers

    async def _answer(self, to: str, message: Any, timeout_ms: int) -> Any:
        try:
            return await self._bus.request(to, message, timeout_ms=timeout_ms)
        except FoliotError as error:
            return Refusal.of(error)

    # -- tasks: commands ---------------------------------------------------------------------------------------------

    async def _submit(self, request: SubmitTasks, timeout_ms: int) -> Any:
        if self._baseline is None:
            await self.begin()
        if self._handlers is not None:
            known = self._handlers()
            for template in request.templates:
                if template.handler not in known:
                    return _unknown_handler(template.handler, known)
        return await self._entrance.submit(request, timeout_ms=timeout_ms)

    def _by_shard(self, ids: list[int]) -> dict[int, list[int]]:
        """Return the positions of `ids` by shard; ids of no shard of this cluster are left out. Raises: UsageError."""
        if len(ids) > self.limits.max_ids:
            raise TooLargeError("the number of ids", len(ids), self.limits.max_ids)
        parts: dict[int, list[int]] = {}
        for position, task_id in enumerate(ids):
            if 0 < task_id <= MAX_ID and (shard := shard_of(task_id)) < self._shards:
                parts.setdefault(shard, []).append(position)
        return parts

    async def _command(self, request: CancelTasks | RetryTasks | PurgeTasks, timeout_ms: int) -> Any:
        """Give each shard its ids. If some shards refuse, their ids are answered `unavailable`; if all, so is all."""
        check_name("tenant", request.tenant)
        if isinstance(request, CancelTasks) and len(request.reason) > self.limits.max_text:
            raise TooLargeError("the length of the reason", len(request.reason), self.limits.max_text)
        if isinstance(request, CancelTasks) and not request.reason.isprintable():
            raise InvalidOptionError("reason", request.reason, "printable characters on one line")
        if isinstance(request, RetryTasks) and len(request.payload or b"") > self.limits.max_payload:
            raise TooLargeError("the payload's size in bytes", len(request.payload or b""), self.limits.max_payload)
        parts = self._by_shard(request.ids)
        if isinstance(request, RetryTasks) and request.payload is not None and self._misfit is not None:
            for detail in await self._store.tasks(request.ids):
                problem = self._misfit(detail.kind.template.handler, request.payload)
                if problem is not None:
                    return Refusal("payload", f"task {to_text(detail.row.id)}: {problem}")
        questions = [
            (shard_address(shard), msgspec.structs.replace(request, ids=[request.ids[at] for at in positions]))
            for shard, positions in parts.items()
        ]
        answers = await self._ask_each(questions, timeout_ms)
        if answers and all(isinstance(answer, Refusal) for answer in answers):
            return answers[0]
        outcomes = ["not_found"] * len(request.ids)
        for positions, answer in zip(parts.values(), answers, strict=True):
            words = answer.outcomes if isinstance(answer, TasksAnswered) else ["unavailable"] * len(positions)
            for position, word in zip(positions, words, strict=True):
                outcomes[position] = word
        return TasksAnswered(outcomes)

    async def _watch(self, request: WatchTasks, timeout_ms: int) -> Any:
        check_name("tenant", request.tenant)
        wait_ms = max(min(request.wait_ms, self.limits.max_wait_ms, timeout_ms), 0)
        parts = self._by_shard(request.ids)
        questions = [
            (shard_address(shard), WatchTasks(request.tenant, [request.ids[at] for at in positions], wait_ms))
            for shard, positions in parts.items()
        ]
        answers = await self._ask_each(questions, wait_ms + _MARGIN_MS)
        if answers and all(isinstance(answer, Refusal) for answer in answers):
            return answers[0]
        known = {position for positions in parts.values() for position in positions}
        ended = [TaskEnd(id=task_id, state=0) for at, task_id in enumerate(request.ids) if at not in known]
        for answer in answers:
            if isinstance(answer, TasksEnded):
                ended += answer.ended
        return TasksEnded(ended)

    # -- tasks: looks --------------------------------------------------------------------------------------------------

    async def _find(self, tenant: str, ids: list[int]) -> list[TaskView]:
        if len(ids) > self.limits.max_ids:
            raise TooLargeError("the number of ids", len(ids), self.limits.max_ids)
        details = await self._store.tasks(ids)
        return [view_of_detail(detail) for detail in details if not tenant or detail.kind.tenant == tenant]

    async def _get(self, request: GetTasks, timeout_ms: int) -> TasksFound:
        return TasksFound(await self._find(request.tenant, request.ids))

    async def _list(self, request: ListTasks, timeout_ms: int) -> TasksListed:
        if not 1 <= request.limit <= self.limits.max_page:
            raise InvalidOptionError("limit", request.limit, f"1 to {self.limits.max_page}")
        known = {int(state) for state in State}
        for state in request.states:
            if state not in known:
                raise InvalidOptionError("state", state, "numbers of actors.states.State")
        if not 0 <= request.before <= MAX_ID:
            raise InvalidOptionError("before", request.before, "an id, or 0")
        rows, kinds = await self._store.list(
            TaskFilter(
                tenant=request.tenant,
                states=tuple(request.states),
                queue=request.queue,
                handler=request.handler,
                before=request.before,
                limit=request.limit,
            )
        )
        next_before = rows[-1].id if len(rows) == request.limit else 0
        return TasksListed(views_of_rows(rows, kinds), next_before)

    async def _logs(self, request: ReadLogs, timeout_ms: int) -> LogsRead:
        if not 0 <= request.attempt <= _MAX_ATTEMPT:
            raise InvalidOptionError("attempt", request.attempt, f"0 (all) to {_MAX_ATTEMPT}")
        if not await self._find(request.tenant, [request.id]):
            raise NotFoundError(f"there is no task {to_text(request.id)} of tenant {request.tenant!r}")
        parts = await self._store.logs(request.id, request.attempt)
        return LogsRead([LogPart(attempt, text) for attempt, text in parts])

    async def _why(self, request: WhyTasks, timeout_ms: int) -> WhyRead:
        views = {view.id: view for view in await self._find(request.tenant, request.ids)}
        memory: dict[int, TaskInMemory] = {}
        parts = self._by_shard([task_id for task_id in request.ids if task_id in views])
        ids = [task_id for task_id in request.ids if task_id in views]
        questions = [(shard_address(shard), DescribeTasks([ids[at] for at in at_])) for shard, at_ in parts.items()]
        for answer in await self._ask_each(questions, timeout_ms):
            if isinstance(answer, TasksDescribed):
                memory.update({task.id: task for task in answer.tasks})
        now_ms = self._clock.now_ms()
        found: dict[int, Why] = {}
        by_queue: dict[str, list[int]] = {}
        for task_id in ids:
            why = why_without_queue(views[task_id], memory.get(task_id), now_ms)
            if why is None:
                by_queue.setdefault(queue_address(views[task_id].pool, views[task_id].queue), []).append(task_id)
            else:
                found[task_id] = why
        answers = await self._ask_each([(to, ExplainTasks(part)) for to, part in by_queue.items()], timeout_ms)
        for (address, part), answer in zip(by_queue.items(), answers, strict=True):
            explained = {at.id: at for at in answer.tasks} if isinstance(answer, TasksExplained) else {}
            for task_id in part:
                found[task_id] = self._why_queued(task_id, address, explained.get(task_id), memory.get(task_id), answer)
        missing = "there is no such task"
        return WhyRead([found.get(task_id) or Why(task_id, 0, "not_found", missing) for task_id in request.ids])

    @staticmethod
    def _why_queued(task_id: int, address: str, told: Explanation | None, memory: TaskInMemory | None, answer: Any) -> Why:
        state = int(State.QUEUED)
        if isinstance(answer, Refusal):
            text = f"it is due, but its queue does not answer ({address}): {answer.text}"
            return Why(task_id, state, "no_queue", text)
        if told is not None and told.reason != "not_offered":
            return Why(task_id, state, told.reason, told.text, told.ahead, told.retry_at_ms)
        if memory is None:
            text = "it is due and waits in the store behind earlier tasks of its line, which go first"
        else:
            text = "it is due, and its shard is about to offer it to its queue"
        return Why(task_id, state, "not_offered", text)

    # -- queues, tenants, workers ----------------------------------------------------------------------------------

    async def _queues(self, request: ListQueues, timeout_ms: int) -> QueuesListed:
        tallies = await self._tallies(timeout_ms)
        configs, _ = await self._store.configs()
        stored = {queue_address(config.pool, config.queue): config for config in configs}
        live = await self._live("queue")
        answers = dict(zip(live, await self._ask_each([(to, ReadQueue()) for to in live], timeout_ms), strict=True))
        views = []
        for address in sorted({*stored, *live}):
            read = answers.get(address)
            _, pool, queue = address.split(".", 2)
            waiting = sum(tally.waiting for tally in tallies if tally.queue == queue)
            if isinstance(read, QueueRead):
                views.append(
                    QueueView(read.config, True, waiting, read.running, read.offered, read.free_credits, read.sessions)
                )
            else:
                config = stored.get(address) or QueueConfig(pool, queue)
                running = sum(tally.running for tally in tallies if tally.queue == queue)
                views.append(QueueView(config, False, waiting, running))
        return QueuesListed(views)

    async def _set_queue(self, request: SetQueue, timeout_ms: int) -> Any:
        check_name("queue", request.queue)
        check_name("pool", request.pool)
        changes = _changes(request, ("concurrency", "max_waiting", "ageing_ms"), low=0)
        configs, _ = await self._store.configs()
        config = next((at for at in configs if (at.pool, at.queue) == (request.pool, request.queue)), None)
        if request.paused is not None:
            for what, text in (("by", request.by), ("why", request.why)):
                if len(text) > self.limits.max_text:
                    raise TooLargeError(f"the length of {what!r}", len(text), self.limits.max_text)
            since = (request.by, request.why, self._clock.now_ms()) if request.paused else ("", "", 0)
            changes |= dict(zip(("paused_by", "paused_why", "paused_at_ms"), since, strict=True))
            changes["paused"] = request.paused
        changed = msgspec.structs.replace(config or QueueConfig(request.pool, request.queue), **changes)
        home = slot_of(queue_address(request.pool, request.queue), self._shards)
        return await self._ask(shard_address(home), ConfigureQueue(changed), timeout_ms)

    async def _live(self, kind: str) -> list[str]:
        """Return the addresses of a kind, of the whole cluster if this is one."""
        return await self.peers.directory(kind) if self.peers is not None else self._directory(kind)

    async def _workers(self, request: ListWorkers, timeout_ms: int) -> WorkersListed:
        answers = await self._ask_each([(to, ReadWorker()) for to in await self._live("worker")], timeout_ms)
        return WorkersListed([answer for answer in answers if isinstance(answer, WorkerRead)])

    async def _tenants(self, request: ListTenants, timeout_ms: int) -> TenantsListed:
        tallies = await self._tallies(timeout_ms)
        _, configs = await self._store.configs()
        stored = {config.tenant: config for config in configs}
        live = await self._live("tenant")
        answers = await self._ask_each([(to, ReadTenant()) for to in live], timeout_ms)
        reads = {at.config.tenant: at for at in answers if isinstance(at, TenantRead)}
        views = []
        for tenant in sorted({*stored, *reads, *(tally.tenant for tally in tallies)}):
            waiting = sum(tally.waiting for tally in tallies if tally.tenant == tenant)
            running = sum(tally.running for tally in tallies if tally.tenant == tenant)
            read = reads.get(tenant)
            config = read.config if read else stored.get(tenant) or TenantConfig(tenant)
            views.append(TenantView(config, read is not None, waiting, running, read.tokens if read else -1))
        return TenantsListed(views)

    async def _set_tenant(self, request: SetTenant, timeout_ms: int) -> Any:
        check_name("tenant", request.tenant)
        changes = _changes(request, ("rate", "burst", "max_pending", "concurrency"), low=0)
        changes |= _changes(request, ("weight", "rate_per_ms"), low=1)
        _, configs = await self._store.configs()
        config = next((at for at in configs if at.tenant == request.tenant), None)
        changed = msgspec.structs.replace(config or TenantConfig(request.tenant), **changes)
        home = slot_of(tenant_address(request.tenant), self._shards)
        return await self._ask(shard_address(home), ConfigureTenant(changed), timeout_ms)

    # -- the node --------------------------------------------------------------------------------------------------

    async def _hello(self, request: Hello, timeout_ms: int) -> Welcome:
        handlers = [HandlerView(template, priority) for template, priority in self._known().values()]
        return Welcome(VERSION, self._product, self._shards, self._since_ms, self._clock.now_ms(), handlers)

    def _known(self) -> Mapping[str, tuple[Template, int]]:
        known = self._handlers if self._handlers is not None else self.told
        return known() if known is not None else {}

    async def _read_ledgers(self, timeout_ms: int) -> list[LedgerEntry]:
        """Return the shards' own counters, of all shards. Raises: FoliotError if one does not answer."""
        questions = [(shard_address(shard), ReadLedger()) for shard in range(self._shards)]
        entries: list[LedgerEntry] = []
        for answer in await self._ask_each(questions, timeout_ms):
            if isinstance(answer, Refusal):
                raise _RefusedByActorError(answer)
            assert isinstance(answer, LedgerRead), f"{type(answer).__name__} answered ReadLedger"
            entries += answer.entries
        return entries

    async def _tallies(self, timeout_ms: int) -> list[Tally]:
        sums: dict[tuple[str, str], list[int]] = {}
        for entry in await self._read_ledgers(timeout_ms):
            of = sums.setdefault((entry.tenant, entry.queue), [0, 0, 0])
            of[0] += entry.accepted
            of[1] += entry.waiting
            of[2] += entry.running
        return [Tally(tenant, queue, *sums[tenant, queue]) for tenant, queue in sorted(sums)]

    async def _stats(self, request: ReadStats, timeout_ms: int) -> StatsRead:
        tallies = await self._tallies(timeout_ms)
        figures = self.figures() if self.figures else {}
        return StatsRead(self._clock.now_ms(), self._since_ms, self._shards, tallies, figures)

    async def _verify(self, request: Verify, timeout_ms: int) -> LedgerVerified:
        if self._baseline is None:
            await self.begin()
        before = await self._edges()
        counters, recount = await self._store.ledger()
        after = await self._edges()
        is_whole = before.snapshot.is_whole and before.boots == after.boots  # else somebody came or went meanwhile
        return balance(
            counters, recount, baseline=before.baseline, before=replace(before.snapshot, is_whole=is_whole),
            after=after.snapshot, since_ms=before.since_ms,
        )  # fmt: skip

    async def _edges(self) -> Edges:
        if self.peers is not None:
            return await self.peers.edges()
        assert self._baseline is not None
        return Edges(self._baseline, self._snapshot(), (), self._since_ms)

    async def _members(self, request: ListMembers, timeout_ms: int) -> MembersListed:
        if self.peers is None:
            return MembersListed(self._shards, [])
        reads = {read.node: read for read in await self.peers.gather(ReadPeer())}
        views = []
        for name in sorted({*self.peers.members, *reads}):
            read = reads.get(name)
            if read is None:
                views.append(MemberView(name, "silent"))
                continue
            views.append(
                MemberView(
                    name, "draining" if read.is_leaving else "up", read.host, read.pid, read.product, read.since_ms,
                    sorted(read.hosted), read.skew_ms, read.figures,
                )
            )  # fmt: skip
        return MembersListed(self._shards, views)

    async def _drain_member(self, request: DrainMember, timeout_ms: int) -> Any:
        if self.peers is None:
            return Refusal("no_cluster", "this scheduler is one process, expected a cluster; end the process instead")
        if len(request.why) > self.limits.max_text:
            raise TooLargeError("the length of 'why'", len(request.why), self.limits.max_text)
        answer = await self.peers.drain(request.name, request.why)
        return answer if isinstance(answer, Refusal) else MemberDraining(answer.node)

    def _snapshot(self) -> EdgeSnapshot:
        edge = {key: (count.accepted, count.unsettled) for key, count in self._entrance.counts.items()}
        return EdgeSnapshot(edge, completions(self.worker_counts()) if self.worker_counts else None)


class _RefusedByActorError(FoliotError):
    """An actor's refusal on its way to the client."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def _unknown_handler(name: str, known: Collection[str]) -> Refusal:
    """Say which handlers there are, the likeliest first."""
    alike = difflib.get_close_matches(name, sorted(known), n=3)
    names = list(dict.fromkeys([*alike, *sorted(known)]))[:20]
    text = f"handler {name[:200]!r} is unknown, expected one of {', '.join(names) or 'none at all'}"
    return Refusal("unknown_task", text, details={"handler": name, "known": ",".join(names)})


def _changes(request: Any, names: tuple[str, ...], *, low: int) -> dict[str, Any]:
    """Return the fields that are not None. Raises: InvalidOptionError for one below `low` or absurdly large."""
    out: dict[str, Any] = {}
    for name in names:
        value = getattr(request, name)
        if value is None:
            continue
        if not low <= value <= 1_000_000_000_000:
            raise InvalidOptionError(name, value, f"{low} to 1000000000000")
        out[name] = value
    return out
