"""The commands of a cluster: a whole one with one command, and one clear line for whatever is wrong around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
import structlog
from click.testing import CliRunner
from foliot import Client
from foliot.sdk.cli import main
from foliot.sdk.servers import LocalNats, LocalPostgres

from .cluster_app import double

HERE = Path(__file__).parent
FOLIOT = (sys.executable, "-c", "from foliot.sdk.cli import main; main()")
ENV = {**os.environ, "PYTHONPATH": str(HERE)}


def said(*words: str) -> tuple[int, str]:
    """Return a command's exit code, and the last line it wrote to standard error."""
    logging = structlog.get_config()
    try:
        result = CliRunner().invoke(main, words)
    finally:
        structlog.configure(**logging)
    lines = result.stderr.strip().splitlines()
    return result.exit_code, lines[-1] if lines else ""


@contextmanager
def running(server: LocalNats) -> Iterator[LocalNats]:
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.close())


@contextmanager
def answering(greeting: bytes) -> Iterator[str]:
    """A server that greets as an old nats-server does."""

    def greet() -> None:
        with contextlib.suppress(OSError):
            peer, _ = server.accept()
            with peer:
                peer.sendall(greeting)
                peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet)
        thread.start()
        yield f"nats://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_a_node_says_in_one_line_what_is_wrong_with_the_broker(postgres_server: LocalPostgres) -> None:
    postgres_dsn = postgres_server.dsn
    with running(LocalNats(password="right", jetstream=False)) as nats:
        wrong = nats.url.replace("right", "wrong")
        code, line = said("node", "--nats", wrong, "--postgres", postgres_dsn)
        assert (code, "refused the login" in line) == (2, True), line

        code, line = said("node", "--nats", nats.url, "--postgres", postgres_dsn)
        assert (code, "offer no JetStream" in line) == (2, True), line

    code, line = said("node", "--nats", "nats://127.0.0.1:1", "--postgres", postgres_dsn)
    assert (code, "no NATS server answers at 127.0.0.1:1" in line) == (3, True), line

    old = b'INFO {"server_id":"X","version":"2.9.10","max_payload":1048576,"jetstream":true}\r\n'
    with answering(old) as url:
        code, line = said("node", "--nats", url, "--postgres", postgres_dsn)
    assert (code, "is version 2.9.10, expected 2.11" in line) == (2, True), line


def test_a_node_says_in_one_line_what_is_wrong_with_the_database(
    nats_server: LocalNats, postgres_server: LocalPostgres
) -> None:
    name = "test_commands"
    postgres_dsn = asyncio.run(postgres_server.database(name))
    execute(postgres_server.dsn, f'alter database "{name}" set default_transaction_read_only = on')
    code, line = said("node", "--nats", nats_server.url, "--postgres", postgres_dsn)
    assert (code, "read-only" in line or "read only" in line) == (3, True), (code, line)

    code, line = said("node", "--nats", nats_server.url, "--postgres", "postgresql://nobody@127.0.0.1:1/none")
    assert (code, "127.0.0.1:1" in line) == (3, True), (code, line)
    assert "work goes on" not in line  # the process has ended

    wrong = re.sub(r"//foliot:\w+@", "//foliot:wrong@", postgres_dsn)
    code, line = said("node", "--nats", nats_server.url, "--postgres", wrong)
    assert code != 0
    assert "password" in line, line


def test_a_worker_without_nodes_waits_as_long_as_it_is_told(nats_server: LocalNats) -> None:
    code, line = said(
        "worker",
        "--app",
        "foliot.tests.cluster.cluster_app:app",
        "--nats",
        nats_server.url,
        "--processes",
        "0",
        "--wait",
        "300ms",
    )
    assert (code, "no foliot node answers" in line) == (3, True), line


def test_words_that_cannot_be_are_wrong_usage() -> None:
    assert (said("node", "--nats", "http://x", "--postgres", "postgresql://x"))[0] == 2
    assert (said("node", "--name", "a.b", "--postgres", "postgresql://x"))[0] == 2
    assert (said("worker"))[0] == 2
    assert (said("up", "--cluster", "0", "--app", "cluster_app:app"))[0] == 2


async def test_up_with_a_cluster_starts_all_prints_its_address_and_leaves_nothing_running() -> None:
    process = await asyncio.create_subprocess_exec(
        *FOLIOT, "up", "--cluster", "1", "--workers", "1", "--app", "cluster_app:app", "--processes", "0",
        stdout=asyncio.subprocess.PIPE, env=ENV,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while b"export FOLIOT_ADDRESS=" not in (line := await process.stdout.readline()):
                assert line, "it ended without an address"
        address = line.decode().partition("=")[2].strip()
        async with Client(address) as client:
            assert await (await client.submit(double, 21)).result(30) == 42
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    host, port = address.rpartition("@")[2].split(":")
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(host, int(port))
