"""The local transport: a Unix socket between a scheduler and the clients on its machine.

A frame is a u32 length of what follows, a u32 request number, and the bytes of `transports.api`. Answers carry the
number of their request and come in any order. Everything is bounded: the size of a frame, the requests and the bytes
under way on a connection, the connections. A peer that sends rubbish gets a refusal or a closed connection; one that
does not read its answers is not read from. Only the owner of the socket file may connect (mode 0600).

A socket's path may have about 100 bytes. Where the wanted path is longer, the socket lies in a private temporary folder
and a *pointer file* at the wanted path names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import structlog

from ..actors.messages import WatchTasks
from ..runtime.bus import Refusal
from ..runtime.clock import Clock, SystemClock
from ..runtime.errors import DeadlineError, FoliotError, UnavailableError, UsageError
from . import api
from .repeats import as_unknown, is_settled, may_repeat

log = structlog.get_logger("foliot.transports")

_HEADER: Final = struct.Struct(">II")
_LENGTH: Final = struct.Struct(">I")
_NUMBER_BYTES: Final = 4
_MAX_PATH_BYTES: Final = 100
_POINTER: Final = "foliot socket: "


class Listener(Protocol):
    """Who answers: a gateway."""

    async def handle(self, request: Any, *, timeout_ms: int) -> Any:
        """Return the answer; never raises but when cancelled."""
        ...


@dataclass(frozen=True)
class LocalLimits:
    """The bounds of one socket. Both sides use the same."""

    max_frame: int = 64 << 20  # bytes; also of the requests under way on a connection together
    max_in_flight: int = 64  # requests on a connection
    max_connections: int = 512
    write_buffer: int = 1 << 20  # bytes not yet read by the peer before its requests are no longer read
    request_timeout_ms: int = 75_000  # a request takes at most this long, the longest poll included
    close_grace_ms: int = 2_000
    backoff_ms: int = 20
    backoff_max_ms: int = 1_000


class NotRunningError(UnavailableError):
    """Nobody listens at the address."""

    code = "not_running"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"no scheduler listens at {path!r}; start one with 'foliot up --app module:app', or name its socket"
        )
        self.path = path


class SocketForbiddenError(UsageError):
    """The socket belongs to somebody else."""

    code = "socket_forbidden"

    def __init__(self, path: str) -> None:
        super().__init__(f"the socket {path!r} may be used by its owner only, expected the user who runs the scheduler")
        self.path = path


class ConnectionLostError(UnavailableError):
    """The connection broke while the request was under way; its outcome is unknown."""

    code = "connection_lost"

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"the connection to {path!r} was lost while {what} was under way; its outcome is unknown")
        self.path = path
        self.what = what


class SocketInUseError(UsageError):
    """The path is taken: by a live scheduler, or by a file that is no socket."""

    code = "socket_in_use"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot listen at {path!r}: {reason}; expected a free path or a socket nobody listens on")
        self.path = path
        self.reason = reason


class FrameTooLargeError(UsageError):
    """A request that does not fit into a frame."""

    code = "too_large"

    def __init__(self, size: int, bound: int) -> None:
        super().__init__(f"the request has {size} bytes, expected at most {bound}")
        self.size = size
        self.bound = bound


def default_socket(database: str) -> str:
    """Return the socket's path for a database: next to it, `foliot.db` → `foliot.sock`."""
    return str(Path(database).with_suffix(".sock"))


