"""A client's way to a cluster: the requests of `transports.api` over NATS, to whichever node listens.

What holds, as for the local socket: a request whose repetition changes nothing is sent again within its deadline when its
answer may be lost; any other is sent again only where it is certain that nobody got it. A refusal of a repetition says
nothing about the first, see `transports.repeats`. Looks and commands that a shard could not take, since it was between two
nodes, are asked again too. What is larger than one message is cut where it can be, see `channel_parts`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ...actors.addresses import check_name
from ...actors.messages import CancelTasks, PurgeTasks, RetryTasks, SubmitTasks, TasksEnded, WatchTasks
from ...runtime.bus import Refusal
from ...runtime.clock import Clock, SystemClock
from ...runtime.errors import DeadlineError, FoliotError, NoMembersError, NoSuchActorError, UnavailableError, UsageError
from ...runtime.rng import Rng
from .. import api
from ..local import ConnectionClosedError, NotRunningError
from ..repeats import as_unknown, is_settled, may_repeat
from .channel_parts import ASKED_APART, CUT, asked_apart, sent_apart, size_of
from .config import NatsConfig
from .errors import (
    LinkDownError,
    NatsUnreachableError,
    NoRespondersError,
    NotPermittedError,
    OutboundFullError,
    TooLargeError,
)
from .link import LinkState, NatsLink
from .protocol import OPERATORS, PREFIX, edge_subject

_TOO_LARGE: Final = TooLargeError.code
_NOT_SENT: Final = (NoRespondersError, LinkDownError, OutboundFullError)
_MOVING: Final = (NoSuchActorError.code, NoMembersError.code)  # refusals by which nothing was done: its shard is under way
_STEERING: Final = (CancelTasks, RetryTasks, PurgeTasks)
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")
_SAID_MAX: Final = 64  # lines; reasons may have numbers in them
_AWAITED_SERVER: Final = "waiting for the NATS server at nats://{}"


class NoNodeError(NotRunningError):
    """No node of the cluster listens at the servers."""

    def __init__(self, address: str, reason: str) -> None:
        UnavailableError.__init__(
            self, f"no node of a cluster listens at {address}: {reason}; start one with 'foliot node', or name its servers"
        )
        self.path = address
        self.reason = reason


class UnsettledError(DeadlineError):
    """One copy of a request was not answered, and others were refused for now, which says nothing about the first."""

    def __init__(self, what: str, timeout_ms: int, refusal: str) -> None:
        super().__init__(what, timeout_ms)
        self.args = (f"{self.args[0]}; a repetition was refused: {refusal}",)
        self.refusal = refusal


class OperatorsOnlyError(UsageError):
    """A tenant's own user asked about the whole cluster."""

    code = "operators_only"

    def __init__(self, what: str, tenant: str) -> None:
        super().__init__(
            f"{what} is about the whole cluster, and this user is of tenant {tenant!r} only; expected the broker's user "
            "'operator', or a question about that tenant's own tasks"
        )
        self.what = what
        self.tenant = tenant


@dataclass(frozen=True)
class ChannelLimits:
    """The bounds of one client."""

    max_in_flight: int = 256
    first_try_ms: int = 3_000  # without an answer for so long, what may be repeated is, at another node perhaps ...
    longest_try_ms: int = 12_000  # ... after twice as long each second time, up to this
    poll_ms: int = 5_000  # a poll waits at most so long at one node, which may die unnoticed ...
    poll_margin_ms: int = 3_000  # ... and is asked again so long after
    backoff_ms: int = 20
    backoff_max_ms: int = 1_000
    silent_ms: int = 2_000  # whoever waits longer hears for what


