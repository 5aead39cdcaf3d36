"""The cluster that is mistreated: three NATS servers, a PostgreSQL server, nodes and workers, each a process of its own, and
each node and worker with ways of its own to the servers, which can be cut off.

Nodes and workers are kept as a service manager would keep them: one that ended without being asked to is noted and started
again; one that was taken down stays down until it is brought up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import FoliotError
from foliot.runtime.rng import Rng
from foliot.sdk.cluster.assembly import Assembly
from foliot.sdk.cluster.children import Child, ChildFailedError
from foliot.sdk.server_process import ServerFailedError, ServerProcess, free_port
from foliot.sdk.servers import LocalNats, LocalPostgres
from foliot.transports.nats.config import NatsConfig
from foliot.transports.nats.link import NatsLink

from ..proxy import Proxy
from .app import WITNESS_VARIABLE

NODES: Final = 3
WORKERS: Final = 4
BROKERS: Final = 3
SLOTS: Final = 64
_LOOK_S: Final = 0.1
_AGAIN_S: Final = 0.5
_READY_S: Final = 60.0


class Kept:
    """One node or worker, kept up while it is wanted. `ways`: to the servers, by kind. `alone`: how often it ended without
    having been asked to; `silences_ns`: until when it could not say what it had done before, since it was dead, held
    still or cut off."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: dict[str, str], log: Path, ways: Mapping[str, Sequence[Proxy]]
    ) -> None:
        self.name = name
        self._arguments = [*arguments, "--name", name]
        self._env = env
        self._log = log
        self._ways = ways
        self._child: Child | None = None
        self._is_wanted = True
        self._is_draining = False
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.alone: list[str] = []
        self.silences_ns: list[int] = []

    def begin(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _keep(self) -> None:
        while True:
            while not self._is_wanted:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            child = self._child = Child(self.name, self._arguments, env=self._env, restart=False, log=self._log)
            await child.start()
            try:
                await child.wait_ready()
            except ChildFailedError as error:
                if self._is_wanted:
                    self.alone.append(str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            self._ready.set()
            while child.is_running:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            self._ready.clear()
            if not self._is_draining:
                self.silences_ns.append(now_ns())
            if self._is_wanted:
                self.alone.append(f"{self.name} ended by itself with {child.codes}")
                await asyncio.sleep(_AGAIN_S)

    async def until_ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), _READY_S)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    # -- mistreatment ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        assert self._child is not None
        self._is_wanted = False
        self._ready.clear()
        self._child.kill()

    def hold(self) -> None:
        assert self._child is not None
        self._child.stop_process()

    def let_go(self) -> None:
        assert self._child is not None
        self._child.resume()
        self.silences_ns.append(now_ns())

    async def drain(self) -> None:
        """Have it end in order, and wait until it has."""
        assert self._child is not None
        self._is_wanted, self._is_draining = False, True
        self._child.terminate()
        while self._child.is_running:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        self._ready.clear()

    def bring_up(self) -> None:
        self._is_wanted, self._is_draining = True, False

    def cut_off(self, server: str) -> None:
        """From now on nothing gets to the servers of a kind, or comes from them; its connections look open."""
        for way in self._ways[server]:
            way.stall()

    def join(self, *, anew: bool = False) -> None:
        """Undo `cut_off`: what waited gets through late, or, `anew`, is lost with its connections."""
        self.silences_ns.append(now_ns())
        for way in (way for ways in self._ways.values() for way in ways):
            if anew:
                way.cut()
            way.go_on()

    async def end(self) -> None:
        self._is_wanted = False
        if self._child is not None:
            await self._child.stop(20)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])


