"""A task as its rows say, and a step of it: what one commit changed."""

from __future__ import annotations

from typing import Final

import msgspec

from ...actors.messages import Kind

NS: Final = 1_000_000  # in a millisecond

QueueName = tuple[str, str]
"""(pool, queue)"""


class Task(msgspec.Struct):
    """One task as its row says, and what the row does not say: which leases and notes it had, and when."""

    id: int
    shard: int
    kind: Kind
    priority: int
    lane: int
    key: str
    dedupe_key: str
    payload: bytes
    born_ns: int
    state: int
    due_ms: int
    attempt: int = 0
    session: str = ""
    spent: int = 0
    interruptions: int = 0
    cancelling: int = 0
    changed_ns: int = 0
    leased_ns: int = 0
    queued_ns: int = 0  # since when it has been QUEUED
    revivals: int = 0  # how often a person had it tried again
    revived_ns: int = -1
    leases: list[tuple[int, str]] = []  # (attempt, session), all there were
    noted: list[tuple[int, int]] = []  # (attempt, kind of outcome) of attempts that did not complete
    is_shaken: bool = False  # power loss took back part of its history, so that history says nothing of it

    @property
    def queue(self) -> QueueName:
        template = self.kind.template
        return template.pool, template.queue


class Step(msgspec.Struct):
    """What one commit did to one task: a path of the state table, of which the ends are seen. `before` 0: it was born.
    `leased`: by a lease it did not have before. `turn_ms`: when the shard decided it, by its own word."""

    task: Task
    before: int
    after: int
    turn_ms: int
    was_attempt: int
    was_session: str
    was_spent: int
    was_interruptions: int
    was_due_ms: int
    was_cancelling: int
    was_leased_ns: int
    was_queued_ns: int
    was_revivals: int
    was_revived_ns: int
    born: int = 0  # the state it was born in
    leased: bool = False
    revived: bool = False
    purged: bool = False
    error: bytes = b""
    notes: list[tuple[int, int]] = []  # (attempt, kind of outcome) of attempts that did not complete
    noted_ms: int = 0  # when the latest of these ended, by its worker's clock
