"""The whole set: no alarm on random histories of a real shard over real SQL, and the same verdict every time."""

from __future__ import annotations

from typing import Any

from foliot.actors import messages as m
from foliot.actors.rows import ReadTasks
from foliot.runtime.actor import Turn
from foliot.simulations import history as h
from foliot.simulations.oracles import ORACLES, Bounds, standard
from foliot.simulations.oracles.order import Order
from foliot.stores import sqlite_lists
from foliot.stores.sqlite_rows import answer_of, fetch, statement_of
from hypothesis import given, settings

from ...actors.harness_shard import START_MS, ShardHarness
from ...actors.test_shard_random import SMALL, STEPS, Player
from .builder import NS, Story

NOBODY = m.Kind("", 0, m.Template(""))


def test_every_oracle_has_a_name_of_its_own_and_a_fixed_place() -> None:
    names = [oracle.name for oracle in standard()]

    assert names == [
        "owner", "unique", "legal", "ledger", "lost", "dedupe", "leases", "once", "early", "expiry", "retries",
        "deadletters", "cancelled", "limits", "order",
        "ticks", "decided", "overlaps", "orders", "backfills", "inbox", "mailbox", "unhandled", "hygiene", "live",
    ]  # fmt: skip
    assert len({*names}) == len(ORACLES)


def test_a_set_finds_what_each_oracle_finds_alone() -> None:
    story = Story()
    id = story.submit(max_attempts=1)
    story.lease(id)
    story.start(id)
    story.fail(id, delay_ms=1)
    story.lease(id, session="s2")
    story.complete(id)

    together = standard()
    for seen in story.seen:
        for oracle in together:
            oracle.see(seen)
    for oracle in together:
        oracle.end(story.final())
    alone = [kind for oracle in ORACLES for kind in story.verdict(oracle)]

    assert [violation.kind for oracle in together for violation in oracle.violations] == alone
    assert {"too_many", "not_ended", "not_done"} <= {*alone}


class _Writer:
    """A shard's writer that tells of each commit."""

    def __init__(self, shard: RecordingShard, behind: Any) -> None:
        self._shard = shard
        self._behind = behind

    def write(self, turns: list[Any]) -> Any:
        result = self._behind.write(turns)
        self._shard.committed()
        return result


class RecordingShard(ShardHarness):
    """A shard whose claims, commits and answers are observed."""

    def __init__(self) -> None:
        self.seen: list[h.Observation] = []
        self.kinds: dict[int, m.Kind] = {}
        self.epoch = 0
        self._open_turn: Turn | None = None
        super().__init__(SMALL)

    @property
    def at_ns(self) -> int:
        return (self.now_ms - START_MS) * NS

    def reopen(self) -> None:
        if not isinstance(self.writer, _Writer):
            self.writer = _Writer(self, self.writer)  # type: ignore[assignment]
        self.seen.append(h.Claimed(self.at_ns, 0, self.epoch + 1, "n1", self.epoch + 1))
        super().reopen()

    def _turn(self) -> Turn:
        self._open_turn = super()._turn()
        return self._open_turn

    def committed(self) -> None:
        assert self._open_turn is not None
        changes = self._open_turn.changes
        self.kinds.update((kind.template_id, kind) for kind in changes.kinds)
        self.seen.append(
            h.Committed(self.at_ns, 0, changes.epoch, "n1", changes.epoch, self.now_ms, changes, dict(self.kinds))
        )

    def deliver(self, *messages: Any, sender: str = "reply.test", request: int = 1) -> list[Any]:
        for message in messages:
            if isinstance(message, m.RetryTasks):
                self.seen += [
                    h.Commanded(self.at_ns, self.at_ns, "client", "retry", id, "unknown", "") for id in message.ids
                ]  # fmt: skip
        answers = super().deliver(*messages, sender=sender, request=request)
        for message, answer in zip(messages, answers, strict=False):
            if isinstance(message, m.SubmitTasks) and isinstance(answer, m.TasksSubmitted):
                kinds = [m.Kind(message.tenant, 0, message.templates[spec.template]) for spec in message.tasks]
                self.seen.append(
                    h.Submitted(
                        self.at_ns, self.at_ns, "client", message.tenant, "ok", kinds, message.tasks, answer.ids,
                        [False] * len(answer.ids),
                    )
                )  # fmt: skip
            if isinstance(message, m.CancelTasks) and isinstance(answer, m.TasksAnswered):
                self.seen += [
                    h.Commanded(self.at_ns, self.at_ns, "client", "cancel", id, "ok", word)
                    for id, word in zip(message.ids, answer.outcomes, strict=True)
                ]
        return answers

    def final(self) -> h.Final:
        ids = [row[0] for row in self.connection.execute("select id from tasks order by id")]
        query = ReadTasks(1, ids)
        answer: Any = answer_of(query, fetch(self.connection, statement_of(0, query)))
        attempts: dict[int, list[tuple[int, int]]] = {}
        for id, attempt, kind in self.connection.execute("select id, attempt, kind from attempts order by rowid"):
            attempts.setdefault(id, []).append((attempt, kind))
        counters, recount = sqlite_lists.ledger_of(fetch(self.connection, sqlite_lists.LEDGER))
        return h.Final(
            self.at_ns, answer.rows, self.kinds, attempts, counters, recount, {0: self.epoch}, {0: ["n1"]}, {},
            self.purged(), [],
        )  # fmt: skip


