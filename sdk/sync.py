"""The client for people without asyncio: the same methods, blocking, on an event loop in a thread of its own."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..actors.messages import QueueConfig, TenantConfig, WorkerRead
from ..runtime.errors import UsageError
from ..transports import api
from .client import Client, Page, Task
from .client_events import TaskEvent
from .client_spec import Options, Spec
from .client_submit import BulkResult
from .client_views import TaskInfo, WhyInfo
from .durations import Span
from .handler import Handler
from .schedules_sync import SyncCalendars, SyncSchedules
from .shell import ShellResult

R = TypeVar("R")


class NotOpenError(UsageError):
    """A sync client was used outside its `with` block."""

    code = "not_open"

    def __init__(self) -> None:
        super().__init__("the client is not open, expected use inside 'with SyncClient() as client:'")


class SyncTask(Generic[R]):
    """A submitted task; see `Task`."""

    __slots__ = ("_client", "_task")

    def __init__(self, client: SyncClient, task: Task[R]) -> None:
        self._client = client
        self._task = task

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def existing(self) -> bool:
        return self._task.existing

    def result(self, timeout: Span | None = None) -> R:
        """Wait for the task to complete and return its result; see `Task.result`."""
        return self._client._call(self._task.result, timeout)

    def status(self) -> str:
        return self._client._call(self._task.status)

    def info(self) -> TaskInfo:
        return self._client._call(self._task.info)

    def cancel(self, reason: str = "") -> str:
        return self._client._call(self._task.cancel, reason)

    def retry(self) -> str:
        return self._client._call(self._task.retry)

    def logs(self, attempt: int = 0) -> str:
        return self._client._call(self._task.logs, attempt)

    def why(self) -> WhyInfo:
        return self._client._call(self._task.why)

    def __repr__(self) -> str:
        return repr(self._task)


class SyncClient:
    """A blocking client; arguments and methods are those of `Client`. May be used from several threads at once."""

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str = "default",
        connect_timeout: Span = 0,
        timeout: Span = 30,
    ) -> None:
        self.tenant = tenant
        self._make = functools.partial(Client, address, tenant=tenant, connect_timeout=connect_timeout, timeout=timeout)
        self.schedules = SyncSchedules(self)
        self.calendars = SyncCalendars(self)
        self._opened: tuple[AbstractContextManager[BlockingPortal], BlockingPortal, Client] | None = None

    def __enter__(self) -> SyncClient:
        thread = start_blocking_portal(backend="asyncio")
        portal = thread.__enter__()
        try:
            client = portal.call(self._begin)
        except BaseException as error:
            thread.__exit__(type(error), error, error.__traceback__)
            raise
        self._opened = (thread, portal, client)
        return self

    async def _begin(self) -> Client:
        client = self._make()
        try:
            return await client.__aenter__()
        except BaseException:
            await client.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish submissions under way, let go of the connection, end the thread."""
        if self._opened is None:
            return
        thread, portal, client = self._opened
        self._opened = None
        try:
            portal.call(client.close)
        finally:
            thread.__exit__(None, None, None)

    @property
    def _client(self) -> Client:
        if self._opened is None:
            raise NotOpenError
        return self._opened[2]

    def _call(self, function: Callable[..., Coroutine[Any, Any, R]], *args: Any, **kwargs: Any) -> R:
        if self._opened is None:
            raise NotOpenError
        result: R = self._opened[1].call(functools.partial(function, *args, **kwargs))
        return result

    # -- submitting ------------------------------------------------------------------------------------------------

    @overload
    def submit(self, handler: Handler[..., R], /, *args: Any, **kwargs: Any) -> SyncTask[R]: ...
    @overload
    def submit(self, handler: str, /, *args: Any, **kwargs: Any) -> SyncTask[Any]: ...
    def submit(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> SyncTask[Any]:
        """Submit one task; it is durable when this returns. See `Client.submit`."""
        spec = self._client.spec(handler, *args, **kwargs)
        return SyncTask(self, self._call(self._client.submit_spec, spec, handler))

    def shell(self, command: str | Sequence[str], **arguments: Any) -> SyncTask[ShellResult]:
        """Submit a shell command. See `Client.shell`."""
        return SyncTask(self, self._call(self._client.shell, command, **arguments))

    @overload
    def submit_with(
        self, handler: Handler[..., R], arguments: dict[str, Any], options: Options | None = None
    ) -> SyncTask[R]: ...
    @overload
    def submit_with(self, handler: str, arguments: dict[str, Any], options: Options | None = None) -> SyncTask[Any]: ...
    def submit_with(
        self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options | None = None
    ) -> SyncTask[Any]:
        """Submit one task whose arguments and options are told apart."""
        spec = self._client.spec_with(handler, arguments, options or Options())
        return SyncTask(self, self._call(self._client.submit_spec, spec, handler))

    def spec_with(self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options) -> Spec:
        return self._client.spec_with(handler, arguments, options)

    def spec(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> Spec:
        return self._client.spec(handler, *args, **kwargs)

    def submit_many(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None = None,
        ids: bool = False,
        batch: int = 500,
        in_flight: int = 8,
        patience: Span = 60,
    ) -> BulkResult:
        """Submit any number of tasks in bounded memory; `specs` and `progress` are called in the client's thread."""
        return self._call(
            self._client.submit_many, specs, progress=progress, ids=ids, batch=batch, in_flight=in_flight,
            patience=patience,
        )  # fmt: skip

    def submit_one_way(self, handler: Handler[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        """Hand one task to the broker of a cluster, and wait for nothing else. See `Client.submit_one_way`."""
        self._call(self._client.submit_one_way, handler, *args, **kwargs)

    def submit_one_way_with(
        self, handler: Handler[..., Any] | str, arguments: dict[str, Any], options: Options | None = None
    ) -> None:
        self._call(self._client.submit_one_way_with, handler, arguments, options)

    def submit_many_one_way(
        self,
        specs: Iterable[Spec] | AsyncIterable[Spec],
        *,
        progress: Callable[[int], object] | None = None,
        batch: int = 256,
        in_flight: int = 8,
        patience: Span = 60,
    ) -> BulkResult:
        """Hand any number of tasks to the broker. See `Client.submit_many_one_way`."""
        return self._call(
            self._client.submit_many_one_way, specs, progress=progress, batch=batch, in_flight=in_flight, patience=patience
        )

    def events(
        self,
        since: Span | datetime | None = None,
        *,
        cursor: str = "",
        follow: bool = True,
        on_missed: Callable[[int], object] | None = None,
    ) -> Iterator[TaskEvent]:
        """Go through what becomes of tasks. See `Client.events`; `on_missed` is called in the client's thread."""
        events = self._client.events(since, cursor=cursor, follow=follow, on_missed=on_missed)

        async def following() -> TaskEvent | None:
            return await anext(events, None)

        while (event := self._call(following)) is not None:
            yield event

    # -- looking ---------------------------------------------------------------------------------------------------

    def task(self, task: str | int) -> SyncTask[Any]:
        return SyncTask(self, self._client.task(task))

    def get(self, task: SyncTask[Any] | str | int) -> TaskInfo:
        return self._call(self._client.get, _ref(task))

    def page(
        self,
        *,
        states: Iterable[str] = (),
        queue: str = "",
        handler: str = "",
        before: str = "",
        limit: int = 100,
        all_tenants: bool = False,
    ) -> Page:
        return self._call(
            self._client.page, states=tuple(states), queue=queue, handler=handler, before=before, limit=limit,
            all_tenants=all_tenants,
        )  # fmt: skip

    def result(self, task: SyncTask[Any] | str | int, timeout: Span | None = None) -> Any:
        if isinstance(task, SyncTask):
            return task.result(timeout)
        return self._call(self._client.result, task, timeout)

    def wait(self, task: SyncTask[Any] | str | int, timeout: Span | None = None) -> str:
        return self._call(self._client.wait, _ref(task), timeout)

    def logs(self, task: SyncTask[Any] | str | int, *, attempt: int = 0) -> str:
        return self._call(self._client.logs, _ref(task), attempt=attempt)

    def why(self, task: SyncTask[Any] | str | int) -> WhyInfo:
        return self._call(self._client.why, _ref(task))

    # -- steering tasks --------------------------------------------------------------------------------------------

    def cancel(self, task: SyncTask[Any] | str | int, *, reason: str = "") -> str:
        return self._call(self._client.cancel, _ref(task), reason=reason)

    def cancel_many(self, tasks: Iterable[SyncTask[Any] | str | int], *, reason: str = "") -> Sequence[str]:
        return self._call(self._client.cancel_many, [_ref(task) for task in tasks], reason=reason)

    def retry(self, task: SyncTask[Any] | str | int, *, payload: dict[str, Any] | None = None) -> str:
        return self._call(self._client.retry, _ref(task), payload=payload)

    def retry_many(self, tasks: Iterable[SyncTask[Any] | str | int]) -> Sequence[str]:
        return self._call(self._client.retry_many, [_ref(task) for task in tasks])

    def purge(self, task: SyncTask[Any] | str | int) -> str:
        return self._call(self._client.purge, _ref(task))

    def purge_many(self, tasks: Iterable[SyncTask[Any] | str | int]) -> Sequence[str]:
        return self._call(self._client.purge_many, [_ref(task) for task in tasks])

    # -- queues, workers, tenants ----------------------------------------------------------------------------------

    def queues(self) -> Sequence[api.QueueView]:
        return self._call(self._client.queues)

    def pause_queue(self, queue: str, *, pool: str = "default", by: str = "", why: str = "") -> QueueConfig:
        return self._call(self._client.pause_queue, queue, pool=pool, by=by, why=why)

    def resume_queue(self, queue: str, *, pool: str = "default") -> QueueConfig:
        return self._call(self._client.resume_queue, queue, pool=pool)

    def limit_queue(
        self,
        queue: str,
        *,
        pool: str = "default",
        concurrency: int | None = None,
        max_waiting: int | None = None,
        ageing: Span | None = None,
    ) -> QueueConfig:
        return self._call(
            self._client.limit_queue, queue, pool=pool, concurrency=concurrency, max_waiting=max_waiting, ageing=ageing
        )

    def workers(self) -> Sequence[WorkerRead]:
        return self._call(self._client.workers)

    def tenants(self) -> Sequence[api.TenantView]:
        return self._call(self._client.tenants)

    def configure_tenant(
        self,
        tenant: str | None = None,
        *,
        weight: int | None = None,
        rate: str | tuple[int, Span] | None = None,
        burst: int | None = None,
        max_pending: int | None = None,
        concurrency: int | None = None,
    ) -> TenantConfig:
        return self._call(
            self._client.configure_tenant, tenant, weight=weight, rate=rate, burst=burst, max_pending=max_pending,
            concurrency=concurrency,
        )  # fmt: skip

    # -- the whole -------------------------------------------------------------------------------------------------

    def verify(self) -> api.LedgerVerified:
        return self._call(self._client.verify)

    def stats(self) -> api.StatsRead:
        return self._call(self._client.stats)

    def tallies(self, *, all_tenants: bool = False) -> Sequence[api.Tally]:
        return self._call(self._client.tallies, all_tenants=all_tenants)

    def wait_until_idle(self, timeout: Span | None = None, *, all_tenants: bool = False) -> None:
        self._call(self._client.wait_until_idle, timeout, all_tenants=all_tenants)

    # Last in the class: below this line the name `list` means the method to a type checker.
    def list(
        self,
        *,
        states: Iterable[str] = (),
        queue: str = "",
        handler: str = "",
        before: str = "",
        limit: int | None = None,
        all_tenants: bool = False,
    ) -> Iterator[TaskInfo]:
        """Go through tasks, newest first, page by page."""
        states = tuple(states)
        left = limit
        while left is None or left > 0:
            size = 200 if left is None else min(left, 200)
            page = self.page(states=states, queue=queue, handler=handler, before=before, limit=size, all_tenants=all_tenants)
            yield from page.tasks
            left = None if left is None else left - len(page.tasks)
            before = page.next_before
            if not before:
                return


def _ref(task: SyncTask[Any] | str | int) -> Task[Any] | str | int:
    return task._task if isinstance(task, SyncTask) else task
