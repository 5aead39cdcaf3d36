"""What a schedule, a command and a backfill must look like before a shard hears of them.

Definitions are refused one by one, by position, so that one bad row does not hold up a million good ones. Rules are not
looked into here: the shard that gets a schedule knows its calendars, and refuses a rule with the same words.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from ..actors.addresses import check_name
from ..actors.messages import LOWEST_PRIORITY
from ..actors.rule_errors import instant_text
from ..actors.schedule_messages import (
    MISSED,
    OVERLAPS,
    REPROCESS,
    BackfillSpec,
    CommandBackfills,
    CommandSchedules,
    PutSchedules,
    ScheduleSpec,
)
from ..runtime.errors import UsageError
from .admission import EdgeLimits, InvalidOptionError, TooLargeError

MAX_CATCHUP: Final = 1_000  # ticks that may be made up for after one absence
MAX_CONCURRENCY: Final = 10_000  # runs of one backfill at a time
_MAX_CRON: Final = 1_000
_MAX_ZONE: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/@<>-]{1,200}")
_DAY_MS: Final = 86_400_000
_MODES: Final = ("create", "replace", "update")
_ACTIONS: Final = ("pause", "resume", "delete", "trigger")
_ENDINGS: Final = ("refuse", "tell", "let")
_BACKFILL_ACTIONS: Final = ("pause", "resume", "cancel")


class InvalidScheduleNameError(UsageError):
    """A text that cannot name a schedule."""

    code = "invalid_name"

    def __init__(self, name: str) -> None:
        super().__init__(f"schedule {name[:80]!r} is not a name, expected 1 to 200 letters, digits and '_-.:/@<>'")
        self.name = name


def check_schedule_name(name: str) -> str:
    """Return the name. Raises: InvalidScheduleNameError."""
    if not _NAME.fullmatch(name):
        raise InvalidScheduleNameError(name)
    return name


def check_put(request: PutSchedules, limits: EdgeLimits) -> None:
    """Check all of a request but its schedules and templates. Raises: UsageError."""
    if not request.schedules:
        raise InvalidOptionError("the request", "empty", "at least one schedule")
    if len(request.schedules) > limits.max_tasks:
        raise TooLargeError("the number of schedules in a request", len(request.schedules), limits.max_tasks)
    if len(request.templates) > limits.max_templates:
        raise TooLargeError("the number of templates in a request", len(request.templates), limits.max_templates)
    size = sum([len(spec.payload) for spec in request.schedules])
    if size > limits.max_batch_bytes:
        raise TooLargeError("the size of the request's payloads in bytes", size, limits.max_batch_bytes)
    _one_of("mode", request.mode, _MODES)


def is_right(spec: ScheduleSpec, templates: int, limits: EdgeLimits) -> bool:
    """Tell whether `check_definition` would find nothing wrong: the short way, for bulk calls."""
    return (
        _NAME.fullmatch(spec.name) is not None
        and 0 <= spec.template < templates
        and len(spec.payload) <= limits.max_payload
        and 0 <= spec.priority <= LOWEST_PRIORITY
        and not spec.key
        and spec.overlap in OVERLAPS
        and spec.missed in MISSED
        and 0 <= spec.grace_ms <= _DAY_MS
        and 0 == spec.max_lateness_ms == spec.pause_after
        and 0 <= spec.max_catchup <= MAX_CATCHUP
        and not spec.note
        and not spec.declared_in
        and len(spec.rule.cron) <= _MAX_CRON
        and len(spec.rule.zone) <= _MAX_ZONE
    )


def check_definition(spec: ScheduleSpec, templates: int, limits: EdgeLimits) -> None:
    """Raises: UsageError unless everything but the rule is within its range."""
    check_schedule_name(spec.name)
    if not 0 <= spec.template < templates:
        raise InvalidOptionError("template", spec.template, f"an index of the request's {templates} templates")
    if len(spec.payload) > limits.max_payload:
        raise TooLargeError("the payload's size in bytes", len(spec.payload), limits.max_payload)
    if not 0 <= spec.priority <= LOWEST_PRIORITY:
        raise InvalidOptionError("priority", spec.priority, f"0 to {LOWEST_PRIORITY}")
    if len(spec.key) > limits.max_key or not spec.key.isprintable():
        raise InvalidOptionError("key", spec.key, f"at most {limits.max_key} printable characters")
    _one_of("overlap", spec.overlap, OVERLAPS)
    _one_of("missed", spec.missed, MISSED)
    _within("grace_ms", spec.grace_ms, 0, limits.horizon_ms)
    _within("max_lateness_ms", spec.max_lateness_ms, 0, limits.horizon_ms)
    _within("max_catchup", spec.max_catchup, 0, MAX_CATCHUP)
    _within("pause_after", spec.pause_after, 0, 1_000_000_000)
    _check_text("note", spec.note, limits)
    if spec.declared_in:
        check_name("declared_in", spec.declared_in)
    rule = spec.rule
    if len(rule.cron) > _MAX_CRON:
        raise TooLargeError("the length of 'cron'", len(rule.cron), _MAX_CRON)
    if len(rule.zone) > _MAX_ZONE:
        raise TooLargeError("the length of 'zone'", len(rule.zone), _MAX_ZONE)


def check_command(request: CommandSchedules, limits: EdgeLimits) -> None:
    """Raises: UsageError."""
    if len(request.names) > limits.max_ids:
        raise TooLargeError("the number of names", len(request.names), limits.max_ids)
    _one_of("action", request.action, _ACTIONS)
    _one_of("missed", request.missed, ("", *MISSED))
    _one_of("overlap", request.overlap, ("", *OVERLAPS))
    _check_text("by", request.by, limits)
    _check_text("why", request.why, limits)


def check_backfill(spec: BackfillSpec, now_ms: int, limits: EdgeLimits) -> None:
    """Raises: UsageError unless the window is past and everything is within its range."""
    check_schedule_name(spec.schedule)
    if not 0 <= spec.from_ms < spec.until_ms:
        expected = f"an instant since 1970, and before the end {instant_text(spec.until_ms)}"
        raise InvalidOptionError("start", instant_text(spec.from_ms), expected)
    if spec.until_ms > now_ms:
        expected = f"an instant that is past, at most {instant_text(now_ms)}"
        raise InvalidOptionError("end", instant_text(spec.until_ms), expected)
    _one_of("reprocess", spec.reprocess, REPROCESS)
    _within("concurrency", spec.concurrency, 1, MAX_CONCURRENCY)
    _within("priority", spec.priority, -1, LOWEST_PRIORITY)
    _check_text("by", spec.by, limits)


def check_backfill_command(request: CommandBackfills) -> None:
    """Raises: UsageError."""
    _one_of("action", request.action, _BACKFILL_ACTIONS)


def check_ending(ending: str) -> None:
    """Raises: UsageError."""
    _one_of("ending", ending, _ENDINGS)


def check_count(what: str, value: int, limits: EdgeLimits) -> None:
    """Raises: UsageError unless so many can be on one page."""
    _within(what, value, 1, limits.max_page)


def _check_text(what: str, text: str, limits: EdgeLimits) -> None:
    """What people write is shown on other people's terminals, which obey control characters."""
    if len(text) > limits.max_text:
        raise TooLargeError(f"the length of {what!r}", len(text), limits.max_text)
    if not text.isprintable():
        raise InvalidOptionError(what, text, "printable characters on one line")


def _one_of(what: str, value: str, words: Collection[str]) -> None:
    if value not in words:
        raise InvalidOptionError(what, value, " or ".join(repr(word) for word in words))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidOptionError(what, value, f"{low} to {high}")
