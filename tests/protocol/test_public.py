"""The public protocol, asked by a client that knows only docs/protocol.md: nats-py, msgpack and JSON, nothing of Foliot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from foliot.actors.messages import SubmitTasks, TaskSpec, Template
from foliot.sdk.servers import LocalNats
from foliot.transports.nats.listener import ListenerLimits
from foliot.transports.nats.worker_gate_session import GateLimits

from .gate import Plain, PlainWorker, PublicGate, echo, hold


@pytest.fixture
async def gate(nats_server: LocalNats, tmp_path: Path) -> AsyncIterator[PublicGate]:
    async with PublicGate(nats_server.url, tmp_path) as gate:
        yield gate


@pytest.fixture(params=["msgpack", "json"])
async def client(gate: PublicGate, request: pytest.FixtureRequest) -> AsyncIterator[Plain]:
    async with Plain(gate.url, form=request.param) as client:
        yield client


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_ping_tells_who_listens(client: Plain) -> None:
    pong = await client.ask("ping")

    assert (pong["version"], pong["product"], pong["shards"], pong["max_payload"]) == (1, "test", 2, 1_048_576)


async def test_a_task_goes_from_submission_to_its_result(client: Plain) -> None:
    worker = PlainWorker(client, echo)
    await worker.register()
    payload = {"text": "grüße", "list": [1, -2.5, None, True], "nested": {"deep": [[]]}, "big": 9_007_199_254_740_991}

    task = await client.submit("echo", payload, key="k", priority=2)
    end = await client.end(task)

    assert end == {"id": task, "state": "completed", "attempt": 1, "result": payload, "error": None}
    info = (await client.ask("get", ids=[task]))["tasks"][0]
    assert info["payload"] == payload
    assert info["result"] == payload
    assert (info["handler"], info["queue"], info["pool"], info["key"], info["priority"]) == (
        "echo", "default", "default", "k", 2,
    )  # fmt: skip
    ran = worker.ran[0]
    assert (ran["id"], ran["attempt"], ran["handler"], ran["payload"]) == (task, 1, "echo", payload)
    await worker.stop()


async def test_the_reply_is_in_the_requests_format_and_a_header_wins(gate: PublicGate) -> None:
    async with Plain(gate.url) as client:
        as_json = await client.raw("foliot.v1.default.ping", b" {}")
        as_msgpack = await client.raw("foliot.v1.default.ping", b"\x80")
        empty = await client.raw("foliot.v1.default.ping", b"")
        told = await client.raw("foliot.v1.default.ping", b"\x80", headers={"content-type": "application/msgpack"})
        wrong = await client.raw("foliot.v1.default.ping", b"{}", headers={"Content-Type": "application/msgpack"})
        other = await client.raw("foliot.v1.default.ping", b"{}", headers={"Content-Type": "text/html"})

    assert json.loads(as_json)["version"] == 1
    assert msgpack.unpackb(as_msgpack)["version"] == 1
    assert json.loads(empty)["version"] == 1
    assert msgpack.unpackb(told)["version"] == 1
    assert msgpack.unpackb(wrong)["error"]["code"] == "malformed"
    text = "Content-Type is 'text/html', expected application/msgpack or application/json"
    assert json.loads(other)["error"]["text"] == text


@pytest.mark.parametrize(
    ("op", "fields", "code", "text"),
    [
        ("nothing", {}, "unknown_op", "there is no operation 'nothing', expected one of ping, submit, "),
        ("worker.nothing", {}, "unknown_op", "there is no operation 'worker.nothing'"),
        ("submit", {"version": 2}, "malformed", "Object missing required field `tasks`"),
        ("ping", {"version": 2}, "version", "version 2 of the protocol, expected 1"),
        ("submit", {"tasks": []}, "invalid_option", "tasks is 'empty', expected at least one task"),
        ("submit", {"tasks": [{"handler": 1}]}, "malformed", "Expected `str`, got `int` - at `$.tasks[0].handler`"),
        ("get", {"ids": ["x"]}, "invalid_id", "'x' is not an id"),
        ("list", {"states": ["asleep"]}, "invalid_option", "states is 'asleep'"),
        ("list", {"limit": 5_000}, "invalid_option", "limit is '5000'"),
        ("cancel", {"ids": ["0" * 13] * 1_001}, "too_large", "the number of ids is 1001, expected at most 1000"),
        ("wait", {"ids": [], "timeout_ms": -1}, "malformed", "Expected `int` >= 0 - at `$.timeout_ms`"),
    ],
)
async def test_what_is_wrong_is_said(client: Plain, op: str, fields: dict[str, Any], code: str, text: str) -> None:
    error = (await client.ask(op, **fields))["error"]

    assert error["code"] == code
    assert text in error["text"]
    assert error["retry_after_ms"] == -1


async def test_unknown_fields_are_ignored(client: Plain) -> None:
    answer = await client.ask("submit", tasks=[{"handler": "echo", "colour": "red"}], mood="fine")

    assert len(answer["tasks"][0]["id"]) == 13


async def test_tasks_of_a_batch_are_refused_one_by_one(client: Plain) -> None:
    tasks = [
        {"handler": "echo"},
        {"handler": "no name!"},
        {"handler": "echo", "max_attempts": 0},
        {"handler": "echo", "dedupe_key": "d"},
        {"handler": "echo", "dedupe_key": "d"},
        {"handler": "echo", "dedupe_key": "d", "on_conflict": "reject"},
        {"handler": "echo", "due_ms": 5, "delay_ms": 5},
        {"handler": "echo", "priority": 12},
    ]

    answers = (await client.ask("submit", tasks=tasks))["tasks"]

    codes = [(answer["error"] or {}).get("code", "") for answer in answers]
    assert codes == ["", "invalid_name", "invalid_option", "", "", "duplicate", "invalid_option", "invalid_option"]
    assert (answers[4]["id"], answers[4]["existing"]) == (answers[3]["id"], True)
    assert answers[5]["error"]["details"] == {"existing_id": answers[3]["id"]}


async def test_a_repeated_request_adds_nothing_and_belongs_to_its_tenant(gate: PublicGate, client: Plain) -> None:
    ask = {"tasks": [{"handler": "echo"}], "request_id": "r1"}
    first, again = await client.ask("submit", **ask), await client.ask("submit", **ask)
    async with Plain(gate.url, tenant="other") as stranger:
        other = await stranger.ask("submit", **ask)

    assert not first["repeated"]
    assert again == {**first, "repeated": True}
    assert other["tasks"][0]["id"] != first["tasks"][0]["id"]


async def test_tasks_are_listed_cancelled_retried_and_counted(client: Plain) -> None:
    ids = [await client.submit("echo", {"n": n}, delay_ms=3_600_000) for n in range(3)]

    first = await client.ask("list", limit=2)
    second = await client.ask("list", limit=2, before=first["next_before"])
    assert [task["id"] for task in first["tasks"] + second["tasks"]] == ids[::-1]
    assert first["tasks"][0]["state"] == "scheduled"
    assert first["tasks"][0]["payload"] is None
    assert second["next_before"] == ""

    nobody = "0" * 13
    assert (await client.ask("cancel", ids=[ids[0], nobody]))["outcomes"] == ["cancelled", "not_found"]
    assert (await client.ask("retry", ids=[ids[0]], payload={"n": "new"}))["outcomes"] == ["retried"]
    assert (await client.ask("get", ids=[ids[0], nobody]))["tasks"][0]["payload"] == {"n": "new"}
    assert (await client.ask("cancel", ids=ids[1:]))["outcomes"] == ["cancelled"] * 2
    waited = await client.ask("wait", ids=[*ids, nobody], timeout_ms=50)
    assert waited["alive"] == [ids[0]]
    assert [(end["id"], end["state"]) for end in waited["ended"]] == [
        (ids[1], "cancelled"), (ids[2], "cancelled"), (nobody, "not_found"),
    ]  # fmt: skip
    queues = (await client.ask("queues"))["queues"]
    assert queues == [{"queue": "default", "accepted": 3, "waiting": 1, "running": 0, "paused_in": []}]
    assert [task["id"] for task in (await client.ask("list", states=["cancelled"]))["tasks"]] == ids[:0:-1]


async def test_a_tenant_sees_its_own_tasks_only(gate: PublicGate, client: Plain) -> None:
    task = await client.submit("echo", delay_ms=3_600_000)
    async with Plain(gate.url, tenant="other") as stranger:
        assert (await stranger.ask("get", ids=[task]))["tasks"] == []
        assert (await stranger.ask("list"))["tasks"] == []
        assert (await stranger.ask("cancel", ids=[task]))["outcomes"] == ["not_found"]
        assert (await stranger.ask("wait", ids=[task], timeout_ms=10))["ended"][0]["state"] == "not_found"
        assert (await stranger.ask("queues"))["queues"] == []


async def test_documents_of_one_format_are_read_in_the_other(gate: PublicGate) -> None:
    async with Plain(gate.url) as packed, Plain(gate.url, form="json") as typed:
        document = {"bytes": b"\x00\xff", 7: "a number", "time": msgpack.Timestamp(0, 0), "ext": msgpack.ExtType(5, b"x")}
        first = await packed.submit("echo", document, delay_ms=3_600_000)
        second = await typed.submit("echo", {"a": [1, 2.5, "x", None]}, delay_ms=3_600_000)
        as_json = (await typed.ask("get", ids=[first]))["tasks"][0]["payload"]
        as_msgpack = (await packed.ask("get", ids=[second]))["tasks"][0]["payload"]
        spec = TaskSpec(0, b"\xc1 no document", due_ms=gate.node.clock.now_ms() + 3_600_000)
        raw = await gate.node.ask(SubmitTasks("default", [Template("echo")], [spec]))
        third = (await packed.ask("list", limit=1))["tasks"][0]["id"]
        shown = [(await client.ask("get", ids=[third]))["tasks"][0]["payload"] for client in (packed, typed)]

    assert as_json == {
        "bytes": "AP8=", "7": "a number", "time": "1970-01-01T00:00:00+00:00", "ext": {"ext": 5, "data": "eA=="},
    }  # fmt: skip
    assert as_msgpack == {"a": [1, 2.5, "x", None]}
    assert raw.ids[0]
    assert shown == [b"\xc1 no document", "wSBubyBkb2N1bWVudA=="]


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_outcomes_of_every_kind_do_what_they_say(client: Plain) -> None:
    async def act(task: dict[str, Any]) -> dict[str, Any]:
        return dict(task["payload"])

    worker = PlainWorker(client, act)
    await worker.register()
    error = {"type": "ValueError", "message": "no good", "traceback": "line 1"}
    fails = await client.submit("act", {"outcome": "failed", "error": error, "fatal": True})
    late = await client.submit("act", {"outcome": "timed_out"}, max_attempts=1)
    done = await client.submit("act", {"outcome": "completed"})

    assert (await client.end(fails))["error"] == error
    assert (await client.end(late))["state"] == "dead"
    assert (await client.end(done))["result"] is None
    await worker.stop()


async def test_a_failed_attempt_is_tried_again_by_policy(client: Plain) -> None:
    async def second_time(task: dict[str, Any]) -> dict[str, Any]:
        return {"outcome": "completed" if task["attempt"] == 2 else "failed", "result": task["attempt"]}

    worker = PlainWorker(client, second_time)
    await worker.register()
    task = await client.submit("try", retry={"base_ms": 1, "jitter": False})

    assert (await client.end(task))["result"] == 2
    assert [ran["attempt"] for ran in worker.ran] == [1, 2]
    assert (await client.ask("get", ids=[task]))["tasks"][0]["attempts"][0]["outcome"] == "failed"
    await worker.stop()


async def test_credits_bound_what_comes(client: Plain) -> None:
    worker = PlainWorker(client, hold, slots=3)
    await worker.register()
    for n in range(5):
        await client.submit("hold", {"n": n})
    await worker.until(lambda: len(worker.ran) == 3)
    await worker.offer()
    await worker.beat()

    waiting = (await client.ask("queues"))["queues"][0]
    assert (waiting["running"], waiting["waiting"]) == (3, 2)
    assert len(worker.ran) == 3
    await worker.stop()


async def test_a_running_task_is_told_to_stop(client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    task = await client.submit("hold")
    await worker.until(lambda: worker.ran)

    assert (await client.ask("cancel", ids=[task]))["outcomes"] == ["cancelling"]

    push = await worker.until(lambda: next((each for each in worker.pushed if each["kind"] == "cancel"), None))
    assert push["attempts"] == [{"id": task, "attempt": 1}]
    assert push["reason"] == "cancelled"
    answer = await worker.call("outcomes", outcomes=[{"id": task, "attempt": 1, "outcome": "cancelled"}])
    assert answer == {"stale": []}
    assert (await client.end(task))["state"] == "cancelled"
    await worker.stop()


async def test_an_outcome_of_somebody_elses_attempt_is_stale(client: Plain) -> None:
    worker = PlainWorker(client, hold)
    thief = PlainWorker(client, hold, queue="other")
    await worker.register()
    await thief.register()
    task = await client.submit("hold")
    await worker.until(lambda: worker.ran)
    mine = {"id": task, "attempt": 1, "outcome": "completed"}
    nobodys = {"id": "7zzzzzzzzzzzz", "attempt": 1, "outcome": "completed"}

    assert await thief.call("outcomes", outcomes=[mine, nobodys]) == {"stale": [0, 1]}
    assert await worker.call("outcomes", outcomes=[mine]) == {"stale": []}
    assert await worker.call("outcomes", outcomes=[mine]) == {"stale": [0]}
    await worker.stop()


async def test_a_worker_that_leaves_gives_its_tasks_back(client: Plain) -> None:
    first, second = PlainWorker(client, hold), PlainWorker(client, echo)
    await first.register()
    task = await client.submit("echo", {"n": 1})
    await first.until(lambda: first.ran)
    await second.register()

    assert await first.call("leave") == {"ok": True}

    assert (await client.end(task))["attempt"] == 2
    assert [ran["id"] for ran in second.ran] == [task]
    assert (await first.beat())["error"]["code"] == "session_unknown"
    await first.stop()
    await second.stop()


async def test_a_session_goes_on_at_another_node_when_its_own_stops(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    task = await client.submit("hold")
    await worker.until(lambda: worker.ran)
    session, before = worker.session, worker.registered["subject"]

    await gate.listen()
    await gate.listener.close()
    await worker.until(lambda: any(push["kind"] == "moved" for push in worker.pushed))
    registered = await worker.register()
    await worker.beat()

    assert registered["session"] == session
    assert registered["subject"] != before
    mine = {"id": task, "attempt": 1, "outcome": "completed", "result": "kept"}
    assert await worker.call("outcomes", outcomes=[mine]) == {"stale": []}
    assert (await client.end(task))["result"] == "kept"
    await worker.stop()


async def test_requests_to_a_node_that_is_gone_are_answered_at_once(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    await gate.listen()
    await gate.listener.close()
    await gate.links[0][1].flush()

    with pytest.raises(Exception, match="no responders"):
        await worker.beat()
    await worker.stop()


async def test_a_session_that_was_ended_says_so(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    session = worker.session
    await worker.call("leave")
    await worker.register()  # by the name of a session that has ended

    push = await worker.until(lambda: next((each for each in worker.pushed if each["kind"] == "ended"), None))
    assert push["reason"] == "left"
    assert session not in gate.listener.workers.sessions
    worker.session = ""
    assert (await worker.register())["session"] != session
    await worker.stop()


async def test_a_worker_serves_its_own_tenants_pool_and_tasks_only(gate: PublicGate, client: Plain) -> None:
    async with Plain(gate.url, tenant="other", form=client.form) as stranger:
        worker = PlainWorker(client, hold)
        await worker.register()
        intruder = PlainWorker(stranger, hold, pool="default")
        refused = await intruder.register()
        foreign = await stranger.submit("hold", pool="default")  # into the pool of the other tenant's workers
        end = await stranger.end(foreign)
        intruder.session = worker.session
        hijacked = await intruder.register()
        subject = worker.registered["subject"].replace("default", "other")
        stolen = await stranger.at(f"{subject}.heartbeat", session=worker.session)

    assert refused["error"]["code"] == "pool_forbidden"
    assert hijacked["error"]["code"] == "pool_forbidden"
    assert stolen["error"]["code"] == "session_unknown"
    assert end["state"] == "dead"
    assert end["error"]["type"] == "ForeignTenantError"
    assert worker.ran == []
    await worker.stop()


async def test_a_session_of_another_tenant_is_not_gone_on_with(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    async with Plain(gate.url, tenant="other") as stranger:
        intruder = PlainWorker(stranger, hold)
        intruder.session = worker.session
        refused = await intruder.register()

    assert refused["error"]["code"] == "session_forbidden"
    await worker.stop()


async def test_bodies_that_no_message_holds_are_reported_as_failed(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    template = Template("hold", pool="default")
    payloads = [msgpack.packb("x" * 1_048_500), b"\xc1", msgpack.packb("y" * 900_000)]
    specs = [TaskSpec(0, payload) for payload in payloads]
    submitted = await gate.node.ask(SubmitTasks("default", [template], specs))
    assert all(submitted.ids)

    dead: list[Any] = []
    async with asyncio.timeout(20):
        while len(dead) < 2:
            dead = (await client.ask("list", states=["dead"]))["tasks"]

    assert sorted([task["error"]["type"] for task in dead]) == ["PayloadError", "PayloadTooLargeError"]
    await worker.until(lambda: worker.ran)
    assert worker.ran[0]["payload"] == "y" * 900_000
    await worker.stop()


async def test_sessions_are_bounded_in_total_and_by_tenant(gate: PublicGate, client: Plain) -> None:
    await gate.listener.close()
    workers = GateLimits(max_sessions=3, max_of_tenant=2)
    await gate.listen(ListenerLimits(workers=workers))
    async with Plain(gate.url, tenant="other") as stranger:
        codes = []
        for who in (client, client, client, stranger, stranger):
            worker = PlainWorker(who, hold)
            codes.append((await worker.register()).get("error", {}).get("code"))

    assert codes == [None, None, "overloaded", None, "overloaded"]


async def test_the_queues_that_a_tenants_workers_may_serve_are_bounded(gate: PublicGate, client: Plain) -> None:
    await gate.listener.close()
    await gate.listen(ListenerLimits(workers=GateLimits(max_queues_of_tenant=2)))
    workers = [PlainWorker(client, hold, queue=queue) for queue in ("one", "two", "two", "three")]
    codes = [(await worker.register()).get("error", {}).get("code") for worker in workers]
    assert codes == [None, None, None, "overloaded"]

    await workers[0].call("leave")
    assert "error" not in await workers[3].register()


async def test_a_silent_worker_is_forgotten_by_its_node(gate: PublicGate, client: Plain) -> None:
    await gate.listener.close()
    listener = await gate.listen(ListenerLimits(workers=GateLimits(silent_ms=1_000, sweep_ms=20)))
    worker = PlainWorker(client, hold)
    await worker.register()
    assert list(listener.workers.sessions) == [worker.session]

    seen = asyncio.Event()
    while listener.workers.sessions:
        asyncio.get_running_loop().call_later(0.01, seen.set)
        await seen.wait()
        seen.clear()

    assert (await worker.beat())["error"]["code"] == "session_unknown"


async def test_a_node_without_room_for_requests_still_hears_its_workers(gate: PublicGate, client: Plain) -> None:
    worker = PlainWorker(client, hold)
    await worker.register()
    gate.listener.limits = ListenerLimits(max_in_flight=0)

    assert (await client.ask("queues"))["error"]["code"] == "overloaded"
    assert await worker.beat() == {"ok": True}
    assert await worker.offer() == {"ok": True}
    assert (await worker.beat(held=[{"id": "no id", "attempt": 1}]))["error"]["code"] == "invalid_id"
    await worker.stop()
