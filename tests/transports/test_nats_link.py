"""The link against real servers, and against whatever a network can do to it."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest
from foliot.runtime.errors import DeadlineError, FoliotError
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.errors import (
    ApiError,
    InvalidSubjectError,
    LinkDownError,
    NatsConfigError,
    NatsCredentialsError,
    NatsPayloadError,
    NatsTlsError,
    NatsTooOldError,
    NatsUnreachableError,
    NoRespondersError,
    NotPermittedError,
    OutboundFullError,
    TooLargeError,
)
from foliot.transports.nats.link import Delivery, LinkState, NatsLink
from foliot.transports.nats.parser import Parser, WireError
from hypothesis import given
from hypothesis import strategies as st

from .nats_harness import CERTIFICATES, QUICK, Hello, Keys, Operator, Proxy, open_link, until

Opener = Callable[..., Coroutine[Any, Any, NatsLink]]


@pytest.fixture
async def opened(nats_server: LocalNats) -> AsyncIterator[Opener]:
    """Opens links, to the shared server unless told, and closes them."""
    links: list[NatsLink] = []

    async def open_one(url: str = nats_server.url, **settings: Any) -> NatsLink:
        links.append(await open_link(url, **settings))
        return links[-1]

    yield open_one
    for link in links:
        await link.close()


@pytest.fixture
async def proxy(nats_server: LocalNats) -> AsyncIterator[Proxy]:
    async with Proxy(nats_server.url) as proxy:
        yield proxy


def echo(link: NatsLink, subject: str) -> None:
    def answer(delivery: Delivery) -> None:
        link.publish(delivery.reply, delivery.data)

    link.subscribe(subject, answer)


# -- messages ------------------------------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_with_their_headers(opened: Opener) -> None:
    sender, hearer = await opened(), await opened()
    heard: list[Delivery] = []
    hearer.subscribe("link.order.*", heard.append)
    await hearer.flush()

    for number in range(1_000):
        sender.publish(f"link.order.{number % 2}", b"%d" % number)
    sender.publish("link.order.h", b"", reply="back.to.me", headers={"Nats-Msg-Id": "a:b c", "X": ""})
    sender.publish("link.order.big", b"x" * 900_000)
    await until(lambda: len(heard) == 1_002)

    assert [each.data for each in heard[:1_000]] == [b"%d" % number for number in range(1_000)]
    assert heard[0] == Delivery("link.order.0", b"0")
    assert heard[1_000] == Delivery("link.order.h", b"", "back.to.me", {"Nats-Msg-Id": "a:b c", "X": ""})
    assert heard[1_001].data == b"x" * 900_000


async def test_of_a_queue_group_one_gets_each_message(opened: Opener) -> None:
    links = [await opened() for _ in range(3)]
    heard: list[list[bytes]] = [[], [], []]

    def taker(mine: list[bytes]) -> Callable[[Delivery], None]:
        return lambda delivery: mine.append(delivery.data)

    for link, mine in zip(links, heard, strict=True):
        link.subscribe("link.group", taker(mine), group="gateways")
        await link.flush()

    for number in range(300):
        links[0].publish("link.group", b"%d" % number)
    await until(lambda: sum(map(len, heard)) == 300)

    assert sorted(int(data) for mine in heard for data in mine) == list(range(300))
    assert all(heard)


async def test_what_the_server_had_sent_before_the_end_of_a_subscription_is_handed_over(opened: Opener) -> None:
    sender, hearer = await opened(), await opened()
    heard: list[Delivery] = []
    subscription = hearer.subscribe("link.ending", heard.append)
    await hearer.flush()
    for _ in range(100):
        sender.publish("link.ending", b"")
    await sender.flush()

    subscription.close()
    subscription.close()
    await hearer.flush()
    sender.publish("link.ending", b"")
    await sender.flush()
    await hearer.flush()

    assert len(heard) == 100


async def test_closing_a_link_writes_what_waits(nats_server: LocalNats, opened: Opener) -> None:
    hearer, heard = await opened(), list[Delivery]()
    hearer.subscribe("link.last", heard.append)
    await hearer.flush()
    sender = await open_link(nats_server.url)

    for _ in range(500):
        sender.publish("link.last", b"words")
    await sender.close()
    await sender.close()

    await until(lambda: len(heard) == 500)
    with pytest.raises(LinkDownError, match=r"^not connected to a NATS server: closed; the message was not sent$"):
        sender.publish("link.last", b"")


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a.*", "a.>", "tätig", "a\x00"])
async def test_a_subject_that_would_break_the_protocol_is_refused(opened: Opener, subject: str) -> None:
    link = await opened()

    with pytest.raises(InvalidSubjectError, match="printable characters without spaces and wildcards"):
        link.publish(subject, b"")
    if subject:
        with pytest.raises(InvalidSubjectError):
            link.publish("a", b"", reply=subject)
    for headers in ({"a b": "x"}, {"a": "x\r\nNats-Rollup: all"}, {"": "x"}):
        with pytest.raises(InvalidSubjectError):
            link.publish("a", b"", headers=headers)
    await link.flush()
    assert link.is_up


# -- requests ------------------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_refused_or_ends_by_its_deadline(opened: Opener) -> None:
    link, other = await opened(), await opened()
    echo(other, "link.echo")
    other.subscribe("link.silent", lambda _: None)
    await other.flush()

    answers = await asyncio.gather(*(link.request("link.echo", b"%d" % n, timeout_ms=5_000) for n in range(200)))
    with pytest.raises(NoRespondersError, match=r"^nobody listens at 'link\.nobody' at this moment; nothing was done$"):
        await link.request("link.nobody", b"", timeout_ms=5_000)
    with pytest.raises(DeadlineError, match=r"^a request to link\.silent was not answered within 20 ms"):
        await link.request("link.silent", b"", timeout_ms=20)

    assert [answer.data for answer in answers] == [b"%d" % n for n in range(200)]


async def test_requests_have_a_bound(opened: Opener) -> None:
    link = await opened(max_requests=2)
    link.subscribe("link.mute", lambda _: None)
    waiting = [asyncio.create_task(link.request("link.mute", b"", timeout_ms=60_000)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(OutboundFullError):
        await link.request("link.mute", b"", timeout_ms=60_000)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)

    with pytest.raises(DeadlineError):
        await link.request("link.mute", b"", timeout_ms=10)


async def test_the_api_of_jetstream_answers_or_says_why_not(opened: Opener) -> None:
    link = await opened()

    made = await link.api("STREAM.CREATE.LINKTEST", {"name": "LINKTEST", "subjects": ["link.js"]}, timeout_ms=5_000)
    with pytest.raises(ApiError, match=r"^JetStream refused STREAM\.INFO\.NOSUCH: stream not found \(10059\)$") as refused:
        await link.api("STREAM.INFO.NOSUCH", timeout_ms=5_000)
    await link.api("STREAM.DELETE.LINKTEST", timeout_ms=5_000)

    assert made["config"]["subjects"] == ["link.js"]
    assert (refused.value.status, refused.value.err_code) == (404, 10059)
    assert link.server.jetstream
    assert link.server.version.startswith("2.")


# -- guards --------------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once_and_whoever_publishes_can_be_cancelled() -> None:
    async with LocalNats() as server:
        link = await open_link(server.url, max_queued_messages=1_000, max_queued_bytes=4 * 1024 * 1024)
        server.stop_process()
        tries = 0

        async def publish_for_ever() -> None:
            nonlocal tries
            while True:
                try:
                    link.publish("link.full", b"x" * 100_000)
                except OutboundFullError:
                    tries += 1
                    await asyncio.sleep(0.001)

        task = asyncio.create_task(publish_for_ever())
        await until(lambda: tries > 10)
        task.cancel()
        await asyncio.wait([task], timeout=5)

        assert task.cancelled()
        assert link.queued <= 41
        with pytest.raises(OutboundFullError, match=r"^\d+ messages of \d+ bytes wait to be written .* retry in 200 ms$"):
            link.publish("link.full", b"x" * 1_000_000)
        server.resume()
        await until(lambda: link.queued == 0)
        await until(lambda: link.is_up)
        await link.close()


async def test_a_message_too_large_by_its_headers_is_refused_and_the_connection_stays(opened: Opener) -> None:
    link = await opened()
    limit = link.server.max_payload

    link.publish("link.large", b"x" * limit)
    with pytest.raises(TooLargeError, match=rf"has {limit + 21} bytes with its headers, expected at most {limit}$"):
        link.publish("link.large", b"x" * limit, headers={"A": "1234"})
    await link.flush()

    assert limit == 1_048_576
    with pytest.raises(TooLargeError):
        (await opened(max_payload=5_000)).publish("link.large", b"x" * 5_001)
    assert link.dropped == {}


async def test_a_taker_that_raises_harms_nobody(opened: Opener) -> None:
    link = await opened()
    heard: list[bytes] = []

    def take(delivery: Delivery) -> None:
        heard.append(delivery.data)
        if delivery.data == b"1":
            raise ValueError("no")
        if delivery.data == b"2":
            raise asyncio.CancelledError

    link.subscribe("link.raising", take)
    for number in range(4):
        link.publish("link.raising", b"%d" % number)
    await link.flush()

    assert heard == [b"0", b"1", b"2", b"3"]
    assert link.dropped == {"taker_failed": 2}


async def test_a_burst_while_the_loop_is_busy_is_not_lost(opened: Opener) -> None:
    sender, hearer = await opened(max_queued_messages=200_000, max_queued_bytes=64 * 1024 * 1024), await opened()
    count = 0

    def take(_: Delivery) -> None:
        nonlocal count
        count += 1

    hearer.subscribe("link.burst", take)
    await hearer.flush()
    for _ in range(150_000):
        sender.publish("link.burst", b"0123456789")
    await until(lambda: count == 150_000)

    assert hearer.dropped == {}


async def test_a_consumer_that_the_server_gives_up_on_comes_back() -> None:
    config = 'max_pending: 2097152\nwrite_deadline: "100ms"'
    async with LocalNats(config=config) as server, Proxy(server.url) as proxy:
        states: list[LinkState] = []
        hearer = await open_link(proxy.url, ping_timeout_ms=60_000)
        sender = await open_link(server.url)
        heard: list[bytes] = []
        hearer.subscribe("link.slow", lambda delivery: heard.append(delivery.data))
        await hearer.flush()
        hearer.watch(states.append)

        proxy.stall()
        for _ in range(3):
            for _ in range(100):
                sender.publish("link.slow", b"x" * 65_000)
            await sender.flush()
        await asyncio.sleep(0.3)  # the server's write deadline
        proxy.go_on()
        await until(lambda: not states[-1].is_up or states[-1].sessions > 1)
        await until(lambda: hearer.is_up)
        await hearer.flush()
        sender.publish("link.slow", b"again")
        await until(lambda: heard[-1:] == [b"again"])

        assert states[-1].sessions > 1
        await hearer.close()
        await sender.close()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
        (b"-ERR 'User Authentication Expired'\r\n", "User Authentication Expired"),
        (b"GARBAGE\r\n", "not the protocol"),
        (b"MSG a b c d e f 4\r\nabcd\r\n", "not the protocol"),
        (b"MSG x\r\n", "not the protocol"),
        (b"MSG a 1 99999999999\r\n", "not the protocol"),
        (b"MSG a 1 -4\r\n", "not the protocol"),
        (b"\xff" * 70_000, "not the protocol"),
        (b"HMSG a 1 9999 4\r\nabcd\r\n", "not the protocol"),
        (b"INFO {broken\r\n", "not the protocol"),
    ],
)
async def test_whatever_a_server_says_the_session_is_rebuilt_with_its_subscriptions(
    opened: Opener, proxy: Proxy, words: bytes, reason: str
) -> None:
    link, other = await opened(proxy.url), await opened()
    states: list[LinkState] = []
    heard: list[bytes] = []
    link.subscribe("link.rebuilt", lambda delivery: heard.append(delivery.data))
    echo(link, "link.rebuilt.echo")
    await link.flush()
    link.watch(states.append)

    proxy.inject(words)
    await until(lambda: len(states) == 3)
    await link.flush()
    other.publish("link.rebuilt", b"after")
    answer = await other.request("link.rebuilt.echo", b"hello", timeout_ms=5_000)

    assert [state.is_up for state in states] == [True, False, True]
    assert reason.lower() in states[1].reason.lower()
    assert heard[-1] == b"after"
    assert answer.data == b"hello"


async def test_a_socket_that_dies_under_the_link_is_noticed(opened: Opener, proxy: Proxy) -> None:
    link = await opened(proxy.url, ping_interval_ms=60_000)
    states: list[LinkState] = []
    link.watch(states.append)
    session = link._session
    assert session is not None

    session._client.writer.transport.close()
    await until(lambda: len(states) == 3)

    assert states[1].reason == "the connection was closed"
    await link.flush()


async def test_a_message_in_many_pieces_is_put_together(proxy: Proxy, opened: Opener) -> None:
    link, heard = await opened(proxy.url), list[Delivery]()
    sid = link.subscribe("link.pieces", heard.append).sid
    await link.flush()
    block = b"NATS/1.0 503\r\nA: 1\r\n\r\n"
    whole = b"HMSG link.pieces %d back.to %d %d\r\n%bhi\r\n+OK\r\nMSG link.pieces %d 0\r\n\r\nPING\r\n" % (
        sid, len(block), len(block) + 2, block, sid,
    )  # fmt: skip

    for at in range(len(whole)):
        proxy.inject(whole[at : at + 1])
        await asyncio.sleep(0)
    proxy.inject(whole * 2)
    await until(lambda: len(heard) == 6)

    assert heard[:2] == [Delivery("link.pieces", b"hi", "back.to", {"A": "1"}, 503), Delivery("link.pieces", b"")]
    assert heard[2:] == heard[:2] * 2


async def test_a_connection_that_only_looks_open_is_given_up(opened: Opener, proxy: Proxy) -> None:
    link = await opened(proxy.url, ping_timeout_ms=100)
    states: list[LinkState] = []
    link.watch(states.append)

    proxy.stall()
    await until(lambda: not link.is_up)
    proxy.go_on()
    await until(lambda: link.is_up)
    await link.flush()

    assert states[1].reason == "no sign of life within 100 ms"


async def test_a_cut_connection_is_made_anew_and_requests_end(opened: Opener, proxy: Proxy) -> None:
    link, other = await opened(proxy.url, reconnect_min_ms=200), await opened()
    other.subscribe("link.cut", lambda _: None)
    await other.flush()
    written = asyncio.create_task(link.request("link.cut", b"", timeout_ms=400))
    await link.flush()

    proxy.stall()
    unwritten = []
    for _ in range(400):  # more than sockets hold
        await asyncio.sleep(0)
        unwritten.append(asyncio.create_task(link.request("link.cut", b"x" * 30_000, timeout_ms=60_000)))
    await until(lambda: link.queued > 10)
    proxy.cut()
    await until(lambda: not link.is_up)
    with pytest.raises(LinkDownError):
        link.publish("link.cut", b"")
    outcomes = [task for task in unwritten if task.done()] or [unwritten[-1]]
    for task in outcomes:
        with pytest.raises(LinkDownError, match="the message was not sent"):
            await task
    with pytest.raises(DeadlineError, match="its outcome is unknown"):
        await written
    for task in unwritten:
        task.cancel()
    await asyncio.gather(*unwritten, return_exceptions=True)
    proxy.go_on()
    await until(lambda: link.is_up)

    assert link.dropped["disconnected"] > 10


async def test_a_killed_server_is_found_again() -> None:
    async with LocalNats() as server:
        link, other = await open_link(server.url), await open_link(server.url)
        echo(other, "link.killed")
        await other.flush()
        assert (await link.request("link.killed", b"1", timeout_ms=5_000)).data == b"1"

        server.kill()
        await until(lambda: not link.is_up and not other.is_up)
        await server.restart()
        await until(lambda: link.is_up and other.is_up)
        await other.flush()

        assert (await link.request("link.killed", b"2", timeout_ms=5_000)).data == b"2"
        await link.close()
        await other.close()


async def test_a_server_that_is_shut_down_is_left_for_another(nats_server: LocalNats, opened: Opener) -> None:
    async with Proxy(nats_server.url) as one, Proxy(nats_server.url) as two:
        link = await opened([one.url, two.url], reconnect_max_ms=20)

        one.inject(b'INFO {"server_id":"X","version":"2.15.1","ldm":true}\r\n')
        await until(lambda: two.accepted == 1)
        await until(lambda: link.is_up)
        await link.flush()


async def test_servers_that_are_told_of_are_used(nats_server: LocalNats, opened: Opener) -> None:
    async with Proxy(nats_server.url) as two:
        async with Proxy(nats_server.url) as one:
            link = await opened(one.url)
            told = json.dumps({"connect_urls": [two.url.removeprefix("nats://")]}).encode()
            one.inject(b"INFO " + told + b"\r\n")
            await link.flush()
        await until(lambda: two.accepted > 0)
        await until(lambda: link.is_up)
        await link.flush()


async def test_a_message_that_is_not_permitted_fails_its_request_and_nothing_else() -> None:
    config = 'authorization { users: [ { user: a, password: b, permissions: { publish: { deny: "secret.>" } } } ] }'
    async with LocalNats(config=config) as server:
        link = await open_link(server.url, user="a", password="b")
        echo(link, "open.echo")

        with pytest.raises(NotPermittedError, match=r"Permissions Violation for Publish to \"secret\.Door\""):
            await link.request("secret.Door", b"", timeout_ms=60_000)
        answer = await link.request("open.echo", b"yes", timeout_ms=5_000)

        assert answer.data == b"yes"
        assert link.dropped == {"not_permitted": 1}
        await link.close()


class Taken:
    """A parser's owner who only notes what it is told."""

    def __init__(self) -> None:
        self.words: list[tuple[object, ...]] = []

    def on_message(self, sid: int, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        self.words.append((sid, subject, reply, head, data))

    def on_ping(self) -> None:
        self.words.append(("ping",))

    def on_pong(self) -> None:
        self.words.append(("pong",))

    def on_info(self, text: bytes) -> None:
        self.words.append(("info", text))

    def on_error(self, text: str) -> None:
        self.words.append(("error", text))


PIECES = (
    b"MSG a 1 5\r\nM\r\nSG\r\n", b"MSG a.b 22 r.s 0\r\n\r\n", b"HMSG a 3 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'no'\r\n", b'INFO {"a":1}\r\n', b"\r\n", b"MSG", b"GARBAGE\r\n",
    b"MSG a 1 9\r\n", b"HMSG a 1 2 1\r\n",
)  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12), cuts=st.lists(st.integers(1, 9)))
def test_however_bytes_are_cut_the_same_is_read(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)

    def read(parts: list[bytes]) -> tuple[list[tuple[object, ...]], bool]:
        taken = Taken()
        parser = Parser(taken)
        try:
            for part in parts:
                parser.feed(part)
        except WireError:
            return taken.words, False
        return taken.words, True

    at, parts = 0, []
    for cut in cuts:
        parts.append(data[at : at + cut])
        at += cut
    assert read([*parts, data[at:]]) == read([data])


