"""Saying things again after an interruption."""

from __future__ import annotations

import anyio
from foliot.sdk.cluster.renewal import Renewal
from foliot.transports.nats.link import LinkState

UP = [LinkState(is_up=True, sessions=number) for number in range(4)]


async def test_everything_is_said_again_several_times_after_each_interruption_and_never_before_one() -> None:
    said: list[int] = []
    renewal = Renewal(lambda: said.append(1), pauses_s=(0.0, 0.0, 0.0))

    async with anyio.create_task_group() as group:
        group.start_soon(renewal.run)
        renewal.link_changed(UP[1])  # the first connection: nothing was said before it
        renewal.link_changed(LinkState(is_up=False, sessions=1))
        await anyio.wait_all_tasks_blocked()
        assert said == []

        renewal.link_changed(UP[2])
        await anyio.wait_all_tasks_blocked()
        assert len(said) == 3

        renewal.link_changed(UP[3])
        await anyio.wait_all_tasks_blocked()
        assert len(said) == 6
        group.cancel_scope.cancel()
