"""The broker that `foliot nats-config` sets up, as a real nats-server keeps it: what tenants may, and what they may not.

Tenants are plain nats-py connections, so nothing but the server stands between them and what is not theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors
import nkeys  # type: ignore[import-untyped, unused-ignore]
import pytest
from click.testing import CliRunner, Result
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.rng import Rng
from foliot.sdk.cli import main
from foliot.sdk.cluster import nats_config_accounts as accounts
from foliot.sdk.cluster.nats_config import BrokerPlan, BrokerPlanError, Form, Server, Tls, servers_of
from foliot.sdk.cluster.nats_config_files import ConfigRefusedError, check_config
from foliot.sdk.cluster.nats_config_text import render
from foliot.sdk.server_process import ServerProcess, find_program, free_port
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.link import NatsLink
from foliot.transports.nats.protocol import OPERATORS
from nats.aio.client import Client
from nats.aio.msg import Msg

TENANTS: Final = ("--tenants", "acme,globex")
SOON_S: Final = 10.0
ROOT: Final = Path(__file__).parents[2]
QUIET_S: Final = 0.1
LIMIT: Final = 6  # connections of a tenant
PAYLOAD: Final = 65_536


def nats_config(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["nats-config", *map(str, words)])


def made(*words: str | Path) -> dict[str, Any]:
    """Run the command and return what it says as JSON."""
    result = nats_config(*words, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


class ConfiguredServer(ServerProcess):
    """A nats-server with a configuration that was written for it."""

    kind = "nats-server"

    def __init__(self, config: Path, port: int) -> None:
        super().__init__(config.parent / f"run-{config.stem}", port=port)
        self._config = config

    async def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        return [str(find_program(("nats-server",))), "-c", str(self._config)]

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        finally:
            writer.close()


@dataclass
class Broker:
    """Running servers of one configuration."""

    answer: dict[str, Any]
    servers: list[ConfiguredServer]
    context: ssl.SSLContext | None = None
    errors: list[str] = field(default_factory=list)  # what the servers said to the newest connection

    @asynccontextmanager
    async def connect(self, user: str, /, *, at: int = 0, **options: Any) -> AsyncIterator[Client]:
        """Sign in with the secret that was made for a user."""
        if user in self.answer["users"]:
            text = secrets_of(self.answer)[user].strip()
            is_nkey = self.answer["users"][user].endswith(".nk")
            secret = {"nkeys_seed_str": text} if is_nkey else {"user": user, "password": text}
            options = {**secret, "inbox_prefix": f"_INBOX.{user}", **options}
        errors: list[str] = []

        async def note(error: Exception) -> None:
            errors.append(str(error))

        if self.context is not None:
            options = {"tls": self.context, **options}
        self.errors = errors
        url = self.answer["urls"].split(",")[at]
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=note, **options)
        try:
            yield client
        finally:
            self.errors = errors
            await client.close()


async def started(answer: dict[str, Any]) -> Broker:
    """Start the servers of a configuration."""
    ports = [int(url.rpartition(":")[2]) for url in answer["urls"].split(",")]
    pairs = zip(answer["configs"], ports, strict=True)
    broker = Broker(answer, [ConfiguredServer(Path(config), port) for config, port in pairs])
    try:
        for server in broker.servers:
            await server.start()
    except BaseException:
        await stopped(broker)
        raise
    return broker


async def stopped(broker: Broker) -> None:
    for server in broker.servers:
        await server.stop()


@asynccontextmanager
async def serving(answer: dict[str, Any]) -> AsyncIterator[Broker]:
    broker = await started(answer)
    try:
        yield broker
    finally:
        await stopped(broker)


@contextmanager
def running(answer: dict[str, Any]) -> Iterator[Broker]:
    """The same for a fixture that lives longer than a loop."""
    broker = asyncio.run(started(answer))
    try:
        yield broker
    finally:
        asyncio.run(stopped(broker))


def single(folder: Path, *words: str, tenants: Sequence[str] = TENANTS) -> dict[str, Any]:
    return made("single", *tenants, "--out", folder, "--port", str(free_port()), "--monitor", "0", *words)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One server with two tenants, as the command makes it."""
    limits = ("--max-connections", str(LIMIT), "--max-payload", str(PAYLOAD))
    with running(single(tmp_path_factory.mktemp("broker"), *limits)) as it:
        yield it


