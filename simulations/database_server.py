"""The database of a run as a server that many nodes share, with what befalls one: fail-overs, and rows that others hold.

It runs the same SQL as `simulations.database`; what it adds is how PostgreSQL behaves around it. A commit holds its shard's
row for as long as it takes, and so does a claim; who wants it meanwhile waits, until a limit. What holds: a fail-over loses
nothing that was answered; what was under way is undone, or done and not answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ..runtime.errors import StoreError
from .loop import MS, Step

if TYPE_CHECKING:
    from .world import World

LOCK_TIMEOUT_NS: Final = 5_000 * MS
_UNDER_WAY_NS: Final = 4 * MS  # the longest a commit takes once it has its row


class ReadOnlyDatabaseError(StoreError):
    """The server takes no writes. As `stores.postgres.failures.ReadOnlyStoreError`."""

    code: ClassVar[str] = "store_read_only"


class UnreachableDatabaseError(StoreError):
    """No connection at this moment; nothing was written. As `stores.postgres.failures.UnreachableStoreError`."""

    code: ClassVar[str] = "store_unreachable"


class Returning(Protocol):
    """Something whose answer is on its way."""

    def lose(self) -> None: ...


class _Waiter:
    __slots__ = ("granted", "refused", "timer")

    def __init__(self, granted: Callable[[], None], refused: Callable[[], None]) -> None:
        self.granted = granted
        self.refused = refused
        self.timer: Step | None = None


class DatabaseServer:
    """`session`: grows with each fail-over; what came under an earlier one is lost."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.session = 0
        self.is_down = False
        self.is_read_only = False
        self.returning: dict[Returning, None] = {}
        self.incarnations: dict[str, int] = {}
        """By process: of its newest connection for commits; those of older ones are refused."""
        self._rows: dict[int, deque[_Waiter]] = {}  # by shard that is held: who waits
        self._bits = world.rng.stream("database").bits

    def fail_over(self, down_ns: int, read_only_ns: int) -> None:
        """Lose all connections and what is under way; be away, then read-only, then as before."""
        loop = self.world.loop
        self.session += 1
        self.is_down = True
        waiting = [waiter for waiters in self._rows.values() for waiter in waiters]
        self._rows.clear()
        for waiter in waiting:
            if waiter.timer is not None:
                waiter.timer.cancel()
            waiter.refused()
        lost, self.returning = list(self.returning), {}
        for call in lost:
            self.world.count("db.answers_lost")
            call.lose()
        loop.at(loop.now_ns + down_ns, loop.system, self._up, self.session, read_only_ns)

    def _up(self, session: int, read_only_ns: int) -> None:
        if session == self.session and self.is_down:
            self.is_down, self.is_read_only = False, read_only_ns > 0
            loop = self.world.loop
            loop.at(loop.now_ns + read_only_ns, loop.system, self._writable, session)

    def _writable(self, session: int) -> None:
        if session == self.session:
            self.is_read_only = False

    def heal(self) -> None:
        self.is_down = self.is_read_only = False

    # -- rows --------------------------------------------------------------------------------------------------------

    def take_row(self, shard: int, granted: Callable[[], None], refused: Callable[[], None]) -> None:
        """Take a shard's row: `granted` runs when it is this caller's, which then gives it back; `refused` after the limit,
        or when the session ends."""
        waiting = self._rows.get(shard)
        if waiting is None:
            self._rows[shard] = deque()
            granted()
            return
        self.world.count("db.row_waited")
        waiter = _Waiter(granted, refused)
        loop = self.world.loop
        waiter.timer = loop.at(loop.now_ns + LOCK_TIMEOUT_NS, self.world.db.lane, self._give_up, shard, waiter)
        waiting.append(waiter)

    def give_row(self, shard: int) -> None:
        """Give a shard's row to who waits longest."""
        waiting = self._rows.get(shard)
        if not waiting:
            self._rows.pop(shard, None)
            return
        waiter = waiting.popleft()
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.granted()

    def _give_up(self, shard: int, waiter: _Waiter) -> None:
        waiting = self._rows.get(shard)
        if waiting is not None and waiter in waiting:
            waiting.remove(waiter)
            self.world.count("db.lock_timeout")
            waiter.refused()

    def hold_row(self, shard: int, for_ns: int) -> None:
        """Another session, of a person perhaps, holds a shard's row for a while."""
        loop, session = self.world.loop, self.session

        def granted() -> None:
            loop.at(loop.now_ns + for_ns, self.world.db.lane, given_back)

        def given_back() -> None:
            if session == self.session:
                self.give_row(shard)

        self.take_row(shard, granted, lambda: None)

    def takes_ns(self) -> int:
        """Return how long a commit holds its row."""
        return self._bits(32) % _UNDER_WAY_NS
