"""The schedules of a generated case: rules of every kind, their policies, and what people do to them.

Spans follow the length of the run, so that about as many ticks come in an hour across a change of clocks as in a usual
minute. What holds: no rule ticks more often than that; a calendar leaves something, so no schedule ends by one; rules that
calendars move ticks of name one moment a day, since the reference calendar looks through a year for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from ..actors.schedule_messages import MISSED, OVERLAPS
from .case import Backfill, CommandSchedule, Options, PutSchedule, SetCalendar, Work
from .draws import Dice

ZONES: Final = ("UTC", "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
_USUAL_MS: Final = 60_000  # the length of a run whose spans are as they are written here
_CRONS: Final = ("*/5 * * * * *", "*/7 * * * * *", "0,30 * * * * *", "1-59/10 * * * * *", "*/9 * 0-22 * * *")
_HOURLY: Final = ("*/2 * * * *", "*/5 * * * *", "*/10 * * * *", "*/3 1-3 * * *", "*/7 0-4 * * *", "0,30 * * * *")
_ACTS: Final = (("ok",), ("ok",), ("ok",), ("fail", "ok"), ("fail",), ("hang",))
_EXPRESSIONS: Final = ("not c1", "not c2", "not (c1 or c2)", "not c1 and not c2")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ScheduleMaker:
    """Draws schedules for one case. `zone`: in which most of them tick, empty: in any."""

    def __init__(
        self, seed: int, options: Options, features: Sequence[str], *, busy_ms: int, tenants: Sequence[str], zone: str
    ) -> None:  # fmt: skip
        self._seed = seed
        self._options = options
        self._features = features
        self._busy_ms = busy_ms
        self._tenants = tenants
        self._zone = zone
        self._scale = max(options.duration_ms // _USUAL_MS, 1)
        self._calendared: tuple[str, ...] = ()

    def make(self) -> list[Work]:
        """Return the work, in no order."""
        work: list[Work] = []
        if "calendars" in self._features:
            work += self._calendars(Dice(self._seed, "schedules/calendars"))
        dice = Dice(self._seed, "schedules/rules")
        puts = [self._put(dice, f"r{number}") for number in range(1, dice.between(2, 8) + 1)]
        work += puts
        if "schedule_commands" in self._features:
            commands = Dice(self._seed, "schedules/commands")
            for put in puts:
                work += self._commands(commands, put)
        if "backfills" in self._features:
            backfills = Dice(self._seed, "schedules/backfills")
            dense = {one.name for one in work if isinstance(one, PutSchedule) and not _is_daily(one)}
            work += [
                self._backfill(backfills, put, is_daily=put.name not in dense)
                for put in puts if not put.after_ms and backfills.chance(1, 3)
            ]  # fmt: skip
        return work

    def _span(self, dice: Dice, low_ms: int, high_ms: int) -> int:
        return dice.log_between(low_ms, high_ms) * self._scale

    # -- rules -----------------------------------------------------------------------------------------------------------

    def _put(self, dice: Dice, name: str) -> PutSchedule:
        at_ms = dice.below(self._busy_ms // 3) if dice.chance(2, 3) else dice.below(self._busy_ms)
        fields = {**self._rule(dice, at_ms), **self._policy(dice)}
        return PutSchedule(at_ms, name, **fields, tenant=dice.pick(self._tenants) if "calendar" not in fields else "acme")

    def _rule(self, dice: Dice, at_ms: int) -> dict[str, Any]:
        zone = self._zone if self._zone and dice.chance(3, 4) else dice.pick(ZONES)
        fields: dict[str, Any] = {}
        match dice.weighted(("cron", "every", "after", "moments", "daily"), (5, 4, 2, 1, 2)):
            case "cron":
                fields = {
                    "cron": dice.pick(_CRONS if self._scale < 5 else _HOURLY), "zone": zone,
                    "dst_gap": dice.pick(("shift", "shift", "skip")), "dst_overlap": dice.pick(("first", "last", "both")),
                }  # fmt: skip
            case "every":
                every_ms = self._span(dice, 500, 8_000)
                fields = {"every_ms": every_ms, "anchor_ms": dice.below(every_ms)}
            case "after":
                return {"after_ms": self._span(dice, 300, 5_000), **self._edges(dice, at_ms)}
            case "moments":
                moments = {at_ms - 2_000 + dice.below(self._busy_ms) for _ in range(dice.between(1, 6))}
                return {"moments": sorted(max(moment, 1) for moment in moments)}
            case _:
                fields = self._daily(dice, zone)
        if self._calendared and dice.chance(1, 2):
            fields["calendar"] = dice.pick(self._calendared)
        elif "excluded" in fields:
            del fields["excluded"]
        return {**fields, **self._edges(dice, at_ms), **self._blur(dice)}

    def _daily(self, dice: Dice, zone: str) -> dict[str, Any]:
        """One moment a day, within the run."""
        at = _EPOCH + timedelta(milliseconds=self._options.start_ms + dice.below(self._options.duration_ms) + 60_000)
        local = at.astimezone(ZoneInfo(zone))
        return {
            "cron": f"{local.minute} {local.hour} * * *", "zone": zone,
            "dst_gap": dice.pick(("shift", "skip")), "dst_overlap": dice.pick(("first", "last", "both")),
            "excluded": dice.pick(("skip", "next", "previous")),
        }  # fmt: skip

    def _edges(self, dice: Dice, at_ms: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if dice.chance(1, 6):
            fields["starts_ms"] = at_ms + self._span(dice, 500, 10_000)
        if dice.chance(1, 5):
            fields["ends_ms"] = at_ms + self._span(dice, 12_000, 60_000)
        if dice.chance(1, 5):
            fields["limit"] = dice.between(1, 12)
        return fields

    def _blur(self, dice: Dice) -> dict[str, Any]:
        fields: dict[str, Any] = {"precision": dice.weighted(("normal", "high", "low"), (5, 2, 1))}
        if dice.chance(1, 4):
            fields["jitter_ms"] = dice.log_between(50, 3_000)
        return fields

    def _policy(self, dice: Dice) -> dict[str, Any]:
        return {
            "overlap": dice.pick(OVERLAPS),
            "missed": dice.pick(MISSED),
            "grace_ms": dice.pick((500, 1_000, 5_000, 60_000)),
            "max_lateness_ms": dice.pick((0, 0, 0, 2_000 * self._scale, 10_000 * self._scale)),
            "max_catchup": dice.pick((100, 100, 3, 1)),
            "pause_after": dice.pick((0, 0, 0, 0, 2)),
            "priority": dice.pick((2, 5, 5, 8)),
            "acts": list(dice.pick(_ACTS)),
            "takes_ms": dice.pick((1, 20, 20, 100, 1_500, 4_000)),
            "max_attempts": dice.between(1, 2),
            "timeout_ms": dice.log_between(500, 8_000),
        }

    # -- what people do --------------------------------------------------------------------------------------------------

    def _commands(self, dice: Dice, put: PutSchedule) -> list[Work]:
        work: list[Work] = []
        if dice.chance(1, 2):
            at_ms = self._after(dice, put.at_ms)
            work.append(self._command(at_ms, put, "pause"))
            if dice.chance(4, 5):
                missed = dice.pick(("", *MISSED))
                work.append(self._command(self._after(dice, at_ms), put, "resume", missed=missed))
        for _ in range(dice.pick((0, 0, 1, 3))):
            work.append(self._command(self._after(dice, put.at_ms), put, "trigger", overlap=dice.pick(("", "", *OVERLAPS))))
        if dice.chance(1, 2):
            work.append(self._edited(dice, put))
        if dice.chance(1, 6):
            at_ms = self._after(dice, put.at_ms)
            work.append(self._command(at_ms, put, "delete"))
            if dice.chance(1, 2):
                work.append(msgspec.structs.replace(put, at_ms=self._after(dice, at_ms)))
        return work

    def _edited(self, dice: Dice, put: PutSchedule) -> PutSchedule:
        """Return a change of a schedule: of its policy, of its rule, or of nothing."""
        at_ms = self._after(dice, put.at_ms)
        match dice.below(4):
            case 0:
                changes: dict[str, Any] = {}
            case 1:
                changes = self._policy(dice)
            case _:
                plain = PutSchedule(0, put.name)
                names = ("cron", "every_ms", "after_ms", "moments", "anchor_ms", "starts_ms", "ends_ms", "limit", "calendar")
                changes = {name: getattr(plain, name) for name in (*names, "excluded", "jitter_ms", "precision")}
                changes |= self._rule(dice, at_ms)
        if changes.get("calendar") and put.tenant != "acme":
            changes |= {"calendar": "", "excluded": "skip"}
        return msgspec.structs.replace(put, at_ms=at_ms, mode=dice.pick(("replace", "replace", "update")), **changes)

    def _command(self, at_ms: int, put: PutSchedule, action: str, **fields: str) -> CommandSchedule:
        return CommandSchedule(at_ms, put.name, action, tenant=put.tenant, **fields)

    def _after(self, dice: Dice, at_ms: int) -> int:
        return min(at_ms + dice.log_between(20, max(self._busy_ms - at_ms, 20)), self._busy_ms)

    def _backfill(self, dice: Dice, put: PutSchedule, *, is_daily: bool) -> Backfill:
        """Return a backfill of weeks for a schedule that is daily whatever is edited, else of about as long as a run."""
        span_ms = dice.between(1, 20) * 86_400_000 if is_daily else self._span(dice, 2_000, 60_000)
        at_ms = min(put.at_ms + self._span(dice, 500, 20_000), self._busy_ms)
        until_ms = dice.pick((0, at_ms - 1_500, at_ms - 10_000))
        return Backfill(
            at_ms, put.name, until_ms - span_ms, until_ms, dice.pick(("none", "none", "failed", "all")), dice.between(1, 5),
            is_backwards=dice.chance(1, 3), tenant=put.tenant,
        )  # fmt: skip

    # -- calendars -------------------------------------------------------------------------------------------------------

    def _calendars(self, dice: Dice) -> list[Work]:
        """Return two calendars, known before the schedules in most cases, and how they are edited."""
        self._calendared = _EXPRESSIONS
        work: list[Work] = []
        for name in ("c1", "c2"):
            work.append(self._calendar(dice, dice.below(400), name))
            for _ in range(dice.pick((0, 1, 1, 3))):
                work.append(self._calendar(dice, dice.below(self._busy_ms), name))
        return work

    def _calendar(self, dice: Dice, at_ms: int, name: str) -> SetCalendar:
        """Return days and minutes that schedules leave out: some of the run, or none of it."""
        start = _EPOCH + timedelta(milliseconds=self._options.start_ms)
        zone = dice.pick(("", "UTC"))
        match dice.below(4):
            case 0:
                return SetCalendar(at_ms, name, dates=[start.date().isoformat()], zone=zone)
            case 1:
                return SetCalendar(at_ms, name, dates=["2020-02-29"], zone=zone)
            case 2:
                return SetCalendar(at_ms, name, weekdays=[dice.below(7)], zone=zone)
            case _:
                minutes = self._options.duration_ms // 60_000 + 1
                minute = start.hour * 60 + start.minute + dice.below(minutes)
                first = min(minute, 1_438) % 1_440
                return SetCalendar(at_ms, name, hours=[(first, min(first + dice.between(1, minutes), 1_440))], zone="UTC")


def _is_daily(put: PutSchedule) -> bool:
    minute, _, rest = put.cron.partition(" ")
    hour, _, days = rest.partition(" ")
    return minute.isdigit() and hour.isdigit() and days == "* * *"
