"""Task ids: 63-bit integers, ordered by time, that carry their shard.

    41 bits  milliseconds since 2020-01-01 UTC (until 2089)
    10 bits  shard
    12 bits  sequence within the millisecond; when it is used up, the next millisecond is begun early

People see them as 13 characters of Crockford's base 32, which sort alike.
"""

from __future__ import annotations

from typing import Final

from .errors import UsageError

EPOCH_MS = 1_577_836_800_000
MAX_SHARDS = 1 << 10
_SHARD_SHIFT = 12
_TIME_SHIFT = 22
_SEQUENCE_MASK = (1 << _SHARD_SHIFT) - 1
MAX_ID = (1 << 63) - 1
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [high + low for high in _DIGITS for low in _DIGITS]
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}


class InvalidIdError(UsageError):
    """A text that is not a task id."""

    code = "invalid_id"

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:40]!r} is not an id, expected 13 characters of 0-9 and a-z without i, l, o, u")
        self.text = text


class IdSource:
    """Hands out the ids of one shard, strictly growing even when the clock is set back."""

    def __init__(self, shard: int, last_id: int = 0) -> None:
        assert 0 <= shard < MAX_SHARDS
        self._base = shard << _SHARD_SHIFT
        self._last = last_id
        self.shard = shard

    def next_id(self, now_ms: int) -> int:
        """Return an id greater than every earlier one of this shard."""
        last, millisecond = self._last, max(now_ms - EPOCH_MS, 0)
        if not last or millisecond > last >> _TIME_SHIFT:
            self._last = millisecond << _TIME_SHIFT | self._base
        elif last & _SEQUENCE_MASK != _SEQUENCE_MASK:
            self._last = last + 1
        else:
            self._last = (last >> _TIME_SHIFT) + 1 << _TIME_SHIFT | self._base
        return self._last

    def block(self, now_ms: int, count: int) -> list[int]:
        """Return `count` ids, ascending, each greater than every earlier one of this shard."""
        ids: list[int] = []
        millisecond = max(now_ms - EPOCH_MS, 0)
        last_millisecond, last_sequence = self._last >> _TIME_SHIFT, self._last & _SEQUENCE_MASK
        sequence = 0
        if self._last and millisecond <= last_millisecond:
            millisecond, sequence = last_millisecond, last_sequence + 1
        while len(ids) < count:
            room = _SEQUENCE_MASK + 1 - sequence
            take = min(room, count - len(ids))
            first = millisecond << _TIME_SHIFT | self._base | sequence
            ids.extend(range(first, first + take))
            millisecond, sequence = millisecond + 1, 0
        if ids:
            self._last = ids[-1]
        return ids


def shard_of(task_id: int) -> int:
    """Return the shard that owns the task, for life."""
    return task_id >> _SHARD_SHIFT & (MAX_SHARDS - 1)


def time_of_ms(task_id: int) -> int:
    """Return when the id was made, in wall-clock milliseconds."""
    return (task_id >> _TIME_SHIFT) + EPOCH_MS


def to_text(task_id: int) -> str:
    """Return the 13 characters people see."""
    pairs = _PAIRS
    return (
        f"{_DIGITS[task_id >> 60 & 31]}{pairs[task_id >> 50 & 1023]}{pairs[task_id >> 40 & 1023]}"
        f"{pairs[task_id >> 30 & 1023]}{pairs[task_id >> 20 & 1023]}{pairs[task_id >> 10 & 1023]}{pairs[task_id & 1023]}"
    )


def from_text(text: str) -> int:
    """Return the id of its text form, upper or lower case. Raises: InvalidIdError."""
    if not isinstance(text, str) or len(text) != 13:
        raise InvalidIdError(str(text))
    value = 0
    for digit in text.lower():
        if digit not in _VALUES:
            raise InvalidIdError(text)
        value = value << 5 | _VALUES[digit]
    if value > MAX_ID:
        raise InvalidIdError(text)
    return value