def resolve_socket(path: str) -> str:
    """Return where the socket really is: `path`, or what the pointer file there says."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        return path
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotRunningError(path) from error
    if not text.startswith(_POINTER):
        raise NotRunningError(path)
    return text.removeprefix(_POINTER).strip()


# -- server ------------------------------------------------------------------------------------------------------------


class LocalServer:
    """Listens at a path and hands requests to a gateway; an async context manager."""

    def __init__(self, gateway: Listener, path: str, *, limits: LocalLimits | None = None) -> None:
        self.path = path
        self._gateway = gateway
        self._limits = limits or LocalLimits()
        self._server: asyncio.AbstractServer | None = None
        self._connections: dict[int, _Connection] = {}
        self._next = 0
        self._inode = 0
        self._real_path = path

    async def __aenter__(self) -> LocalServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises: SocketInUseError."""
        loop = asyncio.get_running_loop()
        if len(os.fsencode(self.path)) > _MAX_PATH_BYTES:
            self._real_path = _point(self.path)
        _remove_stale(self._real_path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # Linux makes the file with the mode of the unbound socket
            listener.bind(self._real_path)
            os.chmod(self._real_path, 0o600)  # others do not
            listener.setblocking(False)
            self._inode = os.lstat(self._real_path).st_ino
            self._server = await loop.create_unix_server(self._connection, sock=listener, backlog=256)
        except OSError as error:
            listener.close()
            raise SocketInUseError(self.path, str(error)) from error

    def _connection(self) -> asyncio.Protocol:
        self._next += 1
        return _Connection(self, self._next, self._gateway, self._limits)

    def admit(self, connection: _Connection) -> bool:
        """Tell whether one more connection is allowed, and note it."""
        if len(self._connections) >= self._limits.max_connections:
            return False
        self._connections[connection.number] = connection
        return True

    def forget(self, connection: _Connection) -> None:
        self._connections.pop(connection.number, None)

    async def close(self) -> None:
        """Stop listening, let requests that are under way finish within a grace, close, remove the file."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._remove_files()
        connections = list(self._connections.values())
        tasks = [task for connection in connections for task in connection.stop()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.close_grace_ms / 1000)
        for connection in connections:
            connection.close()


    def _remove_files(self) -> None:
        """Remove the socket and what leads to it, unless another server has taken their place."""
        with contextlib.suppress(OSError):  # Python 3.13 has removed it by itself
            if os.lstat(self._real_path).st_ino == self._inode:
                os.unlink(self._real_path)
        if self._real_path != self.path:
            with contextlib.suppress(OSError):
                if Path(self.path).read_text(encoding="utf-8").strip() == f"{_POINTER}{self._real_path}":
                    os.unlink(self.path)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self._real_path))


class _Connection(asyncio.Protocol):
    """One client: frames in, answers out."""

    def __init__(self, server: LocalServer, number: int, gateway: Listener, limits: LocalLimits) -> None:
        self.number = number
        self._server = server
        self._handle = gateway.handle
        self._limits = limits
        self._buffer = bytearray()
        self._tasks: dict[asyncio.Task[None], bool] = {}  # → whether it is a long poll
        self._bytes = 0  # of requests under way
        self._transport: asyncio.Transport | None = None
        self._is_reading = True
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._is_stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer)
        if not self._server.admit(self):
            bound = self._limits.max_connections
            refusal = Refusal("overloaded", f"{bound} clients are connected, the bound; close some", 1_000)
            self._write(0, refusal)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._transport = None
        self._buffer.clear()
        self._can_write.set()
        for task, is_poll in self._tasks.items():
            if is_poll:  # nobody waits any more; commands run to their end, since they count what they did
                task.cancel()

    def pause_writing(self) -> None:
        self._can_write.clear()
        self._pace()

    def resume_writing(self) -> None:
        self._can_write.set()
        self._pace()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._parse()

    def _parse(self) -> None:
        """Begin every complete frame the bounds allow; the rest stays in the buffer, and reading pauses."""
        buffer = self._buffer
        start, size = 0, len(buffer)
        while size - start >= _HEADER.size and self._has_room():
            length, number = _HEADER.unpack_from(buffer, start)
            if not _NUMBER_BYTES < length <= self._limits.max_frame:
                bound = self._limits.max_frame
                self._write(number, Refusal("malformed", f"a frame of {length} bytes, expected 5 to {bound}"))
                self.close()
                return
            end = start + _LENGTH.size + length
            if end > size:
                break
            with memoryview(buffer) as view:
                data = bytes(view[start + _HEADER.size : end])
            self._begin(number, data)
            start = end
        if start:
            del buffer[:start]
        self._pace()

    def _has_room(self) -> bool:
        return (
            len(self._tasks) < self._limits.max_in_flight
            and self._bytes < self._limits.max_frame
            and self._can_write.is_set()
            and not self._is_stopping
        )

    def _pace(self) -> None:
        """Read while there is room, and only then."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        has_room = self._has_room()
        if self._is_reading and not has_room:
            self._is_reading = False
            transport.pause_reading()
        elif has_room and not self._is_reading:
            self._is_reading = True
            transport.resume_reading()
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._parse)

    def _begin(self, number: int, data: bytes) -> None:
        try:
            request = api.decode_request(data)
        except UsageError as error:
            self._write(number, Refusal.of(error))
            return
        self._bytes += len(data)
        task = asyncio.get_running_loop().create_task(self._answer(number, request, len(data)))
        self._tasks[task] = isinstance(request, WatchTasks)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not self._is_reading:
            self._pace()

    async def _answer(self, number: int, request: Any, size: int) -> None:
        try:
            answer = await self._handle(request, timeout_ms=self._limits.request_timeout_ms)
        finally:
            self._bytes -= size
        if not self._can_write.is_set():
            await self._can_write.wait()
        self._write(number, answer)

    def _write(self, number: int, answer: Any) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            data = api.encode(answer)
        except Exception as error:
            log.error("answer_not_encodable", answer=type(answer).__name__, exc_info=error)
            data = api.encode(Refusal("internal", f"{type(answer).__name__} could not be encoded"))
        if len(data) + _NUMBER_BYTES > self._limits.max_frame:
            bound = self._limits.max_frame
            data = api.encode(Refusal("too_large", f"the answer has {len(data)} bytes, expected at most {bound}"))
        self._transport.write(_HEADER.pack(len(data) + _NUMBER_BYTES, number) + data)

    def stop(self) -> list[asyncio.Task[None]]:
        """Read no more; return the requests under way that are worth waiting for."""
        self._is_stopping = True
        self._pace()
        for task, is_poll in self._tasks.items():
            if is_poll:
                task.cancel()
        return [task for task, is_poll in self._tasks.items() if not is_poll]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _point(path: str) -> str:
    """Return a short path in a private folder, and write the pointer file that names it."""
    with contextlib.suppress(NotRunningError):
        earlier = resolve_socket(path)
        folder = os.lstat(os.path.dirname(earlier)) if os.path.isdir(os.path.dirname(earlier)) else None
        if folder is not None and folder.st_uid == os.getuid() and stat.S_IMODE(folder.st_mode) == 0o700:
            return earlier
    if os.path.lexists(path) and not os.path.isfile(path):
        raise SocketInUseError(path, "a file that is no pointer to a socket is there")
    real = os.path.join(tempfile.mkdtemp(prefix="foliot-"), "foliot.sock")
    draft = f"{path}.new"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{_POINTER}{real}\n")
    os.replace(draft, path)
    return real


