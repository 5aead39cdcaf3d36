"""Rules in words: what they become, and what is not understood."""

from __future__ import annotations

import pytest
from foliot.actors.interval_words import parse
from foliot.actors.rule_errors import InvalidWordsError
from foliot.actors.rules import Rule
from foliot.actors.ticks import Ticks


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("every 5 minutes", Rule(every_ms=300_000)),
        ("every 90 seconds", Rule(every_ms=90_000)),
        ("every 90s", Rule(every_ms=90_000)),
        ("Every  2 Hours", Rule(every_ms=7_200_000)),
        ("every 250 ms", Rule(every_ms=250)),
        ("every 1 millisecond", Rule(every_ms=1)),
        ("every minute", Rule(every_ms=60_000)),
        ("every hour", Rule(every_ms=3_600_000)),
        ("every 2 days", Rule(every_ms=172_800_000)),
        ("every week", Rule(every_ms=604_800_000)),
        ("every day", Rule(cron="0 0 * * *")),
        ("every day at 18:00", Rule(cron="0 18 * * *")),
        ("every day at 18:00:30", Rule(cron="30 0 18 * * *")),
        ("every day at 12:15 am", Rule(cron="15 0 * * *")),
        ("every day at 12 pm", Rule(cron="0 12 * * *")),
        ("every monday at 9:30", Rule(cron="30 9 * * 1")),
        ("every Mondays and thursdays at noon", Rule(cron="0 12 * * 1,4")),
        ("every mon, wed, and sun at 6pm", Rule(cron="0 18 * * 0,1,3")),
        ("every tues and wednesday", Rule(cron="0 0 * * 2,3")),
        ("every weekday at 9:00", Rule(cron="0 9 * * 1,2,3,4,5")),
        ("every weekend at midnight", Rule(cron="0 0 * * 0,6")),
        ("every month at 7:05", Rule(cron="5 7 1 * *")),
        ("every year", Rule(cron="0 0 1 1 *")),
    ],
)
def test_words_become_a_rule_that_ticks(text: str, rule: Rule) -> None:
    assert parse(text) == rule
    assert Ticks(parse(text)).first(1) is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not understood, expected 'every 5 minutes'"),
        ("every", "is not understood"),
        ("hourly", "is not understood"),
        ("every 5 parsecs", "has 'parsecs', which is no unit, expected one such as ms, s, m"),
        ("every -5 minutes", "is not understood"),
        ("every 1.5 hours", "is not understood"),
        ("every 0 minutes", "is no interval, expected 1 or more"),
        ("every 3000000 hours", "is longer than schedules reach"),
        ("every 2 days at 18:00", "gives a time to an interval"),
        ("every caturday", "has 'caturday', which is no unit or day"),
        ("every monday and at 9:00", "has 'monday and', which is no unit or day"),
        ("every day at 24:00", "has the time '24:00', expected a time such as 18:00"),
        ("every day at 9:60", "has the time '9:60'"),
        ("every day at 13 pm", "has the time '13 pm'"),
        ("every day at 0 am", "has the time '0 am'"),
        ("every day at 6", "has the time '6'"),
        ("every day at dawn", "has the time 'dawn'"),
        ("every " + "monday " * 40, "characters long, expected at most 200"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidWordsError) as refused:
        parse(text)

    assert says in str(refused.value)
    assert (refused.value.field, refused.value.value, refused.value.code) == ("words", text, "invalid_words")
