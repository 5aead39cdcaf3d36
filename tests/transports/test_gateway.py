"""The gateway against real actors and a real store: what is refused before anything is done, where tasks go, what
people see, and when the ledger balances."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from foliot.actors import messages as m
from foliot.actors.states import State
from foliot.runtime.bus import Refusal
from foliot.runtime.clock import SystemClock
from foliot.runtime.errors import DeadlineError
from foliot.runtime.hashing import slot_of
from foliot.runtime.ids import shard_of
from foliot.runtime.rng import Rng
from foliot.transports import api
from foliot.transports.admission import EdgeLimits
from foliot.transports.balance import Baseline, EdgeSnapshot, balance, completions
from foliot.transports.entrance import Entrance

from .edge import EdgeNode, spec


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EdgeNode]:
    async with EdgeNode(tmp_path / "foliot.db") as node:
        yield node


async def end_of(node: EdgeNode, *ids: int) -> dict[int, m.TaskEnd]:
    ended = await node.ask(m.WatchTasks("acme", list(ids), 5_000), timeout_ms=6_000)
    return {end.id: end for end in ended.ended}


# -- submitting ------------------------------------------------------------------------------------------------------


async def test_a_submitted_task_is_found_with_what_was_said_of_it(node: EdgeNode) -> None:
    answer = await node.submit(spec({"n": 1}, priority=2, key="k"), queue="mail")

    found = await node.ask(api.GetTasks("acme", answer.ids))

    (view,) = found.tasks
    assert (view.handler, view.queue, view.priority, view.key) == ("ok", "mail", 2, "k")
    assert msgspec.msgpack.decode(view.payload) == {"n": 1}
    assert view.state == State.QUEUED


@pytest.mark.parametrize(
    ("template", "code", "part"),
    [
        ({"handler": "no such\nname"}, "invalid_name", "handler"),
        ({"queue": ""}, "invalid_name", "queue"),
        ({"pool": "a.b"}, "invalid_name", "pool"),
        ({"cost": 0}, "invalid_option", "cost is '0'"),
        ({"max_attempts": 0}, "invalid_option", "max_attempts"),
        ({"timeout_ms": -1}, "invalid_option", "timeout_ms"),
        ({"delivery": "maybe"}, "invalid_option", "delivery is 'maybe'"),
        ({"on_conflict": "x"}, "invalid_option", "on_conflict"),
        ({"retry": m.RetryPolicy(factor=float("nan"))}, "invalid_option", "retry.factor"),
        ({"retry": m.RetryPolicy(base_ms=-5)}, "invalid_option", "retry.base_ms"),
        ({"require": ("x",) * 33}, "invalid_option", "at most 32"),
    ],
)
async def test_a_bad_template_refuses_the_batch_and_nothing_is_done(
    node: EdgeNode, template: dict[str, Any], code: str, part: str
) -> None:
    answer = await node.submit(spec(), **template)

    assert isinstance(answer, Refusal)
    assert (answer.code, answer.retry_after_ms) == (code, -1)
    assert part in answer.text
    assert (await node.ask(api.ListTasks())).tasks == []


async def test_bad_tasks_are_refused_by_position_and_the_others_accepted(node: EdgeNode) -> None:
    century_ms = node.clock.now_ms() + 101 * 366 * 86_400_000
    answer = await node.submit(
        spec("good"),
        spec(b"x" * (1 << 20)),
        spec(due_ms=-1),
        spec(due_ms=century_ms),
        spec(priority=10),
        spec(key="k" * 257),
        spec(dedupe_key="a\0b"),
        m.TaskSpec(1, b"\xc0"),
        spec("good", dedupe_key="d"),
    )

    codes = {refusal.position: refusal.code for refusal in answer.refused}
    assert codes == {1: "too_large", **dict.fromkeys(range(2, 8), "invalid_option")}
    assert [task_id != 0 for task_id in answer.ids] == [True, *[False] * 7, True]
    assert "expected at most 1048576" in answer.refused[0].text
    assert len((await node.ask(api.ListTasks())).tasks) == 2


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (m.SubmitTasks("acme", [m.Template("ok")], []), "at least one task"),
        (m.SubmitTasks("acme", [m.Template("ok")], [spec()] * 1_001), "expected at most 1000"),
        (m.SubmitTasks("a/b", [m.Template("ok")], [spec()]), "tenant 'a/b'"),
        (m.SubmitTasks("acme", [m.Template("ok")], [m.TaskSpec(0, b"x" * 1_000_000)] * 40), "33554432"),
    ],
)
async def test_a_bad_batch_is_refused_as_a_whole(node: EdgeNode, request_: m.SubmitTasks, part: str) -> None:
    answer = await node.ask(request_)

    assert isinstance(answer, Refusal)
    assert part in answer.text


async def test_tasks_with_a_dedupe_key_go_to_its_shard_and_answers_keep_their_positions(node: EdgeNode) -> None:
    keys = [f"key-{number}" if number % 3 else "" for number in range(30)]

    answer = await node.submit(*[spec(number, dedupe_key=key) for number, key in enumerate(keys)])

    shards = [shard_of(task_id) for task_id in answer.ids]
    assert [shard for shard, key in zip(shards, keys, strict=True) if key] == [
        slot_of(f"acme/{key}", node.shards) for key in keys if key
    ]
    assert len({shard for shard, key in zip(shards, keys, strict=True) if not key}) == 1
    found = await node.ask(api.GetTasks("acme", answer.ids))
    assert [msgspec.msgpack.decode(view.payload) for view in found.tasks] == list(range(30))


async def test_a_held_dedupe_key_is_told_with_the_existing_task(node: EdgeNode) -> None:
    first = await node.submit(*[spec(dedupe_key=f"k{number}") for number in range(4)])

    again = await node.submit(*[spec(dedupe_key=f"k{number}") for number in range(3, -1, -1)], spec("new"))
    rejected = await node.submit(spec(dedupe_key="k2"), on_conflict="reject")

    assert again.ids[:4] == first.ids[::-1]
    assert again.existing == [0, 1, 2, 3]
    assert (rejected.refused[0].code, rejected.refused[0].existing_id) == ("duplicate", first.ids[2])


async def test_a_repeated_request_adds_nothing_and_is_counted_once(node: EdgeNode) -> None:
    specs = [spec(number, dedupe_key=f"k{number}" if number % 2 else "") for number in range(8)]

    first = await node.submit(*specs, request_id="r1")
    second = await node.submit(*specs, request_id="r1")

    assert second.ids == first.ids
    assert node.gateway.edge_counts["acme", "default"].accepted == 8
    assert (await node.ask(api.Verify())).balanced


async def test_a_request_of_the_same_id_is_counted_for_each_tenant(node: EdgeNode) -> None:
    for tenant in ("acme", "globex", "acme"):
        await node.submit(spec(), tenant=tenant, request_id="r1")

    assert {key: count.accepted for key, count in node.gateway.edge_counts.items()} == {
        ("acme", "default"): 1, ("globex", "default"): 1,
    }  # fmt: skip
    assert (await node.ask(api.Verify())).balanced


async def test_unkeyed_batches_take_turns_between_shards(node: EdgeNode) -> None:
    shards = [shard_of((await node.submit(spec())).ids[0]) for _ in range(4)]

    assert shards[0] != shards[1]
    assert shards[:2] == shards[2:]


async def test_the_tenants_refusal_is_passed_on_with_its_retry_after(node: EdgeNode) -> None:
    await node.ask(api.SetTenant("acme", rate=2, rate_per_ms=3_600_000))

    taken = await node.submit(spec(), spec())
    refused = await node.submit(spec())

    assert isinstance(taken, m.TasksSubmitted)
    assert isinstance(refused, Refusal)
    assert refused.code == "rate_limited"
    assert refused.retry_after_ms > 0


async def test_an_unknown_handler_is_refused_with_the_likeliest_names(tmp_path: Path) -> None:
    known = {name: (m.Template(name), 5) for name in ("shop.send_mail", "shop.other")}
    async with EdgeNode(tmp_path / "foliot.db", handlers=lambda: known) as node:
        answer = await node.submit(spec(), handler="shop.send_mial")

    assert answer.code == "unknown_task"
    assert "expected one of shop.send_mail, shop.other" in answer.text


class SilentBus:
    """Admits everything; shards answer as told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, Any]] = []

    async def request(self, to: str, message: Any, *, timeout_ms: int) -> Any:
        self.sent.append((to, message))
        if isinstance(message, m.AdmitTasks):
            return m.TasksAdmitted(message.count)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def entrance(bus: Any, shards: int = 2) -> Entrance:
    return Entrance(bus, SystemClock(), Rng(1), shards=shards, limits=EdgeLimits(), since_ms=0)


