"""A worker process of a cluster: a session over NATS, for the handlers of its apps.

It needs to know nothing but the broker: the number of slots is told by whichever node answers first, and a worker that
comes before the nodes waits for them. What the embedded form's workers do and promise (`sdk.worker`) holds here as it
is: a session that lost its broker goes on when it is back, and one that was given up meanwhile begins again under
another name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import anyio
import structlog

from ...actors.addresses import check_name
from ...runtime.clock import Clock, SystemClock
from ...runtime.errors import FoliotError, UnavailableError
from ...runtime.rng import Rng
from ...transports.nats.bus import NatsBus
from ...transports.nats.channel import NatsChannel
from ...transports.nats.config import NatsConfig
from ...transports.nats.link import NatsLink
from ..app import Foliot
from ..client import Client
from ..declared import put_declared, tell_again, warn_of_undeclared
from ..logs import configure_logging_once
from ..tuning import tuned_interpreter
from ..worker import Worker
from .greeting import meet
from .handlers import HandlerTeller
from .names import own_name, shielded
from .renewal import Renewal

log = structlog.get_logger("foliot")

_SKEW_MS: Final = 1_000
_AGAIN_S: Final = 2.0


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker process runs. `nats`: the servers' URL, or all of a link's settings. `wait_ms`: how long to wait for a
    node at the start; None: for ever. `queues`: names in the default pool; empty: all that the apps' tasks name."""

    nats: NatsConfig | str = "nats://127.0.0.1:4222"
    name: str = field(default_factory=own_name)
    prefix: str = "foliot"
    wait_ms: int | None = None
    concurrency: int = 2_000
    threads: int = 32
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    commands: int = 32
    queues: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    heartbeat_interval_ms: int = 10_000
    drain_grace_ms: int = 30_000
    tenant: str = "default"  # of the schedules that the apps declare

    def __post_init__(self) -> None:
        check_name("worker", self.name)

    @property
    def link(self) -> NatsConfig:
        return self.nats if isinstance(self.nats, NatsConfig) else NatsConfig(self.nats, name=self.name)


class ClusterWorker:
    """One worker process. `run()` lives until it is cancelled or was drained."""

    def __init__(
        self, apps: Foliot | Sequence[Foliot], options: WorkerOptions, *, clock: Clock | None = None, rng: Rng | None = None
    ) -> None:
        self.options = options
        self._apps = [apps] if isinstance(apps, Foliot) else list(apps)
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or Rng.of_the_system()
        self._leave = asyncio.Event()
        self.worker: Worker | None = None

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `drain`, or until cancelled. `ready`: called once the session has registered.

        Raises: NatsUnreachableError, NatsCredentialsError, NatsTlsError, NatsTooOldError, NoNodesError, ProductError,
        NoQueuesError.
        """
        options = self.options
        configure_logging_once()
        async with AsyncExitStack() as stack:
            stack.enter_context(structlog.contextvars.bound_contextvars(worker=options.name))
            link = await NatsLink.open(options.link, clock=self._clock, rng=self._rng.stream("nats"))
            stack.push_async_callback(shielded, link.close)
            slots = await self._meet(link)
            if slots is None:
                return
            bus = NatsBus(link, slots=slots, name=options.name, clock=self._clock, prefix=options.prefix)
            stack.callback(bus.close)
            with tuned_interpreter():
                await self._work(link, bus, slots, ready)

    async def _meet(self, link: NatsLink) -> int | None:
        """Return the number of slots, None if the worker is to leave before it is known."""
        found: int | None = None
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                nonlocal found
                options = self.options
                greeting = await meet(
                    link, options.prefix, clock=self._clock, where=options.link.shown, wait_ms=options.wait_ms
                )
                skew_ms = self._clock.now_ms() - greeting.now_ms
                if abs(skew_ms) > _SKEW_MS:
                    log.warning("clock_skewed", worker=options.name, node=greeting.node, skew_ms=skew_ms)
                found = greeting.slots
                group.cancel_scope.cancel()

            group.start_soon(ask)
            await self._leave.wait()
            group.cancel_scope.cancel()
        return found

    async def _work(self, link: NatsLink, bus: NatsBus, slots: int, ready: Callable[[], None]) -> None:
        options = self.options
        worker = self.worker = Worker(
            self._apps, bus=bus, clock=self._clock, rng=self._rng.stream("worker"), name=options.name, shards=slots,
            queues=[("default", name) for name in options.queues] or None, concurrency=options.concurrency,
            threads=options.threads, processes=options.processes, commands=options.commands, labels=options.labels,
            heartbeat_interval_ms=options.heartbeat_interval_ms, drain_grace_ms=options.drain_grace_ms,
        )  # fmt: skip
        teller = HandlerTeller(self._apps, bus, link)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run, name="worker")
            renewal = Renewal(worker.renew)
            group.start_soon(renewal.run, name="renewal")
            teller.begin()
            link.watch(renewal.link_changed)
            group.start_soon(self._declare, name="declarations")
            await anyio.lowlevel.checkpoint()
            ready()
            await self._leave.wait()
            with anyio.CancelScope(shield=True):
                link.unwatch(renewal.link_changed)
                teller.end()
                await worker.drain()
                await link.flush()  # its goodbye
            group.cancel_scope.cancel()

    @property
    def session(self) -> str:
        """The session's name; empty before it has begun."""
        return self.worker.session if self.worker is not None else ""

    def drain(self, why: str = "") -> None:
        """Begin to leave: running tasks get their grace, what has not started is handed back. Harmless when repeated."""
        if not self._leave.is_set():
            log.info("draining", worker=self.options.name, why=why)
            self._leave.set()

    async def _declare(self) -> None:
        """Have the cluster hold what the apps declare. A cluster that cannot take it now is asked again."""
        options = self.options
        channel = NatsChannel(options.link, tenant=options.tenant, clock=self._clock, prefix=options.prefix)
        client = Client(channel=channel, tenant=options.tenant, clock=self._clock)
        try:
            while True:
                try:
                    tell_again(await put_declared(self._apps, client))
                    await warn_of_undeclared(self._apps, client)
                    return
                except UnavailableError as error:
                    log.warning("declarations_wait", error=str(error))
                    await anyio.sleep(_AGAIN_S)
                except FoliotError as error:
                    log.warning("declarations_not_looked_at", error=str(error))
                    return
        finally:
            await shielded(client.close)
