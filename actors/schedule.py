"""A schedule in its shard's memory.

It is there while its next tick is near, while a run of it is alive, or while somebody's command changes it; all others are
rows in the store. `next_ms` and `in_timers` say what the shard's timers know of it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .schedule_messages import ScheduleSpec, ScheduleState
from .schedule_rows import TIER_HIGH, TIER_OTHERS, ScheduleRow
from .task import KindState
from .ticks import Ticks

LATE_MS: Final = {"high": 100, "normal": 1_000, "low": 1_000}
"""A tick that fires later than this after it was due counts as late."""

encode_spec = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(ScheduleSpec).decode
_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(ScheduleState).decode


class Schedule:
    """One schedule. `alive`: the tick of each task of it that is alive, backfills apart. `stamp`: of the calendars by which
    its next tick was computed."""

    __slots__ = ("alive", "body", "id", "in_timers", "kind", "next_ms", "revision", "spec", "stamp", "state", "ticks")

    def __init__(self, id: int, kind: KindState, spec: ScheduleSpec, state: ScheduleState) -> None:
        self.id = id
        self.kind = kind
        self.spec = spec
        self.body: bytes = encode_spec(spec)
        self.state = state
        self.revision = 1
        self.next_ms = 0
        self.stamp = 0
        self.in_timers = False
        self.alive: dict[int, int] = {}
        self.ticks: Ticks | None = None  # of its rule, once they were asked for (`firing`)

    @classmethod
    def of_row(cls, row: ScheduleRow, kind: KindState) -> Schedule:
        """Return the schedule of a stored row."""
        schedule = cls(row.id, kind, _decode_spec(row.body), _decode_state(row.state))
        schedule.body = row.body
        schedule.revision = row.revision
        schedule.next_ms = row.next_ms
        schedule.stamp = row.calendars
        return schedule

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def tenant(self) -> str:
        return self.kind.tenant

    @property
    def tier(self) -> int:
        return tier_of(self.spec)

    def row(self) -> ScheduleRow:
        return ScheduleRow(
            self.id, self.name, self.tier, self.next_ms, self.kind.id, self.revision, self.stamp, self.body,
            _encode_state(self.state),
        )  # fmt: skip

    def move(self) -> tuple[int, int, int, bytes]:
        """Return what a tick changes, as `ShardChanges.schedule_moves` takes it."""
        return self.id, self.next_ms, self.stamp, _encode_state(self.state)


def tier_of(spec: ScheduleSpec) -> int:
    """Return in which line the ticks of a schedule wait."""
    return TIER_HIGH if spec.rule.precision == "high" else TIER_OTHERS


def seed_of(tenant: str, name: str) -> str:
    """Return what the hashed fields and spans of a schedule are made from."""
    return f"{tenant}/{name}"


