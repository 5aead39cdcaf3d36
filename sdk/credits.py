"""How a worker shares its free slots between the queues it serves.

Credits are absolute, so moving one is only a smaller number here and a larger one there. What holds: the credits
together never exceed the free slots; a queue that uses its credit gets what others leave unused; a queue's credit is
enough for its dearest task, and where the slots are too few for that, each queue is asked in turn, so none is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ACTIVE_MS: Final = 500  # a queue that sent work within this time is expected to send more
HOLD_MS: Final = 20  # how long a queue may sit on the last slots before the next one is asked ...
IDLE_HOLD_MS: Final = 100  # ... and where nothing has come for a while
STARVED_MS: Final = 1_000  # a queue without credit for this long is asked before those that are busy
TICK_MS: Final = 100  # how often unused credit is looked at, while there is some


class QueueLine:
    """One queue as its worker sees it. `seen`: slots of the bodies received from it in this session; `held`: slots its
    attempts take now; `free`: its credit; `needs`: where its handlers run (async, thread, process); `cost`: slots of its
    dearest handler."""

    __slots__ = ("active_until_ms", "address", "cost", "free", "held", "last_ms", "needs", "seen", "sent", "since_ms")

    def __init__(self, address: str, needs: frozenset[str] = frozenset({"async"}), cost: int = 1) -> None:
        self.address = address
        self.needs = needs
        self.cost = cost
        self.begin_session()
        self.held = 0

    def begin_session(self) -> None:
        """Forget what was said in the session before."""
        self.seen = 0
        self.free = 0
        self.sent = -1  # free + seen as last told, which is what the queue goes by
        self.active_until_ms = -(1 << 60)
        self.last_ms = -(1 << 60)  # when it last had credit enough for its dearest task
        self.since_ms = 0  # since when it has had that


def share(free: int, lines: Sequence[QueueLine], rooms: Sequence[int], now_ms: int, *, slots: int) -> None:
    """Set every line's `free`. `rooms`: what each line can use at most, by position; `slots`: all there are."""
    count = len(lines)
    if count == 1:
        lines[0].free = max(min(free, rooms[0]), 0)
        return
    if free >= sum([line.cost for line in lines]):
        # Of all slots, not of the free ones: so the idle queues' credit does not change with every task that ends.
        probe = min(max(slots // (8 * count), 1), free // count)
        new = _spread(free, probe, lines, rooms, now_ms)
    else:
        new = _in_turn(max(free, 0), lines, rooms, now_ms, slots)
    for line, credit in zip(lines, new, strict=True):
        enough = min(line.cost, slots)
        if line.free >= enough:
            line.last_ms = now_ms
        if credit >= enough:
            if line.free < enough:
                line.since_ms = now_ms
            line.last_ms = now_ms
        line.free = credit


def _spread(free: int, probe: int, lines: Sequence[QueueLine], rooms: Sequence[int], now_ms: int) -> list[int]:
    """Evenly, but where some lines are at work, the others keep only enough to be noticed."""
    new = [max(min(line.cost, room), 0) for line, room in zip(lines, rooms, strict=True)]
    left = free - sum(new)
    active = [index for index, line in enumerate(lines) if line.active_until_ms > now_ms]
    idle = [index for index in range(len(lines)) if index not in active]
    for index in idle if active else ():
        more = max(min(probe - new[index], rooms[index] - new[index], left), 0)
        new[index] += more
        left -= more
    for group in (active, idle):
        # Those that hold least first: what does not divide goes to them. A line without room leaves its part to others,
        # and what no busy line has room for goes to the idle ones.
        open_lines = sorted((index for index in group if rooms[index] > new[index]), key=lambda index: lines[index].held)
        while left > 0 and open_lines:
            part = max(left // len(open_lines), 1)
            for index in list(open_lines):
                taken = min(part, rooms[index] - new[index], left)
                new[index] += taken
                left -= taken
                if new[index] >= rooms[index]:
                    open_lines.remove(index)
    return new


def _in_turn(free: int, lines: Sequence[QueueLine], rooms: Sequence[int], now_ms: int, slots: int) -> list[int]:
    """Enough for a task each, as far as they go: who was just asked, who waits too long, who is busy, who was asked longest
    ago."""

    def rank(index: int) -> tuple[int, int, int, int]:
        line = lines[index]
        has_enough = line.free >= min(line.cost, slots)
        served_ms = line.since_ms if has_enough else line.last_ms
        if has_enough and now_ms - line.since_ms < HOLD_MS:
            return (0, 0, served_ms, index)
        if not has_enough and now_ms - line.last_ms >= STARVED_MS:
            return (1, 0, served_ms, index)
        if line.active_until_ms > now_ms:
            return (2, line.held, served_ms, index)
        return (3, 0, served_ms, index)

    new = [0] * len(lines)
    for index in sorted((index for index in range(len(lines)) if rooms[index] > 0), key=rank):
        if free <= 0:
            break
        new[index] = min(lines[index].cost, rooms[index], free)
        free -= new[index]
    return new


def hold_ms(free: int, lines: Sequence[QueueLine], now_ms: int) -> int:
    """Return when to share again although nothing has changed, 0 if there is no need."""
    is_busy = any(line.active_until_ms > now_ms for line in lines)
    if free < sum([line.cost for line in lines]):
        return HOLD_MS if is_busy else IDLE_HOLD_MS
    return TICK_MS if is_busy else 0
