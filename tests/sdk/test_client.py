"""The client against a whole node, in process and over the real socket: what users write and what they get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from foliot import Client, Foliot, Options, SyncClient, TaskCancelledError, UsageError
from foliot.actors.messages import SubmitTasks, TaskRefusal, TasksSubmitted, Template
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError, FoliotError, UnavailableError
from foliot.runtime.rng import Rng
from foliot.sdk.client_spec import Spec, assemble
from foliot.sdk.client_submit import BulkResult, Submitter
from foliot.sdk.errors import (
    AddressError,
    BulkStoppedError,
    DuplicateTaskError,
    InvalidRequestError,
    NotIdleError,
    OverloadedError,
    PastDueError,
    QuotaExceededError,
    RateLimitedError,
    ResultTimeoutError,
    TaskFailedError,
    TaskNotFoundError,
    UnknownTaskError,
    error_of,
)
from foliot.sdk.payload import PayloadError
from foliot.sdk.sync import NotOpenError
from foliot.transports.local import LocalServer, NotRunningError

from ..transports.edge import EdgeNode

app = Foliot("t")


@app.task(name="ok", max_attempts=7, priority="high")
async def ok(n: int = 0, queue: str = "") -> dict[str, Any]:
    """Its worker answers the arguments; `queue` is also an option's name."""
    return {}


@app.task(name="hold", key="n")
async def hold(n: int = 0) -> None:
    """Its worker never ends it."""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EdgeNode]:
    async with EdgeNode(tmp_path / "foliot.db") as node:
        yield node


