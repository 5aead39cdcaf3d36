"""A node of a cluster, put together: PostgreSQL, NATS, the actors of its slots, and a gateway.

An entry point, as `sdk.scheduler` is for the embedded form: it builds the clock and the seeded randomness once and
passes them down. The order of leaving: take no new requests, finish those that are there, hand over every slot, leave
what the gateway has counted to the others, and only then let go of the broker and the database.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
import structlog

from ...actors.addresses import check_name
from ...actors.cast import makers
from ...actors.node_messages import ReadPeer
from ...actors.shard import ShardConfig
from ...runtime.clock import Clock, SystemClock
from ...runtime.errors import FoliotError
from ...runtime.membership import MembershipConfig
from ...runtime.node import Node, NodeConfig
from ...runtime.rng import Rng
from ...stores.hosting import poison_in, shards_on
from ...stores.postgres.config import PostgresConfig
from ...stores.postgres.store import PostgresStore, open_postgres
from ...transports.gateway import Gateway
from ...transports.nats.bus import NatsBus
from ...transports.nats.config import NatsConfig
from ...transports.nats.events import EventFeed, FeedConfig
from ...transports.nats.feed import FeedDesk
from ...transports.nats.inboxes import InboxConfig, Inboxes
from ...transports.nats.link import LinkState, NatsLink
from ...transports.nats.listener import NatsListener
from ...transports.nats.mail import MailConfig
from ...transports.nats.mail_public import PublicMail
from ...transports.nats.streams import NatsStreams
from ...transports.peers import NodeFacts, Peers
from ..client_events import EVENTS_TOLD
from ..housekeeping import figures_of, tidy
from ..logs import configure_logging_once
from ..options import count_option
from ..tuning import tuned_interpreter
from .database_clock import database_now_ms
from .errors import ClockSkewError
from .greeting import answer_greetings
from .handlers import HandlerBook
from .holdings import Holdings
from .names import own_name, product_version, shielded
from .presence import Presence, PresenceConfig
from .renewal import Renewal
from .skew import SkewConfig, SkewWatch, sure_lead

log = structlog.get_logger("foliot")

SLOTS: Final = 64
_BEGIN_AGAIN_S: Final = 0.2
_LAST_EVENTS_S: Final = 10.0  # what a node that leaves waits for its last events to be stored


@dataclass(frozen=True)
class NodeOptions:
    """How a node runs. `nats`: the servers' URL, or all of a link's settings. `slots`: of a database that is made now; an
    older one keeps its own. `name`: unique in the cluster. `events`: tell what becomes of tasks, in the event feed.
    `replicas`: servers that keep each stream; 0: three where they are a cluster, else one. Raises: InvalidNameError."""

    nats: NatsConfig | str = "nats://127.0.0.1:4222"
    postgres: str = "postgresql://127.0.0.1/foliot"
    name: str = field(default_factory=own_name)
    slots: int = SLOTS
    prefix: str = "foliot"
    retention_ms: int = 7 * 86_400_000
    events: bool = False
    replicas: int = 0
    heartbeat_interval_ms: int = 10_000  # of the workers; twice that old, a lease that its worker never got is given up
    membership: MembershipConfig = field(
        default_factory=lambda: MembershipConfig(interval_ms=2_000, dead_after_ms=6_000)  # its slots work again in 8 s
    )
    skew: SkewConfig = field(default_factory=SkewConfig)
    presence: PresenceConfig = field(default_factory=PresenceConfig)
    store: PostgresConfig = field(default_factory=PostgresConfig)

    def __post_init__(self) -> None:
        check_name("node", self.name)
        count_option("heartbeat_interval_ms", self.heartbeat_interval_ms, 1, 10**10, "node")
        count_option("retention_ms", self.retention_ms, 1, 10**13, "node")

    @property
    def link(self) -> NatsConfig:
        return self.nats if isinstance(self.nats, NatsConfig) else NatsConfig(self.nats, name=self.name)


class ClusterNode:
    """One node. `run()` lives until it is cancelled, fails, or was drained."""

    def __init__(self, options: NodeOptions, *, clock: Clock | None = None, rng: Rng | None = None) -> None:
        self.options = options
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or Rng.of_the_system()
        self._leave = asyncio.Event()
        self._why_left: ClockSkewError | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Take part until `drain`, or until cancelled. `ready`: called once the node hosts its slots and answers.

        Raises: of the broker NatsUnreachableError, NatsCredentialsError, NatsTlsError, NatsTooOldError,
        JetStreamMissingError; of the database StoreError, StoreUnusableError; ClockSkewError; NodeReplacedError,
        ForeignNodeError; what a supervisor gave up on.
        """
        options = self.options
        configure_logging_once()
        config = options.link
        async with AsyncExitStack() as stack:
            stack.enter_context(structlog.contextvars.bound_contextvars(node=options.name))
            self.link = await NatsLink.open(config, clock=self._clock, rng=self._rng.stream("nats"))
            stack.push_async_callback(shielded, self.link.close)
            self.streams = await self._open_streams(stack, config)
            self.skew = SkewWatch(
                options.name, clock=self._clock, store_now=lambda: database_now_ms(options.postgres), peers=self._peer_skews,
                drain=self._leave_skewed, config=options.skew,
            )  # fmt: skip
            self.store: PostgresStore = await open_postgres(
                options.postgres, clock=self._clock, shards=options.slots, config=options.store
            )
            stack.push_async_callback(shielded, self.store.close)
            await self.skew.check_at_start()
            self._make()
            with tuned_interpreter():
                try:
                    await self._serve(ready)
                except BaseExceptionGroup as group:
                    if len(group.exceptions) > 1:
                        raise
                    raise group.exceptions[0] from None
        if self._why_left is not None:
            raise self._why_left

    @property
    def slots(self) -> int:
        """How many there are, by the database."""
        return self.store.shards

    def drain(self, why: str = "") -> None:
        """Begin to leave: `run` returns when every slot is handed over. Harmless when repeated."""
        if not self._leave.is_set():
            log.info("draining", node=self.options.name, why=why)
            self._leave.set()

    def _leave_skewed(self, error: ClockSkewError) -> None:
        self._why_left = error
        self.drain(str(error))

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def _open_streams(self, stack: AsyncExitStack, config: NatsConfig) -> NatsStreams:
        """Return the broker's streams, over a connection of their own: what waits there must not hold up who waits for an
        answer. Raises: as `NatsLink.open`; JetStreamMissingError."""
        own = replace(config, name=f"{config.name}-streams")
        link = await NatsLink.open(own, clock=self._clock, rng=self._rng.stream("nats streams"))
        stack.push_async_callback(shielded, link.close)
        streams = NatsStreams(link, clock=self._clock)
        await streams.check()
        return streams

    def _make(self) -> None:
        options, clock, slots = self.options, self._clock, self.store.shards
        self.bus = NatsBus(self.link, slots=slots, name=options.name, clock=clock, prefix=options.prefix)
        self.node = Node(
            NodeConfig(options.name, slots, membership=options.membership, cluster=self.store.identity), bus=self.bus,
            clock=clock, rng=self._rng.stream("node"), kinds=makers(slots), poison=poison_in(self.store, clock),
        )  # fmt: skip
        self.gateway = Gateway(
            self.bus, self.store, clock=clock, rng=self._rng.stream("gateway"), shards=slots,
            directory=self.node.addresses, figures=self.figures, product=product_version(), is_shared=True,
        )  # fmt: skip
        facts = NodeFacts(
            options.name, sockets.gethostname(), os.getpid(), product_version(), slots, self._clock.now_ms()
        )  # fmt: skip
        self.peers = Peers(
            facts, bus=self.bus, node=self.node, now_ms=clock.now_ms, skew_ms=lambda: self.skew.skew_ms,
            figures=self.figures, report=self.gateway.edge_report, drain=self.drain, handlers=lambda: self.handlers.told(),
        )  # fmt: skip
        self.gateway.peers = self.peers
        self.renewal = Renewal(self.node.renew)
        self.presence = Presence(self.node, self.bus, clock, options.presence)
        self.handlers = HandlerBook(self.bus)
        self.gateway.told = self.handlers.known
        replicas = options.replicas or self.streams.replicas
        mail = MailConfig(slots, prefix=options.prefix, replicas=replicas)
        self.inboxes = Inboxes(
            self.streams, bus=self.bus, hosted=lambda: self.node.hosted, set_aside=self.store.set_aside, clock=clock,
            config=InboxConfig(mail), counts=self.gateway.edge_counts, decode=PublicMail(self.handlers.known).decode,
        )  # fmt: skip
        feed = FeedConfig(prefix=options.prefix, replicas=replicas)
        self._events = feed.name
        self.feed = EventFeed(self.streams, clock=clock, config=feed)
        self.feed_desk = FeedDesk(self.streams, clock=clock, rng=self._rng.stream("feed"), config=feed)

    async def _serve(self, ready: Callable[[], None]) -> None:
        options = self.options
        async with anyio.create_task_group() as group:
            started = anyio.Event()
            group.start_soon(self._run_node, started.set, name="node")
            await started.wait()
            self.peers.begin()
            await self.handlers.begin(self.peers)
            self.link.watch(self._link_changed)
            group.start_soon(self._let_in, name="gateway")
            group.start_soon(self._tidy, name="janitor")
            group.start_soon(self.skew.run, name="skew")
            group.start_soon(self.presence.run, name="presence")
            group.start_soon(self.renewal.run, name="renewal")
            group.start_soon(Holdings(lambda: self.node.hosted, self.store.shards).run, name="holdings")
            if options.events:
                group.start_soon(self.feed.run, name="feed")
            else:
                group.start_soon(self._warn_of_events, name="events")
            greetings = answer_greetings(
                self.link, options.prefix, product=product_version(), slots=self.store.shards, node=options.name,
                clock=self._clock,
            )  # fmt: skip
            listener = NatsListener(
                self.link, self.gateway, self.bus, slots=self.store.shards, clock=self._clock,
                rng=self._rng.stream("listener"), prefix=options.prefix, feed=self.feed_desk,
            )  # fmt: skip
            listener.start()
            try:
                ready()
                await self._leave.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    self.peers.is_leaving = True
                    greetings.close()
                    await listener.close()
                    if self._leave.is_set():
                        await self.node.leave()
                        with anyio.move_on_after(_LAST_EVENTS_S):
                            await self.feed.emptied()
                    self.peers.end()
                    self.handlers.end()
                    self.link.unwatch(self._link_changed)
            group.cancel_scope.cancel()
        self.bus.close()

    async def _run_node(self, started: Callable[[], None]) -> None:
        options = self.options
        config = ShardConfig(
            shards=self.store.shards, heartbeat_interval_ms=options.heartbeat_interval_ms, tells_events=options.events
        )
        told = self.feed.tell if options.events else None
        durable = shards_on(self.store, config, node=options.name, told=told)
        await self.node.run(durable, started=started)
        self._leave.set()

    async def _let_in(self) -> None:
        """Take the base of the edge's count; the first submission does it otherwise. What comes by the inboxes is counted
        like it, so they wait for the base."""
        while True:
            try:
                await self.gateway.begin()
            except FoliotError:  # the shards are just being claimed
                await anyio.sleep(_BEGIN_AGAIN_S)
            else:
                break
        await self.handlers.wait()  # what is handed over one way gets its handler's options
        await self.inboxes.run()

    async def _warn_of_events(self) -> None:
        """Say that this node tells no events where the cluster has told some: its part will be missing among them."""
        with suppress(FoliotError):  # no answer just now: a hint is not worth more
            life, _ = await self.streams.find(self._events)
            if life:
                log.warning("events_not_told", hint="this cluster keeps events: start all of its nodes with --events")

    async def _tidy(self) -> None:
        """Retention is for one node at a time: the one that hosts the first slot."""
        await tidy(self.store, self._clock, self.options.retention_ms, is_mine=lambda: 0 in self.node.hosted)

    # -- what is around ------------------------------------------------------------------------------------------------

    def _link_changed(self, state: LinkState) -> None:
        """Without its broker a node hears nobody, which says nothing about the others."""
        membership = self.node.membership
        if membership is not None:
            membership.hears(state.is_up)
        self.presence.link_changed(state)
        self.renewal.link_changed(state)

    async def _peer_skews(self) -> list[int]:
        """Ask the peers for their clocks. What they said before is of no use: a node that has much to do reads it late, and
        would take that for a lead of its own clock."""
        before_ms = self._clock.now_ms()
        reads = await self.peers.gather(ReadPeer([]))
        after_ms = self._clock.now_ms()
        return [sure_lead(read.now_ms, before_ms, after_ms) for read in reads if read.node != self.options.name]

    def figures(self) -> dict[str, float]:
        """Return what this process measured of itself."""
        found = figures_of(self.store, self.node, self.bus.dropped)
        found |= {f"bus.dropped.{reason}": count for reason, count in sorted(self.bus.drops.items())}
        if self.node.membership is not None:
            found |= {f"cluster.{name}": value for name, value in self.node.membership.figures().items()}
        found["cluster.slots"] = len(self.node.hosted)
        found["cluster.store_skew_ms"] = self.skew.skew_ms
        found["inbox.accepted"] = self.inboxes.tally.accepted
        found |= {f"inbox.dropped.{why}": count for why, count in sorted(self.inboxes.tally.dropped.items())}
        found["events.lost"] = self.feed.lost
        found[EVENTS_TOLD] = float(self.options.events)
        return found
