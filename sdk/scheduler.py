"""The embedded form: scheduler, store and workers in one process, put together here and nowhere else.

This is an entry point: it builds the clock and the seeded randomness once and passes them down. On the way out everything
is left in order: schedules are held, workers drain, what was not started is handed back, the store is closed last.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from ..actors.addresses import shard_address
from ..actors.cast import makers
from ..actors.messages import Template
from ..actors.schedule_messages import HoldSchedules
from ..actors.shard import ShardConfig
from ..runtime.bus import Envelope
from ..runtime.clock import Clock, SystemClock
from ..runtime.errors import FoliotError
from ..runtime.node import Node, NodeConfig
from ..runtime.rng import Rng
from ..stores.hosting import poison_in, shards_on
from ..stores.sqlite import SqliteConfig, open_sqlite
from ..transports.gateway import Gateway
from ..transports.local import LocalServer
from ..transports.memory import MemoryBus
from .app import Foliot
from .client import Client
from .declared import Refused, put_declared, warn_of_undeclared
from .housekeeping import figures_of, tidy
from .logs import configure_logging_once
from .payload import PayloadError
from .tuning import tuned_interpreter
from .worker import Worker

log = structlog.get_logger("foliot")


@dataclass(frozen=True)
class SchedulerOptions:
    """How an embedded scheduler runs. `database`: a file. `socket`: a path, or None for no socket."""

    database: str = "foliot.db"
    socket: str | None = None
    shards: int = 2  # fixed when the database is made
    workers: int = 1
    concurrency: int = 2_000  # attempts at once, for each worker
    threads: int = 32
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    commands: int = 32  # shell commands at once, for each worker
    queues: tuple[str, ...] = ()  # names; empty: all that the apps' tasks name
    labels: dict[str, str] = field(default_factory=dict)
    drain_grace_ms: int = 30_000
    retention_ms: int = 7 * 86_400_000
    synchronous: str = "full"
    encode_messages: bool = False  # really encode and decode every message between actors


class Scheduler:
    """An embedded scheduler with its workers, as an async context manager.

        async with Scheduler(app, database="foliot.db") as scheduler:
            task = await scheduler.client().submit(send_receipt, order_id=42)

    Leaving the block drains the workers and closes the database. Raises on entering: StoreInUseError if another process
    has the file, StoreUnusableError if the file cannot be used.
    """

    def __init__(
        self, *apps: Foliot, options: SchedulerOptions | None = None, clock: Clock | None = None, **overrides: Any
    ) -> None:
        """`clock`: by default the machine's. `overrides`: of `SchedulerOptions`, where `options` are not given."""
        self._apps = apps
        self._options = options or SchedulerOptions(**overrides)
        self._clock: Clock = clock or SystemClock()
        self._rng = Rng.of_the_system()
        self._name = f"{sockets.gethostname()}:{os.getpid()}"
        self._living: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._known: dict[str, tuple[Template, int]] = {}
        self.workers: list[Worker] = []
        self.refused: Sequence[Refused] = ()  # what the apps declare and the start could not put

    # -- life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Scheduler:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A task of its own, so that the block may be entered and left in different ones, as fixtures do.
        self._living = asyncio.create_task(self._live(ready), name="foliot-scheduler")
        try:
            await asyncio.wait([ready, self._living], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._leave.set()
            await asyncio.wait([self._living])
            raise
        if not ready.done():
            await self._end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:  # fmt: skip
        self._leave.set()
        await self._end()

    async def stopped(self) -> None:
        """Return when the scheduler has stopped of itself, which only a failure makes it do; leaving the block raises
        that failure."""
        assert self._living is not None
        await asyncio.wait([self._living])

    async def _end(self) -> None:
        assert self._living is not None
        try:
            await asyncio.shield(self._living)
        except asyncio.CancelledError:
            self._leave.set()
            await asyncio.wait([self._living])
            raise
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None

    async def _live(self, ready: asyncio.Future[None]) -> None:
        options = self._options
        configure_logging_once()
        self.store = await open_sqlite(
            options.database, clock=self._clock, shards=options.shards,
            config=SqliteConfig(synchronous=options.synchronous),
        )  # fmt: skip
        try:
            self.shards = self.store.shards
            self.bus = MemoryBus(encode=options.encode_messages)
            self.node = self._make_node()
            self.gateway = Gateway(
                self.bus, self.store, clock=self._clock, rng=self._rng.stream("gateway"), shards=self.shards,
                directory=self.node.addresses, worker_counts=self._worker_counts, figures=self.figures,
                handlers=self._handlers if self._apps else None, misfit=self._misfit if self._apps else None,
            )  # fmt: skip
            with tuned_interpreter():
                await self._serve(ready)
        finally:
            with anyio.CancelScope(shield=True):
                await self.store.close()

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        options = self._options
        async with anyio.create_task_group() as group:
            started = anyio.Event()
            group.start_soon(self._run_node, started.set, name="node")
            await started.wait()
            await self.gateway.begin()
            group.start_soon(self._tidy, name="janitor")
            async with AsyncExitStack() as stack:
                if options.socket is not None:
                    await stack.enter_async_context(LocalServer(self.gateway, options.socket))
                for number in range(options.workers if self._apps else 0):
                    self._start_worker(number, group)
                self.refused = await put_declared(self._apps, self.client())
                group.start_soon(self._look_for_undeclared, name="declarations")
                ready.set_result(None)
                try:
                    await self._leave.wait()
                finally:
                    await self._drain()
            group.cancel_scope.cancel()

    def client(self, *, tenant: str = "default") -> Client:
        """Return a client inside this process; it needs no `async with` of its own."""
        return Client(channel=self.gateway, tenant=tenant, clock=self._clock)

    # -- parts -----------------------------------------------------------------------------------------------------------

    def _make_node(self) -> Node:
        return Node(
            NodeConfig(name=self._name, slots=self.shards), bus=self.bus, clock=self._clock,
            rng=self._rng.stream("node"), kinds=makers(self.shards), poison=poison_in(self.store, self._clock),
        )  # fmt: skip

    async def _run_node(self, started: Callable[[], None]) -> None:
        config = ShardConfig(shards=self.shards, workers_are_local=True)
        await self.node.run(shards_on(self.store, config, node=self._name), started=started)

    def _start_worker(self, number: int, group: TaskGroup) -> None:
        options = self._options
        name = f"{sockets.gethostname()}-{os.getpid()}-{number}"
        worker = Worker(
            self._apps, bus=self.bus, clock=self._clock, rng=self._rng.stream(f"worker/{number}"), name=name,
            shards=self.shards, queues=self._queues(), concurrency=options.concurrency, threads=options.threads,
            processes=options.processes, commands=options.commands, labels=options.labels,
            drain_grace_ms=options.drain_grace_ms,
        )  # fmt: skip
        self.workers.append(worker)
        group.start_soon(worker.run, name=f"worker-{number}")

    async def _look_for_undeclared(self) -> None:
        """A look that fails is no reason to stop: it is made again at the next start."""
        try:
            await warn_of_undeclared(self._apps, self.client())
        except FoliotError as error:
            log.warning("declarations_not_looked_at", error=str(error))

    def _queues(self) -> Sequence[tuple[str, str]] | None:
        return [("default", name) for name in self._options.queues] or None

    async def _drain(self) -> None:
        """Nothing ticks from here on: what ticked now would wait for the next start, however late that is."""
        for shard in range(self.shards):
            self.bus.send(Envelope(shard_address(shard), HoldSchedules()))
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for worker in self.workers:
                    group.start_soon(worker.drain)

    async def _tidy(self) -> None:
        """Raises: StoreUnusableError if the file is gone."""
        await tidy(self.store, self._clock, self._options.retention_ms, check=self.store.check_file)

    def _handlers(self) -> Mapping[str, tuple[Template, int]]:
        """Return the handlers there are; the mapping is made again only when an app got another."""
        count = sum([len(app.handlers) for app in self._apps])
        if count != len(self._known):
            handlers = [handler for app in self._apps for handler in app.handlers.values()]
            self._known = {handler.name: (handler.template, handler.default_priority) for handler in handlers}
        return self._known

    def _misfit(self, name: str, payload: bytes) -> str | None:
        """Say what is wrong with a payload that was made without the handler at hand."""
        for app in self._apps:
            handler = app.handlers.get(name)
            if handler is not None:
                try:
                    handler.decode(payload)
                except PayloadError as error:
                    return str(error)
                break
        return None

    def _worker_counts(self) -> dict[tuple[str, str, int], int]:
        totals: dict[tuple[str, str, int], int] = {}
        for worker in self.workers:
            for key, count in worker.counts.items():
                totals[key] = totals.get(key, 0) + count
        return totals

    def figures(self) -> dict[str, float]:
        """Return what this process measured of itself: CPU by stage in ns, commits, rows."""
        return figures_of(self.store, self.node, self.bus.dropped)
