"""One connection to one NATS server, from login to its end: the only place that touches nats-py's client.

nats-py does what it does well: the addresses, TLS, and the login with passwords, nkeys and credentials files. All else is
left out, since it can stall or end without a word: its reader, its publishing, its subscriptions, its pings, its
reconnecting. After the login the socket's bytes go straight from the event loop to the parser. What holds: a session that
cannot go on, for whatever reason, calls `ended` once, and never comes back to life; who wants to go on opens a new one.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsPyError

from ...runtime.errors import FoliotError
from .config import PAYLOAD_FLOOR, NatsConfig, shown
from .errors import (
    NatsConfigError,
    NatsCredentialsError,
    NatsPayloadError,
    NatsTlsError,
    NatsTooOldError,
    NatsUnreachableError,
)
from .parser import Owner, Parser

VERSION_FLOOR: Final = (2, 11)  # below it there is no per-message limit of life and no fencing header
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_NEVER_S: Final = 1e9  # nats-py's own pings: the link has its own
_TASKS: Final = ("_reading_task", "_ping_interval_task", "_flusher_task")


class ServerInfo(msgspec.Struct, frozen=True):
    """What the server says of itself."""

    version: str = ""
    max_payload: int = 1_048_576
    jetstream: bool = False
    server_id: str = ""
    server_name: str = ""
    headers: bool = False
    tls_required: bool = False
    connect_urls: list[str] = []
    cluster: str = ""  # its name, where the server is one of several
    ldm: bool = False


class Session:
    """`ended`: called once, with the reason, when it cannot go on; not if `abort` ended it."""

    def __init__(self, config: NatsConfig, server: str, owner: Owner, ended: Callable[[str], None]) -> None:
        self._config = config
        self.server = server
        self._ended = ended
        self._is_over = False
        self._client = _Client(self)
        self._parser = Parser(owner)
        self.info = ServerInfo()

    @property
    def is_over(self) -> bool:
        return self._is_over

    async def open(self) -> None:
        """Connect and log in.

        Raises: NatsUnreachableError, NatsCredentialsError, NatsTlsError, NatsTooOldError, NatsPayloadError, NatsConfigError.
        """
        config, client = self._config, self._client
        where = shown(self.server)
        timeout_s = config.connect_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(
                    [self.server],
                    name=config.name,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=timeout_s,  # type: ignore[arg-type]  # a float does
                    ping_interval=_NEVER_S,  # type: ignore[arg-type]
                    error_cb=client.note,
                    tls=config.ssl_context() if config.wants_tls(self.server) else None,
                    tls_hostname=config.tls_hostname,
                    user=config.user or None,
                    password=config.password or None,
                    user_credentials=config.credentials or None,
                    nkeys_seed=config.nkey_seed or None,
                )
            if not client.is_connected:  # nats-py goes on when a server closes the connection instead of an answer
                raise NatsPyError("nats: the server closed the connection during the login")
        except BaseException as error:
            self.abort()
            if isinstance(error, (FoliotError, asyncio.CancelledError)) or not isinstance(error, Exception):
                raise
            raise self._named(error, where) from error
        client.stop_tasks()  # they have not begun yet
        writer = client.writer
        reading = _Reading(self, writer.transport.get_protocol(), self._parser)
        writer.transport.set_protocol(reading)
        reading.data_received(await client.rest())

    def _named(self, error: Exception, where: str) -> FoliotError:
        """Return the typed error for what nats-py raised."""
        cause = self._client.noted or error
        text = str(cause).removeprefix("nats: ").strip("'\" ") or type(cause).__name__
        lowered = text.lower()
        if isinstance(cause, ssl.SSLError) or "ssl" in lowered:
            return NatsTlsError(where, text)
        if "authorization" in lowered or "authentication" in lowered or "nonce" in lowered:
            return NatsCredentialsError(where, text)
        if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
            text = f"no answer within {self._config.connect_timeout_ms} ms"
        elif self._client.is_encrypted and not self._config.tls_cert and (isinstance(cause, OSError) or "closed" in lowered):
            return NatsTlsError(where, "the server closed the connection; it may want a client certificate")
        if not isinstance(cause, (OSError, NatsPyError, TimeoutError)):
            unusable = f"not usable ({type(cause).__name__}: {text})"
            return NatsConfigError("credentials", unusable, "a readable file with a user's seed")
        return NatsUnreachableError(where, text)

    def admit(self, info: dict[str, Any], *, is_encrypted: bool) -> None:
        """Look at the server before anything secret is sent to it.

        Raises: NatsTooOldError, NatsPayloadError, NatsTlsError, NatsUnreachableError.
        """
        where = shown(self.server)
        if self._config.wants_tls(self.server) and not is_encrypted:
            raise NatsTlsError(where, "the server does not use TLS")
        try:
            self.info = msgspec.convert({name: value for name, value in info.items() if value is not None}, ServerInfo)
        except msgspec.ValidationError as error:
            raise NatsUnreachableError(where, f"not a NATS server: {error}") from error
        version = _VERSION.match(self.info.version)
        if version is None or (int(version[1]), int(version[2])) < VERSION_FLOOR or not self.info.headers:
            raise NatsTooOldError(where, self.info.version or "unknown", ".".join(map(str, VERSION_FLOOR)))
        if self.info.max_payload < PAYLOAD_FLOOR:
            raise NatsPayloadError(where, self.info.max_payload, PAYLOAD_FLOOR)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport, which keeps what the socket does not take."""
        self._client.writer.write(data)

    async def drain(self) -> None:
        """Wait until the transport has little left. Raises: OSError."""
        await self._client.writer.drain()

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """It cannot go on."""
        if not self._is_over:
            self.abort()
            self._ended(reason)

    def abort(self) -> None:
        """Let go of the connection at once, and of all of nats-py's tasks. Harmless when done already."""
        if not self._is_over:
            self._is_over = True
            self._client.let_go()


