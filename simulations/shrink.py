"""Shrinking: the least that still shows a violation, found by taking entries away and running again.

A smaller case counts if it shows a violation of the same identity. Tried in this order, since what goes first spares
most later runs: what lies after the violation; whole kinds of faults and of work; single faults, then single work
(ddmin) and how many tasks each submission makes; workers, nodes and slots; then simpler values. As long as something
was gained, all of it is tried again.

No randomness: the same case and the same `run` end in the same smaller case.
Source of ddmin: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, TSE 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

import msgspec

from ..runtime.errors import UsageError
from .case import Case, Options, Submit, Timings, encode_case
from .case_edits import changed_at, defaults_of, rounded, without_dangling
from .history import Violation
from .result import Result
from .safe_run import Run, safely

BUDGET: Final = 300
"""Runs that shrinking may take unless told otherwise; the first, which shows the violation, is one of them."""

ROUNDS: Final = 4
_GRIDS_MS: Final = (1_000, 100, 10)
_SIZES: Final = ("workers", "nodes", "slots")

E = TypeVar("E")


class NothingToShrinkError(UsageError):
    """The case does not show the violation that it should be shrunk for."""

    code = "nothing_to_shrink"

    def __init__(self, identity: str, shown: Sequence[str]) -> None:
        wanted = f"the violation {identity!r}" if identity else "no violation"
        verb = "does not show" if identity else "shows"
        super().__init__(
            f"the case {verb} {wanted}, its violations are: {', '.join(shown) or 'none'}; expected a case that fails"
        )
        self.identity = identity


def shrink(
    case: Case, run: Run, *, identity: str = "", budget: int = BUDGET, stop: Callable[[], bool] = lambda: False
) -> tuple[Case, int]:
    """Return the smallest case found that shows the same violation, with `expect` set, and how many runs it took.

    `identity`: of the violation; by default the first the case shows. `budget`: runs at most. `stop`: asked before each
    run. Raises: NothingToShrinkError.
    """
    search = _Search(case, run, identity, budget, stop)
    for _ in range(ROUNDS):
        before = search.size()
        for step in (_cut, _drop_kinds, _drop_faults, _drop_work, _drop_members, _simplify):
            step(search)
        if search.size() == before or search.is_spent():
            break
    return msgspec.structs.replace(search.case, expect=search.identity), search.runs


class _Search:
    """The smallest case so far, and the runs that are left to make it smaller."""

    def __init__(self, case: Case, run: Run, identity: str, budget: int, stop: Callable[[], bool]) -> None:
        self._run = safely(run)
        self._budget = budget
        self._stop = stop
        self._tried: set[bytes] = {encode_case(case)}
        self.runs = 1
        result = self._run(case)
        self.identity = identity or result.identity
        found = self._shown(result)
        if found is None:
            raise NothingToShrinkError(identity, list(dict.fromkeys(v.identity for v in result.violations)))
        self.case = case
        self.violation = found

    def size(self) -> bytes:
        """Return what tells whether a round gained anything."""
        return encode_case(self.case)

    def is_spent(self) -> bool:
        return self.runs >= self._budget or self._stop()

    def accepts(self, **changes: Any) -> bool:
        """Run the case with these changes, unless that was done; keep it if it shows the violation, and say so."""
        candidate = without_dangling(self.case, msgspec.structs.replace(self.case, **changes))
        key = encode_case(candidate)
        if key in self._tried or self.is_spent():
            return False
        self._tried.add(key)
        self.runs += 1
        found = self._shown(self._run(candidate))
        if found is None:
            return False
        self.case, self.violation = candidate, found
        return True

    def _shown(self, result: Result) -> Violation | None:
        return next((each for each in result.violations if each.identity == self.identity), None)


# -- taking away -------------------------------------------------------------------------------------------------------


def _cut(search: _Search) -> None:
    """Drop what lies after the violation, and end the run's active span there."""
    for _ in range(3):  # the smaller case may show it earlier
        until_ms = search.violation.at_ns // 1_000_000
        faults = [fault for fault in search.case.faults if fault.at_ms <= until_ms]
        work = [entry for entry in search.case.work if entry.at_ms <= until_ms]
        if len(faults) + len(work) == len(search.case.faults) + len(search.case.work):
            break
        if not search.accepts(faults=faults, work=work):
            break
    for span_ms in _shorter_spans(search.case, search.violation):
        if search.accepts(options=msgspec.structs.replace(search.case.options, duration_ms=span_ms)):
            break


