"""Calendars in files: JSON, or plain lines that people keep by hand.

    # holidays_de.txt: the calendar of that name
    01-01            # a day of every year
    easter-2         # Good Friday; easter+1 is Easter Monday
    2026-12-24       # a single day
    sat              # a weekday
    nov thu 4        # the fourth Thursday of November; -1 is the last
    09:00-17:00      # a part of the day
    zone Europe/Berlin

JSON is an object of the words of `calendar_of`, named by the file, or an object of such objects by name.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..actors.calendars import check_calendar
from ..actors.rules import Calendar
from ..runtime.errors import UsageError
from .calendars import calendar_of

SIZE_MAX: Final = 1 << 20  # bytes of a file
_WORDS: Final = tuple(list(inspect.signature(calendar_of).parameters)[1:])
_HELD: Final = ("weekdays", "dates", "yearly", "easter", "nth_weekdays", "hours")
_FORMS: Final = (
    ("dates", re.compile(r"\d{4}-\d\d-\d\d")),
    ("yearly", re.compile(r"\d\d-\d\d")),
    ("hours", re.compile(r"\d{1,2}:\d\d-\d{1,2}:\d\d")),
    ("easter", re.compile(r"easter ?([+-]\d{1,3})?")),
    ("nth", re.compile(r"([a-z]{3,9}) ([a-z]{3,9}) (-?\d)")),
    ("weekdays", re.compile(r"(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:days?)?")),
    ("zone", re.compile(r"zone (\S+)")),
)
_EXPECTED: Final = "2026-12-24, 12-25, easter-2, 'nov thu 4', sat, 09:00-17:00 or 'zone Europe/Berlin'"


class CalendarFileError(UsageError):
    """A file that holds no calendar."""

    code = "calendar_file"

    def __init__(self, path: str, problem: str, expected: str) -> None:
        super().__init__(f"calendar file {path!r} {problem}, expected {expected}")
        self.path = path
        self.problem = problem
        self.expected = expected


def read_calendars(paths: Sequence[str]) -> list[Calendar]:
    """Return the calendars of files, checked. Raises: CalendarFileError, InvalidCalendarError, InvalidZoneError,
    InvalidOptionError."""
    return [calendar for path in paths for calendar in read_calendar_file(path)]


def read_calendar_file(path: str, *, name: str = "", is_empty_right: bool = False) -> list[Calendar]:
    """Return the calendars of a file; one that has no name there is `name`, by default the file's without its ending.
    `is_empty_right`: it may hold neither days nor hours, which makes it every moment. Raises: as `read_calendars`."""
    found = _calendars_in(path, name)
    for calendar in found:
        if not is_empty_right and not any(getattr(calendar, field) for field in _HELD):
            problem = f"has neither days nor hours for {calendar.name!r}, which would be every moment"
            raise CalendarFileError(path, problem, f"{_EXPECTED}; `foliot calendars set --force` sets it all the same")
    return found


def _calendars_in(path: str, name: str) -> list[Calendar]:
    text = _text(path)
    name = name or Path(path).stem
    if text.lstrip().startswith("{"):
        return _of_json(path, text, name)
    calendar = calendar_of(name, **_of_lines(path, text))
    check_calendar(calendar)
    return [calendar]


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_MAX + 1)
        if len(data) > SIZE_MAX:
            raise CalendarFileError(path, f"has more than {SIZE_MAX:,} bytes", f"at most {SIZE_MAX:,}")
        return data.decode()
    except UnicodeDecodeError as error:
        raise CalendarFileError(path, "is not UTF-8", "a text file") from error
    except OSError as error:
        raise CalendarFileError(path, f"cannot be read: {error.strerror}", "the path of a file") from error


def _of_json(path: str, text: str, name: str) -> list[Calendar]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalendarFileError(path, f"is not JSON: {error}", "an object") from error
    is_one = any(word in _WORDS for word in document) or not document
    named = {name: document} if is_one else document
    return [_of_object(path, each, words) for each, words in named.items()]


def _of_object(path: str, name: str, words: Any) -> Calendar:
    if not isinstance(words, dict):
        raise CalendarFileError(path, f"has no object for {name!r}", f"an object of {', '.join(_WORDS)}")
    for word, value in words.items():
        if word not in _WORDS:
            raise CalendarFileError(path, f"has the word {word!r} in calendar {name!r}", f"one of {', '.join(_WORDS)}")
        if not isinstance(value, str if word == "zone" else list):
            expected = "a text" if word == "zone" else "a list"
            raise CalendarFileError(path, f"has {value!r:.40} as {word!r} of calendar {name!r}", expected)
    try:
        calendar = calendar_of(name, **words)
        check_calendar(calendar)
    except (TypeError, ValueError, AttributeError) as error:
        raise CalendarFileError(path, f"has a wrong value in calendar {name!r}: {error}", "values as in the docs") from error
    return calendar


def _of_lines(path: str, text: str) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        plain = " ".join(line.partition("#")[0].lower().split())
        if not plain:
            continue
        found = next(((word, match) for word, form in _FORMS if (match := form.fullmatch(plain))), None)
        if found is None:
            raise CalendarFileError(path, f"has {line.strip()!r:.60} on line {number}", _EXPECTED)
        word, match = found
        if word == "zone":
            words["zone"] = line.partition("#")[0].split()[1]
        else:
            words.setdefault(word, []).append(_value(word, plain, match))
    return words


def _value(word: str, text: str, match: re.Match[str]) -> Any:
    match word:
        case "easter":
            return int(match[1] or "0")
        case "nth":
            return match[1], match[2], int(match[3])
        case _:
            return text
