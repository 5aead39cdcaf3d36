"""The shared calendars a shard knows. A calendar's home shard keeps it and tells every other one, until that answers.

A calendar is numbered by its home (epoch, number), so the newest wins in whatever order they arrive; schedules that use one
carry a stamp of it, so that a shard finds those whose next tick is to be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..runtime.actor import Turn
from ..runtime.hashing import fnv1a, slot_of
from . import schedule_messages as sm
from .addresses import shard_address
from .calendar_words import names_of, parse
from .rules import Calendar
from .schedule_rows import ScheduleImage

DELETED = -1
"""The version of a calendar that is to be deleted."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Calendar).decode


def calendar_slot(tenant: str, name: str, shards: int) -> int:
    """Return the home shard of a calendar."""
    return slot_of(f"calendar.{tenant}.{name}", shards)


class CalendarBook:
    """The calendars of all tenants. `changed`: one has changed since it was last set to False."""

    def __init__(self, image: ScheduleImage, shard: int, epoch: int, shards: int) -> None:
        self._shard = shard
        self._epoch = epoch
        self._shards = shards
        self._number = 0
        self._by_tenant: dict[str, dict[str, Calendar]] = {}
        self._told: dict[tuple[str, str], tuple[int, int]] = {}  # (epoch, number) of each
        self._unanswered: dict[tuple[str, str, str], sm.ConfigureCalendar] = {}  # by (who was told, tenant, name)
        for tenant, body, of_epoch, number in image.calendars:
            self._take(tenant, _decode(body), (of_epoch, number))
        self.changed = bool(image.calendars)

    def of(self, tenant: str) -> Mapping[str, Calendar]:
        """Return a tenant's calendars by name."""
        return self._by_tenant.get(tenant, {})

    def stamp(self, tenant: str, expression: str) -> int:
        """Return a number that changes with the calendars an expression names, 0 if it is empty."""
        if not expression.strip():
            return 0
        versions = [f"{leaf.name}@{self._told.get((tenant, leaf.name), 0)}" for leaf in names_of(parse(expression))]
        return fnv1a(",".join(versions).encode()) >> 2 | 1

    def configure(self, message: sm.ConfigureCalendar, turn: Turn) -> None:
        """Somebody changed a calendar here, or its home shard tells of it."""
        tenant, calendar = message.tenant, message.calendar
        key = (tenant, calendar.name)
        if message.number:
            if (message.epoch, message.number) > self._told.get(key, (0, 0)):
                self._take(tenant, calendar, (message.epoch, message.number))
            turn.send(turn.sender, sm.CalendarConfigured(tenant, calendar, message.epoch, message.number),
                      request=turn.request)  # fmt: skip
            return
        self._number += 1
        stamp = (self._epoch, self._number)
        old = self.of(tenant).get(calendar.name)
        if calendar.version != DELETED:
            calendar = msgspec.structs.replace(calendar, version=(old.version if old else 0) + 1)
        self._take(tenant, calendar, stamp)
        body = _encode(calendar) if calendar.version != DELETED else b""
        turn.changes.calendars.append((tenant, calendar.name, body, *stamp))
        order = sm.ConfigureCalendar(tenant, calendar, *stamp)
        for shard in range(self._shards):
            if shard != self._shard:
                receiver = shard_address(shard)
                turn.send(receiver, order)
                self._unanswered[receiver, tenant, calendar.name] = order
        turn.reply(sm.CalendarConfigured(tenant, calendar, *stamp))

    def answered(self, message: sm.CalendarConfigured, turn: Turn) -> None:
        """A shard has taken what it was told."""
        key = (turn.sender, message.tenant, message.calendar.name)
        order = self._unanswered.get(key)
        if order is not None and (order.epoch, order.number) == (message.epoch, message.number):
            del self._unanswered[key]

    @property
    def any_unanswered(self) -> bool:
        return bool(self._unanswered)

    def repeat(self, turn: Turn) -> None:
        """Tell those again who have not answered."""
        for (receiver, _, _), order in self._unanswered.items():
            turn.send(receiver, order)

    def _take(self, tenant: str, calendar: Calendar, stamp: tuple[int, int]) -> None:
        known = self._by_tenant.setdefault(tenant, {})
        self._told[tenant, calendar.name] = stamp
        if calendar.version == DELETED:
            known.pop(calendar.name, None)
        else:
            known[calendar.name] = calendar
        self.changed = True