def _shorter_spans(case: Case, violation: Violation) -> list[int]:
    """Return spans of the run that are worth trying, the shortest first."""
    last_ms = max((entry.at_ms for entry in (*case.faults, *case.work)), default=0)
    shown_ms = violation.at_ns // 1_000_000
    spans = {(at_ms // 1_000 + 1) * 1_000 for at_ms in (last_ms, last_ms + 10_000, shown_ms)}
    return [span_ms for span_ms in sorted(spans) if span_ms < case.options.duration_ms]


def _drop_kinds(search: _Search) -> None:
    """Drop all faults, else all of a kind; then all work of a kind."""
    if search.case.faults and search.accepts(faults=[]):
        pass
    else:
        for kind in _kinds(search.case.faults):
            search.accepts(faults=[fault for fault in search.case.faults if type(fault) is not kind])
    for kind in _kinds(search.case.work):
        search.accepts(work=[entry for entry in search.case.work if type(entry) is not kind])


def _kinds(entries: Sequence[object]) -> list[type]:
    return list(dict.fromkeys(type(entry) for entry in entries))


def _drop_faults(search: _Search) -> None:
    _ddmin(lambda: search.case.faults, lambda faults: search.accepts(faults=faults))


def _drop_work(search: _Search) -> None:
    """Drop submissions and commands, then make the submissions that are left smaller."""
    _ddmin(lambda: search.case.work, lambda work: search.accepts(work=work))
    for place in range(len(search.case.work)):
        while True:
            entry = search.case.work[place]
            if not isinstance(entry, Submit) or entry.count <= 1:
                break
            smaller = (count for count in (1, entry.count // 2) if count < entry.count)
            if not any(search.accepts(work=changed_at(search.case.work, place, count=count)) for count in smaller):
                break


def _ddmin(items: Callable[[], list[E]], accepts: Callable[[list[E]], bool]) -> None:
    """Take away ever smaller pieces as long as `accepts` says the rest will do. `items`: what is left by now."""
    if not items() or accepts([]):
        return
    pieces = 2
    while (left := items()) and pieces <= 2 * len(left):
        pieces = min(pieces, len(left))
        bounds = [len(left) * number // pieces for number in range(pieces + 1)]
        spans = list(pairwise(bounds))
        if any(accepts(left[start:end]) for start, end in spans if pieces > 2):
            pieces = 2
        elif any(accepts(left[:start] + left[end:]) for start, end in spans):
            pieces = max(pieces - 1, 2)
        elif pieces == len(left):
            break
        else:
            pieces *= 2


def _drop_members(search: _Search) -> None:
    """Try with fewer workers, nodes and slots, the fewest first."""
    for field in _SIZES:
        many = getattr(search.case.options, field)
        for fewer in sorted({count for count in (1, 2, 3, 4, many // 2, many - 1) if 0 < count < many}):
            if search.accepts(options=msgspec.structs.replace(search.case.options, **{field: fewer})):
                break


# -- simpler values ----------------------------------------------------------------------------------------------------


def _simplify(search: _Search) -> None:
    """Try plain options, defaults instead of other values, and round times; all at once, else one by one."""
    _plain_options(search)
    for name in ("work", "faults"):
        for place in range(len(getattr(search.case, name))):
            _default_fields(search, name, place)
    for grid_ms in _GRIDS_MS:
        coarser = {name: [rounded(entry, grid_ms) for entry in getattr(search.case, name)] for name in ("work", "faults")}
        if search.accepts(**coarser):
            return
    for name in ("work", "faults"):
        for place in range(len(getattr(search.case, name))):
            for grid_ms in _GRIDS_MS:
                entries = list(getattr(search.case, name))
                entries[place] = rounded(entries[place], grid_ms)
                if search.accepts(**{name: entries}):
                    break


def _plain_options(search: _Search) -> None:
    plain: dict[str, Any] = {name: value for name, value in defaults_of(Options) if name not in (*_SIZES, "duration_ms")}
    plain |= {"jitter_us": 0, "schedule": "round_robin", "timings": Timings()}
    options = search.case.options
    changed = {name: value for name, value in plain.items() if getattr(options, name) != value}
    if not changed or search.accepts(options=msgspec.structs.replace(options, **changed)):
        return
    for name, value in changed.items():
        search.accepts(options=msgspec.structs.replace(search.case.options, **{name: value}))


def _default_fields(search: _Search, name: str, place: int) -> None:
    entry = getattr(search.case, name)[place]
    changed = {
        field: value for field, value in defaults_of(type(entry)) if field != "ref" and getattr(entry, field) != value
    }
    if not changed or search.accepts(**{name: changed_at(getattr(search.case, name), place, **changed)}):
        return
    if len(changed) > 1:
        for field, value in changed.items():
            search.accepts(**{name: changed_at(getattr(search.case, name), place, **{field: value})})