@pytest.fixture(scope="module")
def lax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The same, where acme has one more user, `root`, whose permissions somebody forgot."""
    answer = single(tmp_path_factory.mktemp("lax"))
    path = Path(answer["folder"]) / "accounts.conf"
    one_more = r'\1\n{user: "root", password: "open"}'
    text, count = re.subn(r"(\n  acme \{.*?users: \[)", one_more, path.read_text(), count=1, flags=re.S)
    assert count == 1
    path.write_text(text)
    with running(answer) as it:
        yield it


@asynccontextmanager
async def gateway(broker: Broker, *, at: int = 0) -> AsyncIterator[list[str]]:
    """A node's end of the edge: it answers each request with the subject it came on. Yields the subjects."""
    heard: list[str] = []
    async with broker.connect("node", at=at) as node:

        async def answer(message: Msg) -> None:
            heard.append(message.subject)
            if message.reply:
                await message.respond(message.subject.encode())

        await node.subscribe("foliot.v1.*.>", queue="gateways", cb=answer)
        await flush(node)
        yield heard


@asynccontextmanager
async def everything(broker: Broker) -> AsyncIterator[list[str]]:
    """What Foliot's own processes would hear, of whatever subject of theirs. Yields the subjects."""
    heard: list[str] = []
    async with broker.connect("node") as node, broker.connect("sys") as system:

        async def note(message: Msg) -> None:
            heard.append(message.subject)

        await node.subscribe("foliot.>", cb=note)
        await node.subscribe("_INBOX.node.>", cb=note)
        await system.subscribe("$SYS.REQ.>", cb=note)
        await flush(node)
        await flush(system)
        yield heard


