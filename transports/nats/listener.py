"""A node's ear: what clients and workers ask over NATS, of this gateway or of any other of the cluster.

Nodes listen in one queue group, so each request reaches one of them. The subject says which tenant asks, and nobody else
does: requests of Foliot's own clients that name another tenant are refused, those of the public protocol name none.
Everything is bounded: requests under way, those that wait for tasks to end, and the bytes of all, in total and of each
tenant. What cannot be read is answered with an error, or counted and dropped where nobody waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple

import structlog

from ...actors.addresses import check_name
from ...actors.messages import WatchTasks
from ...runtime.bus import Bus, Refusal
from ...runtime.clock import Clock
from ...runtime.errors import FoliotError, UsageError
from ...runtime.rng import Rng
from .. import api
from . import protocol as p
from .errors import TooLargeError
from .feed import FeedDesk
from .link import Delivery, NatsLink, Subscription
from .protocol_calls import Gate, PublicCalls, RefusedCallError
from .protocol_codec import Codec, ContentTypeError, Format, format_of, sniffed
from .protocol_views import error_of
from .worker_gate import WorkerGate
from .worker_gate_session import GateLimits

log = structlog.get_logger("foliot.transports.nats")

GROUP: Final = "gateways"
_EDGE: Final = "edge"
_OTHERS: Final = ("events", "bodies", "in")  # subjects of the same depth that are no requests
_KNOWN_MAX: Final = 4_096  # subjects that are remembered
_AT_ONCE: Final = (p.Beat, p.Credits)  # a task for each would cost more than they do
_OPERATORS_ONLY: Final = (
    api.ListQueues, api.SetQueue, api.ListWorkers, api.ListTenants, api.SetTenant, api.Verify, api.ReadStats,
    api.ListMembers, api.DrainMember,
)  # fmt: skip


@dataclass(frozen=True)
class ListenerLimits:
    """The bounds of one node's requests. A tenant may use half of each."""

    max_in_flight: int = 4_096
    max_polls: int = 8_192  # requests that wait for tasks to end
    max_bytes: int = 128 << 20
    request_timeout_ms: int = 75_000  # a request takes at most this long, the longest poll included
    close_grace_ms: int = 2_000
    workers: GateLimits = field(default_factory=GateLimits)


class OperationError(UsageError):
    """An operation the protocol does not have."""

    code = "unknown_op"

    def __init__(self, op: str) -> None:
        super().__init__(f"there is no operation {op[:80]!r}, expected one of {', '.join((*p.CALLS, *p.WORKER_CALLS))}")
        self.op = op


class TenantForbiddenError(UsageError):
    """A request about something that is not the tenant's who asks."""

    code = "tenant_forbidden"

    def __init__(self, tenant: str, what: str) -> None:
        super().__init__(f"tenant {tenant!r} asked {what}, expected what concerns that tenant alone")
        self.tenant = tenant


class _Asked(NamedTuple):
    """What a subject asks. `wrong`: why that cannot be done."""

    tenant: str
    op: str
    wrong: UsageError | None = None


class _Load:
    """What is under way: requests, polls, bytes."""

    __slots__ = ("polls", "requests", "size")

    def __init__(self) -> None:
        self.requests = 0
        self.polls = 0
        self.size = 0

    def has_room(self, limits: ListenerLimits, size: int, *, is_poll: bool, share: int) -> bool:
        if self.size + size > limits.max_bytes // share:
            return False
        return self.polls < limits.max_polls // share if is_poll else self.requests < limits.max_in_flight // share

    def add(self, size: int, *, is_poll: bool, sign: int = 1) -> None:
        self.size += sign * size
        if is_poll:
            self.polls += sign
        else:
            self.requests += sign


