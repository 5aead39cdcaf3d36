"""Bugs in a task's life: leases, outcomes, retries, cancellation, timers, expiry."""

from __future__ import annotations

from typing import Final

from foliot.actors import lifecycle
from foliot.actors.commands import Commands
from foliot.actors.leases import Leases
from foliot.actors.lifecycle import Lifecycle
from foliot.actors.outgoing import Outgoing
from foliot.actors.timeouts import Timeouts
from foliot.actors.timers import TimerQueue
from foliot.actors.waiting import Waiting
from foliot.actors.worker import WorkerActor
from foliot.simulations.case import Timings

from .bug import Bug
from .patching import Edit

BUGS: Final = (
    Bug(
        "lease never expires",
        "a worker that falls silent is waited for, for ever",
        (
            Edit(WorkerActor, "on_time", 'self._end("silent", turn)', "self._begin_waiting(turn.now_ms)"),
            Edit(Timeouts, "watch_attempt", "        kind = task.kind\n", "        return\n"),
        ),
        ("leases:dead", "live:leased"),
    ),
    Bug(
        "completion not fenced",
        "an outcome counts for whatever attempt of the task runs now",
        (
            Edit(
                Leases,
                "report",
                "                or task.attempt != outcome.attempt\n                or task.session != session\n",
                "",
            ),
        ),
        ("leases:not_done",),
        profiles=("partitions", "everything"),
        seeds=200,
        options={"timings": Timings(worker_heartbeat_ms=1_000, worker_dead_ms=3_000, reconcile_ms=3_000)},
    ),
    Bug(
        "attempt number used again",
        "an attempt that follows an interruption has the number, and so the token, of the one before",
        (Edit(Lifecycle, "start", "task.attempt += 1", "task.attempt += not task.interruptions"),),
        ("unique:token", "legal:attempt", "leases:attempt_twice"),
    ),
    Bug(
        "lease by the worker's clock",
        "when a lease began is what the worker's clock says, so it may be over before its time",
        (
            Edit(
                Lifecycle,
                "did_not_complete",
                "self._retry_or_end(task, error, outcome.retry_after_ms, turn, fatal=outcome.fatal or once)",
                "turn.now_ms = outcome.ended_ms or turn.now_ms\n"
                "            self._retry_or_end(task, error, outcome.retry_after_ms, turn, fatal=outcome.fatal or once)",
            ),
        ),
        ("retries", "early", "legal", "unhandled", "ledger"),
    ),
    Bug(
        "timer page boundary skipped",
        "the first timer beyond a page is neither in memory nor read again",
        (Edit(TimerQueue, "shed", "self._boundary = self._sorted[-1]", "self._boundary = rest[0]"),),
        ("live:unfinished",),
        options={"timers_max": 4},
    ),
    Bug(
        "retry timer lost at crash",
        "a shard that starts reads back the timers of scheduled tasks, but not those of retries",
        (
            Edit(
                Waiting,
                "_take_timers",
                "if row.id not in table.tasks and not table.is_stale(row.id)]",
                "if row.id not in table.tasks and not table.is_stale(row.id) and row.state == State.SCHEDULED]",
            ),
        ),
        ("live:unfinished",),
        profiles=("everything",),
    ),
    Bug(
        "early by 500 ms",
        "timers fire half a second before they are due",
        (
            Edit(TimerQueue, "pop_due", "bisect_right((now_ms, MAX_ID))", "bisect_right((now_ms + 500, MAX_ID))"),
            Edit(TimerQueue, "due_ms", "self._sorted[0][0] if", "self._sorted[0][0] - 500 if"),
        ),
        ("early",),
        profiles=("calm",),
    ),
    Bug(
        "back-off ignored",
        "what failed is tried again at once",
        (Edit(lifecycle, "retry_delay_ms", "    ceiling = float(policy.base_ms)\n", "    return 0\n"),),
        ("retries:back_off",),
    ),
    Bug(
        "one attempt too many",
        "a task is tried once more than it may be",
        (Edit(Lifecycle, "_retry_or_end", "task.spent >= template.max_attempts", "task.spent > template.max_attempts"),),
        ("retries:too_many", "deadletters:not_ended"),
    ),
    Bug(
        "interruptions not counted",
        "a task that kills its workers is given to the next one, for ever",
        (Edit(Lifecycle, "interrupt", "        task.interruptions += 1\n", ""),),
        ("retries:interruptions",),
    ),
    Bug(
        "dead letter dropped",
        "a task whose attempts are used up ends as failed, and is not kept for a person",
        (
            Edit(
                Lifecycle,
                "_retry_or_end",
                "State.DEAD if template.dead_letter else State.FAILED",
                "State.FAILED",
            ),
        ),
        ("deadletters:kind",),
    ),
    Bug(
        "cancel ignored while leasing",
        "a cancel that comes just after the lease is acknowledged and forgotten",
        (
            Edit(
                Commands,
                "_cancel",
                "        if not task.cancelling:\n",
                "        if turn.now_ms - task.leased_ms < 1_000:\n            return 'cancelling'\n"
                "        if not task.cancelling:\n",
            ),
        ),
        ("cancelled:not_cancelling",),
        profiles=("everything",),
    ),
    Bug(
        "cancelled task runs again",
        "a task that was cancelled while it ran is queued again when its worker is lost",
        (Edit(Lifecycle, "interrupt", "if task.cancelling:", "if False:"),),
        ("cancelled",),
        profiles=("everything",),
    ),
    Bug(
        "at most once retried",
        "an attempt that started is started again although the task asked for at most once",
        (
            Edit(Lifecycle, "did_not_complete", "fatal=outcome.fatal or once", "fatal=outcome.fatal"),
            Edit(Lifecycle, "interrupt", 'template.delivery == "at_most_once" or ', ""),
        ),
        ("once:started_twice",),
    ),
    Bug(
        "deadline ignored at the lease",
        "a task whose waiting time is over is leased all the same",
        (
            Edit(
                Leases,
                "grant",
                "elif task.kind.has_deadline and self._life.expire_if_late(task, turn):",
                "elif False:",
            ),
            Edit(Lifecycle, "overdue", "elif not self.expire_if_late(task, turn):", "elif False:"),
        ),
        ("expiry",),
    ),
    Bug(
        "lost slot not found again",
        "a grant that comes to nothing keeps its slot, and nobody looks for it",
        (
            Edit(Outgoing, "refuse", "        self.release(grant.queue, task_id)\n", ""),
            Edit(Leases, "_confirmed", "            self._out.release(message.queue, task_id)\n", ""),
        ),
        ("live:phantoms", "live:unfinished"),
    ),
)
