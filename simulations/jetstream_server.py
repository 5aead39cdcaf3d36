"""A JetStream server of a run: what arrives at it, what it hands over, and what befalls it.

It lives on a machine of its own, `broker`, and does each thing at one instant. What holds: what it lost it says
(`BrokerLost`), and it loses only by a fault: power takes the newest of what was not synced, always the newest; a wiped
stream is gone with all its entries and consumers. Its clock is never set: stamps that go back after a loss are more than the
protocol bears.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..transports.nats.errors import ApiError, NoRespondersError
from ..transports.nats.port import ConsumerConfig, StreamConfig
from .broker_history import BrokerLost, BrokerStored
from .case import BrokerTrouble
from .jetstream_state import Stored, Stream, matches
from .loop import MS
from .process import Process
from .world import BROKER

if TYPE_CHECKING:
    from .jetstream import SimJetStream
    from .world import World

R = TypeVar("R")
Streams = dict[str, Stream]
_SYNC: Final = 512  # writes between two syncs of the disk


class _Pull:
    """Who asks for a consumer's entries, and how many it still takes. `number`: of the consumption, by its connection."""

    __slots__ = ("connection", "credit", "number")

    def __init__(self, connection: SimJetStream, number: int) -> None:
        self.connection = connection
        self.number = number
        self.credit = 0


