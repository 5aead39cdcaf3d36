"""`foliot up --cluster` as a person uses it, who follows the manual."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from foliot import Client
from foliot.sdk.cluster.children import AGAIN

from .waiting import GENEROUS_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
MANUAL = HERE.parents[1] / "docs" / "protocol.md"
FOLIOT = (sys.executable, "-c", "from foliot.sdk.cli import main; main()")
APP = """
from foliot import Foliot

app = Foliot("shop")


@app.task
async def greet(name: str) -> str:
    return f"hello {name}"
"""


@dataclass
class Up:
    """A running `foliot up`. `said`: where its standard error goes."""

    process: asyncio.subprocess.Process
    address: str
    printed: list[str]
    said: Path

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "FOLIOT_ADDRESS": self.address}

    async def run(self, *command: str) -> tuple[str, str]:
        """Return what a program prints, to both streams."""
        process = await asyncio.create_subprocess_exec(
            *command, env=self.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(GENEROUS_S):
            out, err = await process.communicate()
        return out.decode(), err.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "shop.py").write_text(APP)
    with open(folder / "log", "wb") as said:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            *FOLIOT, "up", "--cluster", "1", "--workers", "1", "--app", "shop:app", "--processes", "0",
            cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=said, env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip
    assert process.stdout is not None
    printed: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not printed or "export FOLIOT_ADDRESS=" not in printed[-1]:
                line = await process.stdout.readline()
                assert line, (folder / "log").read_text()
                printed.append(line.decode())
            printed.append((await process.stdout.readline()).decode())
        yield Up(process, printed[-2].partition("=")[2].strip(), printed, folder / "log")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def example() -> str:
    """Return the first program of the protocol's manual."""
    found = re.search(r"```bash\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


async def test_it_counts_in_words_and_says_how_to_get_events(up: Up) -> None:
    assert up.printed[0] == "ready: 1 node, 1 worker. In other terminals:\n"
    assert up.printed[-1] == "it tells no events; for 'foliot events' start it with --events\n"
    _, said = await up.run(*FOLIOT, "events")
    assert "or all of it with 'foliot up --cluster N --events'" in said


async def test_the_manuals_program_in_bash_submits_a_task_as_it_stands(up: Up) -> None:
    out, err = await up.run("bash", "-c", example())
    assert err == ""
    async with Client(up.address) as client:
        assert await client.task(json.loads(out)["tasks"][0]["id"]).result(GENEROUS_S) == "hello Ada"


async def test_a_drained_node_stays_away_until_it_is_called_back_and_the_log_says_how(up: Up) -> None:
    out, _ = await up.run(*FOLIOT, "cluster", "drain", "node-1")
    assert "node-1 hands over its shards and ends" in out

    async def told() -> bool:
        return f"kill -{AGAIN.name[3:]} {up.process.pid}" in up.said.read_text()

    await until(told)
    out, _ = await up.run("bash", "-c", example())
    assert "NATS/1.0 503" in out, "the server says itself that no node is there"

    up.process.send_signal(AGAIN)
    async with Client(up.address, timeout=GENEROUS_S) as client:
        task = await client.submit("shop.greet", name="again")
        assert await task.result(GENEROUS_S) == "hello again"


async def test_logs_name_who_says_it_and_tell_of_shards_in_one_line(up: Up) -> None:
    async def told() -> list[str]:
        return [line for line in up.said.read_text().splitlines() if "shards_hosted" in line]

    lines = await until(told)
    assert "node=node-1" in lines[0]
    assert "hosted=64" in lines[0]
    assert "shard_claimed" not in up.said.read_text()