# -- the login -----------------------------------------------------------------------------------------------------------

INFO = '{"server_id":"X","version":"%s","max_payload":1048576,"headers":true,"proto":1}'


async def refused(url: str | list[str], **settings: Any) -> FoliotError:
    with pytest.raises(FoliotError) as error:
        await open_link(url, **{"connect_timeout_ms": 1_000, **settings})
    return error.value


async def test_a_server_that_is_too_old_is_refused_by_name_and_gets_no_password() -> None:
    for version in ("2.10.29", "2.9.10", "1.4.1", "nonsense"):
        hello = Hello(f"INFO {INFO % version}\r\n".encode())
        async with hello as url:
            error = await refused(url, user="a", password="secret")
            assert isinstance(error, NatsTooOldError)
            where = url.removeprefix("nats://")
            assert str(error) == f"the NATS server at {where} is version {version}, expected 2.11 or newer"
            assert hello.heard == b""


async def test_a_server_that_takes_small_messages_only_is_refused_by_name() -> None:
    async with LocalNats(config="max_payload: 1000") as server:
        error = await refused(server.url)
    where = f"127.0.0.1:{server.port}"
    assert isinstance(error, NatsPayloadError)
    assert str(error) == f"the NATS server at {where} takes messages of 1000 bytes, expected max_payload: 4096 or more"


