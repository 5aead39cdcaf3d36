"""The witness: what the handlers themselves wrote about their attempts, independent of all the product's books."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Start:
    """One start of an attempt."""

    token: str
    pid: int
    at_ns: int


@dataclass
class Witness:
    """`starts`: by task, in order of writing; `done`: tokens of the attempts that had their effect; `ticks`: tasks that a
    tick made, by schedule and moment; `handed`: tasks that a one-way submission became, by its number."""

    starts: dict[str, list[Start]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    ticks: dict[str, set[str]] = field(default_factory=dict)
    handed: dict[int, set[str]] = field(default_factory=dict)

    def requeue_s(self, pid: int, killed_ns: int) -> list[float]:
        """Return how long after a process was killed each attempt it had not finished started again elsewhere."""
        took = []
        for starts in self.starts.values():
            left = [s for s in starts if s.pid == pid and s.at_ns < killed_ns and s.token not in self.done]
            if left:
                again = [s.at_ns for s in starts if s.at_ns > killed_ns]
                took += [(min(again) - killed_ns) / 1e9] if again else []
        return took


def read_witness(path: Path) -> Witness:
    """Read the file; a last line that was cut off does not count."""
    return witness_of(path.read_text(encoding="ascii").splitlines()) if path.exists() else Witness()


def witness_of(lines: Iterable[str]) -> Witness:
    found = Witness()
    for line in lines:
        words = line.split()
        if len(words) != 6:
            continue
        kind, task, token, pid, at_ns, what = words
        if kind == "S":
            found.starts.setdefault(task, []).append(Start(token, int(pid), int(at_ns)))
        elif kind == "E":
            found.done[token] = found.done.get(token, 0) + 1
        elif kind == "T":
            found.ticks.setdefault(what, set()).add(task)
        elif kind == "H":
            found.handed.setdefault(int(what), set()).add(task)
    return found
