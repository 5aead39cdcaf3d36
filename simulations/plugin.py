"""The pytest plugin: the `sim` fixture and `@pytest.mark.sim`.

A coroutine test that takes `sim`, or is marked, becomes a plain test here, before other plugins for coroutines see it; its
body runs in a simulation, once for each seed. Nothing of the simulation is imported before such a test runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..runtime.errors import UsageError
from ..runtime.hashing import fnv1a

if TYPE_CHECKING:
    from .harness import Outcome
    from .sim import Settings

MARK: Final = "sim"
_SEED_BITS: Final = 32
_OPTIONS: Final = ("seeds", "profile", "heal_within", "start", "tz", "sometimes")
_SEEDS_MAX: Final = 1_000_000
_EXPECTED: Final = f"expected some of {', '.join(f'{name}=' for name in _OPTIONS)}"


class InvalidMarkError(UsageError):
    """A mark, or an option of the command line in its place, that cannot be followed."""

    code = "invalid_mark"

    def __init__(self, problem: str) -> None:
        super().__init__(f"@pytest.mark.sim {problem}")
        self.problem = problem


class NeverSeenError(AssertionError):
    """Something that has to be seen under at least one seed was not."""


class SimPlaceholder:
    """What a fixture gets that asks for `sim`: only the test itself can use it, since each seed has its own."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UsageError(
            f"sim.{name} was used outside of an `async def` test, expected in its body: each seed has its own world"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("foliot simulations")
    group.addoption("--sim-seeds", type=int, default=None, metavar="N", help="run simulated tests under so many seeds")
    group.addoption("--sim-seed", type=int, default=None, metavar="SEED", help="run simulated tests under this seed")
    group.addoption("--sim-profile", default=None, metavar="NAME", help="random faults: swarm, everything or calm")
    group.addoption(
        "--sim-check-determinism", action="store_true", default=False,
        help="run each seed twice, and fail where the runs differ",
    )  # fmt: skip
    group.addoption("--sim-out", default=None, metavar="FOLDER", help="where the timelines of failed tests are written")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sim(seeds=1, profile='swarm', heal_within='10m', start='2026-01-01T00:00', tz='UTC', sometimes=()): "
        "run the test in a simulation, under so many seeds",
    )


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> SimPlaceholder:
    """The simulation of the test: time, cluster, faults, services; see `foliot.simulations.Sim`."""
    if not isinstance(request.node, SimFunction) and not inspect.iscoroutinefunction(request.function):
        name = request.function.__name__
        pytest.fail(f"test {name!r} asks for a simulation and is none, expected `async def {name}(...)`", pytrace=False)
    return SimPlaceholder()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> list[pytest.Item] | None:
    if not isinstance(collector, pytest.Module | pytest.Class) or not collector.istestfunction(obj, name):
        return None
    function: Any = obj.__func__ if isinstance(obj, staticmethod) else obj
    if not inspect.iscoroutinefunction(function) or not _is_simulated(collector, function):
        return None
    return [SimFunction.of(item) for item in collector._genfunctions(name, obj)]


def _is_simulated(collector: pytest.Collector, function: Callable[..., Any]) -> bool:
    marks = getattr(function, "pytestmark", [])
    own = any(mark.name == MARK for mark in (marks if isinstance(marks, list) else [marks]))
    return own or collector.get_closest_marker(MARK) is not None or MARK in inspect.signature(function).parameters


def _keywords(item: pytest.Function) -> dict[str, Any]:
    """Return an item's own keywords: the names of its parameters, by which `-k` finds it."""
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else {callspec.id: True}


class SimFunction(pytest.Function):
    """A coroutine test that runs in a simulation; to pytest and its plugins a plain function."""

    @classmethod
    def of(cls, item: pytest.Function) -> pytest.Item:
        """Return the same item as one of this class."""
        own: pytest.Item = cls.from_parent(
            item.parent, name=item.name, callspec=getattr(item, "callspec", None), fixtureinfo=item._fixtureinfo,
            keywords=_keywords(item), originalname=item.originalname,
        )  # fmt: skip
        own.own_markers = list(item.own_markers)
        return own

    def _getobj(self) -> Callable[..., None]:
        test: Any = super()._getobj()  # type: ignore[no-untyped-call]

        @wraps(test)
        def in_simulation(**arguments: Any) -> None:
            __tracebackhide__ = True
            run_item(self, test, arguments)

        return in_simulation


