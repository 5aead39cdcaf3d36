"""The queue actor: what runs next, on whom, within which limits, and what it says of the rest."""

from __future__ import annotations

from foliot.actors import messages as m
from foliot.actors.queue import RECOVERY_MS
from foliot.actors.shard_links import EAGER_ASKS
from foliot.runtime.hashing import slot_of
from foliot.runtime.ids import shard_of

from .harness_queue import ADDRESS, START_MS, QueueHarness, kind


def test_a_new_queue_asks_every_shard_and_grants_nothing_before_its_settings() -> None:
    queue = QueueHarness(configured=False)
    assert [(e.to, e.message) for e in queue.sent] == [
        ("shard.0", m.QueueStarted(ADDRESS, 0, START_MS)),
        ("shard.1", m.QueueStarted(ADDRESS, 0, START_MS)),
    ]
    ids = queue.offer(kind(), 2)
    queue.offer(kind(), 1, shard=1)
    queue.credit("w1", 10)
    assert queue.granted_ids == []
    assert queue.why(ids[0]).reason == "queue_paused"

    queue.configure()
    queue.advance_ms(RECOVERY_MS)

    assert len(queue.granted_ids) == 3


def test_settings_that_do_not_come_are_asked_for_again_ever_more_rarely() -> None:
    queue = QueueHarness(configured=False)
    queue.sent.clear()
    queue.advance_ms(EAGER_ASKS * 1_000 + 2_000 + 4_000)
    assert [e.to for e in queue.sent].count("shard.0") == EAGER_ASKS + 2  # each second at first, then after 2 s, 4 s, 8 s
    queue.send(queue.everything(0), queue.everything(1))  # the settings that came with it are lost
    queue.sent.clear()
    queue.advance_ms(60_000)
    home = f"shard.{slot_of(ADDRESS, 2)}"
    assert {e.to for e in queue.sent} == {home}  # the others have nothing more to say
    queue.configure()
    queue.send(queue.everything(0), queue.everything(1))
    assert queue.queue.due_ms() is None


def test_limits_hold_across_a_restart_since_all_shards_are_heard_first() -> None:
    queue = QueueHarness(configured=False)
    queue.configure(concurrency=2)
    ids = queue.offer(kind(), 2, shard=0)
    queue.credit("w1", 10)
    queue.advance_ms(5_000)
    assert queue.granted_ids == []  # the shards have not said what runs there

    running = m.LeasedLot(kind(), 5, "", "w1", queue.new_ids(1, shard=1))
    queue.send(queue.everything(0, [m.Lot(kind(), 5, "", ids, [START_MS] * 2)]), queue.everything(1, leased=[running]))

    assert len(queue.granted_ids) == 1
    assert queue.read().running == 2


def test_a_shard_that_says_nothing_holds_a_restarted_queue_up_only_briefly() -> None:
    queue = QueueHarness(configured=False)
    queue.configure()
    [task] = queue.offer(kind())
    queue.credit("w1", 1)
    queue.advance_ms(RECOVERY_MS - 1)
    assert queue.granted_ids == []
    queue.advance_ms(1)
    assert queue.granted_ids == [task]


def test_tasks_are_granted_in_order_one_message_to_a_shard_and_session() -> None:
    queue = QueueHarness()
    first = queue.offer(kind(), 3, shard=0)
    second = queue.offer(kind(), 3, shard=1)
    queue.sent.clear()
    queue.credit("w1", 5)
    grants = [(e.to, e.message) for e in queue.sent]
    assert grants == [
        ("shard.0", m.GrantLeases(ADDRESS, "w1", first, 0, START_MS, 1)),
        ("shard.1", m.GrantLeases(ADDRESS, "w1", second[:2], 0, START_MS, 1)),
    ]
    assert queue.read().offered == {5: 1}


def test_offering_or_releasing_twice_changes_nothing() -> None:
    queue = QueueHarness(concurrency=2)
    ids = queue.offer(kind(), 3)
    queue.offer_again(kind(), ids)
    assert queue.read().offered == {5: 3}
    queue.credit("w1", 10)
    assert queue.granted_ids == ids[:2]
    queue.offer_again(kind(), ids)
    assert queue.read().offered == {5: 1}

    queue.release(ids[0])
    queue.release(ids[0])

    assert queue.granted_ids == ids
    assert queue.read().running == 2