@pytest.fixture(params=["in process", "socket"])
async def client(node: EdgeNode, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    if request.param == "in process":
        async with Client(channel=node.gateway, tenant="acme") as client:
            yield client
        return
    async with LocalServer(node.gateway, str(tmp_path / "s")):
        async with Client(str(tmp_path / "s"), tenant="acme") as client:
            yield client


# -- one task ----------------------------------------------------------------------------------------------------------


async def test_a_task_goes_in_and_its_result_comes_out(client: Client, node: EdgeNode) -> None:
    node.start_worker()

    task = await client.submit(ok, 5)

    assert await task.result(timeout=5) == {"n": 5}
    info = await task.info()
    assert (info.state, info.max_attempts, info.priority) == ("completed", 7, 2)
    assert (info.payload, info.result, info.id) == ({"n": 5}, {"n": 5}, task.id)
    assert len(task.id) == 13
    assert await client.task(task.id).status() == "completed"


async def test_options_change_the_task_and_parameters_of_the_handler_stay_arguments(client: Client) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)

    task = await client.submit(ok, n=1, queue="an argument", priority="low", delay="10m", key="k", max_attempts=2)
    named = await client.submit("other.handler", x=1, queue="mail", at=at, timeout=timedelta(seconds=3))
    apart = await client.submit_with(ok, {"queue": "argument"}, Options(queue="mail", dedupe_key="d"))

    info = await task.info()
    assert (info.payload, info.queue) == ({"n": 1, "queue": "an argument"}, "default")
    assert (info.state, info.priority, info.max_attempts, info.key) == ("scheduled", 8, 2, "k")
    assert info.due_at is not None
    assert timedelta(minutes=9) < info.due_at - datetime.now(UTC) <= timedelta(minutes=10)
    info = await named.info()
    assert (info.handler, info.payload, info.queue, info.max_attempts) == ("other.handler", {"x": 1}, "mail", 3)
    assert info.due_at is not None
    assert abs(info.due_at - at) < timedelta(milliseconds=2)
    info = await apart.info()
    assert (info.payload, info.queue, info.dedupe_key) == ({"queue": "argument"}, "mail", "d")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": "-1s"}, "is negative"),
        ({"delay": "1s", "at": datetime(2100, 1, 1, tzinfo=UTC)}, "not both"),
        ({"delay": float("nan")}, "not a finite number"),
        ({"at": datetime(9999, 1, 1, tzinfo=UTC)}, "100 years"),
        ({"at": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"at": datetime(2020, 1, 1, tzinfo=UTC), "past": "refuse"}, "expected a moment to come"),
        ({"past": "perhaps"}, "'run' or 'refuse'"),
        ({"priority": 10}, "a number from 0 to 9"),
        ({"priority": "urgent"}, "critical, high"),
        ({"max_attempts": 0}, "from 1"),
        ({"on_conflict": "explode"}, "return_existing or reject or replace"),
        ({"dedupe_key": "a\nb"}, "printable"),
        ({"m": 1}, "'m' is unknown"),
        ({"n": "text"}, "'n' got str"),
    ],
)
async def test_a_wrong_call_is_refused_with_what_was_expected(client: Client, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        await client.submit(ok, **options)

    assert (await client.page()).tasks == []


async def test_a_handler_named_by_text_brings_its_own_options(tmp_path: Path) -> None:
    known = {"ok": (ok.template, ok.default_priority)}
    async with EdgeNode(tmp_path / "foliot.db", handlers=lambda: known) as node:
        client = Client(channel=node.gateway, tenant="acme")
        info = await (await client.submit("ok", n=1)).info()
        spec = client.spec("ok", n=1, max_attempts=2)
        with pytest.raises(UnknownTaskError, match="handler 'okay' is unknown, expected one of ok"):
            await client.submit("okay", n=1)

    assert (info.max_attempts, info.priority) == (7, 2)
    assert (spec.template.max_attempts, spec.priority) == (2, 2)


async def test_calls_of_wrong_types_are_refused_and_leave_nothing_behind(client: Client) -> None:
    """In process as over the socket: a setting that cannot be read back would keep the database from being opened."""
    queue, number, text = "q", 1.5, "\udcff"
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.limit_queue(queue, max_waiting=number),  # type: ignore[arg-type]
        lambda: client.configure_tenant(concurrency=number),  # type: ignore[arg-type]
        lambda: client.pause_queue(queue, why=text),
        lambda: client.pause_queue(queue, by=5),  # type: ignore[arg-type]
        lambda: client.pause_queue(5),  # type: ignore[arg-type]
        lambda: client.get(1 << 70),
        lambda: client.cancel(10**5_000),
        lambda: client.page(limit=1 << 70),
        lambda: client.page(handler=text),
        lambda: client.page(states=[5]),  # type: ignore[list-item]
        lambda: client.logs(1, attempt=1 << 63),
        lambda: client.retry(1, payload={"n": object()}),
        lambda: client.submit(5),  # type: ignore[call-overload]
        lambda: client.submit(lambda: 1),  # type: ignore[call-overload]
        *[partial(client.submit, ok, **{name: []}) for name in ("on_conflict", "max_attempts", "timeout")],
    ]
    for call in calls:
        with pytest.raises(UsageError):
            await call()
    assert await client.queues() == []
    assert await client.tenants() == []


async def test_large_payloads_of_one_moment_travel_apart(client: Client) -> None:
    tasks = await asyncio.gather(*[client.submit("ok", n="x" * 1_000_000) for _ in range(70)])
    assert len({task.id for task in tasks}) == 70


async def test_what_is_due_in_the_past_runs_at_once_by_default(client: Client, node: EdgeNode) -> None:
    node.start_worker()

    task = await client.submit(ok, at=datetime(2020, 1, 1, tzinfo=UTC))

    assert await task.result(5) == {}


async def test_a_handlers_key_is_taken_from_its_arguments(client: Client) -> None:
    assert (await (await client.submit(hold, 42)).info()).key == "42"


async def test_positional_arguments_need_a_handler(client: Client) -> None:
    with pytest.raises(PayloadError, match="arguments by name"):
        await client.submit("ok", 1)


