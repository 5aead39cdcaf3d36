"""When and how a schedule ticks, as options of the command line: the words of `client.schedules.create`.

A moment without an offset is one of the schedule's zone, so `--start 2026-03-29` is that day's midnight there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import click

from ..actors.hours import GAPS, OVERLAPS, check_zone
from ..actors.rule_check import EXCLUDED, PRECISIONS
from ..actors.rule_errors import InvalidRuleError
from ..actors.schedule_messages import MISSED
from ..actors.schedule_messages import OVERLAPS as OVERLAP_WORDS
from .durations import InvalidInstantError
from .rules import WHEN_WORDS, WhenError
from .schedule_errors import ScheduleExistsError

Command = Callable[..., Any]

_MOMENTS: Final = ("start", "end", "anchor")
_NONE: Final = "none"
_EXPECTED_MOMENT: Final = (
    "ISO text such as 2030-01-31 or 2030-01-31T09:00, which is local to the zone, or with an offset, 2030-01-31T09:00+01:00"
)
_RULE: Final = (
    click.option("--cron", metavar="EXPR", help="At these times: minute hour day month weekday, such as '0 6 * * 1-5'."),
    click.option("--every", metavar="SPAN", help="At a fixed rate, such as 5m, or 'day at 18:00'."),
    click.option("--after", metavar="SPAN", help="So long after the end of each run."),
    click.option("--at", multiple=True, metavar="MOMENT", help="At a moment; repeatable."),
    click.option("--anchor", metavar="MOMENT", help="From which --every counts. [default: the start, or 1970]"),
    click.option("--zone", metavar="NAME", help="IANA time zone, such as Europe/Berlin. [default: UTC]"),
    click.option("--dst-gap", type=click.Choice(GAPS), help="Local times that do not exist. [default: shift]"),
    click.option("--dst-overlap", type=click.Choice(OVERLAPS), help="Local times that exist twice. [default: first]"),
    click.option("--start", metavar="MOMENT", help="No tick before."),
    click.option("--end", metavar="MOMENT", help="No tick after."),
    click.option("--limit", type=click.IntRange(0), help="Ticks that fire at most; 0: no limit."),
    click.option("--calendar", metavar="EXPR", help="Only then, such as 'weekdays and not holidays_de'."),
    click.option("--excluded", type=click.Choice(EXCLUDED), help="What becomes of other days' ticks. [default: skip]"),
    click.option("--jitter", metavar="SPAN", help="Fire up to so much later."),
    click.option("--hashed/--no-hashed", default=None, help="The same jitter at every tick."),
    click.option("--precision", type=click.Choice(PRECISIONS), help="How exact. [default: normal]"),
)
_POLICIES: Final = (
    click.option("--overlap", type=click.Choice(OVERLAP_WORDS), help="While a run is alive. [default: skip]"),
    click.option("--missed", type=click.Choice(MISSED), help="Ticks that nobody could fire. [default: skip]"),
    click.option("--grace", metavar="SPAN", help="A tick later than this was missed. [default: 1m]"),
    click.option("--max-lateness", metavar="SPAN", help="Never make up for older ticks."),
    click.option("--max-catchup", type=click.IntRange(0), help="Make up for at most so many. [default: 100]"),
    click.option("--pause-after", type=click.IntRange(0), help="Pause after so many failures in a row; 0: never."),
    click.option("--note", help="For people."),
    click.option("--priority", help="critical, high, normal, low, or 0 (first) to 9."),
    click.option("--key", help="Concurrency key."),
    click.option("--queue", help="Instead of the handler's queue."),
    click.option("--max-attempts", type=int, help="Instead of the handler's."),
    click.option("--timeout", metavar="SPAN", help="Of one attempt; none: no limit."),
)


def rule_options(function: Command) -> Command:
    """Give a command the options of a rule; it gets those that were used as `rule`, for `rule_words`."""
    return _gathered(function, _RULE, "rule")


def policy_options(function: Command) -> Command:
    """Give a command the options of policies and tasks; it gets those that were used as `policies`, for `policy_words`."""
    return _gathered(function, _POLICIES, "policies")


def _gathered(function: Command, options: Sequence[Callable[[Any], Any]], name: str) -> Command:
    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        given = {word: kwargs.pop(word) for word in words}
        used = {word: value for word, value in given.items() if value is not None and value != ()}
        return function(*args, **kwargs, **{name: used})

    for option in reversed(options):
        option(command)
    words = [parameter.name for parameter in command.__dict__["__click_params__"][-len(options) :]]
    return command


def rule_words(given: dict[str, Any], zone: str = "") -> dict[str, Any]:
    """Return options of a rule as the words of `create`. `zone`: of moments without an offset, if none is given.
    Raises: UsageError."""
    words = dict(given)
    place = words.get("zone") or zone or "UTC"
    for word in _MOMENTS:
        if word in words:
            words[word] = None if words[word] == _NONE else moment_in(words[word], place, what=word)
    if "at" in words:
        words["at"] = [moment_in(text, place, what="at") for text in words["at"]]
    if words.get("jitter") == _NONE:
        words["jitter"] = None
    if "calendar" in words and words["calendar"] in ("", _NONE):
        words["calendar"] = None
    if words.get("limit") == 0:
        words["limit"] = None
    start, end = words.get("start"), words.get("end")
    if start and end and end < start:
        raise InvalidRuleError("end", given["end"], "is before the start", f"a moment at or after {given['start']!r}")
    return words


def policy_words(given: dict[str, Any]) -> dict[str, Any]:
    """Return options of policies as the words of `create`."""
    words = dict(given)
    priority = words.get("priority")
    if priority is not None and priority.isascii() and priority.isdigit():
        words["priority"] = int(priority)
    if words.get("timeout") == _NONE:
        words["timeout"] = 0
    return words


def says_when(rule: dict[str, Any]) -> bool:
    """Tell whether options name a rule, and not only parts of one."""
    return any(word in rule for word in WHEN_WORDS)


def moment_in(text: str, zone: str, *, what: str) -> datetime:
    """Return a moment of ISO 8601; without an offset it is local to the zone, where one that does not exist is read with the
    offset before the gap, which is said. Raises: InvalidInstantError, InvalidZoneError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        problem = "is not a moment" if str(error).startswith("Invalid isoformat") else f"is not a moment, since {error}"
        raise InvalidInstantError(what, text, problem, _EXPECTED_MOMENT) from None
    if moment.tzinfo is None:
        check_zone(zone)
        moment = moment.replace(tzinfo=ZoneInfo(zone))
        real = moment.astimezone(UTC).astimezone(moment.tzinfo)
        if real.replace(tzinfo=None) != moment.replace(tzinfo=None):
            shown = real.replace(tzinfo=None).isoformat()
            click.echo(f"foliot: {what} {text!r} does not exist in {zone}, read as {shown}", err=True)
    return moment


def in_utc(moment: datetime | None) -> str | None:
    """Return a moment as `2026-03-29T01:30:00Z`, with milliseconds if it has some."""
    if moment is None:
        return None
    has_part = bool(moment.microsecond)
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if has_part else "seconds")
    return text.removesuffix("+00:00") + "Z"


@contextmanager
def in_options() -> Iterator[None]:
    """Raise errors of a rule in the words of the command line: its options."""
    try:
        yield
    except WhenError as error:
        raise WhenError(error.given, form="--{}") from None
    except ScheduleExistsError as error:
        raise ScheduleExistsError(error.name, error.tenant, how="--replace") from None
