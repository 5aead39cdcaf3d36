"""What a run came to."""

from __future__ import annotations

import msgspec

from .case import Case
from .history import Violation


class Result(msgspec.Struct, frozen=True):
    """`digest`: of the trace. `virtual_ms`: how much time was simulated. `faults`: how many took place. `figures`: counts by
    name, among them how often each fault, each point and each rare situation occurred. `lines`: the trace, if kept."""

    case: Case
    digest: str
    virtual_ms: int
    steps: int
    tasks: int
    faults: int
    violations: list[Violation]
    figures: dict[str, int] = {}
    lines: list[bytes] = []

    @property
    def identity(self) -> str:
        """The identity of the first violation, empty if there is none."""
        return self.violations[0].identity if self.violations else ""