def test_one_lot_that_names_a_task_twice_offers_it_once() -> None:
    queue = QueueHarness()
    [task] = queue.offer(kind())
    queue.withdraw(task)
    queue.offer_again(kind(), [task, task])
    queue.credit("w1", 10)
    assert queue.granted_ids == [task]


def test_a_withdrawn_task_is_not_granted_and_can_be_offered_again() -> None:
    queue = QueueHarness()
    ids = queue.offer(kind(), 5)
    queue.withdraw(ids[0], ids[2])
    queue.offer_again(kind(), [ids[2]], ready_ms=START_MS + 1)
    queue.credit("w1", 10)
    assert queue.granted_ids == [ids[1], ids[3], ids[4], ids[2]]


def test_a_task_withdrawn_after_its_grant_counts_until_its_shard_refuses_it() -> None:
    queue = QueueHarness(concurrency=1)
    one, two = queue.offer(kind(), 2)
    queue.credit("w1", 5)
    queue.withdraw(one)
    assert queue.granted_ids == [one]
    queue.send(m.ReleaseTasks(0, [one], {"w1": 1}))
    assert queue.granted_ids == [one, two]
    assert queue.read().free_credits == 4


def test_a_refused_grant_gives_the_credit_back_once() -> None:
    queue = QueueHarness()
    one, two, three = queue.offer(kind(), 3)
    queue.credit("w1", 1)
    queue.send(m.ReleaseTasks(0, [one], {"w1": 1}))
    queue.send(m.ReleaseTasks(0, [one], {"w1": 1}))
    assert queue.granted_ids == [one, two]
    assert queue.why(three).reason == "no_free_slot"


def test_an_offer_that_crosses_a_grant_changes_nothing_however_late_it_is() -> None:
    queue = QueueHarness(concurrency=1)
    [task] = queue.offer(kind())
    queue.credit("w1", 1)
    queue.advance_ms(60_000)
    queue.offer_again(kind(), [task])
    queue.credit("w2", 1)
    assert queue.granted == [(task, "w1")]


# -- workers -----------------------------------------------------------------------------------------------------------


def test_credits_under_way_are_not_granted_twice() -> None:
    queue = QueueHarness()
    queue.offer(kind(), 10)
    queue.credit("w1", 4)
    queue.credit("w1", 4, seen=1)  # it has seen one body of the four that are coming
    assert len(queue.granted_ids) == 5


def test_a_refresh_forgets_grants_that_have_been_under_way_for_too_long() -> None:
    queue = QueueHarness()
    queue.offer(kind(), 10)
    queue.credit("w1", 4, seen=0)
    queue.advance_ms(4_000)
    queue.credit("w1", 4, seen=0, refresh=True)
    assert len(queue.granted_ids) == 4
    queue.advance_ms(1_000)
    queue.credit("w1", 4, seen=0)
    assert len(queue.granted_ids) == 4
    queue.credit("w1", 4, seen=0, refresh=True)
    assert len(queue.granted_ids) == 8


def test_a_session_that_was_served_before_a_restart_begins_with_what_it_has_seen() -> None:
    queue = QueueHarness()
    queue.offer(kind(), 10)
    queue.credit("w1", 3, seen=500)
    assert len(queue.granted_ids) == 3
    queue.credit("w1", 2, seen=505)  # two more bodies of the earlier life arrived
    assert len(queue.granted_ids) == 5


def test_workers_with_equal_credits_share_a_batch() -> None:
    queue = QueueHarness()
    for worker in ("w1", "w2", "w3"):
        queue.credit(worker, 10)
    queue.offer(kind(), 9)
    by_worker = [session for _, session in queue.granted]
    assert sorted(by_worker) == ["w1"] * 3 + ["w2"] * 3 + ["w3"] * 3
    queue.offer(kind(), 1)
    queue.offer(kind(), 1)
    queue.offer(kind(), 1)
    assert {session for _, session in queue.granted[9:]} == {"w1", "w2", "w3"}


