"""The client: submit tasks, wait for them, look at them, steer queues and tenants.

    async with Client() as client:
        task = await client.submit(send_receipt, order_id=42, delay="10m")
        print(await task.result())

It speaks to a scheduler over its local socket, or in the same process straight to its gateway; nothing differs but the
channel. A client belongs to one tenant and to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, overload

import msgspec

from ..actors.addresses import check_name
from ..actors.messages import (
    CancelTasks,
    PurgeTasks,
    QueueConfig,
    QueueConfigured,
    RetryTasks,
    TasksAnswered,
    TenantConfig,
    TenantConfigured,
    WorkerRead,
)
from ..actors.states import State
from ..runtime.bus import Refusal
from ..runtime.clock import Clock, SystemClock
from ..runtime.errors import DeadlineError, FoliotError, UsageError
from ..runtime.ids import MAX_ID, InvalidIdError, from_text, to_text
from ..runtime.rng import Rng
from ..transports import api
from ..transports.local import NotRunningError
from .calendars import Calendars
from .channel import Channel, open_channel
from .client_cluster import OPERATORS_ONLY, broker_of, unheard_of
from .client_events import EVENTS_TOLD, EventReader, TaskEvent
from .client_one_way import SLOTS, OneWay
from .client_spec import Options, Spec, SpecMaker
from .client_submit import BulkResult, Submitter
from .client_views import TaskInfo, WhyInfo, decoded, error_of_end, info_of, state_label, why_of
from .client_watch import Watcher
from .durations import Span, parse_rate, parse_span
from .errors import NotIdleError, ResultTimeoutError, TaskNotFoundError, UnknownTaskError, error_of
from .handler import Handler
from .options import InvalidOptionError
from .payload import Packer
from .schedule_errors import error_of_schedules
from .schedule_words import DraftMaker
from .schedules import Schedules
from .shell import SHELL, ShellNotServedError, ShellResult, shell_arguments

R = TypeVar("R")
_CHUNK: Final = 500  # ids in one request
_PAGE: Final = 200
_MEET_MS: Final = 1_000  # for a node that might as well not be there ...
_MEET_AGAIN_MS: Final = 10_000  # ... and is not asked for again so soon


class Task(Generic[R]):
    """A submitted task. `existing`: a task of the same dedupe key was there already, and this is it."""

    __slots__ = ("_client", "_handler", "existing", "handler", "number")

    def __init__(self, client: Client, number: int, *, handler: Handler[..., R] | str = "", existing: bool = False) -> None:
        self._client = client
        self._handler = None if isinstance(handler, str) else handler
        self.handler = handler if isinstance(handler, str) else handler.name
        self.number = number
        self.existing = existing

    @property
    def id(self) -> str:
        """13 characters."""
        return to_text(self.number)

    async def result(self, timeout: Span | None = None) -> R:
        """Wait for the task to complete and return its result.

        Raises: TaskFailedError, TaskCancelledError, TaskExpiredError, TaskSkippedError; ResultTimeoutError if it is not
        over within `timeout`; TaskNotFoundError if it was purged.
        """
        data = await self._client._result(self.number, timeout)
        if self._handler is not None:
            return self._handler.decode_result(data)
        result: R = decoded(data)
        return result

    async def status(self) -> str:
        """Return the name of its state."""
        return (await self._client.get(self)).state

    async def info(self) -> TaskInfo:
        """Return all that is known of it."""
        return await self._client.get(self)

    async def cancel(self, reason: str = "") -> str:
        """End it before it is done. Returns: `cancelled`, `cancelling` (it runs and was told), or `ended`."""
        return await self._client.cancel(self, reason=reason)

    async def retry(self) -> str:
        """Queue it again if it has ended. Returns: `retried`, or `alive`."""
        return await self._client.retry(self)

    async def logs(self, attempt: int = 0) -> str:
        """Return its captured output, of one attempt or of all."""
        return await self._client.logs(self, attempt=attempt)

    async def why(self) -> WhyInfo:
        """Return why it is where it is."""
        return await self._client.why(self)

    def __repr__(self) -> str:
        return f"<task {self.id}{' ' + self.handler if self.handler else ''}>"


class ShellTask(Task[ShellResult]):
    """A submitted shell command."""

    __slots__ = ()

    async def result(self, timeout: Span | None = None) -> ShellResult:
        """As of any task: wait until the command has ended with an exit code that was expected."""
        return msgspec.convert(decoded(await self._client._result(self.number, timeout)), ShellResult)


class Page(msgspec.Struct, frozen=True):
    """One page of a list. `next_before`: the id to go on below, empty at the end."""

    tasks: list[TaskInfo]
    next_before: str


class Client:
    """An async client of a scheduler.

    `address`: the path of its socket, or the servers of its cluster as `nats://host:port`; by default what FOLIOT_ADDRESS
    says, else `./foliot.sock`. `channel`: a gateway in this process, instead of an address. `connect_timeout`: how long to
    wait for a scheduler that is about to start. `on_wait`: called with a line that says for what, if a request waits for a
    cluster for more than a moment.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        channel: Channel | None = None,
        tenant: str = "default",
        connect_timeout: Span = 0,
        timeout: Span = 30,
        clock: Clock | None = None,
        rng: Rng | None = None,
        on_wait: Callable[[str], object] | None = None,
    ) -> None:
        self.tenant = check_name("tenant", tenant)
        self._clock = clock or SystemClock()
        self._timeout_ms = parse_span(timeout, what="timeout")
        connect_timeout_ms = parse_span(connect_timeout, what="connect_timeout")
        self._channel = channel or open_channel(
            address, clock=self._clock, connect_timeout_ms=connect_timeout_ms, tenant=tenant, on_wait=on_wait
        )
        self._specs = SpecMaker(self._clock)
        self._rng = rng or Rng.of_the_system()
        self._submitter = Submitter(self._channel, tenant, clock=self._clock, rng=self._rng)
        self._one_way: OneWay | None = None
        self._slots = SLOTS
        self._has_met = False
        self._meet_again_ns = 0
        self._is_tenants_only = False
        self._watcher = Watcher(self._channel, tenant, clock=self._clock)
        self.schedules: Schedules[Task[Any]] = Schedules(
            self._ask_of, self._channel, tenant, DraftMaker(self._specs), clock=self._clock, timeout_ms=self._timeout_ms,
            meet=self._meet, task_of=self.task,
        )  # fmt: skip
        self.calendars = Calendars(self._ask_of, tenant)

    async def __aenter__(self) -> Client:
        await self.hello()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish submissions under way, then let go of the connection."""
        await self._submitter.close()
        if self._one_way is not None:
            await self._one_way.close()
        await self._watcher.close()
        await self._channel.close()

    async def _ask(self, message: Any, expected: type[R], *, timeout_ms: int | None = None) -> R:
        answer = await self._channel.request(message, timeout_ms=timeout_ms or self._timeout_ms)
        if isinstance(answer, Refusal):
            raise error_of(answer)
        assert isinstance(answer, expected), f"{type(answer).__name__} answered {type(message).__name__}"
        return answer

    async def _ask_of(self, message: Any, expected: type[R], name: str) -> R:
        """Ask about the schedule or calendar `name`."""
        answer = await self._channel.request(message, timeout_ms=self._timeout_ms)
        if isinstance(answer, Refusal):
            raise error_of_schedules(answer, name, self.tenant)
        assert isinstance(answer, expected), f"{type(answer).__name__} answered {type(message).__name__}"
        return answer

    async def _meet(self) -> None:
        """Know the handlers there are."""
        if not self._has_met:
            await self.hello()

    async def meet_if_there(self) -> bool:
        """Know the handlers there are, if a scheduler is there to tell; whether it was. Raises: NatsUnreachableError."""
        if not self._has_met and self._clock.mono_ns() >= self._meet_again_ns:
            try:
                self._learn(await self._ask(api.Hello(), api.Welcome, timeout_ms=_MEET_MS))
            except (NotRunningError, DeadlineError):
                self._meet_again_ns = self._clock.mono_ns() + _MEET_AGAIN_MS * 1_000_000
        return self._has_met

    def unheard_of(self, handler: str) -> str:
        """Return what to say of a handler that no worker of the cluster has told of, empty if one has. Such a task is not
        refused, since its worker may come later."""
        return unheard_of(self._channel, handler, self._specs.known())

    async def hello(self) -> api.Welcome:
        """Ask who is there, and learn the handlers that tasks may name. Raises: NotRunningError, VersionError."""
        welcome = await self._ask(api.Hello(), api.Welcome)
        self._learn(welcome)
        return welcome

    def _learn(self, welcome: api.Welcome) -> None:
        self._specs.learn(welcome.handlers)
        self._has_met = True
        self._slots = welcome.shards
        if self._one_way is not None:
            self._one_way.slots = self._slots

    # -- submitting ------------------------------------------------------------------------------------------------

    @overload
    async def submit(self, handler: Handler[..., R], /, *args: Any, **kwargs: Any) -> Task[R]: ...
    @overload
    async def submit(self, handler: str, /, *args: Any, **kwargs: Any) -> Task[Any]: ...
    async def submit(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Submit one task; it is durable when this returns.

        `args`, `kwargs`: the handler's arguments, and options: queue, priority, delay, at, dedupe_key, key, on_conflict,
        max_attempts, timeout, past ("run" or "refuse" what is due in the past). An option's name that the handler has as
        a parameter belongs to the handler; use `submit_with` then. A handler may be named by text: its own options hold,
        but its arguments are checked by the scheduler, in a cluster by the worker, and a concurrency key has to be given.
        A cluster refuses no handler that it does not know, since its worker may come later; see `unheard_of`.
        Raises: PayloadError, InvalidOptionError, DuplicateTaskError, OverloadedError, RateLimitedError, ...
        """
        if not self._has_met and isinstance(handler, str):
            await self.hello()
        return await self.submit_spec(self._specs.make(handler, args, kwargs), handler)

    @overload
    async def submit_with(
        self, handler: Handler[..., R], arguments: dict[str, Any], options: Options | None = None
    ) -> Task[R]: ...
    @overload
    async def submit_with(self, handler: str, arguments: dict[str, Any], options: Options | None = None) -> Task[Any]: ...
    async def submit_with(
        self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options | None = None
    ) -> Task[Any]:
        """Submit one task whose arguments and options are told apart."""
        if not self._has_met and isinstance(handler, str):
            await self.hello()
        return await self.submit_spec(self._specs.make_with(handler, (), arguments, options or Options()), handler)

    async def shell(self, command: str | Sequence[str], **arguments: Any) -> ShellTask:
        """Submit a shell command: a text for the shell, or a program with its arguments, which needs no quoting.

        `arguments`: of the command (shell, env, clean_env, cwd, user, stdin, limits, output_max, ok_codes, background),
        and options as for `submit` (timeout, max_attempts, delay, queue, ...).
        Raises: ShellNotServedError if no worker runs commands, and as `submit`.
        """
        try:
            task = await self.submit(SHELL, **shell_arguments(command, arguments))
        except UnknownTaskError as error:
            raise ShellNotServedError from error
        return ShellTask(self, task.number, handler=SHELL, existing=task.existing)

    async def submit_spec(self, spec: Spec, handler: Handler[..., Any] | str = "") -> Task[Any]:
        """Submit what `spec` made."""
        number, existing = await self._submitter.one(spec)
        return Task(self, number, handler=handler or spec.template.handler, existing=existing)

    def spec(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> Spec:
        """Return a task to submit later with `submit_many`; arguments and options as for `submit`. A handler named by
        text is known by its options once the client was entered, or has said `hello`."""
        return self._specs.make(handler, args, kwargs)

    def spec_with(self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options) -> Spec:
        """Return a task to submit later, whose arguments and options are told apart."""
        return self._specs.make_with(handler, (), arguments, options)

    async def submit_many(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None = None,
        ids: bool = False,
        batch: int = 500,
        in_flight: int = 8,
        patience: Span = 60,
    ) -> BulkResult:
        """Submit any number of tasks in bounded memory.

        `progress`: called with how many were answered so far. `ids`: keep the ids, by position. `patience`: how long to
        go on while nothing at all is accepted, because the scheduler is overloaded or away.
        Raises: BulkStoppedError.
        """
        return await self._submitter.many(
            specs, progress=progress, keep_ids=ids, batch=batch, in_flight=in_flight,
            patience_ms=parse_span(patience, what="patience"),
        )  # fmt: skip

    # -- submitting one-way ------------------------------------------------------------------------------------------

    async def submit_one_way(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        """Hand one task to the broker of a cluster, and wait for nothing else: for those by the thousand whose sender has no
        use for an id or an answer.

        When this returns the task is accepted by the broker, not yet by the scheduler: a node takes it in as soon as there
        is one, once, also if it was handed over twice because a confirmation was lost. One that the scheduler then refuses,
        since a quota is used up, say, is dropped and counted, and nobody is told. `args`, `kwargs`: as for `submit`; of a
        handler named by text the node adds the own options if none was there to ask for them.
        Raises: ClusterOnlyError if the scheduler is one process; PayloadError, InvalidOptionError, UnavailableError.
        """
        one_way = self._one_way_sender("submit_one_way")
        if isinstance(handler, str):
            await self.meet_if_there()
        await one_way.one(self._specs.make(handler, args, kwargs))

    async def submit_one_way_with(
        self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options | None = None
    ) -> None:
        """The same for a task whose arguments and options are told apart."""
        one_way = self._one_way_sender("submit_one_way_with")
        if isinstance(handler, str):
            await self.meet_if_there()
        await one_way.one(self._specs.make_with(handler, (), arguments, options or Options()))

    async def submit_many_one_way(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None = None,
        batch: int = 256,
        in_flight: int = 8,
        patience: Span = 60,
    ) -> BulkResult:
        """Hand any number of tasks to the broker, in bounded memory; see `submit_one_way`, and `submit_many` for the rest.

        Returns: `accepted` counts those that the broker has. Raises: ClusterOnlyError, BulkStoppedError."""
        one_way = self._one_way_sender("submit_many_one_way")
        await self.meet_if_there()
        done = await one_way.many(
            specs, progress=progress, batch=batch, in_flight=in_flight, patience_ms=parse_span(patience, what="patience")
        )
        return BulkResult(done.decided, done.handed_over, 0, done.refused_count, done.refused)

    def _one_way_sender(self, what: str) -> OneWay:
        """Raises: ClusterOnlyError."""
        if self._one_way is None:
            self._one_way = OneWay(
                broker_of(self._channel, what), self.tenant, clock=self._clock, rng=self._rng.stream("one way"),
                timeout_ms=self._timeout_ms,
            )  # fmt: skip
        self._one_way.slots = self._slots
        return self._one_way

    # -- events ------------------------------------------------------------------------------------------------------

    def events(
        self,
        since: Span | datetime | None = None,
        *,
        cursor: str = "",
        follow: bool = True,
        on_missed: Callable[[int], object] | None = None,
        on_silent: Callable[[Sequence[str]], object] | None = None,
    ) -> AsyncIterator[TaskEvent]:
        """Go through what becomes of the tenant's tasks, in a cluster whose nodes tell events (`foliot node --events`).

            async for event in client.events(since="1h"):
                print(event.task_id, event.before, event.after)

        `since`: how long ago, or a moment; None: from now on. `cursor`: of an event seen earlier, to go on from there
        instead. `follow`: wait for more at the end of what is kept, for ever. `on_missed`: called with how many of the
        feed's messages are missing at this place, -1 if the feed itself was lost; a warning is logged otherwise.
        `on_silent`: called at the start with the names of nodes that tell no events, if there are any and the client may
        know; a warning is logged otherwise. Events are kept for a day.
        Raises: ClusterOnlyError, NoEventsError, InvalidRequestError for a cursor that is none; UnavailableError.
        """
        reader = EventReader(
            broker_of(self._channel, "events"), self.tenant, clock=self._clock, timeout_ms=self._timeout_ms,
            silent_nodes=self._silent_nodes,
        )  # fmt: skip
        return reader.read(since, cursor=cursor, follow=follow, on_missed=on_missed, on_silent=on_silent)

    async def _silent_nodes(self) -> Sequence[str]:
        """Return the nodes that tell no events, as far as this client may know."""
        try:
            members = (await self.members()).members
        except FoliotError:
            return []
        return [member.name for member in members if member.figures.get(EVENTS_TOLD) == 0]

    # -- looking ---------------------------------------------------------------------------------------------------

    def task(self, task: str | int) -> Task[Any]:
        """Return a handle on a task that was submitted earlier. Raises: InvalidIdError."""
        return Task(self, number_of(task))

    async def get(self, task: Task[Any] | str | int) -> TaskInfo:
        """Return all that is known of a task. Raises: TaskNotFoundError."""
        number = number_of(task)
        found = await self._ask(api.GetTasks(self.tenant, [number]), api.TasksFound)
        if not found.tasks:
            raise TaskNotFoundError(to_text(number), self.tenant)
        return info_of(found.tasks[0])

    async def get_many(self, tasks: Iterable[Task[Any] | str | int]) -> Sequence[TaskInfo]:
        """Return what is known of many tasks, in order; missing ones are left out."""
        numbers = [number_of(task) for task in tasks]
        infos: Sequence[TaskInfo] = []
        for start in range(0, len(numbers), _CHUNK):
            found = await self._ask(api.GetTasks(self.tenant, numbers[start : start + _CHUNK]), api.TasksFound)
            infos = [*infos, *map(info_of, found.tasks)]
        return infos

    async def page(
        self,
        *,
        states: Iterable[str] = (),
        queue: str = "",
        handler: str = "",
        before: str = "",
        limit: int = 100,
        all_tenants: bool = False,
    ) -> Page:
        """Return one page of tasks, newest first."""
        message = api.ListTasks(
            tenant="" if all_tenants else self.tenant,
            states=[_state_number(state) for state in states],
            queue=queue,
            handler=handler,
            before=from_text(before) if before else 0,
            limit=limit,
        )
        listed = await self._ask(message, api.TasksListed)
        next_before = to_text(listed.next_before) if listed.next_before else ""
        return Page([info_of(view) for view in listed.tasks], next_before)

    async def result(self, task: Task[Any] | str | int, timeout: Span | None = None) -> Any:
        """Wait for a task and return its result; see `Task.result`."""
        if isinstance(task, Task):
            return await task.result(timeout)
        return decoded(await self._result(number_of(task), timeout))

    async def _result(self, number: int, timeout: Span | None) -> bytes:
        timeout_ms = None if timeout is None else parse_span(timeout, what="timeout")
        end = await self._watcher.end_of(number, timeout_ms)
        if end is None:
            raise ResultTimeoutError(to_text(number), timeout_ms or 0)
        error = error_of_end(end, self.tenant)
        if error is not None:
            raise error
        return end.result

    async def wait(self, task: Task[Any] | str | int, timeout: Span | None = None) -> str:
        """Wait for a task to end in any way. Returns: the name of its state. Raises: ResultTimeoutError."""
        number = number_of(task)
        timeout_ms = None if timeout is None else parse_span(timeout, what="timeout")
        end = await self._watcher.end_of(number, timeout_ms)
        if end is None:
            raise ResultTimeoutError(to_text(number), timeout_ms or 0)
        if not end.state:
            raise TaskNotFoundError(to_text(number), self.tenant)
        return state_label(end.state)

    async def logs(self, task: Task[Any] | str | int, *, attempt: int = 0) -> str:
        """Return a task's captured output, of one attempt or of all. Raises: NotFoundError."""
        read = await self._ask(api.ReadLogs(self.tenant, number_of(task), attempt), api.LogsRead)
        return b"".join([part.text for part in read.parts]).decode(errors="replace")

    async def logs_by_attempt(self, task: Task[Any] | str | int, *, attempt: int = 0) -> dict[int, str]:
        """Return a task's captured output by attempt, of those that have any. Raises: NotFoundError."""
        read = await self._ask(api.ReadLogs(self.tenant, number_of(task), attempt), api.LogsRead)
        texts: dict[int, bytes] = {}
        for part in read.parts:
            texts[part.attempt] = texts.get(part.attempt, b"") + part.text
        return {number: text.decode(errors="replace") for number, text in texts.items()}

    async def why(self, task: Task[Any] | str | int) -> WhyInfo:
        """Return why a task does not run, or where it is. Raises: TaskNotFoundError."""
        number = number_of(task)
        read = await self._ask(api.WhyTasks(self.tenant, [number]), api.WhyRead)
        if read.tasks[0].reason == "not_found":
            raise TaskNotFoundError(to_text(number), self.tenant)
        return why_of(read.tasks[0])

    # -- steering tasks --------------------------------------------------------------------------------------------

    async def cancel(self, task: Task[Any] | str | int, *, reason: str = "") -> str:
        """End a task before it is done. Returns: `cancelled` (it never started), `cancelling` (it runs and was told), or
        `ended` (too late). Raises: TaskNotFoundError."""
        return self._one(task, await self.cancel_many([task], reason=reason))

    async def cancel_many(self, tasks: Iterable[Task[Any] | str | int], *, reason: str = "") -> Sequence[str]:
        """Cancel many; returns a word for each, `not_found` among them."""
        return await self._command(tasks, lambda ids: CancelTasks(self.tenant, ids, reason))

    async def retry(self, task: Task[Any] | str | int, *, payload: dict[str, Any] | None = None) -> str:
        """Queue an ended task again, its attempts counted anew. `payload`: arguments that replace the old ones.
        Returns: `retried`, or `alive` if it has not ended. Raises: TaskNotFoundError."""
        try:
            data = None if payload is None else Packer().pack(payload)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidOptionError("payload", type(payload), f"arguments msgpack has ({error})") from error
        return self._one(task, await self._command([task], lambda ids: RetryTasks(self.tenant, ids, data)))

    async def retry_many(self, tasks: Iterable[Task[Any] | str | int]) -> Sequence[str]:
        """Retry many; returns a word for each, `not_found` among them."""
        return await self._command(tasks, lambda ids: RetryTasks(self.tenant, ids))

    async def purge(self, task: Task[Any] | str | int) -> str:
        """Delete an ended task for good. Returns: `purged` or `alive`. Raises: TaskNotFoundError."""
        return self._one(task, await self.purge_many([task]))

    async def purge_many(self, tasks: Iterable[Task[Any] | str | int]) -> Sequence[str]:
        """Purge many; returns a word for each, `not_found` among them."""
        return await self._command(tasks, lambda ids: PurgeTasks(self.tenant, ids))

    async def _command(
        self, tasks: Iterable[Task[Any] | str | int], make: Callable[[Any], CancelTasks | RetryTasks | PurgeTasks]
    ) -> Sequence[str]:
        numbers = [number_of(task) for task in tasks]
        outcomes: Sequence[str] = []
        for start in range(0, len(numbers), _CHUNK):
            answered = await self._ask(make(numbers[start : start + _CHUNK]), TasksAnswered)
            outcomes = [*outcomes, *answered.outcomes]
        return outcomes

    def _one(self, task: Task[Any] | str | int, outcomes: Sequence[str]) -> str:
        if outcomes[0] == "not_found":
            raise TaskNotFoundError(to_text(number_of(task)), self.tenant)
        return outcomes[0]

    # -- queues, workers, tenants ----------------------------------------------------------------------------------

    async def queues(self) -> Sequence[api.QueueView]:
        """Return all queues that are known."""
        return (await self._ask(api.ListQueues(), api.QueuesListed)).queues

    async def pause_queue(self, queue: str, *, pool: str = "default", by: str = "", why: str = "") -> QueueConfig:
        """Start nothing more from a queue until it is resumed."""
        return await self._set_queue(api.SetQueue(queue, pool, paused=True, by=by, why=why))

    async def resume_queue(self, queue: str, *, pool: str = "default") -> QueueConfig:
        return await self._set_queue(api.SetQueue(queue, pool, paused=False))

    async def limit_queue(
        self,
        queue: str,
        *,
        pool: str = "default",
        concurrency: int | None = None,
        max_waiting: int | None = None,
        ageing: Span | None = None,
    ) -> QueueConfig:
        """Change a queue's limits; what is None stays as it is, 0 means no limit. `concurrency`: slots running at once.
        `max_waiting`: submissions beyond it are refused. `ageing`: waiting this long raises a task by one priority."""
        ageing_ms = None if ageing is None else parse_span(ageing, what="ageing")
        return await self._set_queue(api.SetQueue(queue, pool, concurrency, max_waiting, ageing_ms))

    async def _set_queue(self, message: api.SetQueue) -> QueueConfig:
        return (await self._ask(message, QueueConfigured)).config

    async def workers(self) -> Sequence[WorkerRead]:
        """Return all worker sessions."""
        return (await self._ask(api.ListWorkers(), api.WorkersListed)).workers

    async def tenants(self) -> Sequence[api.TenantView]:
        """Return all tenants that are known."""
        return (await self._ask(api.ListTenants(), api.TenantsListed)).tenants

    async def configure_tenant(
        self,
        tenant: str | None = None,
        *,
        weight: int | None = None,
        rate: str | tuple[int, Span] | None = None,
        burst: int | None = None,
        max_pending: int | None = None,
        concurrency: int | None = None,
    ) -> TenantConfig:
        """Change a tenant's limits (default: the client's own); what is None stays as it is, 0 means no limit.

        `weight`: its share of contended queues. `rate`: admissions, such as "1000/min", or "none". `burst`: how many
        at once. `max_pending`: waiting tasks. `concurrency`: slots running at once.
        """
        count, per_ms = None, None
        if rate == "none":
            count = 0
        elif rate is not None:
            count, per_ms = parse_rate(rate, what="rate")
        message = api.SetTenant(tenant or self.tenant, weight, count, per_ms, burst, max_pending, concurrency)
        return (await self._ask(message, TenantConfigured)).config

    # -- the whole -------------------------------------------------------------------------------------------------

    async def verify(self) -> api.LedgerVerified:
        """Compare all counts of what was accepted, what ended and what is alive. See `transports.balance`."""
        return await self._ask(api.Verify(), api.LedgerVerified, timeout_ms=max(self._timeout_ms, 120_000))

    async def stats(self) -> api.StatsRead:
        """Return what waits and runs, and what the node tells about itself."""
        return await self._ask(api.ReadStats(), api.StatsRead)

    async def tallies(self, *, all_tenants: bool = False) -> Sequence[api.Tally]:
        """Return how many tasks wait and run, by queue, of the client's tenant or of all. Of its own a tenant may always
        ask; `stats`, `queues` and the like are about the whole, and in a cluster with accounts for operators only."""
        if not all_tenants and self._is_tenants_only:
            return await self._own_tallies()
        try:
            told = (await self.stats()).tallies
        except UsageError as error:
            if all_tenants or error.code != OPERATORS_ONLY:
                raise
            self._is_tenants_only = True
            return await self._own_tallies()
        return [tally for tally in told if all_tenants or tally.tenant == self.tenant]

    async def _own_tallies(self) -> Sequence[api.Tally]:
        from ..transports.nats import protocol as p

        broker = broker_of(self._channel, "tallies")
        told = await broker.ask(self.tenant, "queues", p.Queues(), p.QueuesTold, timeout_ms=self._timeout_ms)
        return [api.Tally(self.tenant, at.queue, at.accepted, at.waiting, at.running) for at in told.queues]

    async def members(self) -> api.MembersListed:
        """Return the nodes of the cluster; none if the scheduler is one process."""
        return await self._ask(api.ListMembers(), api.MembersListed)

    async def drain_member(self, name: str, *, why: str = "") -> api.MemberDraining:
        """Have a node of the cluster hand over its shards and end; it is told, and this does not wait for it."""
        return await self._ask(api.DrainMember(name, why), api.MemberDraining)

    async def wait_until_idle(self, timeout: Span | None = None, *, all_tenants: bool = False) -> None:
        """Wait until no task of the tenant waits (scheduled ones included) or runs. Raises: NotIdleError."""
        timeout_ms = None if timeout is None else parse_span(timeout, what="timeout")
        started_ns = self._clock.mono_ns()
        pause_ms = 2
        while True:
            tallies = await self.tallies(all_tenants=all_tenants)
            waiting, running = sum(at.waiting for at in tallies), sum(at.running for at in tallies)
            if not waiting and not running:
                return
            if timeout_ms is not None and (self._clock.mono_ns() - started_ns) // 1_000_000 >= timeout_ms:
                raise NotIdleError(waiting, running, timeout_ms)
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, 50)

    # Last in the class: below this line the name `list` means the method to a type checker.
    async def list(
        self,
        *,
        states: Iterable[str] = (),
        queue: str = "",
        handler: str = "",
        before: str = "",
        limit: int | None = None,
        all_tenants: bool = False,
    ) -> AsyncIterator[TaskInfo]:
        """Go through tasks, newest first, page by page. `limit`: at most so many."""
        states = tuple(states)
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = await self.page(
                states=states, queue=queue, handler=handler, before=before, limit=size, all_tenants=all_tenants
            )
            for info in page.tasks:
                yield info
            left = None if left is None else left - len(page.tasks)
            before = page.next_before
            if not before:
                return


def number_of(task: Task[Any] | str | int) -> int:
    """Return the number of a task, of its text form, or of a handle. Raises: InvalidIdError."""
    if isinstance(task, Task):
        return task.number
    if not isinstance(task, int):
        return from_text(task)
    if not 0 <= task <= MAX_ID:
        raise InvalidIdError(f"{task:#x}")  # hexadecimal, since Python refuses to write very long numbers in decimal
    return task


def _state_number(label: str) -> int:
    state = State.__members__.get(label.upper()) if isinstance(label, str) else None
    if state is None:
        raise InvalidOptionError("state", label, ", ".join(state.label for state in State))
    return int(state)