async def test_nobody_at_the_address_or_somebody_else_is_one_clear_line(nats_server: LocalNats) -> None:
    async with Hello(b"") as silent, Hello(b"SSH-2.0-OpenSSH_9.2\r\n") as other, Hello(b"INFO nonsense\r\n") as broken:
        for url in ("nats://127.0.0.1:1", silent, other, broken, "nats://no.such.host.invalid:4222"):
            error = await refused(url, connect_timeout_ms=300)
            assert isinstance(error, NatsUnreachableError), url
            line = r"no NATS server answers at \S+:\d+: .+; expected nats-server 2.11 or newer there"
            assert re.fullmatch(line, str(error))

    link = await open_link(["nats://127.0.0.1:1", nats_server.url])  # one that is down does not hinder
    await link.close()


async def test_wrong_credentials_are_refused_and_the_password_is_not_shown() -> None:
    async with LocalNats(password="right") as server:
        where = f"127.0.0.1:{server.port}"
        for url in (f"nats://foliot:wrong@{where}", f"nats://{where}"):
            error = await refused(url)
            assert isinstance(error, NatsCredentialsError)
            assert str(error).startswith(f"the NATS server at {where} refused the login: Authorization Violation; expected")

        link = await open_link(server.url)
        await link.flush()
        await link.close()
        link = await open_link(f"nats://{where}", user="foliot", password="right")
        await link.close()
        assert "right" not in repr(NatsConfig(url=f"nats://{where}", user="foliot", password="right"))


