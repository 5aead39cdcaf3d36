"""How a simulated cluster stands: read from the store and from what still lives, for the end of a run and for people.

What holds: nothing here changes what it looks at, and who asks waits in its own lane, whatever becomes of the process asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from ..actors.messages import QueueRead, ReadQueue, TaskError
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
Asker = Callable[[], tuple[Process, SimChannel] | None]
"""Tells who asks the cluster, a process and its channel; None while there is nobody."""

_LISTED_MAX: Final = 50
_ASKED_MAX: Final = 5  # of these, how many the cluster is asked about
_ASK_MS: Final = 8_000
_GIVEN_UP_MS: Final = 10_000  # for whoever is asked and stands still
_QUEUE_MS: Final = 2_000
_ERROR_MAX: Final = 300  # characters
_ALIVE: Final = f"select exists (select 1 from tasks where state < {int(FIRST_FINAL)})"
_ENDED: Final = f"""
select (select count(*) from tasks where state >= {int(FIRST_FINAL)}) + (select count(*) from attempts where kind > 0)
"""
_STATES: Final = "select state, count(*) from tasks group by state order by state"
_WAITING: Final = f"""
select tasks.id, tenant, handler, state, attempt, due_ms, session from tasks join kinds using (template_id)
where state < {int(FIRST_FINAL)} order by id limit {_LISTED_MAX}
"""
_UNDONE: Final = f"""
select tasks.id, handler, state, attempt, error from tasks join kinds using (template_id)
where state in ({int(State.FAILED)}, {int(State.DEAD)}, {int(State.EXPIRED)}) order by id limit {_LISTED_MAX}
"""


class Survey:
    """Looks at one world. `asker`: by whom the cluster itself is asked."""

    def __init__(self, world: World, slots: int, asker: Asker) -> None:
        self._world = world
        self._slots = slots
        self._asker = asker

    # -- what the store says -----------------------------------------------------------------------------------------

    def any_alive(self) -> bool:
        """Tell whether any task is not over."""
        [found] = self._world.database.connection.execute(_ALIVE).fetchone()
        return bool(found)

    def backfilling(self) -> int:
        """Return how many backfills are not over."""
        [count] = self._world.database.connection.execute("select count(*) from backfills where is_over = 0").fetchone()
        return int(count)

    def ended(self) -> int:
        """Return how many tasks and attempts are over: a number that grows while there is any progress."""
        [count] = self._world.database.connection.execute(_ENDED).fetchone()
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

    def reasons(self) -> list[Reason]:
        """Return what the store knows of tasks that are not over."""
        return [Reason(row[0], _words(row, self._world)) for row in self._rows()]

    def undone(self) -> list[Reason]:
        """Return which tasks ended without success, in whatever way, and the last error of each."""
        rows = self._world.database.connection.execute(_UNDONE).fetchall()
        return [Reason(row[0], _end_words(row)) for row in rows]

    def last_error(self, task_id: int) -> str:
        """Return the error a task ended with, in words; empty if there is none."""
        row = self._world.database.connection.execute("select error from tasks where id = ?", (task_id,)).fetchone()
        return _error_words(row[0]) if row is not None else ""

    def _rows(self) -> list[Any]:
        return self._world.database.connection.execute(_WAITING).fetchall()

    # -- what the cluster says ---------------------------------------------------------------------------------------

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
                read = await self.in_process(process, _asked(bus, address), within_ms=_GIVEN_UP_MS)
                if isinstance(read, QueueRead):
                    running, waiting = found.get(address, (0, 0))
                    found[address] = (running + read.running, waiting + sum(read.offered.values()))
        return found

    async def is_whole(self) -> bool:
        """Tell whether every task is over, every shard has one owner, and no queue believes that something runs."""
        if self.any_alive() or self.backfilling() or any(len(names) != 1 for names in self.owners().values()):
            return False
        return all(not running for running, _ in (await self.queues()).values())

    async def asked_reasons(self) -> list[Reason]:
        """Return why tasks are not over, with what the cluster says of the first few."""
        reasons: list[Reason] = []
        for row in self._rows():
            text = _words(row, self._world)
            if len(reasons) < _ASKED_MAX:
                text += "; " + await self._why(row[1], row[0])
            reasons.append(Reason(row[0], text))
        return reasons

    async def _why(self, tenant: str, task_id: int) -> str:
        asker = self._asker()
        if asker is None:
            return "there is nobody to ask why"
        process, channel = asker
        told = await self.in_process(process, _told_why(channel, tenant, task_id), within_ms=_GIVEN_UP_MS)
        return "nobody answered why" if told is None else told

    async def end(self, reasons: list[Reason] | None = None) -> End:
        """Return the end of the run, as oracles take it. `reasons`: why tasks are not over; by default what the store
        knows."""
        database = self._world.database
        queues = await self.queues()
        reasons = self.reasons() if reasons is None else reasons
        counters, recount = database.ledger()
        return End(
            self._world.loop.now_ns, database.task_rows(), dict(database.kinds), database.attempts(), counters, recount,
            database.epochs(), self.owners(), queues, database.purged(), reasons, database.schedules(), database.ticks(),
        )  # fmt: skip

    async def in_process(
        self, process: Process, coroutine: Coroutine[Any, Any, T], *, within_ms: int | None = None
    ) -> T | None:
        """Run something in a process, whose bus answers in no other lane, and wait for it in the lane of who asks.

        Returns: None if the process is dead, dies meanwhile, or takes longer than `within_ms`. Raises: what was raised.
        """
        if process.is_dead:
            coroutine.close()
            return None
        loop = self._world.loop
        lane = loop.lane
        woken: asyncio.Future[None] = loop.create_future()

        def wake(*_: Any) -> None:
            """What happens in another lane wakes nobody in this one by itself."""
            loop.post(lane, _resolve, woken)

        task = loop.spawn(process.lane, coroutine, name="operator")
        task.add_done_callback(wake)
        process.on_death.append(wake)
        timer = None if within_ms is None else loop.at(loop.now_ns + within_ms * MS, lane, _resolve, woken)
        try:
            await woken
        finally:
            process.on_death.remove(wake)
            if timer is not None:
                timer.cancel()
        return task.result() if task.done() else None


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def _asked(bus: SimBus, address: str) -> Any:
    try:
        return await bus.request(address, ReadQueue(), timeout_ms=_QUEUE_MS)
    except UnavailableError:
        return None


async def _told_why(channel: SimChannel, tenant: str, task_id: int) -> str:
    try:
        answer = await channel.request(api.WhyTasks(tenant, [task_id]), timeout_ms=_ASK_MS)
    except UnavailableError as error:
        return f"nobody answered why: {error}"
    return answer.tasks[0].text if isinstance(answer, api.WhyRead) else str(getattr(answer, "text", ""))


def _words(row: Any, world: World) -> str:
    task_id, _, handler, state, attempt, due_ms, session = row
    now_ms = world.db.clock.now_ms()
    text = f"{to_text(task_id)} {handler}: {State(state).label}"
    text += f" in attempt {attempt}" if attempt else ""
    text += f" on {session}" if session and state == State.RUNNING else ""
    return text + (f", due in {(due_ms - now_ms) / 1000:g} s" if due_ms > now_ms else "")


def _end_words(row: Any) -> str:
    task_id, handler, state, attempt, data = row
    text = f"{to_text(task_id)} {handler}: {State(state).label} after {attempt} attempt{'s' * (attempt != 1)}"
    return ", ".join(filter(None, (text, _error_words(data))))


def _error_words(data: bytes) -> str:
    """`data`: an encoded TaskError, or nothing."""
    if not data:
        return ""
    error = msgspec.msgpack.decode(data, type=TaskError)
    return " ".join(f"{error.type}: {error.message}".split())[:_ERROR_MAX]
