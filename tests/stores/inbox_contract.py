"""What every store must do with how far a shard has come in its inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from foliot.actors.rows import InboxMark
from foliot.runtime.errors import StaleEpochError
from foliot.stores.port import Store

from .harness import Database, Hand

MARK = InboxMark("2026-11-21T19:09:33.450169924Z", 1 << 40, 1_795_288_173_462_762_404)


class InboxContract:
    """Inherited by one test class for each store; `database` is a fixture."""

    @pytest.fixture
    async def store(self, database: Database) -> AsyncIterator[Store]:
        store = await database.open()
        yield store
        await store.close()

    async def test_a_shard_begins_with_an_empty_inbox(self, store: Store) -> None:
        assert (await store.claim(1, "a")).inbox == InboxMark()

    async def test_how_far_it_has_come_stays_with_the_tasks_of_the_same_turn(self, database: Database) -> None:
        hand = await Hand.of(await database.open(), 1)
        changes = hand.changes()
        ids = hand.insert(changes, 2)
        changes.inbox = MARK
        await hand.store.commit(changes)

        store = await database.open()

        assert (await store.claim(1, "b")).inbox == MARK
        assert len(await store.tasks(ids)) == 2
        assert (await store.claim(0, "b")).inbox == InboxMark()
        await store.close()

    async def test_the_last_of_several_counts_also_if_it_is_lower(self, store: Store) -> None:
        hand = await Hand.of(store)
        for mark in (MARK, InboxMark("another", 3, 4)):
            changes = hand.changes()
            changes.inbox = mark
            await store.commit(changes)

        assert (await store.claim(0, "b")).inbox == InboxMark("another", 3, 4)

    async def test_an_older_epoch_cannot_move_it(self, store: Store) -> None:
        old = await Hand.of(store)
        await store.claim(0, "b")
        changes = old.changes()
        changes.inbox = MARK

        with pytest.raises(StaleEpochError):
            await store.commit(changes)

        assert (await store.claim(0, "c")).inbox == InboxMark()