def test_required_labels_choose_who_may_and_preferred_ones_who_should() -> None:
    queue = QueueHarness()
    picky = kind(require=("gpu=true",), prefer=("zone=a", "mem>=64"))
    queue.offer(picky, 6)
    queue.credit("plain", 10, gpu="false", zone="a", mem="64")
    assert queue.granted_ids == []
    queue.credit("far", 10, gpu="true", zone="b")
    assert len(queue.take_granted()) == 6
    queue.credit("near", 2, gpu="true", zone="a")
    queue.credit("best", 1, gpu="true", zone="a", mem="128")
    queue.offer(picky, 4)
    assert [session for _, session in queue.granted] == ["best", "near", "near", "far"]


def test_a_session_that_ended_is_granted_nothing_even_if_its_credits_come_late() -> None:
    queue = QueueHarness()
    queue.credit("w1", 5)
    queue.send(m.SessionEnded("w1", "left"))
    queue.credit("w1", 5)
    queue.offer(kind())
    assert queue.granted_ids == []
    assert queue.read().sessions == 0


def test_credits_not_renewed_for_a_minute_are_void() -> None:
    queue = QueueHarness()
    queue.credit("w1", 5)
    queue.advance_ms(60_001)
    [task] = queue.offer(kind())
    assert queue.granted_ids == []
    assert queue.why(task).reason == "no_worker"


def test_a_session_that_changes_its_labels_is_matched_by_the_new_ones() -> None:
    queue = QueueHarness()
    [task] = queue.offer(kind(require=("gpu",)))
    queue.credit("w1", 1)
    assert queue.granted_ids == []
    queue.credit("w1", 1, gpu="yes")
    assert queue.granted_ids == [task]


def test_a_task_waits_for_a_worker_with_all_its_slots_free_and_lets_smaller_ones_pass() -> None:
    queue = QueueHarness()
    [large] = queue.offer(kind(cost=3))
    [small] = queue.offer(kind(handler="small"))
    queue.credit("w1", 2)
    assert queue.granted_ids == [small]
    explanation = queue.why(large)
    assert explanation.reason == "no_free_slot"
    assert explanation.text == (
        "the task needs 3 slots at once; the most that one of 1 worker has free is 1, and ever had 2"
    )
    queue.credit("w1", 3)
    assert queue.granted_ids == [small, large]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_queue_limit_counts_slots() -> None:
    queue = QueueHarness(concurrency=5)
    ids = queue.offer(kind(cost=2), 3)
    queue.credit("w1", 10)
    assert queue.granted_ids == ids[:2]
    assert queue.why(ids[2]).text == "queue 'mail' runs 4 of 5 slots, and the task needs 2"
    assert queue.why(ids[2]).reason == "queue_limit"
    [small] = queue.offer(kind(handler="small"))
    assert queue.granted_ids == [*ids[:2], small]
    queue.release(small)
    assert len(queue.granted_ids) == 3  # one slot is not enough
    queue.release(ids[0])
    assert queue.granted_ids[-1] == ids[2]


def test_a_raised_or_lifted_queue_limit_lets_waiting_tasks_run() -> None:
    queue = QueueHarness(concurrency=1)
    ids = queue.offer(kind(), 4)
    queue.credit("w1", 10)
    assert len(queue.granted_ids) == 1
    queue.configure(concurrency=3)
    assert len(queue.granted_ids) == 3
    queue.configure(concurrency=0)
    assert queue.granted_ids == ids


def test_a_blocked_key_never_holds_up_others() -> None:
    queue = QueueHarness()
    limited = kind(key_limit=2)
    blocked = queue.offer(limited, 5, key="customer-7")
    other = queue.offer(limited, 1, key="customer-8")
    free = queue.offer(limited, 1)
    queue.credit("w1", 10)
    assert sorted(queue.granted_ids) == sorted([*blocked[:2], *other, *free])
    explanation = queue.why(blocked[3])
    assert (explanation.reason, explanation.text) == ("key_limit", "key 'customer-7' runs 2 of 2")
    assert explanation.ahead == 1
    queue.release(blocked[0])
    assert queue.granted_ids[-1] == blocked[2]


def test_a_key_is_shared_by_the_handlers_of_a_tenant_but_not_by_tenants() -> None:
    queue = QueueHarness()
    queue.credit("w1", 10)
    queue.offer(kind(handler="one", key_limit=1), key="k")
    queue.offer(kind(handler="two", key_limit=1), key="k")
    queue.offer(kind("other", key_limit=1), key="k")
    assert len(queue.granted_ids) == 2


