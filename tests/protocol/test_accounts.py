"""The protocol and Foliot's own client across accounts: the broker's configuration of tenants, as it really is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from foliot.actors.rows import ShardChanges
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.ids import to_text
from foliot.runtime.rng import Rng
from foliot.sdk.client import Client
from foliot.sdk.cluster.nats_config_accounts import TenantLimits, accounts_of, users_of
from foliot.sdk.cluster.nats_config_text import render
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.channel import OperatorsOnlyError
from foliot.transports.nats.errors import NotPermittedError
from foliot.transports.nats.events import EventFeed, FeedConfig
from foliot.transports.nats.mail import MailConfig
from foliot.transports.nats.port import ConsumerConfig, Entry
from foliot.transports.nats.streams import NatsStreams
from structlog.testing import capture_logs

from .gate import Plain, PlainWorker, PublicGate, echo

TENANTS = ("acme", "globex")


class Member(Plain):
    """A client that logs in as a user of its tenant."""

    def __init__(self, server: LocalNats, tenant: str, role: str, form: str = "msgpack") -> None:
        super().__init__(server.url, tenant=tenant, form=form)
        self._user = f"{tenant}-{role}"

    async def __aenter__(self) -> Member:
        self.connection = await nats.connect(
            self._url, user=self._user, password="secret", inbox_prefix=f"_INBOX.{self._user}".encode()
        )
        return self


def as_user(server: LocalNats, user: str) -> str:
    return server.url.replace("nats://", f"nats://{user}:secret@")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalNats]:
    credentials = {user.name: {"user": user.name, "password": "secret"} for user in users_of(TENANTS)}
    config = render(accounts_of(TENANTS, credentials, TenantLimits()))
    async with LocalNats(tmp_path / "nats", config=config) as server:
        yield server


@pytest.fixture
async def gate(server: LocalNats, tmp_path: Path) -> AsyncIterator[PublicGate]:
    async with PublicGate(as_user(server, "node"), tmp_path) as gate:
        yield gate


async def test_a_tenant_submits_and_works_from_its_own_account(server: LocalNats, gate: PublicGate) -> None:
    async with Member(server, "acme", "client", "json") as client, Member(server, "acme", "worker") as hands:
        worker = PlainWorker(hands, echo)
        await worker.register()
        task = await client.submit("echo", {"n": 1})

        assert (await client.end(task))["result"] == {"n": 1}
        assert await worker.beat() == {"ok": True}
        assert await worker.call("leave") == {"ok": True}
        await worker.stop()


async def test_foliots_own_client_works_from_a_tenants_account_and_sees_that_tenant_only(
    server: LocalNats, gate: PublicGate
) -> None:
    async with (
        Client(as_user(server, "acme-client"), tenant="acme") as client,
        Client(as_user(server, "globex-client"), tenant="globex") as stranger,
        Client(as_user(server, "operator"), tenant="acme") as operator,
    ):
        task = await client.submit("echo", delay="1h")

        assert (await client.get(task)).state == "scheduled"
        assert len((await stranger.page()).tasks) == 0
        with capture_logs() as said, pytest.raises(OperatorsOnlyError, match="of tenant 'globex' only") as refused:
            await stranger.page(all_tenants=True)
        assert said == [], "who asked is told, and nobody else"
        assert isinstance(refused.value.__cause__, NotPermittedError), "the broker itself refuses it"
        with pytest.raises(OperatorsOnlyError):
            await stranger.queues()
        assert [each.id for each in (await operator.page(all_tenants=True)).tasks] == [task.id]
        assert [(each.tenant, each.waiting) for each in (await operator.stats()).tallies] == [("acme", 1)]


async def test_a_tenant_hands_over_one_way_and_reads_its_own_events_though_it_has_no_streams(
    server: LocalNats, gate: PublicGate
) -> None:
    clock, rng = SystemClock(), Rng.of_the_system()
    streams = NatsStreams(gate.links[0][1], clock=clock)
    for stream in (MailConfig(2).stream, FeedConfig().stream):
        await streams.ensure(stream)
    feed = EventFeed(streams, clock=clock)
    running = asyncio.create_task(feed.run())
    changes = ShardChanges(0, 1)
    changes.events = [(number, tenant, 0, 2, 0) for number, tenant in ((1, "acme"), (2, "globex"), (3, "acme"))]
    feed.tell(changes)
    held: list[Entry] = []
    for shard in range(2):
        mail = ConsumerConfig(f"c{shard}", f"foliot.in.{shard}.*")
        await streams.consume("FOLIOT_IN", mail, held.append, lambda reason: None)

    async with (
        Client(as_user(server, "acme-client"), tenant="acme", rng=rng) as client,
        Member(server, "globex", "client", "json") as plain,
    ):
        await client.submit_one_way("echo")
        events = client.events(since="1h")
        assert [(await anext(events)).task_id for _ in range(2)] == [to_text(1), to_text(3)]
        page = await plain.ask("feed", since_ms=0, wait_ms=5_000)
        assert [message["events"] for message in page["messages"]] == [[[to_text(2), "", "queued", 0]]]
        assert await plain.ask("feed", cursor=page["cursor"]) == {**page, "messages": [], "start": page["cursor"]}
        with pytest.raises(nats.errors.Error):
            await plain.connection.jetstream().stream_info("FOLIOT_EVENTS")

    async with asyncio.timeout(10):
        while not held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [entry.subject.rpartition(".")[2] for entry in held] == ["acme"]
    running.cancel()
    await asyncio.wait([running])


async def test_a_client_that_names_another_tenant_gets_nowhere(server: LocalNats, gate: PublicGate) -> None:
    client = Client(as_user(server, "acme-client"), tenant="globex", timeout=1)

    with pytest.raises(FoliotError):
        await client.hello()
    await client.close()

    assert gate.listener.refused == {}
