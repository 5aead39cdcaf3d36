"""Hand-made histories that read like stories: a small cluster that does everything right, unless told to do it wrong.

Each verb appends the observations a good cluster would show, its ledger and notes included; `commit` appends any rows at
all. `verdict` plays the story to an oracle and returns the kinds of violations it found, in order.
"""

from __future__ import annotations

from typing import Any

import msgspec
from foliot.actors import messages as m
from foliot.actors.rows import ShardChanges, TaskRow
from foliot.actors.states import State
from foliot.runtime.ids import EPOCH_MS, time_of_ms
from foliot.simulations import history as h
from foliot.simulations.oracles.bounds import Bounds
from foliot.simulations.oracles.watch import Watch

NS = 1_000_000
START_MS = 1_790_000_000_000
ERROR = msgspec.msgpack.encode(m.TaskError("ValueError", "no"))
LABELS = {int(state): state.label for state in State}


class Row:
    """A task of the story."""

    def __init__(self, id: int, kind: m.Kind, state: int, due_ms: int, spec: m.TaskSpec) -> None:
        self.id, self.kind, self.state, self.due_ms, self.spec = id, kind, state, due_ms, spec
        self.attempt = self.spent = self.interruptions = self.cancelling = self.lane = 0
        self.session = ""
        self.error = b""