def test_a_key_may_start_only_so_often() -> None:
    queue = QueueHarness()
    limited = kind(key_rate=3, key_rate_ms=10_000)
    ids = queue.offer(limited, 5, key="api")
    queue.credit("w1", 10)
    assert queue.granted_ids == ids[:3]
    queue.release(*ids[:3])
    explanation = queue.why(ids[3])
    assert explanation.reason == "key_rate"
    assert explanation.retry_at_ms == START_MS + 3_334
    assert explanation.text == (
        "key 'api' may start 3 per 10000 ms and has used them; the next may start in 3334 ms, at 2023-11-14 22:13:23Z"
    )
    queue.advance_ms(3_333)
    assert len(queue.granted_ids) == 3
    queue.advance_ms(1)
    assert queue.granted_ids == ids[:4]
    queue.advance_ms(3_333)
    assert queue.granted_ids == ids
    queue.release(*ids[3:])
    queue.advance_ms(10_000)
    assert queue.queue.due_ms() is None


def test_pausing_stops_grants_and_says_who_and_why() -> None:
    queue = QueueHarness(paused=True, paused_by="ann", paused_why="mail server is down", paused_at_ms=START_MS)
    [task] = queue.offer(kind())
    queue.credit("w1", 1)
    assert queue.granted_ids == []
    assert queue.why(task).text == (
        "queue 'mail' is paused by ann since 2023-11-14 22:13:20Z: mail server is down"
    )
    queue.configure()
    assert queue.granted_ids == [task]


# -- tenants -----------------------------------------------------------------------------------------------------------


def test_nothing_of_a_tenant_runs_before_its_answer_and_the_question_is_repeated() -> None:
    queue = QueueHarness()
    queue.answers_tenants = False
    queue.credit("w1", 5)
    [task] = queue.offer(kind())
    assert queue.granted_ids == []
    assert queue.why(task).text == "tenant 'acme' has not yet said how much it may run"
    queue.advance_ms(1_000)
    assert [want.waiting for want in queue.wanted()] == [1, 1]
    queue.send(queue.permits("acme"))
    assert queue.granted_ids == [task]


def test_a_tenant_without_a_limit_is_asked_once_and_reminded_while_it_is_active() -> None:
    queue = QueueHarness()
    queue.credit("w1", 100)
    for _ in range(50):
        queue.release(*queue.offer(kind(), 2))
    assert len(queue.wanted()) == 1
    queue.advance_ms(30_000)
    assert len(queue.wanted()) == 1  # idle is silent
    queue.offer(kind())
    assert len(queue.wanted()) == 2


def test_a_limited_tenant_never_runs_more_than_it_is_allowed_and_others_go_on() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 2
    ids = queue.offer(kind(), 5)
    others = queue.offer(kind("globex"), 3)
    queue.credit("w1", 10)
    assert sorted(queue.granted_ids) == sorted([*ids[:2], *others])
    explanation = queue.why(ids[2])
    assert explanation.reason == "tenant_limit"
    assert explanation.text == "tenant 'acme' runs 2 of 2 slots it is allowed in this queue"
    queue.release(ids[0])
    assert queue.granted_ids[-1] == ids[2]
    queue.send(queue.permits("acme", 1))
    queue.release(ids[1])
    assert queue.granted_ids[-1] == ids[2]
    queue.send(queue.permits("acme", -1))
    assert queue.granted_ids[-2:] == ids[3:]


def test_a_lowered_permit_is_acknowledged_with_its_number_and_every_slot_given_back_is_told() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 3
    ids = queue.offer(kind(), 9)
    queue.credit("w1", 10)
    queue.sent.clear()
    queue.send(queue.permits("acme", 1))
    queue.release(ids[0])
    queue.release(ids[1])
    told = [(want.running, want.allowed) for want in queue.wanted()]
    assert told == [(3, 1), (2, 1), (1, 1)]
    assert len({want.number for want in queue.wanted()}) == 1


