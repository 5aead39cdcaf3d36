"""Bugs in who runs next: limits, keys, permits, priorities, and what a queue knows after a take-over."""

from __future__ import annotations

from typing import Final

from foliot.actors.book import TaskBook
from foliot.actors.outgoing import Outgoing
from foliot.actors.queue import QueueActor
from foliot.actors.ready import ReadyLanes
from foliot.actors.tenant import TenantActor
from foliot.runtime.cell import Cell
from foliot.runtime.ownership import Slot

from .bug import Bug
from .patching import Edit

BUGS: Final = (
    Bug(
        "limit counted half",
        "two running slots count as one against a queue's limit",
        (
            Edit(
                QueueActor,
                "_room",
                "config.concurrency - self._book.running",
                "config.concurrency - self._book.running // 2",
            ),
        ),
        ("limits:queue",),
        profiles=("limits", "everything"),
    ),
    Bug(
        "limit ignored after restart",
        "a queue that begins anew takes nothing for running that earlier ones granted",
        (Edit(TaskBook, "adopt", "if not ids:", "if True:"),),
        ("limits:queue", "limits:key", "limits:tenant"),
        profiles=("limits", "everything"),
    ),
    Bug(
        "does not wait for shards",
        "a queue that begins anew grants before all shards have said what runs",
        (Edit(QueueActor, "_match", "(self._links.unheard and self._must_wait(config))", "False"),),
        ("limits:queue", "limits:key", "limits:tenant"),
        profiles=("limits", "everything"),
        seeds=150,
    ),
    Bug(
        "queue not rebuilt after take-over",
        "a shard tells a new queue actor what runs, but not what waits",
        (Edit(Outgoing, "_send_full", "if task.offered:", "if False:"),),
        ("live:unfinished",),
    ),
    Bug(
        "tenant's permits doubled",
        "a tenant's queues together run twice what it may",
        (
            Edit(
                TenantActor,
                "_configure",
                "self._permits.concurrency = config.concurrency",
                "self._permits.concurrency = 2 * config.concurrency",
            ),
        ),
        ("limits:tenant",),
        profiles=("limits", "calm"),
    ),
    Bug(
        "key gate leaks",
        "the slot of a concurrency key stays taken when its task ends",
        (Edit(TaskBook, "_ended", "            gate.running -= count\n", ""),),
        ("live:unfinished",),
    ),
    Bug(
        "key freed twice",
        "a task that ends gives back two slots of its key",
        (Edit(TaskBook, "_ended", "gate.running -= count", "gate.running -= 2 * count"),),
        ("limits:key",),
    ),
    Bug(
        "priority inverted",
        "the lowest priority is served first",
        (Edit(ReadyLanes, "front", "for level in self.levels:", "for level in reversed(self.levels):"),),
        ("order:priority",),
        profiles=("calm", "limits", ""),
        options={"workers": 1, "concurrency": 2},
        seeds=150,
    ),
    Bug(
        "mailbox reordered",
        "an actor takes the newest message of its mailbox first",
        (Edit(Cell, "_live", "mailbox.popleft()", "mailbox.pop()"),),
        ("mailbox:order", "legal", "leases", "live", "limits", "lost", "order", "unhandled"),
        profiles=("extremes",),
        seeds=120,
        options={"drain_max": 64, "step_us": 300},  # steps that take time let messages gather
    ),
    Bug(
        "slot still hosted after it was given back",
        "a node goes on taking messages for actors it no longer has",
        (Edit(Slot, "_shut", "            self._bus.leave(self.number)\n", ""),),
        ("hygiene:binding",),
        profiles=("rolling", "everything"),
    ),
)