def templates() -> dict[str, str]:
    """Return the files of `deploy/nats`: each form's, with the same accounts, and names where keys would be."""
    found: dict[str, str] = {}
    forms: dict[Form, list[Server]] = {
        "embedded": [Server("embedded", "127.0.0.1", monitor_port=0)],
        "single": [Server("single", "nats.example.com")],
        "cluster": [Server(f"cluster-n{n}", f"n{n}.example.com") for n in (1, 2, 3)],
    }
    etc = Path("/etc/foliot-nats/tls")
    for form, servers in forms.items():
        pairs = {at.name: (etc / f"{at.name}.pem", etc / f"{at.name}.key") for at in servers}
        routes = {at.name: (etc / f"{at.name}-routes.pem", etc / f"{at.name}-routes.key") for at in servers}
        tls = Tls(etc / "ca.pem", pairs, False, etc / "routes-ca.pem", routes) if form != "embedded" else None
        plan = BrokerPlan(form, tuple(servers), Path("/var/lib/foliot-nats"), ("acme", "globex"), tls)
        found |= plan.files({user: {"nkey": f"U-of-{user}"} for user in plan.users}, routes_password="of-the-routes")
    return found


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds. Raises: TimeoutError."""
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110 - the client offers no event
            await asyncio.sleep(0.01)


async def flush(client: Client) -> None:
    """Return when the server has taken all that the client said. The first round may overtake what was said before it."""
    await client.flush()
    await client.flush()


async def settle(*clients: Client) -> None:
    """Return when all that was sent has been said to whom it may concern."""
    for client in clients:
        await flush(client)
    await asyncio.sleep(QUIET_S)


def secrets_of(answer: dict[str, Any]) -> dict[str, str]:
    return {user: Path(path).read_text() for user, path in answer["users"].items()}


# -- what a tenant may ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["edge", "submit", "wait", "ping", "in", "in.mail"])
async def test_a_tenants_request_comes_under_its_name_and_is_answered(broker: Broker, operation: str) -> None:
    async with gateway(broker), broker.connect("acme-client") as acme:
        answer = await acme.request(f"foliot.v1.acme.{operation}", b"", timeout=SOON_S)

    assert answer.data.decode() == f"foliot.v1.acme.{operation}"


async def test_a_foreign_worker_registers_and_gets_its_bodies_and_nobody_elses(broker: Broker) -> None:
    async with gateway(broker), broker.connect("acme-worker") as acme, broker.connect("node") as node:
        answer = await acme.request("foliot.v1.acme.worker.register", b"", timeout=SOON_S)
        sticky = await acme.request("foliot.v1.acme.worker.node-1.credits", b"", timeout=SOON_S)
        bodies = await acme.subscribe("foliot.v1.acme.bodies.s1")
        await flush(acme)

        await node.publish("foliot.v1.globex.bodies.s1", b"theirs")
        await node.publish("foliot.v1.acme.bodies.s2", b"of another session")
        await node.publish("foliot.v1.acme.bodies.s1", b"ours")
        body = await bodies.next_msg(timeout=SOON_S)

    assert answer.data == b"foliot.v1.acme.worker.register"
    assert sticky.data == b"foliot.v1.acme.worker.node-1.credits"
    assert (body.subject, body.data) == ("foliot.v1.acme.bodies.s1", b"ours")


@pytest.mark.parametrize("subject", ["foliot.v1.acme.events", "foliot.v1.acme.events.17"])
async def test_a_tenant_hears_its_own_events(broker: Broker, subject: str) -> None:
    async with broker.connect("acme-client") as acme, broker.connect("node") as node:
        events = await acme.subscribe(subject)
        await flush(acme)

        await node.publish(subject.replace("acme", "globex"), b"theirs")
        await node.publish(subject, b"ours")

        assert (await events.next_msg(timeout=SOON_S)).data == b"ours"


async def test_a_request_nobody_is_there_for_is_answered_at_once(broker: Broker) -> None:
    async with broker.connect("acme-client") as acme:
        with pytest.raises(nats.errors.NoRespondersError):
            await acme.request("foliot.v1.acme.submit", b"", timeout=SOON_S)


async def test_an_answer_finds_its_way_long_after_the_request(broker: Broker) -> None:
    waiting: list[Msg] = []
    async with broker.connect("node") as node, broker.connect("acme-client") as acme:

        async def keep(message: Msg) -> None:
            waiting.append(message)

        await node.subscribe("foliot.v1.*.>", queue="gateways", cb=keep)
        await flush(node)
        asked = [asyncio.create_task(acme.request("foliot.v1.acme.wait", b"%d" % n, timeout=SOON_S)) for n in range(50)]
        await until(lambda: len(waiting) == 50)
        for message in reversed(waiting):
            await message.respond(message.data)

        assert [int((await answer).data) for answer in asked] == list(range(50))


# -- escapes -------------------------------------------------------------------------------------------------------------

FOREIGN_SUBJECTS: Final = (
    "foliot.v1.globex.submit", "foliot.v1.globex.edge", "foliot.v1.globex.in.mail", "foliot.v1.globex.worker.register",
    "foliot.v1.globex.bodies.s1", "foliot.v1.globex.events", "foliot.v1.$operator.edge", "foliot.v1.$operator.tenants",
    "foliot.slot.3", "foliot.to.session.s1", "foliot.to.reply.n1.7",
    "foliot.all.nodes", "foliot.in.3", "_INBOX.node.1", "_INBOX.globex-client.1", "_R_.abc", "$JS.API.INFO",
    "$JS.API.STREAM.DELETE.FOLIOT_IN", "$JS.API.STREAM.LIST", "$JS.ACK.FOLIOT_IN.c.1.1.1.1.1", "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.CORE.CONNZ", "$SYS.REQ.USER.INFO",
)  # fmt: skip
OWN_STREAMS: Final = ("foliot.v1.acme.bodies.s1", "foliot.v1.acme.events", "foliot.v1.acme.events.17")


@pytest.mark.parametrize("subject", [*FOREIGN_SUBJECTS, *OWN_STREAMS])
@pytest.mark.parametrize("role", ["client", "worker"])
async def test_a_tenant_cannot_publish_what_is_not_its_own_to_say(broker: Broker, role: str, subject: str) -> None:
    async with everything(broker) as heard, broker.connect(f"acme-{role}") as acme:
        errors = broker.errors
        await acme.publish(subject, b"{}", reply=f"_INBOX.acme-{role}.x")
        await until(lambda: bool(errors))

        assert f'permissions violation for publish to "{subject}"'.lower() in errors[0].lower()
        assert heard == []


async def test_a_client_of_a_tenant_is_not_taken_for_one_of_its_workers(broker: Broker) -> None:
    async with everything(broker) as heard, broker.connect("acme-client") as acme:
        errors = broker.errors
        await acme.publish("foliot.v1.acme.worker.register", b"")
        await until(lambda: bool(errors))

        assert heard == []


@pytest.mark.parametrize(
    "subject",
    [
        *(">", "*.>", "_INBOX.>", "_INBOX.*", "_INBOX.*.*", "_INBOX.globex-client.>", "_INBOX.acme-other.>", "_R_.>"),
        *("foliot.>", "foliot.v1.>", "foliot.v1.*.bodies.>", "foliot.v1.globex.bodies.>", "foliot.v1.globex.bodies.s1"),
        *("foliot.v1.globex.events", "foliot.v1.*.events", "foliot.v1.acme.>", "foliot.v1.acme.submit", "foliot.v1.acme.*"),
        *("foliot.slot.*", "foliot.to.>", "foliot.all.nodes", "$SYS.>", "$SYS.ACCOUNT.CORE.CONNECT", "$JS.>", "$JS.EVENT.>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["client", "worker"])
async def test_a_tenant_cannot_listen_to_what_is_not_its_own(broker: Broker, role: str, subject: str) -> None:
    async with broker.connect(f"acme-{role}") as acme:
        errors = broker.errors
        await acme.subscribe(subject)
        await until(lambda: bool(errors))

    assert f'permissions violation for subscription to "{subject}"'.lower() in errors[0].lower()


async def test_only_the_operator_asks_for_all_tenants(broker: Broker) -> None:
    assert OPERATORS == accounts.OPERATORS
    async with gateway(broker), broker.connect("operator") as operator, broker.connect("worker") as worker:
        errors = broker.errors
        answer = await operator.request("foliot.v1.$operator.edge", b"", timeout=SOON_S)
        await worker.publish("foliot.v1.$operator.edge", b"")
        await until(lambda: bool(errors))

    assert answer.data == b"foliot.v1.$operator.edge"


async def test_a_user_without_permissions_to_hold_it_still_reaches_nobody_outside_its_account(lax: Broker) -> None:
    async with everything(lax) as heard, lax.connect("root", user="root", password="open") as root:
        for subject in FOREIGN_SUBJECTS:
            await root.publish(subject, b"{}", reply="_INBOX.root.x")
        await settle(root)

        heard = [subject for subject in heard if subject != "$SYS.REQ.USER.acme.INFO"]  # asks who it is itself
        assert heard == []


async def test_a_user_without_permissions_to_hold_it_still_hears_nobody_outside_its_account(lax: Broker) -> None:
    heard: list[str] = []

    async def note(message: Msg) -> None:
        heard.append(message.subject)

    async with (
        gateway(lax),
        lax.connect("root", user="root", password="open") as root,
        lax.connect("globex-client") as globex,
        lax.connect("node") as node,
    ):
        for subject in (">", "foliot.v1.globex.>", "foliot.>", "_INBOX.>", "_R_.>", "$JS.>"):
            await root.subscribe(subject, cb=note)
        await flush(root)
        for subject in FOREIGN_SUBJECTS:
            if subject.startswith(("foliot.", "_INBOX.node", "$JS.API.")):
                await node.publish(subject, b"{}")
        await globex.request("foliot.v1.globex.submit", b"", timeout=SOON_S)
        await node.publish("foliot.v1.acme.bodies.s1", b"the last")
        await until(lambda: bool(heard))
        await settle(root)

    assert set(heard) == {"foliot.v1.acme.bodies.s1"}


async def test_a_tenant_has_no_jetstream_of_its_own(lax: Broker) -> None:
    async with lax.connect("root", user="root", password="open") as root:
        try:
            answer = json.loads((await root.request("$JS.API.INFO", b"", timeout=SOON_S)).data)
        except nats.errors.NoRespondersError:
            answer = {"error": {"err_code": 10039}}

    assert answer["error"]["err_code"] == 10039, "not enabled for the account"


async def test_nodes_hear_whose_connection_ended_and_tenants_do_not(lax: Broker) -> None:
    heard: list[tuple[str, str]] = []
    overheard: list[str] = []

    async def note(message: Msg) -> None:
        heard.append((message.subject, json.loads(message.data)["client"].get("name", "")))

    async def overhear(message: Msg) -> None:
        overheard.append(message.subject)

    async with lax.connect("node") as node, lax.connect("root", user="root", password="open") as root:
        await node.subscribe(f"{accounts.DISCONNECTS}.*", cb=note)
        await root.subscribe(">", cb=overhear)
        await settle(node, root)
        for user in ("worker", "globex-worker"):
            async with lax.connect(user, name=f"the {user}"):
                pass
        users = (("CORE", "worker"), ("globex", "globex-worker"))
        expected = {(f"{accounts.DISCONNECTS}.{account}", f"the {user}") for account, user in users}
        await until(lambda: expected <= set(heard))
        await settle(root)

    assert overheard == []


# -- one-way submissions -------------------------------------------------------------------------------------------------


@pytest.fixture
async def inbox(broker: Broker) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """A stream of what tenants submit one way. Calling it returns the subjects of what it holds, in order."""
    async with broker.connect("node") as node:
        js = node.jetstream()
        subjects = ["foliot.v1.*.in", "foliot.v1.*.in.>"]
        config = {"name": "FOLIOT_IN", "subjects": subjects, "duplicate_window": 100_000_000, "storage": "memory"}
        answer = json.loads((await node.request("$JS.API.STREAM.CREATE.FOLIOT_IN", json.dumps(config).encode())).data)
        assert "error" not in answer, answer

        async def held() -> list[str]:
            count = (await js.stream_info("FOLIOT_IN")).state.messages
            return [str((await js.get_msg("FOLIOT_IN", number + 1)).subject) for number in range(count)]

        yield held
        await js.delete_stream("FOLIOT_IN")


async def submit(client: Client, tenant: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    message = await client.request(f"foliot.v1.{tenant}.in.mail", b"{}", headers=headers, timeout=SOON_S)
    answer: dict[str, Any] = json.loads(message.data)
    return answer


async def test_a_one_way_submission_is_acknowledged_by_the_broker_and_kept_under_the_tenants_name(
    broker: Broker, inbox: Callable[[], Awaitable[list[str]]]
) -> None:
    async with broker.connect("acme-client") as acme, broker.connect("globex-client") as globex:
        answers = [await submit(acme, "acme"), await submit(globex, "globex")]

    assert [answer["seq"] for answer in answers] == [1, 2]
    assert await inbox() == ["foliot.v1.acme.in.mail", "foliot.v1.globex.in.mail"]


async def test_a_message_id_of_one_tenant_does_not_suppress_a_message_of_another(
    broker: Broker, inbox: Callable[[], Awaitable[list[str]]]
) -> None:
    async with broker.connect("acme-client") as acme, broker.connect("globex-client") as globex:
        await submit(globex, "globex", {"Nats-Msg-Id": "guessed"})
        without = await submit(acme, "acme")  # as Foliot's clients send it: without an id there is nothing to suppress
        await asyncio.sleep(0.3)  # longer than the broker remembers ids of this stream
        answer = await submit(acme, "acme", {"Nats-Msg-Id": "guessed"})

    assert not without.get("duplicate")
    assert not answer.get("duplicate")
    assert await inbox() == ["foliot.v1.globex.in.mail", "foliot.v1.acme.in.mail", "foliot.v1.acme.in.mail"]


@pytest.mark.parametrize("headers", [{"Nats-Rollup": "all"}, {"Nats-TTL": "1s"}, {"Nats-Schedule": "@every 1s"}])
async def test_a_header_of_a_tenant_cannot_work_on_the_stream(
    broker: Broker, inbox: Callable[[], Awaitable[list[str]]], headers: dict[str, str]
) -> None:
    async with broker.connect("acme-client") as acme, broker.connect("globex-client") as globex:
        await submit(globex, "globex")
        answer = await submit(acme, "acme", headers)

    assert "error" in answer
    assert await inbox() == ["foliot.v1.globex.in.mail"]


# -- limits and identities -----------------------------------------------------------------------------------------------


async def test_one_tenants_connections_are_limited_and_take_nothing_from_others(broker: Broker) -> None:
    clients = []
    for _ in range(LIMIT):
        way = broker.connect("acme-client")
        clients.append((way, await way.__aenter__()))
    try:
        with pytest.raises(Exception, match=r"(?i)maximum account active connections exceeded"):
            async with broker.connect("acme-worker"):
                pytest.fail("one more than the limit was let in")
        async with broker.connect("globex-client") as globex, broker.connect("node") as node:
            await flush(globex)
            await flush(node)
        await clients[0][1].flush()
    finally:
        for way, _ in clients:
            await way.__aexit__(None, None, None)


async def test_a_message_above_the_tenants_limit_ends_its_connection_only(broker: Broker) -> None:
    async with gateway(broker) as heard, broker.connect("acme-client") as acme, broker.connect("globex-client") as globex:
        await acme.publish("foliot.v1.acme.submit", bytes(PAYLOAD + 1))
        await until(lambda: acme.is_closed)

        await globex.request("foliot.v1.globex.ping", b"", timeout=SOON_S)

    assert heard == ["foliot.v1.globex.ping"]


UNKNOWN_KEY: Final = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER).decode()


@pytest.mark.parametrize("identity", [{}, {"user": "acme-client", "password": "x"}, {"nkeys_seed_str": UNKNOWN_KEY}])
async def test_who_is_not_known_is_not_let_in(broker: Broker, identity: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"(?i)authorization violation"):
        async with broker.connect("nobody", **identity):
            pytest.fail("somebody unknown was let in")


async def test_passwords_do_as_well(tmp_path: Path) -> None:
    answer = single(tmp_path, "--auth", "password")
    assert Path(answer["users"]["acme-client"]).name == "client.password"
    async with serving(answer) as broker:
        async with gateway(broker), broker.connect("acme-client") as acme:
            assert (await acme.request("foliot.v1.acme.ping", b"", timeout=SOON_S)).data == b"foliot.v1.acme.ping"
        with pytest.raises(Exception, match=r"(?i)authorization violation"):
            async with broker.connect("acme-client", password="wrong"):
                pytest.fail("a wrong password was taken")


async def test_a_new_tenant_is_let_in_by_a_reload_and_disturbs_nobody(tmp_path: Path) -> None:
    port = str(free_port())
    words = ("--out", tmp_path, "--port", port, "--monitor", "0")
    before = made("single", *TENANTS, *words)
    secrets = secrets_of(before)
    async with serving(before) as broker:
        async with gateway(broker), broker.connect("acme-client") as acme:
            after = made("single", "--tenants", "acme,globex,initech", *words, "--replace")
            newer = Broker(after, broker.servers)
            for _ in range(2):  # after one the broker knows the tenant, but not yet the way to CORE
                os.kill(broker.servers[0].pid, signal.SIGHUP)
                await asyncio.sleep(0.3)
            async with newer.connect("initech-client") as initech:
                answer = await initech.request("foliot.v1.initech.ping", b"", timeout=SOON_S)
            old = await acme.request("foliot.v1.acme.ping", b"", timeout=SOON_S)

    assert (answer.data, old.data) == (b"foliot.v1.initech.ping", b"foliot.v1.acme.ping")
    assert secrets.items() <= secrets_of(after).items()


# -- TLS -----------------------------------------------------------------------------------------------------------------


def trusting(answer: dict[str, Any], user: str, *, with_certificate: bool = False) -> ssl.SSLContext:
    """Return what a user's connection needs, of the files that were handed to it."""
    home = Path(answer["users"][user]).with_suffix("")
    context = ssl.create_default_context(cafile=home.with_name("ca.pem"))
    if with_certificate:
        context.load_cert_chain(home.with_suffix(".pem"), home.with_suffix(".key"))
    return context