async def test_one_shards_refusal_is_told_task_by_task_and_the_others_count() -> None:
    keys = [next(f"{n}" for n in range(99) if slot_of(f"acme/{n}", 2) == shard) for shard in (0, 1)]
    bus = SilentBus(m.TasksSubmitted([77]), Refusal("overloaded", "full", 200))
    edge = entrance(bus)

    answer = await edge.submit(
        m.SubmitTasks("acme", [m.Template("ok")], [spec(dedupe_key=key) for key in keys]), timeout_ms=100
    )

    assert answer == m.TasksSubmitted([77, 0], [], [m.TaskRefusal(1, "overloaded", "full")])
    assert edge.counts["acme", "default"].accepted == 1
    assert edge.counts["acme", "default"].unsettled == 0


async def test_a_submission_nobody_answered_stays_unsettled() -> None:
    edge = entrance(SilentBus(DeadlineError("SubmitTasks", 100)), shards=1)

    with pytest.raises(DeadlineError):
        await edge.submit(m.SubmitTasks("acme", [m.Template("ok")], [spec(), spec()]), timeout_ms=100)

    assert edge.counts["acme", "default"].unsettled == 2


async def test_a_named_submission_is_sent_again_while_its_shard_moves_and_one_without_a_name_is_not() -> None:
    moving = Refusal("no_such_actor", "moving", 50)
    edge = entrance(SilentBus(moving, moving, m.TasksSubmitted([77])), shards=1)
    named = m.SubmitTasks("acme", [m.Template("ok")], [spec()], "r")
    assert await edge.submit(named, timeout_ms=5_000) == m.TasksSubmitted([77])

    edge = entrance(SilentBus(moving, m.TasksSubmitted([77])), shards=1)
    unnamed = m.SubmitTasks("acme", [m.Template("ok")], [spec()])
    assert await edge.submit(unnamed, timeout_ms=5_000) == moving