async def test_the_same_dedupe_key_finds_the_earlier_task(client: Client) -> None:
    first = await client.submit(ok, dedupe_key="d")
    again = await client.submit(ok, dedupe_key="d")

    with pytest.raises(DuplicateTaskError, match=first.id) as raised:
        await client.submit(ok, dedupe_key="d", on_conflict="reject")

    assert (first.existing, again.existing) == (False, True)
    assert again.id == first.id == raised.value.existing_id


async def test_calls_made_together_travel_together_and_fail_apart(node: EdgeNode) -> None:
    messages: list[SubmitTasks] = []

    class Counting:
        may_repeat = False

        async def request(self, message: Any, *, timeout_ms: int) -> Any:
            if isinstance(message, SubmitTasks):
                messages.append(message)
            return await node.gateway.request(message, timeout_ms=timeout_ms)

        async def close(self) -> None:
            pass

    client = Client(channel=Counting(), tenant="acme")

    good = await asyncio.gather(*[client.submit(ok, n) for n in range(64)])
    assert len(messages) == 1
    bad = client.submit_spec(Spec(Template("ok", cost=0), b"\xc0"))
    results = await asyncio.gather(*[client.submit(ok, n) for n in range(9)], bad, return_exceptions=True)

    assert len({task.id for task in good}) == 64
    assert [type(result).__name__ for result in results] == ["Task"] * 9 + ["InvalidRequestError"]
    await client.close()


# -- how it ends -------------------------------------------------------------------------------------------------------


async def test_a_failed_task_raises_what_its_handler_raised(client: Client, node: EdgeNode) -> None:
    node.start_worker()

    with pytest.raises(TaskFailedError, match="is a dead letter after 1 attempt: ValueError: no good") as raised:
        await (await client.submit("fail")).result(5)

    assert (raised.value.error_type, raised.value.traceback, raised.value.state) == ("ValueError", "line 1", "dead")


async def test_a_cancelled_task_raises_what_its_handler_sees(client: Client) -> None:
    task = await client.submit(ok, delay="1h")

    assert await task.cancel("no longer wanted") == "cancelled"
    assert await task.cancel() == "ended"
    with pytest.raises(TaskCancelledError):
        await task.result(5)
    assert await client.wait(task) == "cancelled"


async def test_a_result_that_does_not_come_ends_with_its_timeout(client: Client) -> None:
    task = await client.submit(ok, delay="1h")

    with pytest.raises(ResultTimeoutError, match="is not over after 20 ms"):
        await task.result(timeout=0.02)


async def test_what_is_not_there_is_named(client: Client) -> None:
    missing = "0" * 12 + "1"
    for look in (client.get, client.why, client.cancel, client.retry, client.purge, client.result):
        with pytest.raises(TaskNotFoundError, match=missing):
            await look(missing)
    with pytest.raises(UsageError, match="is not an id"):
        await client.get("what?")


async def test_hundreds_may_wait_for_results_at_once(client: Client, node: EdgeNode) -> None:
    tasks = await asyncio.gather(*[client.submit(ok, n) for n in range(400)])
    waiting = [asyncio.ensure_future(task.result(20)) for task in tasks]
    never = asyncio.ensure_future(client.result((await client.submit(ok, delay="1h")).id, timeout=0.05))
    await asyncio.sleep(0.01)

    node.start_worker()

    assert await asyncio.gather(*waiting) == [{"n": n} for n in range(400)]
    with pytest.raises(ResultTimeoutError):
        await never


async def test_ended_tasks_are_retried_with_new_arguments_and_purged(client: Client, node: EdgeNode) -> None:
    worker = node.start_worker()
    task = await client.submit(ok, n=1)
    dead = await client.submit("fail", n=1)
    await task.result(5)
    await client.wait(dead, 5)

    assert await client.retry(dead, payload={"n": 2}) == "retried"
    await client.wait(dead, 5)
    assert await client.purge(dead) == "purged"

    assert [body.payload[-1] for body in worker.ran if body.id == dead.number] == [1, 2]
    with pytest.raises(TaskNotFoundError):
        await dead.info()


