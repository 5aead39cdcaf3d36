"""The client of a generated run that submits one-way: each entry is handed to the broker until it has it.

Each entry's payload is marked, so that an observer can tell which tasks it became. A hand-over that is not confirmed is
tried again under the same request id, as clients do; what is then still not confirmed may be accepted or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from ..actors.messages import Kind, SubmitTasks, TaskSpec
from ..actors.table import template_id_of
from ..runtime.errors import FoliotError
from ..sdk.client_spec import Spec
from ..transports.nats.mail import MailSender
from .broker_history import Posted
from .case import Submit
from .history import Submitted
from .jetstream import SimJetStream
from .process import Process
from .programs import mail_config

_TRIES: Final = 12
_AGAIN_S: Final = 1.0
_TASKS: Final = 4  # of an entry


class Poster:
    """One client process's one-way submissions."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        config = mail_config(process.world.options)
        self._sender = MailSender(SimJetStream(process), config=config, rng=process.rng.stream("mail"))
        self._rng = process.rng.stream("mail/requests")
        self._open: dict[str, Callable[[], None]] = {}  # by request id: says that its outcome is unknown

    async def post(self, entry: Submit, specs: list[Spec]) -> None:
        """Hand over specs, a few to an entry, one entry after the other."""
        for start in range(0, len(specs), _TASKS):
            await self._post(entry, specs[start : start + _TASKS], f"{entry.ref}/{start}/{self._process.boot}")

    async def _post(self, entry: Submit, specs: list[Spec], mark: str) -> None:
        arguments = msgspec.msgpack.decode(specs[0].payload)
        payload = msgspec.msgpack.encode({**arguments, "filler": arguments["filler"] + mark.encode()})
        request_id = f"{self._rng.bits(64):016x}"
        tasks = [TaskSpec(0, payload, spec.due_ms, spec.priority, spec.key) for spec in specs]
        message = SubmitTasks(entry.tenant, [specs[0].template], tasks, request_id)
        kind = Kind(entry.tenant, template_id_of(entry.tenant, specs[0].template), specs[0].template)
        asked_ns = self._world.loop.now_ns

        def tell(outcome: str, position: int) -> None:
            del self._open[request_id]
            process, count, now_ns = self._process, len(tasks), self._world.loop.now_ns
            self._world.count(f"post.{outcome}")
            process.note("posted", ref=entry.ref, outcome=outcome, position=position)
            self._world.observe(Posted(now_ns, process.name, payload, count, outcome, position))
            self._world.observe(
                Submitted(
                    now_ns, asked_ns, process.name, entry.tenant, "unknown", [kind] * count, tasks, [0] * count,
                    [False] * count,
                )
            )  # fmt: skip

        self._open[request_id] = lambda: tell("unknown", 0)
        for _ in range(_TRIES):
            try:
                [position] = await self._sender.send(message)
            except FoliotError as error:
                self._process.note("post_failed", ref=entry.ref, code=error.code)
                await asyncio.sleep(_AGAIN_S)
            else:
                tell("stored", position)
                return
        tell("unknown", 0)

    def give_up(self) -> None:
        """The process has died: nobody will hear what became of its entries."""
        for tell_unknown in list(self._open.values()):
            tell_unknown()
