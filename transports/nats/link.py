"""The link of a process to the NATS servers: publish, subscribe, ask, over one connection that is made anew when it ends.

The link owns the connection, so it decides what nats-py leaves open. What holds:

- Nobody waits to publish. Messages are put in a bounded queue, and one task writes them; a full queue refuses.
- Messages are handed over as they are read, in order, by a plain call. What a taker raises is logged, and harms nobody else.
- There is one way to end a connection and one way to begin: whatever goes wrong, the session is dropped, a new one is opened
  at the next server with a growing, jittered pause, and the subscriptions are set again before anything else is written.
- What was not written when a session ends is dropped, never sent late; a request among it fails at once. What was written
  may have arrived or not: a request then ends by its deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from ...runtime.clock import Clock
from ...runtime.errors import FoliotError
from ...runtime.rng import Rng
from .asking import NO_RESPONDERS, Delivery, Inbox, api_answer
from .config import NatsConfig, shown
from .errors import LinkDownError, NatsUnreachableError, OutboundFullError, TooLargeError
from .parser import headers_of
from .session import ServerInfo, Session
from .writing import Heads, checked, header_block, subscribe_line, unique

__all__ = ["NO_RESPONDERS", "Delivery", "LinkState", "NatsConfig", "NatsLink", "ServerInfo", "Subscription", "unique"]

log = structlog.get_logger("foliot.transports.nats")

_CANCEL_AGAIN_S: Final = 0.1
_DISCOVERED_MAX: Final = 64  # servers that servers told of


Taker = Callable[[Delivery], None]


@dataclass(frozen=True)
class LinkState:
    """What a watcher is told. `sessions`: how many there were so far. `reason`: why it is down. `written`: the number of the
    last message that was written; if it is down, later ones were not sent, and the others may have arrived or not."""

    is_up: bool
    sessions: int
    server: str = ""
    reason: str = ""
    written: int = 0


class Subscription:
    """One interest in a subject; `close` ends it."""

    __slots__ = ("_link", "line", "sid")

    def __init__(self, link: NatsLink, sid: int, line: bytes) -> None:
        self._link = link
        self.sid = sid
        self.line = line  # by which it begins

    def close(self) -> None:
        """Stop it. What the server had sent already is still handed over. Harmless when done already."""
        self._link._unsubscribe(self)


class NatsLink:
    """Made by `open`. Lives on one event loop."""

    def __init__(self, config: NatsConfig, *, clock: Clock, rng: Rng) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._servers = list(config.servers)
        self._discovered: dict[str, None] = {}
        self._session: Session | None = None
        self._sessions = 0
        self._reason = "not opened yet"
        self._is_closing = False
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: list[Callable[[LinkState], None]] = []
        self.server = ServerInfo()
        self.max_message = 0
        self.dropped: dict[str, int] = {}
        """How many messages were lost here, by reason."""

        self._out: list[bytes] = []
        self._out_count = 0
        self._out_bytes = 0
        self._put = 0  # messages taken so far ...
        self._written = 0  # ... and of those, written to a session
        self._wake: asyncio.Event = asyncio.Event()
        self._heads = Heads().of

        self._subscriptions: dict[int, Subscription] = {}
        self._takers: dict[int, Taker] = {}
        self._sid = 0
        self._ending: deque[tuple[int, int]] = deque()  # (ping, sid): ended once that ping is answered
        self._pings = 0
        self._pongs = 0
        self._ponged = asyncio.Event()

        self.ident = unique(rng)
        """Names this life of the link, in subjects; no two links have the same."""
        self._inbox = f"{config.inbox}.{self.ident}"
        self._requests = Inbox(self._inbox, self.publish, bound=config.max_requests)
        self._has_inbox = False

    @classmethod
    async def open(cls, config: NatsConfig, *, clock: Clock, rng: Rng) -> NatsLink:
        """Connect to the first server that lets this process in.

        Raises: NatsUnreachableError, NatsCredentialsError, NatsTlsError, NatsTooOldError, NatsPayloadError, NatsConfigError.
        """
        link = cls(config, clock=clock, rng=rng)
        failures: list[FoliotError] = []
        for server in list(link._servers):
            try:
                await link._begin(server)
                break
            except FoliotError as error:
                failures.append(error)
        else:
            first = failures[0]
            for failure in failures:
                if not isinstance(failure, NatsUnreachableError):
                    raise failure  # it says more than that another one is down
            raise NatsUnreachableError(config.shown, getattr(first, "reason", str(first))) from first
        loop = asyncio.get_running_loop()
        link._tasks = [
            loop.create_task(link._write_all(), name="nats-writer"),
            loop.create_task(link._keep_up(), name="nats-link"),
            loop.create_task(link._watch_over(), name="nats-watchdog"),
        ]
        return link

    async def close(self) -> None:
        """Let the server read what was published, if it answers soon, and end the connection. Harmless when done already."""
        if self._is_closing:
            return
        self._is_closing = True
        session = self._session
        if session is not None:
            with suppress(TimeoutError, LinkDownError):
                async with asyncio.timeout(self._config.connect_timeout_ms / 1000):
                    await self.flush()
        living = self._tasks
        while living:
            for task in living:
                task.cancel()  # more than once if need be: nats-py, while it connects, may take a cancellation for an error
            await asyncio.wait(living, timeout=_CANCEL_AGAIN_S)
            living = [task for task in living if not task.done()]
        for each in (session, self._session):
            if each is not None:
                each.abort()
        self._down("closed")

    @property
    def is_up(self) -> bool:
        return self._session is not None

    @property
    def inbox(self) -> str:
        """The prefix of subjects that only this link listens to."""
        return self._inbox

    @property
    def queued(self) -> int:
        """How many messages wait to be written."""
        return self._out_count

    def watch(self, listener: Callable[[LinkState], None]) -> None:
        """Call the listener whenever the connection is lost or there again, and once now. It must not block."""
        self._watchers.append(listener)
        self._tell(listener)

    def unwatch(self, listener: Callable[[LinkState], None]) -> None:
        """Tell the listener no more; harmless if it was not told."""
        if listener in self._watchers:
            self._watchers.remove(listener)

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> int:
        """Put a message on its way; returns at once. At most once: what is lost with a connection is not told, except by
        `LinkState.written`.

        Returns: the number of the message.
        Raises: LinkDownError, OutboundFullError, TooLargeError, InvalidSubjectError; the message was not taken then.
        """
        if self._session is None:
            raise LinkDownError(self._reason)
        head = self._heads(subject)
        size = len(data)
        if headers is not None:
            lines = header_block(headers)
            total = size + len(lines)
            middle = b"H%b%b %d %d\r\n%b" if reply else b"H%b%b%d %d\r\n%b"
            line = middle % (head, checked(reply), len(lines), total, lines)
        elif reply:
            total = size
            line = b"%b%b %d\r\n" % (head, checked(reply), size)
        else:
            total = size
            line = b"%b%d\r\n" % (head, size)
        if total > self.max_message:
            raise TooLargeError(subject, total, self.max_message)
        config = self._config
        if self._out_count >= config.max_queued_messages or self._out_bytes + total > config.max_queued_bytes:
            raise OutboundFullError(self._out_count, self._out_bytes)
        self._out_count += 1
        self._out_bytes += total
        self._put += 1
        self._out += (line, data, b"\r\n")
        if self._out_count == 1:
            self._wake.set()
        return self._put

    def _command(self, line: bytes) -> None:
        """Put a line that is no message on its way. There are few of them, and they have no bound of their own."""
        if self._session is not None:
            self._out.append(line)
            self._wake.set()

    def _ping(self) -> int:
        """Return the number whose answer says that the server has read all before."""
        self._pings += 1
        self._command(b"PING\r\n")
        return self._pings

    async def flush(self) -> None:
        """Wait until the server has read all that was published so far. Raises: LinkDownError."""
        sessions, number = self._sessions, self._ping()
        while self._pongs < number:
            if self._session is None or self._sessions != sessions:
                raise LinkDownError(self._reason)
            self._ponged.clear()
            await self._ponged.wait()

    async def _write_all(self) -> None:
        """The one task that writes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            session = self._session
            if session is None or not self._out:
                continue
            data = b"".join(self._out)
            self._out = []
            self._out_count = self._out_bytes = 0
            self._written = self._put
            try:
                session.write(data)
                await session.drain()
            except Exception as error:  # an OSError, or what a transport that has failed says
                session.end(str(error) or type(error).__name__)

    # -- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(self, subject: str, take: Taker, *, group: str = "") -> Subscription:
        """Call `take` with each message to the subject, which may hold wildcards, from now on and over new connections;
        of the members of a queue group one gets it. `take` must not block; what it raises is logged and dropped.

        Raises: InvalidSubjectError."""
        line = subscribe_line(subject, group, self._sid + 1)
        self._sid += 1
        subscription = Subscription(self, self._sid, line)
        self._subscriptions[self._sid] = subscription
        self._takers[self._sid] = take
        self._command(line)
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.sid, None) is None:
            return
        if self._session is None:
            self._takers.pop(subscription.sid, None)
            return
        self._command(b"UNSUB %d\r\n" % subscription.sid)
        self._ending.append((self._ping(), subscription.sid))

    # -- asking ------------------------------------------------------------------------------------------------------

    async def request(
        self, subject: str, data: bytes, *, timeout_ms: int, headers: Mapping[str, str] | None = None
    ) -> Delivery:
        """Publish a message and return the first answer.

        Raises: NoRespondersError, DeadlineError, NotPermittedError, and what `publish` raises. After DeadlineError the
        outcome is unknown; after the others nothing was done.
        """
        if not self._has_inbox:
            self._has_inbox = True
            self.subscribe(self._requests.subject, self._requests.take)
        return await self._requests.request(subject, data, timeout_ms=timeout_ms, headers=headers)

    async def api(self, op: str, body: Mapping[str, Any] | None = None, *, timeout_ms: int) -> dict[str, Any]:
        """Call the JetStream API, `STREAM.CREATE.events` say, and return its answer. Raises: ApiError and as `request`."""
        data = json.dumps(body).encode() if body else b""
        return api_answer(op, await self.request(f"$JS.API.{op}", data, timeout_ms=timeout_ms))

    # -- what the server says (parser.Owner) ---------------------------------------------------------------------------

    def on_message(self, sid: int, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        take = self._takers.get(sid)
        if take is None:
            return
        try:
            if head:
                status, headers = headers_of(head)
                take(Delivery(subject.decode(), data, reply.decode(), headers, status))
            else:
                take(Delivery(subject.decode(), data, reply.decode()))
        except (Exception, asyncio.CancelledError) as error:
            self.drop("taker_failed")
            log.error("nats_taker_failed", subject=subject.decode(errors="replace"), error=repr(error), exc_info=error)

    def on_ping(self) -> None:
        self._command(b"PONG\r\n")

    def on_pong(self) -> None:
        self._pongs += 1
        self._ponged.set()
        while self._ending and self._ending[0][0] <= self._pongs:
            self._takers.pop(self._ending.popleft()[1], None)

    def on_info(self, text: bytes) -> None:
        info = msgspec.json.decode(text, type=ServerInfo)
        self._learn(info)
        session = self._session
        if info.ldm and session is not None:
            log.warning("nats_server_leaves", server=shown(session.server))
            if len(self._servers) + len(self._discovered) > 1:
                delay_s = self._rng.below(self._config.reconnect_max_ms) / 1000
                asyncio.get_running_loop().call_later(delay_s, session.end, "the server is being shut down")

    def on_error(self, text: str) -> None:
        if "permissions violation" in text.lower():
            self.drop("not_permitted")
            if not self._requests.not_permitted(text):  # else whoever asked is told, and says what is to be said
                log.error("nats_not_permitted", error=text)
            return
        if self._session is not None:
            self._session.end(text)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count messages that were lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _learn(self, info: ServerInfo) -> None:
        """Note other servers that were told of."""
        scheme = "tls" if info.tls_required else "nats"
        known = {shown(server) for server in self._servers}
        for address in info.connect_urls:
            if address not in known and len(self._discovered) < _DISCOVERED_MAX:
                self._discovered[f"{scheme}://{address}"] = None

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def _begin(self, server: str) -> None:
        """Open a session and go on with it. Raises: as `Session.open`."""
        session = Session(self._config, server, self, self._down)
        await session.open()
        if session.is_over:
            raise NatsUnreachableError(shown(server), "the connection ended at once")
        self.server = session.info
        limit = self._config.max_payload
        self.max_message = min(limit, session.info.max_payload) if limit else session.info.max_payload
        self._learn(session.info)
        self._pings = self._pongs = 0
        self._out = [subscription.line for subscription in self._subscriptions.values()]
        self._session = session
        self._sessions += 1
        self._wake.set()
        if self._sessions > 1:
            log.info("nats_reconnected", server=shown(server), version=session.info.version, sessions=self._sessions)
        for listener in list(self._watchers):
            self._tell(listener)

    def _down(self, reason: str) -> None:
        """The session is over: what waited to be written is lost, and whoever waits for that is told."""
        was_up = self._session is not None
        self._session = None
        self._reason = reason
        if self._out_count:
            self.drop("disconnected", self._out_count)
        self._out = []
        self._out_count = self._out_bytes = 0
        while self._ending:
            self._takers.pop(self._ending.popleft()[1], None)
        self._requests.not_written(-1 if self._is_closing else self._written, reason)
        self._ponged.set()
        self._lost.set()
        if was_up:
            if not self._is_closing:
                log.warning("nats_disconnected", reason=reason)
            for listener in list(self._watchers):
                self._tell(listener)
        self._written = self._put

    def _tell(self, listener: Callable[[LinkState], None]) -> None:
        session = self._session
        state = LinkState(
            session is not None, self._sessions, shown(session.server) if session is not None else "",
            "" if session is not None else self._reason, self._written,
        )  # fmt: skip
        try:
            listener(state)
        except Exception as error:
            log.error("nats_watcher_failed", error=repr(error), exc_info=error)

    async def _keep_up(self) -> None:
        """Open a new session whenever there is none."""
        config = self._config
        while True:
            await self._lost.wait()
            self._lost.clear()
            pause_ms = config.reconnect_min_ms
            turn = 0
            told: dict[str, None] = {}  # what was logged of this outage
            while self._session is None:
                servers = [*self._servers, *self._discovered]
                if turn and turn % len(servers) == 0:  # all were tried
                    pause_ms = min(pause_ms * 2, config.reconnect_max_ms)
                await asyncio.sleep((pause_ms // 2 + self._rng.below(pause_ms // 2 + 1)) / 1000)
                server = servers[(self._sessions + turn) % len(servers)]
                turn += 1
                try:
                    await self._begin(server)
                except FoliotError as error:
                    self._reason = str(error)
                    if self._reason not in told:
                        told[self._reason] = None
                        log.warning("nats_still_down", error=self._reason)

    async def _watch_over(self) -> None:
        """End a session whose server does not answer any more, though the connection looks open."""
        config = self._config
        while True:
            await asyncio.sleep(config.ping_interval_ms / 1000)
            session = self._session
            if session is None:
                continue
            number = self._ping()
            await asyncio.sleep(config.ping_timeout_ms / 1000)
            if session is self._session and self._pongs < number:
                session.end(f"no sign of life within {config.ping_timeout_ms} ms")