def test_a_queue_that_no_longer_needs_what_it_is_allowed_says_so() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 4
    ids = queue.offer(kind(), 9)
    queue.credit("w1", 20)
    for task_id in ids:
        queue.release(task_id)
    told = [(want.running, want.waiting) for want in queue.wanted()]
    assert told == [(0, 9), (4, 0), (2, 0), (1, 0), (0, 0)]  # once it needs no more than allowed, then at every half


def test_what_a_key_holds_back_is_not_asked_for() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 2
    ids = queue.offer(kind(key_limit=1), 20, key="k")
    queue.credit("w1", 20)
    queue.send(queue.permits("acme", 1))
    assert (queue.wanted()[-1].running, queue.wanted()[-1].waiting) == (1, 0)
    queue.withdraw(*ids[5:])
    queue.send(queue.permits("acme", 0))
    assert (queue.wanted()[-1].running, queue.wanted()[-1].waiting) == (1, 0)
    queue.release(ids[0])
    assert (queue.wanted()[-1].running, queue.wanted()[-1].waiting) == (0, 4)


def test_permits_are_given_back_once_nothing_needs_them_and_asked_for_anew() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 3
    queue.credit("w1", 10)
    queue.release(*queue.offer(kind(), 2))
    queue.advance_ms(20_000)
    assert queue.queue.due_ms() is None
    last = queue.wanted()[-1]
    assert (last.running, last.waiting) == (0, 0)
    count = len(queue.wanted())
    queue.answers_tenants = False
    queue.offer(kind())
    assert len(queue.granted_ids) == 2
    assert len(queue.wanted()) == count + 1


def test_permits_that_were_given_back_cannot_be_used_by_a_repeated_answer() -> None:
    queue = QueueHarness()
    queue.answers_tenants = False
    answer = queue.permits("acme", 3)
    queue.credit("w1", 5)
    [first] = queue.offer(kind())
    queue.withdraw(first)
    queue.send(answer)  # nothing needs it any more
    given_back = queue.wanted()[-1]
    assert (given_back.running, given_back.waiting, given_back.allowed) == (0, 0, 0)
    assert given_back.number == answer.number
    [task] = queue.offer(kind())
    queue.send(answer)
    assert queue.granted_ids == []
    queue.send(queue.permits("acme", 3))
    assert queue.granted_ids == [task]


def test_permits_of_a_tenant_that_is_not_heard_any_more_are_not_used_again() -> None:
    queue = QueueHarness()
    queue.allowed["acme"] = 3
    ids = queue.offer(kind(), 9)
    queue.credit("w1", 3)
    queue.answers_tenants = False
    queue.release(*ids[:2])

    queue.advance_ms(11_000)
    queue.credit("w1", 9)
    assert queue.granted_ids == ids[:3], "a later actor of the tenant may not know of the two that are free"

    queue.send(queue.permits("acme", 3))
    assert queue.granted_ids == ids[:5]


def test_a_tenant_without_a_limit_that_is_not_heard_any_more_is_asked_before_more_may_run() -> None:
    queue = QueueHarness()
    queue.credit("w1", 9)
    [first] = queue.offer(kind())
    queue.answers_tenants = False

    queue.advance_ms(30_000)
    ids = queue.offer(kind(), 3)
    assert queue.granted_ids == [first]
    assert queue.wanted()[-1].allowed == 0

    queue.send(queue.permits("acme", 2))
    assert queue.granted_ids == [first, ids[0]]


def test_a_tenant_is_told_whether_all_that_runs_is_known_and_again_once_it_is() -> None:
    queue = QueueHarness(configured=False)
    queue.allowed["acme"] = 3
    queue.configure()
    queue.send(queue.everything(0))
    queue.offer(kind())
    assert {want.partial for want in queue.wanted()} == {True}
    queue.sent.clear()

    queue.send(queue.everything(1))

    assert [want.partial for want in queue.wanted()] == [False]


