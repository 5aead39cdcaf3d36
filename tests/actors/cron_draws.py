"""Cron expressions drawn from a stream: every form a field can take, with times that fall into clock changes often.

Each of them fires within some years: a month is named only along with days that every month has, and days are at most 9
apart, so every week of a month has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from foliot.runtime.rng import Rng
from foliot.simulations.almanac_words import DAYS, MONTHS

NIGHT_HOURS: Final = 5  # clocks are changed before that, nearly always


def drawn_cron(rng: Rng) -> str:
    """Return an expression of 5, 6 or 7 fields."""
    minute, hour = _minutes(rng, 60), _hours(rng)
    month = "*" if rng.below(4) else _month(rng)
    day, weekday = _day(rng, 31 if month == "*" else 28), _weekday(rng)
    fields = [minute, hour, day, month, weekday]
    if not rng.below(5):
        fields = [_minutes(rng, 60), *fields]
        if not rng.below(2):
            fields.append(_pick(rng, ("*", f"{1970 + rng.below(20)}-2100", "1990/1")))
    return " ".join(fields)


def _minutes(rng: Rng, size: int) -> str:
    if not rng.below(3):
        return _pick(rng, ("0", "30", "59"))
    first, last, step = rng.below(size), rng.below(size), 10 + rng.below(20)
    return _pick(rng, (f"{first}", f"{first},{last}", f"*/{step}", f"{first}/{step}", f"{first}-{last}/{step}"))


def _hours(rng: Rng) -> str:
    first, last, night, step = rng.below(24), rng.below(24), rng.below(NIGHT_HOURS), 2 + rng.below(10)
    forms = ("*", f"{night}", f"{night},{last}", f"{night}-{last}", f"{last}-{night}/{step}", f"*/{step}", f"{night}/{step}")
    return _pick(rng, (*forms, f"{first}", f"{night},{first}-{last}"))


def _day(rng: Rng, last_day: int) -> str:
    first, last, step = 1 + rng.below(last_day), 1 + rng.below(last_day), 2 + rng.below(8)
    if not rng.below(2):
        return _pick(rng, ("*", "?", "*"))
    forms = (f"{first}", f"{first},{last}", f"{first}-{last}", f"{first}-{last}/{step}", f"*/{step}", f"{first}/{step}")
    return _pick(rng, (*forms, "L", "LW", f"L-{step}", f"{first}W", f"{first},L", f"{first}W,{last}"))


def _month(rng: Rng) -> str:
    first, last = 1 + rng.below(12), 1 + rng.below(12)
    name = MONTHS[rng.below(12)].lower()
    return _pick(rng, (f"{first}", name, f"{first},{name}", f"{first}-{last}"))


def _weekday(rng: Rng) -> str:
    first, last, nth = rng.below(7), rng.below(7), 1 + rng.below(4)
    if not rng.below(2):
        return _pick(rng, ("*", "?", "*"))
    name, until = DAYS[first].lower(), DAYS[last]
    forms = (f"{first}", name, f"{name},{last}", f"{first}-{last}", f"{name}-{until}", f"{first}-7", "*/2")
    return _pick(rng, (*forms, f"{first}L", f"{name}L", f"{first}#{nth}", f"{name}#{nth}", f"7,{name}#{nth}"))


def _pick(rng: Rng, forms: Sequence[str]) -> str:
    return forms[rng.below(len(forms))]
