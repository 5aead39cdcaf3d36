"""What a client of a cluster does and says while nobody, or not everybody, is there to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from foliot import Client
from foliot.actors.messages import CancelTasks, RetryTasks, SubmitTasks, TasksAnswered, TaskSpec, TasksSubmitted, Template
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.rng import Rng
from foliot.sdk.cli import main
from foliot.sdk.client_one_way import NoInboxError
from foliot.sdk.cluster.node import ClusterNode, NodeOptions
from foliot.sdk.errors import NotIdleError
from foliot.sdk.servers import LocalNats
from foliot.transports import api
from foliot.transports.nats.channel import ChannelLimits, NatsChannel, NoNodeError, OperatorsOnlyError, UnsettledError
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.link import Delivery, NatsLink
from foliot.transports.nats.protocol import OPERATORS, edge_subject

from .test_node import living

MOVING = Refusal("no_such_actor", "no actor at 'shard.5' at this moment", 1_000)
MEMBERS = api.MembersListed(2, [api.MemberView("n1", "up", shards=[0])])
IMPATIENT = ChannelLimits(backoff_ms=5, backoff_max_ms=20, silent_ms=60)


@asynccontextmanager
async def edge(nats: LocalNats, prefix: str, answer: Callable[[Any], Any]) -> AsyncIterator[list[Any]]:
    """A node's edge that answers by a script; yields the requests that came."""
    link = await NatsLink.open(NatsConfig(nats.url), clock=SystemClock(), rng=Rng.of_the_system())
    heard: list[Any] = []

    def take(delivery: Delivery) -> None:
        request = api.decode_request(delivery.data)
        heard.append(request)
        told = answer(request)
        if told is not None:
            link.publish(delivery.reply, api.encode(told))

    for scope in ("default", OPERATORS):
        link.subscribe(edge_subject(prefix, scope), take)
    await link.flush()
    try:
        yield heard
    finally:
        await link.close()


def moving_at_first(times: int, answer: Any) -> Callable[[Any], Any]:
    left = [MOVING] * times
    return lambda _: left.pop() if left else answer


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (api.ReadStats(), api.StatsRead(0, 0, 2, [], {})),
        (api.ListQueues(), api.QueuesListed([])),
        (CancelTasks("default", [1]), TasksAnswered(["cancelled"])),
        (RetryTasks("default", [1]), TasksAnswered(["retried"])),
        (SubmitTasks("default", [Template("h")], [TaskSpec(0, b"\x80")], "r"), TasksSubmitted([7])),
    ],
)
async def test_what_a_shard_on_its_way_could_not_take_is_asked_again(
    nats_server: LocalNats, request_: Any, answer: Any
) -> None:
    async with edge(nats_server, "again", moving_at_first(3, answer)) as heard:
        channel = NatsChannel(nats_server.url, limits=IMPATIENT, prefix="again")
        assert await channel.request(request_, timeout_ms=20_000) == answer
        await channel.close()
    assert len(heard) == 4


async def test_a_shard_that_does_not_come_back_is_told_at_the_deadline_and_meanwhile_what_is_waited_for(
    nats_server: LocalNats,
) -> None:
    said: list[str] = []
    async with edge(nats_server, "gone", lambda _: MOVING):
        channel = NatsChannel(nats_server.url, limits=IMPATIENT, prefix="gone", on_wait=said.append)
        assert await channel.request(api.ReadStats(), timeout_ms=300) == MOVING
        await channel.close()
    assert said == ["waiting for shards that no node has at this moment"]


async def test_a_submission_without_a_name_is_not_sent_again(nats_server: LocalNats) -> None:
    async with edge(nats_server, "told", lambda _: MOVING) as heard:
        channel = NatsChannel(nats_server.url, limits=IMPATIENT, prefix="told")
        submit = SubmitTasks("default", [Template("h")], [TaskSpec(0, b"\x80")])
        assert await channel.request(submit, timeout_ms=20_000) == MOVING
        await channel.close()
    assert len(heard) == 1


async def test_a_copy_that_may_have_been_taken_leaves_the_outcome_open(nats_server: LocalNats) -> None:
    """The first is not answered in time, and what the second is refused for says nothing about the first."""
    answers = iter([None, Refusal("unavailable", "the database is read-only", 5)])
    channel = NatsChannel(nats_server.url, limits=replace(IMPATIENT, first_try_ms=100), prefix="open")
    async with edge(nats_server, "open", lambda _: next(answers, Refusal("unavailable", "the database is read-only", 5))):
        submit = SubmitTasks("default", [Template("h")], [TaskSpec(0, b"\x80")], "r")
        with pytest.raises(UnsettledError, match="its outcome is unknown; a repetition was refused: the database is read-"):
            await channel.request(submit, timeout_ms=600)
        await channel.close()


