"""The embedded scheduler end to end: real files, real child processes, the public client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import embedded_shop as shop
import pytest
from foliot import Client, Scheduler, TaskCancelledError, TaskFailedError, UsageError
from foliot.runtime.errors import StoreInUseError
from foliot.sdk.app import UnknownTaskError


@pytest.fixture(params=[False, True], ids=["handed over", "encoded"])
async def scheduler(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scheduler]:
    """Once with messages handed over in memory, once with each of them really encoded and decoded."""
    async with Scheduler(
        shop.app, database=str(tmp_path / "shop.db"), encode_messages=request.param, concurrency=64, processes=1
    ) as scheduler:
        yield scheduler


async def state_of(client: Client, task_id: str) -> str:
    return (await client.get(task_id)).state


async def until_running(client: Client, task_id: str) -> None:
    async with asyncio.timeout(20):
        while await state_of(client, task_id) != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def assert_balanced(client: Client) -> None:
    verdict = await client.verify()
    assert verdict.balanced, verdict.differences


async def test_results_come_back(scheduler: Scheduler) -> None:
    client = scheduler.client()
    tasks = [await client.submit(shop.double, number) for number in range(50)]
    assert [await task.result(timeout=20) for task in tasks] == [number * 2 for number in range(50)]
    await assert_balanced(client)


async def test_failures_are_retried_and_end_as_dead_letters_with_their_output(scheduler: Scheduler) -> None:
    client = scheduler.client()
    lucky, later = await client.submit(shop.third_time_lucky), await client.submit(shop.later)
    dead, fatal = await client.submit(shop.never, 7), await client.submit(shop.hopeless)
    assert await lucky.result(timeout=20) == 3
    assert await later.result(timeout=20) == 2
    with pytest.raises(TaskFailedError, match="dead letter after 2 attempts: ValueError: never 7"):
        await dead.result(timeout=20)
    with pytest.raises(TaskFailedError, match="after 1 attempt:"):
        await fatal.result(timeout=20)
    detail = await client.get(dead.id)
    assert [attempt.error.type for attempt in detail.attempts if attempt.error] == ["ValueError", "ValueError"]
    logs = await client.logs(dead.id)
    assert str(logs).count("trying 7") == 2
    await assert_balanced(client)


async def test_a_process_is_killed_at_its_timeout_and_replaced(scheduler: Scheduler) -> None:
    client = scheduler.client()
    hung = await client.submit(shop.hang)
    with pytest.raises(TaskFailedError, match="Timeout"):
        await hung.result(timeout=30)
    assert "hanging" in str(await client.logs(hung.id))
    assert await (await client.submit(shop.square, 7)).result(timeout=30) == 49
    await assert_balanced(client)


async def test_a_running_task_is_cancelled_cooperatively(scheduler: Scheduler) -> None:
    client = scheduler.client()
    task = await client.submit(shop.sleep, 100.0)
    await until_running(client, task.id)
    assert await task.cancel() == "cancelling"
    with pytest.raises(TaskCancelledError):
        await task.result(timeout=20)
    assert await state_of(client, task.id) == "cancelled"
    await assert_balanced(client)


async def test_a_paused_queue_holds_its_tasks_and_says_why(scheduler: Scheduler) -> None:
    client = scheduler.client()
    await client.pause_queue("default", by="ann", why="maintenance")
    task = await client.submit(shop.double, 4)
    why = await client.why(task.id)
    assert why.reason == "queue_paused"
    assert "ann" in why.text
    await client.resume_queue("default")
    assert await task.result(timeout=20) == 8


async def test_a_task_without_a_matching_worker_says_so(scheduler: Scheduler) -> None:
    client = scheduler.client()
    task = await client.submit(shop.on_gpu)
    await (await client.submit(shop.double, 1)).result(timeout=20)  # by then it was looked at
    why = await client.why(task.id)
    assert why.reason == "no_matching_worker"
    assert "gpu" in why.text
    assert await task.cancel() == "cancelled"


async def test_a_key_runs_one_at_a_time_and_holds_nobody_else_up(scheduler: Scheduler) -> None:
    client = scheduler.client()
    blocked = [await client.submit(shop.one_at_a_time, "acme") for _ in range(20)]
    other = await client.submit(shop.double, 3)
    assert await other.result(timeout=20) == 6
    for task in blocked:
        await task.result(timeout=20)
    await assert_balanced(client)


async def test_a_second_scheduler_on_the_file_is_refused_naming_the_first(scheduler: Scheduler) -> None:
    with pytest.raises(StoreInUseError, match=r"in use by process \d+"):
        async with Scheduler(shop.app, database=scheduler.store.path):
            pass


async def test_an_unknown_handler_is_refused_at_submission(scheduler: Scheduler) -> None:
    with pytest.raises(UnknownTaskError, match=r"'shop\.nope' is unknown"):
        await scheduler.client().submit("shop.nope")


async def test_a_payload_that_does_not_fit_is_refused_at_submission_naming_the_field(scheduler: Scheduler) -> None:
    with pytest.raises(UsageError, match=r"payload of 'shop\.double': field 'number'"):
        await scheduler.client().submit("shop.double", number="seven")
    with pytest.raises(UsageError, match="field 'nummer'"):
        await scheduler.client().submit("shop.double", nummer=7)


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Scheduler(shop.app, database=str(tmp_path / "x.db")):
            raise ZeroDivisionError


async def test_leaving_hands_back_what_runs_and_the_next_start_goes_on(tmp_path: Path) -> None:
    database = str(tmp_path / "shop.db")
    async with Scheduler(shop.app, database=database, drain_grace_ms=100) as scheduler:
        client = scheduler.client()
        task = await client.submit(shop.sleep, 1.0)
        scheduled = await client.submit(shop.double, 5, delay="1s")
        await until_running(client, task.id)
    async with Scheduler(shop.app, database=database) as scheduler:
        client = scheduler.client()
        assert await client.task(task.id).result(timeout=20) == "woke"
        assert await client.task(scheduled.id).result(timeout=20) == 10
        detail = await client.get(task.id)
        assert detail.attempt == 2
        assert [attempt.outcome for attempt in detail.attempts] == ["interrupted"]
        await assert_balanced(client)
