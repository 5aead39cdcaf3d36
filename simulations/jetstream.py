"""The JetStream port of a simulated process: one connection to the simulated server. Implements `JetStream` of
`transports.nats.port`.

What holds is what the real one holds: entries are handed over in order and numbered without a gap, and where that cannot go
on (the connection broke, the consumer was deleted, an entry was lost on its way) the consumption ends and says so. An entry
whose confirmation did not come in time may be stored or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..runtime.errors import DeadlineError, FoliotError
from ..transports.nats.errors import LinkDownError, NoRespondersError
from ..transports.nats.port import ConsumerConfig, Consumption, Ended, Entry, StreamConfig, Take
from .jetstream_server import JetStreamServer
from .jetstream_state import Stored
from .loop import MS
from .process import Process

R = TypeVar("R")
_TIMEOUT_MS: Final = 5_000
_NOTICED_NS: Final = 500 * MS  # until a connection that broke is noticed, and there again
_TRIES: Final = 3  # of an entry that nobody took
_PAUSE_S: Final = 0.25
_NOTHING: Final[Any] = None


class SimJetStream:
    """One process's connection."""

    def __init__(self, process: Process) -> None:
        server = process.world.broker
        assert server is not None, "the run has no broker"
        self.process = process
        self._server: JetStreamServer = server
        self._consumptions: dict[int, SimConsumption] = {}
        self._made = 0
        server.connect(self)
        process.on_death.append(lambda: server.disconnect(self))

    # -- the port ----------------------------------------------------------------------------------------------------

    async def ensure(self, config: StreamConfig) -> str:
        return await self._call("STREAM.INFO", lambda: self._server.ensure(config))

    async def consumers(self, stream: str) -> list[str]:
        return await self._call("CONSUMER.NAMES", lambda: self._server.consumers(stream))

    async def consume(self, stream: str, config: ConsumerConfig, take: Take, ended: Ended) -> Consumption:
        self._made += 1
        consumption = SimConsumption(self, self._made, stream, config, take, ended)
        number = self._made
        self._consumptions[number] = consumption
        try:
            await self._call("CONSUMER.CREATE", lambda: self._server.consume(self, number, stream, config))
        except BaseException:
            self._consumptions.pop(number, None)
            raise
        consumption.begin()
        return consumption

    async def forget(self, stream: str, consumer: str) -> None:
        await self._call("CONSUMER.DELETE", lambda: self._server.forget(stream, consumer))

    def ack(self, entry: Entry) -> None:
        stream, consumer = entry.ack_to.split(" ")
        self.send(lambda: self._server.ack(stream, consumer, entry.position))

    async def publish(self, subject: str, data: bytes, *, message_id: str = "") -> int:
        tries = 0
        while True:
            tries += 1
            try:
                return await self._call(
                    f"an entry to {subject}", lambda: self._server.publish(subject, data, message_id), is_entry=True
                )
            except NoRespondersError:
                if tries == _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_S)

    # -- the way there and back --------------------------------------------------------------------------------------

    def send(self, action: Callable[[], None]) -> bool:
        """Have something done at the server, if it gets there."""
        process, server = self.process, self._server

        def arrive() -> None:
            if not server.is_down:
                action()

        if process.is_dead:
            return True
        if server.is_down or not process.world.network.stream(process, server.process, 0, arrive):
            process.world.loop.post(server.process.lane, server.disconnect, self)
            return False
        return True

    async def _call(self, what: str, action: Callable[[], R], *, is_entry: bool = False) -> R:
        """Raises: LinkDownError, with nothing done; DeadlineError, after which it may be done; what the action raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        server = self._server

        def at_server() -> None:
            result: Any = _NOTHING
            error: FoliotError | None = None
            try:
                result = action()
            except FoliotError as raised:
                error = raised
            if not (is_entry and error is None and server.befalls("unanswered")):
                server.answer(self, _settle, future, result, error)

        if not self.send(at_server):
            await asyncio.sleep(_NOTICED_NS / 1e9)
            server.connect(self)
            raise LinkDownError("the broker is out of reach")
        server.connect(self)
        timer = asyncio.get_running_loop().call_later(
            _TIMEOUT_MS / 1000, _settle, future, None, DeadlineError(what, _TIMEOUT_MS)
        )
        try:
            return await future
        finally:
            timer.cancel()

    def was_dropped(self) -> None:
        """The connection broke; the process notices a little later."""
        world = self.process.world
        if not self.process.is_dead:
            world.loop.at(world.loop.now_ns + _NOTICED_NS, self.process.lane, self._all_ended, list(self._consumptions))

    def _all_ended(self, numbers: list[int]) -> None:
        for number in numbers:
            self.was_ended(number, "disconnected: the connection broke")

    def was_ended(self, number: int, reason: str) -> None:
        consumption = self._consumptions.get(number)
        if consumption is not None:
            consumption.end(reason)

    def arrived(self, number: int, entry: Stored, of_consumer: int) -> None:
        consumption = self._consumptions.get(number)
        if consumption is not None:
            consumption.arrived(entry, of_consumer)

    def let_go(self, number: int) -> None:
        self._consumptions.pop(number, None)

    def ask(self, number: int, stream: str, consumer: str, count: int) -> None:
        self.send(lambda: self._server.ask(self, number, stream, consumer, count))


class SimConsumption:
    """A consumer at work. Implements `transports.nats.port.Consumption`."""

    def __init__(
        self, jetstream: SimJetStream, number: int, stream: str, config: ConsumerConfig, take: Take, ended: Ended
    ) -> None:  # fmt: skip
        self._jetstream = jetstream
        self._number = number
        self._stream = stream
        self._config = config
        self._take = take
        self._ended = ended
        self._next = 1
        self._owed = 0  # released, and not asked for again

    def begin(self) -> None:
        self._jetstream.ask(self._number, self._stream, self._config.name, 2 * self._config.batch)

    def release(self, entry: Entry) -> None:
        self._owed += 1
        if self._owed >= (self._config.batch + 1) // 2:
            count, self._owed = self._owed, 0
            self._jetstream.ask(self._number, self._stream, self._config.name, count)

    def close(self) -> None:
        self._jetstream.let_go(self._number)

    def arrived(self, stored: Stored, number: int) -> None:
        if number != self._next:
            self.end(f"entry {self._next} of consumer {self._config.name} was lost on its way")
            return
        self._next += 1
        ack_to = f"{self._stream} {self._config.name}"
        self._take(Entry(stored.subject, stored.data, stored.position, stored.stamp, number, ack_to))

    def end(self, reason: str) -> None:
        self.close()
        self._ended(reason)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