async def test_made_certificates_protect_every_connection(tmp_path: Path) -> None:
    answer = single(tmp_path, "--tls", "make")
    assert answer["urls"].startswith("tls://127.0.0.1:")
    async with serving(answer) as broker:
        broker.context = trusting(answer, "acme-client")
        async with gateway(broker), broker.connect("acme-client") as acme:
            reply = await acme.request("foliot.v1.acme.ping", b"", timeout=SOON_S)
        with pytest.raises(ssl.SSLCertVerificationError):
            async with broker.connect("acme-client", tls=ssl.create_default_context()):
                pytest.fail("a server nobody vouches for was trusted")

    assert reply.data == b"foliot.v1.acme.ping"


async def test_mutual_tls_lets_in_only_who_shows_a_certificate(tmp_path: Path) -> None:
    answer = single(tmp_path, "--tls", "make", "--mtls")
    async with serving(answer) as with_one:
        with_one.context = trusting(answer, "acme-client", with_certificate=True)
        without = Broker(answer, with_one.servers, trusting(answer, "acme-client"))
        async with gateway(with_one), with_one.connect("acme-client") as acme:
            reply = await acme.request("foliot.v1.acme.ping", b"", timeout=SOON_S)
        way = without.connect("acme-client")
        with pytest.raises((OSError, nats.errors.Error)):  # which of them depends on who notices first
            await way.__aenter__()

    assert reply.data == b"foliot.v1.acme.ping"


