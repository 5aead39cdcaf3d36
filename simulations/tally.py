"""What a campaign came to: sums over its seeds, violations by identity, and what never happened.

Bounded: of each identity the first seeds are kept, however many fail.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any, Final

from .campaign import Outcome

SEEDS_KEPT: Final = 10
_TEXT_MAX: Final = 300


class Tally:
    """Sums outcomes. `profile`: what the seeds were planned with, for the command that replays one."""

    def __init__(self, profile: str = "") -> None:
        self._profile = profile
        self.seeds = 0
        self.failed = 0
        self.virtual_ms = 0
        self.steps = 0
        self.tasks = 0
        self.faults = 0
        self.figures: dict[str, int] = {}
        self.by_identity: dict[str, list[tuple[int, str]]] = {}  # the first (seed, text) of each
        self.counts: dict[str, int] = {}  # seeds that show it

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failed += bool(outcome.violations)
        self.virtual_ms += outcome.virtual_ms
        self.steps += outcome.steps
        self.tasks += outcome.tasks
        self.faults += outcome.faults
        for name, count in outcome.figures.items():
            self.figures[name] = self.figures.get(name, 0) + count
        texts = {violation.identity: violation.text for violation in reversed(outcome.violations)}
        for identity, text in texts.items():
            self.counts[identity] = self.counts.get(identity, 0) + 1
            kept = self.by_identity.setdefault(identity, [])
            if len(kept) < SEEDS_KEPT:
                kept.append((outcome.seed, text))

    def never(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that no seed counted even once."""
        return [name for name in names if not self.figures.get(name)]

    def replay(self, seed: int) -> str:
        """Return the command that runs a seed again."""
        return f"foliot sim replay {seed}" + (f" --profile {shlex.quote(self._profile)}" if self._profile else "")

    def lines(self, wall_s: float, cases: dict[str, str]) -> list[str]:
        """Return the summary for people. `wall_s`: how long it took; `cases`: a file of a failing case by identity."""
        an_hour = f", {self.seeds / wall_s * 3600:,.0f} an hour" if wall_s > 0 else ""
        out = [
            f"{self.seeds:,} seeds in {wall_s:,.1f} s{an_hour}: {self.virtual_ms / 3_600_000:,.2f} virtual hours, "
            f"{self.steps:,} steps, {self.tasks:,} tasks, {self.faults:,} faults"
        ]
        if not self.by_identity:
            return [*out, "no violations"]
        out.append(f"{self.failed:,} seeds with violations:")
        for identity, kept in sorted(self.by_identity.items(), key=lambda item: (-self.counts[item[0]], item[0])):
            numbers = ", ".join(str(seed) for seed, _ in kept) + (", …" if self.counts[identity] > len(kept) else "")
            seed, text = kept[0]
            out += [f"  {identity}: {self.counts[identity]:,} seeds: {numbers}", f"    {text[:_TEXT_MAX]}"]
            out.append(f"    {self.replay(seed)}")
            if identity in cases:
                out.append(f"    foliot sim shrink {shlex.quote(cases[identity])}")
        return out


def line_of(outcome: Outcome) -> dict[str, Any]:
    """Return a seed's outcome as it is printed, one JSON object."""
    return {
        "seed": outcome.seed,
        "profile": outcome.profile,
        "digest": outcome.digest,
        "virtual_s": outcome.virtual_ms / 1000,
        "steps": outcome.steps,
        "tasks": outcome.tasks,
        "faults": outcome.faults,
        "violations": [
            {"oracle": each.oracle, "kind": each.kind, "subject": each.subject, "text": each.text}
            for each in outcome.violations
        ],
    }
