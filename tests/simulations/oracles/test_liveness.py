"""Everything comes to its end, or the report says why it did not."""

from __future__ import annotations

from foliot.runtime.ids import to_text
from foliot.simulations.history import Reason
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.liveness import Live

from .builder import Story


def healed(**task: object) -> tuple[Story, int]:
    story = Story()
    id = story.submit(**task)  # type: ignore[arg-type]
    story.heal(60_000)
    story.advance(60_000)
    return story, id


def test_a_run_in_which_everything_ended_is_well() -> None:
    story, id = healed()
    story.run(id)
    story.complete(id)

    assert story.verdict(Live, queues={"queue.default.default": (0, 0)}) == []


def test_a_task_that_is_not_over_is_found_with_its_reason() -> None:
    story, id = healed()

    oracle = Live()
    assert story.verdict(oracle, reasons=[Reason(id, "no worker serves the queue")]) == ["unfinished"]
    assert oracle.violations[0].text == (
        f"task {to_text(id)} is queued in attempt 0 at the end: no worker serves the queue"
    )


def test_a_lease_that_is_not_over_is_found() -> None:
    story, id = healed()
    story.lease(id)

    assert story.verdict(Live) == ["leased"]


def test_what_cannot_run_may_wait() -> None:
    gpu = Bounds(labels=((("gpu", "true"),),))
    for task, bounds, expected in (
        ({"require": ("gpu=true",)}, Bounds(), []), ({"require": ("gpu=true",)}, gpu, ["unfinished"]),
        ({"cost": 9}, Bounds(slots=8), []), ({"cost": 8}, Bounds(slots=8), ["unfinished"]),
    ):  # fmt: skip
        story, _ = healed(**task)

        assert story.verdict(Live, bounds) == expected


def test_a_paused_queue_holds_its_tasks() -> None:
    for paused, expected in ((True, []), (False, ["unfinished"])):
        story, _ = healed()
        story.configure(paused=paused)

        assert story.verdict(Live) == expected


def test_a_task_whose_time_has_not_come_may_wait() -> None:
    for delay_ms, expected in ((61_000, []), (50_000, ["unfinished"])):
        story, _ = healed(delay_ms=delay_ms)
        story.advance(30_000)  # while the cluster is stopped

        assert story.verdict(Live) == expected


def test_a_shard_has_one_owner() -> None:
    for owners in ([], ["n1", "n2"]):
        story = Story()
        story.heal()

        assert story.verdict(Live, owners={0: owners}) == ["owners"]


def test_a_queue_must_not_count_what_does_not_run() -> None:
    story = Story()
    story.heal()

    assert story.verdict(Live, queues={"queue.default.default": (2, 0)}) == ["phantoms"]


def test_a_run_that_was_not_healed_is_not_judged() -> None:
    story = Story()
    story.submit()

    assert story.verdict(Live, owners={0: []}) == []