def test_certificates_of_ones_own_are_used_as_they_are(tmp_path: Path) -> None:
    made("cluster", "--out", tmp_path / "a", "--tls", "make")
    tls = tmp_path / "a" / "tls"
    own = ("--tls-ca", tls / "ca.pem", "--tls-cert", f"{tls}/{{server}}.pem", "--tls-key", f"{tls}/{{server}}.key")

    answer = made("cluster", "--out", tmp_path / "b", *own)

    assert f'cert_file: "{tls}/n2.pem"' in Path(answer["configs"][1]).read_text()
    assert not (tmp_path / "b" / "tls").exists()
    missing = nats_config("cluster", "--out", tmp_path / "c", *own[:-1], tls / "{server}.nothing")
    assert missing.exit_code == 2
    assert missing.stderr == f"foliot: --tls-key: {tls}/n1.nothing is not there, expected a PEM file\n"


# -- a cluster -----------------------------------------------------------------------------------------------------------


async def test_three_servers_are_one_broker(tmp_path: Path) -> None:
    names = [f"{name}=127.0.0.1:{free_port()}:{free_port()}" for name in ("n1", "n2", "n3")]
    words = ("--tls", "make", "--mtls", "--monitor", "0", "--servers", ",".join(names))
    answer = made("cluster", *TENANTS, "--out", tmp_path, *words)
    async with serving(answer) as broker:
        broker.context = trusting(answer, "acme-client", with_certificate=True)
        async with broker.connect("node", at=2) as node, broker.connect("acme-client", at=0) as acme:
            stream = {"name": "FOLIOT_IN", "subjects": ["foliot.v1.*.in"], "num_replicas": 3}
            reply: dict[str, Any] = {}
            async with asyncio.timeout(60):
                while "config" not in reply:  # the servers must find each other and elect a leader first
                    try:
                        text = await node.request("$JS.API.STREAM.CREATE.FOLIOT_IN", json.dumps(stream).encode(), timeout=5)
                        reply = json.loads(text.data)
                    except nats.errors.Error:
                        await asyncio.sleep(0.1)
            async with gateway(broker, at=1):
                there = await acme.request("foliot.v1.acme.ping", b"", timeout=SOON_S)
            kept = json.loads((await acme.request("foliot.v1.acme.in", b"{}", timeout=SOON_S)).data)

    assert there.data == b"foliot.v1.acme.ping"
    assert kept["seq"] == 1


