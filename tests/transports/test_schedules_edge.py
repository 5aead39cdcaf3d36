"""Schedules at the edge: what is checked there, how requests are cut up by shard and put together again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from foliot.actors import messages as m
from foliot.actors import schedule_messages as sm
from foliot.actors.addresses import shard_address
from foliot.actors.days import END_MS
from foliot.actors.messages import Template
from foliot.actors.rules import Calendar, Rule
from foliot.actors.schedule_rows import TickRow
from foliot.actors.states import State
from foliot.actors.ticks import Ticks
from foliot.runtime.bus import Envelope, Refusal
from foliot.runtime.errors import NoSuchActorError
from foliot.transports import api
from foliot.transports import schedule_api as sa
from foliot.transports.admission import EdgeLimits
from foliot.transports.repeats import may_repeat
from foliot.transports.schedule_checks import check_definition, is_right
from foliot.transports.schedule_views import compared, forecast, left_out_by

from .edge import EdgeNode

OK = Template("ok")
HOURLY = Rule(every_ms=3_600_000)
NOON_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z
MINUTE_MS = 60_000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EdgeNode]:
    def misfit(handler: str, payload: bytes) -> str | None:
        return "argument 'n' is missing" if payload == b"\x80" else None

    async with EdgeNode(tmp_path / "foliot.db", misfit=misfit, handlers=lambda: {"ok": (OK, 5)}) as node:
        yield node


def spec(name: str, rule: Rule = HOURLY, **fields: Any) -> sm.ScheduleSpec:
    return sm.ScheduleSpec(name, fields.pop("template", 0), fields.pop("payload", b"\x01"), rule, **fields)


async def put(node: EdgeNode, *specs: sm.ScheduleSpec, tenant: str = "acme", **fields: Any) -> Any:
    return await node.ask(sm.PutSchedules(tenant, fields.pop("templates", [OK]), list(specs), **fields))


async def names(node: EdgeNode, tenant: str = "acme", **fields: Any) -> list[str]:
    return [view.spec.name for view in (await node.ask(sa.ListSchedules(tenant, **fields))).schedules]


# -- create and change -------------------------------------------------------------------------------------------------


async def test_bad_definitions_are_refused_by_position_and_the_others_are_created(node: EdgeNode) -> None:
    bad = [
        spec("rule", Rule(cron="0 0 30 2 *")),
        spec("no name"),
        spec("overlap", overlap="maybe"),
        spec("misfit", payload=b"\x80"),
        spec("handler", template=1),
        spec("option", template=2),
        spec("index", template=9),
        spec("grace", grace_ms=-1),
    ]
    good = [spec(f"s{at}") for at in range(20)]
    mixed = [each for pair in zip(good, bad, strict=False) for each in pair] + good[len(bad) :]

    answer = await put(node, *mixed, templates=[OK, Template("okk"), Template("ok", max_attempts=0)])

    assert await names(node) == sorted(each.name for each in good)
    assert [word for word, each in zip(answer.outcomes, mixed, strict=True) if each in good] == ["created"] * 20
    refused = {mixed[each.position].name: each for each in answer.refused}
    assert {name: each.code for name, each in refused.items()} == {
        "rule": "invalid_cron", "no name": "invalid_name", "overlap": "invalid_option", "misfit": "payload",
        "handler": "unknown_task", "option": "invalid_option", "index": "invalid_option", "grace": "invalid_option",
    }  # fmt: skip
    assert refused["handler"].text == "handler 'okk' is unknown, expected one of ok"
    assert refused["misfit"].text == "argument 'n' is missing"
    assert refused["grace"].text == "grace_ms is '-1', expected 0 to 3162240000000"


async def test_a_name_is_created_replaced_or_updated_as_the_mode_says(node: EdgeNode) -> None:
    assert (await put(node, spec("a"), mode="update")).outcomes == ["not_found"]
    assert (await put(node, spec("a"), mode="create")).outcomes == ["created"]
    assert (await put(node, spec("a"), mode="create")).outcomes == ["exists"]
    assert (await put(node, spec("a"), mode="replace")).outcomes == ["unchanged"]
    assert (await put(node, spec("a", note="new"), mode="update")).outcomes == ["replaced"]
    assert (await put(node, spec("a"), spec("a", note="new"), tenant="other")).outcomes == ["created", "replaced"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (sm.PutSchedules("a c", [OK], [spec("a")]), "tenant 'a c' is not a name"),
        (sm.PutSchedules("acme", [OK], []), "expected at least one schedule"),
        (sm.PutSchedules("acme", [OK], [spec("a")] * 1_001), "is 1001, expected at most 1000"),
        (sm.PutSchedules("acme", [OK], [spec("a")], mode="upsert"), "mode is 'upsert', expected 'create' or 'replace'"),
        (sm.CommandSchedules("acme", ["a"], "stop"), "action is 'stop', expected 'pause' or 'resume'"),
        (sm.CommandSchedules("acme", ["a"], "resume", missed="some"), "missed is 'some'"),
        (sm.CommandSchedules("acme", ["a"], "trigger", overlap="some"), "overlap is 'some'"),
        (sm.CommandSchedules("acme", ["a"], "pause", why="x" * 5_000), "the length of 'why' is 5000"),
        (sa.ListSchedules("acme", limit=0), "limit is '0', expected 1 to 1000"),
        (sa.PreviewSchedule("acme", "a", from_ms=9, until_ms=5), "until is '1970-01-01T00:00:00.005Z', expected an instant"),
        (sa.PreviewSchedule("acme", rule=Rule(cron="61 * * * *")), "cron '61 * * * *'"),
        (sa.PreviewSchedule("acme", "nobody"), "there is no schedule 'nobody' of tenant 'acme'"),
        (sa.ListTicks("acme", "nobody"), "there is no schedule 'nobody' of tenant 'acme'"),
        (sm.StartBackfill("acme", sm.BackfillSpec("nobody", 1, 2)), "there is no schedule 'nobody' of tenant 'acme'"),
        (sm.StartBackfill("acme", sm.BackfillSpec("a", 2, 1)), "expected an instant since 1970, and before the end 1970-"),
        (sm.StartBackfill("acme", sm.BackfillSpec("a", 2, 1 << 50)), "expected an instant that is past"),
        (sm.StartBackfill("acme", sm.BackfillSpec("a", 1, 2, concurrency=0)), "concurrency is '0', expected 1 to 10000"),
        (sm.CommandBackfills("acme", [1], "stop"), "action is 'stop'"),
        (sm.CommandSchedules("acme", ["a"], "pause", why="\x1b[2J"), "why is '\\x1b[2J', expected printable characters"),
        (sm.CommandSchedules("acme", ["a"], "pause", by="a\nb"), "by is 'a\\nb', expected printable characters"),
        (sm.StartBackfill("acme", sm.BackfillSpec("a", 1, 2, by="\x07")), "by is '\\x07', expected printable characters"),
        (m.CancelTasks("acme", [1], "\x1b]0;"), "reason is '\\x1b]0;', expected printable characters"),
        (sa.PreviewSchedule("acme", rule=HOURLY, from_ms=END_MS), "begin is '2200-01-01T00:00:00Z', expected an instant"),
        (sa.SetCalendar("acme", Calendar("x", yearly=("13-01",))), "yearly of calendar 'x' '13-01'"),
        (sa.SetCalendar("acme", Calendar("weekdays", yearly=("12-01",))), "is built in, expected another name"),
        (sa.DeleteCalendar("acme", "x"), "there is no calendar 'x' of tenant 'acme'"),
    ],
)
async def test_a_request_that_is_wrong_is_refused_as_a_whole(node: EdgeNode, request_: Any, text: str) -> None:
    answer = await node.ask(request_)

    assert isinstance(answer, Refusal)
    assert text in answer.text


async def test_a_note_that_a_terminal_would_obey_is_refused(node: EdgeNode) -> None:
    answer = await put(node, spec("a", note="\x1b[31mred"), spec("b", note="größer, 日本"))

    assert answer.outcomes == ["refused", "created"]
    assert "note is '\\x1b[31mred', expected printable characters on one line" in answer.refused[0].text


@pytest.mark.parametrize("calendar", [Calendar("x" * 1_000_000), Calendar("x", dates=("9" * 1_000_000,))])
async def test_a_refusal_does_not_repeat_all_of_what_was_sent(node: EdgeNode, calendar: Calendar) -> None:
    answer = await node.ask(sa.SetCalendar("acme", calendar))

    assert isinstance(answer, Refusal)
    assert len(answer.text) < 500


async def test_the_short_check_lets_nothing_pass_that_the_long_one_refuses() -> None:
    limits = EdgeLimits(max_payload=10)
    wrong: list[dict[str, Any]] = [
        {"name": ""}, {"name": "x" * 201}, {"template": 1}, {"template": -1}, {"payload": b"x" * 11}, {"priority": 10},
        {"priority": -1}, {"key": "\n"}, {"overlap": ""}, {"missed": ""}, {"grace_ms": -1}, {"grace_ms": 1 << 62},
        {"max_lateness_ms": -1}, {"max_catchup": 1_001}, {"pause_after": -1}, {"note": "x" * 5_000},
        {"declared_in": "a b"}, {"rule": Rule(cron="x" * 1_001)}, {"rule": Rule(zone="x" * 101)},
    ]  # fmt: skip
    check_definition(spec("a"), 1, limits)
    assert is_right(spec("a"), 1, limits)
    for fields in wrong:
        made = spec(fields.pop("name", "a"), **fields)
        assert not is_right(made, 1, limits), fields
        with pytest.raises(Exception, match="expected"):
            check_definition(made, 1, limits)


class Gone:
    """Where a shard was, on a node that does not have it any more."""

    def deliver(self, envelope: Envelope) -> None:
        raise NoSuchActorError(envelope.to)


async def test_what_a_silent_shard_should_have_taken_is_refused_alone(node: EdgeNode) -> None:
    specs = [spec(f"s{at}") for at in range(8)]
    shards = [sm.schedule_slot("acme", each.name, node.shards) for each in specs]
    assert sorted({*shards}) == [0, 1]
    node.bus.bind(shard_address(1), Gone())

    answer = await put(node, *specs)
    commanded = await node.ask(sm.CommandSchedules("acme", [each.name for each in specs], "pause"))

    assert answer.outcomes == ["refused" if shard else "created" for shard in shards]
    assert {each.code for each in answer.refused} == {"no_such_actor"}
    assert commanded.outcomes == ["unavailable" if shard else "paused" for shard in shards]


# -- looks -------------------------------------------------------------------------------------------------------------


async def test_schedules_are_listed_by_name_page_by_page_within_their_tenant(node: EdgeNode) -> None:
    await put(node, *[spec(f"s{at}") for at in range(7)])
    await put(node, spec("theirs"), tenant="other")
    await node.ask(sm.CommandSchedules("acme", ["s1", "s5"], "pause", "ann", "ill"))

    first = await node.ask(sa.ListSchedules("acme", limit=4))
    second = await node.ask(sa.ListSchedules("acme", after=first.next_after, limit=4))

    assert [view.spec.name for view in first.schedules] == ["s0", "s1", "s2", "s3"]
    assert [view.spec.name for view in second.schedules] == ["s4", "s5", "s6"]
    assert (second.next_after, first.schedules[0].spec.payload) == ("", b"")
    assert await names(node, paused=True) == ["s1", "s5"]
    assert await names(node, prefix="s6") == ["s6"]
    found = await node.ask(sa.GetSchedules("acme", ["s5", "theirs", "s1", "s5"]))
    assert [(view.spec.name, view.spec.payload) for view in found.schedules] == [("s5", b"\x01"), ("s1", b"\x01")]
    assert (found.schedules[0].state.paused_by, found.schedules[0].state.paused_why) == ("ann", "ill")


async def test_a_preview_tells_what_is_left_of_a_stored_schedule_and_of_any_rule(node: EdgeNode) -> None:
    await node.ask(sa.SetCalendar("acme", Calendar("mondays", weekdays=(0,))))
    await put(node, spec("three", Rule(every_ms=3_600_000, limit=3)))
    await put(node, spec("mondays", Rule(cron="0 9 * * *", calendar="mondays")))

    three = await node.ask(sa.PreviewSchedule("acme", "three"))
    mondays = await node.ask(sa.PreviewSchedule("acme", "mondays", count=2, from_ms=1 << 41))
    gap = Rule(cron="30 2 * * *", zone="Europe/Berlin")
    spring = await node.ask(sa.PreviewSchedule("acme", rule=gap, count=1, from_ms=1_774_746_000_000))

    assert [each.tick_ms % 3_600_000 for each in three.ticks] == [0, 0, 0]
    assert mondays.ticks[1].tick_ms - mondays.ticks[0].tick_ms == 7 * 86_400_000
    assert [(each.tick_ms, each.notes) for each in spring.ticks] == [(1_774_747_800_000, ("dst_gap",))]


def test_a_comparison_ends_at_the_earlier_of_both_last_ticks() -> None:
    old, new = Ticks(Rule(every_ms=MINUTE_MS)), Ticks(Rule(every_ms=90_000))

    found = compared(old, new, NOON_MS, 5)

    assert [(each.tick_ms - NOON_MS) // 1_000 for each in found.gone] == [60, 120, 240]
    assert [(each.tick_ms - NOON_MS) // 1_000 for each in found.come] == [90]
    assert [(each.tick_ms - NOON_MS) // 1_000 for each in found.stay] == [0, 180]
    assert found.until_ms == NOON_MS + 240_000


def test_a_comparison_with_a_rule_that_ends_shows_all_of_it() -> None:
    found = compared(Ticks(Rule(at_ms=(NOON_MS,))), Ticks(Rule(every_ms=MINUTE_MS, end_ms=NOON_MS)), NOON_MS, 5)

    assert (len(found.gone), len(found.come), len(found.stay), found.until_ms) == (0, 0, 1, 0)


def test_a_forecast_tells_when_a_tick_fires_as_well() -> None:
    ticks = Ticks(Rule(every_ms=MINUTE_MS, jitter_ms=30_000), seed="acme/a")

    found = forecast(ticks, NOON_MS, NOON_MS + 3 * MINUTE_MS, 10)

    assert [each.tick_ms for each in found] == [NOON_MS, NOON_MS + MINUTE_MS, NOON_MS + 2 * MINUTE_MS]
    assert all(0 <= each.due_ms - each.tick_ms <= 30_000 for each in found)


@pytest.mark.parametrize(("reprocess", "left_out"), [("none", {1, 2, 3, 5}), ("failed", {1, 3, 5}), ("all", set())])
def test_what_a_backfill_leaves_out_follows_the_newest_run_of_each_tick(reprocess: str, left_out: set[int]) -> None:
    rows = [
        TickRow(1, 5, 0, 1, 50, 0, 0),  # alive
        TickRow(1, 4, 0, 1, 0, 0, int(State.SKIPPED)),  # made no task
        TickRow(1, 3, 9, 1, 31, 0, int(State.COMPLETED)),  # made good by a backfill
        TickRow(1, 3, 0, 1, 30, 0, int(State.DEAD)),
        TickRow(1, 2, 0, 1, 20, 0, int(State.FAILED)),
        TickRow(1, 1, 0, 1, 10, 0, int(State.COMPLETED)),
    ]

    assert left_out_by(reprocess, rows) == left_out


async def test_a_backfill_is_commanded_by_its_own_tenant_only(node: EdgeNode) -> None:
    await put(node, spec("a", Rule(every_ms=1_000)))
    now_ms = node.clock.now_ms()
    started = await node.ask(sm.StartBackfill("acme", sm.BackfillSpec("a", now_ms - 60_000, now_ms)))  # no worker runs it

    theirs = await node.ask(sm.CommandBackfills("other", started.ids, "cancel"))
    unknown = await node.ask(sm.CommandBackfills("acme", [0, 5, 1 << 60], "cancel"))
    paused = await node.ask(sm.CommandBackfills("acme", started.ids, "pause"))
    cancelled = await node.ask(sm.CommandBackfills("acme", started.ids, "cancel"))

    assert (theirs.outcomes, unknown.outcomes) == (["not_found"], ["not_found"] * 3)
    assert (paused.outcomes, cancelled.outcomes) == (["paused"], ["cancelled"])
    (listed,) = (await node.ask(sa.ListBackfills("acme", "a"))).backfills
    assert (listed.id, listed.state.status) == (started.ids[0], "cancelled")
    assert (await node.ask(sa.ListBackfills("other"))).backfills == []


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_only_what_comes_to_the_same_again_is_repeated() -> None:
    one = [spec("a")]
    again = [
        sm.PutSchedules("acme", [OK], one), sm.PutSchedules("acme", [OK], one, "update"),
        sm.CommandSchedules("acme", ["a"], "pause"), sm.CommandSchedules("acme", ["a"], "resume"),
        sm.CommandBackfills("acme", [1], "cancel"), sa.GetSchedules("acme", ["a"]), sa.ListCalendars("acme"),
        sa.SetCalendar("acme", Calendar("a")),
    ]  # fmt: skip
    once = [
        sm.PutSchedules("acme", [OK], one, "create"), sm.CommandSchedules("acme", ["a"], "trigger"),
        sm.CommandSchedules("acme", ["a"], "delete"), sa.DeleteCalendar("acme", "a"),
        sm.StartBackfill("acme", sm.BackfillSpec("a", 1, 2)),
    ]  # fmt: skip

    assert [may_repeat(each) for each in again] == [True] * len(again)
    assert [may_repeat(each) for each in once] == [False] * len(once)
    assert [api.decode_request(api.encode_request(each)) for each in [*again, *once]] == [*again, *once]


async def test_every_answer_can_travel(node: EdgeNode) -> None:
    await put(node, spec("a"))
    now_ms = node.clock.now_ms()
    window = sm.BackfillSpec("a", now_ms - 7_200_000, now_ms)
    requests = [
        sa.GetSchedules("acme", ["a"]), sa.ListSchedules("acme"), sa.ListTicks("acme", "a"), sa.ListBackfills("acme"),
        sa.ListCalendars("acme"), sa.PreviewSchedule("acme", "a"), sa.DiffSchedule("acme", "a", HOURLY),
        sa.DryRunBackfill("acme", window), sm.StartBackfill("acme", window), sa.SetCalendar("acme", Calendar("x")),
        sm.CommandSchedules("acme", ["a"], "trigger"),
    ]  # fmt: skip

    for request in requests:
        answer = await node.ask(request)
        assert not isinstance(answer, Refusal), request
        assert api.decode_answer(api.encode(answer)) == answer
