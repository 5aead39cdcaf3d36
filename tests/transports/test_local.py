"""The local socket, over real Unix sockets: many requests at once, rubbish, huge and torn frames, dying peers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from foliot.actors.messages import CancelTasks, SubmitTasks, TasksAnswered, TaskSpec, TasksSubmitted, Template, WatchTasks
from foliot.runtime.bus import Refusal
from foliot.runtime.errors import DeadlineError
from foliot.transports import api
from foliot.transports.local import (
    ConnectionLostError,
    FrameTooLargeError,
    LocalChannel,
    LocalLimits,
    LocalServer,
    NotRunningError,
    SocketInUseError,
    default_socket,
    resolve_socket,
)

SMALL = LocalLimits(max_frame=1 << 16, backoff_ms=5, close_grace_ms=200)


class Desk:
    """Stands for a gateway: answers with the number of ids, or holds requests until told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.cancelled = 0
        self.most = 0
        self.held: asyncio.Event | None = None
        self._now = 0

    async def handle(self, request: Any, *, timeout_ms: int) -> Any:
        self.seen.append(request)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            if self.held is not None:
                await self.held.wait()
            match request:
                case api.GetTasks(ids=ids):
                    await asyncio.sleep(0)
                    return TasksAnswered([str(task_id) for task_id in ids])
                case SubmitTasks(tasks=tasks):
                    return TasksSubmitted([len(task.payload) for task in tasks])
                case _:
                    return TasksAnswered([])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._now -= 1