# -- the command ---------------------------------------------------------------------------------------------------------


def test_made_again_it_is_the_same_and_keeps_every_secret(tmp_path: Path) -> None:
    first = made("cluster", *TENANTS, "--out", tmp_path, "--tls", "make", "--mtls")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    second = made("cluster", *TENANTS, "--out", tmp_path, "--tls", "make", "--mtls")

    assert second == first
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_nothing_is_written_over_unless_it_was_asked_for(tmp_path: Path) -> None:
    made("single", *TENANTS, "--out", tmp_path)
    path = tmp_path / "accounts.conf"
    edited = path.read_text() + "# by hand\n"
    path.write_text(edited)

    refused = nats_config("single", *TENANTS, "--out", tmp_path)

    assert refused.exit_code == 2
    expected = f"foliot: {path} would change, so the configuration stays as it is; expected --replace or another --out\n"
    assert refused.stderr == expected
    assert path.read_text() == edited
    made("single", *TENANTS, "--out", tmp_path, "--replace")
    assert "by hand" not in path.read_text()


@pytest.mark.parametrize("auth", ["nkey", "password"])
def test_only_the_owner_can_read_what_is_secret(tmp_path: Path, auth: str) -> None:
    answer = made("cluster", *TENANTS, "--out", tmp_path / "nats", "--auth", auth, "--tls", "make", "--mtls")

    secret = {path for path in (tmp_path / "nats").rglob("*") if path.is_file() and path.suffix != ".pem"}
    assert {Path(path) for path in (*answer["users"].values(), *answer["configs"])} <= secret
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_the_broker_itself_checks_what_was_written(tmp_path: Path) -> None:
    config = Path(made("single", *TENANTS, "--out", tmp_path)["configs"][0])
    path = tmp_path / "accounts.conf"
    path.write_text(path.read_text().replace('subject: "foliot.v1.acme.*"', 'subject: "foliot.v1.globex.*"', 1))
    program = find_program(("nats-server",))
    assert program is not None

    with pytest.raises(ConfigRefusedError, match="service import not authorized"):
        check_config(program, config)