async def test_a_submission_whose_shard_moves_for_too_long_ends_with_its_deadline_and_stays_unsettled() -> None:
    """Of the copies one may have reached the shard's next owner."""
    edge = entrance(SilentBus(*[Refusal("no_such_actor", "moving", 50)] * 50), shards=1)

    with pytest.raises(DeadlineError):
        await edge.submit(m.SubmitTasks("acme", [m.Template("ok")], [spec()], "r"), timeout_ms=80)

    assert edge.counts["acme", "default"].unsettled == 1


# -- commands and looks ----------------------------------------------------------------------------------------------


async def test_commands_are_split_by_shard_and_answered_by_position(node: EdgeNode) -> None:
    waiting = (await node.submit(*[spec(due_ms=node.clock.now_ms() + 60_000, dedupe_key=f"{n}") for n in range(6)])).ids
    foreign = 1 << 22 | 900 << 12  # a shard this node does not have

    answer = await node.ask(m.CancelTasks("acme", [*waiting[:3], foreign, -1, *waiting[3:], 12345]))
    again = await node.ask(m.CancelTasks("acme", waiting[:1]))
    other = await node.ask(m.CancelTasks("other", waiting[:1]))
    purged = await node.ask(m.PurgeTasks("acme", waiting[:1]))

    assert answer.outcomes == [*["cancelled"] * 3, "not_found", "not_found", *["cancelled"] * 3, "not_found"]
    assert again.outcomes == ["ended"]
    assert other.outcomes == ["not_found"]
    assert purged.outcomes == ["purged"]


async def test_watching_tells_how_tasks_ended_and_which_there_are_not(node: EdgeNode) -> None:
    node.start_worker()
    good = (await node.submit(*[spec(number, dedupe_key=f"{number}") for number in range(4)])).ids
    (bad,) = (await node.submit(spec(), handler="fail")).ids

    ends = await end_of(node, *good, bad, 5)

    assert [msgspec.msgpack.decode(ends[task_id].result) for task_id in good] == [0, 1, 2, 3]
    assert (ends[bad].state, ends[bad].error) == (State.DEAD, m.TaskError("ValueError", "no good", "line 1"))
    assert ends[5].state == 0


