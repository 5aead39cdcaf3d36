"""`sim`: what a simulated test holds in its hands. Time, the cluster, faults, outside services, and what must hold.

The rule of time, once: it moves only when nothing can run, and only while the test waits for something. One object serves
one run of one test under one seed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..runtime.errors import FoliotError, UsageError
from ..runtime.rng import Rng
from ..sdk.app import Foliot
from ..sdk.client import Task
from ..sdk.client_views import TaskInfo
from ..sdk.durations import Span, parse_span
from .case import Case
from .cluster import TEST, Cluster, ClusterOptions
from .controls import Controls, Mark, NodeControl
from .history import Oracle, Violation
from .loop import MS, EscapeError, Lane, SimLoop
from .machine import Machine
from .oracles import bounds_of, standard
from .oracles.watch import Watch
from .outside import Effects, Service, UnknownServiceError
from .process import Process
from .storm import Storm
from .strands import Strands
from .trace import Trace
from .world import World

T = TypeVar("T")
START: Final = "2026-01-01T00:00"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_POLL_S: Final = 0.05  # how often a coroutine is asked whether something has come true


class NoClusterError(UsageError):
    """Something that needs a cluster, before there is one; or a second one."""

    code = "no_cluster"

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; expected one `await sim.cluster(app)` at the beginning of the test")


class SimTimeoutError(FoliotError, TimeoutError):
    """What the test waits for did not come true in time."""

    code = "sim_timeout"

    def __init__(self, what: str, within: timedelta, reasons: Sequence[str]) -> None:
        why = "".join(f"\n  {reason}" for reason in reasons)
        super().__init__(f"{what} did not come true within {within}{why and '; not over:' + why}")
        self.what = what
        self.reasons = list(reasons)


class NotSettledError(FoliotError, AssertionError):
    """Everything was healed, and some tasks do not end."""

    code = "not_settled"

    def __init__(self, within: timedelta, reasons: Sequence[str], trouble: Sequence[str]) -> None:
        lines = "".join(f"\n  {line}" for line in [*reasons, *trouble])
        super().__init__(f"{within} after everything was healed not all is over:{lines}")
        self.reasons = list(reasons)


class InvariantError(FoliotError, AssertionError):
    """Something that must hold does not."""

    code = "invariant"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class InvalidSettingError(UsageError):
    """A value with which no test can be run."""

    code = "invalid_setting"

    def __init__(self, setting: str, value: object, expected: str) -> None:
        super().__init__(f"{setting} {value!r:.80} is not possible, expected {expected}")
        self.setting = setting
        self.value = value
        self.expected = expected


@dataclass(frozen=True)
class Settings:
    """How tests are run. `start`, `tz`: the wall clock at the beginning. `heal_within`: the bound of `settle`.
    Raises: InvalidSettingError, InvalidSpanError."""

    profile: str = "swarm"
    heal_within: Span = "10m"
    start: str | datetime = START
    tz: str = "UTC"

    def __post_init__(self) -> None:
        parse_span(self.heal_within, what="heal_within")
        _moment_in(_zone(self.tz), self.start, what="start")


class Sim:
    """One simulated run of a test."""

    def __init__(self, seed: int, loop: SimLoop, trace: Trace, settings: Settings) -> None:
        self.seed = seed
        self.strands = Strands(loop)
        self.lane = Lane(TEST)
        self.services: dict[str, Service] = {}
        self.told: list[tuple[int, str]] = []
        """(instant, fault in words), in order."""
        self.seen: dict[str, bool] = {}
        """What `sometimes` names, and whether it was seen."""
        self._loop = loop
        self._trace = trace
        self._settings = settings
        self._rng = Rng(seed)
        self._entropy = self._rng.stream("entropy")
        self._tz = _zone(settings.tz)
        self._start_ms = self._instant_ms(settings.start, what="start")
        self._cluster: Cluster | None = None
        self._controls: Controls | None = None
        self._watchers: list[Oracle] = []
        self._conditions: dict[_Condition, None] = {}
        self._broken: list[str] = []
        self._delays: dict[int, None] = {}
        self._storms = 0
        loop.add_lane(self.lane)
        loop.on_quiet = self._look

    # -- the cluster ---------------------------------------------------------------------------------------------------

    async def cluster(
        self, *apps: Foliot, start: str | datetime | None = None, tz: str | None = None, **options: Any
    ) -> Cluster:
        """Make the cluster and wait until it is up. `options`: those of `ClusterOptions`, such as workers, nodes, store.
        `start`, `tz`: the wall clock now, as in the mark. Raises: UnknownOptionError, InvalidClusterError,
        InvalidSettingError, NoClusterError, ScheduleRefusedError."""
        if self._cluster is not None:
            raise NoClusterError("this test has a cluster already")
        chosen = ClusterOptions.of(options)
        if tz is not None:
            self._tz = _zone(tz)
        if start is not None:
            self._start_ms = self._instant_ms(start, what="start") - self._loop.now_ns // MS
        heal_ms = parse_span(self._settings.heal_within, what="heal_within")
        self._watchers = list(standard())
        self._cluster = cluster = Cluster(
            apps, chosen, seed=self.seed, loop=self._loop, lane=self.lane, trace=self._trace,
            start_ms=self._start_ms, heal_ms=heal_ms, watchers=self._watchers, strands=self.strands,
            told_delay=self._told_delay,
        )  # fmt: skip
        self._controls = Controls(cluster.world, lambda at_ns, words: self.told.append((at_ns, words)))
        self._controls.on_fault = self._allow
        self._allow()
        await cluster.up(lambda span_ns: self._until(self._loop.now_ns + span_ns))
        return cluster

    @property
    def running(self) -> Cluster | None:
        """The cluster, if there is one."""
        return self._cluster

    def _there(self) -> Cluster:
        if self._cluster is None:
            raise NoClusterError("there is no cluster yet")
        return self._cluster

    @property
    def controls(self) -> Controls:
        self._there()
        assert self._controls is not None
        return self._controls

    def _told_delay(self, after_ms: int) -> None:
        if after_ms not in self._delays:
            self._delays[after_ms] = None
            self._allow()

    def _allow(self) -> None:
        """Let the invariants allow for what the test has done until now."""
        if self._cluster is None or self._controls is None:
            return
        case = Case(self.seed, options=self._cluster.world_options, faults=list(self._controls.done))
        bounds = bounds_of(case, retry_after_ms=tuple(self._delays), labels=self._cluster.labels)
        for watcher in self._watchers:
            if isinstance(watcher, Watch):
                watcher.bounds = bounds

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The true time, in the zone of the test; clocks of machines may differ from it."""
        micros = self.true_ns() // 1_000
        return (_EPOCH + timedelta(microseconds=micros)).astimezone(self._tz)

    @property
    def elapsed(self) -> timedelta:
        """How much time the test has simulated."""
        return timedelta(microseconds=self._loop.now_ns // 1_000)

    def true_ns(self) -> int:
        return self._start_ms * MS + self._loop.now_ns

    def _instant_ms(self, value: str | datetime, *, what: str) -> int:
        """Return an instant; without an offset it is of the test's zone."""
        return round((_moment_in(self._tz, value, what=what) - _EPOCH) / timedelta(milliseconds=1))

    async def advance(self, span: Span) -> None:
        """Let time pass."""
        await self._until(self._loop.now_ns + parse_span(span, what="span") * MS)

    async def advance_to(self, moment: str | datetime) -> None:
        """Let time pass until a moment; at once if it is over. Without an offset it is of the test's zone."""
        await self._until((self._instant_ms(moment, what="moment") - self._start_ms) * MS)

    async def _until(self, moment_ns: int) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        step = self._loop.at(max(moment_ns, self._loop.now_ns), self.lane, _resolve, future)
        try:
            await future
        finally:
            step.cancel()

    async def run_until(self, what: Callable[[], object] | Awaitable[T], within: Span = "1d") -> T | None:
        """Let time pass until `what` is true, a function that is asked whenever time is about to move, or until what is
        awaited is there. Returns: what was awaited. Raises: SimTimeoutError."""
        __tracebackhide__ = True
        within_ms = parse_span(within, what="within")
        if isinstance(what, Awaitable):
            try:
                async with asyncio.timeout(within_ms / 1_000) as limit:
                    return await what
            except TimeoutError as error:
                if limit.expired():
                    raise self._late(what, within_ms) from error
                raise
        if inspect.iscoroutinefunction(what):
            deadline_ns = self._loop.now_ns + within_ms * MS
            while not await what():
                if self._loop.now_ns >= deadline_ns:
                    raise self._late(what, within_ms)
                await asyncio.sleep(_POLL_S)
            return None
        future: asyncio.Future[bool] = self._loop.create_future()
        condition = _Condition(what, future)
        self._conditions[condition] = None
        timer = self._loop.at(self._loop.now_ns + within_ms * MS, self.lane, _settle, future, False)
        try:
            if not await future:
                raise self._late(what, within_ms)
        finally:
            timer.cancel()
            self._conditions.pop(condition, None)
        return None

    def _late(self, what: object, within_ms: int) -> SimTimeoutError:
        name = str(getattr(what, "__qualname__", None) or getattr(what, "__name__", None) or type(what).__name__)
        return SimTimeoutError(name, timedelta(milliseconds=within_ms), self.reasons())

    async def run_until_idle(self, within: Span = "1d") -> None:
        """Let time pass until every task is over, scheduled ones included. Raises: SimTimeoutError."""
        __tracebackhide__ = True
        survey = self._there().survey
        await self.run_until(_named("everything being over", lambda: not survey.any_alive()), within)

    async def settle(self, within: Span | None = None) -> None:
        """End all faults, start what is down, make services reliable; then everything has to end within the bound, by
        default that of the mark. Raises: NotSettledError, which says why tasks do not end."""
        __tracebackhide__ = True
        cluster = self._there()
        within_ms = parse_span(self._settings.heal_within if within is None else within, what="within")
        self.heal()
        deadline_ns = self._loop.now_ns + within_ms * MS
        while not await cluster.survey.is_whole():
            if self._loop.now_ns >= deadline_ns:
                reasons = [reason.text for reason in await cluster.survey.asked_reasons()]
                owners = cluster.survey.owners()
                trouble = [f"shard {slot} has {len(names)} owners" for slot, names in owners.items() if len(names) != 1]
                raise NotSettledError(timedelta(milliseconds=within_ms), reasons, trouble)
            await self._until(self._loop.now_ns + 200 * MS)

    def reasons(self) -> list[str]:
        """Return why tasks are not over, as far as the store knows."""
        return [] if self._cluster is None else [reason.text for reason in self._cluster.survey.reasons()]

    def undone(self) -> list[str]:
        """Return which tasks ended without success, and the last error of each."""
        return [] if self._cluster is None else [reason.text for reason in self._cluster.survey.undone()]

    # -- faults --------------------------------------------------------------------------------------------------------

    def node(self, name: str) -> NodeControl:
        """Return a node, a worker or `db`, to crash it, pause it, set its clock. Raises: UnknownNodeError."""
        return self.controls.node(name)

    def at(self, point: str, node: str = "") -> Mark:
        """Return a named point, to say what happens when a process passes it. Raises: UnknownPointError."""
        if node:
            self.controls.node(node)
        return self.controls.marks.add(point, node)

    def partition(self, *sides: Sequence[str] | str, span: Span | None = None) -> None:
        """Cut the network between groups of machines; one group alone is cut off from all others."""
        self.controls.partition(sides, span)

    def block(self, source: str, target: str, span: Span | None = None) -> None:
        """Lose what is sent from one machine to another."""
        self.controls.block(source, target, span, hold=False)

    def hold(self, source: str, target: str, span: Span | None = None) -> None:
        """Keep what is sent from one machine to another, and deliver it at the end of the span or on `heal`."""
        self.controls.block(source, target, span, hold=True)

    def link(
        self, source: str = "", target: str = "", *, loss: float = 0, duplicate: float = 0, reorder: float = 0,
        latency: Span = 0, span: Span | None = None,
    ) -> None:  # fmt: skip
        """Make links bad: chances of loss, duplication and overtaking, and a latency with as much again at random."""
        self.controls.link(source, target, loss=loss, duplicate=duplicate, reorder=reorder, latency=latency, span=span)

    def database(self, *, refused: float = 0, unknown: float = 0, slow: Span = 0, span: Span | None = None) -> None:
        """Make the database fail: chances of refused calls and of commits whose answer is lost."""
        self.controls.database(refused=refused, unknown=unknown, slow=slow, span=span)

    def heal(self) -> None:
        """End all faults, start what is down, make services reliable."""
        self.controls.heal()
        for service in self.services.values():
            service.heal()

    def faults(self, *families: str, every: Span = "5s", longest: Span = "20s") -> Storm:
        """Return random faults, for `async with`: of these families, else those the profile chooses."""
        self._storms += 1
        return Storm(
            self.controls, self.seed, families, number=self._storms, profile=self._settings.profile, every=every,
            longest=longest,
        )  # fmt: skip

    # -- the outside world ---------------------------------------------------------------------------------------------

    def service(self, name: str, *, key: str = "", idempotent: bool = False) -> Service:
        """Return the outside service of that name, made at first. `key`: the argument that is its idempotency key.
        `idempotent`: whether it answers a known key as the first time and does nothing."""
        service = self.services.get(name)
        if service is None:
            service = self.services[name] = Service(name, self, self._rng, key=key, idempotent=idempotent)
        return service

    def effects(self, name: str, operation: str = "") -> Effects:
        """Return what a service really did. Raises: UnknownServiceError."""
        service = self.services.get(name)
        if service is None:
            raise UnknownServiceError(name, list(self.services))
        return Effects([call for call in service.calls if operation in ("", call.operation)])

    def here(self) -> Process | None:
        """Return the process whose step runs; None for the test itself."""
        if self._cluster is None or self._loop.lane is self.lane:
            return None
        program = self._cluster.world.programs.get(self._loop.lane.name)
        if program is not None and program.process is not None and program.process.lane is self._loop.lane:
            return program.process
        return None

    def note(self, kind: str, /, **fields: Any) -> None:
        process = self.here()
        name, boot = (process.name, process.boot) if process is not None else (TEST, 1)
        self._trace.note(self._loop.now_ns, name, boot, kind, **fields)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def assert_once(self, task: Task[Any] | TaskInfo | str, service: str = "", operation: str = "") -> None:
        """Check that a task completed and had its effect exactly once: on the service, or on each it called. `task`: one
        that was submitted, one of `await cluster.tasks()`, or an id."""
        __tracebackhide__ = True
        handle = self._there().task(task)
        names = [service] if service else list(self.services)
        effects = {name: self.effects(name, operation).for_task(handle.id) for name in names}
        told = ", ".join(f"{count} on {name}" for name, count in effects.items()) or "none at all"
        wrong = [count for count in effects.values() if count > 1 or (service and count != 1)]
        if handle.state != "completed" or wrong or not any(effects.values()):
            error = self._there().survey.last_error(handle.number)
            why = f" ({error})" if error else ""
            text = f"task {handle.id} is {handle.state}{why} with effects: {told}; expected one, and completed"
            raise InvariantError([text])

    def always(self, name: str, holds: Callable[[], object]) -> None:
        """Check something from now on, whenever time is about to move, and fail at the end if it once did not hold."""

        def once_broken() -> bool:
            if holds():
                return False
            self._broken.append(f"{name} did not hold at {self.now.isoformat()}")
            self.note("violation", oracle="always", kind=name, subject="", text=name)
            return True

        self._conditions[_Condition(once_broken, None)] = None

    def eventually(self, name: str, holds: Callable[[], object], within: Span) -> None:
        """Check that something comes true within a span, while the test goes on."""
        condition = _Condition(holds, None)
        self._conditions[condition] = None
        within_ms = parse_span(within, what="within")

        def late() -> None:
            if condition in self._conditions:
                self._conditions.pop(condition)
                self._broken.append(f"{name} did not come true within {timedelta(milliseconds=within_ms)}")
                self.note("violation", oracle="eventually", kind=name, subject="", text=name)

        self._loop.at(self._loop.now_ns + within_ms * MS, self.lane, late)
        condition.name = name

    def sometimes(self, name: str, holds: bool | Callable[[], object] = True) -> None:
        """Say that something has to be seen under at least one of the mark's seeds: now, or from now on whenever time is
        about to move, if a function is given."""
        if callable(holds):
            self.seen.setdefault(name, False)
            check = holds

            def once_seen() -> bool:
                self.seen[name] = self.seen[name] or bool(check())
                return self.seen[name]

            self._conditions[_Condition(once_seen, None)] = None
        else:
            self.seen[name] = self.seen.get(name, False) or bool(holds)

    def _look(self) -> None:
        """Time is about to move: ask all conditions."""
        if not self._conditions:
            return
        self._loop.lane = self.lane
        for condition in list(self._conditions):
            try:
                if not condition.holds():
                    continue
                error: Exception | None = None
            except Exception as raised:
                error = raised
            self._conditions.pop(condition, None)
            if condition.future is not None:
                self._loop.post(self.lane, _settle, condition.future, error or True)
            elif error is not None:
                self._broken.append(f"asking a condition raised {type(error).__name__}: {error}")

    def violations(self) -> list[Violation]:
        """Return what breaks the built-in invariants until now."""
        found = [violation for watcher in self._watchers for violation in watcher.violations]
        return sorted(found, key=lambda one: (one.at_ns, one.oracle, one.kind, one.subject))

    def check(self) -> None:
        """Check all built-in invariants, and what `always` and `eventually` saw. Raises: InvariantError."""
        __tracebackhide__ = True
        problems = [*self._broken, *[f"{found.identity}: {found.text}" for found in self.violations()]]
        if problems:
            raise InvariantError(problems)

    async def finish(self) -> None:
        """The test has returned: look at the end, and check everything. Raises: InvariantError."""
        __tracebackhide__ = True
        self._end_conditions()
        if self._cluster is not None:
            end = await self._cluster.survey.end()
            for watcher in self._watchers:
                watcher.end(end)
        self.check()

    def _end_conditions(self) -> None:
        for condition in self._conditions:
            if condition.name:
                self._broken.append(f"{condition.name} had not come true when the test ended")
        self._conditions.clear()

    # -- ports of redirected code --------------------------------------------------------------------------------------

    def is_inside(self) -> bool:
        return self.strands.is_inside()

    def wall_ns(self) -> int:
        watch = self._loop.lane.watch
        return watch.wall_ns(self._loop.now_ns) if isinstance(watch, Machine) else self.true_ns()

    def mono_ns(self) -> int:
        return self._loop.lane.watch.mono_ns(self._loop.now_ns)

    def sleep_ns(self, span_ns: int) -> None:
        strand = self.strands.current
        if strand is None:
            raise EscapeError("blocking in a coroutine (time.sleep)", "`await asyncio.sleep(...)` or `await ctx.sleep(...)`")
        strand.sleep_ns(span_ns)

    def entropy(self, count: int) -> bytes:
        return self._entropy.bits(8 * count).to_bytes(count, "big") if count else b""

    @property
    def world(self) -> World | None:
        return None if self._cluster is None else self._cluster.world


class _Condition:
    """Something that is asked whenever time is about to move. `future`: of who waits; `name`: if it has to come true."""

    def __init__(self, holds: Callable[[], object], future: asyncio.Future[bool] | None) -> None:
        self.holds = holds
        self.future = future
        self.name = ""


def _zone(name: str) -> ZoneInfo:
    """Raises: InvalidSettingError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, TypeError, ValueError) as error:
        raise InvalidSettingError("tz", name, "the name of a zone, such as 'UTC' or 'Europe/Berlin'") from error


def _moment_in(tz: ZoneInfo, value: str | datetime, *, what: str) -> datetime:
    """Return a moment, of this zone unless it has an offset. Raises: InvalidSettingError."""
    expected = "a datetime, or ISO text such as '2026-03-28T22:00'"
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidSettingError(what, value, expected) from error
    if not isinstance(moment, datetime):
        raise InvalidSettingError(what, value, expected)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=tz)


def _named(name: str, function: Callable[[], bool]) -> Callable[[], bool]:
    function.__qualname__ = name
    return function


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _settle(future: asyncio.Future[bool], value: bool | Exception) -> None:
    if future.done():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
