"""A client and a gateway over a real NATS server: the requests of `transports.api`, whoever's they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from foliot.actors import messages as m
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError
from foliot.runtime.ids import to_text
from foliot.runtime.rng import Rng
from foliot.sdk.client import Client
from foliot.sdk.servers import LocalNats
from foliot.transports import api
from foliot.transports.local import NotRunningError
from foliot.transports.nats.channel import ChannelLimits, NatsChannel, NoNodeError, tries_ms
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.errors import NatsUnreachableError
from foliot.transports.nats.link import NatsLink
from foliot.transports.nats.listener import ListenerLimits, NatsListener

from .edge import EdgeNode, spec

QUICK = ChannelLimits(first_try_ms=150, longest_try_ms=300, backoff_ms=10, backoff_max_ms=50)


class Ear:
    """A listener with a link of its own, over any gateway."""

    def __init__(self, url: str, gateway: Any, node: EdgeNode, limits: ListenerLimits | None = None) -> None:
        self._url = url
        self._gateway = gateway
        self._node = node
        self._limits = limits

    async def __aenter__(self) -> Ear:
        rng = Rng.of_the_system()
        self.link = await NatsLink.open(NatsConfig(self._url), clock=SystemClock(), rng=rng)
        self.listener = NatsListener(
            self.link, self._gateway, self._node.bus, slots=self._node.shards, clock=SystemClock(), rng=rng,
            limits=self._limits or ListenerLimits(close_grace_ms=20),
        )  # fmt: skip
        self.listener.start()
        await self.link.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.close()
        await self.link.close()


class Desk:
    """A gateway between the listener and the real one, that counts, and can be slow or mute."""

    def __init__(self, node: EdgeNode) -> None:
        self.node = node
        self.taken: list[Any] = []
        self._took = asyncio.Event()
        self.mute_for = 0  # requests whose answers are lost
        self.answer: Any = None
        self.refuse_every = 0  # every so many submissions, one is refused
        self._submissions = 0

    async def handle(self, request: Any, *, timeout_ms: int) -> Any:
        self.taken.append(request)
        self._took.set()
        if self.refuse_every and isinstance(request, m.SubmitTasks):
            self._submissions += 1
            if self._submissions % self.refuse_every == 0:
                return Refusal("overloaded", "not now", 10)
        answer = self.answer or await self.node.gateway.handle(request, timeout_ms=timeout_ms)
        if self.mute_for:
            self.mute_for -= 1
            await asyncio.sleep(3_600)
        return answer

    async def has_taken(self, count: int) -> None:
        """Wait until so many requests came."""
        while len(self.taken) < count:
            self._took.clear()
            await self._took.wait()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EdgeNode]:
    async with EdgeNode(tmp_path / "foliot.db") as node:
        yield node


@pytest.fixture
def desk(node: EdgeNode) -> Desk:
    return Desk(node)


@pytest.fixture
async def ear(nats_server: LocalNats, node: EdgeNode, desk: Desk) -> AsyncIterator[Ear]:
    async with Ear(nats_server.url, desk, node) as ear:
        yield ear


@pytest.fixture
async def channel(nats_server: LocalNats, ear: Ear) -> AsyncIterator[NatsChannel]:
    channel = NatsChannel(nats_server.url, tenant="acme", limits=QUICK)
    yield channel
    await channel.close()


def submission(*specs: m.TaskSpec, tenant: str = "acme", request_id: str = "") -> m.SubmitTasks:
    return m.SubmitTasks(tenant, [m.Template("ok")], list(specs), request_id)


# -- the ordinary ------------------------------------------------------------------------------------------------------


async def test_a_client_that_names_nats_servers_submits_and_gets_the_result(
    nats_server: LocalNats, ear: Ear, node: EdgeNode
) -> None:
    node.start_worker()
    async with Client(nats_server.url, tenant="acme") as client:
        task = await client.submit("ok", n=1)

        assert await task.result("10s") == {"n": 1}
        assert (await task.info()).state == "completed"
        assert [view.config.queue for view in await client.queues()] == ["default"]
        assert [tally.tenant for tally in (await client.stats()).tallies] == ["acme"]


async def test_many_requests_at_once_each_get_their_own_answer(channel: NatsChannel) -> None:
    answers = await asyncio.gather(
        *[channel.request(submission(spec(n)), timeout_ms=10_000) for n in range(300)]
    )  # fmt: skip

    ids = [answer.ids[0] for answer in answers]
    found = await channel.request(api.GetTasks("acme", ids), timeout_ms=5_000)
    assert [msgspec.msgpack.decode(task.payload) for task in found.tasks] == list(range(300))


async def test_two_nodes_share_the_requests(nats_server: LocalNats, ear: Ear, desk: Desk, node: EdgeNode) -> None:
    other = Desk(node)
    channel = NatsChannel(nats_server.url, tenant="acme")
    async with Ear(nats_server.url, other, node):
        for _ in range(60):
            await channel.request(api.Hello(), timeout_ms=5_000)
    await channel.close()

    assert len(desk.taken) + len(other.taken) == 60
    assert desk.taken
    assert other.taken


# -- whose requests they are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        submission(spec(1), tenant="other"),
        m.CancelTasks("other", [1]),
        api.GetTasks("", [1]),
        api.ListTasks(),
        api.ListTenants(),
        api.SetTenant("acme", rate=0),
        api.SetQueue("default", paused=True),
        api.ReadStats(),
        api.DrainMember("node"),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_a_tenants_subject_serves_that_tenant_only(nats_server: LocalNats, ear: Ear, desk: Desk, message: Any) -> None:
    link = await NatsLink.open(NatsConfig(nats_server.url), clock=SystemClock(), rng=Rng.of_the_system())

    delivery = await link.request("foliot.v1.acme.edge", api.encode(message), timeout_ms=5_000)
    await link.close()

    refusal = api.decode_answer(delivery.data)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "tenant_forbidden"
    assert "tenant 'acme' asked" in refusal.text
    assert not desk.taken


async def test_a_request_id_of_one_tenant_says_nothing_to_another(channel: NatsChannel) -> None:
    first = await channel.request(submission(spec(1), request_id="same"), timeout_ms=5_000)
    other = await channel.request(submission(spec(1), tenant="other", request_id="same"), timeout_ms=5_000)
    again = await channel.request(submission(spec(1), request_id="same"), timeout_ms=5_000)

    assert again.ids == first.ids
    assert again.repeated
    assert other.ids != first.ids
    assert not other.repeated


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x91\xa5Hello", b"\x01\xc1", b"\x01" + b"\x91" * 100_000], ids=len)
async def test_what_cannot_be_read_is_refused(nats_server: LocalNats, ear: Ear, data: bytes) -> None:
    link = await NatsLink.open(NatsConfig(nats_server.url), clock=SystemClock(), rng=Rng.of_the_system())
    delivery = await link.request("foliot.v1.acme.edge", data, timeout_ms=5_000)
    link.publish("foliot.v1.acme.edge", data)  # nobody waits for an answer
    await link.flush()
    await (await _opened(nats_server)).close()
    await link.close()

    assert api.decode_answer(delivery.data).code in ("malformed", "version")
    for _ in range(200):
        if sum(ear.listener.dropped.values()):
            break
        await asyncio.sleep(0.01)
    assert sum(ear.listener.dropped.values()) == 1


async def _opened(server: LocalNats) -> NatsLink:
    return await NatsLink.open(NatsConfig(server.url), clock=SystemClock(), rng=Rng.of_the_system())


async def test_a_reply_to_a_subject_of_the_cluster_is_never_sent(nats_server: LocalNats, ear: Ear) -> None:
    heard: list[Any] = []
    link = await _opened(nats_server)
    link.subscribe("foliot.slot.0", heard.append)
    await link.flush()

    for subject in ("foliot.v1.acme.edge", "foliot.v1.acme.ping"):
        link.publish(subject, b"{}", reply="foliot.slot.0")
    await link.request("foliot.v1.acme.ping", b"{}", timeout_ms=5_000)  # later ones were answered by now
    await link.flush()
    await link.close()

    assert heard == []
    assert ear.listener.dropped == {"bad_reply": 2}


# -- answers that are lost, late or too large ----------------------------------------------------------------------------


async def test_a_submission_whose_answer_is_lost_is_sent_again_and_is_there_once(channel: NatsChannel, desk: Desk) -> None:
    desk.mute_for = 2

    answer = await channel.request(submission(spec(1), request_id="once"), timeout_ms=20_000)

    assert answer.repeated
    assert len(desk.taken) == 3
    desk.mute_for = 0
    listed = await channel.request(api.ListTasks("acme"), timeout_ms=5_000)
    assert [task.id for task in listed.tasks] == answer.ids


async def test_a_command_whose_answer_is_lost_is_sent_once(channel: NatsChannel, desk: Desk) -> None:
    desk.mute_for = 1

    with pytest.raises(DeadlineError, match="its outcome is unknown"):
        await channel.request(m.CancelTasks("acme", [1]), timeout_ms=700)

    assert len(desk.taken) == 1


async def test_while_nobody_listens_a_request_waits_and_then_says_so(nats_server: LocalNats) -> None:
    channel = NatsChannel(nats_server.url, tenant="acme", limits=QUICK)

    with pytest.raises(NoNodeError, match=rf"no node of a cluster listens at 127.0.0.1:{nats_server.port}") as caught:
        await channel.request(m.CancelTasks("acme", [1]), timeout_ms=300)

    assert isinstance(caught.value, NotRunningError)
    await channel.close()


async def test_a_command_waits_for_a_node_to_appear(nats_server: LocalNats, desk: Desk, node: EdgeNode) -> None:
    channel = NatsChannel(nats_server.url, tenant="acme", limits=QUICK)
    asked = asyncio.create_task(channel.request(m.CancelTasks("acme", [1]), timeout_ms=20_000))
    await asyncio.sleep(0.2)
    async with Ear(nats_server.url, desk, node):
        answer = await asked
    await channel.close()

    assert answer.outcomes == ["not_found"]
    assert len(desk.taken) == 1


async def test_where_no_server_is_the_address_is_named() -> None:
    channel = NatsChannel("nats://127.0.0.1:9", limits=QUICK)

    with pytest.raises(NatsUnreachableError, match=r"no NATS server answers at 127\.0\.0\.1:9"):
        await channel.request(api.Hello(), timeout_ms=2_000)
    await channel.close()


async def test_a_batch_beyond_one_message_travels_in_several(channel: NatsChannel, desk: Desk) -> None:
    message = submission(*[spec("x" * 50_000, dedupe_key=f"k{n}") for n in range(60)], request_id="big")

    answer = await channel.request(message, timeout_ms=20_000)
    again = await channel.request(message, timeout_ms=20_000)

    assert len([each for each in desk.taken if isinstance(each, m.SubmitTasks)]) == 8
    assert all(answer.ids)
    assert len(set(answer.ids)) == 60
    assert again.ids == answer.ids
    found = await channel.request(api.GetTasks("acme", answer.ids), timeout_ms=20_000)  # its answer is too large as well
    assert [task.dedupe_key for task in found.tasks] == [f"k{n}" for n in range(60)]


async def test_a_large_batch_that_is_refused_in_part_is_repeated_whole_and_is_there_once(
    nats_server: LocalNats, ear: Ear, desk: Desk
) -> None:
    desk.refuse_every = 3
    async with Client(nats_server.url, tenant="acme") as client:
        specs = [client.spec("ok", text="x" * 60_000, number=number) for number in range(70)]
        result = await client.submit_many(specs, ids=True)

        assert (result.accepted, result.refused_count) == (70, 0)
        listed = [info async for info in client.list()]
    assert sorted(map(to_text, result.ids)) == sorted([info.id for info in listed])
    assert len(listed) == 70


async def test_schedules_beyond_one_message_travel_in_several(nats_server: LocalNats, ear: Ear) -> None:
    async with Client(nats_server.url, tenant="acme") as client:
        drafts = [
            client.schedules.draft(f"s{number}", "ok", every="1h", text="x" * 60_000) for number in range(30)
        ]  # fmt: skip
        result = await client.schedules.put_many(drafts)

    assert (result.created, result.refused_count) == (30, 0)


async def test_one_task_beyond_one_message_is_refused_with_its_size(channel: NatsChannel) -> None:
    refusal = await channel.request(submission(spec("x" * 1_048_570)), timeout_ms=5_000)

    assert refusal.code == "too_large"
    assert "expected at most 1048576" in refusal.text


async def test_an_answer_beyond_one_message_is_refused_with_its_size(channel: NatsChannel, desk: Desk) -> None:
    desk.answer = api.LogsRead([api.LogPart(1, b"x" * 2_000_000)])

    refusal = await channel.request(api.ReadLogs("acme", 1), timeout_ms=5_000)

    assert isinstance(refusal, Refusal)
    assert refusal.code == "too_large"
    assert "a message to 'the one who asks' has 2000" in refusal.text


# -- bounds and ends ---------------------------------------------------------------------------------------------------


async def test_one_tenant_cannot_take_all_room(nats_server: LocalNats, desk: Desk, node: EdgeNode) -> None:
    desk.mute_for = 4
    async with Ear(nats_server.url, desk, node, ListenerLimits(max_in_flight=8, close_grace_ms=20)):
        link = await _opened(nats_server)
        hello = api.encode(api.Hello())
        waiting = [
            asyncio.create_task(link.request("foliot.v1.acme.edge", hello, timeout_ms=5_000)) for _ in range(4)
        ]  # fmt: skip
        await desk.has_taken(4)
        refused = await link.request("foliot.v1.acme.edge", hello, timeout_ms=5_000)
        served = await link.request("foliot.v1.other.edge", hello, timeout_ms=5_000)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await link.close()
    refusal = api.decode_answer(refused.data)
    assert (refusal.code, refusal.retry_after_ms) == ("overloaded", 200)
    assert isinstance(api.decode_answer(served.data), api.Welcome)


async def test_a_broker_that_restarts_loses_nothing_that_was_asked(tmp_path: Path) -> None:
    server = LocalNats(tmp_path / "nats")
    await server.start()
    try:
        async with EdgeNode(tmp_path / "foliot.db") as node, Ear(server.url, node.gateway, node):
            client = Client(server.url, tenant="acme", timeout=60)
            task = await client.submit("hold")
            waiting = asyncio.create_task(client.wait(task, "60s"))
            await asyncio.sleep(0.2)

            server.kill()
            submitting = asyncio.create_task(client.submit("hold"))
            await server.restart()
            other = await submitting
            assert await client.cancel(task) == "cancelled"

            assert await waiting == "cancelled"
            assert len({task.number, other.number}) == 2
            assert len([info async for info in client.list()]) == 2
            await client.close()
    finally:
        await server.close()


def test_each_span_is_tried_twice_then_twice_as_long_up_to_the_longest() -> None:
    assert list(islice(tries_ms(3_000, 12_000), 7)) == [3_000, 3_000, 6_000, 6_000, 12_000, 12_000, 12_000]
    assert list(islice(tries_ms(13_000, 12_000), 3)) == [13_000] * 3  # a poll's
