"""Runs a test function in a simulation: once for one seed, with everything put back afterwards.

It knows nothing of pytest; the plugin hands it a coroutine function, and gets back what became of it.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from ..runtime.errors import FoliotError
from ..runtime.rng import Rng
from .history import Violation
from .journal import note_log
from .loop import NS, SimLoop
from .ordering import ordered_scopes
from .outside import current_attempt
from .redirect import redirected
from .sim import Settings, Sim
from .trace import Trace

Test = Callable[..., Coroutine[Any, Any, Any]]
STEPS_MAX: Final = 50_000_000
_WHY_NS: Final = 30 * NS


class NotDeterministicError(FoliotError):
    """The same seed gave two different runs."""

    code = "not_deterministic"

    def __init__(self, seed: int, first: str, second: str) -> None:
        super().__init__(
            f"seed {seed} gave digest {first}, then {second}; expected one. What cannot be redirected: the order of sets, "
            "id(), files, generators of libraries"
        )
        self.seed = seed


@dataclass(frozen=True)
class Outcome:
    """What became of one run. `error`: what the test raised, or the first thing that did not hold. `reasons`: why tasks are
    not over; `undone`: which ended without success, and by what error."""

    seed: int
    digest: str
    error: BaseException | None
    virtual_ns: int
    steps: int
    when: str
    faults: list[tuple[int, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    seen: dict[str, bool] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)


def simulate(test: Test, arguments: dict[str, Any], settings: Settings, seed: int) -> Outcome:
    """Run a test under a seed; `sim` is added to its arguments if it takes it."""
    trace = Trace(keep=True)
    loop = SimLoop(Rng(seed), trace)
    sim = Sim(seed, loop, trace, settings)
    if "sim" in arguments:
        arguments = {**arguments, "sim": sim}
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with ordered_scopes(), redirected(sim, seed=seed, tz=settings.tz), _own_logs(sim):
            try:
                error = _run(test, arguments, sim, loop)
                return _outcome(sim, loop, trace, error)
            finally:
                _close(sim, loop)
    finally:
        if was_collecting:
            gc.enable()
        gc.collect()


def check_determinism(first: Outcome, second: Outcome) -> None:
    """Raises: NotDeterministicError."""
    if first.digest != second.digest:
        raise NotDeterministicError(first.seed, first.digest, second.digest)


def _run(test: Test, arguments: dict[str, Any], sim: Sim, loop: SimLoop) -> BaseException | None:
    try:
        loop.run_task(loop.spawn(sim.lane, test(**arguments), name="test"), steps_max=STEPS_MAX)
        loop.run_task(loop.spawn(sim.lane, sim.finish(), name="finish"), steps_max=2 * STEPS_MAX)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return error
    return None


def _outcome(sim: Sim, loop: SimLoop, trace: Trace, error: BaseException | None) -> Outcome:
    digest, now_ns, when = trace.digest(), loop.now_ns, sim.now.isoformat(timespec="milliseconds")
    steps = loop.steps
    if error is None:
        return Outcome(sim.seed, digest, None, now_ns, steps, when, seen=sim.seen)
    pending = loop.pending()
    return Outcome(
        sim.seed, digest, error, now_ns, steps, when, list(sim.told), _reasons(sim, loop), sim.undone(), sim.violations(),
        [_service_words(sim, name) for name in sim.services], pending, sim.seen, trace.finish(),
    )  # fmt: skip


def _reasons(sim: Sim, loop: SimLoop) -> list[str]:
    """Ask the cluster why tasks are not over, or the store if it does not answer."""
    if sim.running is None:
        return []
    before = sim.reasons()
    if not before:
        return []
    asked = loop.spawn(sim.lane, sim.running.survey.asked_reasons(), name="why")
    try:
        found = loop.run_task(asked, until_ns=loop.now_ns + _WHY_NS)
    except Exception:
        return before  # the run is in no state to answer
    return [reason.text for reason in found]


def _service_words(sim: Sim, name: str) -> str:
    calls = sim.services[name].calls
    counts: dict[str, int] = {}
    for call in calls:
        counts[call.outcome] = counts.get(call.outcome, 0) + 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{name}: {len(calls)} calls{': ' * bool(told)}{told}"


def _close(sim: Sim, loop: SimLoop) -> None:
    world = sim.world
    if world is not None:
        world.close()
    else:
        loop.tear_down()
    sim.strands.close()
    for service in sim.services.values():
        service.end()


@contextmanager
def _own_logs(sim: Sim) -> Iterator[None]:
    """Let what the product logs go into the trace, once there is a world; what handlers and the test log goes nowhere."""

    def take(logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        world = sim.world
        if world is not None and sim.here() is not None and current_attempt() is None:
            note_log(world, level, event)
        raise structlog.DropEvent

    before = structlog.get_config()
    root = logging.getLogger()
    handlers, streams = list(root.handlers), (sys.stdout, sys.stderr)
    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield
    finally:
        structlog.configure(**before)
        # A worker routes the output of its process, and one that was killed never undoes it.
        sys.stdout, sys.stderr = streams
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)
