"""The base of the oracles: what they share, and how an observation finds its method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...runtime.ids import to_text
from ..history import Observation, Oracle
from .bounds import Bounds
from .tasks import Tasks


class Watch(Oracle):
    """An oracle that looks at some kinds of observations. `tasks`: shared by a set of oracles, its own if alone."""

    def __init__(self, bounds: Bounds | None = None, tasks: Tasks | None = None) -> None:
        super().__init__()
        self.bounds = Bounds() if bounds is None else bounds
        self.tasks = Tasks() if tasks is None else tasks
        self._reactions: dict[type[Observation], Callable[[Any], None]] = {
            **dict.fromkeys(self.tasks.kinds_taken, _nothing), **self.reactions()
        }  # fmt: skip
        self.kinds = tuple(self._reactions)

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        """Return what to call for which kind of observation; the shared tasks have taken it in before."""
        return {}

    def see(self, seen: Observation) -> None:
        react = self._reactions.get(type(seen))
        if react is not None:
            self.tasks.take(seen)
            react(seen)

    def steps_for(self, kind: type[Observation]) -> list[Callable[[Any], None]]:
        react = self._reactions.get(kind)
        if react is None:
            return []
        taken = [self.tasks.take] if kind in self.tasks.kinds_taken else []
        return [*taken, react] if react is not _nothing else [*taken]

    def broken(self, kind: str, at_ns: int, task_id: int, text: str) -> None:
        """Note a violation by a task. `text` goes on after the task's name."""
        name = to_text(task_id)
        self.violated(kind, at_ns, name, f"task {name} {text}")


def _nothing(seen: Observation) -> None:
    """What only the tasks take in."""
