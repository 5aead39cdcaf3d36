"""The client's schedules: words into rules and definitions, the calls over both channels, and bulk calls that must retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from foliot import Client, Foliot, SyncClient, UsageError
from foliot.actors.messages import TaskRefusal
from foliot.actors.rule_errors import InvalidCronError, InvalidRuleError, InvalidZoneError, NeverTicksError
from foliot.actors.rules import Calendar, Rule
from foliot.actors.schedule_messages import SchedulesPut
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError, UnavailableError
from foliot.sdk.calendars import calendar_of
from foliot.sdk.client_spec import SpecMaker
from foliot.sdk.declared import DuplicateScheduleError
from foliot.sdk.errors import BulkStoppedError, InvalidRequestError
from foliot.sdk.rules import rule_of, ticks_of
from foliot.sdk.schedule_bulk import BulkPut, PutResult
from foliot.sdk.schedule_errors import BackfillNotFoundError, CalendarNotFoundError, ScheduleNotFoundError
from foliot.sdk.schedule_views import preview_of, rule_text, span_words
from foliot.sdk.schedule_words import Draft, DraftMaker
from foliot.transports.local import LocalServer

from ..transports.edge import EdgeNode

app = Foliot("t")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000


@app.task(name="ok", max_attempts=7, priority="low", key="n")
async def ok(n: int = 0, zone: str = "") -> dict[str, Any]:
    """Its worker answers the arguments; `zone` is also a word of schedules."""
    return {}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EdgeNode]:
    async with EdgeNode(tmp_path / "foliot.db") as node:
        yield node


@pytest.fixture(params=["in process", "socket"])
async def client(node: EdgeNode, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    if request.param == "in process":
        async with Client(channel=node.gateway, tenant="acme") as client:
            yield client
        return
    async with LocalServer(node.gateway, str(tmp_path / "s")):
        async with Client(str(tmp_path / "s"), tenant="acme") as client:
            yield client


# -- rules in words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ({"cron": " 0 6 * * * ", "zone": "Europe/Berlin"}, Rule(cron="0 6 * * *", zone="Europe/Berlin")),
        ({"every": "90s"}, Rule(every_ms=90_000)),
        ({"every": 5}, Rule(every_ms=5_000)),
        ({"every": timedelta(minutes=5)}, Rule(every_ms=300_000)),
        ({"every": "5 minutes"}, Rule(every_ms=300_000)),
        ({"every": "Every day at 18:00"}, Rule(cron="0 18 * * *")),
        ({"every": "monday and friday at 9:30"}, Rule(cron="30 9 * * 1,5")),
        ({"every": "1h", "start": NOON}, Rule(every_ms=3_600_000, start_ms=NOON_MS, anchor_ms=NOON_MS)),
        ({"every": "1h", "anchor": NOON}, Rule(every_ms=3_600_000, anchor_ms=NOON_MS)),
        ({"after": "10 minutes"}, Rule(after_ms=600_000)),
        ({"at": "2026-03-01T13:00:00+01:00"}, Rule(at_ms=(NOON_MS,))),
        ({"at": [NOON + timedelta(seconds=1), NOON, NOON]}, Rule(at_ms=(NOON_MS, NOON_MS + 1_000))),
        ({"every": "1h", "end": NOON, "limit": 3}, Rule(every_ms=3_600_000, end_ms=NOON_MS, limit=3)),
        ({"every": "1h", "end": None, "limit": None, "zone": None}, Rule(every_ms=3_600_000)),
        ({"cron": "H * * * *", "jitter": "30s", "hashed": True},
         Rule(cron="H * * * *", jitter_ms=30_000, is_jitter_fixed=True)),
        ({"cron": "@daily", "dst_gap": "skip", "dst_overlap": "both", "precision": "high"},
         Rule(cron="@daily", dst_gap="skip", dst_overlap="both", precision="high")),
        ({"cron": "0 18 LW * *", "calendar": "weekdays", "excluded": "previous"},
         Rule(cron="0 18 LW * *", calendar="weekdays", excluded="previous")),
    ],
)  # fmt: skip
def test_words_name_a_rule(words: dict[str, Any], rule: Rule) -> None:
    assert rule_of(words) == rule


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({}, "nothing says when to tick, expected exactly one of cron=, every=, after=, at="),
        ({"cron": "* * * * *", "every": "1m"}, "cron= and every= are given together, expected exactly one of cron=, every="),
        ({"every": "0s"}, "every '0s' is no interval, expected 1 ms or more"),
        ({"every": "-5m"}, "every '-5m' is negative"),
        ({"every": "now and then"}, "words 'every now and then' has 'now', which is no unit or day"),
        ({"after": "soon"}, "after 'soon' is not a span"),
        ({"at": "tomorrow"}, "at 'tomorrow' is not a moment"),
        ({"at": datetime(2026, 3, 1)}, "has no time zone"),  # noqa: DTZ001
        ({"at": []}, "expected at least one moment"),
        ({"at": 5}, "option 'at' is 5, expected a moment, or several"),
        ({"every": "1h", "start": "today"}, "start 'today' is not a moment"),
        ({"every": "1h", "limit": 0}, "option 'limit' is 0, expected a whole number of ticks"),
        ({"every": "1h", "limit": True}, "option 'limit' is True"),
        ({"every": "1h", "zone": 1}, "option 'zone' is 1, expected a text"),
        ({"every": "1h", "jitter": "much"}, "jitter 'much' is not a span"),
        ({"every": "1h", "hashed": "yes"}, "option 'hashed' is 'yes', expected True or False"),
    ],
)
def test_words_that_cannot_be_meant_say_which_and_why(words: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        rule_of(words)
    assert text in str(caught.value)


def test_an_edit_of_a_rule_leaves_what_it_does_not_name() -> None:
    old = Rule(cron="0 6 * * *", zone="Europe/Berlin", start_ms=NOON_MS, jitter_ms=5_000, calendar="weekdays")

    assert rule_of({"jitter": None}, old) == Rule(
        cron="0 6 * * *", zone="Europe/Berlin", start_ms=NOON_MS, calendar="weekdays"
    )
    assert rule_of({"every": "1h"}, old) == Rule(
        every_ms=3_600_000, anchor_ms=NOON_MS, zone="Europe/Berlin", start_ms=NOON_MS, jitter_ms=5_000, calendar="weekdays"
    )


def test_a_rule_in_words_is_previewed_without_a_scheduler() -> None:
    words = {"cron": "0 18 LW * *", "zone": "Europe/Berlin", "calendar": "weekdays and not de", "excluded": "previous"}
    ticks = ticks_of(words, now_ms=NOON_MS, calendars=[calendar_of("de", dates=["2026-03-31"], easter=[-2, 1])])

    found = preview_of(ticks, begin_ms=NOON_MS, count=2)

    assert [each.at.isoformat() for each in found] == ["2026-03-30T18:00:00+02:00", "2026-04-30T18:00:00+02:00"]
    assert found[0].notes == ("moved from 2026-03-31T18:00:00",)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(cron="0 6 * * *", calendar="weekdays"), "0 6 * * * on weekdays"),
        (Rule(cron="0 6 * * *", calendar="x", excluded="next"), "0 6 * * * moved forward to x"),
        (Rule(every_ms=5_400_000), "every 1h30m"),
        (Rule(after_ms=600_000), "10m after each run"),
        (Rule(at_ms=(NOON_MS, NOON_MS + 1)), "at 2026-03-01T12:00:00+00:00 and 1 more"),
    ],
)
def test_a_rule_is_told_in_a_few_words(rule: Rule, text: str) -> None:
    assert rule_text(rule) == text


def test_a_span_is_told_exactly() -> None:
    assert [span_words(each) for each in (0, 1, 61_001, 90_061_000)] == ["0ms", "1ms", "1m1s1ms", "1d1h1m1s"]


# -- calendars in words ------------------------------------------------------------------------------------------------


def test_a_calendar_is_made_of_names_and_dates() -> None:
    made = calendar_of(
        "all", weekdays=["mon", "Sunday", 2], dates=[date(2026, 12, 24), "2026-12-31"], yearly=["12-25"], easter=[-2],
        nth=[("nov", "thursday", 4), (5, 0, -1)], hours=["9-17:30", "22:00-24:00"], zone="Europe/Berlin",
    )  # fmt: skip

    assert made == Calendar(
        "all", (0, 6, 2), ("2026-12-24", "2026-12-31"), ("12-25",), (-2,), ((11, 3, 4), (5, 0, -1)),
        ((540, 1_050), (1_320, 1_440)), "Europe/Berlin",
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        {"weekdays": ["funday"]}, {"weekdays": [True]}, {"hours": ["nine to five"]}, {"hours": ["9:60-10"]}, {"hours": [9]},
    ],
)  # fmt: skip
def test_a_calendar_of_other_words_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        calendar_of("all", **words)


# -- definitions -------------------------------------------------------------------------------------------------------


def test_a_draft_has_the_handlers_options_changed_by_words() -> None:
    maker = DraftMaker(SpecMaker(SystemClock()))

    plain = maker.make("a", ok, (5,), {"every": "1h"})
    words = {
        "every": "1h", "zone": "Europe/Berlin", "precision": "high", "overlap": "allow_all", "missed": "last", "grace": "5s",
        "max_lateness": "1h", "max_catchup": 3, "pause_after": 2, "note": "hi", "queue": "mail", "timeout": "1m", "key": "k",
        "arguments": {"zone": "an argument"},
    }  # fmt: skip
    full = maker.make("b", ok, (), words)

    assert (plain.template, plain.spec.priority, plain.spec.key) == (ok.template, 8, "5")
    spec = full.spec
    assert (full.template.queue, full.template.timeout_ms, full.template.max_attempts) == ("mail", 60_000, 7)
    assert (spec.rule.zone, spec.priority, spec.key) == ("Europe/Berlin", 2, "k")
    assert (spec.overlap, spec.missed) == ("allow_all", "last")
    assert (spec.grace_ms, spec.max_lateness_ms, spec.max_catchup, spec.pause_after) == (5_000, 3_600_000, 3, 2)
    assert (spec.note, ok.decode(spec.payload)) == ("hi", {"n": 0, "zone": "an argument"})
    assert maker.make("c", ok, (), {"every": "1h", "precision": "high", "priority": 7}).spec.priority == 7


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("a b", {}, "schedule 'a b' is not a name, expected 1 to 200 letters"),
        ("a", {"m": 1}, "m"),
        ("a", {"overlap": "both"}, "option 'overlap' is 'both', expected 'skip' or 'buffer_one'"),
        ("a", {"max_catchup": 1_001}, "expected a whole number from 0 to 1000"),
        ("a", {"note": 5}, "option 'note' is 5, expected a text of at most 4096 characters"),
        ("a", {"arguments": 5}, "expected the handler's arguments by name"),
        ("a", {"key": "\n"}, "expected at most 256 printable characters"),
        ("a", {"priority": "urgent"}, "option 'priority' is 'urgent'"),
    ],
)
def test_a_definition_that_is_wrong_says_where(name: str, words: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        DraftMaker(SpecMaker(SystemClock())).make(name, ok, (), {"every": "1h", **words})
    assert text in str(caught.value)


# -- declared in code --------------------------------------------------------------------------------------------------


def test_declarations_stack_and_each_needs_a_name_of_its_own() -> None:
    own = Foliot("own")

    @own.schedule(every="1h", name="hourly", kind="short")
    @own.schedule(cron="0 6 * * *")
    @own.task
    async def report(kind: str = "full") -> None: ...

    assert {name: each.draft.spec.declared_in for name, each in own.schedules.items()} == {
        "own.report": "own", "hourly": "own",
    }  # fmt: skip
    assert report.decode(own.schedules["hourly"].draft.spec.payload) == {"kind": "short"}
    with pytest.raises(DuplicateScheduleError, match=r"schedule 'own.report' is already declared for 'own.report'"):
        own.schedule(every="1h")(report)
    with pytest.raises(InvalidCronError, match="cron '61 "):
        own.schedule(name="bad", cron="61 * * * *")(report)
    with pytest.raises(UsageError, match=r"write @app.schedule\(...\) above @app.task"):
        own.schedule(every="1h")(lambda: None)  # type: ignore[type-var]
    assert sorted(own.schedules) == ["hourly", "own.report"]


# -- calls -------------------------------------------------------------------------------------------------------------


async def test_the_life_of_a_schedule(client: Client, node: EdgeNode) -> None:
    node.start_worker()
    first = datetime(2100, 1, 1, tzinfo=UTC)

    info = await client.schedules.create("a", ok, 5, every="1h", start=first, note="mine")
    task = await client.schedules.trigger("a")
    assert task is not None
    assert await task.result(timeout=5) == {"n": 5}

    assert (info.handler, info.state, info.when, info.note) == ("ok", "active", "every 1h", "mine")
    assert (info.payload, info.priority, info.next_at) == ({"n": 5}, 8, first)
    (tick,) = [tick async for tick in client.schedules.history("a", limit=10)]
    assert (tick.source, tick.task) == ("trigger", task.id)
    by_name = await client.schedules.put("b", "any.handler", every="1h", n=1)
    assert (by_name.handler, by_name.payload) == ("any.handler", {"n": 1})
    assert [each.name async for each in client.schedules.list()] == ["a", "b"]
    assert await client.schedules.delete("a") == "deleted"
    with pytest.raises(ScheduleNotFoundError, match="there is no schedule 'a' of tenant 'acme'"):
        await client.schedules.get("a")
    with pytest.raises(ScheduleNotFoundError):
        await client.schedules.backfill("a", NOON, NOON + timedelta(hours=1))
    with pytest.raises(BackfillNotFoundError):
        await client.schedules.command_backfill("0000000000001", "cancel")
    with pytest.raises(CalendarNotFoundError, match="there is no calendar 'x' of tenant 'acme'"):
        await client.calendars.delete("x")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({"cron": "0 0 30 2 *"}, InvalidCronError),
        ({"cron": "0 6 * * *", "zone": "Europe/Berlim"}, InvalidZoneError),
        ({"every": "1h", "start": "2027-01-01T00:00Z", "end": "2026-12-01T00:00Z"}, InvalidRuleError),
        ({"every": "1h", "end": "2020-12-01T00:00Z"}, NeverTicksError),
        ({"every": "1h", "calendar": "nobody"}, InvalidRequestError),
        ({"at": "2020-12-01T00:00Z"}, InvalidRequestError),
    ],
)
async def test_a_rule_that_cannot_be_is_refused_and_nothing_is_created(
    client: Client, words: dict[str, Any], kind: type[UsageError]
) -> None:
    with pytest.raises(kind, match="expected"):
        await client.schedules.create("a", ok, **words)

    assert [each.name async for each in client.schedules.list()] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"every": "1h", "end": "2020-12-01T00:00Z"}, "end '2020-12-01T00:00:00Z' is past, expected an end at or after 20"),
        ({"at": "2020-12-01T00:00Z"}, "2020-12-01T00:00:00Z"),
        ({"every": "1h", "calendar": "weekdays", "end": "2020-12-01T00:00Z"}, "end '2020-12-01T00:00:00Z' is past"),
        ({"every": "1h", "start": "2027-02-01T00:00Z", "end": "2027-01-01T00:00Z"},
         "end '2027-01-01T00:00:00Z' is before the start, expected at or after start 2027-02-01T00:00:00Z"),
    ],
)  # fmt: skip
async def test_errors_say_moments_and_not_milliseconds(client: Client, words: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        await client.schedules.create("a", ok, **words)

    assert says in str(caught.value)
    assert "_ms" not in str(caught.value)


async def test_a_preview_begins_in_the_past_if_it_is_told_to(client: Client) -> None:
    await client.schedules.create("a", ok, cron="30 2 * * *", zone="Europe/Berlin")

    past = await client.schedules.preview("a", count=2, begin="2024-03-30T00:00Z")
    same = await client.schedules.preview("a", count=2, start="2024-03-30T00:00Z")

    assert [tick.at.isoformat() for tick in past] == ["2024-03-30T02:30:00+01:00", "2024-03-31T03:30:00+02:00"]
    assert same == past
    for begin in ("2024-03-30T00:00Z", None):
        with pytest.raises(InvalidRuleError, match="until '2024-03-29T00:00:00Z' is not after the start, expected a moment"):
            await client.schedules.preview("a", begin=begin, until="2024-03-29T00:00Z")


async def test_a_calendar_that_ends_schedules_is_refused_unless_it_is_forced(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    await client.calendars.set("open", weekdays=["mon"])
    await client.schedules.create("mondays", ok, cron="0 9 * * mon", calendar="open")
    await client.schedules.create("daily", ok, cron="0 9 * * *", calendar="open")
    await client.calendars.set("open", weekdays=["mon", "tue"])

    with pytest.raises(InvalidRequestError, match="calendar 'open' would let 'mondays' never tick again") as caught:
        await client.calendars.set("open", weekdays=["tue"])
    assert caught.value.reason == "calendar_ends_schedules"
    assert (await client.calendars.get("open")).version == 2
    assert (await client.calendars.set("open", weekdays=["tue"], force=True)).version == 3

    assert "calendar_ends_schedules" in "".join(capsys.readouterr())
    assert (await client.calendars.set("open", weekdays=["tue"], hours=["08:00-10:00"])).version == 4  # it ticks no more


async def test_the_sync_client_has_the_same(node: EdgeNode, tmp_path: Path) -> None:
    node.start_worker()

    def use() -> list[Any]:
        with SyncClient(str(tmp_path / "s"), tenant="acme") as client:
            schedules = client.schedules
            client.calendars.set("c", weekdays=["mon"])
            schedules.create("a", ok, every="1h")
            schedules.update("a", note="x")
            put = schedules.put_many([schedules.draft("b", ok, every="1h")])
            task = schedules.trigger("a")
            assert task is not None
            backfill = schedules.backfill("a", NOON, NOON + timedelta(hours=2))
            return [
                put.created, task.result(timeout=5), schedules.pause("a"), schedules.resume(["a"]),
                [each.name for each in schedules.list()], len(list(schedules.history("a"))) > 0, backfill.status().schedule,
                len(schedules.preview("a", count=3)), len(schedules.diff("a", every="2h").gone) > 0,
                [each.name for each in client.calendars.list()], schedules.delete("b"),
            ]  # fmt: skip

    async with LocalServer(node.gateway, str(tmp_path / "s")):
        found = await asyncio.to_thread(use)

    assert found == [
        1, {}, "paused", ["resumed"], ["a", "b"], True, "a", 3, True, ["c"], "deleted",
    ]  # fmt: skip


# -- in bulk -----------------------------------------------------------------------------------------------------------


class Answers:
    """Answers one bulk request after the other, then takes everything."""

    def __init__(self, *answers: Any) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self.sent: list[int] = []

    async def __call__(self, drafts: list[Draft]) -> SchedulesPut | Refusal:
        self.sent.append(len(drafts))
        answer = next(self._answers, None)
        if isinstance(answer, Exception):
            raise answer
        return answer or SchedulesPut(["created"] * len(drafts))


def drafts(count: int) -> list[Draft]:
    maker = DraftMaker(SpecMaker(SystemClock()))
    return [maker.make(f"s{at}", ok, (), {"every": "1h"}) for at in range(count)]


async def bulk(answers: Answers, count: int, patience_ms: int = 60_000) -> PutResult:
    return await BulkPut(answers, SystemClock(), None, patience_ms).run(drafts(count), 4, 1)


async def test_what_was_not_taken_is_sent_again() -> None:
    partly = SchedulesPut(
        ["created", "refused", "refused", "unchanged"],
        [TaskRefusal(1, "overloaded", "later"), TaskRefusal(2, "invalid_cron", "never")],
    )
    answers = Answers(DeadlineError("PutSchedules", 1), Refusal("overloaded", "later", 1), partly)

    result = await bulk(answers, 6)

    assert answers.sent == [4, 4, 4, 1, 2]
    assert (result.done, result.created, result.unchanged) == (6, 4, 1)
    assert result.refused == [TaskRefusal(2, "invalid_cron", "never")]


async def test_a_refusal_of_a_whole_request_is_one_of_each_of_its_schedules() -> None:
    result = await bulk(Answers(None, Refusal("too_large", "too much")), 6)

    assert (result.created, result.refused_count) == (4, 2)
    assert [each.position for each in result.refused] == [4, 5]


async def test_a_bulk_call_that_cannot_go_on_says_how_far_it_came() -> None:
    with pytest.raises(BulkStoppedError, match="stopped after 4 accepted tasks, 2 unknown: away") as caught:
        await bulk(Answers(None, UnavailableError("away"), UnavailableError("away")), 6, patience_ms=-1)

    assert (caught.value.accepted, caught.value.unknown) == (4, 2)


async def test_a_bulk_call_of_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an iterable of"):
        await BulkPut(Answers(), SystemClock(), None, 1).run(5, 4, 1)  # type: ignore[arg-type]