async def test_watching_ends_with_its_wait(node: EdgeNode) -> None:
    (task_id,) = (await node.submit(spec())).ids

    assert (await node.ask(m.WatchTasks("acme", [task_id], 20))).ended == []


async def test_tasks_of_another_tenant_are_not_seen(node: EdgeNode) -> None:
    (task_id,) = (await node.submit(spec())).ids

    assert (await node.ask(api.GetTasks("other", [task_id]))).tasks == []
    assert (await node.ask(api.ListTasks("other"))).tasks == []
    assert (await node.ask(api.ReadLogs("other", task_id))).code == "not_found"
    assert (await node.ask(api.WhyTasks("other", [task_id]))).tasks[0].reason == "not_found"
    assert (await node.ask(api.GetTasks("", [task_id]))).tasks[0].tenant == "acme"


async def test_lists_go_newest_first_in_pages(node: EdgeNode) -> None:
    ids = [(await node.submit(spec(number))).ids[0] for number in range(5)]

    first = await node.ask(api.ListTasks("acme", limit=3))
    second = await node.ask(api.ListTasks("acme", before=first.next_before, limit=3))

    assert [view.id for view in [*first.tasks, *second.tasks]] == sorted(ids, reverse=True)
    assert second.next_before == 0


@pytest.mark.parametrize("limit", [0, -1, 1_001])
async def test_a_page_has_bounds(node: EdgeNode, limit: int) -> None:
    assert (await node.ask(api.ListTasks(limit=limit))).code == "invalid_option"


async def test_why_says_where_every_task_is(node: EdgeNode) -> None:
    node.start_worker(queue="busy")
    (held,) = (await node.submit(spec(), handler="hold", queue="busy")).ids
    (dead,) = (await node.submit(spec(), handler="fail", queue="busy")).ids
    (later,) = (await node.submit(spec(due_ms=node.clock.now_ms() + 600_000))).ids
    await node.ask(api.SetQueue("mail", paused=True, by="ann", why="mail server is down"))
    (paused,) = (await node.submit(spec(), queue="mail")).ids
    await end_of(node, dead)

    read = await node.ask(api.WhyTasks("acme", [held, dead, later, paused, 99]))

    texts = {why.id: (why.reason, why.text) for why in read.tasks}
    assert texts[held][0] == "running"
    assert "attempt 1 runs on worker session 'echo'" in texts[held][1]
    assert texts[dead][0] == "ended"
    assert "dead" in texts[dead][1]
    assert "ValueError: no good" in texts[dead][1]
    assert texts[later][0] == "scheduled"
    assert "due in 9m 59s" in texts[later][1] or "due in 10m" in texts[later][1]
    assert texts[paused][0] == "queue_paused"
    assert "mail server is down" in texts[paused][1]
    assert texts[99][0] == "not_found"


async def test_a_queue_is_set_in_parts_and_remembers_the_rest(node: EdgeNode) -> None:
    await node.ask(api.SetQueue("mail", concurrency=5))
    await node.ask(api.SetQueue("mail", paused=True, by="ann", why="w"))
    config = (await node.ask(api.SetQueue("mail", max_waiting=7))).config

    assert (config.concurrency, config.paused, config.paused_by, config.max_waiting) == (5, True, "ann", 7)
    await node.ask(api.SetQueue("mail", paused=False))
    (view,) = (await node.ask(api.ListQueues())).queues
    assert (view.config.paused, view.config.paused_by, view.config.paused_at_ms) == (False, "", 0)
    assert (await node.ask(api.SetQueue("mail", concurrency=-1))).code == "invalid_option"
    assert (await node.ask(api.SetQueue("ma il"))).code == "invalid_name"


async def test_workers_tenants_and_stats_are_listed(node: EdgeNode) -> None:
    node.start_worker()
    await node.submit(spec(), handler="hold")
    await node.ask(api.SetTenant("acme", max_pending=10))
    (worker,) = (await node.ask(api.ListWorkers())).workers
    tenants = (await node.ask(api.ListTenants())).tenants
    stats = await node.ask(api.ReadStats())

    assert (worker.heartbeat.worker, worker.state) == ("echo-1", "alive")
    assert [(view.config.tenant, view.config.max_pending) for view in tenants] == [("acme", 10)]
    assert sum(tally.waiting + tally.running for tally in stats.tallies) == 1