def run_item(item: pytest.Function, test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Run a test under its seeds, and raise what the first that fails raises."""
    __tracebackhide__ = True
    from .harness import check_determinism, simulate

    options, settings = settings_of(item)
    chosen = item.config.getoption("--sim-seed")
    seeds = list(_seeds(item, options))
    seen: dict[str, bool] = dict.fromkeys(options.get("sometimes", ()), False)
    for number, seed in enumerate(seeds, 1):
        outcome = simulate(test, dict(arguments), settings, seed)
        if outcome.error is not None:
            _tell(item, outcome, number, len(seeds))
            raise outcome.error
        if item.config.getoption("--sim-check-determinism"):
            check_determinism(outcome, simulate(test, dict(arguments), settings, seed))
        for name, was_seen in outcome.seen.items():
            seen[name] = seen.get(name, False) or was_seen
    never = [name for name, was_seen in seen.items() if not was_seen]
    if never and chosen is None:
        raise NeverSeenError(f"never seen under {len(seeds)} seeds: {', '.join(never)}; expected each at least once")


def settings_of(item: pytest.Item) -> tuple[dict[str, Any], Settings]:
    """Return the mark's options, those of the nearest first, and what follows from them. Raises: InvalidMarkError."""
    from .sim import Settings

    options: dict[str, Any] = {}
    for mark in item.iter_markers(MARK):
        if mark.args:
            raise InvalidMarkError(f"got {mark.args!r}, {_EXPECTED}")
        for name, value in mark.kwargs.items():
            if name not in _OPTIONS:
                raise InvalidMarkError(f"got {name}=, {_EXPECTED}")
            options.setdefault(name, value)
    profile = item.config.getoption("--sim-profile") or options.get("profile")
    given: dict[str, Any] = {name: options[name] for name in ("heal_within", "start", "tz") if name in options}
    if profile is not None:
        from .storm import PROFILES

        if profile not in PROFILES:
            raise InvalidMarkError(f"got profile={profile!r}, expected one of {', '.join(PROFILES)}")
        given["profile"] = profile
    _check_sometimes(options.get("sometimes", ()))
    try:
        return options, Settings(**given)
    except UsageError as error:
        raise InvalidMarkError(f"got a value it cannot take: {error}") from error


def _check_sometimes(names: object) -> None:
    """Raises: InvalidMarkError."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise InvalidMarkError(f"got sometimes={names!r:.80}, expected a list of names, as `sim.sometimes` is given them")


def _seeds(item: pytest.Item, options: dict[str, Any]) -> Iterator[int]:
    """Yield the seeds of a test: the first follows from its id, so that each test has others and every run the same."""
    chosen = item.config.getoption("--sim-seed")
    if chosen is not None:
        yield chosen
        return
    asked = item.config.getoption("--sim-seeds")
    count = options.get("seeds", 1) if asked is None else asked
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _SEEDS_MAX:
        source = "seeds=" if asked is None else "--sim-seeds "
        raise InvalidMarkError(f"got {source}{count!r:.80}, expected a number from 1 to {_SEEDS_MAX}")
    first = fnv1a(item.nodeid.encode()) >> (64 - _SEED_BITS)
    yield from range(first, first + count)


def _tell(item: pytest.Item, outcome: Outcome, number: int, total: int) -> None:
    """Say under the error how to run the seed again, and add the report to the item's sections."""
    from .report import headline, report

    assert outcome.error is not None
    if isinstance(outcome.error, pytest.skip.Exception):
        return
    profile = item.config.getoption("--sim-profile") or ""
    outcome.error.add_note(headline(outcome, item.nodeid, number, total, profile=profile))
    page = _write_timeline(item, outcome)
    item.add_report_section("call", "simulation", report(outcome, item.nodeid, number, total, page=page, profile=profile))


def _write_timeline(item: pytest.Item, outcome: Outcome) -> str:
    from .report import timeline_of

    folder = item.config.getoption("--sim-out")
    cache: Any = getattr(item.config, "cache", None)
    if folder is None and cache is None:
        return ""
    place = Path(folder if folder is not None else cache.mkdir("foliot-sim"))
    name = "".join(letter if letter.isalnum() else "-" for letter in item.nodeid)[-100:].strip("-")
    path = place / f"{name}-{outcome.seed}.html"
    try:
        place.mkdir(parents=True, exist_ok=True)
        path.write_text(timeline_of(outcome, item.nodeid), encoding="utf-8")
    except OSError:
        return ""  # no place to write is no reason to hide the failure
    return str(path)