# -- very many ---------------------------------------------------------------------------------------------------------


async def test_a_bulk_submission_streams_and_says_what_became_of_all(client: Client) -> None:
    taken: list[int] = []
    ahead: list[int] = []

    def specs() -> Iterator[Spec]:
        for n in range(3_000):
            ahead.append(n)
            yield client.spec(ok, n=n, dedupe_key="same" if n % 1_000 == 999 else None)

    def progress(count: int) -> None:
        taken.append(count)
        assert len(ahead) - count <= 100 * 5

    result = await client.submit_many(specs(), progress=progress, ids=True, batch=100, in_flight=4)

    assert (result.submitted, result.accepted, result.existing, result.refused_count) == (3_000, 2_998, 2, 0)
    assert taken[-1] == 3_000
    assert taken == sorted(taken)
    assert result.ids[999] == result.ids[1_999] == result.ids[2_999]
    assert len(set(result.ids)) == 2_998
    infos = await client.get_many([result.ids[at] for at in (0, 1, 1_500, 2_998)])
    assert [info.payload["n"] for info in infos] == [0, 1, 1_500, 2_998]


async def test_a_bulk_submission_takes_async_streams_and_refuses_one_by_one(client: Client) -> None:
    async def specs() -> AsyncIterator[Spec]:
        for n in range(20):
            yield Spec(Template("ok"), b"x" * (1 << 20) + b"x") if n % 7 == 3 else client.spec(ok, n=n)

    result = await client.submit_many(specs(), ids=True)

    assert [(refusal.position, refusal.code) for refusal in result.refused] == [(3, "too_large"), (10, "too_large"),
                                                                                (17, "too_large")]  # fmt: skip
    assert [at for at, task_id in enumerate(result.ids) if not task_id] == [3, 10, 17]
    assert (result.accepted, result.refused_count) == (17, 3)


class Script:
    """A channel that answers submissions as told, and then accepts."""

    may_repeat = True

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.messages: list[SubmitTasks] = []

    async def request(self, message: SubmitTasks, *, timeout_ms: int) -> Any:
        self.messages.append(message)
        answer = self.answers.pop(0) if self.answers else TasksSubmitted(list(range(1, len(message.tasks) + 1)))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass


async def bulk(channel: Script, count: int, *, patience_ms: int = 60_000) -> BulkResult:
    submitter = Submitter(channel, "acme", clock=SystemClock(), rng=Rng(1))
    specs = [Spec(Template("ok"), bytes([n])) for n in range(count)]
    return await submitter.many(specs, progress=None, keep_ids=True, batch=100, in_flight=2, patience_ms=patience_ms)


async def test_a_bulk_submission_repeats_what_was_not_taken_under_the_same_request_id() -> None:
    channel = Script(
        Refusal("overloaded", "full", 1),
        UnavailableError("gone", retry_after_ms=1),
        TasksSubmitted([1, 0, 0], [], [TaskRefusal(1, "overloaded", "f"), TaskRefusal(2, "duplicate", "d", 9)]),
    )

    result = await bulk(channel, 3)

    assert [[task.payload[0] for task in message.tasks] for message in channel.messages] == [[0, 1, 2]] * 3 + [[1]]
    assert len({message.request_id for message in channel.messages}) == 1
    assert channel.messages[0].request_id
    assert (result.accepted, result.refused_count, result.ids) == (2, 1, [1, 1, 0])
    assert result.refused == [TaskRefusal(2, "duplicate", "d", 9)]


async def test_a_bulk_submission_whose_batch_is_wrong_refuses_it_and_goes_on() -> None:
    result = await bulk(Script(Refusal("invalid_name", "bad")), 150)

    assert (result.accepted, result.refused_count) == (50, 100)
    assert result.ids == [0] * 100 + list(range(1, 51))