async def test_an_nkey_lets_in(tmp_path: Path) -> None:
    user, stranger = Keys(nkeys.PREFIX_BYTE_USER), Keys(nkeys.PREFIX_BYTE_USER)
    for name, keys in (("user", user), ("stranger", stranger)):
        (tmp_path / name).write_bytes(keys.seed)
    (tmp_path / "broken").write_text("nonsense")
    async with LocalNats(config=f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}") as server:
        link = await open_link(server.url, nkey_seed=str(tmp_path / "user"))
        await link.flush()
        await link.close()

        assert isinstance(await refused(server.url, nkey_seed=str(tmp_path / "stranger")), NatsCredentialsError)
        error = await refused(server.url, nkey_seed=str(tmp_path / "broken"))
        assert isinstance(error, NatsConfigError)
        assert "expected a readable file with a user's seed" in str(error)


async def test_a_credentials_file_lets_in_and_is_read_again_when_its_user_has_ended(tmp_path: Path) -> None:
    from foliot.runtime.clock import SystemClock

    operator, path = Operator(), tmp_path / "user.creds"
    async with LocalNats(config=operator.config, jetstream=False) as server:
        credentials = operator.credentials(path, expires_s=SystemClock().now_ms() // 1000 + 2)
        link = await open_link(server.url, credentials=credentials)
        states: list[LinkState] = []
        heard: list[bytes] = []
        link.watch(states.append)
        link.subscribe("link.jwt", lambda delivery: heard.append(delivery.data))
        await link.flush()

        operator.credentials(path)
        await until(lambda: len(states) == 3)
        link.publish("link.jwt", b"still here")
        await until(lambda: heard == [b"still here"])

        assert "expired" in states[1].reason.lower()
        await link.close()
        assert isinstance(await refused(server.url), NatsCredentialsError)
        path.write_text("nothing of the kind")
        assert isinstance(await refused(server.url, credentials=credentials), NatsConfigError)


TLS = f'tls {{ cert_file: "{CERTIFICATES}/server.pem", key_file: "{CERTIFICATES}/server.key"'
CA = str(CERTIFICATES / "ca.pem")


async def test_tls_is_used_and_checked(nats_server: LocalNats) -> None:
    async with LocalNats(config=f"{TLS} }}") as server:
        for url in (server.url, server.url.replace("nats://", "tls://")):
            link = await open_link(url, tls_ca=CA)
            echo(link, "link.tls")
            assert (await link.request("link.tls", b"x" * 500_000, timeout_ms=10_000)).data == b"x" * 500_000
            await link.close()

        for settings in ({"tls_ca": str(CERTIFICATES / "other-ca.pem")}, {}, {"tls_ca": CA, "tls_hostname": "else.where"}):
            error = await refused(server.url, **settings)
            assert isinstance(error, NatsTlsError), settings
            assert "certificate" in str(error).lower()

    error = await refused(nats_server.url, tls_ca=CA)  # nats-py would go on in the clear
    assert isinstance(error, NatsTlsError)
    assert "the server does not use TLS" in str(error)


async def test_a_server_that_wants_a_client_certificate_gets_it() -> None:
    client = {"tls_cert": str(CERTIFICATES / "client.pem"), "tls_key": str(CERTIFICATES / "client.key")}
    users = 'authorization { users: [ { user: "worker@foliot.test" } ] }'
    async with LocalNats(config=f'{TLS}, ca_file: "{CA}", verify_and_map: true }}\n{users}') as server:
        link = await open_link(server.url, tls_ca=CA, **client)
        await link.flush()
        await link.close()

        assert isinstance(await refused(server.url, tls_ca=CA), NatsTlsError)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"url": "http://a:1"}, "nats://host:port or tls://host:port"),
        ({"url": "nats://"}, "nats://host:port"),
        ({"url": "nats://a:99999"}, "nats://host:port"),
        ({"user": "a", "nkey_seed": __file__}, "one of a credentials file, an nkey seed file and a user"),
        ({"credentials": "/no/such/file"}, "a file that can be read"),
        ({"tls_cert": __file__}, "to be given together with tls_key"),
        ({"ping_interval_ms": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(NatsConfigError, match=re.escape(expected)):
        NatsConfig(**{"url": "nats://a:1", **settings})


@pytest.mark.parametrize("end", ["127.0.0.1:abc", "127.0.0.1:99999", "127.0.0.1:0", "[::1", ""])
@pytest.mark.parametrize("who", ["foliot:hidden", "foliot:hid/den", "foliot:hid@den", "hidden"])
def test_an_address_that_cannot_be_used_is_shown_without_its_password(who: str, end: str) -> None:
    with pytest.raises(NatsConfigError, match=re.escape(f"NATS setting url is 'nats://{end}'")) as caught:
        NatsConfig(url=f"nats://{who}@{end}")

    assert "hid" not in "".join(traceback.format_exception(caught.value, limit=0))
    assert "den" not in str(caught.value)


async def test_tls_files_that_are_none_are_refused(nats_server: LocalNats) -> None:
    error = await refused(nats_server.url, tls_ca=__file__)

    assert isinstance(error, NatsConfigError)
    assert "PEM files that belong together" in str(error)


def test_several_addresses_in_one_word() -> None:
    config = NatsConfig(url="nats://u:p@a:1, b:2,tls://c", **QUICK)

    assert config.servers == ["nats://u:p@a:1", "nats://b:2", "tls://c"]
    assert config.shown == "a:1, b:2, c:4222"
