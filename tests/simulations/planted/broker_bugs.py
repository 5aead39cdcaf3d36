"""Bugs around the broker and a database that fails over: what is acknowledged when, what is known of a stream, and what an
error of the database means."""

from __future__ import annotations

from typing import Final

from foliot.actors.inbox import Inbox
from foliot.actors.rows import InboxMark
from foliot.runtime.cell import Cell
from foliot.transports.nats.inboxes import Reader

from .bug import Bug
from .patching import Edit

_KNOWN: Final = "stream == self.stream and position <= self.position and stamp <= self.stamp"
_PROFILES: Final = ("mail",)

BUGS: Final = (
    Bug(
        "ack before commit",
        "an entry is acknowledged before its shard has committed it",
        (
            Edit(
                Reader,
                "_apply",
                "        while read:\n",
                "        for entry in entries:\n            self._jetstream.ack(entry)\n        while read:\n",
            ),
        ),
        ("inbox:not_accepted",),
        profiles=_PROFILES,
        options={"commit_us": 100_000},  # so that a crash often comes in between
    ),
    Bug(
        "position not stored",
        "how far a shard has come in its inbox is in its memory only",
        (Edit(Inbox, "_pass", "self.mark = turn.changes.inbox = ", "self.mark = "),),
        ("inbox:unmarked", "inbox:twice"),
        profiles=_PROFILES,
    ),
    Bug(
        "older consumer left at take-over",
        "a new owner makes its consumer and leaves that of the one before",
        (Edit(Reader, "_take_over", "            await jetstream.forget(config.name, name)\n", "            continue\n"),),
        ("inbox:not_accepted",),
        profiles=_PROFILES,
    ),
    Bug(
        "wiped stream not noticed",
        "positions of a stream that was made again are taken for those of the one before",
        (Edit(InboxMark, "covers", _KNOWN, "position <= self.position"),),
        ("inbox:not_accepted",),
        profiles=_PROFILES,
    ),
    Bug(
        "lost end of the stream not noticed",
        "positions that are given again after a loss of power are taken for those of before",
        (Edit(InboxMark, "covers", _KNOWN, "stream == self.stream and position <= self.position"),),
        ("inbox:not_accepted",),
        profiles=_PROFILES,
        seeds=150,
    ),
    Bug(
        "rest of a broken batch passed",
        "entries that a commit left out are acknowledged with the others",
        (Edit(Reader, "_apply", "            read = read[len(batch) :]\n", "            read = []\n"),
         Edit(Reader, "_few", "if index and tasks > self._config.batch_tasks:", "if index:")),
        ("inbox:not_accepted",),
        profiles=_PROFILES,
    ),
    Bug(
        "unknown commit taken for success",
        "a commit whose answer was lost is taken for written",
        (
            Edit(
                Cell,
                "_persist",
                "                    self._stall = None  # it is over, one way or the other\n                    raise\n",
                "                    return None\n",
            ),
        ),
        ("lost", "ledger", "legal", "leases", "live", "unhandled"),
        profiles=("failover", "everything"),
    ),
    Bug(
        "read-only span taken as fatal",
        "a shard whose database takes no writes for a moment fails, and its messages with it",
        (
            Edit(
                Cell,
                "_persist",
                "            except StoreError as error:\n",
                "            except StoreError as error:\n"
                '                if error.code == "store_read_only":\n                    raise\n',
            ),
        ),
        ("unhandled", "live", "lost"),
        profiles=("failover",),
    ),
)  # fmt: skip