def test_tenants_that_came_and_went_are_forgotten_and_asked_anew() -> None:
    queue = QueueHarness()
    for number in range(2_000):
        queue.offer(kind("busy", f"handler{number}", require=("gpu",)))  # what waits is not forgotten
    queue.credit("w1", 5_000)
    for number in range(1_100):
        queue.release(*queue.offer(kind(f"t{number}")))
    assert len(queue.queue._permits) < 1_100
    queue.take_granted()
    queue.allowed["t500"] = 1
    one, _ = queue.offer(kind("t500"), 2)
    assert queue.granted_ids == [one]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_why_names_the_missing_worker() -> None:
    queue = QueueHarness()
    [task] = queue.offer(kind(require=("gpu=true",)))
    assert queue.why(task).text == "no worker serves queue 'mail'"
    for worker in ("w1", "w2", "w3"):
        queue.credit(worker, 1)
    explanation = queue.why(task)
    assert explanation.reason == "no_matching_worker"
    assert explanation.text == "no worker with gpu=true; 3 workers connected"


def test_why_a_requirement_that_cannot_be_read_never_runs() -> None:
    queue = QueueHarness()
    [task] = queue.offer(kind(require=("gpu==",)))
    queue.credit("w1", 1, gpu="true")
    assert queue.granted_ids == []
    assert "'gpu==' is wrong at position 5" in queue.why(task).text


def test_why_a_task_waits_in_line_and_how_many_are_before_it() -> None:
    queue = QueueHarness()
    ids = queue.offer(kind(), 5)
    queue.credit("w1", 1)
    assert queue.why(ids[4]).ahead == 3
    assert queue.why(ids[4]).text == "none of 1 worker has a free slot"
    assert queue.why(ids[0]).text == "granted to session 'w1' at 2023-11-14 22:13:20Z"
    assert queue.why(12345).reason == "not_offered"


def test_the_reading_counts_what_is_offered_what_runs_and_who_is_there() -> None:
    queue = QueueHarness()
    queue.offer(kind(), 3, priority=2)
    queue.offer(kind(cost=2), 3, priority=8)
    queue.credit("w1", 4)
    queue.credit("w2", 0)
    assert queue.read() == m.QueueRead(m.QueueConfig("default", "mail"), {8: 3}, 3, 1, 2)


def test_an_idle_queue_is_silent_and_remembers_nothing() -> None:
    queue = QueueHarness()
    limited = kind(key_limit=1)
    queue.credit("w1", 2_000)
    for number in range(300):
        queue.release(*queue.offer(limited, key=f"k{number}", shard=number % 2))
    if queue.queue.due_ms() is not None:
        queue.advance_ms(120_000)
    assert queue.queue.due_ms() is None
    assert len(queue.granted_ids) == 300
    assert {shard_of(task_id) for task_id in queue.granted_ids} == {0, 1}
    book = queue.queue._book
    assert (len(book.known), book.lanes, len(book.gates)) == (0, 0, 0)


def test_a_queue_is_spent_only_once_nothing_is_left_that_a_new_one_would_not_know() -> None:
    queue = QueueHarness(configured=False)
    assert not queue.queue.is_spent, "no shard has answered yet"
    queue.configure()
    queue.send(queue.everything(0), queue.everything(1))
    assert queue.queue.is_spent

    queue.credit("w1", 2)
    assert not queue.queue.is_spent
    queue.send(m.SessionEnded("w1", "left"))
    assert queue.queue.is_spent

    queue.permits("acme", 1)
    [task] = queue.offer(kind())
    assert not queue.queue.is_spent
    queue.credit("w2", 1)
    queue.release(task)
    queue.send(m.SessionEnded("w2", "left"))
    assert not queue.queue.is_spent, "it holds a permit"
    queue.advance_ms(120_000)
    assert queue.queue.is_spent


def test_a_queue_whose_key_has_started_tasks_lately_is_not_spent() -> None:
    queue = QueueHarness()
    queue.credit("w1", 1)
    queue.release(*queue.offer(kind(key_rate=60), key="k"))
    queue.send(m.SessionEnded("w1", "left"))
    queue.advance_ms(30_000)
    assert (len(queue.granted_ids), queue.read().running, queue.queue.due_ms()) == (1, 0, None)
    assert not queue.queue.is_spent, "a new one would let the key start more than it may"


# -- what is lost, late or comes twice -----------------------------------------------------------------------------------


def asked(queue: QueueHarness, shard: int = 0) -> int:
    """Return how often the shard has been asked for all it has."""
    return sum(e.to == f"shard.{shard}" and isinstance(e.message, m.QueueStarted) for e in queue.sent)