class NatsChannel:
    """Connects with the first request. `tenant`: of requests that name none. `connect_timeout_ms`: how long the first
    request waits for servers to appear. `on_wait`: called with a line that says what a request waits for, once it has waited
    for a moment; each line is said once."""

    may_repeat = True

    def __init__(
        self, config: NatsConfig | str, *, tenant: str = "default", connect_timeout_ms: int = 0, clock: Clock | None = None,
        rng: Rng | None = None, limits: ChannelLimits | None = None, prefix: str = PREFIX,
        on_wait: Callable[[str], object] | None = None,
    ) -> None:  # fmt: skip
        """Raises: NatsConfigError."""
        self._config = NatsConfig(config, name="foliot-client") if isinstance(config, str) else config
        self._tenant = check_name("tenant", tenant)
        self._connect_timeout_ms = connect_timeout_ms
        self._clock = clock or SystemClock()
        self._rng = rng or Rng.of_the_system()
        self._limits = limits or ChannelLimits()
        self._prefix = prefix
        self._on_wait = on_wait
        self._said: dict[str, None] = {}
        self._room = asyncio.Semaphore(self._limits.max_in_flight)
        self._link: NatsLink | None = None
        self._connecting = asyncio.Lock()
        self._tries: dict[asyncio.Timeout, None] = {}  # of requests that may be repeated
        self._is_closed = False

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        """Return the answer, which may be a Refusal. Raises: NoNodeError, NatsUnreachableError, DeadlineError,
        TooLargeError, NatsCredentialsError, NotPermittedError, OperatorsOnlyError, NotEncodableError, VersionError."""
        started_ns = self._clock.mono_ns()
        async with self._room:
            return await self._whole(message, lambda: timeout_ms - (self._clock.mono_ns() - started_ns) // 1_000_000)

    async def open_link(self, timeout_ms: int) -> NatsLink:
        """Return the connection, for what is no request of a gateway. Raises: as `request`."""
        return self._link or await self._connect(timeout_ms)

    @property
    def prefix(self) -> str:
        """The first word of the cluster's subjects."""
        return self._prefix

    async def close(self) -> None:
        """Close the connection; requests under way fail."""
        self._is_closed = True
        async with self._connecting:
            link, self._link = self._link, None
        if link is not None:
            await link.close()

    # -- one request ---------------------------------------------------------------------------------------------------

    async def _one(self, message: Any, data: bytes, left_ms: Callable[[], int]) -> Any:
        """Send one message, again and again as far as that is allowed, and return the answer."""
        limits = self._limits
        started_ns = self._clock.mono_ns()
        repeatable = may_repeat(message)
        awaits_shards = (repeatable or isinstance(message, _STEERING)) and not isinstance(message, WatchTasks)
        try_ms = limits.first_try_ms
        if isinstance(message, WatchTasks):
            try_ms = max(try_ms, message.wait_ms + limits.poll_margin_ms)
        spans = tries_ms(try_ms, limits.longest_try_ms)
        try_ms = next(spans)
        backoff_ms = limits.backoff_ms
        whole_ms = max(left_ms(), 0)
        subject = edge_subject(self._prefix, self._scope(message))
        copies = 0  # that somebody may have got
        answer: Any = None
        moving: Refusal | None = None
        trouble: FoliotError | None = None
        while (rest_ms := left_ms()) > 0:
            try:
                link = self._link or await self._connect(rest_ms)
                rest_ms = max(left_ms(), 1)
                copies += 1
                async with asyncio.timeout(min(try_ms, rest_ms) / 1000 if repeatable else None) as limit:
                    if repeatable:
                        self._tries[limit] = None
                    try:
                        found = (await link.request(subject, data, timeout_ms=rest_ms)).data
                    finally:
                        self._tries.pop(limit, None)
                trouble = None
                answer = api.decode_answer(found)
                moving = answer if awaits_shards and isinstance(answer, Refusal) and answer.code in _MOVING else None
                if moving is not None:
                    copies -= 1
                elif copies == 1 or is_settled(message, answer):
                    return answer
            except NotPermittedError as error:
                if subject == edge_subject(self._prefix, OPERATORS):
                    raise OperatorsOnlyError(_shown(message), self._tenant) from error
                raise
            except _NOT_SENT as error:
                copies -= 1
                trouble = error
            except DeadlineError:
                break
            except TimeoutError:
                try_ms = next(spans)
                trouble = None
            self.tell_wait(_awaited(trouble, answer, self._config.shown), started_ns)
            await asyncio.sleep(min(backoff_ms, max(left_ms(), 0)) / 1000)
            backoff_ms = min(backoff_ms * 2, limits.backoff_max_ms)
        unknown = as_unknown(answer)
        if unknown is not None:
            return unknown
        if trouble is not None and not copies:
            if isinstance(trouble, LinkDownError):
                raise NatsUnreachableError(self._config.shown, trouble.reason) from trouble
            if isinstance(trouble, NoRespondersError):
                raise NoNodeError(self._config.shown, self._why_no_node()) from trouble
            raise trouble
        if moving is not None and (not copies or (repeatable and not isinstance(message, SubmitTasks))):
            return moving
        if isinstance(answer, Refusal):
            raise UnsettledError(_shown(message), whole_ms, answer.text)
        raise DeadlineError(_shown(message), whole_ms)

    def _why_no_node(self) -> str:
        """Return why nobody may answer, as far as the server tells."""
        link = self._link
        if link is not None and link.server.version and not link.server.jetstream:
            return "the NATS server has no JetStream, without which no node starts (nats-server -js)"
        return "the NATS server is there, and nobody answers"

    def tell_wait(self, what: str, since_ns: int) -> None:
        """Say what somebody waits for, who has waited for a moment, if that was not said before."""
        waited_ms = (self._clock.mono_ns() - since_ns) // 1_000_000
        if self._on_wait is None or waited_ms < self._limits.silent_ms:
            return
        if what not in self._said and len(self._said) < _SAID_MAX:
            self._said[what] = None
            self._on_wait(what)

    def _scope(self, message: Any) -> str:
        """Return the word in the subject: the tenant the message is about, or that it is about all."""
        if isinstance(message, api.Hello):
            return self._tenant
        tenant = "" if isinstance(message, api.SetTenant) else getattr(message, "tenant", "")
        return check_name("tenant", tenant) if tenant else OPERATORS

    # -- what is too large for one message -----------------------------------------------------------------------------

    async def _whole(self, message: Any, left_ms: Callable[[], int]) -> Any:
        if isinstance(message, WatchTasks) and message.wait_ms > self._limits.poll_ms:
            return await self._in_turns(message, left_ms)
        data = api.encode_request(message)
        link = self._link or await self._connect(left_ms())
        if len(data) > link.max_message:
            if not isinstance(message, CUT):
                raise TooLargeError(type(message).__name__, len(data), link.max_message)
            if size_of(message) == 1:
                return Refusal.of(TooLargeError(type(message).__name__, len(data), link.max_message))
            return await sent_apart(message, lambda part: self._whole(part, left_ms))
        answer = await self._one(message, data, left_ms)
        is_too_large = isinstance(answer, Refusal) and answer.code == _TOO_LARGE
        if is_too_large and isinstance(message, ASKED_APART) and len(message.ids) > 1:
            return await asked_apart(message, lambda part: self._whole(part, left_ms))
        return answer

    async def _in_turns(self, message: WatchTasks, left_ms: Callable[[], int]) -> Any:
        """Poll for a while, and again, until some have ended."""
        wait_ms = message.wait_ms
        while True:
            turn_ms = min(wait_ms, self._limits.poll_ms)
            answer = await self._whole(msgspec.structs.replace(message, wait_ms=turn_ms), left_ms)
            wait_ms -= turn_ms
            if not isinstance(answer, TasksEnded) or answer.ended or wait_ms <= 0 or left_ms() <= turn_ms:
                return answer

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _connect(self, left_ms: int) -> NatsLink:
        """Return the link, opened now if need be. Raises: ConnectionClosedError, NatsUnreachableError, ..."""
        started_ns = self._clock.mono_ns()
        patience_ms = min(self._connect_timeout_ms, left_ms)
        backoff_ms = self._limits.backoff_ms
        async with self._connecting:
            while True:
                if self._is_closed:
                    raise ConnectionClosedError
                if self._link is not None:
                    return self._link
                try:
                    self._link = await NatsLink.open(self._config, clock=self._clock, rng=self._rng.stream("link"))
                except NatsUnreachableError:
                    if (self._clock.mono_ns() - started_ns) // 1_000_000 >= patience_ms:
                        raise
                    self.tell_wait(_AWAITED_SERVER.format(self._config.shown), started_ns)
                    await asyncio.sleep(backoff_ms / 1000)
                    backoff_ms = min(backoff_ms * 2, self._limits.backoff_max_ms)
                else:
                    self._link.watch(self._link_changed)
                    return self._link

    def _link_changed(self, state: LinkState) -> None:
        """What was under way may be lost with the connection: what may be repeated is, as soon as there is another."""
        if not state.is_up:
            for limit in list(self._tries):
                if not limit.expired():
                    limit.reschedule(0.0)


def tries_ms(first_ms: int, longest_ms: int) -> Iterator[int]:
    """Yield how long each try waits: every span twice, since the second may reach the same silent node."""
    span_ms = first_ms
    while True:
        yield span_ms
        yield span_ms
        span_ms = min(span_ms * 2, max(longest_ms, span_ms))


def _shown(message: Any) -> str:
    """Return what is asked for, in words."""
    return f"the request to {_CAPITAL.sub(' ', type(message).__name__).lower()}"


def _awaited(trouble: FoliotError | None, answer: Any, where: str) -> str:
    """Return a line that says what a request waits for. `answer`: to the latest copy that had one."""
    if isinstance(trouble, NoRespondersError):
        return f"waiting for a node at nats://{where}"
    if isinstance(trouble, LinkDownError):
        return _AWAITED_SERVER.format(where)
    if isinstance(answer, Refusal):
        is_moving = answer.code in _MOVING
        return "waiting for shards that no node has at this moment" if is_moving else f"waiting: {answer.text}"
    return f"waiting for an answer from the cluster at nats://{where}"
