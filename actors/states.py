"""A task's states, and the one table of legal transitions between them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Stored as these integers; everything below 10 is alive, everything from 10 on is the end."""

    SCHEDULED = 1  # waits for its time
    QUEUED = 2  # due, waits for a worker
    RUNNING = 3  # leased to a worker session
    RETRYING = 4  # failed or interrupted, waits for its next attempt
    BLOCKED = 5  # waits for upstream tasks
    AWAITING_APPROVAL = 6
    COMPLETED = 10
    FAILED = 11  # over without success, not kept as a dead letter
    CANCELLED = 12
    DEAD = 13  # a dead letter: attempts used up, kept for a person
    EXPIRED = 14  # waited or lived longer than it was allowed to
    SKIPPED = 15

    @property
    def is_final(self) -> bool:
        return self >= State.COMPLETED

    @property
    def label(self) -> str:
        """The name users see: lower case."""
        return self.name.lower()


FIRST_FINAL: Final = int(State.COMPLETED)

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.SCHEDULED: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED, State.SKIPPED}),
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.SKIPPED, State.SCHEDULED}),
    State.RUNNING: frozenset(
        {
            State.COMPLETED,
            State.FAILED,
            State.RETRYING,
            State.QUEUED,  # handed back or interrupted: the attempt is not spent
            State.CANCELLED,
            State.DEAD,
            State.EXPIRED,
        }
    ),
    State.RETRYING: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED, State.DEAD}),
    State.BLOCKED: frozenset({State.SCHEDULED, State.QUEUED, State.CANCELLED, State.SKIPPED, State.EXPIRED}),
    State.AWAITING_APPROVAL: frozenset({State.SCHEDULED, State.QUEUED, State.CANCELLED, State.EXPIRED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),  # retried by a person
    State.CANCELLED: frozenset({State.QUEUED}),  # retried by a person
    State.DEAD: frozenset({State.QUEUED}),  # retried by a person
    State.EXPIRED: frozenset({State.QUEUED}),  # retried by a person
    State.SKIPPED: frozenset({State.QUEUED}),
}


class IllegalTransitionError(AssertionError):
    """A bug: the state machine was asked for a step its table does not have."""

    def __init__(self, task_id: int, before: State, after: State) -> None:
        super().__init__(f"task {task_id} cannot go from {before.label} to {after.label}")


_ALLOWED: Final[frozenset[int]] = frozenset(
    before << 8 | after for before, targets in TRANSITIONS.items() for after in targets
)


def check_transition(task_id: int, before: int, after: int) -> None:
    """Raises: IllegalTransitionError unless the table has the step."""
    if before << 8 | after not in _ALLOWED:
        raise IllegalTransitionError(task_id, State(before), State(after))


def state_named(label: str) -> State:
    """Return the state of that name. Raises: KeyError."""
    return State[label.upper()]
