"""A TCP proxy that plays a bad network between a client and a server of this machine."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards to a server; who connects to `port` reaches it. `closed`: connections are refused."""

    def __init__(self, host: str, port: int) -> None:
        self.closed = False
        self._target = (host, port)
        self._passing = asyncio.Event()
        self._passing.set()
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []  # to a client, to the server
        self._serving: dict[asyncio.Task[None] | None, None] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        serving = [task for task in self._serving if task is not None]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stall(self) -> None:
        """Let nothing pass, while all connections stay open and new ones are taken."""
        self._passing.clear()

    def go_on(self) -> None:
        """Let everything pass again, first what waited."""
        self._passing.set()

    def cut(self, *, clients_only: bool = False) -> None:
        """Break all connections; `clients_only`: the server does not hear of it."""
        for client, server in self._pairs:
            client.transport.abort()
            if not clients_only:
                server.transport.abort()
        self._pairs.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        own = asyncio.current_task()
        self._serving[own] = None
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is not there
            writer.transport.abort()
        else:
            pair = (writer, up_writer)
            self._pairs.append(pair)
            await asyncio.gather(self._pump(reader, up_writer, True), self._pump(up_reader, writer, False))
            if pair in self._pairs:
                self._pairs.remove(pair)
        finally:
            del self._serving[own]

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_question: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                await self._passing.wait()
                if sink.is_closing():
                    break
                if self._may_pass(data, sink, is_question):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            self._ended(sink, is_question)

    def _may_pass(self, data: bytes, sink: asyncio.StreamWriter, is_question: bool) -> bool:
        """Look at what passes. `is_question`: it comes from a client. Returns: whether to let it through."""
        return True

    def _ended(self, sink: asyncio.StreamWriter, is_question: bool) -> None:
        """Nothing more comes for `sink`."""
        sink.close()
