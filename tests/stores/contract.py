"""The contract every store has to pass. A test module of a database subclasses `StoreContract` and gives it the
fixture `database`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from foliot.actors.messages import QueueConfig, TenantConfig
from foliot.actors.rows import (
    KeysRead,
    LaneRead,
    LanesRead,
    ReadKeys,
    ReadLane,
    ReadLanes,
    ReadTasks,
    ReadTimers,
    TaskRow,
    TasksRead,
    TimersRead,
    lane_of,
)
from foliot.actors.states import State
from foliot.runtime.errors import StaleEpochError, StoreError
from foliot.stores.port import Store, TaskFilter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .harness import NOW_MS, Database, Hand, kind_of

MANY_SHARDS = 1024
"""Property tests give every example a shard of its own, so that one database serves them all."""
_property = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
)
_waiting = st.sampled_from([State.SCHEDULED, State.RETRYING, State.QUEUED, State.BLOCKED])


class StoreContract:
    """Tests of behaviour that does not depend on the database."""

    @pytest.fixture
    async def store(self, database: Database) -> AsyncIterator[Store]:
        store = await database.open()
        yield store
        await store.close()

    # -- ownership ---------------------------------------------------------------------------------------------------

    async def test_a_new_shard_starts_from_nothing(self, store: Store) -> None:
        image = await store.claim(3, "node-1")

        assert (image.shard, image.epoch, image.last_id, image.has_ready) == (3, 1, 0, False)
        assert (image.ledger, image.running, image.kinds, image.queues, image.tenants) == ([], [], [], [], [])

    async def test_every_claim_raises_the_epoch_also_after_a_restart(self, database: Database) -> None:
        store = await database.open()
        assert [(await store.claim(0, "a")).epoch, (await store.claim(0, "b")).epoch] == [1, 2]
        assert (await store.claim(1, "a")).epoch == 1

        store = await database.open()

        assert (await store.claim(0, "a")).epoch == 3

    async def test_a_commit_of_an_older_epoch_is_refused_and_writes_nothing(self, store: Store) -> None:
        old = await Hand.of(store)
        fresh = await Hand.of(store)
        changes = old.changes()
        ids = old.insert(changes)

        with pytest.raises(StaleEpochError, match="shard 0 is owned under epoch 2, got a commit of epoch 1"):
            await store.commit(changes)

        assert await store.tasks(ids) == []
        await fresh.add()
        assert (await store.list(TaskFilter()))[0] != []

    async def test_a_shard_nobody_claimed_takes_no_commit(self, store: Store) -> None:
        with pytest.raises(StaleEpochError):
            await Hand(store, 2, 1).add()

    async def test_a_stale_shard_does_not_keep_others_from_committing(self, store: Store) -> None:
        hands = [await Hand.of(store, shard) for shard in range(4)]
        await store.claim(2, "another")
        groups = [hand.changes() for hand in hands]
        ids = [hand.insert(changes, 3) for hand, changes in zip(hands, groups, strict=True)]

        results = await asyncio.gather(*[store.commit(changes) for changes in groups], return_exceptions=True)

        assert [type(result) for result in results] == [type(None), type(None), StaleEpochError, type(None)]
        assert [len(await store.tasks(of_shard)) for of_shard in ids] == [3, 3, 0, 3]

    async def test_a_claim_returns_what_the_shard_owns(self, database: Database) -> None:
        store = await database.open()
        hand = await Hand.of(store, 1)
        running = await hand.add(2, state=State.RUNNING)
        await hand.add(3, state=State.COMPLETED)
        await hand.add(1, state=State.SCHEDULED)
        await (await Hand.of(store, 2)).add(5, state=State.RUNNING)

        image = await (await database.open()).claim(1, "node-2")

        assert [(row.id, row.state, row.session, row.payload) for row in image.running] == [
            (task_id, State.RUNNING, "session-1", None) for task_id in running
        ]
        [entry] = image.ledger
        assert (entry.tenant, entry.queue) == ("acme", "default")
        assert (entry.accepted, entry.running, entry.completed, entry.waiting) == (6, 2, 3, 1)
        assert image.kinds == [kind_of()]
        assert not image.has_ready

    async def test_a_claim_tells_whether_anything_is_ready(self, store: Store) -> None:
        hand = await Hand.of(store, 1)
        await hand.add()

        assert [(await store.claim(shard, "node-2")).has_ready for shard in (0, 1)] == [False, True]

    async def test_the_last_id_survives_the_purge_of_its_task(self, database: Database) -> None:
        store = await database.open()
        hand = await Hand.of(store)
        ids = await hand.add(4, state=State.COMPLETED)
        changes = hand.changes()
        changes.purged += ids
        await store.commit(changes)

        image = await (await database.open()).claim(0, "node-1")

        assert image.last_id == ids[-1]

    # -- commits -----------------------------------------------------------------------------------------------------

    async def test_an_inserted_task_is_there_in_full_after_a_restart(self, database: Database) -> None:
        store = await database.open()
        hand = await Hand.of(store)
        changes = hand.changes()
        key, payload = "kü\0ß \U0001f30d", bytes(range(256))
        [task_id] = hand.insert(
            changes, state=State.SCHEDULED, due_ms=NOW_MS + 5, priority=9, key=key, dedupe_key="d\0", payload=payload
        )
        await store.commit(changes)

        store = await database.open()

        [detail] = await store.tasks([task_id])
        assert detail.row == TaskRow(
            id=task_id, template_id=kind_of().template_id, state=1, priority=9, attempt=0, spent=0, interruptions=0,
            due_ms=NOW_MS + 5, updated_ms=NOW_MS, lane=lane_of("queue.default.default", "acme", 9, key), key=key,
            dedupe_key="d\0", session="", cancelling=0, started_ms=0, ended_ms=0, payload=payload, result=b"", error=b"",
        )  # fmt: skip
        assert (detail.kind, detail.attempts, detail.permille) == (kind_of(), [], -1)

    async def test_a_lease_sets_attempt_session_and_state(self, store: Store) -> None:
        hand = await Hand.of(store)
        [task_id] = await hand.add()
        changes = hand.changes()
        changes.leased.append((task_id, 2, "session-7", NOW_MS + 9))

        await store.commit(changes)

        row = await hand.row(task_id)
        assert (row.state, row.attempt, row.session, row.updated_ms) == (State.RUNNING, 2, "session-7", NOW_MS + 9)
        assert row.payload == b"p"

    async def test_a_move_ends_the_session_unless_the_task_still_runs(self, store: Store) -> None:
        hand = await Hand.of(store)
        stays, goes = await hand.add(2, state=State.RUNNING)
        changes = hand.changes()
        changes.moved.append((stays, int(State.RUNNING), NOW_MS, 0, 0, 1, NOW_MS + 1))
        changes.moved.append((goes, int(State.RETRYING), NOW_MS + 500, 1, 2, 0, NOW_MS + 2))

        await store.commit(changes)

        row = await hand.row(stays)
        assert (row.state, row.session, row.cancelling, row.updated_ms) == (State.RUNNING, "session-1", 1, NOW_MS + 1)
        row = await hand.row(goes)
        assert (row.state, row.session, row.due_ms, row.spent, row.interruptions, row.updated_ms) == (
            State.RETRYING, "", NOW_MS + 500, 1, 2, NOW_MS + 2
        )  # fmt: skip

    async def test_an_end_keeps_result_and_error(self, store: Store) -> None:
        hand = await Hand.of(store)
        ids = await hand.add(3, state=State.RUNNING)
        changes = hand.changes()
        hand.end(changes, ids[:1], result=b"\0result\xff")
        hand.end(changes, ids[1:2], State.DEAD, error=b"\0error\xfe", ended_ms=NOW_MS + 7)
        hand.end(changes, ids[2:])

        await store.commit(changes)

        rows = [detail.row for detail in await store.tasks(ids)]
        assert [(row.state, row.result, row.error) for row in rows] == [
            (State.COMPLETED, b"\0result\xff", b""), (State.DEAD, b"", b"\0error\xfe"), (State.COMPLETED, b"", b"")
        ]  # fmt: skip
        assert (rows[1].started_ms, rows[1].ended_ms, rows[1].updated_ms, rows[1].spent) == (
            NOW_MS + 6, NOW_MS + 7, NOW_MS + 7, 1
        )  # fmt: skip

    async def test_one_turn_may_insert_and_lease_and_another_insert_and_end(self, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        leased, ended, moved = hand.insert(changes, 3)
        changes.leased.append((leased, 1, "s", NOW_MS))
        hand.end(changes, [ended], State.CANCELLED)
        changes.moved.append((moved, int(State.SCHEDULED), NOW_MS + 1, 0, 0, 0, NOW_MS))

        await store.commit(changes)

        states = [detail.row.state for detail in await store.tasks([leased, ended, moved])]
        assert states == [State.RUNNING, State.CANCELLED, State.SCHEDULED]

    async def test_a_retry_by_a_person_starts_the_task_over(self, store: Store) -> None:
        hand = await Hand.of(store)
        [task_id] = await hand.add(state=State.DEAD)
        changes = hand.changes()
        changes.moved.append((task_id, int(State.QUEUED), NOW_MS + 3, 0, 0, 0, NOW_MS + 3))
        changes.payloads.append((task_id, b"edited\0"))
        changes.count("acme", "default", "dead", -1)

        await store.commit(changes)

        row = await hand.row(task_id)
        assert (row.state, row.spent, row.ended_ms, row.payload) == (State.QUEUED, 0, 0, b"edited\0")
        counters, recount = await store.ledger()
        assert counters == recount
        assert (counters[0].accepted, counters[0].waiting, counters[0].dead) == (1, 1, 0)

    async def test_a_template_that_is_known_stays_as_it_was(self, store: Store) -> None:
        hand = await Hand.of(store)
        [task_id] = await hand.add()
        first = kind_of()
        changed = msgspec.structs.replace(first, template=msgspec.structs.replace(first.template, max_attempts=9))
        await hand.add(kind=changed)

        assert (await hand.detail(task_id)).kind == first

    async def test_commits_of_many_shards_share_transactions(self, database: Database) -> None:
        store = await database.open(shards=16)
        hands = [await Hand.of(store, shard) for shard in range(16)]

        await asyncio.gather(*[hand.add(10) for _ in range(4) for hand in hands])

        assert store.stats.shard_commits == 64
        assert store.stats.commits < 16
        assert len((await store.list(TaskFilter(limit=1_000)))[0]) == 640

    async def test_turns_of_one_shard_that_wait_together_are_applied_in_order(self, store: Store) -> None:
        hand = await Hand.of(store)
        [task_id] = await hand.add(state=State.RUNNING)
        first, second, third = hand.changes(), hand.changes(), hand.changes()
        hand.end(first, [task_id], State.FAILED)
        second.moved.append((task_id, int(State.QUEUED), NOW_MS, 0, 0, 0, NOW_MS))
        third.leased.append((task_id, 2, "session-2", NOW_MS))

        await asyncio.gather(*[store.commit(changes) for changes in (first, second, third)])

        row = await hand.row(task_id)
        assert (row.state, row.session, row.ended_ms) == (State.RUNNING, "session-2", 0)

    async def test_a_commit_whose_waiter_was_cancelled_is_still_written(self, store: Store) -> None:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        changes = hand.changes()
        ids = hand.insert(changes)
        waiter = asyncio.ensure_future(store.commit(changes))
        await asyncio.sleep(0)
        waiter.cancel()

        await other.add()
        await hand.add()

        assert len(await store.tasks(ids)) == 1

    async def test_a_closed_store_refuses(self, database: Database) -> None:
        store = await database.open()
        hand = await Hand.of(store)
        await store.close()
        await store.close()

        with pytest.raises(StoreError, match="is closed"):
            await hand.add()
        with pytest.raises(StoreError, match="is closed"):
            await store.tasks([1])

    async def test_closing_finishes_what_was_committed(self, database: Database) -> None:
        store = await database.open()
        hand = await Hand.of(store)
        changes = hand.changes()
        ids = hand.insert(changes, 100)
        commit = asyncio.ensure_future(store.commit(changes))
        await asyncio.sleep(0)

        await store.close()

        await commit
        assert len(await (await database.open()).tasks(ids)) == 100

    # -- queries of a shard ------------------------------------------------------------------------------------------

    @_property
    @given(
        tasks=st.lists(st.tuples(_waiting, st.integers(0, 6)), max_size=25),
        until=st.integers(-1, 7),
        limit=st.integers(1, 8),
    )
    async def test_timers_are_paged_by_due_time_and_id(
        self, database: Database, tasks: list[tuple[State, int]], until: int, limit: int
    ) -> None:
        store = await _shared(database)
        hand = await Hand.of(store, _next_shard(database))
        changes = hand.changes()
        ids = [hand.insert(changes, state=state, due_ms=NOW_MS + due)[0] for state, due in tasks]
        await store.commit(changes)
        timers = sorted(
            (NOW_MS + due, task_id)
            for task_id, (state, due) in zip(ids, tasks, strict=True)
            if state in (State.SCHEDULED, State.RETRYING)
        )

        found: list[tuple[int, int]] = []
        after = (0, 0)
        while True:
            page = await store.query(hand.shard, ReadTimers(7, *after, NOW_MS + until, limit))
            assert isinstance(page, TimersRead)
            assert page.token == 7
            found += [(row.due_ms, row.id) for row in page.rows]
            assert len(found) <= len(timers)
            beyond = [due for due, task_id in timers if (due, task_id) > (found[-1] if found else (0, 0))]
            assert page.next_due_ms == (beyond[0] if beyond else 0)
            assert len(page.kinds) == min(len(page.rows), 1)
            if len(page.rows) < limit:
                break
            after = found[-1]
        assert found == [timer for timer in timers if timer[0] <= NOW_MS + until]

    @_property
    @given(
        tasks=st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([0, 5]), st.integers(0, 3)), max_size=25),
        limit=st.integers(1, 5),
    )
    async def test_the_backlog_is_paged_lane_by_lane(
        self, database: Database, tasks: list[tuple[str, int, int]], limit: int
    ) -> None:
        store = await _shared(database)
        hand = await Hand.of(store, _next_shard(database))
        changes = hand.changes()
        model: dict[int, list[tuple[int, int]]] = {}
        for key, priority, due in tasks:
            [task_id] = hand.insert(changes, key=key, priority=priority, due_ms=NOW_MS + due)
            lane = lane_of("queue.default.default", "acme", priority, key)
            model.setdefault(lane, []).append((NOW_MS + due, task_id))
        hand.insert(changes, 2, state=State.SCHEDULED)
        await store.commit(changes)

        lanes: list[int] = []
        while True:
            answer = await store.query(hand.shard, ReadLanes(1, lanes[-1] if lanes else -1, limit))
            assert isinstance(answer, LanesRead)
            assert len(answer.lanes) <= limit
            lanes += answer.lanes
            assert len(lanes) <= len(model)
            if not answer.lanes:
                break
        found: dict[int, list[tuple[int, int]]] = {}
        for lane in lanes:
            after = (0, 0)
            while True:
                page = await store.query(hand.shard, ReadLane(2, lane, *after, limit))
                assert isinstance(page, LaneRead)
                assert page.lane == lane
                if not page.rows:
                    break
                found.setdefault(lane, []).extend([(row.due_ms, row.id) for row in page.rows])
                assert len(found[lane]) <= len(model[lane])
                after = found[lane][-1]

        assert lanes == sorted(model)
        assert found == {lane: sorted(rows) for lane, rows in model.items()}

    async def test_pages_leave_out_large_payloads_which_are_read_by_id(self, store: Store) -> None:
        hand = await Hand.of(store)
        large = bytes(1_000_000)
        ids = await hand.add(2, state=State.SCHEDULED, payload=b"small") + await hand.add(
            1, state=State.SCHEDULED, payload=large
        )

        page = await store.query(0, ReadTimers(1, 0, 0, NOW_MS, 10))
        read = await store.query(0, ReadTasks(1, ids))

        assert isinstance(page, TimersRead)
        assert [row.payload for row in page.rows] == [b"small", b"small", None]
        assert isinstance(read, TasksRead)
        assert sorted([(row.id, row.payload) for row in read.rows]) == [
            (ids[0], b"small"), (ids[1], b"small"), (ids[2], large)
        ]  # fmt: skip

    async def test_tasks_are_read_with_their_checkpoints_and_missing_ones_left_out(self, store: Store) -> None:
        hand = await Hand.of(store)
        one, two, three = await hand.add(3, state=State.RUNNING)
        for permille, checkpoint in ((100, b"\0first"), (200, None)):
            changes = hand.changes()
            changes.progress.append((one, 1, permille, "on its way", checkpoint, NOW_MS + permille))
            changes.progress.append((two, 1, permille, "", None, NOW_MS))
            await store.commit(changes)

        answer = await store.query(0, ReadTasks(5, [three, one, 12345, two]))

        assert isinstance(answer, TasksRead)
        assert sorted([row.id for row in answer.rows]) == [one, two, three]
        assert answer.checkpoints == {one: b"\0first"}
        assert answer.kinds == [kind_of()]
        detail = await hand.detail(one)
        assert (detail.permille, detail.note, detail.progress_at_ms) == (200, "on its way", NOW_MS + 200)

    async def test_dedupe_keys_are_held_and_replaced(self, store: Store) -> None:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        changes = hand.changes()
        changes.dedupe += [("acme", "a", 1, NOW_MS - 1), ("acme", "b\0c", 2, NOW_MS), ("zoo", "a", 3, NOW_MS)]
        await store.commit(changes)
        changes = other.changes()
        changes.dedupe.append(("acme", "a", 9, NOW_MS))
        await store.commit(changes)
        asked = ["a", "b\0c", "b", "none"]

        assert await _held(store, "acme", asked) == {"a": (1, NOW_MS - 1), "b\0c": (2, NOW_MS)}
        assert await _held(store, "zoo", asked) == {"a": (3, NOW_MS)}

        changes = hand.changes()
        changes.dedupe.append(("acme", "a", 4, NOW_MS + 9))
        await store.commit(changes)

        assert await _held(store, "acme", asked) == {"a": (4, NOW_MS + 9), "b\0c": (2, NOW_MS)}
        assert await _held(store, "acme", []) == {}

    async def test_requests_are_answered_as_the_first_time(self, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        changes.requests.append(("r-1", b"\0answer", NOW_MS + 1))
        await store.commit(changes)

        known = await store.query(0, ReadKeys(1, "acme", [], "r-1"))
        unknown = await store.query(0, ReadKeys(2, "acme", [], "r-2"))
        of_another = await store.query(1, ReadKeys(3, "acme", [], "r-1"))

        assert known == KeysRead(1, {}, b"\0answer")
        assert unknown == KeysRead(2, {}, b"")
        assert of_another == KeysRead(3, {}, b"")

    # -- what people ask ---------------------------------------------------------------------------------------------

    async def test_a_task_is_shown_with_its_attempts_and_logs(self, store: Store) -> None:
        hand = await Hand.of(store)
        first, second = await hand.add(2)
        changes = hand.changes()
        changes.attempts += [
            (second, 2, 0, "s2", NOW_MS, NOW_MS + 2, b""),
            (second, 1, 2, "s1", NOW_MS, NOW_MS + 1, b"\0error\xff"),
            (first, 1, 3, "s1", NOW_MS, NOW_MS + 1, b"late"),
        ]
        changes.logs += [(second, 2, 0, b"c"), (second, 1, 1, b"b\xff\0"), (second, 1, 0, b"a"), (first, 1, 0, b"x")]
        await store.commit(changes)

        details = await store.tasks([second, 99, first])

        assert [detail.row.id for detail in details] == [second, first]
        assert [(entry.attempt, entry.kind, entry.session, entry.error) for entry in details[0].attempts] == [
            (1, 2, "s1", b"\0error\xff"), (2, 0, "s2", b"")
        ]  # fmt: skip
        assert [entry.error for entry in details[1].attempts] == [b"late"]
        assert await store.logs(second) == [(1, b"a"), (1, b"b\xff\0"), (2, b"c")]
        assert await store.logs(second, 2) == [(2, b"c")]
        assert await store.logs(77) == []

    @_property
    @given(data=st.data())
    async def test_a_list_shows_what_matches_newest_first(self, database: Database, data: st.DataObject) -> None:
        store = await _shared(database)
        number = _next_shard(database)
        hand = await Hand.of(store, number)
        names = st.sampled_from(["a", "b"])
        tasks = data.draw(st.lists(st.tuples(names, names, names, st.sampled_from(list(State))), max_size=20))
        model: list[tuple[int, str, str, str, State]] = []
        changes = hand.changes()
        for tenant, queue, handler, state in tasks:
            kind = kind_of(handler, tenant=f"{tenant}{number}", queue=queue)
            [task_id] = hand.insert(changes, kind=kind, state=State.QUEUED)
            model.append((task_id, tenant, queue, handler, state))
            if state.is_final:
                hand.end(changes, [task_id], state, kind=kind)
            elif state is State.RUNNING:
                changes.leased.append((task_id, 1, "s", NOW_MS))
            elif state is not State.QUEUED:
                changes.moved.append((task_id, int(state), NOW_MS, 0, 0, 0, NOW_MS))
        await store.commit(changes)
        maybe = st.sampled_from(["", "a", "b"])
        tenant, queue, handler = data.draw(names), data.draw(maybe), data.draw(maybe)
        states = data.draw(st.lists(st.sampled_from(list(State)), max_size=3))
        limit = data.draw(st.integers(1, 6))

        found: list[TaskRow] = []
        while True:
            rows, kinds = await store.list(
                TaskFilter(f"{tenant}{number}", tuple([int(state) for state in states]), queue, handler,
                           found[-1].id if found else 0, limit)
            )  # fmt: skip
            assert sorted(kinds) == sorted({row.template_id for row in rows})
            found += rows
            if len(rows) < limit:
                break

        expected = [
            task_id
            for task_id, its_tenant, its_queue, its_handler, state in model
            if its_tenant == tenant and queue in ("", its_queue) and handler in ("", its_handler)
            and (not states or state in states)
        ]  # fmt: skip
        assert [row.id for row in found] == expected[::-1]
        assert all(row.payload is None for row in found)

    @pytest.mark.parametrize("filter", [TaskFilter(), TaskFilter(tenant="acme"), TaskFilter(states=(1, 2))])
    async def test_a_list_pages_through_everything(self, store: Store, filter: TaskFilter) -> None:
        hand = await Hand.of(store)
        ids = await hand.add(7)

        first, _ = await store.list(msgspec.structs.replace(filter, limit=4))
        second, _ = await store.list(msgspec.structs.replace(filter, limit=4, before=first[-1].id))

        assert [row.id for row in first + second] == ids[::-1]

    async def test_configurations_are_replaced_and_known_at_the_next_claim(self, store: Store) -> None:
        hand, other = await Hand.of(store, 1), await Hand.of(store, 2)
        for limit in (1, 2):
            changes = hand.changes()
            changes.queues.append(QueueConfig("default", "mail", concurrency=limit))
            changes.tenants += [TenantConfig("zoo", rate=limit), TenantConfig("acme", rate=limit)]
            await store.commit(changes)
        changes = other.changes()
        changes.queues.append(QueueConfig("default", "jobs", paused=True))
        await store.commit(changes)

        queues, tenants = await store.configs()
        image = await store.claim(1, "node-1")

        assert queues == [QueueConfig("default", "jobs", paused=True), QueueConfig("default", "mail", concurrency=2)]
        assert tenants == [TenantConfig("acme", rate=2), TenantConfig("zoo", rate=2)]
        assert (image.queues, image.tenants) == (queues, tenants)

    # -- the ledger and retention ------------------------------------------------------------------------------------

    async def test_counters_and_recount_agree_through_a_life_with_purges(self, store: Store) -> None:
        kinds = [kind_of(tenant=tenant, queue=queue) for tenant in ("acme", "zoo") for queue in ("a", "b")]
        for shard in range(2):
            hand = await Hand.of(store, shard)
            for kind in kinds:
                for state in State:
                    await hand.add(2, kind=kind, state=state)
                done = await hand.add(3, kind=kind, state=State.SKIPPED)
                changes = hand.changes()
                changes.purged += done[:2]
                await store.commit(changes)

        counters, recount = await store.ledger()

        assert [(entry.tenant, entry.queue) for entry in recount] == [
            ("acme", "a"), ("acme", "b"), ("zoo", "a"), ("zoo", "b")
        ]  # fmt: skip
        assert recount == [
            msgspec.structs.replace(entry, waiting=entry.waiting - 4, running=4) for entry in counters
        ]
        assert {(entry.accepted, entry.skipped, entry.completed) for entry in recount} == {(54, 10, 4)}

    async def test_the_recount_shows_a_task_the_counters_missed(self, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        hand.insert(changes, 2)
        changes.ledger.clear()
        changes.count("acme", "default", "accepted", 1)
        await store.commit(changes)

        counters, recount = await store.ledger()

        assert (counters[0].accepted, recount[0].accepted) == (1, 2)

    async def test_retention_deletes_old_ends_but_dead_letters_and_stays_balanced(self, store: Store) -> None:
        hand = await Hand.of(store)
        old: dict[State, list[int]] = {}
        for state in State:
            changes = hand.changes()
            old[state] = hand.insert(changes, 2, made_ms=NOW_MS - 10_000)
            if state.is_final:
                hand.end(changes, old[state], state, ended_ms=NOW_MS - 5_000)
                changes.attempts.append((old[state][0], 1, 2, "s", 1, 2, b"e"))
                changes.logs.append((old[state][0], 1, 0, b"log"))
                changes.progress.append((old[state][0], 1, 1, "", b"c", 1))
            await store.commit(changes)
        changes = hand.changes()
        fresh = hand.insert(changes, 2, made_ms=NOW_MS - 10_000)
        hand.end(changes, fresh, ended_ms=NOW_MS - 4_000)
        await store.commit(changes)

        gone = await store.retain(NOW_MS - 4_500, limit=1_000)

        assert gone == 10
        finals = [state for state in State if state.is_final and state is not State.DEAD]
        assert [await store.tasks(old[state]) for state in finals] == [[]] * 5
        assert [await store.logs(old[state][0]) for state in finals] == [[]] * 5
        assert len(await store.tasks(old[State.DEAD] + old[State.QUEUED] + fresh)) == 6
        counters, recount = await store.ledger()
        assert counters == recount
        assert (counters[0].completed, counters[0].dead, counters[0].accepted) == (4, 2, 26)
        assert await store.retain(NOW_MS - 4_500, limit=1_000) == 0

    async def test_retention_keeps_to_its_limit(self, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        ids = hand.insert(changes, 1_300, made_ms=NOW_MS - 10_000)
        hand.end(changes, ids, ended_ms=NOW_MS - 9_000)
        await store.commit(changes)

        gone = [await store.retain(NOW_MS, limit=700) for _ in range(3)]

        assert gone == [700, 600, 0]

    async def test_retention_drops_expired_keys_and_requests(self, database: Database, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        changes.dedupe += [("acme", "old", 1, NOW_MS + 10), ("acme", "new", 2, NOW_MS + 20)]
        changes.requests += [("old", b"1", NOW_MS + 10), ("new", b"2", NOW_MS + 20)]
        await store.commit(changes)
        database.clock.wall_ms = NOW_MS + 15

        assert await store.retain(NOW_MS, limit=10) == 0

        assert await _held(store, "acme", ["old", "new"]) == {"new": (2, NOW_MS + 20)}
        assert await store.query(0, ReadKeys(1, "acme", [], "old")) == KeysRead(1, {}, b"")
        assert await store.query(0, ReadKeys(1, "acme", [], "new")) == KeysRead(1, {}, b"2")

    async def test_a_message_can_be_set_aside(self, store: Store) -> None:
        await store.set_aside("shard.1", b"\0message", "ValueError: no", NOW_MS)


async def _held(store: Store, tenant: str, keys: list[str]) -> dict[str, tuple[int, int]]:
    answer = await store.query(0, ReadKeys(1, tenant, keys, ""))
    assert isinstance(answer, KeysRead)
    return answer.held


async def _shared(database: Any) -> Store:
    """Return the store that all examples of a property test use."""
    if not hasattr(database, "shared"):
        database.shared = await database.open(shards=MANY_SHARDS)
        database.next_shard = 0
    return database.shared  # type: ignore[no-any-return]


def _next_shard(database: Any) -> int:
    database.next_shard = (database.next_shard + 1) % MANY_SHARDS
    return int(database.next_shard)