async def test_who_waits_for_a_node_hears_it_and_at_the_end_what_is_missing(nats_server: LocalNats) -> None:
    said: list[str] = []
    channel = NatsChannel(nats_server.url, limits=IMPATIENT, prefix="empty", on_wait=said.append)
    for _ in range(2):
        with pytest.raises(NoNodeError, match="the NATS server is there, and nobody answers; start one with 'foliot node'"):
            await channel.request(api.Hello(), timeout_ms=200)
    await channel.close()
    assert said == [f"waiting for a node at {nats_server.url}"]


async def test_a_server_without_jetstream_is_named_as_the_reason() -> None:
    async with LocalNats(jetstream=False) as nats:
        channel = NatsChannel(nats.url, limits=IMPATIENT)
        with pytest.raises(NoNodeError, match=r"the NATS server has no JetStream, .* \(nats-server -js\)"):
            await channel.request(api.Hello(), timeout_ms=100)
        await channel.close()


async def test_one_way_says_what_the_broker_lacks(nats_server: LocalNats) -> None:
    client = Client(channel=NatsChannel(nats_server.url, prefix="nothing"), timeout="1500ms")
    with pytest.raises(NoInboxError, match="no node has ever begun there, or JetStream is off; start one"):
        await client.submit_one_way("shop.greet", name="Ada")
    await client.close()


TENANTS = """
authorization { users = [
  { user: operator, password: o },
  { user: acme, password: a, permissions: { publish: ["foliot.v1.acme.>"], subscribe: ["_INBOX.acme.>"] } }
] }
"""


async def test_a_tenants_user_is_told_what_is_for_operators_only() -> None:
    async with LocalNats(config=TENANTS) as nats:
        client = Client(nats.url.replace("//", "//acme:a@"), tenant="acme", timeout=5)
        for ask in (client.stats, client.queues, client.workers, client.tenants, client.members, client.verify):
            with pytest.raises(OperatorsOnlyError, match="is of tenant 'acme' only; expected the broker's user 'operator'"):
                await ask()
        await client.close()


async def test_a_tenants_user_counts_its_own_tasks_and_waits_for_them(postgres_dsn: str) -> None:
    async with LocalNats(config=TENANTS) as nats:
        node = ClusterNode(NodeOptions(nats.url.replace("//", "//operator:o@"), postgres_dsn, "n1", slots=4))
        client = Client(nats.url.replace("//", "//acme:a@"), tenant="acme", timeout=10)
        async with living(node):
            await Client(channel=node.gateway).submit("any.thing", delay="1h")  # another tenant's
            await client.wait_until_idle(timeout=20)
            await client.submit("any.thing", delay="1h", queue="slow")
            assert [(at.queue, at.waiting, at.running) for at in await client.tallies()] == [("slow", 1, 0)]
            with pytest.raises(NotIdleError):
                await client.wait_until_idle(timeout="10ms")
            with pytest.raises(OperatorsOnlyError):
                await client.wait_until_idle(timeout=1, all_tenants=True)
            await client.close()


# -- the command line ----------------------------------------------------------------------------------------------------


async def run(nats: LocalNats, *words: str) -> tuple[int, str, str]:
    """Return a command's exit code, output and errors."""
    logging = structlog.get_config()
    try:
        result = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--socket", nats.url])
    finally:
        structlog.configure(**logging)
    return result.exit_code, result.stdout, result.stderr


async def test_status_shows_the_members_also_where_shards_do_not_answer() -> None:
    def answer(request: Any) -> Any:
        match request:
            case api.ListMembers():
                return MEMBERS
            case api.Hello():
                return api.Welcome(1, "test", 2, 0, 0, [])
            case _:
                return MOVING

    async with LocalNats() as nats, edge(nats, "foliot", answer):
        code, shown, said = await run(nats, "cluster", "status")
        assert (code, shown.splitlines()[1:]) == (
            0,
            [
                "n1    up     1       0",
                "1 of 1 node up; 2 shards, 1 of them without a node",
                "tasks and workers cannot be counted now: not all shards answer, or the database is away",
            ],
        )
        assert said == "foliot: waiting for shards that no node has at this moment\n"
        code, shown, _ = await run(nats, "cluster", "status", "--json")
        found = json.loads(shown)
        assert (code, found["up"], found["shards_without_node"], found["waiting"]) == (0, 1, [1], None)


async def test_a_handler_nobody_told_of_is_said_at_once_and_its_task_is_accepted_all_the_same() -> None:
    known = api.HandlerView(Template("shop.greet"), 5)

    def answer(request: Any) -> Any:
        match request:
            case api.Hello():
                return api.Welcome(1, "test", 2, 0, 0, [known])
            case _:
                return TasksSubmitted([7])

    async with LocalNats() as nats, edge(nats, "foliot", answer):
        code, shown, said = await run(nats, "submit", "shop.gret", "-p", "name=Ada")
        assert (code, len(shown.strip())) == (0, 13)
        assert said.startswith("foliot: no worker has told of a handler 'shop.gret'; did you mean shop.greet?")
        assert (await run(nats, "submit", "shop.greet", "-p", "name=Ada"))[2] == ""
