"""Why an offered task does not run: the first thing in its way, with the values.

The order is that of matching: the queue's own settings, the tenant's permits, the key, the workers, and at last the line.
"""

from __future__ import annotations

from datetime import UTC, datetime

from .credits import Credits
from .lanes import Lane
from .messages import Explanation, QueueConfig


def explain_waiting(
    task_id: int, lane: Lane, *, config: QueueConfig | None, running: int, credits: Credits, now_ms: int
) -> Explanation:
    """Return what keeps a task of a lane from running. `running`: slots of the whole queue."""
    retry_at_ms = 0
    found = _queue(lane, config, running) or _tenant(lane) or _key_limit(lane)
    if found is None and (rate := _key_rate(lane, now_ms)) is not None:
        found, retry_at_ms = rate
    ahead = lane.ahead_of(task_id)
    reason, text = found or _workers(lane, credits, config) or _line(lane, ahead)
    return Explanation(task_id, reason, text, ahead, retry_at_ms)


def explain_granted(task_id: int, session: str, granted_ms: int) -> Explanation:
    """Return what there is to say about a task a worker has been found for."""
    return Explanation(task_id, "next_in_line", f"granted to session {session!r} at {instant(granted_ms)}", 0)


def explain_unknown(task_id: int, name: str) -> Explanation:
    """Return what there is to say about a task that was never offered, or is no longer."""
    return Explanation(task_id, "not_offered", f"queue {name!r} has not been offered this task, or it has ended")


def instant(at_ms: int) -> str:
    """Return an instant as people read it, UTC to the second."""
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _queue(lane: Lane, config: QueueConfig | None, running: int) -> tuple[str, str] | None:
    if config is None:
        return "queue_paused", "the queue has just started and waits for its settings"
    if config.paused:
        who = f" by {config.paused_by}" if config.paused_by else ""
        since = f" since {instant(config.paused_at_ms)}" if config.paused_at_ms else ""
        why = f": {config.paused_why}" if config.paused_why else ""
        return "queue_paused", f"queue {config.queue!r} is paused{who}{since}{why}"
    cost = lane.line.shape.cost
    if config.concurrency and running + cost > config.concurrency:
        need = f", and the task needs {cost}" if cost > 1 else ""
        return "queue_limit", f"queue {config.queue!r} runs {running} of {config.concurrency} slots{need}"
    return None


def _tenant(lane: Lane) -> tuple[str, str] | None:
    claim = lane.line.claim
    cost = lane.line.shape.cost
    if not claim.is_known:
        return "tenant_limit", f"tenant {claim.tenant!r} has not yet said how much it may run"
    if claim.room() < cost:
        need = f", and the task needs {cost}" if cost > 1 else ""
        return (
            "tenant_limit",
            f"tenant {claim.tenant!r} runs {claim.running} of {claim.allowed} slots it is allowed in this queue{need}",
        )
    return None


def _key_limit(lane: Lane) -> tuple[str, str] | None:
    limit = lane.line.key_limit
    if lane.gate is None or not limit or lane.gate.running < limit:
        return None
    return "key_limit", f"key {lane.key!r} runs {lane.gate.running} of {limit}"


def _key_rate(lane: Lane, now_ms: int) -> tuple[tuple[str, str], int] | None:
    if lane.rate is None or not (wait_ms := lane.rate.bucket.wait_ms(1, now_ms)):
        return None
    bucket = lane.rate.bucket
    text = (
        f"key {lane.key!r} may start {bucket.count} per {bucket.per_ms} ms and has used them; "
        f"the next may start in {wait_ms} ms, at {instant(now_ms + wait_ms)}"
    )
    return ("key_rate", text), now_ms + wait_ms


def _workers(lane: Lane, credits: Credits, config: QueueConfig | None) -> tuple[str, str] | None:
    shape = lane.line.shape
    fit = shape.fit
    if not len(credits):
        return "no_worker", f"no worker serves queue {config.queue if config else ''!r}"
    if fit.error:
        return "no_matching_worker", fit.error
    if not fit.members:
        wanted = ", ".join(fit.texts[0])
        return "no_matching_worker", f"no worker with {wanted}; {_count(len(credits), 'worker')} connected"
    free, most = credits.most_free(fit)
    if free >= shape.cost:
        return None
    of = f"of {_count(fit.members, 'matching worker')}" if fit.texts[0] else f"of {_count(fit.members, 'worker')}"
    if shape.cost > 1:
        text = f"the task needs {shape.cost} slots at once; the most that one {of} has free is {free}, and ever had {most}"
        return "no_free_slot", text
    return "no_free_slot", f"none {of} has a free slot"


def _line(lane: Lane, ahead: int) -> tuple[str, str]:
    band = lane.band
    text = f"{_count(ahead, 'task')} of its kind before it, at priority {lane.priority}"
    if band is not None and band.share.level.number < lane.priority:
        text += f", raised to {band.share.level.number} by waiting"
    return "next_in_line", text


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