def test_every_server_writes_through_and_pins_what_clients_rely_on(tmp_path: Path) -> None:
    answer = made("cluster", "--out", tmp_path)

    for config in map(Path, answer["configs"]):
        text = config.read_text()
        assert 'sync_interval: "always"' in text
        assert "feature_flags {js_ack_fc_v2: false}" in text
        assert "limits {default_max_consumers: 10000}" in text
    assert (tmp_path / "accounts.conf").read_text().count("jetstream") == 1, "only CORE has JetStream"


def test_older_brokers_get_only_what_they_know() -> None:
    servers = servers_of(["n1=127.0.0.1"])
    plan = BrokerPlan("single", servers, Path("/data"), version=(2, 11))

    text = plan.files({user: {"nkey": "U"} for user in plan.users})["n1.conf"]

    assert "feature_flags" not in text
    assert "default_max_consumers" not in text
    with pytest.raises(BrokerPlanError, match=r"nats-server: version 2\.10 is too old, expected 2\.11 or newer"):
        BrokerPlan("single", servers, Path("/data"), version=(2, 10))


@pytest.mark.parametrize("missing", ["nats-server", "openssl", "nkeys"])
def test_what_is_not_installed_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "nats-server":
        monkeypatch.setattr("foliot.sdk.cluster.nats_config_make.find_program", lambda names: None)
    elif missing == "openssl":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setitem(sys.modules, "nkeys", None)

    result = nats_config("single", "--out", tmp_path / "nats", "--tls", "make")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{missing} is not there, needed to" in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("single", "--tenants", "a b"), "tenant 'a b' is not a name"),
        (("single", "--tenants", "a.b"), "tenant 'a.b' is not a name"),
        (("single", "--tenants", "acme,*"), "tenant '*' is not a name"),
        (("single", "--tenants", "CORE"), "--tenants: 'CORE' is an account of the broker itself"),
        (("single", "--tenants", "acme,acme"), "--tenants: 'acme' comes twice"),
        (("cluster", "--servers", "a=h1,b=h2"), "--servers: 2 servers keep no majority"),
        (("cluster", "--servers", "a=h1,b=h2,a=h3"), "--servers: a,b,a, expected a name of its own for each"),
        (("cluster", "--servers", "a=h,b=h:4222,c=h"), "--servers: h:4222 comes twice"),
        (("cluster", "--servers", "a=h,b=h:x,c=h"), "--servers: 'b=h:x' cannot be read"),
        (("cluster", "--servers", "a=h,b=h:70000,c=h"), "--servers: 70000 is no port"),
        (("single", "--servers", "a=h"), "--servers: given for the form single"),
        (("embedded", "--host", "10.0.0.1", "--tls", "none"), "--host: the embedded form is for this machine"),
        (("single", "--tls-ca", "x"), "--tls-cert: is not given"),
        (("single", "--mtls", "--tls", "none"), "--mtls: without TLS"),
        (("single", "--max-connections", "0"), "--max-connections: 0 is no limit"),
    ],
)
def test_a_plan_no_broker_can_follow_is_refused(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    result = nats_config(*words, "--out", tmp_path / "nats")

    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not list(tmp_path.rglob("*.conf"))


def test_beyond_this_machine_there_is_tls_unless_it_is_declined(tmp_path: Path) -> None:
    protected = made("single", "--host", "192.0.2.7", "--out", tmp_path / "a")
    open_to_all = made("single", "--host", "192.0.2.7", "--out", tmp_path / "b", "--tls", "none")

    assert protected["urls"] == "tls://192.0.2.7:4222"
    assert open_to_all["urls"] == "nats://192.0.2.7:4222"
    with pytest.raises(BrokerPlanError, match="passwords and payloads would be readable on the network"):
        BrokerPlan("single", servers_of(["n1=192.0.2.7"]), Path("/data"))


def test_strange_and_long_folders_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / 'with "quotes", $variables # [{ünd}]; and \\ spaces' / ("long" * 40)

    answer = made("single", "--out", folder, "--tls", "make")

    assert answer["checked"]
    assert render({"a b": ["$x", 1, True], "#": "two\nlines"}) == '"a b": ["$x", 1, true]\n# two\n# lines\n'


def test_a_folder_that_cannot_stand_in_a_configuration_is_refused(tmp_path: Path) -> None:
    result = nats_config("single", "--out", tmp_path / "a\nb")

    assert result.exit_code == 2
    assert "cannot stand in a configuration, expected characters that can be printed" in result.stderr
    assert not list(tmp_path.rglob("*.conf"))


def test_servers_on_one_host_get_ports_of_their_own() -> None:
    servers = servers_of(["a=h", "b=h", "c=[::1]:5000:6000"])

    expected = [("h", 4222, 6222), ("h", 4223, 6223), ("::1", 5000, 6000)]
    assert [(at.host, at.port, at.route_port) for at in servers] == expected


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "deploy" / "nats").glob("*.conf")))
def test_the_templates_are_what_the_command_writes(name: str) -> None:
    assert (ROOT / "deploy" / "nats" / name).read_text() == templates()[name]