class _Reading(asyncio.Protocol):
    """Takes what the socket gives. `before`: the protocol of nats-py's streams, through which the writer still learns when
    to wait and when all is over."""

    def __init__(self, session: Session, before: asyncio.BaseProtocol, parser: Parser) -> None:
        self._session = session
        self._before = before
        self._parser = parser

    def data_received(self, data: bytes) -> None:
        if self._session.is_over:
            return
        try:
            self._parser.feed(data)
        except Exception as error:
            self._session.end(f"what came is not the protocol: {error}")

    def eof_received(self) -> None:
        self._session.end("the server closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)
        self._session.end(str(error) if error else "the connection was closed")

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()


class _Client(Client):
    """nats-py's client, reduced to the login."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.noted: Exception | None = None

    async def note(self, error: Exception) -> None:
        """nats-py's error callback: it must not raise."""
        self.noted = error

    @property
    def writer(self) -> asyncio.StreamWriter:
        writer = self._transport._io_writer  # type: ignore[union-attr]
        assert isinstance(writer, asyncio.StreamWriter)
        return writer

    @property
    def is_encrypted(self) -> bool:
        writer = getattr(self._transport, "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    def _connect_command(self) -> bytes:
        self._session.admit(self._server_info, is_encrypted=self.is_encrypted)
        return super()._connect_command()

    async def rest(self) -> bytes:
        """Return what came with the end of the login; its reader gets no more."""
        reader = self._transport._io_reader  # type: ignore[union-attr]
        assert isinstance(reader, asyncio.StreamReader)
        reader.feed_eof()
        return await reader.read()

    def stop_tasks(self) -> None:
        for name in _TASKS:
            task: asyncio.Task[None] | None = getattr(self, name, None)
            if task is not None:
                task.cancel()

    def let_go(self) -> None:
        """Close the socket and end all tasks, whatever state they are in."""
        self._status = Client.CLOSED
        self.stop_tasks()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            with suppress(Exception):  # of a transport that has failed already
                writer.transport.abort()
