"""The programs of a simulated cluster, put together as the product's own entry points do, on simulated ports."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import anyio

from ..actors.backlog import BacklogConfig
from ..actors.cast import makers
from ..actors.shard import ShardConfig
from ..actors.timers import TimerConfig
from ..runtime.cell import CellConfig
from ..runtime.errors import StoreError
from ..runtime.membership import MembershipConfig
from ..runtime.node import Node, NodeConfig
from ..sdk.app import Foliot
from ..sdk.processes import ProcessConfig
from ..sdk.pulse import ClockPulse
from ..sdk.runner import ThreadsOf
from ..sdk.worker import Worker, WorkerConfig
from ..stores.hosting import poison_in, shards_on
from ..transports.gateway import Gateway
from ..transports.nats.inboxes import InboxConfig, Inboxes
from ..transports.nats.mail import MailConfig
from .bus import SimBus
from .case import Options
from .client import serve_gateway
from .jetstream import SimJetStream
from .process import Process
from .server_store import store_of
from .threads import NoThreads

Apps = Callable[[Process, Callable[[], str]], Sequence[Foliot]]
"""Makes the apps of a worker process anew at each start; the second argument tells the worker's session."""

_MANY_ACTORS: Final = 1  # new one, then the spent ones end, which no run would come to otherwise


def node_program(
    options: Options, *, apps: Apps | None = None, queues: Sequence[tuple[str, str]] = (),
    threads_of: ThreadsOf | None = None, declare: Callable[[Process, Gateway], Coroutine[Any, Any, None]] | None = None,
) -> Callable[[Process], Awaitable[None]]:
    """Return a scheduler node; in the embedded form, with workers in its process. `threads_of`: what runs plain
    functions. `declare`: what puts the schedules that code declares, at each start."""

    async def main(process: Process) -> None:
        bus, store = SimBus(process), store_of(process)
        timings = options.timings
        membership = MembershipConfig(interval_ms=timings.node_heartbeat_ms, dead_after_ms=timings.node_dead_ms)
        config = NodeConfig(
            process.name, options.slots, cell=CellConfig(drain_max=options.drain_max),
            membership=None if options.embedded else membership, volatile_many=_MANY_ACTORS,
        )  # fmt: skip
        node = process.node = Node(
            config, bus=bus, clock=process.clock, rng=process.rng.stream("node"),
            kinds=makers(options.slots, worker_dead_ms=timings.worker_dead_ms, reconcile_ms=timings.reconcile_ms),
            poison=poison_in(store, process.clock),
        )  # fmt: skip
        gateway = Gateway(
            bus, store, clock=process.clock, rng=process.rng.stream("gateway"), shards=options.slots,
            directory=node.addresses,
        )  # fmt: skip
        workers = process.workers
        async with anyio.create_task_group() as group:

            closing: list[Callable[[], None]] = []

            async def leave() -> None:
                for close in closing:
                    close()
                async with anyio.create_task_group() as drains:
                    for worker in workers:
                        drains.start_soon(worker.drain)
                await node.leave()
                group.cancel_scope.cancel()

            async def purge(older_ms: int) -> None:
                with contextlib.suppress(StoreError):
                    await store.retain(process.clock.now_ms() - older_ms, limit=1_000)

            def started() -> None:
                if process.is_leaving:
                    return
                closing.append(serve_gateway(bus, gateway, process.name))
                if options.broker:
                    inboxes = Inboxes(
                        SimJetStream(process), bus=bus, hosted=lambda: node.hosted, set_aside=store.set_aside,
                        clock=process.clock, config=InboxConfig(mail_config(options)), counts=gateway.edge_counts,
                    )  # fmt: skip
                    group.start_soon(inboxes.run, name="inboxes")
                if declare is not None:
                    group.start_soon(declare, process, gateway, name="declarations")
                if apps is None or not options.embedded:
                    return
                for number in range(options.workers):
                    worker = make_worker(
                        process, bus, options, apps, queues, {}, name=f"{process.name}-{number}", threads_of=threads_of
                    )
                    workers.append(worker)
                    group.start_soon(worker.run, name=f"worker {number}")

            process.stop, process.janitor = leave, purge
            await node.run(shards_on(store, shard_config(options), node=process.name), started=started)

    return main


def mail_config(options: Options) -> MailConfig:
    return MailConfig(options.slots, max_waiting=options.broker_waiting)


def shard_config(options: Options) -> ShardConfig:
    return ShardConfig(
        shards=options.slots,
        timers=TimerConfig(horizon_ms=options.timer_horizon_ms, in_memory_max=options.timers_max),
        backlog=BacklogConfig(lane_window=options.lane_window, key_window=min(options.lane_window, 256)),
        heartbeat_interval_ms=options.timings.worker_heartbeat_ms,
        reconcile_ms=options.timings.reconcile_ms,
        workers_are_local=options.embedded,
    )


def worker_program(
    options: Options, apps: Apps, queues: Sequence[tuple[str, str]], labels: Mapping[str, str],
    *, threads_of: ThreadsOf | None = None,
) -> Callable[[Process], Awaitable[None]]:
    """Return a worker."""

    async def main(process: Process) -> None:
        bus = SimBus(process)
        worker = make_worker(process, bus, options, apps, queues, labels, name=process.name, threads_of=threads_of)
        process.stop = worker.drain
        process.workers.append(worker)
        await worker.run()

    return main


def make_worker(
    process: Process,
    bus: SimBus,
    options: Options,
    apps: Apps,
    queues: Sequence[tuple[str, str]],
    labels: Mapping[str, str],
    *,
    name: str,
    threads_of: ThreadsOf | None = None,
) -> Worker:
    """Return a worker on simulated ports."""
    worker = Worker(
        list(apps(process, lambda: worker.session)),
        bus=bus,
        clock=process.clock,
        rng=process.rng.stream(f"worker/{name}"),
        name=name,
        queues=queues,
        shards=options.slots,
        labels=labels,
        config=WorkerConfig(
            concurrency=options.concurrency,
            processes=ProcessConfig(limit=1),
            heartbeat_interval_ms=options.timings.worker_heartbeat_ms,
        ),
        blocking=NoThreads(),
        pulse=ClockPulse(process.clock),
        threads_of=threads_of,
        host=process.machine.name,
        pid=process.boot,
    )
    return worker