class RecordingPlayer(Player):
    """Plays queue, workers and people, and tells what bodies do."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded = self.shard = RecordingShard()

    def play(self, step: str, a: int, b: int) -> None:
        if step == "complete" and self.running:
            id = sorted(self.running)[a % len(self.running)]
            self.body_ended(self.running[id][0])
        super().play(step, a, b)

    def note_running(self, body: m.Body, session: str) -> None:
        super().note_running(body, session)
        shard = self.recorded
        kind = next((k for k in shard.kinds.values()), NOBODY)
        shard.seen.append(
            h.BodyStarted(shard.at_ns, "w1", 1, session, body.id, body.attempt, kind, body.priority, body.key)
        )  # fmt: skip
        if session == "last":  # it is reported at once
            self.body_ended(body)

    def body_ended(self, body: m.Body) -> None:
        self.recorded.seen.append(h.BodyEnded(self.recorded.at_ns, "w1", 1, body.id, body.attempt, "ok"))


def played(steps: list[tuple[str, int, int]]) -> RecordingPlayer:
    """Play a history to its end."""
    player = RecordingPlayer()
    for step in steps:
        player.play(*step)
    player.shard.hold_reads = False
    player.late_bodies(player.shard.answer_reads)
    player.recorded.seen.append(h.Healed(player.recorded.at_ns, 10_000_000))
    player.finish()
    return player


def violations(seen: list[h.Observation], final: h.Final) -> list[h.Violation]:
    """Judge a history; the player is no queue that keeps an order."""
    oracles = [oracle for oracle in standard(Bounds(retry_after_ms=(0, 2_000))) if not isinstance(oracle, Order)]
    for one in seen:
        for oracle in oracles:
            oracle.see(one)
    for oracle in oracles:
        oracle.end(final)
    return [violation for oracle in oracles for violation in oracle.violations]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_random_histories_of_a_real_shard_raise_no_alarm(steps: list[tuple[str, int, int]]) -> None:
    player = played(steps)

    assert violations(player.recorded.seen, player.recorded.final()) == []


def test_a_commit_that_is_missing_from_a_history_of_a_real_shard_is_always_noticed() -> None:
    player = played(
        [
            ("submit", 4, 0), ("lease", 0, 2), ("complete", 0, 0), ("fail", 0, 2), ("advance", 3_000, 0), ("submit", 2, 4),
            ("cancel", 0, 3), ("session_ended", 2, 0), ("reopen", 0, 0), ("lease", 1, 1), ("retry", 3, 3), ("purge", 0, 1),
        ]
    )  # fmt: skip
    seen, final = player.recorded.seen, player.recorded.final()
    commits = [
        at for at, one in enumerate(seen)
        if isinstance(one, h.Committed) and (one.changes.inserted or one.changes.leased or one.changes.ended)
    ]  # fmt: skip

    assert violations(seen, final) == []
    assert len(commits) > 8
    for at in commits:
        assert violations(seen[:at] + seen[at + 1 :], final), seen[at]


def test_the_verdict_is_the_same_each_time() -> None:
    player = played([("submit", 6, 0), ("lease", 0, 2), ("fail", 0, 0), ("lease", 1, 1)])
    broken = [one for one in player.recorded.seen if not isinstance(one, h.BodyEnded)]
    final = player.recorded.final()

    assert violations(broken, final) == violations(broken, final) != []
