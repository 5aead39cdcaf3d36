"""A planted bug as data, and the hunt for it: seeds are run until an oracle sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from foliot.simulations.case import Case
from foliot.simulations.plan import plan
from foliot.simulations.result import Result

from .patching import Change, planted

Run = Callable[[Case], Result]


@dataclass(frozen=True)
class Bug:
    """`breaks`: what no longer holds. `caught_by`: identities of violations (`oracle:kind`, or an oracle for all of its
    kinds) that show this bug. `profiles`: of the cases to try, in turn; `seeds`: how many of them at most; `options`:
    overrides of their options."""

    name: str
    breaks: str
    changes: tuple[Change, ...]
    caught_by: tuple[str, ...]
    profiles: tuple[str, ...] = ("",)
    seeds: int = 60
    options: Mapping[str, Any] = field(default_factory=dict)

    def is_shown_by(self, identity: str) -> bool:
        return identity in self.caught_by or identity.partition(":")[0] in self.caught_by

    def case(self, number: int) -> Case:
        """Return the case to try as the `number`-th, from 1."""
        return plan(number, self.profiles[(number - 1) % len(self.profiles)], **self.options)


@dataclass(frozen=True)
class Catch:
    """How a hunt ended. `seeds`: how many were run; `identity`: what showed the bug, empty if nothing did; `shared`: what
    was seen as well without the bug, and so proves nothing."""

    bug: str
    seeds: int
    identity: str = ""
    text: str = ""
    shared: tuple[str, ...] = ()


def hunt(bug: Bug, run: Run, *, seeds: int = 0) -> Catch:
    """Run cases with the bug until it shows. What the same case shows without the bug does not count."""
    shared: dict[str, None] = {}
    most = seeds or bug.seeds
    for number in range(1, most + 1):
        case = bug.case(number)
        with planted(bug.changes):
            found = run(case).violations
        shown = {violation.identity: violation.text for violation in found if bug.is_shown_by(violation.identity)}
        if not shown:
            continue
        also = {violation.identity for violation in run(case).violations}
        for identity, text in shown.items():
            if identity not in also:
                return Catch(bug.name, number, identity, text, tuple(shared))
            shared[identity] = None
    return Catch(bug.name, most, shared=tuple(shared))
