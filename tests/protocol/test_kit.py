"""The conformance kit: clients and workers in other languages, against a real node on a real NATS server.

A client passes if all operations do in its hands what docs/protocol.md says; a worker passes if it keeps the rules that make
tasks run once: credits, repeated outcomes, sessions that go on at another node. A new language is a program and a parameter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from foliot.actors.addresses import session_address, worker_address
from foliot.actors.messages import SessionEnded, WorkerLeft
from foliot.runtime.bus import Envelope
from foliot.sdk.servers import LocalNats

from .gate import Plain, PlainWorker, PublicGate, echo
from .implementations import Program, install_kit, node_program

DOCS = Path(__file__).resolve().parents[2] / "docs" / "protocol"


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture
async def gate(nats_server: LocalNats, tmp_path: Path) -> AsyncIterator[PublicGate]:
    async with PublicGate(nats_server.url, tmp_path) as gate:
        yield gate


@pytest.fixture
async def plain(gate: PublicGate) -> AsyncIterator[Plain]:
    async with Plain(gate.url) as plain:
        yield plain


def _node_client(form: str) -> Callable[[PublicGate, Path], Program]:
    return lambda gate, kit: Program(str(node_program()), "client.mjs", gate.url, "default", form, folder=kit)


def _bash_client(gate: PublicGate, kit: Path) -> Program:
    host, _, port = gate.url.rpartition("/")[2].partition(":")
    return Program("bash", "client.sh", host, port, "default", folder=kit)


CLIENTS = {"node-msgpack": _node_client("msgpack"), "node-json": _node_client("json"), "bash": _bash_client}


@pytest.fixture(params=CLIENTS)
async def client(gate: PublicGate, kit: Path, request: pytest.FixtureRequest) -> AsyncIterator[Program]:
    async with CLIENTS[request.param](gate, kit) as program:
        yield program


@pytest.fixture(params=["msgpack", "json"])
async def worker(gate: PublicGate, kit: Path, request: pytest.FixtureRequest) -> AsyncIterator[Program]:
    command = (str(node_program()), "worker.mjs", gate.url, "default", request.param, "2", "default")
    async with Program(*command, folder=kit) as program:
        program.session = (await program.read())["session"]  # type: ignore[attr-defined]
        yield program


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_a_client_does_all_a_client_can_do(client: Program, plain: Plain) -> None:
    worker = PlainWorker(plain, echo)
    await worker.register()
    assert (await client.ask("ping"))["version"] == 1

    payload: dict[str, Any] = {
        "text": "grüße – ✓", "numbers": [0, -1, 1.5, 9_007_199_254_740_991], "none": None, "nested": {"a": [{}]},
    }  # fmt: skip
    tasks = [
        {"handler": "echo", "payload": payload, "dedupe_key": "one"},
        {"handler": "no name!"},
        {"handler": "echo", "payload": {"later": True}, "delay_ms": 3_600_000},
    ]
    submitted = await client.ask("submit", tasks=tasks, request_id="kit-1")
    assert (await client.ask("submit", tasks=tasks, request_id="kit-1"))["tasks"][0]["id"] == submitted["tasks"][0]["id"]
    first, refused, later = submitted["tasks"]
    assert refused["error"]["code"] == "invalid_name"

    assert (await client.ask("wait", ids=[later["id"]], timeout_ms=20)) == {"ended": [], "alive": [later["id"]]}
    ended = await client.ask("wait", ids=[first["id"]], timeout_ms=60_000)
    assert ended["ended"][0] == {"id": first["id"], "state": "completed", "attempt": 1, "result": payload, "error": None}
    found = (await client.ask("get", ids=[first["id"]]))["tasks"][0]
    assert (found["state"], found["payload"], found["dedupe_key"]) == ("completed", payload, "one")
    assert [task["id"] for task in (await client.ask("list", states=["scheduled"]))["tasks"]] == [later["id"]]
    assert (await client.ask("queues"))["queues"][0]["waiting"] == 1
    assert await client.ask("cancel", ids=[later["id"], "0000000000000"]) == {"outcomes": ["cancelled", "not_found"]}
    assert await client.ask("retry", ids=[later["id"]], payload={"now": 1}) == {"outcomes": ["retried"]}
    assert (await client.ask("wait", ids=[later["id"]], timeout_ms=10_000))["ended"][0]["result"] == {"now": 1}

    assert (await client.ask("fly"))["error"]["code"] == "unknown_op"
    assert (await client.ask("get", ids=["x"]))["error"]["code"] == "invalid_id"
    assert (await client.ask("ping", version=9))["error"]["code"] == "version"
    assert await client.end() == 0
    await worker.stop()


async def test_node_reads_the_golden_vectors(kit: Path) -> None:
    command = (str(node_program()), "client.mjs", "-", "-", "msgpack", str(DOCS / "vectors.json"))
    async with Program(*command, folder=kit) as program:
        count = len(json.loads((DOCS / "vectors.json").read_text()))
        assert await program.read() == {"read": count, "wrong": []}


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_a_worker_completes_and_fails_tasks(worker: Program, plain: Plain) -> None:
    payload: dict[str, Any] = {"text": "grüße", "list": [1, 2.5, None, True, {"a": []}]}
    tasks = {
        "echo": await plain.submit("echo", payload),
        "add": await plain.submit("add", {"a": 40, "b": 2}),
        "flaky": await plain.submit("flaky", retry={"base_ms": 1}),
        "fail": await plain.submit("fail"),
        "unknown": await plain.submit("unknown"),
    }
    ends = {name: await plain.end(task) for name, task in tasks.items()}

    assert ends["echo"]["result"] == payload
    assert ends["add"]["result"] == 42
    assert (ends["flaky"]["result"], ends["flaky"]["attempt"]) == (2, 2)
    assert (ends["fail"]["state"], ends["fail"]["error"]["type"], ends["fail"]["attempt"]) == ("dead", "TypeError", 1)
    assert ends["unknown"]["error"]["message"] == "no handler unknown"


async def test_a_worker_never_runs_more_than_its_slots(worker: Program, plain: Plain) -> None:
    tasks = [await plain.submit("sleep", {"ms": 30}) for _ in range(12)]
    most = 0
    for task in tasks:
        while not (await plain.ask("wait", ids=[task], timeout_ms=5))["ended"]:
            most = max(most, (await plain.ask("queues"))["queues"][0]["running"])

    assert 1 <= most <= 2
    ended = (await plain.ask("wait", ids=tasks, timeout_ms=30_000))["ended"]
    assert [end["result"] for end in ended] == ["slept"] * 12


async def test_a_worker_stops_what_is_cancelled(worker: Program, plain: Plain) -> None:
    task = await plain.submit("sleep", {"ms": 600_000})
    await _begun(worker, task)

    assert (await plain.ask("cancel", ids=[task]))["outcomes"] == ["cancelling"]

    assert (await plain.end(task))["state"] == "cancelled"


async def test_a_worker_whose_node_is_killed_goes_on_at_another(gate: PublicGate, worker: Program, plain: Plain) -> None:
    task = await plain.submit("sleep", {"ms": 400})
    await _begun(worker, task)
    other = await gate.listen()
    await gate.links[0][1].close()  # as a crash: no word to anybody

    end = await plain.end(task)

    assert (end["result"], end["attempt"]) == ("slept", 1)
    assert list(other.workers.sessions) == [worker.session]  # type: ignore[attr-defined]
    assert (await plain.end(await plain.submit("add", {"a": 1, "b": 1})))["result"] == 2


async def test_a_worker_whose_node_stops_goes_on_at_another(gate: PublicGate, worker: Program, plain: Plain) -> None:
    task = await plain.submit("sleep", {"ms": 300})
    await _begun(worker, task)
    await gate.listen()
    await gate.listener.close()

    end = await plain.end(task)

    assert (end["result"], end["attempt"]) == ("slept", 1)


async def test_a_worker_whose_session_was_ended_begins_another(gate: PublicGate, worker: Program, plain: Plain) -> None:
    session: str = worker.session  # type: ignore[attr-defined]
    gate.node.bus.send(Envelope(worker_address(session), WorkerLeft(session)))
    gate.node.bus.send(Envelope(session_address(session), SessionEnded(session, "left")))

    assert (await plain.end(await plain.submit("add", {"a": 1, "b": 2})))["result"] == 3
    assert worker.session not in gate.listener.workers.sessions  # type: ignore[attr-defined]


async def test_a_body_that_comes_twice_is_run_once(gate: PublicGate, worker: Program, plain: Plain) -> None:
    bodies = f"foliot.v1.default.bodies.{worker.session}"  # type: ignore[attr-defined]
    pushed: asyncio.Queue[bytes] = asyncio.Queue()
    subscription = await plain.connection.subscribe(bodies, cb=_keeping(pushed))
    await plain.connection.flush()
    task = await plain.submit("sleep", {"ms": 200})
    await _begun(worker, task)
    await plain.connection.publish(bodies, await pushed.get())
    await subscription.unsubscribe()

    assert (await plain.end(task))["attempt"] == 1
    await plain.end(await plain.submit("add", {"a": 1, "b": 2}))
    assert gate.listener.refused == {}


async def test_a_worker_that_goes_gives_back_what_it_holds(gate: PublicGate, worker: Program, plain: Plain) -> None:
    task = await plain.submit("sleep", {"ms": 600_000})
    await _begun(worker, task)

    assert await worker.end() == 0

    info = (await plain.ask("get", ids=[task]))["tasks"][0]
    assert info["state"] == "queued"
    assert info["attempts"][0]["outcome"] == "interrupted"
    assert gate.listener.workers.sessions == {}


async def _begun(worker: Program, task: str) -> None:
    """Wait until the worker runs a task: a lease is there before its body is."""
    while await worker.read() != {"begun": task}:
        pass


def _keeping(pushed: asyncio.Queue[bytes]) -> Any:
    async def keep(message: Any) -> None:
        pushed.put_nowait(message.data)

    return keep