class Story:
    """One cluster. `now_ms`: the wall clock of every machine, which begins at `START_MS`."""

    def __init__(self, *, shard: int = 0) -> None:
        self.seen: list[h.Observation] = []
        self.now_ms = START_MS
        self.shard = shard
        self.epoch = 0
        self.process = "n1"
        self.boot = 1
        self.rows: dict[int, Row] = {}
        self.kinds: dict[int, m.Kind] = {}
        self.attempts: dict[int, list[tuple[int, int]]] = {}
        self.ledger: dict[tuple[str, str], dict[str, int]] = {}
        self.purged: dict[tuple[str, str], dict[str, int]] = {}
        self._last_id = 0
        self.claim()

    # -- time and ground -------------------------------------------------------------------------------------------------

    @property
    def at_ns(self) -> int:
        return (self.now_ms - START_MS) * NS

    def advance(self, ms: int) -> None:
        self.now_ms += ms

    def add(self, seen: h.Observation) -> None:
        self.seen.append(seen)

    def claim(self, process: str = "n1", boot: int = 1) -> None:
        self.epoch += 1
        self.process, self.boot = process, boot
        self.add(h.Claimed(self.at_ns, self.shard, self.epoch, process, boot))

    def changes(self) -> ShardChanges:
        return ShardChanges(self.shard, self.epoch)

    def commit(self, changes: ShardChanges | None = None, /, *, clock_ms: int = 0, **rows: Any) -> None:
        """Append a commit; `rows` by the names of ShardChanges."""
        changes = self.changes() if changes is None else changes
        for name, value in rows.items():
            setattr(changes, name, value)
        for (tenant, queue, what), by in changes.ledger.items():
            counts = self.ledger.setdefault((tenant, queue), {})
            counts[what] = counts.get(what, 0) + by
        now_ms = clock_ms or self.now_ms
        self.add(
            h.Committed(
                self.at_ns, self.shard, changes.epoch, self.process, self.boot, now_ms, changes, dict(self.kinds)
            )
        )

    # -- tasks -----------------------------------------------------------------------------------------------------------

    def kind(self, tenant: str = "acme", **policy: Any) -> m.Kind:
        template = m.Template("app.noop", **policy)
        template_id = next((k.template_id for k in self.kinds.values() if k.template == template and k.tenant == tenant), 0)
        kind = m.Kind(tenant, template_id or len(self.kinds) + 1, template)
        self.kinds[kind.template_id] = kind
        return kind

    def insert(
        self, changes: ShardChanges, *, id: int = 0, tenant: str = "acme", delay_ms: int = 0, priority: int = 5,
        key: str = "", dedupe_key: str = "", payload: bytes = b"p", **policy: Any,
    ) -> Row:  # fmt: skip
        """Add a new task to a commit."""
        kind = self.kind(tenant, **policy)
        self._last_id = max(self._last_id + 1, (self.now_ms - EPOCH_MS) << 22 | self.shard << 12)
        due_ms = self.now_ms + delay_ms
        state = int(State.SCHEDULED if delay_ms else State.QUEUED)
        spec = m.TaskSpec(0, payload, due_ms if delay_ms else 0, priority, key, dedupe_key)
        row = Row(id or self._last_id, kind, state, due_ms, spec)
        row.lane = priority << 59 | kind.template_id << 8 | len(key)
        changes.inserted.append(
            (row.id, kind.template_id, state, priority, due_ms, self.now_ms, row.lane, key, dedupe_key, payload)
        )
        changes.count(tenant, kind.template.queue, "accepted")
        if dedupe_key:
            changes.dedupe.append((tenant, dedupe_key, row.id, self.now_ms + kind.template.dedupe_window_ms))
        self.rows[row.id] = row
        return row

    def submit(self, *, count: int = 1, **fields: Any) -> int:
        """Submit tasks and have them acknowledged; returns the first one's id."""
        changes = self.changes()
        rows = [self.insert(changes, **fields) for _ in range(count)]
        self.commit(changes)
        self.told(*rows)
        return rows[0].id

    def told(self, *rows: Row, outcome: str = "ok", ids: list[int] | None = None, existing: bool = False) -> None:
        """A client got the answer to its submission of these."""
        if ids is None:
            ids = [row.id if outcome == "ok" else 0 for row in rows]
        kinds, specs = [row.kind for row in rows], [row.spec for row in rows]
        self.add(
            h.Submitted(
                self.at_ns, self.at_ns, "client", rows[0].kind.tenant, outcome, kinds, specs, ids, [existing] * len(rows)
            )
        )

    def fire(self, id: int, **fields: Any) -> None:
        self.move(id, State.QUEUED, **fields)

    def lease(self, *ids: int, session: str = "s1", **at: int) -> None:
        """Lease tasks, as the next attempt of each; `at`: clock_ms of the commit."""
        changes = self.changes()
        for id in ids:
            row = self.rows[id]
            row.state, row.attempt, row.session = int(State.RUNNING), row.attempt + 1, session
            changes.leased.append((id, row.attempt, session, self.now_ms))
        self.commit(changes, **at)

    def start(self, id: int, *, attempt: int = 0, session: str = "", process: str = "w1", boot: int = 1) -> None:
        row = self.rows[id]
        self.add(
            h.BodyStarted(
                self.at_ns, process, boot, session or row.session, id, attempt or row.attempt, row.kind, row.spec.priority,
                row.spec.key,
            )
        )  # fmt: skip

    def stop(self, id: int, how: str = "ok", *, attempt: int = 0) -> None:
        self.add(h.BodyEnded(self.at_ns, "w1", 1, id, attempt or self.rows[id].attempt, how))

    def effect(self, id: int, number: int = 0, *, accepted: bool = True, attempt: int = 0) -> None:
        self.add(h.Effect(self.at_ns, "w1", id, attempt or self.rows[id].attempt, number, accepted))

    def run(self, id: int, session: str = "s1", *, takes_ms: int = 10) -> None:
        """Lease a task and let its body run well."""
        self.lease(id, session=session)
        self.start(id)
        self.advance(takes_ms)
        self.stop(id)

    def complete(self, *ids: int) -> None:
        self.end(*ids, state=State.COMPLETED)

    def end(self, *ids: int, state: State, error: bytes = b"", note: int | None = None, spent: int = 0) -> None:
        """End tasks; `note`: the kind of outcome to note, `spent`: added to the attempts spent."""
        changes = self.changes()
        for id in ids:
            row = self.rows[id]
            self._leave_final(row, changes)
            row.state, row.error = int(state), error
            row.spent += spent
            changes.ended.append((id, int(state), row.spent, 0, self.now_ms, b"", error))
            changes.count(row.kind.tenant, row.kind.template.queue, state.label)
            if note is not None:
                self._note(id, note, changes)
        self.commit(changes)

    def move(self, id: int, state: State, *, note: int | None = None, clock_ms: int = 0, **fields: Any) -> None:
        """Move a task between states that are not final; `fields`: new values of its columns."""
        changes = self.changes()
        row = self.rows[id]
        self._leave_final(row, changes)
        if note is not None:
            self._note(id, note, changes)
        row.state = int(state)
        for name, value in fields.items():
            setattr(row, name, value)
        changes.moved.append((id, row.state, row.due_ms, row.spent, row.interruptions, row.cancelling, self.now_ms))
        self.commit(changes, clock_ms=clock_ms)

    def fail(self, id: int, *, delay_ms: int) -> None:
        """The attempt failed; the next one is due after the delay."""
        self.stop(id, "raised")
        row = self.rows[id]
        self.move(id, State.RETRYING, note=2, spent=row.spent + 1, interruptions=0, due_ms=self.now_ms + delay_ms)

    def die(self, id: int) -> None:
        """The last attempt failed."""
        self.stop(id, "raised")
        self.end(id, state=State.DEAD, error=ERROR, note=2, spent=1)

    def interrupt(self, id: int) -> None:
        """The worker was lost."""
        self.move(id, State.QUEUED, note=0, interruptions=self.rows[id].interruptions + 1)

    def revive(self, id: int, *, asked: bool = True) -> None:
        """A person has an ended task tried again."""
        self.move(id, State.QUEUED, spent=0, interruptions=0, cancelling=0, due_ms=self.now_ms)
        if asked:
            self.command("retry", id, "retried")

    def command(self, command: str, id: int, word: str, *, outcome: str = "ok", asked_ns: int = -1) -> None:
        asked_ns = self.at_ns if asked_ns < 0 else asked_ns
        self.add(h.Commanded(self.at_ns, asked_ns, "client", command, id, outcome, word))

    def retain(self, *ids: int) -> None:
        for id in ids:
            row = self.rows.pop(id)
            counts = self.purged.setdefault((row.kind.tenant, row.kind.template.queue), {})
            label = LABELS[row.state] if row.state >= State.COMPLETED else "waiting"
            counts[label] = counts.get(label, 0) + 1
            self.attempts.pop(id, None)
        self.add(h.Retained(self.at_ns, list(ids)))

    def configure(self, queue: str = "default", **fields: Any) -> None:
        config = m.QueueConfig("default", queue, **fields)
        self.commit(queues=[config])
        limits = {name: int(value) for name, value in fields.items()}
        self.add(h.Configured(self.at_ns, self.at_ns, "client", "queue", queue, "ok", limits))

    def configure_tenant(self, tenant: str = "acme", **fields: int) -> None:
        self.commit(tenants=[m.TenantConfig(tenant, **fields)])
        self.add(h.Configured(self.at_ns, self.at_ns, "client", "tenant", tenant, "ok", dict(fields)))

    def process_is(self, what: str, process: str = "w1", boot: int = 1) -> None:
        self.add(h.ProcessChanged(self.at_ns, process, boot, what))

    def heal(self, within_ms: int = 60_000) -> None:
        self.add(h.Healed(self.at_ns, within_ms))

    def _leave_final(self, row: Row, changes: ShardChanges) -> None:
        if row.state >= State.COMPLETED:
            changes.count(row.kind.tenant, row.kind.template.queue, LABELS[row.state], -1)

    def _note(self, id: int, kind: int, changes: ShardChanges) -> None:
        row = self.rows[id]
        changes.attempts.append((id, row.attempt, kind, row.session, time_of_ms(id), self.now_ms, ERROR))
        self.attempts.setdefault(id, []).append((row.attempt, kind))

    # -- the end ---------------------------------------------------------------------------------------------------------

    def final(self, **fields: Any) -> h.Final:
        """Return the end as the store and the cluster show it; `fields` replace what they say."""
        rows = [
            TaskRow(
                row.id, row.kind.template_id, row.state, row.spec.priority, row.attempt, row.spent, row.interruptions,
                row.due_ms, 0, row.lane, row.spec.key, row.spec.dedupe_key, row.session, row.cancelling, 0, 0, None, b"",
                row.error,
            )
            for row in self.rows.values()
        ]  # fmt: skip
        counters: list[m.LedgerEntry] = []
        recount: list[m.LedgerEntry] = []
        finals = [state.label for state in State if state.is_final]
        for tenant, queue in sorted(self.ledger):
            counts = {what: self.ledger[tenant, queue].get(what, 0) for what in ("accepted", *finals)}
            waiting = counts["accepted"] - sum(counts[label] for label in finals)
            counters.append(m.LedgerEntry(tenant, queue, waiting=waiting, **counts))
            told = dict(self.purged.get((tenant, queue), {}))
            for row in self.rows.values():
                if (row.kind.tenant, row.kind.template.queue) == (tenant, queue):
                    label = LABELS[row.state] if row.state >= State.COMPLETED else "waiting"
                    told[label] = told.get(label, 0) + 1
            recount.append(m.LedgerEntry(tenant, queue, accepted=sum(told.values()), **told))
        given: dict[str, Any] = {
            "rows": rows, "kinds": dict(self.kinds), "attempts": dict(self.attempts), "counters": counters,
            "recount": recount, "epochs": {self.shard: self.epoch}, "owners": {self.shard: [self.process]}, "queues": {},
            "purged": 0, "reasons": [],
        }  # fmt: skip
        return h.Final(self.at_ns, **{**given, **fields})

    def verdict(self, oracle: type[Watch] | Watch, /, bounds: Bounds | None = None, **final: Any) -> list[str]:
        """Play it to an oracle and return the kinds of violations."""
        judge = oracle if isinstance(oracle, Watch) else oracle(bounds)
        for seen in self.seen:
            judge.see(seen)
        judge.end(self.final(**final))
        return [violation.kind for violation in judge.violations]
