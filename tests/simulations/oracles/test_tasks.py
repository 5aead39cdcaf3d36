"""The tasks rebuilt from commits, and what power loss undoes."""

from __future__ import annotations

import pytest
from foliot.actors.states import State
from foliot.simulations.history import Committed, TakenBack
from foliot.simulations.oracles.tasks import Tasks

from .builder import Story


def told(story: Story) -> Tasks:
    tasks = Tasks()
    for seen in story.seen:
        tasks.take(seen)
    return tasks


def test_tasks_are_as_their_rows() -> None:
    story = Story()
    id = story.submit(delay_ms=10, priority=3, key="k")
    story.advance(10)
    story.fire(id)
    story.lease(id, session="s7")
    story.fail(id, delay_ms=40)

    task = told(story).tasks[id]

    assert (task.state, task.attempt, task.spent, task.due_ms) == (State.RETRYING, 1, 1, story.now_ms + 40)
    assert (task.priority, task.key, task.leases, task.noted) == (3, "k", [(1, "s7")], [(1, 2)])


def test_an_observation_is_taken_in_once() -> None:
    story = Story()
    id = story.submit()
    story.lease(id)
    tasks = told(story)

    tasks.take(next(seen for seen in reversed(story.seen) if isinstance(seen, Committed)))

    assert tasks.tasks[id].leases == [(1, "s1")]


@pytest.mark.parametrize("back", range(8))
def test_power_loss_takes_back_the_newest_writes(back: int) -> None:
    """Whatever is taken back, what is left is as if it had never been."""

    def acts(story: Story) -> None:
        first, second = story.submit(max_attempts=1), story.submit()
        story.lease(first)
        story.configure(concurrency=3)
        story.die(first)
        story.revive(first)
        story.claim("n2")
        story.end(second, state=State.CANCELLED)

    whole = Story()
    acts(whole)
    writes = [seen for seen in whole.seen if type(seen).__name__ in ("Committed", "Claimed")]
    kept = told(whole)
    kept.take(TakenBack(whole.at_ns, back))
    fresh = Tasks()
    for seen in writes[: len(writes) - back]:
        fresh.take(seen)

    assert list(kept.tasks) == list(fresh.tasks)
    for id, task in fresh.tasks.items():
        other = kept.tasks[id]
        for field in ("state", "attempt", "spent", "due_ms", "session", "leases", "noted", "revivals", "queued_ns"):
            assert getattr(other, field) == getattr(task, field), field
    assert kept.queues == fresh.queues
    assert sorted(kept.taken_back) == sorted({*told(whole).tasks} - {*fresh.tasks})


def test_retention_that_was_taken_back_brings_its_tasks_back() -> None:
    story = Story()
    id = story.submit()
    story.end(id, state=State.CANCELLED)
    story.retain(id)
    tasks = told(story)
    assert list(tasks.gone) == [id]

    tasks.take(TakenBack(story.at_ns, 4))

    assert (list(tasks.tasks), list(tasks.gone)) == ([id], [])
