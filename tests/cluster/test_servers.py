"""The local servers: they start as any user, survive mistreatment with their data, and outlive nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import nats
import pytest
from foliot.sdk.cluster.local import LocalCluster, LocalOptions
from foliot.sdk.server_process import ServerFailedError, free_port
from foliot.sdk.servers import LocalNats, LocalPostgres

DIES = """
import asyncio, os
from foliot.sdk.servers import LocalNats

async def main():
    server = LocalNats()
    await server.start()
    print(server.pid, flush=True)
    server.stop_process()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_nats_server_keeps_its_streams_over_kill_and_restart() -> None:
    async with LocalNats(password="secret") as server:
        folder, port = server.folder, server.port
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.jetstream().publish("kept", b"1")
        await client.close()

        server.kill()
        assert not server.is_running
        await server.start()

        client = await nats.connect(server.url)
        assert server.port == port
        assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
        await client.close()
    assert not folder.exists()


async def test_a_database_keeps_its_rows_over_kill_stop_and_restart() -> None:
    async with LocalPostgres() as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create table kept (number int)")
        await connection.execute("insert into kept values (1)")

        server.stop_process()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.fetchval("select 1"), 0.3)
        server.resume()
        connection.terminate()
        server.kill()
        await server.restart()

        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("select number from kept") == 1
        assert await connection.fetchval("show fsync") == "on"
        await connection.close()


async def test_databases_of_one_server_are_apart(postgres_server: LocalPostgres, postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("create table mine (number int)")
    await connection.close()

    connection = await asyncpg.connect(await postgres_server.database("test_other"))
    assert await connection.fetchval("select to_regclass('mine')") is None
    await connection.close()


async def test_no_server_outlives_a_starter_that_is_killed_even_while_it_is_held_still() -> None:
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DIES], stdout=subprocess.PIPE, text=True, check=False, timeout=30
    )
    assert child.returncode == -signal.SIGKILL
    pid = int(child.stdout)

    for _ in range(500):
        if not is_alive(pid):
            break
        await asyncio.sleep(0.02)
    assert not is_alive(pid)


async def test_a_server_that_cannot_start_says_why() -> None:
    port = free_port()
    async with LocalNats(port=port):
        with pytest.raises(ServerFailedError, match="address already in use"):
            await LocalNats(port=port).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's database runs as somebody else")
def test_root_is_told_of_a_folder_its_database_cannot_reach(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ServerFailedError, match="closed to others"):
        asyncio.run(LocalPostgres(tmp_path / "data").start())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's database runs as somebody else")
async def test_root_is_told_of_programs_its_database_cannot_reach_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, folders = tmp_path / "closed" / "bin", tmp_path / "folders"
    programs.parent.mkdir(mode=0o700)
    programs.symlink_to(LocalPostgres(tmp_path / "unused")._bin())
    folders.mkdir()
    for folder in (programs.parent, tmp_path):
        folder.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    monkeypatch.setattr(LocalPostgres, "_bin", lambda self: programs)
    starts: list[object] = []
    monkeypatch.setattr(LocalNats, "start", lambda self: starts.append(self))

    expected = "cannot run as root, and user '.*' is closed to others; put the Python environment where that user can read"
    with pytest.raises(ServerFailedError, match=expected):
        async with LocalCluster(LocalOptions()):
            pass
    with pytest.raises(ServerFailedError, match=expected):
        async with LocalPostgres():
            pass

    assert not starts
    assert not list(folders.iterdir())


def test_a_user_without_a_name_is_told_that_a_database_needs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)

    with pytest.raises(ServerFailedError, match=r"cannot run as user 54321, who has no name .*; name the user in /etc"):
        LocalPostgres(tmp_path).check()


async def test_a_cluster_whose_database_does_not_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fail(self: LocalPostgres) -> None:
        raise ServerFailedError(self.kind, str(self.folder), "does not start")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(LocalPostgres, "start", fail)
    cluster = LocalCluster(LocalOptions())
    with pytest.raises(ServerFailedError, match="does not start"):
        async with cluster:
            pass

    assert not cluster.nats.is_running
    assert not os.listdir(tmp_path)


async def test_a_server_waits_for_the_one_before_it_in_its_folder_to_end() -> None:
    async with LocalPostgres() as earlier, asyncio.timeout(60):
        later = LocalPostgres(earlier.folder)
        starting = asyncio.create_task(later.start())
        await asyncio.sleep(1)
        await earlier.stop()
        await starting
        assert later.is_running
        await later.close()
