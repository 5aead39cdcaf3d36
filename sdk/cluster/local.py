"""A whole cluster on one machine: a NATS server, a PostgreSQL server, nodes and workers, each a process of its own.

For a laptop, benchmarks and tests. All of it ends with this process, in order where there is time: workers finish what
they run, nodes hand over, then the servers stop. With a folder of its own the cluster goes on where it stopped, at the
same ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ...runtime.errors import FoliotError, UsageError
from ...runtime.rng import Rng
from ..client import Client
from ..server_process import free_port
from ..servers import LocalNats, LocalPostgres
from .assembly import Assembly
from .children import Child

log = structlog.get_logger("foliot")

_MARGIN_S: Final = 15.0  # beyond a worker's own grace
_NODE_STOP_S: Final = 20.0
_READY_S: Final = 60.0
_LOOK_S: Final = 0.02


@dataclass(frozen=True)
class LocalOptions:
    """`data`: the folder of everything; None: one that is deleted at the end. `worker_arguments`, `node_arguments`: further
    words of `foliot worker` and `foliot node`. `env`: further variables of theirs. `restart`: start children again that die,
    and with `restart_drained` those too that were drained. `log`: a file for what they log, instead of this process's
    standard error."""

    nodes: int = 2
    workers: int = 2
    data: Path | str | None = None
    slots: int = 64
    worker_arguments: Sequence[str] = ()
    node_arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    restart_drained: bool = True
    drain_grace_ms: int = 30_000
    log: Path | str | None = None


class FolderError(UsageError):
    """A folder that cannot hold a cluster."""

    code = "folder"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r} cannot be used: {reason}; expected a folder of an earlier cluster, or a new one")
        self.path = path


class _Kept(msgspec.Struct):
    """What stays the same over restarts, in `cluster.json`."""

    nats_port: int
    postgres_port: int
    password: str


class LocalCluster(Assembly):
    """The cluster, as an async context manager.

        async with LocalCluster(LocalOptions(nodes=2, workers=2, worker_arguments=["--app", "shop:app"])) as cluster:
            async with Client(cluster.address) as client: ...

    Raises on entering: FolderError, ServerMissingError, ServerFailedError, ChildFailedError, TimeoutError.
    """

    def __init__(self, options: LocalOptions) -> None:
        super().__init__()
        self.options = options
        self.nodes: list[Child] = []
        self.workers: list[Child] = []
        folder = None if options.data is None else Path(options.data)
        kept = _kept_in(folder)
        self.postgres = LocalPostgres(  # the first, since it may refuse before a folder is made
            None if folder is None else folder / "postgresql", port=kept.postgres_port if folder is not None else 0
        )
        self.nats = LocalNats(
            None if folder is None else folder / "nats", port=kept.nats_port if folder is not None else 0,
            password=kept.password,
        )  # fmt: skip

    @property
    def address(self) -> str:
        """What clients give, with the password."""
        return self.nats.url

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of this cluster need; passed so that no password shows among the processes' arguments."""
        own = {"FOLIOT_NATS": self.nats.url, "FOLIOT_POSTGRES": self.postgres.dsn, "FOLIOT_ADDRESS": self.address}
        return {**self.options.env, **own}

    @property
    def full_environment(self) -> dict[str, str]:
        """The same with this process's own variables: for commands that are started beside it."""
        return {**os.environ, **self.environment}

    async def _start(self) -> None:
        servers = (self.nats, self.postgres)
        for server in servers:
            self._stack.push_async_callback(server.close)
        await asyncio.to_thread(self.postgres.check)
        # All are waited for, also when one fails: none must still be starting when they are closed.
        for failure in await asyncio.gather(*[server.start() for server in servers], return_exceptions=True):
            if failure is not None:
                raise failure
        self._stack.push_async_callback(self._stop_all, self.nodes, _NODE_STOP_S)
        self._stack.push_async_callback(self._stop_all, self.workers, self.options.drain_grace_ms / 1000 + _MARGIN_S)
        for _ in range(self.options.nodes):
            await self.add_node()
        for _ in range(self.options.workers):
            await self.add_worker()
        async with asyncio.timeout(_READY_S):
            for child in (*self.nodes, *self.workers):
                await child.wait_ready()

    async def add_node(self) -> Child:
        """Start another node. Returns before it is ready."""
        name = f"node-{len(self.nodes) + 1}"
        arguments = ["node", "--name", name, "--slots", str(self.options.slots), *self.options.node_arguments]
        return await self._add(self.nodes, name, arguments)

    async def add_worker(self) -> Child:
        """Start another worker. Returns before it is ready."""
        name = f"worker-{len(self.workers) + 1}"
        grace = ["--drain-grace", f"{self.options.drain_grace_ms}ms"]
        arguments = ["worker", "--name", name, *grace, *self.options.worker_arguments]
        return await self._add(self.workers, name, arguments)

    async def _add(self, children: list[Child], name: str, arguments: Sequence[str]) -> Child:
        options = self.options
        child = Child(
            name, arguments, env=self.environment, restart=options.restart, restart_drained=options.restart_drained,
            log=options.log,
        )  # fmt: skip
        children.append(child)
        await child.start()
        return child

    def begin_again(self) -> None:
        """Start what was drained."""
        for child in (*self.nodes, *self.workers):
            child.begin_again()

    async def _stop_all(self, children: Sequence[Child], grace_s: float) -> None:
        await asyncio.gather(*[child.stop(grace_s) for child in children])


async def whole(client: Client, slots: int, *, within_s: float = _READY_S) -> None:
    """Wait until every shard has a node that answers. Raises: TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(FoliotError):
                members = (await client.members()).members
                if sorted(shard for node in members for shard in node.shards) == list(range(slots)):
                    return
            await asyncio.sleep(_LOOK_S)


def _kept_in(folder: Path | None) -> _Kept:
    """Return what a folder's cluster is known by, made at the first time."""
    path = None if folder is None else folder / "cluster.json"
    try:
        if path is not None and path.exists():
            return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(str(path), str(error)) from error
    kept = _Kept(free_port(), free_port(), f"{Rng.of_the_system().bits(128):032x}")
    if path is not None:
        fresh = path.with_suffix(".new")  # whole, or not there: this process may be killed at any moment
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_bytes(msgspec.json.encode(kept))
            fresh.replace(path)
        except OSError as error:
            raise FolderError(str(path), str(error)) from error
    return kept