def _remove_stale(path: str) -> None:
    """Remove the socket file of a scheduler that is gone. Raises: SocketInUseError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(path, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise SocketInUseError(path, str(error)) from error
    raise SocketInUseError(path, "a scheduler listens there")


# -- client ------------------------------------------------------------------------------------------------------------


class LocalChannel:
    """A client's end: many requests under way on one connection, which is made again when it breaks.

    A request whose repetition changes nothing (looks, settings, submissions with a request id) is sent again within its
    deadline; any other is answered with ConnectionLostError, since nobody knows whether it was carried out.
    `connect_timeout_ms`: how long the first request waits for a scheduler to appear.
    """

    may_repeat = True

    def __init__(
        self,
        path: str,
        *,
        connect_timeout_ms: int = 0,
        clock: Clock | None = None,
        limits: LocalLimits | None = None,
    ) -> None:
        self.path = path
        self._connect_timeout_ms = connect_timeout_ms
        self._clock = clock or SystemClock()
        self._limits = limits or LocalLimits()
        self._room = asyncio.Semaphore(self._limits.max_in_flight)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._was_connected = False
        self._is_closed = False

    async def request(self, message: Any, *, timeout_ms: int) -> Any:
        """Return the answer, which may be a Refusal. Raises: NotRunningError, ConnectionLostError, DeadlineError,
        FrameTooLargeError, NotEncodableError, VersionError."""
        data = api.encode_request(message)
        if len(data) + _NUMBER_BYTES > self._limits.max_frame:
            raise FrameTooLargeError(len(data), self._limits.max_frame)
        what = type(message).__name__
        repeatable = may_repeat(message)
        copies = 0
        answer: Any = None
        started_ns = self._clock.mono_ns()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                async with self._room:
                    backoff_ms = self._limits.backoff_ms
                    while True:
                        try:
                            link = self._link
                            if link is None or not link.is_open:
                                link = await self._connect()
                            copies += 1
                            answer = api.decode_answer(await link.ask(data))
                            if copies == 1 or is_settled(message, answer):
                                return answer
                        except NotRunningError:
                            waited_ms = (self._clock.mono_ns() - started_ns) // 1_000_000
                            if not self._was_connected and waited_ms >= self._connect_timeout_ms:
                                raise
                        except _LinkLostError as error:
                            if not repeatable:
                                raise ConnectionLostError(self.path, what) from error
                        await asyncio.sleep(backoff_ms / 1000)
                        backoff_ms = min(backoff_ms * 2, self._limits.backoff_max_ms)
        except TimeoutError as error:
            unknown = as_unknown(answer)
            if unknown is not None:
                return unknown
            if self._link is None or not self._link.is_open:
                raise NotRunningError(self.path) from error
            raise DeadlineError(what, timeout_ms) from error

    async def _connect(self) -> _Link:
        async with self._connecting:
            if self._is_closed:
                raise ConnectionClosedError
            if self._link is not None and self._link.is_open:
                return self._link
            loop = asyncio.get_running_loop()
            try:
                _, link = await loop.create_unix_connection(_Link, resolve_socket(self.path))
            except PermissionError as error:
                raise SocketForbiddenError(self.path) from error
            except OSError as error:
                raise NotRunningError(self.path) from error
            self._link = link
            self._was_connected = True
            return link

    async def close(self) -> None:
        """Close the connection; requests under way fail."""
        self._is_closed = True
        if self._link is not None:
            self._link.close()
            self._link = None


class ConnectionClosedError(FoliotError):
    """The channel was closed by its owner."""

    code = "closed"

    def __init__(self) -> None:
        super().__init__("the client is closed; expected requests only inside 'async with'")


class _LinkLostError(Exception):
    """The connection broke before the answer came."""


class _Link(asyncio.Protocol):
    """One connection, seen from the client."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._transport = None
        self._can_write.set()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(_LinkLostError())

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start, size = 0, len(buffer)
        while size - start >= _HEADER.size:
            length, number = _HEADER.unpack_from(buffer, start)
            end = start + _LENGTH.size + length
            if length < _NUMBER_BYTES:
                self.close()
                return
            if end > size:
                break
            future = self._pending.pop(number, None)
            if future is not None and not future.done():
                future.set_result(bytes(memoryview(buffer)[start + _HEADER.size : end]))
            start = end
        if start:
            del buffer[:start]

    async def ask(self, data: bytes) -> bytes:
        """Send a request and return the bytes of its answer."""
        await self._can_write.wait()
        if self._transport is None:
            raise _LinkLostError
        self._next = self._next % 0xFFFFFFFF + 1
        number = self._next
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._transport.write(_HEADER.pack(len(data) + _NUMBER_BYTES, number) + data)
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()
