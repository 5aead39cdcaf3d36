"""A shard without an event loop: its turns are committed to a real SQLite in memory, its reads answered from there.

The test plays the queue and the workers; time moves only when told. `reopen` builds the actor again from the store.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from foliot.actors import messages as m
from foliot.actors.rows import ShardChanges
from foliot.actors.shard import ShardActor, ShardConfig
from foliot.actors.states import State
from foliot.runtime.actor import Turn
from foliot.runtime.bus import Envelope
from foliot.runtime.rng import Rng
from foliot.stores.migrate import migrate_sqlite, migrations_for
from foliot.stores.sqlite_group import GroupWriter
from foliot.stores.sqlite_rows import answer_of, fetch, statement_of
from foliot.stores.sqlite_turn import Turn as StoredTurn
from foliot.stores.sqlite_upkeep import claim

START_MS = 1_800_000_000_000
QUEUE = "queue.default.default"


class ShardHarness:
    """One shard, its store, and what it sent."""

    def __init__(self, config: ShardConfig | None = None) -> None:
        self.config = config or ShardConfig(shards=1)
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        migrate_sqlite(self.connection, migrations_for("sqlite"), now_ms=START_MS)
        self.connection.execute("insert into shards (shard, epoch, node, last_id) values (0, 0, '', 0)")
        self.writer = GroupWriter(self.connection)
        self.rng = Rng(7)
        self.now_ms = START_MS
        self.sent: list[Envelope] = []
        self.hold_reads = False
        self.held: list[Any] = []
        self.commits = 0
        self.grants = 0
        self.reopen()

    def reopen(self) -> None:
        """Start the actor from what is stored, as after a crash."""
        image = claim(self.connection, 0, "test")
        self.epoch = image.epoch
        self.actor = ShardActor(image, self.config)
        turn = self._turn()
        self.actor.started(turn)
        self._finish(turn)

    def _turn(self) -> Turn:
        return Turn(address="shard.0", now_ms=self.now_ms, rng=self.rng, changes=ShardChanges(0, self.epoch))

    def _finish(self, turn: Turn) -> None:
        due_ms = self.actor.due_ms()
        if due_ms is not None and due_ms <= self.now_ms:
            self.actor.on_time(turn)
        self.actor.end_turn(turn)
        if turn.changes:
            assert self.writer.write([StoredTurn(turn.changes)]) == [None]
            self.commits += 1
        self.sent += turn.outbox
        for query in turn.reads:  # looked up now, which is after the commit; told whenever the test wants
            self.held.append(answer_of(query, fetch(self.connection, statement_of(0, query))))
        if not self.hold_reads:
            self.answer_reads()
        due_ms = self.actor.due_ms()
        if due_ms is not None and due_ms <= self.now_ms and not self.held:
            self._finish(self._turn())

    def answer_reads(self, first: int = 0) -> None:
        """Let the store's answers arrive, beginning with number `first`; the others follow in order."""
        while self.held:
            answer = self.held.pop(first % len(self.held))
            first = 0
            self.deliver(answer, sender="shard.0", request=0)

    def deliver(self, *messages: Any, sender: str = "reply.test", request: int = 1) -> list[Any]:
        """Handle messages in one turn; returns the answers to this sender."""
        turn = self._turn()
        before = len(self.sent)
        for message in messages:
            turn.sender, turn.request = sender, request
            self.actor.handle(message, turn)
        turn.sender, turn.request = "", 0
        self._finish(turn)
        return [envelope.message for envelope in self.sent[before:] if envelope.to == sender and envelope.request]

    def advance_ms(self, span_ms: int) -> None:
        """Let time pass, stopping at everything that is due."""
        end_ms = self.now_ms + span_ms
        while True:
            due_ms = self.actor.due_ms()
            if due_ms is None or due_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, due_ms)
            self._finish(self._turn())
        self.now_ms = end_ms

    # -- the user --------------------------------------------------------------------------------------------------------

    def submit(self, count: int = 1, *, delay_ms: int = 0, priority: int = 5, key: str = "", dedupe_key: str = "",
               payload: bytes = b"p", tenant: str = "acme", request_id: str = "", **policy: Any) -> list[int]:  # fmt: skip
        due_ms = self.now_ms + delay_ms if delay_ms else 0
        spec = m.TaskSpec(0, payload, due_ms, priority, key, dedupe_key)
        template = m.Template("app.noop", **policy)
        answers = self.deliver(m.SubmitTasks(tenant, [template], [spec] * count, request_id))
        (answer,) = answers
        assert isinstance(answer, m.TasksSubmitted), answer
        self.answer = answer
        return answer.ids

    def command(self, message: Any) -> list[str]:
        (answer,) = self.deliver(message)
        assert isinstance(answer, m.TasksAnswered)
        return answer.outcomes

    def cancel(self, *ids: int) -> list[str]:
        return self.command(m.CancelTasks("acme", list(ids)))

    def retry(self, *ids: int, payload: bytes | None = None) -> list[str]:
        return self.command(m.RetryTasks("acme", list(ids), payload))

    def purge(self, *ids: int) -> list[str]:
        return self.command(m.PurgeTasks("acme", list(ids)))

    # -- the queue and the workers ---------------------------------------------------------------------------------------

    def offered(self) -> list[int]:
        """Return the ids that the queue was offered and that were not withdrawn or released since."""
        found: dict[int, None] = {}
        for envelope in self.sent:
            match envelope.message:
                case m.OfferTasks(lots=lots):
                    for lot in lots:
                        found.update(dict.fromkeys(lot.ids))
                case m.WithdrawTasks(ids=ids):
                    for task_id in ids:
                        found.pop(task_id, None)
                case m.RunTasks(bodies=bodies):
                    for body in bodies:
                        found.pop(body.id, None)
        return list(found)

    def lease(self, *ids: int, session: str = "s1") -> list[m.Body]:
        """Grant the tasks to a session and return the bodies it was sent."""
        before = len(self.sent)
        self.grants += 1
        self.deliver(m.GrantLeases(QUEUE, session, list(ids), number=self.grants), sender=QUEUE, request=0)
        return [
            body
            for envelope in self.sent[before:]
            if isinstance(envelope.message, m.RunTasks) and envelope.to == f"session.{session}"
            for body in envelope.message.bodies
        ]

    def report(self, body: m.Body, kind: m.OutcomeKind = m.OutcomeKind.COMPLETED, *, session: str = "s1",
               **fields: Any) -> list[int]:  # fmt: skip
        """Report how the attempt ended; returns the stale positions."""
        outcome = m.Outcome(body.id, body.attempt, int(kind), self.now_ms, self.now_ms, **fields)
        (answer,) = self.deliver(m.ReportOutcomes(session, [outcome]), sender=f"session.{session}")
        assert isinstance(answer, m.OutcomesTaken)
        return answer.stale

    def fail(self, body: m.Body, *, session: str = "s1", **fields: Any) -> None:
        error = m.TaskError("ValueError", "no")
        assert self.report(body, m.OutcomeKind.FAILED, session=session, error=error, **fields) == []

    # -- the store -------------------------------------------------------------------------------------------------------

    def row(self, task_id: int, column: str) -> Any:
        found = self.connection.execute(f"select {column} from tasks where id = ?", (task_id,)).fetchone()
        return None if found is None else found[0]

    def state_of(self, task_id: int) -> str:
        return State(self.row(task_id, "state")).label

    def states(self) -> dict[str, int]:
        rows = self.connection.execute("select state, count(*) from tasks group by state order by state")
        return {State(state).label: count for state, count in rows}

    def messages(self, kind: type[Any]) -> list[Any]:
        return [envelope.message for envelope in self.sent if isinstance(envelope.message, kind)]

    def purged(self) -> int:
        """Return how many tasks were purged, by the ledger."""
        row = self.connection.execute("select coalesce(sum(count), 0) from ledger where what like 'purged_%'").fetchone()
        return int(row[0])

    def assert_balanced(self) -> None:
        """The counters, the rows and the actor's own counts agree."""
        (answer,) = self.deliver(m.ReadLedger())
        rows = self.states()
        total = sum(rows.values())
        purged = self.purged()
        entries: list[m.LedgerEntry] = answer.entries
        assert sum(entry.accepted for entry in entries) == total + purged
        for label in ("completed", "failed", "cancelled", "dead", "expired", "skipped"):
            purged_so = self.connection.execute(
                "select coalesce(sum(count), 0) from ledger where what = ?", (f"purged_{label}",)
            ).fetchone()[0]  # fmt: skip
            assert sum(getattr(entry, label) for entry in entries) == rows.get(label, 0) + purged_so, label
            stored = self.connection.execute("select coalesce(sum(count), 0) from ledger where what = ?", (label,))
            assert stored.fetchone()[0] == rows.get(label, 0) + purged_so, label
        assert sum(entry.running for entry in entries) == rows.get("running", 0)
        waiting = sum(rows.get(label, 0) for label in ("scheduled", "queued", "retrying"))
        assert sum(entry.waiting for entry in entries) == waiting
