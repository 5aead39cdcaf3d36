"""Bugs in what is written and when: fencing, the order of rows and messages, ids, retention, counters."""

from __future__ import annotations

from typing import Final

from foliot.actors.intake import Intake
from foliot.actors.lifecycle import Lifecycle
from foliot.actors.settings import Settings
from foliot.actors.shard import ShardActor
from foliot.actors.states import State
from foliot.runtime.cell import Cell
from foliot.stores import sqlite_small, sqlite_staged, sqlite_upkeep

from .bug import Bug
from .patching import Edit, Swap

_REFUSED: Final = " and epoch is not c3;"


def _without_fence() -> tuple[str, ...]:
    statements = tuple(statement.replace(_REFUSED, " and 0;") for statement in sqlite_staged._SETUP)
    assert statements != sqlite_staged._SETUP
    return statements


def _with_dead_letters() -> str:
    statement = sqlite_upkeep._GOING.replace("[10, 11, 12, 14, 15]", f"[10, 11, 12, {int(State.DEAD)}, 14, 15]")
    assert statement != sqlite_upkeep._GOING
    return statement


_COMMIT: Final = '                await self._persist("commit", journal.commit, turn.changes)\n'

BUGS: Final = (
    Bug(
        "no epoch check",
        "the store takes commits of nodes that lost the shard",
        (
            Swap(sqlite_small, "_FENCE", "select 1 from shards where shard = ?1 and ?2 > 0"),
            Swap(
                sqlite_small,
                "_FENCE_AND_ID",
                "update shards set last_id = max(last_id, ?3) where shard = ?1 and ?2 > 0",
            ),
            Swap(sqlite_staged, "_SETUP", _without_fence()),
        ),
        ("owner:stale", "owner:mixed", "owner:shared"),
        profiles=("partitions", "everything"),
    ),
    Bug(
        "effects before commit",
        "all messages of a turn leave before its rows are durable",
        (
            Edit(
                Cell,
                "_turn",
                _COMMIT,
                "                for envelope in turn.outbox:\n"
                "                    self._bus.send(envelope)\n"
                "                turn.outbox.clear()\n" + _COMMIT,
            ),
        ),
        ("leases:no_lease", "leases:no_task", "lost:lost"),
    ),
    Bug(
        "answers before commit",
        "clients are told of tasks that are not durable yet",
        (
            Edit(
                Cell,
                "_turn",
                _COMMIT,
                "                for envelope in [each for each in turn.outbox if each.request]:\n"
                "                    self._bus.send(envelope)\n"
                "                turn.outbox = [each for each in turn.outbox if not each.request]\n" + _COMMIT,
            ),
        ),
        ("lost:lost", "cancelled:not_cancelled", "cancelled:not_cancelling", "cancelled:not_retried", "limits:setting_lost"),
    ),
    Bug(
        "unknown commit tried again blindly",
        "a commit whose answer was lost is written a second time",
        (Edit(Cell, "_persist", 'if what == "commit" and isinstance(error, CommitUnknownError):', "if False:"),),
        ("ledger", "legal", "unhandled", "unique"),
        profiles=("everything",),
    ),
    Bug(
        "epoch not raised",
        "a claim leaves the shard's epoch as it was, so it fences nobody",
        (Edit(sqlite_upkeep, "claim", "set epoch = epoch + 1,", "set epoch = epoch,"),),
        ("owner:epoch", "owner:shared"),
    ),
    Bug(
        "dedupe key forgotten at take-over",
        "a shard goes by the keys in its memory only",
        (Edit(Intake, "_learn", "for dedupe_key, held in answer.held.items():", "for dedupe_key, held in ():"),),
        ("dedupe:second",),
        profiles=("dedupe", "everything"),
    ),
    Bug(
        "repeated request taken twice",
        "a client that hears no answer and asks again gets its tasks twice",
        (Edit(Intake, "take", "given = self._answers.get(_name_of(message))", "given = None"),),
        ("lost:unexpected",),
        profiles=("dedupe", "everything"),
    ),
    Bug(
        "setting not written",
        "a queue's settings live in memory only",
        (Edit(Settings, "configure_queue", "        turn.changes.queues.append(config)\n", ""),),
        ("limits:setting_lost",),
        profiles=("limits",),
    ),
    Bug(
        "counter not updated on cancel",
        "a cancelled task is counted nowhere",
        (
            Edit(
                Lifecycle,
                "end",
                "setattr(counts, label, getattr(counts, label) + 1)",
                "setattr(counts, label, getattr(counts, label) + (state is not State.CANCELLED))",
            ),
        ),
        ("ledger",),
    ),
    Bug(
        "dead letters deleted",
        "retention deletes what is kept for a person",
        (Swap(sqlite_upkeep, "_GOING", _with_dead_letters()),),
        ("deadletters:deleted",),
    ),
    Bug(
        "ids begin anew",
        "a shard that starts forgets the last id it gave out",
        (Edit(ShardActor, "__init__", "IdSource(image.shard, image.last_id)", "IdSource(image.shard)"),),
        ("unique:not_growing", "unhandled"),
        profiles=("hostile_clocks",),
    ),
)
