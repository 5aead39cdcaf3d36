"""How a simulated cluster stands: read from the store and from what still lives, for the end of a test and for people."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from ..actors.messages import QueueRead, ReadQueue
from ..actors.states import FIRST_FINAL, State
from ..runtime.errors import UnavailableError
from ..runtime.ids import to_text
from ..transports import api
from .bus import SimBus
from .client import SimChannel
from .history import Final as End
from .history import Reason
from .loop import MS
from .process import Process
from .world import World

T = TypeVar("T")
_REASONS_MAX: Final = 50
_ASKED_MAX: Final = 5  # of these, how many the cluster is asked about
_ASK_MS: Final = 8_000
_ALIVE: Final = f"select count(*) from tasks where state < {int(FIRST_FINAL)}"
_STATES: Final = "select state, count(*) from tasks group by state order by state"
_WAITING: Final = f"""
select tasks.id, tenant, handler, state, attempt, due_ms, session from tasks join kinds using (template_id)
where state < {int(FIRST_FINAL)} order by id limit {_REASONS_MAX}
"""


class Survey:
    """Looks at one world. `channel`: how the cluster itself is asked; all of it runs in the test's own lane."""

    def __init__(self, world: World, channel: SimChannel, slots: int) -> None:
        self._world = world
        self._channel = channel
        self._slots = slots

    def alive(self) -> int:
        """Return how many tasks are not over."""
        [count] = self._world.database.connection.execute(_ALIVE).fetchone()
        return int(count)

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in which state."""
        return {State(state).label: count for state, count in self._world.database.connection.execute(_STATES)}

    def state(self, task_id: int) -> str:
        """Return a task's state as the store has it, `not_found` if it is not there."""
        row = self._world.database.connection.execute("select state from tasks where id = ?", (task_id,)).fetchone()
        return State(row[0]).label if row is not None else "not_found"

    def attempt(self, task_id: int) -> int:
        row = self._world.database.connection.execute("select attempt from tasks where id = ?", (task_id,)).fetchone()
        return int(row[0]) if row is not None else 0

    def owners(self) -> dict[int, list[str]]:
        """Return which nodes host each shard."""
        owners: dict[int, list[str]] = {slot: [] for slot in range(self._slots)}
        for process in self._world.running("n"):
            if process.node is not None:
                for slot in sorted(process.node.hosted):
                    owners[slot].append(process.name)
        return owners

    async def queues(self) -> dict[str, tuple[int, int]]:
        """Return what the queue actors believe: (running slots, waiting)."""
        found: dict[str, tuple[int, int]] = {}
        for process in self._world.running("n"):
            node, bus = process.node, process.bus
            if node is None or bus is None:
                continue
            for address in node.addresses("queue"):
                read = await self._in(process, _asked(bus, address))
                if isinstance(read, QueueRead):
                    running, waiting = found.get(address, (0, 0))
                    found[address] = (running + read.running, waiting + sum(read.offered.values()))
        return found

    async def is_whole(self) -> bool:
        """Tell whether every task is over, every shard has one owner, and no queue believes that something runs."""
        if self.alive() or any(len(names) != 1 for names in self.owners().values()):
            return False
        return all(not running for running, _ in (await self.queues()).values())

    def reasons(self) -> list[Reason]:
        """Return what the store knows of tasks that are not over."""
        return [Reason(row[0], _words(row, self._world)) for row in self._rows()]

    async def asked_reasons(self) -> list[Reason]:
        """Return the same, with what the cluster says of the first few."""
        reasons: list[Reason] = []
        for row in self._rows():
            text = _words(row, self._world)
            if len(reasons) < _ASKED_MAX:
                text += "; " + await self._why(row[1], row[0])
            reasons.append(Reason(row[0], text))
        return reasons

    def _rows(self) -> list[Any]:
        return self._world.database.connection.execute(_WAITING).fetchall()

    async def _why(self, tenant: str, task_id: int) -> str:
        try:
            answer = await self._channel.request(api.WhyTasks(tenant, [task_id]), timeout_ms=_ASK_MS)
        except UnavailableError as error:
            return f"nobody answered why: {error}"
        return answer.tasks[0].text if isinstance(answer, api.WhyRead) else str(getattr(answer, "text", ""))

    async def end(self) -> End:
        """Return the end of the run, as oracles take it."""
        database = self._world.database
        queues = await self.queues()
        reasons = self.reasons()
        counters, recount = database.ledger()
        return End(
            self._world.loop.now_ns, database.task_rows(), dict(database.kinds), database.attempts(), counters, recount,
            database.epochs(), self.owners(), queues, database.purged(), reasons,
        )  # fmt: skip

    async def _in(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Run something in a process and wait for it in the test's lane; None if the process dies or takes too long."""
        loop = self._world.loop
        task = loop.spawn(process.lane, coroutine, name="operator")
        deadline_ns = loop.now_ns + _ASK_MS * MS
        # What is done in another lane wakes nobody in this one.
        while not task.done() and not process.is_dead and loop.now_ns < deadline_ns:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return task.result() if task.done() else None


async def _asked(bus: SimBus, address: str) -> Any:
    try:
        return await bus.request(address, ReadQueue(), timeout_ms=2_000)
    except UnavailableError:
        return None


def _words(row: Any, world: World) -> str:
    task_id, _, handler, state, attempt, due_ms, session = row
    now_ms = world.db.clock.now_ms()
    text = f"{to_text(task_id)} {handler}: {State(state).label}"
    text += f" in attempt {attempt}" if attempt else ""
    text += f" on {session}" if session and state == State.RUNNING else ""
    return text + (f", due in {(due_ms - now_ms) / 1000:g} s" if due_ms > now_ms else "")