@pytest.mark.parametrize("error", [NotRunningError("s"), DeadlineError("SubmitTasks", 5)])
async def test_a_bulk_submission_that_cannot_go_on_says_what_is_safe(error: FoliotError) -> None:
    channel = Script(TasksSubmitted(list(range(100))), error, error)

    with pytest.raises(BulkStoppedError, match="stopped after 100 accepted tasks, 50 unknown") as raised:
        await bulk(channel, 150, patience_ms=-1)

    assert raised.value.cause is error


async def test_an_error_of_the_stream_itself_comes_through() -> None:
    def specs() -> Iterator[Spec]:
        yield Spec(Template("ok"), b"")
        raise KeyError("the user's own")

    submitter = Submitter(Script(), "acme", clock=SystemClock(), rng=Rng(1))

    with pytest.raises(KeyError, match="the user's own"):
        await submitter.many(specs(), progress=None, keep_ids=False, batch=1, in_flight=1, patience_ms=1)


def test_templates_travel_once_a_batch() -> None:
    a, b = Template("a"), Template("b")

    templates, tasks, _ = assemble([Spec(t, b"", priority=at) for at, t in enumerate([a, a, b, a, b])])

    assert templates == [a, b]
    assert [(task.template, task.priority) for task in tasks] == [(0, 0), (0, 1), (1, 2), (0, 3), (1, 4)]


# -- looking and steering ----------------------------------------------------------------------------------------------


async def test_lists_filter_and_page(client: Client, node: EdgeNode) -> None:
    node.start_worker()
    ids = [(await client.submit(ok, n)).id for n in range(5)]
    await client.submit("later", delay="1h")
    for task_id in ids:
        await client.wait(task_id, 5)

    done = [info.id async for info in client.list(states=["completed"])]
    page = await client.page(states=["completed"], limit=2)

    assert done == sorted(ids, reverse=True)
    assert [info.id for info in page.tasks] == done[:2]
    assert [info.id async for info in client.list(states=["completed"], before=page.next_before)] == done[2:]
    assert [info.handler async for info in client.list(handler="later")] == ["later"]
    assert len([info async for info in client.list(limit=3)]) == 3
    with pytest.raises(UsageError, match="expected scheduled, queued"):
        await client.page(states=["sleeping"])


async def test_queues_and_tenants_are_steered(client: Client, node: EdgeNode) -> None:
    node.start_worker()
    await client.pause_queue("default", by="ann", why="lunch")
    task = await client.submit(ok)
    why = await task.why()
    assert (why.state, why.reason) == ("queued", "queue_paused")
    assert "lunch" in why.text

    await client.resume_queue("default")
    await task.result(5)
    assert (await client.limit_queue("default", concurrency=3, ageing="5s")).ageing_ms == 5_000
    config = await client.configure_tenant(rate="100/min", max_pending=5)
    assert (config.rate, config.rate_per_ms, config.max_pending) == (100, 60_000, 5)
    assert (await client.configure_tenant(rate="none")).rate == 0

    (queue,) = await client.queues()
    assert (queue.config.concurrency, queue.config.paused, queue.sessions) == (3, False, 1)
    assert [view.config.max_pending for view in await client.tenants()] == [5]
    assert [read.heartbeat.worker for read in await client.workers()] == ["echo-1"]