def test_every_template_is_there() -> None:
    assert sorted(templates()) == sorted(path.name for path in (ROOT / "deploy" / "nats").glob("*.conf"))


# -- Foliot's own way there ----------------------------------------------------------------------------------------------


def link_config(answer: dict[str, Any], user: str) -> NatsConfig:
    """Return the settings of a link for a user, from nothing but the files that were made for it."""
    path = Path(answer["users"][user])
    if path.suffix == ".nk":
        return NatsConfig(answer["urls"], nkey_seed=str(path), connect_timeout_ms=5_000)
    return NatsConfig(answer["urls"], user=user, password=path.read_text().strip(), connect_timeout_ms=5_000)


@pytest.mark.parametrize("auth", ["nkey", "password"])
async def test_links_of_foliot_are_answered_without_further_settings(tmp_path: Path, auth: str) -> None:
    async with serving(single(tmp_path, "--auth", auth)) as broker, gateway(broker):
        for user, subject in (("acme-client", "foliot.v1.acme.edge"), ("operator", "foliot.v1.globex.edge")):
            link = await NatsLink.open(link_config(broker.answer, user), clock=SystemClock(), rng=Rng(1))
            try:
                answer = await link.request(subject, b"", timeout_ms=5_000)
            finally:
                await link.close()
            assert bytes(answer.data) == subject.encode()


async def test_a_node_and_a_worker_of_foliots_own_meet_over_the_bus(broker: Broker) -> None:
    node = await NatsLink.open(link_config(broker.answer, "node"), clock=SystemClock(), rng=Rng(1))
    worker = await NatsLink.open(link_config(broker.answer, "worker"), clock=SystemClock(), rng=Rng(2))
    try:
        assert "error" not in await node.api("INFO", {}, timeout_ms=5_000)
        heard: list[str] = []
        for subject in ("foliot.hello", "foliot.slot.7", "foliot.to.session.s1", "foliot.all.nodes"):
            node.subscribe(subject, lambda delivery: heard.append(delivery.subject))
        worker.subscribe("foliot.to.reply.w.>", lambda delivery: heard.append(delivery.subject))
        async with asyncio.timeout(SOON_S):
            while len(set(heard)) < 5:
                for subject in ("foliot.hello", "foliot.slot.7", "foliot.to.session.s1", "foliot.all.nodes"):
                    worker.publish(subject, b"")
                node.publish("foliot.to.reply.w.1", b"")
                await asyncio.sleep(0.02)
        with pytest.raises(FoliotError):
            await worker.api("STREAM.LIST", {}, timeout_ms=2_000)
    finally:
        await worker.close()
        await node.close()