def test_what_comes_twice_late_or_from_a_shard_that_has_moved_is_not_taken() -> None:
    queue = QueueHarness()
    one, two, three = queue.new_ids(3)
    queue.advance_ms(1_000)
    queue.sent.clear()
    first = m.OfferTasks(0, [m.Lot(kind(), 5, "", [one], [START_MS])], epoch=1, number=2)
    queue.send(first, m.WithdrawTasks(0, [one], 1, 3), first)
    assert queue.read().offered == {}
    queue.send(m.OfferTasks(0, [m.Lot(kind(), 5, "", [two], [START_MS])], epoch=2, number=1))
    queue.send(m.OfferTasks(0, [m.Lot(kind(), 5, "", [three], [START_MS])], epoch=1, number=4))
    assert queue.read().offered == {5: 1}
    assert asked(queue) == 1  # the shard began anew


def test_a_shard_some_of_whose_messages_are_missing_is_asked_once_a_second_until_it_answers() -> None:
    queue = QueueHarness()
    queue.advance_ms(1_000)
    queue.sent.clear()
    for number in (5, 7, 9, 10):
        queue.send(m.OfferTasks(0, [], epoch=1, number=number))
    assert asked(queue) == 1
    queue.advance_ms(2_500)
    assert asked(queue) == 3
    queue.send(queue.everything(0, epoch=1, number=11))
    queue.send(m.OfferTasks(0, [], epoch=1, number=13))
    assert asked(queue) == 3  # it was asked half a second ago
    queue.advance_ms(500)
    assert asked(queue) == 4
    queue.send(queue.everything(0, epoch=1, number=14))
    queue.advance_ms(60_000)
    assert (asked(queue), asked(queue, 1)) == (4, 0)
    assert queue.queue.due_ms() is None


def test_what_a_shard_does_not_have_is_dropped_but_for_grants_it_has_not_seen() -> None:
    queue = QueueHarness(concurrency=3)
    ids = queue.offer(kind(), 2)
    queue.credit("w1", 2)  # granted with number 1
    other = queue.offer(kind(), 1, shard=1)
    late = queue.offer(kind(), 2)
    queue.credit("w1", 1)  # number 2, to shard 1
    queue.configure(concurrency=5)
    queue.credit("w1", 1)  # number 3
    assert queue.granted_ids == [*ids, *other, late[0]]
    running = m.LeasedLot(kind(), 5, "", "w1", [ids[0]])

    queue.send(queue.everything(0, [m.Lot(kind(), 5, "", [ids[1]], [START_MS])], [running], granted=1))

    read = queue.read()
    assert (read.running, read.offered) == (3, {5: 1})  # one each of numbers 1, 2 and 3
    assert queue.why(late[1]).reason == "not_offered"
    assert queue.why(ids[1]).reason == "no_free_slot"


def test_a_release_does_not_end_a_grant_its_shard_had_not_seen() -> None:
    queue = QueueHarness(concurrency=1)
    [task] = queue.offer(kind())
    queue.credit("w1", 2)
    owner = queue.queue._links.owner
    queue.running.clear()
    queue.send(queue.everything(0, [m.Lot(kind(), 5, "", [task], [START_MS])], granted=1, epoch=1, number=3))
    assert queue.granted_ids == [task, task]
    for release in (m.ReleaseTasks(0, [task], {}, 1, 4, owner, 1), m.ReleaseTasks(0, [task], {}, 1, 5, (9, 9), 9)):
        queue.send(release)
        assert queue.read().running == 1
    queue.send(m.ReleaseTasks(0, [task], {}, 1, 6, owner, 2))
    assert queue.read().running == 0


def test_grants_are_confirmed_when_they_are_old_and_only_then() -> None:
    queue = QueueHarness()
    ids = queue.offer(kind(), 1_500)
    queue.credit("w1", 3_000)
    queue.sent.clear()
    queue.advance_ms(9_999)
    assert queue.sent == []
    queue.advance_ms(1)
    asked_for = [e.message for e in queue.sent if isinstance(e.message, m.ConfirmLeases)]
    assert [message.ids for message in asked_for] == [ids[:1_024], ids[1_024:]]
    queue.release(*ids[:1_499])
    young = queue.offer(kind(), 1)
    queue.credit("w1", 3_000)
    queue.sent.clear()
    queue.advance_ms(9_999)
    queue.advance_ms(1)
    assert [e.message.ids for e in queue.sent] == [[ids[-1], *young]]
    queue.release(ids[-1], *young)
    queue.advance_ms(20_000)
    assert queue.queue.due_ms() is None