class JetStreamServer:
    """`is_lazy`: whether the disk has writes only later, as it is unless the server is told to sync always."""

    def __init__(self, world: World, *, is_lazy: bool) -> None:
        self.world = world
        self.process = Process(world, BROKER, 1, world.add_machine(BROKER))
        self.streams: Streams = {}
        self.is_down = False
        self.troubles: list[BrokerTrouble] = []
        self._is_lazy = is_lazy
        self._synced: Streams = {}
        self._since: list[tuple[Callable[..., object], tuple[Any, ...]]] = []  # writes that are not synced
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._connections: dict[SimJetStream, None] = {}
        self._crashes = 0
        self._made = 0
        self._bits = world.rng.stream("broker").bits

    # -- what holds of its disk --------------------------------------------------------------------------------------

    def _write(self, action: Callable[..., R], *values: Any) -> R:
        """Change the streams by `action(streams, *values)`, which does the same if it is done again."""
        result = action(self.streams, *values)
        if self._is_lazy:
            self._since.append((action, values))
            if len(self._since) >= _SYNC:
                self._synced = {name: stream.copy() for name, stream in self.streams.items()}
                self._since.clear()
        return result

    def crash(self, how: str, down_ns: int) -> None:
        """End it, by `kill` or `power`, and start it again after that long."""
        self._note("crash", how=how)
        if how == "power" and self._since:
            self._lose_power()
        self.is_down = True
        self._crashes += 1
        for connection in list(self._connections):
            self.disconnect(connection)
        self.world.loop.at(self.world.loop.now_ns + max(down_ns, MS), self.process.lane, self._back, self._crashes)

    def _back(self, crash: int) -> None:
        self.is_down = self.is_down and crash != self._crashes
        if not self.is_down:
            self._note("back")

    def _lose_power(self) -> None:
        before = self.streams
        keep = self._bits(32) % (len(self._since) + 1)
        since, self._since = self._since, []
        self.streams = {name: stream.copy() for name, stream in self._synced.items()}
        for action, values in since[:keep]:
            self._write(action, *values)
        self.world.count("broker.writes_lost", len(since) - keep)
        for name, stream in before.items():
            after = self.streams.get(name)
            left = after.entries if after is not None and after.life == stream.life else {}
            self._lost(stream, [entry for at, entry in stream.entries.items() if at not in left])

    def wipe(self, gone: str) -> None:
        """Lose the `consumers` of all streams, or every `stream` with all it has."""
        self._note("wiped", gone=gone)
        for name, stream in list(self.streams.items()):
            for consumer in list(stream.consumers):
                self.forget(name, consumer)
            if gone == "stream":
                self._lost(stream, list(stream.entries.values()))
                self._write(_delete_stream, name)

    def _lost(self, stream: Stream, entries: list[Stored]) -> None:
        self.world.count("broker.entries_lost", len(entries))
        self.world.observe(
            BrokerLost(self.world.loop.now_ns, stream.life, [(entry.position, entry.stamp) for entry in entries])
        )

    def _note(self, what: str, /, **fields: Any) -> None:
        self.world.loop.trace.note(self.world.loop.now_ns, BROKER, 1, f"broker_{what}", **fields)

    def heal(self) -> None:
        """No more faults; it is up."""
        self.troubles.clear()
        self.is_down = False

    @property
    def waiting(self) -> int:
        """How many entries of work queues nobody has acknowledged."""
        return sum(len(each.entries) for each in self.streams.values() if each.config.retention == "workqueue")

    def befalls(self, what: str) -> bool:
        """Tell whether a trouble that lasts befalls something: a field of `BrokerTrouble`."""
        for trouble in self.troubles:
            if self._bits(32) % 1_000 < getattr(trouble, what):
                self.world.count(f"broker.{what}")
                return True
        return False

    # -- connections -------------------------------------------------------------------------------------------------

    def connect(self, connection: SimJetStream) -> None:
        self._connections[connection] = None

    def disconnect(self, connection: SimJetStream) -> None:
        """A connection is gone: so are its pulls."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        for key in [key for key, pull in self._pulls.items() if pull.connection is connection]:
            del self._pulls[key]
        connection.was_dropped()

    def _send(self, connection: SimJetStream, arrive: Callable[..., None], *args: Any) -> bool:
        """Send something over a connection; one that leads nowhere breaks."""
        if connection not in self._connections or connection.process.is_dead:
            self.disconnect(connection)
            return False
        if not self.world.network.stream(self.process, connection.process, 0, arrive, *args):
            self.disconnect(connection)
            return False
        return True

    def answer(self, connection: SimJetStream, arrive: Callable[..., None], *args: Any) -> None:
        self._send(connection, arrive, *args)

    # -- streams -----------------------------------------------------------------------------------------------------

    def ensure(self, config: StreamConfig) -> str:
        stream = self.streams.get(config.name)
        if stream is None:
            self._made += 1
            life = f"{self.process.machine.wall_ns(self.world.loop.now_ns)}-{self._made}"
            self._note("stream", stream=config.name)
            return self._write(_create, config, life)
        if stream.config != config:
            self._write(_configure, config)
        return stream.life

    def publish(self, subject: str, data: bytes, message_id: str) -> int:
        """Raises: NoRespondersError, StreamFullError, NotStoredError."""
        stream = next((each for each in self.streams.values() if _takes(each, subject)), None)
        if stream is None or self.befalls("refused"):
            raise NoRespondersError(subject)
        name, stamp = stream.config.name, self.process.machine.wall_ns(self.world.loop.now_ns)
        position, is_old = self._write(_append, name, subject, data, message_id, stamp)
        if not is_old:
            self.world.observe(BrokerStored(self.world.loop.now_ns, stream.life, position, stamp, data))
            self._note("stored", stream=name, position=position)
            for consumer in list(stream.consumers):
                self._serve(name, consumer)
        return position

    # -- consumers ---------------------------------------------------------------------------------------------------

    def _stream(self, op: str, name: str) -> Stream:
        stream = self.streams.get(name)
        if stream is None:
            raise ApiError(op, 404, 10059, "stream not found")
        return stream

    def consumers(self, name: str) -> list[str]:
        return list(self._stream(f"CONSUMER.NAMES.{name}", name).consumers)

    def consume(self, connection: SimJetStream, number: int, name: str, config: ConsumerConfig) -> None:
        """Raises: ApiError."""
        self._stream(f"CONSUMER.CREATE.{name}.{config.name}", name)
        self._write(_add_consumer, name, config)
        self._note("consumer", name=config.name)
        self._pulls[name, config.name] = _Pull(connection, number)

    def forget(self, name: str, consumer: str) -> None:
        stream = self.streams.get(name)
        if stream is None or consumer not in stream.consumers:
            return
        self._write(_delete_consumer, name, consumer)
        self._note("forgotten", name=consumer)
        pull = self._pulls.pop((name, consumer), None)
        if pull is not None:
            self._send(pull.connection, pull.connection.was_ended, pull.number, "409 consumer deleted")

    def ask(self, connection: SimJetStream, number: int, name: str, consumer: str, count: int) -> None:
        """A consumption takes so many more."""
        pull = self._pulls.get((name, consumer))
        if pull is None or pull.connection is not connection or pull.number != number:
            self._send(connection, connection.was_ended, number, "503 nobody has that consumer")
            return
        pull.credit += count
        self._serve(name, consumer)

    def ack(self, name: str, consumer: str, position: int) -> None:
        if name in self.streams and not self.befalls("unacknowledged"):
            self._write(_ack, name, consumer, position)
            self._serve(name, consumer)

    def _serve(self, name: str, consumer_name: str) -> None:
        """Hand over what there is to who asked for it."""
        while True:
            stream, pull = self.streams.get(name), self._pulls.get((name, consumer_name))
            consumer = stream.consumers.get(consumer_name) if stream is not None else None
            if stream is None or consumer is None or pull is None or pull.credit <= 0 or self.is_down:
                return
            entry = stream.next_for(consumer)
            if entry is None:
                return
            until_ns = self.world.loop.now_ns + consumer.config.ack_wait_ms * MS
            number = self._write(_hand_over, name, consumer_name, entry, until_ns)
            pull.credit -= 1
            if consumer.config.acknowledges:
                self.world.loop.at(until_ns, self.process.lane, self._look, name, consumer_name)
            if not self.befalls("undelivered"):
                self._send(pull.connection, pull.connection.arrived, pull.number, entry, number)

    def _look(self, name: str, consumer_name: str) -> None:
        """See what was not acknowledged in time."""
        stream = self.streams.get(name)
        consumer = stream.consumers.get(consumer_name) if stream is not None else None
        now_ns = self.world.loop.now_ns
        if consumer is None or not any(until_ns <= now_ns for until_ns in consumer.unacked.values()):
            return
        self.world.count("broker.came_again")
        self._write(_overdue, name, consumer_name, now_ns)
        self._serve(name, consumer_name)


def _takes(stream: Stream, subject: str) -> bool:
    return any(matches(pattern, subject) for pattern in stream.config.subjects)


# -- what a disk keeps: each does the same if it is done again ------------------------------------------------------------


def _create(streams: Streams, config: StreamConfig, life: str) -> str:
    return streams.setdefault(config.name, Stream(config, life)).life


def _configure(streams: Streams, config: StreamConfig) -> None:
    streams[config.name].config = config


def _delete_stream(streams: Streams, name: str) -> None:
    del streams[name]


def _append(streams: Streams, name: str, subject: str, data: bytes, message_id: str, stamp: int) -> tuple[int, bool]:
    return streams[name].append(subject, data, message_id, stamp)


def _add_consumer(streams: Streams, name: str, config: ConsumerConfig) -> None:
    streams[name].add_consumer(config)


def _delete_consumer(streams: Streams, name: str, consumer: str) -> None:
    del streams[name].consumers[consumer]


def _ack(streams: Streams, name: str, consumer: str, position: int) -> None:
    streams[name].ack(consumer, position)


def _overdue(streams: Streams, name: str, consumer: str, now_ns: int) -> None:
    streams[name].overdue(streams[name].consumers[consumer], now_ns)


def _hand_over(streams: Streams, name: str, consumer_name: str, entry: Stored, until_ns: int) -> int:
    stream = streams[name]
    return stream.hand_over(stream.consumers[consumer_name], entry, until_ns)
