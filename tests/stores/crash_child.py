"""A process that commits as fast as it can until it is killed, telling after each commit what was acknowledged.

Its tasks are made by ticks of one schedule a shard.
Usage: python crash_child.py DATABASE. Prints a line "shard first_id count" for each acknowledged turn.
"""

from __future__ import annotations

import asyncio
import sys

from foliot.actors.messages import Kind, Template
from foliot.actors.rows import ShardChanges
from foliot.actors.schedule_rows import ScheduleRow, TickRow
from foliot.actors.states import State
from foliot.runtime.clock import SystemClock
from foliot.runtime.ids import IdSource
from foliot.stores.sqlite import SqliteStore, open_sqlite

SHARDS = 3
KIND = Kind("acme", 7, Template("noop"))


async def main(path: str) -> None:
    store = await open_sqlite(path, clock=SystemClock(), shards=SHARDS)
    async with asyncio.TaskGroup() as group:
        for shard in range(SHARDS):
            group.create_task(commit_forever(store, shard))


async def commit_forever(store: SqliteStore, shard: int) -> None:
    """Each turn inserts a batch and completes the one before: 1 to 40 tasks, growing and starting again."""
    image = await store.claim(shard, "child")
    source = IdSource(shard, image.last_id)
    [schedule_id] = source.block(SystemClock().now_ms(), 1)
    tick_ms = 0
    before: list[int] = []
    size = 0
    while True:
        size = size % 40 + 1
        ids = source.block(SystemClock().now_ms(), size)
        changes = ShardChanges(shard, image.epoch)
        changes.kinds.append(KIND)
        if not tick_ms:
            changes.schedules.append(ScheduleRow(schedule_id, f"s{schedule_id}", 1, 1, KIND.template_id, 1, 0, b"", b""))
        changes.inserted += [(task_id, KIND.template_id, 2, 5, 0, 0, 0, "", "", b"x" * size) for task_id in ids]
        changes.count("acme", "default", "accepted", size)
        changes.ended += [(task_id, int(State.COMPLETED), 1, 1, 2, b"ok", b"") for task_id in before]
        changes.count("acme", "default", "completed", len(before))
        changes.ticks += [
            TickRow(schedule_id, tick_ms + number, 0, 1, task_id, 1, 0) for number, task_id in enumerate(ids)
        ]
        tick_ms += size
        changes.schedule_moves.append((schedule_id, tick_ms, 0, b"x" * size))
        changes.count("acme", "default", "fired", size)
        changes.ticks_ended += [
            (schedule_id, tick_ms - size - len(before) + number, 0, int(State.COMPLETED)) for number in range(len(before))
        ]
        await store.commit(changes)
        print(shard, ids[0], size, flush=True)
        before = ids


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
