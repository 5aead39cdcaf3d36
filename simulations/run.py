"""Runs a case: the whole cluster, its work and its faults, in this process, on simulated time.

What holds: the same case gives the same trace, byte for byte, in every process of the same version; a run ends, one way or
the other. First comes the span of work and faults; then everything is healed, and all that was accepted must end within the
bound; then the cluster is stopped in order, and what is left is looked at.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ..actors.schedule_messages import ScheduleState
from ..sdk.app import Foliot
from .acts import RETRY_LATER_MS, Witness, acting_app
from .bus import SimBus
from .case import Case, PutSchedule, SetQueue, SetTenant, Submit
from .client import SimChannel
from .database import empty_database
from .database_server import DatabaseServer
from .driver import Driver, given_of
from .faults import Faults
from .history import Final as End
from .history import Healed, Oracle, Violation
from .jetstream_server import JetStreamServer
from .journal import logs_into
from .loop import MS, NS, SimulationError
from .ordering import ordered_scopes
from .process import Process
from .programs import node_program, worker_program
from .result import Result
from .survey import Survey
from .trace import SEMANTIC, Trace
from .world import World

_STEPS_MAX: Final = 20_000_000
_GARBAGE_MAX: Final = 300_000  # objects that were left by runs, before they are collected
_PATIENCE: Final = 8
_REST_NS: Final = 4 * NS
_STOP_NS: Final = 90 * NS
_TICKING_NS: Final = 40 * NS  # so long schedules tick on after everything was healed, before they are paused


def run(case: Case, *, keep_trace: bool = False, level: int = SEMANTIC, oracles: Sequence[Oracle] | None = None) -> Result:
    """Run a case. `oracles`: invariants to check instead of the standard ones."""
    trace = Trace(keep=keep_trace, level=level)
    if oracles is None:
        from .oracles import bounds_of, standard

        oracles = standard(bounds_of(case, retry_after_ms=(RETRY_LATER_MS,), labels=tuple(labels_of(case))))
    watchers = list(oracles)
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with ordered_scopes():
            world = World(case.seed, case.options, trace, image=empty_database(
                case.options.slots, start_ms=case.options.start_ms), watchers=watchers)  # fmt: skip
            with logs_into(world):
                run_ = _Run(case, world, watchers)
                try:
                    run_.do()
                finally:
                    world.close()
    finally:
        if was_collecting:
            gc.enable()
        if gc.get_count()[0] > _GARBAGE_MAX:
            gc.collect()
    return run_.result()


def labels_of(case: Case) -> list[tuple[tuple[str, str], ...]]:
    """Return the labels of each worker: odd ones are large, even ones small; none in the embedded form."""
    options = case.options
    if options.embedded:
        return [()]
    return [(("size", "large" if number % 2 else "small"),) for number in range(1, options.workers + 1)]


class _Run:
    """One run under way."""

    def __init__(self, case: Case, world: World, watchers: Sequence[Oracle]) -> None:
        self._case = case
        self._world = world
        self._watchers = watchers
        self._tasks = 0
        self._faults: Faults | None = None
        self._asker: tuple[Process, SimChannel] | None = None
        self._survey = Survey(world, case.options.slots, lambda: self._asker)
        self._driver: Driver | None = None
        self._is_done = False  # with the work
        self._work_over_ns = 0

    def do(self) -> None:
        world = self._world
        main = world.loop.spawn(world.loop.system, self._control(), name="control")
        options = self._case.options
        until_ns = (options.duration_ms + _PATIENCE * options.heal_ms) * MS + 10 * _STOP_NS
        try:
            world.loop.run_task(main, until_ns=until_ns, steps_max=_STEPS_MAX)
        except SimulationError as error:
            world.trouble("world", type(error).__name__, str(error))

    def result(self) -> Result:
        case, world = self._case, self._world
        violations: list[Violation] = [found for watcher in self._watchers for found in watcher.violations]
        violations.sort(key=lambda found: (found.at_ns, found.oracle, found.kind, found.subject))
        network = world.network
        figures = {
            **world.figures, "sent": network.sent, "lost": network.lost, "doubled": network.doubled, "late": network.late,
            "commits": world.database.commits, "trace": world.loop.trace.count, "work_over_ms": self._work_over_ns // MS,
        }  # fmt: skip
        return Result(
            case=case,
            digest=world.loop.trace.digest(),
            virtual_ms=world.loop.now_ns // MS,
            steps=world.loop.steps,
            tasks=self._tasks,
            faults=self._faults.done if self._faults is not None else 0,
            violations=violations,
            figures={name: figures[name] for name in sorted(figures)},
            lines=world.loop.trace.finish(),
        )

    # -- the course of a run -----------------------------------------------------------------------------------------

    async def _control(self) -> None:
        world, options = self._world, self._case.options
        self._build()
        self._faults = Faults(world, list(self._case.faults))
        for name in world.programs:
            world.start(name)
        await _until(world, options.duration_ms * MS)
        self._faults.heal()
        world.loop.trace.note(world.loop.now_ns, "world", 0, "heal")
        world.observe(Healed(world.loop.now_ns, options.heal_ms))
        await self._settle_settings()
        await self._settle_schedules()
        await self._settle(options.heal_ms * MS)
        before = await self._survey.end(await self._survey.asked_reasons())
        self._tasks = len(before.rows)
        self._count_ticks(before)
        await self._stop_all()
        final = msgspec.structs.replace(before, at_ns=world.loop.now_ns)
        for watcher in self._watchers:
            watcher.end(final)
        self._note_violations()

    def _count_ticks(self, end: End) -> None:
        """Count what became of the ticks there are, and of those that there are not."""
        fired = sum(1 for task_id, _ in end.ticks.values() if task_id)
        missed = sum(msgspec.msgpack.decode(state, type=ScheduleState).missed for _, _, state in end.schedules.values())
        for what, count in (("fired", fired), ("left_out", len(end.ticks) - fired), ("missed", missed)):
            self._world.count(f"tick.{what}", count)

    def _build(self) -> None:
        world, case = self._world, self._case
        options = case.options
        if options.broker:
            world.broker = JetStreamServer(world, is_lazy=options.broker_sync == "lazy")
        if options.database == "postgres":
            world.database_server = DatabaseServer(world)
        witness = Witness(world)
        costs: dict[str, int] = {"default": 1}
        for work in case.work:
            if isinstance(work, Submit):
                costs[work.queue] = max(costs.get(work.queue, 1), work.cost)
            elif isinstance(work, PutSchedule):
                costs.setdefault(work.queue, 1)
        queues = [("default", name) for name in costs]
        world.tenants = {work.ref: work.tenant for work in case.work if isinstance(work, Submit)}

        def apps(process: Process, session: Callable[[], str]) -> list[Foliot]:
            return [acting_app(process, witness, session, costs)]

        nodes = [f"n{number}" for number in range(1, options.nodes + 1)]
        for name in nodes:
            world.add_program(name, name, node_program(options, apps=apps, queues=queues))
        for number in range(1, (0 if options.embedded else options.workers) + 1):
            name = f"w{number}"
            world.add_program(name, name, worker_program(options, apps, queues, dict(labels_of(case)[number - 1])))
        world.add_program("client", "n1" if options.embedded else "client", self._client)

    async def _client(self, process: Process) -> None:
        bus = SimBus(process)
        nodes = [name for name in self._world.programs if name.startswith("n")]
        self._asker = process, SimChannel(bus, nodes)
        if self._driver is not None:
            self._driver.give_up()
        self._driver = Driver(process, bus, nodes)
        await self._driver.run(list(self._case.work), 0)
        self._is_done = True
        self._work_over_ns = self._world.loop.now_ns
        process.stop = _nothing
        while not process.is_leaving:
            await process.asked_to_leave.wait()

    # -- healing -----------------------------------------------------------------------------------------------------

    async def _settle_settings(self) -> None:
        """Operators see to it that the settings they wanted last are there; those that failed under faults are set again."""
        client, driver = self._world.programs["client"].process, self._driver
        if client is None or driver is None:
            return
        queues: dict[str, dict[str, Any]] = {}
        tenants: dict[str, dict[str, Any]] = {}
        for work in sorted(self._case.work, key=lambda work: work.at_ms):
            if isinstance(work, SetQueue):
                queues.setdefault(work.queue, {}).update(given_of(work))
            elif isinstance(work, SetTenant):
                tenants.setdefault(work.tenant, {}).update(given_of(work))
        for name, fields in queues.items():
            await self._survey.in_process(client, driver.insist(SetQueue(0, name, **fields)))
        for name, fields in tenants.items():
            await self._survey.in_process(client, driver.insist(SetTenant(0, name, **fields)))

    async def _settle_schedules(self) -> None:
        """Let schedules show for a while that they tick as they should, then pause them, so that work can come to an end."""
        if not any(isinstance(work, PutSchedule) for work in self._case.work):
            return
        loop = self._world.loop
        await _until(self._world, loop.now_ns + _TICKING_NS)
        for _ in range(_PATIENCE):
            client, driver = self._world.programs["client"].process, self._driver
            if self._is_done and client is not None and driver is not None:
                await self._survey.in_process(client, driver.clerk.pause_all())
                return
            await _until(self._world, loop.now_ns + _TICKING_NS)

    async def _settle(self, within_ns: int) -> None:
        """Wait until everything has ended and the cluster is whole; or until nothing has ended for the bound, or until
        eight times the bound have passed: much work under tight limits takes longer than the bound."""
        loop, survey = self._world.loop, self._survey
        began_ns, last_ns = loop.now_ns, loop.now_ns + _PATIENCE * within_ns
        deadline_ns = loop.now_ns + within_ns
        await _until(self._world, loop.now_ns + _REST_NS)  # nodes that were started just now take their slots
        ended = survey.ended()
        while loop.now_ns < min(deadline_ns, last_ns):
            if self._is_done and not _waiting_at_broker(self._world) and await survey.is_whole():
                return
            await _until(self._world, loop.now_ns + 500 * MS)
            before, ended = ended, survey.ended()
            if ended > before:
                deadline_ns = loop.now_ns + within_ns
        if loop.now_ns > began_ns + within_ns + NS:
            self._world.observe(Healed(loop.now_ns, 0))  # the time was longer, and is up

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        """Stop the cluster in order: clients, workers, nodes."""
        world = self._world
        for prefix in ("c", "w", "n"):
            for process in world.running(prefix):
                world.stop(process.name)
            deadline_ns = world.loop.now_ns + _STOP_NS
            while world.running(prefix) and world.loop.now_ns < deadline_ns:
                await _until(world, world.loop.now_ns + 20 * MS)

    def _note_violations(self) -> None:
        world = self._world
        for watcher in self._watchers:
            for found in watcher.violations:
                world.loop.trace.cause = -1
                world.loop.trace.note(
                    found.at_ns, "world", 0, "violation", oracle=found.oracle, kind=found.kind, subject=found.subject,
                    text=found.text,
                )  # fmt: skip


def _waiting_at_broker(world: World) -> int:
    return world.broker.waiting if world.broker is not None else 0


async def _nothing() -> None:
    return


async def _until(world: World, moment_ns: int) -> None:
    """Wait in the world's own lane."""
    future = world.loop.create_future()
    world.loop.at(moment_ns, world.loop.system, future.set_result, None)
    await future