async def test_what_is_no_edge_request_is_refused(node: EdgeNode) -> None:
    answer = await node.ask(m.GrantLeases("q", "s", [1]))

    assert answer.code == "malformed"


# -- the ledger ------------------------------------------------------------------------------------------------------


async def test_the_ledger_balances_while_work_is_in_flight_and_after(node: EdgeNode) -> None:
    worker = node.start_worker()
    node.gateway.worker_counts = lambda: {(*key, 1): count for key, count in worker.done.items()}
    await node.gateway.begin()
    ids: list[int] = []
    for _ in range(5):
        ids += (await node.submit(*[spec(n) for n in range(50)])).ids
        verified = await node.ask(api.Verify())
        assert verified.differences == []
    await end_of(node, *ids)

    verified = await node.ask(api.Verify())

    (line,) = verified.lines
    assert verified.balanced
    assert (line.accepted, line.completed, line.edge, line.stored, line.unsettled) == (250, 250, 250, 250, 0)
    assert (line.completed_since, line.done) == (250, 250)


async def test_counts_begin_anew_with_the_gateway_and_still_balance(tmp_path: Path) -> None:
    async with EdgeNode(tmp_path / "foliot.db") as node:
        old = await node.submit(spec(), spec(), request_id="r1")
    async with EdgeNode(tmp_path / "foliot.db") as node:
        repeated = await node.submit(spec(), spec(), request_id="r1")
        await node.submit(spec())
        verified = await node.ask(api.Verify())

    (line,) = verified.lines
    assert repeated.ids == old.ids
    assert verified.differences == []
    assert (line.accepted, line.stored, line.edge) == (3, 1, 1)


ENTRY = m.LedgerEntry("acme", "default", accepted=10, waiting=4, completed=6)
RECOUNT = m.LedgerEntry("acme", "default", accepted=10, waiting=1, running=3, completed=6)
KEY = ("acme", "default")


def compare(
    counters: m.LedgerEntry = ENTRY,
    recount: m.LedgerEntry = RECOUNT,
    *,
    edge: tuple[int, int] = (10, 0),
    later: tuple[int, int] | None = None,
    done: int = 6,
) -> list[str]:
    before = EdgeSnapshot({KEY: edge}, {KEY: done})
    after = EdgeSnapshot({KEY: later or edge}, {KEY: done})
    verified = balance([counters], [recount], baseline=Baseline(), before=before, after=after, since_ms=0)
    assert verified.balanced == (not verified.differences)
    return [difference.text for difference in verified.differences]


def test_equal_counts_balance() -> None:
    assert compare() == []


def test_a_promised_task_that_is_missing_is_named() -> None:
    assert compare(edge=(11, 0)) == ["acme/default: the edge promised 11 tasks, the store has accepted 10: 1 are missing"]


def test_a_task_nobody_sent_is_named_unless_its_answer_is_still_open() -> None:
    assert compare(edge=(8, 2)) == []
    assert compare(edge=(8, 0), later=(10, 0)) == []
    assert "1 came from nowhere" in compare(edge=(8, 1))[0]


def test_a_row_that_is_missing_is_named_twice_over() -> None:
    lost = msgspec.structs.replace(RECOUNT, accepted=9, running=2)

    texts = compare(recount=lost)

    assert "acme/default: the counters say 10 accepted, the rows 9" in texts
    assert "acme/default: the counters say 4 alive, the rows 3" in texts
    assert "acme/default: 10 were accepted, but 6 ended and 3 are alive, 9 together" in texts


def test_the_store_cannot_count_more_completions_than_workers_finished() -> None:
    assert compare(done=8) == []
    assert "the store counts 6 completed tasks, workers finished 5" in compare(done=5)[0]


def test_only_completions_of_workers_are_compared() -> None:
    counts = {("acme", "default", 1): 3, ("acme", "default", 2): 4, ("acme", "mail", 1): 5}

    assert completions(counts) == {KEY: 3, ("acme", "mail"): 5}
