"""One suite over the database server of simulated runs and over a real PostgreSQL: what the model does, the store does.

The real store goes through a proxy, which loses what a check wants lost; the model fails over at the same points. Planted
bugs show that the checks can fail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import asyncpg
import pytest
from foliot.runtime.errors import CommitUnknownError, FoliotError, StaleEpochError, StoreError
from foliot.sdk.servers import LocalPostgres
from foliot.simulations.case import Options
from foliot.simulations.database import empty_database
from foliot.simulations.database_server import DatabaseServer
from foliot.simulations.process import Process
from foliot.simulations.server_store import ServerStore
from foliot.simulations.trace import Trace
from foliot.simulations.world import Points, World
from foliot.stores.port import Store
from foliot.stores.postgres.config import PostgresConfig
from foliot.stores.postgres.store import PostgresStore, open_postgres
from foliot.stores.postgres.writer import Writer

from ..stores.harness import Hand, TestClock
from ..stores.proxy import Proxy
from .planted.patching import Edit, planted

SECOND = 1_000_000_000
CONFIG = PostgresConfig(partition_hours=0, resolve_timeout_s=20.0, reconnect_ms=5, lock_timeout_s=3.0)
IMPATIENT = replace(CONFIG, resolve_timeout_s=1.0)


class Place:
    """Where a check runs. `store`: of the node that has the trouble; `other`: of another node, on the same database."""

    store: Store
    other: Store
    short_s: float  # less than who wants a row waits for it
    long_s: float  # more than that

    async def losing_answer(self, commit: Awaitable[None], *, for_ever: bool = False) -> None:
        """Wait for a commit that is written, with its connection lost before the answer. `for_ever`: until `mend`."""
        raise NotImplementedError

    async def losing_question(self, commit: Awaitable[None]) -> None:
        """Wait for a commit whose connection is lost before it arrives."""
        raise NotImplementedError

    async def mend(self) -> None:
        """Let the store find its database again."""
        raise NotImplementedError

    async def read_only(self, is_so: bool) -> None:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def row_held(self, shard: int) -> AsyncIterator[None]:
        raise NotImplementedError
        yield


Check = Callable[[Place], Awaitable[None]]


class FailingPoints(Points):
    """Points at which the database fails over, once, in place of killing a process."""

    def __init__(self, world: World, server: DatabaseServer) -> None:
        super().__init__(world)
        self.server = server
        self.at: dict[str, int] = {}  # by point: how long it is away then

    def passed(self, process: Process, name: str) -> None:
        down_ns = self.at.pop(name, 0)
        if down_ns:
            self.server.fail_over(down_ns, 0)


class ModelPlace(Place):
    short_s = 2.0
    long_s = 30.0

    def __init__(self, world: World) -> None:
        self.server = world.database_server = DatabaseServer(world)
        self.points = world.points = FailingPoints(world, self.server)
        self.process = Process(world, "n1", 1, world.add_machine("n1"))
        self.store = ServerStore(self.process)
        self.other = ServerStore(Process(world, "n2", 1, world.add_machine("n2")))

    async def losing_answer(self, commit: Awaitable[None], *, for_ever: bool = False) -> None:
        self.points.at["store.commit.after"] = (3_600 if for_ever else 1) * SECOND
        await commit

    async def losing_question(self, commit: Awaitable[None]) -> None:
        self.points.at["store.commit.before"] = SECOND
        await commit

    async def mend(self) -> None:
        self.server.heal()

    async def read_only(self, is_so: bool) -> None:
        self.server.is_read_only = is_so

    @contextlib.asynccontextmanager
    async def row_held(self, shard: int) -> AsyncIterator[None]:
        self.server.take_row(shard, lambda: None, lambda: None)
        yield
        self.server.give_row(shard)


def on_model(check: Check, server: LocalPostgres, *, seed: int = 1, config: PostgresConfig = CONFIG) -> None:
    world = World(seed, Options(slots=4), Trace(), image=empty_database(4, start_ms=0))
    place = ModelPlace(world)

    async def run() -> None:
        await check(place)

    try:
        world.loop.run_task(world.loop.spawn(place.process.lane, run(), name="check"), until_ns=600 * SECOND)
    finally:
        world.close()


class ServerPlace(Place):
    short_s = 0.2
    long_s = 30.0

    def __init__(self, dsn: str, proxy: Proxy, store: PostgresStore, other: PostgresStore) -> None:
        self.dsn = dsn
        self.proxy = proxy
        self.store = store
        self.other = other

    async def losing_answer(self, commit: Awaitable[None], *, for_ever: bool = False) -> None:
        self.proxy.deafen, self.proxy.closed = True, for_ever
        asked = asyncio.ensure_future(commit)
        await self.proxy.answered.wait()
        self.proxy.cut()
        await asked

    async def losing_question(self, commit: Awaitable[None]) -> None:
        self.proxy.mute = True
        asked = asyncio.ensure_future(commit)
        await self.proxy.asked.wait()
        self.proxy.cut()
        await asked

    async def mend(self) -> None:
        self.proxy.closed = False

    async def read_only(self, is_so: bool) -> None:
        name = self.dsn.rpartition("/")[2]
        admin = await asyncpg.connect(self.dsn)
        await admin.execute("set default_transaction_read_only = off")
        if is_so:
            await admin.execute(f'alter database "{name}" set default_transaction_read_only = on')
        else:
            await admin.execute(f'alter database "{name}" reset default_transaction_read_only')
        end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()"
        await admin.fetch(end, name)
        await admin.close()

    @contextlib.asynccontextmanager
    async def row_held(self, shard: int) -> AsyncIterator[None]:
        person = await asyncpg.connect(self.dsn)
        try:
            async with person.transaction():
                await person.execute("select 1 from foliot.shards where shard = $1 for update", shard)
                yield
        finally:
            await person.close()


def on_server(check: Check, server: LocalPostgres, *, seed: int = 1, config: PostgresConfig = CONFIG) -> None:
    async def run() -> None:
        dsn = await server.database(f"model_{check.__qualname__[:30].lower()}_{seed}")
        async with Proxy(dsn) as proxy, contextlib.AsyncExitStack() as stack:
            stores = []
            for address in (proxy.dsn, dsn):
                stores.append(await open_postgres(address, clock=TestClock(), shards=4, config=config))
                stack.push_async_callback(stores[-1].close)
            async with asyncio.timeout(120):
                await check(ServerPlace(dsn, proxy, *stores))

    asyncio.run(run())


class Over(Protocol):
    """Runs a check in one of the places. `config`: of the real store; the model waits on simulated time."""

    def __call__(self, check: Check, *, config: PostgresConfig = CONFIG) -> None: ...


@pytest.fixture(params=[on_model, on_server], ids=["model", "server"])
def over(request: pytest.FixtureRequest, postgres_server: LocalPostgres) -> Over:
    return partial(request.param, server=postgres_server, seed=hash_of(request.node.name))


def hash_of(name: str) -> int:
    return sum(name.encode())


# -- what the checks ask for ------------------------------------------------------------------------------------------------


async def accepted(store: Store) -> int:
    """Return how many tasks there are; counters and rows must agree."""
    counters, recount = await store.ledger()
    assert counters == recount
    return sum(entry.accepted for entry in counters)


async def again(action: Callable[[], Awaitable[Any]]) -> Any:
    """Do something, again while the database cannot be used."""
    for _ in range(200):
        try:
            return await action()
        except StoreError:
            await asyncio.sleep(0.05)
    return await action()


def three_more(hand: Hand) -> Awaitable[None]:
    changes = hand.changes()
    hand.insert(changes, 3)
    return hand.store.commit(changes)


async def an_answer_that_is_lost_costs_nothing(place: Place) -> None:
    hand = await Hand.of(place.store)
    await hand.add()
    await place.losing_answer(three_more(hand))

    assert await again(lambda: accepted(place.other)) == 4
    await again(hand.add)
    assert await accepted(place.other) == 5


async def a_question_that_is_lost_is_asked_again(place: Place) -> None:
    hand = await Hand.of(place.store)
    await hand.add()
    await place.losing_question(three_more(hand))

    assert await again(lambda: accepted(place.other)) == 4


# -- the suite ------------------------------------------------------------------------------------------------------------


def test_a_commit_that_was_written_but_not_answered_is_known_to_be(over: Over) -> None:
    over(an_answer_that_is_lost_costs_nothing)


def test_a_commit_that_never_arrived_is_written_by_the_next_connection(over: Over) -> None:
    over(a_question_that_is_lost_is_asked_again)


def test_an_outcome_that_nobody_can_tell_in_time_is_unknown_and_others_are_refused_at_once(over: Over) -> None:
    async def check(place: Place) -> None:
        hand, beside = await Hand.of(place.store), await Hand.of(place.store, 1)
        await hand.add()
        lost = asyncio.ensure_future(place.losing_answer(three_more(hand), for_ever=True))
        await asyncio.sleep(0.02)  # it is on its way
        refusal: StoreError | None = None
        for _ in range(200):
            try:
                await beside.add()
            except StoreError as error:
                refusal = error
                break
            await asyncio.sleep(0.005)
        with pytest.raises(CommitUnknownError, match="a commit of shard 0 under epoch 1 was not answered"):
            await lost
        assert refusal is not None
        assert refusal.code == "store_unreachable"
        await place.mend()

        image = await again(lambda: place.store.claim(0, "again"))
        assert (image.epoch, [entry.accepted for entry in image.ledger]) == (2, [4])

    over(check, config=IMPATIENT)


def test_a_database_that_takes_no_writes_says_so_and_goes_on_later(over: Over) -> None:
    async def check(place: Place) -> None:
        hand = await Hand.of(place.store)
        ids = await hand.add(2)
        await place.read_only(True)
        await asyncio.sleep(0.2)  # it hears that its connections are gone

        async def refusal_of(action: Callable[[], Awaitable[Any]]) -> str:
            for _ in range(200):
                try:
                    await action()
                except StoreError as error:
                    if error.code not in ("store_unreachable", "commit_unknown"):  # its connection was lost first
                        return error.code
                await asyncio.sleep(0.02)
            raise AssertionError("it was never refused")

        assert await refusal_of(lambda: three_more(hand)) == "store_read_only"
        assert await refusal_of(lambda: place.store.claim(1, "n1")) == "store_read_only"
        assert await refusal_of(lambda: place.store.tasks(ids)) == "store_read_only"  # its connections are made for writing
        await place.read_only(False)

        await again(lambda: three_more(hand))
        assert await again(lambda: accepted(place.store)) == 5
        assert len(await again(lambda: place.store.tasks(ids))) == 2

    over(check, config=IMPATIENT)


def test_a_row_that_another_session_holds_is_waited_for(over: Over) -> None:
    async def check(place: Place) -> None:
        hand, beside = await Hand.of(place.store), await Hand.of(place.other, 1)
        async with place.row_held(0):
            waiting = [asyncio.ensure_future(three_more(hand))]
            await asyncio.sleep(place.short_s)
            assert not waiting[0].done()
            await beside.add()  # other shards go on
        await waiting[0]

        assert await accepted(place.store) == 4

    over(check)


def test_a_row_that_is_held_too_long_is_waited_for_no_longer_and_nothing_is_written(over: Over) -> None:
    async def check(place: Place) -> None:
        hand = await Hand.of(place.store)
        async with place.row_held(0):
            both = [asyncio.ensure_future(three_more(hand)), asyncio.ensure_future(place.other.claim(0, "n2"))]
            await asyncio.wait(both, timeout=place.long_s)
            refused = [each.exception() if each.done() else None for each in both]
        assert [type(error) for error in refused if isinstance(error, StoreError)] == [type(error) for error in refused]
        assert not any(isinstance(error, CommitUnknownError) for error in refused)

        await again(hand.add)
        assert await accepted(place.store) == 1

    over(check)


def test_a_claim_waits_for_the_commit_under_way_and_sees_all_of_it(over: Over) -> None:
    async def check(place: Place) -> None:
        for _ in range(12):
            hand = await Hand.of(place.store)
            before = await accepted(place.store)
            commit = asyncio.ensure_future(three_more(hand))
            await asyncio.sleep(0.0005)
            image = await place.other.claim(0, "n2")
            known = sum(entry.accepted for entry in image.ledger)
            try:
                await commit
            except StaleEpochError:
                assert known == before
            else:
                assert known == before + 3
            assert await accepted(place.other) == known

    over(check)


@pytest.mark.parametrize("seed", range(1, 5))
def test_fail_overs_one_after_the_other_lose_nothing_and_repeat_nothing(seed: int, postgres_server: LocalPostgres) -> None:
    async def check(place: Place) -> None:
        assert isinstance(place, ModelPlace)
        hands = [await Hand.of(place.store, shard) for shard in range(4)]
        acknowledged, unknown = 0, 0
        for number in range(40):
            if number % 5 == 0:
                asyncio.get_running_loop().call_later(0.003, place.server.fail_over, SECOND // 5, SECOND // 5)
            try:
                await three_more(hands[number % 4])
                acknowledged += 3
            except CommitUnknownError:
                unknown += 3
            except FoliotError:
                await asyncio.sleep(0.2)

        total = await again(lambda: accepted(place.other))
        assert acknowledged <= total <= acknowledged + unknown
        assert acknowledged > 60

    on_model(check, postgres_server, seed=seed)


# -- the checks can fail ----------------------------------------------------------------------------------------------------

_WRITTEN = "if self._written >= number:"


@pytest.mark.parametrize(
    ("bug", "check"),
    [
        (Edit(Writer, "_settle", _WRITTEN, "if False:"), an_answer_that_is_lost_costs_nothing),
        (Edit(Writer, "_settle", _WRITTEN, "if True:"), a_question_that_is_lost_is_asked_again),
    ],
    ids=["an outcome taken for failure", "an outcome taken for success"],
)
def test_a_store_that_takes_an_outcome_for_another_is_noticed(
    bug: Edit, check: Check, postgres_server: LocalPostgres
) -> None:  # fmt: skip
    with planted((bug,)), pytest.raises((AssertionError, FoliotError)):
        on_server(check, postgres_server, seed=hash_of(bug.new))
