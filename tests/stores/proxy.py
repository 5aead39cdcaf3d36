"""A TCP proxy between a store and its server, which loses what a test wants lost."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from .. import proxy


class Proxy(proxy.Proxy):
    """Forwards to the server of a DSN; `dsn` leads through it. What it does to bytes may be changed at any time:

    `deafen`: answers are thrown away; `mute`: questions are thrown away; `hold`: questions are kept until `release`.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        assert self._parts.hostname is not None
        assert self._parts.port is not None
        super().__init__(self._parts.hostname, self._parts.port)
        self.deafen = self.mute = self.hold = False
        self.asked = asyncio.Event()  # something was asked while it deafened, muted or held
        self.answered = asyncio.Event()  # an answer was thrown away
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []

    @property
    def dsn(self) -> str:
        who = f"{self._parts.username}:{self._parts.password}"
        return self._parts._replace(netloc=f"{who}@127.0.0.1:{self.port}").geturl()

    def cut(self, *, clients_only: bool = False) -> None:
        self.deafen = self.mute = self.hold = False
        super().cut(clients_only=clients_only)

    def release(self) -> None:
        """Let through what was held."""
        for sink, data in self._held:
            sink.write(data)
        self._held.clear()

    def _may_pass(self, data: bytes, sink: asyncio.StreamWriter, is_question: bool) -> bool:
        if not is_question:
            if self.deafen:
                self.answered.set()
            return not self.deafen
        if self.deafen or self.mute or self.hold:
            self.asked.set()
        if self.hold and not self.mute:
            self._held.append((sink, data))
        return not (self.mute or self.hold)

    def _ended(self, sink: asyncio.StreamWriter, is_question: bool) -> None:
        if not (is_question and self._held):  # what is held may still be let through
            super()._ended(sink, is_question)
