"""The contract of stores as to schedules. A test module of a database subclasses `ScheduleContract` and gives it the fixture
`database`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from foliot.actors.messages import Kind, LedgerEntry
from foliot.actors.rows import ReadTasks, ShardChanges
from foliot.actors.rules import Calendar, Rule
from foliot.actors.schedule_messages import BackfillSpec, BackfillState, ScheduleSpec, ScheduleState
from foliot.actors.schedule_rows import (
    SOURCE_RULE,
    SOURCE_TRIGGER,
    TIER_HIGH,
    TIER_OTHERS,
    BackfillRow,
    ReadCalendared,
    ReadSchedules,
    ReadScheduleTimers,
    ReadTicks,
    ScheduleRow,
    SchedulesRead,
    ScheduleTimersRead,
    TickRow,
    TicksRead,
)
from foliot.actors.states import State
from foliot.runtime.errors import FoliotError, OutdatedError, StaleEpochError
from foliot.stores.port import ScheduleFilter, Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .contract import _next_shard, _shared
from .harness import NOW_MS, Database, Hand, kind_of

encode = msgspec.msgpack.encode


def schedule(
    hand: Hand, name: str, *, next_ms: int = NOW_MS, tier: int = TIER_OTHERS, kind: Kind | None = None, calendars: int = 0,
    paused: bool = False, payload: bytes = b"p", revision: int = 1,
) -> ScheduleRow:  # fmt: skip
    """Return a row as its shard would write it, under a new id."""
    return ScheduleRow(
        hand.ids.next_id(NOW_MS), name, tier, next_ms, (kind or kind_of()).template_id, revision, calendars,
        encode(ScheduleSpec(name, 0, payload, Rule(cron="@daily"))), encode(ScheduleState(cursor_ms=next_ms, paused=paused)),
    )  # fmt: skip


async def put(hand: Hand, *rows: ScheduleRow, kind: Kind | None = None) -> None:
    changes = hand.changes()
    changes.kinds.append(kind or kind_of())
    changes.schedules += rows
    await hand.store.commit(changes)


def fire(
    hand: Hand, changes: ShardChanges, row: ScheduleRow, tick_ms: int, *, next_ms: int = 0, source: int = SOURCE_RULE,
    kind: Kind | None = None, at_ms: int = NOW_MS,
) -> TickRow:  # fmt: skip
    """Fire a tick as a shard would: task, tick, move and counts. The kind is known since the schedule was put."""
    kind = kind or kind_of()
    [task_id] = hand.insert(changes, kind=kind, made_ms=at_ms)
    changes.kinds.pop()
    changes.count(kind.tenant, kind.template.queue, "fired")
    tick = TickRow(row.id, tick_ms, source, row.revision, task_id, at_ms, 0)
    changes.ticks.append(tick)
    changes.schedule_moves.append((row.id, next_ms, row.calendars, encode(ScheduleState(cursor_ms=next_ms, fired=1))))
    return tick


async def read(hand: Hand, *ids: int, tenant: str = "", names: list[str] | None = None) -> dict[int, ScheduleRow]:
    answer = await hand.store.query(hand.shard, ReadSchedules(1, list(ids), tenant, names or []))
    assert isinstance(answer, SchedulesRead)
    assert answer.token == 1
    assert {kind.template_id for kind in answer.kinds} == {row.template_id for row in answer.rows}
    found = {row.id: row for row in answer.rows}
    assert len(found) == len(answer.rows)
    return found


async def ticks(hand: Hand, row: ScheduleRow, *, limit: int = 1_000) -> list[TickRow]:
    answer = await hand.store.query(hand.shard, ReadTicks(3, row.id, 0, NOW_MS * 2, limit))
    assert isinstance(answer, TicksRead)
    assert answer.token == 3
    return answer.rows


async def fired(store: Store) -> dict[tuple[str, str], int]:
    """Return how many tasks ticks made, which the counters and the recount must agree on."""
    counters, recount = await store.ledger()
    counted = {(entry.tenant, entry.queue): entry.fired for entry in counters if entry.fired}
    assert counted == {(entry.tenant, entry.queue): entry.fired for entry in recount if entry.fired}
    assert [entry.accepted for entry in counters] == [entry.accepted for entry in recount]
    return counted


class ScheduleContract:
    """Tests of behaviour that does not depend on the database."""

    @pytest.fixture
    async def store(self, database: Database) -> AsyncIterator[Store]:
        store = await database.open()
        yield store
        await store.close()

    # -- schedules ---------------------------------------------------------------------------------------------------

    async def test_a_schedule_is_there_in_full_after_a_restart(self, database: Database) -> None:
        hand = await Hand.of(await database.open(), 3)
        name = "kü\0ß \U0001f30d \"'"
        row = schedule(
            hand, name, next_ms=NOW_MS + 5, tier=TIER_HIGH, calendars=1 << 60, payload=bytes(range(256)), revision=7
        )
        await put(hand, row)

        hand.store = await database.open()

        assert await read(hand, row.id) == {row.id: row}
        assert await read(hand, tenant="acme", names=[name]) == {row.id: row}

    async def test_schedules_are_read_by_id_and_by_name_within_a_tenant(self, store: Store) -> None:
        hand = await Hand.of(store)
        zoo = kind_of(tenant="zoo")
        a, b, c = (schedule(hand, name) for name in ("a", "b", "c\0d"))
        of_zoo = schedule(hand, "a", kind=zoo)
        await put(hand, a, b, c)
        await put(hand, of_zoo, kind=zoo)

        assert set(await read(hand, a.id, 12345, tenant="acme", names=["a", "c\0d", "c", "none"])) == {a.id, c.id}
        assert set(await read(hand, tenant="zoo", names=["a", "b"])) == {of_zoo.id}
        assert set(await read(hand, b.id, b.id, of_zoo.id)) == {b.id, of_zoo.id}
        assert await read(hand, tenant="acme", names=[]) == {}

    async def test_many_schedules_are_read_by_name_at_once(self, store: Store) -> None:
        hand = await Hand.of(store)
        rows = [schedule(hand, f"s{number}") for number in range(2_500)]
        await put(hand, *rows)

        found = await read(hand, tenant="acme", names=[f"s{number}" for number in range(2_000)])

        assert sorted(found) == [row.id for row in rows[:2_000]]

    async def test_a_schedule_is_replaced_whole_by_its_id(self, store: Store) -> None:
        hand = await Hand.of(store)
        zoo = kind_of(tenant="zoo", queue="other")
        old = schedule(hand, "old", calendars=5)
        await put(hand, old)
        new = msgspec.structs.replace(
            schedule(hand, "new", next_ms=NOW_MS + 9, tier=TIER_HIGH, revision=2, kind=zoo), id=old.id
        )

        await put(hand, new, kind=zoo)

        assert await read(hand, old.id) == {old.id: new}
        assert await read(hand, tenant="acme", names=["old", "new"]) == {}
        assert set(await read(hand, tenant="zoo", names=["new"])) == {old.id}
        assert await _timers(hand) == []
        assert [row.id for row in await _timers(hand, tier=TIER_HIGH)] == [old.id]
        assert await store.query(0, ReadCalendared(1, 0, 10)) == SchedulesRead(1, [], [])

    async def test_of_several_rows_of_one_schedule_in_a_turn_the_last_counts(self, store: Store) -> None:
        hand = await Hand.of(store)
        first = schedule(hand, "a", revision=1)
        second = msgspec.structs.replace(first, revision=2, next_ms=NOW_MS + 2)
        changes = hand.changes()
        changes.kinds.append(kind_of())
        changes.schedules += [first, second]
        changes.schedule_moves += [(first.id, NOW_MS + 9, 1, b"no"), (first.id, NOW_MS + 3, 2, b"yes")]
        changes.calendars += [("acme", "c", b"1", 1, 1), ("acme", "c", b"2", 1, 2)]

        await store.commit(changes)

        expected = msgspec.structs.replace(second, next_ms=NOW_MS + 3, calendars=2, state=b"yes")
        assert await read(hand, first.id) == {first.id: expected}
        assert (await store.claim(0, "b")).schedules.calendars == [("acme", b"2", 1, 2)]

    async def test_a_name_that_is_taken_is_refused_and_with_it_the_whole_turn_only(self, store: Store) -> None:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        await put(hand, schedule(hand, "a"))
        changes, fine = hand.changes(), other.changes()
        b, c = schedule(hand, "b"), schedule(other, "c")
        changes.kinds.append(kind_of())
        changes.schedules += [b, schedule(hand, "a")]
        fine.kinds.append(kind_of())
        fine.schedules.append(c)

        results = await asyncio.gather(store.commit(changes), store.commit(fine), return_exceptions=True)

        assert isinstance(results[0], FoliotError)
        assert results[1] is None
        assert set(await read(hand, tenant="acme", names=["b", "c"])) == {c.id}

    async def test_a_schedule_without_a_known_kind_is_refused(self, store: Store) -> None:
        hand = await Hand.of(store)
        changes = hand.changes()
        changes.schedules.append(schedule(hand, "a"))

        with pytest.raises(FoliotError, match="expected rows that fit the schema"):
            await store.commit(changes)

    async def test_the_ids_of_schedules_and_backfills_are_not_given_twice(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        assert (await store.claim(0, "b")).last_id == row.id

        hand = await Hand.of(store)
        changes = hand.changes()
        changes.backfills.append(_backfill(hand, row))
        await store.commit(changes)

        assert (await store.claim(0, "b")).last_id == changes.backfills[0].id

    async def test_a_stale_epoch_writes_no_schedules(self, store: Store) -> None:
        old = await Hand.of(store)
        fresh = await Hand.of(store)
        row = schedule(fresh, "a")
        await put(fresh, row)
        changes = old.changes()
        fire(old, changes, row, NOW_MS, next_ms=NOW_MS + 5)
        alone = old.changes()
        alone.ticks_ended.append((row.id, NOW_MS, SOURCE_RULE, int(State.COMPLETED)))

        for refused in (changes, alone):
            with pytest.raises(StaleEpochError, match="shard 0 is owned under epoch 2, got a commit of epoch 1"):
                await store.commit(refused)

        assert await read(fresh, row.id) == {row.id: row}
        assert await ticks(fresh, row) == []

    # -- firing ------------------------------------------------------------------------------------------------------

    async def test_a_tick_that_fires_moves_its_schedule_and_makes_a_task_in_one_turn(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a", calendars=4)
        await put(hand, row)
        changes = hand.changes()
        tick = fire(hand, changes, row, NOW_MS, next_ms=NOW_MS + 60)

        await store.commit(changes)

        moved = (await read(hand, row.id))[row.id]
        assert (moved.next_ms, moved.calendars, moved.body) == (NOW_MS + 60, 4, row.body)
        assert msgspec.msgpack.decode(moved.state, type=ScheduleState).fired == 1
        assert await ticks(hand, row) == [tick]
        assert (await hand.row(tick.task_id)).state == State.QUEUED
        assert await fired(store) == {("acme", "default"): 1}

    async def test_a_tick_that_is_there_refuses_its_turn_and_no_other_of_the_group(self, store: Store) -> None:
        hand, other, third = [await Hand.of(store, shard) for shard in range(3)]
        row, row_of_other = schedule(hand, "a"), schedule(other, "b")
        await put(hand, row)
        await put(other, row_of_other)
        first = hand.changes()
        tick = fire(hand, first, row, NOW_MS)
        await store.commit(first)
        again, fine, more = hand.changes(), other.changes(), third.changes()
        repeated = fire(hand, again, row, NOW_MS, next_ms=NOW_MS + 99)
        fire(hand, again, row, NOW_MS + 1)
        again.schedules.append(schedule(hand, "new"))
        again.calendars.append(("acme", "c", b"x", 1, 1))
        good = fire(other, fine, row_of_other, NOW_MS)
        ids = third.insert(more)

        results = await asyncio.gather(*[store.commit(changes) for changes in (again, fine, more)], return_exceptions=True)

        assert isinstance(results[0], OutdatedError)
        assert "a tick was decided before" in str(results[0])
        assert results[1:] == [None, None]
        assert await ticks(hand, row) == [tick]
        assert (await read(hand, row.id))[row.id].next_ms == 0
        assert await read(hand, tenant="acme", names=["new"]) == {}
        assert await store.query(0, ReadTasks(1, [repeated.task_id])) == await store.query(0, ReadTasks(1, []))
        assert await ticks(other, row_of_other) == [good]
        assert len(await store.tasks(ids)) == 1
        assert await fired(store) == {("acme", "default"): 2}

    async def test_the_same_tick_twice_in_a_turn_is_refused(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        fire(hand, changes, row, NOW_MS)
        fire(hand, changes, row, NOW_MS)

        with pytest.raises(OutdatedError):
            await store.commit(changes)

        assert await ticks(hand, row) == []

    async def test_one_moment_may_tick_once_by_each_source(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        backfill_id = hand.ids.next_id(NOW_MS)
        made = [fire(hand, changes, row, NOW_MS, source=source) for source in (backfill_id, SOURCE_TRIGGER, SOURCE_RULE)]
        await store.commit(changes)

        assert await ticks(hand, row) == made[::-1]

    async def test_ticks_end_also_in_the_turn_that_made_them(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        first, second = hand.changes(), hand.changes()
        one, two = fire(hand, first, row, NOW_MS), fire(hand, first, row, NOW_MS + 1)
        first.ticks_ended.append((row.id, NOW_MS + 1, SOURCE_RULE, int(State.CANCELLED)))
        skipped = TickRow(row.id, NOW_MS + 2, SOURCE_RULE, 1, 0, NOW_MS, int(State.SKIPPED))
        first.ticks.append(skipped)
        await store.commit(first)
        assert [tick.outcome for tick in await ticks(hand, row)] == [0, State.CANCELLED, State.SKIPPED]
        # Of two ends in a turn the last counts; an end of a tick that is not there is none.
        second.ticks_ended += [
            (row.id, NOW_MS, SOURCE_RULE, int(State.FAILED)), (row.id, NOW_MS, SOURCE_RULE, int(State.COMPLETED)),
            (row.id, NOW_MS, SOURCE_TRIGGER, int(State.COMPLETED)),
        ]  # fmt: skip
        await store.commit(second)

        assert await ticks(hand, row) == [
            msgspec.structs.replace(one, outcome=int(State.COMPLETED)),
            msgspec.structs.replace(two, outcome=int(State.CANCELLED)),
            skipped,
        ]
        assert await fired(store) == {("acme", "default"): 2}

    async def test_ticks_are_read_by_range_and_in_order(self, store: Store) -> None:
        hand = await Hand.of(store)
        row, neighbour = schedule(hand, "a"), schedule(hand, "b")
        await put(hand, row, neighbour)
        changes = hand.changes()
        for offset in (5, 3, 1, 4, 2):
            fire(hand, changes, row, NOW_MS + offset)
        fire(hand, changes, neighbour, NOW_MS + 3)
        await store.commit(changes)

        answer = await store.query(0, ReadTicks(1, row.id, NOW_MS + 2, NOW_MS + 5, 10))
        assert isinstance(answer, TicksRead)
        assert [tick.tick_ms - NOW_MS for tick in answer.rows] == [2, 3, 4]
        assert [tick.tick_ms - NOW_MS for tick in await ticks(hand, row, limit=2)] == [1, 2]

    async def test_a_large_turn_of_firings_is_written(self, store: Store) -> None:
        """So large that it takes several statements."""
        hand = await Hand.of(store)
        rows = [schedule(hand, f"s{number}") for number in range(1_000)]
        await put(hand, *rows)
        changes = hand.changes()
        for row in rows:
            fire(hand, changes, row, NOW_MS, next_ms=NOW_MS + 60)
        await store.commit(changes)

        assert await _timers(hand, until_ms=NOW_MS) == []
        assert len(await _timers(hand)) == 1_000
        assert await fired(store) == {("acme", "default"): 1_000}

    # -- deleting ----------------------------------------------------------------------------------------------------

    async def test_a_deleted_schedule_takes_its_ticks_and_backfills_along(self, store: Store) -> None:
        hand = await Hand.of(store)
        gone, stays = schedule(hand, "gone"), schedule(hand, "stays")
        await put(hand, gone, stays)
        changes = hand.changes()
        for row in (gone, stays):
            fire(hand, changes, row, NOW_MS)
            changes.backfills.append(_backfill(hand, row))
        await store.commit(changes)
        last = hand.changes()
        last.schedules_deleted.append(gone.id)
        fire(hand, last, gone, NOW_MS + 1)

        await store.commit(last)

        assert set(await read(hand, gone.id, stays.id)) == {stays.id}
        assert await ticks(hand, gone) == []
        assert [name for _, name in await store.backfills("acme")] == ["stays"]
        image = (await store.claim(0, "b")).schedules
        assert [tick.schedule_id for tick in image.ticks] == [stays.id]
        assert await fired(store) == {("acme", "default"): 3}

    async def test_a_name_is_free_in_the_turn_that_deletes_its_schedule(self, store: Store) -> None:
        hand = await Hand.of(store)
        old, between, new = (schedule(hand, "a", revision=number) for number in (1, 2, 3))
        await put(hand, old)
        changes = hand.changes()
        changes.schedules_deleted += [old.id, between.id]
        changes.schedules += [between, new]

        await store.commit(changes)

        assert await read(hand, old.id, between.id, new.id) == {new.id: new}

    # -- timers ------------------------------------------------------------------------------------------------------

    @settings(
        max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )
    @given(
        offsets=st.lists(st.tuples(st.sampled_from([TIER_HIGH, TIER_OTHERS]), st.integers(0, 6)), max_size=25),
        until=st.integers(0, 7),
        limit=st.integers(1, 8),
    )
    async def test_timers_are_paged_by_time_and_id_within_a_tier(
        self, database: Database, offsets: list[tuple[int, int]], until: int, limit: int
    ) -> None:
        """Offset 0 stands for a schedule that waits for nothing."""
        store = await _shared(database)
        hand = await Hand.of(store, _next_shard(database))
        rows = [
            schedule(hand, f"{hand.shard} {hand.epoch} {number}", tier=tier, next_ms=NOW_MS + offset if offset else 0)
            for number, (tier, offset) in enumerate(offsets)
        ]
        await put(hand, *rows)

        for tier in (TIER_HIGH, TIER_OTHERS):
            timers = sorted([(row.next_ms, row.id) for row in rows if row.tier == tier and row.next_ms])
            found: list[tuple[int, int]] = []
            while True:
                after = found[-1] if found else (0, 0)
                page = await store.query(hand.shard, ReadScheduleTimers(7, *after, NOW_MS + until, limit, tier))
                assert isinstance(page, ScheduleTimersRead)
                assert page.token == 7
                found += [(row.next_ms, row.id) for row in page.rows]
                assert len(found) <= len(timers)
                beyond = [due for due, id in timers if (due, id) > (found[-1] if found else (0, 0))]
                assert page.next_due_ms == (beyond[0] if beyond else 0)
                assert page.kinds == [kind_of()][: len(page.rows)]
                if len(page.rows) < limit:
                    break
            assert found == [timer for timer in timers if timer[0] <= NOW_MS + until]

    async def test_60_000_schedules_of_one_moment_are_paged_each_once_in_order(self, store: Store) -> None:
        hand = await Hand.of(store)
        rows = [schedule(hand, f"s{number}") for number in range(60_000)]
        for start in range(0, len(rows), 10_000):
            await put(hand, *rows[start : start + 10_000])
        before, after = schedule(hand, "before", next_ms=NOW_MS - 1), schedule(hand, "after", next_ms=NOW_MS + 1)
        await put(hand, before, after)

        found: list[int] = []
        last = (0, 0)
        while True:
            page = await store.query(0, ReadScheduleTimers(1, *last, NOW_MS, 4_096, TIER_OTHERS))
            assert isinstance(page, ScheduleTimersRead)
            found += [row.id for row in page.rows]
            last = (page.rows[-1].next_ms, page.rows[-1].id)
            if page.next_due_ms > NOW_MS:
                break

        assert found == [before.id, *[row.id for row in rows]]
        assert page.next_due_ms == NOW_MS + 1

    async def test_a_page_of_large_bodies_is_cut_and_goes_on(self, store: Store) -> None:
        hand = await Hand.of(store)
        rows = [schedule(hand, f"s{number}", payload=bytes(5 << 20)) for number in range(6)]
        await put(hand, *rows)

        pages = []
        last = (0, 0)
        while True:
            page = await store.query(0, ReadScheduleTimers(1, *last, NOW_MS, 100, TIER_OTHERS))
            assert isinstance(page, ScheduleTimersRead)
            pages.append([row.id for row in page.rows])
            last = (page.rows[-1].next_ms, page.rows[-1].id)
            if not page.next_due_ms:
                break
        listed = await store.schedules(ScheduleFilter("acme"))
        rest = await store.schedules(ScheduleFilter("acme", after=listed[-1].row.name))

        assert pages == [[row.id for row in rows[:4]], [row.id for row in rows[4:]]]
        assert [detail.row for detail in listed + rest] == rows

    async def test_a_page_brings_each_kind_once(self, store: Store) -> None:
        hand = await Hand.of(store)
        kinds = [kind_of(queue=queue) for queue in ("x", "y", "z")]
        for kind in kinds:
            await put(hand, *[schedule(hand, f"{kind.template.queue}{number}", kind=kind) for number in range(3)], kind=kind)

        page = await store.query(0, ReadScheduleTimers(1, 0, 0, NOW_MS, 4, TIER_OTHERS))
        assert isinstance(page, ScheduleTimersRead)
        assert sorted([kind.template.queue for kind in page.kinds]) == ["x", "y"]

    async def test_schedules_with_calendars_are_paged_by_id(self, store: Store) -> None:
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        rows = [schedule(hand, f"s{number}", calendars=number % 3 - 1, next_ms=number % 2) for number in range(30)]
        await put(hand, *rows)
        await put(other, schedule(other, "other", calendars=1))
        expected = [row for row in rows if row.calendars]

        found: list[ScheduleRow] = []
        while True:
            page = await store.query(0, ReadCalendared(4, found[-1].id if found else 0, 7))
            assert isinstance(page, SchedulesRead)
            assert page.token == 4
            found += page.rows
            if len(page.rows) < 7:
                break

        assert found == expected

    # -- claims ------------------------------------------------------------------------------------------------------

    async def test_a_claim_returns_what_is_alive_of_schedules_and_all_calendars(self, database: Database) -> None:
        store = await database.open()
        hand, other = await Hand.of(store), await Hand.of(store, 1)
        fires, fills, idle = (schedule(hand, name) for name in ("fires", "fills", "idle"))
        of_other = schedule(other, "other")
        await put(hand, fires, fills, idle)
        await put(other, of_other)
        changes = hand.changes()
        alive = [fire(hand, changes, fires, NOW_MS + offset) for offset in (2, 1)]
        ended = fire(hand, changes, idle, NOW_MS)
        changes.ticks_ended.append((idle.id, ended.tick_ms, ended.source, int(State.COMPLETED)))
        open_one, over = _backfill(hand, fills), _backfill(hand, idle, ended_ms=NOW_MS)
        changes.backfills += [open_one, over]
        changes.calendars += [("zoo", "a", b"\0a", 1, 2), ("acme", "b\0", b"b\xff", 3, 4), ("acme", "a", b"gone", 1, 1)]
        await store.commit(changes)
        changes = other.changes()
        fire(other, changes, of_other, NOW_MS)
        changes.calendars.append(("acme", "a", b"", 5, 6))
        await store.commit(changes)

        image = (await (await database.open()).claim(0, "node-2")).schedules

        assert image.ticks == alive[::-1]
        assert [(row.id, row.body, row.next_ms) for row in image.schedules] == [
            (fires.id, fires.body, 0), (fills.id, fills.body, NOW_MS)
        ]  # fmt: skip
        assert image.backfills == [open_one]
        assert image.calendars == [("acme", b"b\xff", 3, 4), ("zoo", b"\0a", 1, 2)]

    # -- what people ask ---------------------------------------------------------------------------------------------

    async def test_schedules_are_listed_by_name(self, store: Store) -> None:
        hand = await Hand.of(store)
        zoo = kind_of(tenant="zoo")
        names = ["a", "a/1", "a/2", "a\0", "b", "b\U0010ffff", "b\U0010ffff\U0010ffffx", "ß"]
        rows = {name: schedule(hand, name, paused=name in ("a/2", "ß")) for name in names}
        await put(hand, *rows.values())
        await put(hand, schedule(hand, "a/9", kind=zoo), kind=zoo)

        async def listed(tenant: str = "acme", **fields: object) -> list[str]:
            details = await store.schedules(ScheduleFilter(tenant, **fields))  # type: ignore[arg-type]
            assert all(detail.kind.tenant == tenant for detail in details)
            return [detail.row.name for detail in details]

        assert await listed() == sorted(names)
        assert await listed("zoo") == ["a/9"]
        assert await listed(prefix="a/") == ["a/1", "a/2"]
        assert await listed(prefix="b\U0010ffff") == ["b\U0010ffff", "b\U0010ffff\U0010ffffx"]
        assert await listed(prefix="a", after="a/1") == ["a/2"]
        assert await listed(prefix="b", after="a") == ["b", "b\U0010ffff", "b\U0010ffff\U0010ffffx"]
        assert await listed(names=("b", "a\0", "none")) == ["a\0", "b"]
        assert await listed(names=("b", "a/1"), prefix="a") == ["a/1"]
        assert await listed(paused=True) == ["a/2", "ß"]
        assert await listed(paused=True, limit=1) == ["a/2"]
        assert await listed(paused=True, after="a/2") == ["ß"]
        assert await listed(paused=False, limit=4) == ["a", "a\0", "a/1", "b"]
        assert await listed(limit=0) == []
        assert [detail.row for detail in await store.schedules(ScheduleFilter("acme", limit=2))] == [rows["a"], rows["a\0"]]

    async def test_a_paused_schedule_is_found_among_many(self, store: Store) -> None:
        hand = await Hand.of(store)
        rows = [schedule(hand, f"s{number:05}", paused=number == 2_900) for number in range(3_000)]
        await put(hand, *rows)

        [found] = await store.schedules(ScheduleFilter("acme", paused=True, limit=5))
        others = await store.schedules(ScheduleFilter("acme", paused=False, after="s02898", limit=3))

        assert found.row == rows[2_900]
        assert [detail.row.name for detail in others] == ["s02899", "s02901", "s02902"]

    async def test_ticks_are_listed_newest_first_and_pages_split_no_moment(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        moments = [(1, SOURCE_RULE), (2, SOURCE_RULE), (2, SOURCE_TRIGGER), (3, SOURCE_RULE)]
        made = [fire(hand, changes, row, NOW_MS + offset, source=source) for offset, source in moments]
        await store.commit(changes)

        first = await store.ticks(row.id, limit=2)
        second = await store.ticks(row.id, before_ms=first[-1].tick_ms, limit=2)

        assert first + second == made[::-1]
        assert len(first) == 3
        assert await store.ticks(row.id, limit=0) == []
        assert await store.ticks(77) == []

    async def test_backfills_are_replaced_and_listed_newest_first_with_their_schedule(self, store: Store) -> None:
        hand = await Hand.of(store)
        zoo = kind_of(tenant="zoo")
        a, b, of_zoo = schedule(hand, "a\0"), schedule(hand, "b"), schedule(hand, "b", kind=zoo)
        await put(hand, a, b)
        await put(hand, of_zoo, kind=zoo)
        one, two, three, four = (_backfill(hand, row) for row in (a, b, a, of_zoo))
        changes = hand.changes()
        changes.backfills += [one, two, three, four]
        await store.commit(changes)
        over = msgspec.structs.replace(one, is_over=True, state=b"\0over", body=b"\xff")
        changes = hand.changes()
        changes.backfills += [two, over]
        await store.commit(changes)

        assert await store.backfills("acme") == [(three, "a\0"), (two, "b"), (over, "a\0")]
        assert await store.backfills("acme", limit=1) == [(three, "a\0")]
        assert await store.backfills("acme", schedule="a\0") == [(three, "a\0"), (over, "a\0")]
        assert await store.backfills("zoo", schedule="b") == [(four, "b")]
        assert await store.backfills("acme", schedule="none") == []

    async def test_calendars_are_listed_by_name(self, store: Store) -> None:
        hand = await Hand.of(store)
        holidays, weekdays = Calendar("holidays", yearly=("12-25",), version=3), Calendar("weekdays\0", weekdays=(0, 1))
        changes = hand.changes()
        changes.calendars += [("acme", calendar.name, encode(calendar), 1, 1) for calendar in (weekdays, holidays)]
        changes.calendars.append(("zoo", "a", encode(Calendar("a")), 1, 1))
        await store.commit(changes)

        assert await store.calendars("acme") == [holidays, weekdays]
        assert await store.calendars("none") == []

    # -- the ledger and retention ------------------------------------------------------------------------------------

    async def test_what_ticks_made_is_recounted_where_it_was_counted(self, store: Store) -> None:
        """Also when the schedule was given another queue meanwhile, and the tasks are purged."""
        hand = await Hand.of(store)
        before, after = kind_of(queue="before"), kind_of(queue="after")
        row = schedule(hand, "a", kind=before)
        await put(hand, row, kind=before)
        changes = hand.changes()
        first = [fire(hand, changes, row, NOW_MS + offset, kind=before).task_id for offset in range(3)]
        await store.commit(changes)
        moved = msgspec.structs.replace(row, template_id=after.template_id, revision=2)
        await put(hand, moved, kind=after)
        changes = hand.changes()
        fire(hand, changes, moved, NOW_MS + 9, kind=after)
        changes.ticks.append(TickRow(row.id, NOW_MS + 10, SOURCE_RULE, 2, 0, NOW_MS, int(State.SKIPPED)))
        hand.end(changes, first[:2], kind=before)
        changes.purged += first[:2]
        await store.commit(changes)

        assert await fired(store) == {("acme", "before"): 3, ("acme", "after"): 1}
        [entry] = [entry for entry in (await store.claim(0, "b")).ledger if entry.queue == "before"]
        assert entry == LedgerEntry("acme", "before", accepted=3, waiting=1, completed=2, fired=3)

        hand = await Hand.of(store)
        changes = hand.changes()
        changes.schedules_deleted.append(row.id)
        await store.commit(changes)

        assert await ticks(hand, row) == []
        assert await fired(store) == {("acme", "before"): 3, ("acme", "after"): 1}

    async def test_the_recount_shows_a_tick_the_counters_missed(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        fire(hand, changes, row, NOW_MS)
        changes.count("acme", "default", "fired", -1)
        await store.commit(changes)

        counters, recount = await store.ledger()

        assert (counters[0].fired, recount[0].fired) == (0, 1)

    async def test_retention_deletes_old_ticks_that_ended_and_stays_balanced(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        old, alive, fresh = (
            fire(hand, changes, row, NOW_MS + offset, at_ms=NOW_MS - age)
            for offset, age in ((1, 5_000), (2, 5_000), (3, 4_000))
        )
        changes.ticks_ended += [(row.id, tick.tick_ms, tick.source, int(State.COMPLETED)) for tick in (old, fresh)]
        changes.ticks.append(TickRow(row.id, NOW_MS + 4, SOURCE_RULE, 1, 0, NOW_MS - 5_000, int(State.SKIPPED)))
        await store.commit(changes)

        gone = await store.retain(NOW_MS - 4_500, limit=1_000)

        assert gone == 0  # tasks
        assert [tick.task_id for tick in await ticks(hand, row)] == [alive.task_id, fresh.task_id]
        assert await fired(store) == {("acme", "default"): 3}

    async def test_retention_of_ticks_keeps_to_its_limit(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        changes = hand.changes()
        changes.ticks += [
            TickRow(row.id, NOW_MS + number, SOURCE_RULE, 1, 0, NOW_MS, int(State.SKIPPED)) for number in range(1_800)
        ]
        await store.commit(changes)

        left = []
        for _ in range(3):
            await store.retain(NOW_MS + 1, limit=1_000)
            left.append(len(await ticks(hand, row, limit=2_000)))

        assert left == [800, 0, 0]

    async def test_retention_deletes_backfills_that_were_over_before(self, store: Store) -> None:
        hand = await Hand.of(store)
        row = schedule(hand, "a")
        await put(hand, row)
        old_hand = Hand(store, 0, hand.epoch)
        changes = hand.changes()
        over, fresh, running = (
            _backfill(old_hand, row, made_ms=NOW_MS - 9_000, ended_ms=ended_ms)
            for ended_ms in (NOW_MS - 5_000, NOW_MS - 4_000, 0)
        )
        changes.backfills += [over, fresh, running]
        await store.commit(changes)

        await store.retain(NOW_MS - 4_500, limit=10)

        assert [backfill.id for backfill, _ in await store.backfills("acme")] == [running.id, fresh.id]


def _backfill(hand: Hand, row: ScheduleRow, *, made_ms: int = NOW_MS, ended_ms: int = 0) -> BackfillRow:
    body = encode(BackfillSpec(row.name, NOW_MS - 100, NOW_MS))
    state = BackfillState(NOW_MS - 50, status="done" if ended_ms else "running", ended_ms=ended_ms)
    return BackfillRow(hand.ids.next_id(made_ms), row.id, bool(ended_ms), body, encode(state))


async def _timers(hand: Hand, *, tier: int = TIER_OTHERS, until_ms: int = NOW_MS * 2) -> list[ScheduleRow]:
    page = await hand.store.query(hand.shard, ReadScheduleTimers(1, 0, 0, until_ms, 10_000, tier))
    assert isinstance(page, ScheduleTimersRead)
    return page.rows