def test_with_a_limit_shards_that_do_not_answer_are_waited_for_twenty_seconds() -> None:
    queue = QueueHarness(configured=False)
    queue.configure()
    queue.send(queue.everything(0))
    ids = queue.offer(kind(), 1)
    limited = queue.offer(kind(key_limit=1), 1, key="k")
    queue.credit("w1", 5)
    queue.advance_ms(19_999)
    assert queue.granted_ids == []
    queue.advance_ms(1)
    assert sorted(queue.granted_ids) == sorted([*ids, *limited])
    queue.sent.clear()
    queue.advance_ms(10_000)
    assert asked(queue, 1) > 0  # but not forgotten


def test_settings_that_come_late_or_from_an_old_owner_are_not_taken() -> None:
    queue = QueueHarness(configured=False)
    for epoch, number, paused in ((2, 2, True), (2, 1, False), (1, 9, False)):
        queue.sent.clear()
        queue.send(m.ConfigureQueue(m.QueueConfig("default", "mail", paused=paused), epoch, number))
        [answer] = [e for e in queue.sent if isinstance(e.message, m.QueueConfigured)]
        assert (answer.to, answer.message.number) == (f"shard.{slot_of(ADDRESS, 2)}", number)
        assert queue.read().config.paused
    queue.send(m.ConfigureQueue(m.QueueConfig("default", "mail"), 3, 1))
    assert not queue.read().config.paused


def test_a_queue_actor_that_begins_with_a_clock_set_back_takes_a_later_birth() -> None:
    queue = QueueHarness(configured=False)
    queue.send(queue.everything(0, owner=(0, START_MS + 99), granted=50))
    assert queue.queue._links.owner == (0, START_MS + 100)
    queue.sent.clear()
    queue.advance_ms(1_000)
    assert queue.sent[0].message == m.QueueStarted(ADDRESS, 0, START_MS + 100, 0)


def test_of_two_actors_of_a_tenant_the_one_of_the_higher_epoch_counts() -> None:
    queue = QueueHarness()
    queue.answers_tenants = False
    ids = queue.offer(kind(), 5)
    queue.credit("w1", 9)
    queue.send(m.PermitsGranted("acme", 1, 1, 900, 4))
    queue.send(m.PermitsGranted("acme", 5, 1, 950, 3))  # the old one
    assert queue.granted_ids == ids[:1]
    queue.send(m.PermitsGranted("acme", 2, 1, 10, 5))  # a newer one, by a clock that was set back
    assert queue.granted_ids == ids[:2]
    queue.send(m.PermitsGranted("acme", 1, 1, 10, 5))
    assert (queue.wanted()[-1].granted_by, queue.wanted()[-1].number) == (5, 10)


def test_permits_that_come_late_are_not_taken_and_a_confirmation_of_lost_ones_is() -> None:
    queue = QueueHarness()
    queue.answers_tenants = False
    ids = queue.offer(kind(), 5)
    queue.credit("w1", 9)
    queue.send(m.PermitsGranted("acme", 1, 1, 900, 4))
    queue.send(m.PermitsGranted("acme", 5, 1, 899, 4))  # it was under way for long
    queue.send(m.PermitsGranted("acme", 5, 1, 900, 4, True))  # nothing but a sign of life
    assert queue.granted_ids == ids[:1]
    queue.send(m.PermitsGranted("acme", 2, 1, 901, 4, True))
    assert queue.granted_ids == ids[:2]


def test_permits_given_back_to_an_old_actor_of_a_tenant_say_nothing_of_what_a_newer_one_grants() -> None:
    queue = QueueHarness()
    queue.answers_tenants = False
    queue.credit("w1", 9)
    [first] = queue.offer(kind())
    queue.withdraw(first)
    queue.send(m.PermitsGranted("acme", 3, 1, 900, 4))  # nothing needs it: given back
    [task] = queue.offer(kind())
    queue.send(m.PermitsGranted("acme", 3, 1, 10, 5))
    assert queue.granted_ids == [task]