class NatsListener:
    """Hands requests to a gateway; an async context manager. `bus`: of this node, on which worker sessions are found.
    `slots`: of the cluster. `feed`: where events are read."""

    def __init__(
        self, link: NatsLink, gateway: Gate, bus: Bus, *, slots: int, clock: Clock, rng: Rng,
        limits: ListenerLimits | None = None, prefix: str = p.PREFIX, feed: FeedDesk | None = None,
    ) -> None:  # fmt: skip
        self.limits = limits or ListenerLimits()
        self.dropped: dict[str, int] = {}
        """How many messages were not answered, by reason."""
        self.refused: dict[str, int] = {}
        """How many requests were answered with an error here, by code."""
        self._link = link
        self._gateway = gateway
        self._prefix = f"{prefix}.v1"
        self._codec = Codec({**p.CALLS, **p.WORKER_CALLS})
        self._calls = PublicCalls(gateway, clock=clock, max_payload=lambda: link.max_message, feed=feed)
        self.workers = WorkerGate(
            bus, clock=clock, rng=rng, slots=slots, prefix=prefix, node=link.ident, codec=self._codec,
            send=self._push, max_push=lambda: link.max_message, limits=self.limits.workers,
        )  # fmt: skip
        self._own_prefix = f"{prefix}."
        self._known: dict[str, _Asked] = {}  # subjects of the public protocol that are in order
        self._total = _Load()
        self._loads: dict[str, _Load] = {}
        self._tasks: dict[asyncio.Task[None], bool] = {}  # → whether it is a poll
        self._subscriptions: list[Subscription] = []
        self._is_closing = False

    async def __aenter__(self) -> NatsListener:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:  # fmt: skip
        await self.close()

    def start(self) -> None:
        """Listen from now on."""
        edge, node = self._prefix, self._link.ident
        self.workers.start()
        self._subscriptions = [
            self._link.subscribe(f"{edge}.*.*", self._take, group=GROUP),
            self._link.subscribe(f"{edge}.*.worker.*", self._take, group=GROUP),
            self._link.subscribe(f"{edge}.*.worker.{node}.*", self._take),  # sessions that are held here
        ]

    async def close(self) -> None:
        """Take nothing more, let workers go elsewhere, finish commands under way, have polls asked again elsewhere."""
        for subscription in self._subscriptions:
            subscription.close()
        with suppress(FoliotError, TimeoutError):
            async with asyncio.timeout(self.limits.close_grace_ms / 1000):
                await self._link.flush()  # what the servers had sent here is still taken
        self._is_closing = True
        self.workers.close()
        for task, is_poll in list(self._tasks.items()):
            if is_poll:
                task.cancel()
        left = [task for task, is_poll in self._tasks.items() if not is_poll]
        if left:
            await asyncio.wait(left, timeout=self.limits.close_grace_ms / 1000)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        asked = self._known.get(delivery.subject) or self._read_subject(delivery.subject)
        if asked.op in _OTHERS:
            return
        if delivery.reply.startswith((self._own_prefix, "$")):  # an answer there would speak with this node's voice
            self._drop("bad_reply")
            return
        if asked.op == _EDGE:
            self._take_edge(delivery, asked.tenant)
        else:
            self._take_public(delivery, asked)

    def _read_subject(self, subject: str) -> _Asked:
        words = subject.split(".")[2:]
        tenant, op = words[0], ".".join(words[1:])
        if op in (*_OTHERS, _EDGE):
            return _Asked(tenant, op)
        is_here = len(words) == 4  # worker.<node>.<op>: it came to this very node
        if is_here:
            op = f"worker.{words[3]}"
        try:
            check_name("tenant", tenant)
            if not (op in p.CALLS or op in p.WORKER_CALLS) or (op == "worker.register" and is_here):
                raise OperationError(op)
        except UsageError as found:
            return _Asked(tenant, op, found)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        asked = self._known[subject] = _Asked(tenant, op)
        return asked

    def _take_edge(self, delivery: Delivery, tenant: str) -> None:
        """A request of Foliot's own client."""
        try:
            request = _own(api.decode_request(delivery.data), tenant)
        except FoliotError as error:
            self._answer_edge(delivery, Refusal.of(error))
            return

        async def answer() -> None:
            self._answer_edge(delivery, await self._gateway.handle(request, timeout_ms=self.limits.request_timeout_ms))

        def refuse(refusal: Refusal) -> None:
            self._answer_edge(delivery, refusal)

        self._begin(tenant, len(delivery.data), answer, refuse, is_poll=isinstance(request, WatchTasks))

    def _take_public(self, delivery: Delivery, asked: _Asked) -> None:
        """A request of the public protocol."""
        tenant, op, wrong = asked
        form = sniffed(delivery.data)
        try:
            if delivery.headers:
                form = format_of(delivery.data, delivery.headers)
            if wrong is not None:
                raise wrong
            ask = self._codec.read(op, delivery.data, form)
        except (ContentTypeError, UsageError) as error:
            self._answer_public(delivery, form, p.Failed(error=error_of(Refusal.of(error))))
            return

        def refuse(refusal: Refusal) -> None:
            self._answer_public(delivery, form, p.Failed(error=error_of(refusal)))

        if isinstance(ask, _AT_ONCE) and not self._is_closing:
            try:
                done = self.workers.answer_at_once(tenant, ask)
            except Exception as error:
                refuse(_refusal(op, error))
            else:
                self._answer_public(delivery, form, done)
            return

        async def answer() -> None:
            try:
                if op in p.CALLS:
                    part = await self._calls.answer(tenant, ask, form)
                else:
                    part = await self.workers.answer(tenant, ask, form)
            except Exception as error:
                refuse(_refusal(op, error))
            else:
                self._answer_public(delivery, form, part)

        self._begin(tenant, len(delivery.data), answer, refuse, is_poll=isinstance(ask, (p.Wait, p.Feed)))

    def _begin(
        self, tenant: str, size: int, answer: Callable[[], Awaitable[None]], refuse: Callable[[Refusal], None],
        *, is_poll: bool,
    ) -> None:  # fmt: skip
        """Carry a request out in a task of its own, if there is room."""
        load = self._loads.get(tenant) or _Load()
        if (
            self._is_closing
            or not self._total.has_room(self.limits, size, is_poll=is_poll, share=1)
            or not load.has_room(self.limits, size, is_poll=is_poll, share=2)
        ):
            refuse(Refusal("overloaded", "this node has as many requests under way as it may; retry in 200 ms", 200))
            return
        self._loads[tenant] = load
        self._total.add(size, is_poll=is_poll)
        load.add(size, is_poll=is_poll)
        task = asyncio.get_running_loop().create_task(self._run(answer, refuse))
        self._tasks[task] = is_poll

        def over(done: asyncio.Task[None]) -> None:
            self._tasks.pop(done, None)
            self._total.add(size, is_poll=is_poll, sign=-1)
            load.add(size, is_poll=is_poll, sign=-1)
            if not load.requests and not load.polls:
                self._loads.pop(tenant, None)

        task.add_done_callback(over)

    async def _run(self, answer: Callable[[], Awaitable[None]], refuse: Callable[[Refusal], None]) -> None:
        try:
            await answer()
        except asyncio.CancelledError:
            refuse(Refusal("unavailable", "this node stops while the request is under way; look again", 100))
            raise

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _answer_edge(self, delivery: Delivery, answer: Any) -> None:
        if isinstance(answer, Refusal):
            self._count(delivery, answer.code)
        if not delivery.reply:
            return
        try:
            data = api.encode(answer)
        except Exception as error:
            log.error("answer_not_encodable", answer=type(answer).__name__, exc_info=error)
            data = api.encode(Refusal("internal", f"{type(answer).__name__} could not be encoded"))
        self._reply(delivery, data, lambda error: api.encode(Refusal.of(_answer_too_large(error))))

    def _answer_public(self, delivery: Delivery, form: Format, part: p.Part) -> None:
        if isinstance(part, p.Failed):
            self._count(delivery, part.error.code)
        if not delivery.reply:
            return

        def too_large(error: TooLargeError) -> bytes:
            return self._codec.write(p.Failed(error=error_of(Refusal.of(_answer_too_large(error)))), form)

        try:
            data = self._codec.write(part, form)
        except Exception as error:
            log.error("answer_not_encodable", answer=type(part).__name__, exc_info=error)
            text = f"{type(part).__name__} could not be encoded"
            data = self._codec.write(p.Failed(error=p.Error(code="internal", text=text)), form)
        self._reply(delivery, data, too_large)

    def _reply(self, delivery: Delivery, data: bytes, too_large: Callable[[TooLargeError], bytes]) -> None:
        try:
            try:
                self._link.publish(delivery.reply, data)
            except TooLargeError as error:
                self._link.publish(delivery.reply, too_large(error))
        except FoliotError as error:
            self._drop(error.code)

    def _push(self, subject: str, data: bytes) -> bool:
        try:
            self._link.publish(subject, data)
        except FoliotError as error:
            self._drop(error.code)
            return False
        return True

    def _count(self, delivery: Delivery, code: str) -> None:
        """Count what is answered with an error, or dropped because nobody awaits an answer."""
        if delivery.reply:
            self.refused[code] = self.refused.get(code, 0) + 1
        else:
            self._drop(code)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _refusal(op: str, error: Exception) -> Refusal:
    """Return what whoever asked is told of an error."""
    if isinstance(error, RefusedCallError):
        return error.refusal
    if isinstance(error, FoliotError):
        return Refusal.of(error)
    log.error("request_failed", op=op, exc_info=error)
    return Refusal("internal", f"{op} failed with {type(error).__name__}")


def _answer_too_large(error: TooLargeError) -> TooLargeError:
    return TooLargeError("the one who asks", error.size, error.limit)


def _own(request: Any, tenant: str) -> Any:
    """Return the request as this tenant may ask it. Raises: TenantForbiddenError, InvalidNameError."""
    if tenant != p.OPERATORS:
        check_name("tenant", tenant)
        if isinstance(request, _OPERATORS_ONLY):
            raise TenantForbiddenError(tenant, f"for {type(request).__name__}")
        if not isinstance(request, api.Hello) and request.tenant != tenant:
            raise TenantForbiddenError(tenant, f"about tenant {request.tenant[:80]!r}")
    return request