async def test_waiting_until_idle_waits_for_all_and_says_what_is_left(client: Client, node: EdgeNode) -> None:
    await client.submit_many(client.spec(ok, n=n) for n in range(50))
    with pytest.raises(NotIdleError, match="50 tasks wait and 0 run"):
        await client.wait_until_idle(timeout=0)

    node.start_worker()

    await client.wait_until_idle(timeout=10)
    verified = await client.verify()
    assert verified.balanced
    assert [(line.accepted, line.completed) for line in verified.lines] == [(50, 50)]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal("overloaded", "t", 200), OverloadedError),
        (Refusal("rate_limited", "t", 200), RateLimitedError),
        (Refusal("quota_exceeded", "t"), QuotaExceededError),
        (Refusal("disk_full", "t", 2_000), UnavailableError),
        (Refusal("invalid_name", "t"), InvalidRequestError),
        (Refusal("internal", "t"), FoliotError),
    ],
)
def test_a_refusal_becomes_the_error_of_its_code(refusal: Refusal, kind: type[FoliotError]) -> None:
    error = error_of(refusal)

    assert isinstance(error, kind)
    assert str(error) == "t"
    if isinstance(error, UnavailableError) and refusal.retry_after_ms >= 0:
        assert error.retry_after_ms == refusal.retry_after_ms


def test_a_moment_that_passed_names_how_late() -> None:
    assert str(PastDueError(40)) == "the task was due 40 ms ago, expected a moment to come (or past='run')"


# -- coming and going --------------------------------------------------------------------------------------------------


async def test_entering_without_a_scheduler_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLIOT_ADDRESS", str(tmp_path / "named-by-the-environment"))

    with pytest.raises(NotRunningError, match=r"named-by-the-environment.*foliot up --app"):
        async with Client():
            pass
    with pytest.raises(UsageError, match="expected the path of a scheduler's socket"):
        Client("http://localhost")


async def test_submissions_survive_a_restart_of_the_socket_and_are_there_once(node: EdgeNode, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = LocalServer(node.gateway, path)
    await server.start()
    async with Client(path, tenant="acme") as client:
        bulk_ = asyncio.ensure_future(client.submit_many((client.spec(ok, n=n) for n in range(5_000)), batch=50))
        for _ in range(3):
            await asyncio.sleep(0.02)
            await server.close()
            server = LocalServer(node.gateway, path)
            await server.start()
        result = await bulk_
        verified = await client.verify()
    await server.close()

    assert result.accepted == 5_000
    assert verified.differences == []
    assert [line.accepted for line in verified.lines] == [5_000]


async def test_the_sync_client_does_the_same_from_plain_code(node: EdgeNode, tmp_path: Path) -> None:
    node.start_worker()

    def plain_code() -> None:
        with SyncClient(str(tmp_path / "s"), tenant="acme") as client:
            task = client.submit(ok, 7)
            assert task.result(5) == {"n": 7}
            assert client.get(task).state == task.status() == "completed"
            result = client.submit_many(client.spec(ok, n=n) for n in range(300))
            assert result.accepted == 300
            client.wait_until_idle(10)
            assert len(list(client.list(states=["completed"]))) == 301
            assert client.verify().balanced
            with pytest.raises(TaskNotFoundError):
                client.get("0" * 13)
        with pytest.raises(NotOpenError):
            client.stats()

    async with LocalServer(node.gateway, str(tmp_path / "s")):
        await asyncio.to_thread(plain_code)


def test_the_sync_client_leaves_nothing_behind_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError):
        SyncClient(str(tmp_path / "none")).__enter__()


@pytest.mark.parametrize("address", ["127.0.0.1:4222", "broker-1:4222", "user:secret@broker.example:4222", "[::1]:4222"])
def test_an_address_of_a_host_is_no_socket_and_the_fix_is_named(address: str) -> None:
    with pytest.raises(AddressError) as found:
        Client(address)
    server = address.rpartition("@")[2]
    assert str(found.value) == (
        f"cannot connect to {server!r}, expected the path of a scheduler's socket, or nats://host:port: "
        f"for a cluster write nats://{server}, for a socket of that name ./{server}"
    )


def test_a_socket_may_have_a_colon_in_its_path() -> None:
    Client("./host:4222")
    Client("/run/foliot:1")
    with pytest.raises(AddressError, match="cannot connect to 'http://host:1', expected the path"):
        Client("http://user:secret@host:1")
