"""`kill -9` of the whole embedded scheduler, again and again, while it works: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import embedded_shop as shop
from foliot import Client
from foliot.runtime.errors import UnavailableError

TASKS = 3_000
KILLS = 4


async def start(database: Path) -> asyncio.subprocess.Process:
    script = str(Path(shop.__file__))
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, str(database), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while (line := await process.stdout.readline()) != b"ready\n":
            assert line, "the scheduler ended before it was ready"
    return process


async def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    moments = random.Random(4)
    database = tmp_path / "shop.db"
    process = await start(database)
    acknowledged: dict[int, str] = {}
    try:
        async with Client(f"{database}.sock", timeout="60s") as client:

            async def submit() -> None:
                for number in range(0, TASKS, 100):
                    while True:
                        try:
                            tasks = await asyncio.gather(
                                *[
                                    client.submit(shop.double, n, dedupe_key=f"n-{n}" if n % 4 == 0 else None)
                                    for n in range(number, number + 100)
                                ]
                            )
                        except UnavailableError:
                            await asyncio.sleep(0.05)
                            continue
                        acknowledged.update((n, task.id) for n, task in enumerate(tasks, start=number))
                        break

            submitting = asyncio.create_task(submit())
            for _ in range(KILLS):
                await asyncio.sleep(0.05 + moments.random() * 0.5)
                process.send_signal(signal.SIGKILL)
                await process.wait()
                process = await start(database)
            await submitting
            await client.wait_until_idle(timeout=60)
            assert len(acknowledged) == TASKS
            for number, task_id in acknowledged.items():
                assert await client.task(task_id).result(timeout=20) == number * 2
            verdict = await client.verify()
            assert verdict.balanced, verdict.differences
            kept = [task_id for number, task_id in acknowledged.items() if number % 4 == 0]
            assert len(set(kept)) == len(kept) == TASKS // 4
    finally:
        process.kill()
        await process.wait()