def exists(path: str) -> bool:
    return os.path.lexists(path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in the product, which tells no test)
            await asyncio.sleep(0.002)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def server(desk: Desk, tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with LocalServer(desk, str(tmp_path / "s"), limits=SMALL) as server:
        yield server


@pytest.fixture
async def channel(server: LocalServer) -> AsyncIterator[LocalChannel]:
    channel = LocalChannel(server.path, limits=SMALL)
    yield channel
    await channel.close()


class RawClient:
    """Speaks bytes."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __aenter__(self) -> RawClient:
        self._reader, self.writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, data: bytes, number: int = 7) -> None:
        self.writer.write(struct.pack(">II", len(data) + 4, number) + data)

    async def answer(self) -> tuple[int, Any]:
        async with asyncio.timeout(5):
            length, number = struct.unpack(">II", await self._reader.readexactly(8))
            return number, api.decode_answer(await self._reader.readexactly(length - 4))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            return await self._reader.read(1) == b""


# -- ordinary use ------------------------------------------------------------------------------------------------------


async def test_many_requests_at_once_each_get_their_own_answer(channel: LocalChannel, desk: Desk) -> None:
    answers = await asyncio.gather(
        *[channel.request(api.GetTasks("acme", [number]), timeout_ms=5_000) for number in range(500)]
    )

    assert [answer.outcomes for answer in answers] == [[str(number)] for number in range(500)]
    assert desk.most <= SMALL.max_in_flight


async def test_a_frame_of_many_megabytes_arrives_whole(desk: Desk, tmp_path: Path) -> None:
    async with LocalServer(desk, str(tmp_path / "s")):
        channel = LocalChannel(str(tmp_path / "s"))
        tasks = [TaskSpec(0, bytes([number]) * (1 << 20)) for number in range(20)]

        answer = await channel.request(SubmitTasks("acme", [Template("h")], tasks), timeout_ms=20_000)

        assert answer.ids == [1 << 20] * 20
        assert [task.payload[:1] for task in desk.seen[0].tasks] == [bytes([number]) for number in range(20)]
        await channel.close()


async def test_a_request_beyond_the_frame_is_refused_before_it_is_sent(channel: LocalChannel, desk: Desk) -> None:
    with pytest.raises(FrameTooLargeError, match="expected at most 65536"):
        await channel.request(SubmitTasks("a", [], [TaskSpec(0, b"x" * 70_000)]), timeout_ms=1_000)

    assert desk.seen == []


async def test_an_answer_beyond_the_frame_becomes_a_refusal(channel: LocalChannel) -> None:
    answer = await channel.request(api.GetTasks("acme", [10**12] * 6_000), timeout_ms=1_000)

    assert isinstance(answer, Refusal)
    assert answer.code == "too_large"


async def test_a_request_that_takes_too_long_ends_with_its_deadline(channel: LocalChannel, desk: Desk) -> None:
    desk.held = asyncio.Event()

    with pytest.raises(DeadlineError, match="GetTasks was not answered within 30 ms"):
        await channel.request(api.GetTasks("acme", [1]), timeout_ms=30)


def test_all_of_it_holds_on_uvloop_whose_transports_differ(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def scenario() -> None:
        server = LocalServer(desk, path, limits=SMALL)
        await server.start()
        channel = LocalChannel(path, limits=SMALL)
        asked = [channel.request(api.GetTasks("acme", [number]), timeout_ms=5_000) for number in range(300)]
        assert [answer.outcomes for answer in await asyncio.gather(*asked)] == [[str(number)] for number in range(300)]
        async with RawClient(path) as raw:
            raw.send(b"\x01\xc1")
            assert (await raw.answer())[1].code == "malformed"
            raw.writer.write(b"\xff" * 8)
            await raw.answer()
            assert await raw.is_closed()
        desk.held = asyncio.Event()
        look = asyncio.ensure_future(channel.request(api.GetTasks("acme", [1]), timeout_ms=5_000))
        await until(lambda: len(desk.seen) == 301)
        await server.close()
        async with LocalServer(Desk(), path, limits=SMALL):
            assert (await look).outcomes == ["1"]
            await channel.close()

    uvloop.run(scenario())


# -- bad peers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x01", "malformed"),
        (b"\x01\xc1\xc1\xc1", "malformed"),
        (b"\x01" + b"\x91" * 2_000 + b"\x01", "malformed"),  # nested beyond sense
        (b"\x01\x92\xa5Wrong\x01", "malformed"),
        (b"\x01\x93\xa8GetTasks\xa1a\xa1b", "malformed"),  # ids that are no list
        (b"\x01\x93\xa8GetTasks\xa1\xff\x90", "malformed"),  # no UTF-8
        (b"\x02" + api.encode(api.Hello())[1:], "version"),
        (b"GET / HTTP/1.1\r\n\r\n", "version"),
    ],
)
async def test_rubbish_in_a_frame_is_refused_and_the_connection_goes_on(server: LocalServer, data: bytes, code: str) -> None:
    async with RawClient(server.path) as raw:
        raw.send(data)
        number, answer = await raw.answer()
        raw.send(api.encode(api.GetTasks("acme", [5])), 8)
        later = await raw.answer()

    assert (number, answer.code) == (7, code)
    assert later == (8, TasksAnswered(["5"]))


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n", b"\xff" * 8, b"\0" * 8, struct.pack(">II", 70_000, 1)])
async def test_a_length_that_cannot_be_is_refused_and_the_connection_closed(server: LocalServer, head: bytes) -> None:
    async with RawClient(server.path) as raw:
        raw.writer.write(head)
        _, answer = await raw.answer()

        assert answer.code == "malformed"
        assert await raw.is_closed()


async def test_a_torn_frame_waits_for_its_rest_and_holds_up_nobody(server: LocalServer, channel: LocalChannel) -> None:
    data = api.encode(api.GetTasks("acme", [5]))
    frame = struct.pack(">II", len(data) + 4, 3) + data
    async with RawClient(server.path) as raw:
        for at in range(len(frame) - 1):
            raw.writer.write(frame[at : at + 1])
            await raw.writer.drain()
        other = await channel.request(api.GetTasks("acme", [6]), timeout_ms=1_000)
        raw.writer.write(frame[-1:])

        assert other.outcomes == ["6"]
        assert await raw.answer() == (3, TasksAnswered(["5"]))


async def test_a_client_that_dies_ends_its_long_polls_but_not_its_commands(server: LocalServer, desk: Desk) -> None:
    desk.held = asyncio.Event()
    async with RawClient(server.path) as raw:
        raw.send(api.encode(WatchTasks("acme", [1], 60_000)), 1)
        raw.send(api.encode(CancelTasks("acme", [1])), 2)
        raw.send(b"\x01half", 3)
        raw.writer.write(struct.pack(">II", 1_000, 4) + b"torn")
        await until(lambda: len(desk.seen) == 2)
        raw.writer.transport.abort()
    await until(lambda: desk.cancelled == 1)
    desk.held.set()
    await until(lambda: desk._now == 0)

    assert desk.cancelled == 1


async def test_a_client_that_sends_without_end_is_read_no_further_than_the_bounds(server: LocalServer, desk: Desk) -> None:
    desk.held = asyncio.Event()
    async with RawClient(server.path) as raw:
        for number in range(300):
            raw.send(api.encode(api.GetTasks("acme", [number])), number)
        await until(lambda: len(desk.seen) == SMALL.max_in_flight)
        for _ in range(20):
            await asyncio.sleep(0)
        held_at = len(desk.seen)
        desk.held.set()
        answers = dict([await raw.answer() for _ in range(300)])

    assert held_at == SMALL.max_in_flight
    assert answers == {number: TasksAnswered([str(number)]) for number in range(300)}


async def test_large_requests_count_against_a_bound_of_bytes(server: LocalServer, desk: Desk) -> None:
    desk.held = asyncio.Event()
    data = api.encode(SubmitTasks("a", [Template("h")], [TaskSpec(0, b"x" * 40_000)]))
    async with RawClient(server.path) as raw:
        for number in range(6):
            raw.send(data, number)
        await until(lambda: len(desk.seen) == 2)
        await asyncio.sleep(0.02)
        held_at = len(desk.seen)
        desk.held.set()
        numbers = {(await raw.answer())[0] for _ in range(6)}

    assert held_at == 2
    assert numbers == set(range(6))


async def test_a_client_that_does_not_read_is_not_read_from(desk: Desk, tmp_path: Path) -> None:
    limits = LocalLimits(write_buffer=10_000)
    async with LocalServer(desk, str(tmp_path / "s"), limits=limits):
        async with RawClient(str(tmp_path / "s")) as raw:
            data = api.encode(api.GetTasks("acme", [10**12] * 3_000))
            for number in range(200):
                raw.send(data, number)
            before = -1
            while len(desk.seen) != before:
                before = len(desk.seen)
                await asyncio.sleep(0.05)
            answers = [(await raw.answer())[0] for _ in range(200)]

    assert before < 200
    assert sorted(answers) == list(range(200))


async def test_connections_have_a_bound(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with LocalServer(desk, path, limits=LocalLimits(max_connections=1)):
        async with RawClient(path) as first:
            first.send(api.encode(api.GetTasks("a", [1])))
            await first.answer()
            async with RawClient(path) as second:
                _, answer = await second.answer()

                assert (answer.code, answer.retry_after_ms) == ("overloaded", 1_000)
                assert await second.is_closed()
        await asyncio.sleep(0.01)
        async with RawClient(path) as third:
            third.send(api.encode(api.GetTasks("a", [2])))
            assert (await third.answer())[1] == TasksAnswered(["2"])


async def test_a_server_of_another_version_is_named(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(9)
        body = b"\x09" + api.encode(Refusal("version", "old"))[1:]
        writer.write(struct.pack(">II", len(body) + 4, 1) + body)

    server = await asyncio.start_unix_server(answer, str(tmp_path / "s"))
    channel = LocalChannel(str(tmp_path / "s"))

    with pytest.raises(api.VersionError, match="the peer speaks version 9 of the protocol, expected 1"):
        await channel.request(api.Hello(), timeout_ms=1_000)

    await channel.close()
    server.close()


# -- coming and going --------------------------------------------------------------------------------------------------


async def test_without_a_scheduler_the_first_request_says_how_to_start_one(tmp_path: Path) -> None:
    channel = LocalChannel(str(tmp_path / "none"))

    with pytest.raises(NotRunningError, match="start one with 'foliot up --app module:app'"):
        await channel.request(api.Hello(), timeout_ms=5_000)


async def test_a_client_can_wait_for_a_scheduler_that_is_about_to_start(desk: Desk, tmp_path: Path) -> None:
    channel = LocalChannel(str(tmp_path / "s"), connect_timeout_ms=5_000, limits=SMALL)
    asked = asyncio.create_task(channel.request(api.GetTasks("acme", [1]), timeout_ms=5_000))
    await asyncio.sleep(0.02)

    async with LocalServer(desk, str(tmp_path / "s")):
        assert (await asked).outcomes == ["1"]
        await channel.close()


async def test_a_restart_repeats_what_may_be_repeated_and_fails_the_rest(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    channel = LocalChannel(path, limits=SMALL)
    desk.held = asyncio.Event()
    server = LocalServer(desk, path, limits=SMALL)
    await server.start()
    specs = [TaskSpec(0, b"abc")]
    look = asyncio.create_task(channel.request(api.GetTasks("acme", [1]), timeout_ms=5_000))
    named = asyncio.create_task(channel.request(SubmitTasks("acme", [], specs, "r1"), timeout_ms=5_000))
    unnamed = asyncio.create_task(channel.request(SubmitTasks("acme", [], specs), timeout_ms=5_000))
    cancel = asyncio.create_task(channel.request(CancelTasks("acme", [1]), timeout_ms=5_000))
    await until(lambda: len(desk.seen) == 4)
    await server.close()

    with pytest.raises(ConnectionLostError, match="while SubmitTasks was under way; its outcome is unknown"):
        await unnamed
    with pytest.raises(ConnectionLostError, match="while CancelTasks"):
        await cancel
    second = Desk()
    async with LocalServer(second, path, limits=SMALL):
        assert (await look).outcomes == ["1"]
        assert (await named).ids == [3]

    assert sorted(type(request).__name__ for request in second.seen) == ["GetTasks", "SubmitTasks"]
    await channel.close()


class Full(Desk):
    """Refuses so many submissions, and then accepts."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def handle(self, request: Any, *, timeout_ms: int) -> Any:
        answer = await super().handle(request, timeout_ms=timeout_ms)
        return Refusal("overloaded", "full", 5) if len(self.seen) <= self.refusals else answer


async def test_a_first_submission_may_be_refused_but_a_repeated_one_goes_on_until_it_is_certain(tmp_path: Path) -> None:
    """The first copy may have been carried out, whatever the second is told."""
    path, desk = str(tmp_path / "s"), Desk()
    channel = LocalChannel(path, limits=SMALL)
    desk.held = asyncio.Event()
    server = LocalServer(desk, path, limits=SMALL)
    await server.start()
    repeated = asyncio.create_task(channel.request(SubmitTasks("acme", [], [TaskSpec(0, b"abc")], "r1"), timeout_ms=5_000))
    await until(lambda: len(desk.seen) == 1)
    await server.close()

    second = Full(refusals=2)
    async with LocalServer(second, path, limits=SMALL):
        assert (await repeated).ids == [3]
        assert len(second.seen) == 3
        second.refusals = 9
        first = await channel.request(SubmitTasks("acme", [], [TaskSpec(0, b"abc")], "r2"), timeout_ms=5_000)
        assert first == Refusal("overloaded", "full", 5)
        await channel.close()


async def test_a_lost_scheduler_that_does_not_come_back_is_told_at_the_deadline(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    channel = LocalChannel(path, limits=SMALL)
    async with LocalServer(desk, path, limits=SMALL):
        await channel.request(api.GetTasks("acme", [1]), timeout_ms=1_000)

    with pytest.raises(NotRunningError):
        await channel.request(api.GetTasks("acme", [1]), timeout_ms=50)


async def test_closing_lets_commands_under_way_finish(desk: Desk, tmp_path: Path) -> None:
    server = LocalServer(desk, str(tmp_path / "s"))
    await server.start()
    channel = LocalChannel(server.path)
    desk.held = asyncio.Event()
    asked = asyncio.create_task(channel.request(CancelTasks("acme", [1]), timeout_ms=1_000))
    await until(lambda: len(desk.seen) == 1)
    asyncio.get_running_loop().call_later(0.02, desk.held.set)

    await server.close()

    assert await asked == TasksAnswered([])
    assert not exists(server.path)


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_only_the_owner_may_connect(server: LocalServer) -> None:
    mode = os.stat(server.path).st_mode

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_socket_of_a_dead_scheduler_is_replaced(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()

    async with LocalServer(desk, path):
        channel = LocalChannel(path)
        assert (await channel.request(api.GetTasks("acme", [1]), timeout_ms=1_000)).outcomes == ["1"]
        await channel.close()


async def test_a_live_schedulers_socket_and_other_files_are_left_alone(
    desk: Desk, server: LocalServer, tmp_path: Path
) -> None:
    with pytest.raises(SocketInUseError, match="a scheduler listens there"):
        await LocalServer(desk, server.path).start()
    (tmp_path / "precious").write_text("data")
    with pytest.raises(SocketInUseError, match="a file that is no socket is there"):
        await LocalServer(desk, str(tmp_path / "precious")).start()

    assert (tmp_path / "precious").read_text() == "data"
    assert exists(server.path)


async def test_a_long_path_leads_to_the_socket_by_a_pointer_file(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = str(folder / "foliot.sock")

    async with LocalServer(desk, path):
        real = resolve_socket(path)
        channel = LocalChannel(path)
        answer = await channel.request(api.GetTasks("acme", [1]), timeout_ms=1_000)
        await channel.close()
        assert answer.outcomes == ["1"]
        assert len(real) < 100
        assert stat.S_IMODE(os.stat(os.path.dirname(real)).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    assert not exists(path)
    assert not exists(os.path.dirname(real))
    with pytest.raises(NotRunningError):
        resolve_socket(path)


async def test_a_pointer_file_that_leads_nowhere_is_replaced(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = folder / "foliot.sock"
    path.write_text("foliot socket: /nowhere/at/all/foliot.sock\n")

    async with LocalServer(desk, str(path)):
        channel = LocalChannel(str(path))
        assert (await channel.request(api.GetTasks("acme", [1]), timeout_ms=1_000)).outcomes == ["1"]
        await channel.close()


def test_the_socket_lies_next_to_the_database() -> None:
    assert default_socket("/data/foliot.db") == "/data/foliot.sock"
    assert default_socket("other") == "other.sock"
