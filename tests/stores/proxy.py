"""A TCP proxy between a store and its server, which loses what a test wants lost."""

from __future__ import annotations

import asyncio
from types import TracebackType
from urllib.parse import urlsplit


class Proxy:
    """Forwards to the server of a DSN; `dsn` leads through it. What it does to bytes may be changed at any time:

    `deafen`: answers are thrown away; `mute`: questions are thrown away; `hold`: questions are kept until `release`.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self.deafen = self.mute = self.hold = self.closed = False
        self.asked = asyncio.Event()  # something was asked while it deafened, muted or held
        self.answered = asyncio.Event()  # an answer was thrown away
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return self._parts._replace(netloc=f"{self._parts.username}:{self._parts.password}@127.0.0.1:{port}").geturl()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._pairs.append((writer, up_writer))
        for source, sink, is_question in ((reader, up_writer, True), (up_reader, writer, False)):
            self._tasks.append(asyncio.get_running_loop().create_task(self._pump(source, sink, is_question)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_question: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                if is_question and (self.deafen or self.mute or self.hold):
                    self.asked.set()
                if is_question and self.mute:
                    continue
                if is_question and self.hold:
                    self._held.append((sink, data))
                    continue
                if not is_question and self.deafen:
                    self.answered.set()
                    continue
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            if not (is_question and self._held):  # what is held may still be let through
                sink.close()

    def cut(self, *, clients_only: bool = False) -> None:
        """Break all connections; `clients_only`: the server does not hear of it."""
        self.deafen = self.mute = self.hold = False
        for client, server in self._pairs:
            client.transport.abort()
            if not clients_only:
                server.transport.abort()
        self._pairs.clear()

    def release(self) -> None:
        """Let through what was held."""
        for sink, data in self._held:
            sink.write(data)
        self._held.clear()