class Place(Assembly):
    """All of it, as an async context manager. `folder`: empty, and reachable for the user that runs PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.witness = folder / "witness"
        self.log = folder / "members.log"
        ports = [free_port() for _ in range(2 * BROKERS)]
        own, routes = ports[:BROKERS], ports[BROKERS:]
        around = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.brokers = [
            LocalNats(
                folder / f"nats-{number + 1}", port=own[number],
                config=(
                    f'cluster {{ name: chaos, listen: "127.0.0.1:{routes[number]}", routes: [{around}],'
                    " no_advertise: true }"  # else members learn of ways that cannot be cut off
                ),
            )
            for number in range(BROKERS)
        ]  # fmt: skip
        self.postgres = LocalPostgres(folder / "postgresql")
        self.nodes: list[Kept] = []
        self.workers: list[Kept] = []

    @property
    def address(self) -> str:
        return ",".join(broker.url for broker in self.brokers)

    @property
    def members(self) -> list[Kept]:
        return [*self.nodes, *self.workers]

    @property
    def alone(self) -> list[str]:
        """What ended without having been asked to."""
        return [text for member in self.members for text in member.alone]

    async def _start(self) -> None:
        await asyncio.gather(*[self._stack.enter_async_context(server) for server in (*self.brokers, self.postgres)])
        await self._broker_elected()
        worker = [
            "worker", "--app", "foliot.tests.chaos.app:app", "--processes", "0", "--concurrency", "200", "--heartbeat", "3s",
            "--drain-grace", "5s",
        ]  # fmt: skip
        node = ["node", "--slots", str(SLOTS), "--events"]
        self.nodes += [await self._member(f"n{n + 1}", node) for n in range(NODES)]
        self.workers += [await self._member(f"w{n + 1}", worker) for n in range(WORKERS)]
        self._stack.push_async_callback(self._end_all)
        for member in self.members:
            member.begin()
        await self.all_up()

    async def _member(self, name: str, arguments: Sequence[str]) -> Kept:
        """Return a node or worker with ways of its own."""
        dsn = urlsplit(self.postgres.dsn)
        enter = self._stack.enter_async_context
        nats = [await enter(Proxy(broker.host, broker.port)) for broker in self.brokers]
        postgres = await enter(Proxy(self.postgres.host, self.postgres.port))
        env = {
            "FOLIOT_NATS": ",".join(f"nats://127.0.0.1:{way.port}" for way in nats),
            "FOLIOT_POSTGRES": dsn._replace(netloc=f"{dsn.username}:{dsn.password}@127.0.0.1:{postgres.port}").geturl(),
            WITNESS_VARIABLE: str(self.witness),
        }  # fmt: skip
        return Kept(name, arguments, env, self.log, {"nats": nats, "postgres": [postgres]})

    async def _broker_elected(self) -> None:
        """Wait until the servers agreed on who decides about streams."""
        async with asyncio.timeout(_READY_S):
            link = await NatsLink.open(
                NatsConfig(self.address, name="chaos"), clock=SystemClock(), rng=Rng.of_the_system()
            )  # fmt: skip
            try:
                while True:
                    try:
                        await link.api("STREAM.NAMES", {}, timeout_ms=1_000)
                    except FoliotError:
                        await asyncio.sleep(_LOOK_S)
                    else:
                        return
            finally:
                await link.close()

    async def all_up(self) -> None:
        """Bring up what is down, let go what is held, and wait until all of it answers."""
        for server in (*self.brokers, self.postgres):
            if not server.is_running:
                await self._started(server)
            else:
                server.resume()
        for member in self.members:
            member.bring_up()
        await asyncio.gather(*[member.until_ready() for member in self.members])

    async def _started(self, server: ServerProcess) -> None:
        """A server that was killed may need a moment until its port is free."""
        for _ in range(10):
            try:
                await server.start()
            except ServerFailedError:
                await asyncio.sleep(1)
            else:
                return
        await server.start()

    async def _end_all(self) -> None:
        await asyncio.gather(*[member.end() for member in self.members])


def now_ns() -> int:
    """On the clock the witness uses."""
    return time.time_ns()


def reachable(folder: Path) -> Path:
    """Let another user through, as whom root's PostgreSQL runs."""
    os.chmod(folder, 0o711)
    return folder
