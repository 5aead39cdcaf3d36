"""The shard under random histories with restarts and late reads: nothing lost, nothing early, every count right.

The tiny windows make pages, boundaries and evictions happen all the time.
"""

from __future__ import annotations

from foliot.actors import messages as m
from foliot.actors.backlog import BacklogConfig
from foliot.actors.shard import ShardConfig
from foliot.actors.timers import TimerConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from .harness_shard import ShardHarness

SMALL = ShardConfig(
    shards=1,
    timers=TimerConfig(horizon_ms=4_000, page=3, in_memory_max=6),
    backlog=BacklogConfig(lane_window=4, key_window=2, lane_floor=1, lane_page=3, window_max=6, lanes_max=5, lanes_page=2),
    fire_max=3,
    keep_payload_max=4,
)
N = st.integers(0, 1_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 6), N),
        st.tuples(st.just("lease"), N, N),
        st.tuples(st.just("complete"), N, N),
        st.tuples(st.just("fail"), N, N),
        st.tuples(st.just("return"), N, N),
        st.tuples(st.just("cancel"), N, N),
        st.tuples(st.just("retry"), N, N),
        st.tuples(st.just("purge"), N, N),
        st.tuples(st.just("advance"), st.integers(1, 6_000), N),
        st.tuples(st.just("session_ended"), st.integers(0, 2), N),
        st.tuples(st.just("reopen"), N, N),
        st.tuples(st.just("hold_reads"), N, N),
        st.tuples(st.just("answer_reads"), N, N),
        st.tuples(st.just("answer_one"), N, N),
        st.tuples(st.just("answer_one"), N, N),
    ),
    max_size=80,
)


class Player:
    """Plays queue, workers and people against a shard, and knows which tasks there must be."""

    def __init__(self) -> None:
        self.shard = ShardHarness(SMALL)
        self.due_ms: dict[int, int] = {}
        self.purged: set[int] = set()
        self.running: dict[int, tuple[m.Body, str]] = {}

    def play(self, step: str, a: int, b: int) -> None:
        shard = self.shard
        all_ids = sorted(self.due_ms)
        if step == "submit":
            delay_ms = [0, 0, 1_500, 3_000, 9_000][b % 5]
            key = ["", "", "k1", "k2"][b % 4]
            spec = m.TaskSpec(0, b"x" * (b % 9), shard.now_ms + delay_ms if delay_ms else 0, b % 3, key)
            template = m.Template("h", max_attempts=2, wait_timeout_ms=[0, 0, 8_000][b % 3], max_interruptions=3)
            shard.deliver(m.SubmitTasks("acme", [template], [spec] * a), sender="reply.submit")
            answer = shard.messages(m.TasksSubmitted)[-1]
            self.due_ms.update((task_id, shard.now_ms + delay_ms) for task_id in answer.ids)
        elif step == "lease":
            offered = shard.offered()
            if offered:
                ids = [offered[(a + k) % len(offered)] for k in range(min(1 + b % 3, len(offered)))]
                session = f"w{b % 3}"
                for body in shard.lease(*dict.fromkeys(ids), session=session):
                    self.note_running(body, session)
        elif step in ("complete", "fail", "return") and self.running:
            task_id = sorted(self.running)[a % len(self.running)]
            body, session = self.running.pop(task_id)
            kind = {"complete": 1, "fail": 2, "return": 5}[step]
            outcome = m.Outcome(body.id, body.attempt, kind, 1, 2, retry_after_ms=[-1, 0, 2_000][b % 3])
            shard.deliver(m.ReportOutcomes(session, [outcome]), sender=f"session.{session}")
        elif step in ("cancel", "retry", "purge") and all_ids:
            ids = [all_ids[a % len(all_ids)], all_ids[b % len(all_ids)]]
            ids = list(dict.fromkeys(ids))
            kind_of = {"cancel": m.CancelTasks, "retry": m.RetryTasks, "purge": m.PurgeTasks}[step]
            shard.deliver(kind_of("acme", ids), sender="reply.command")
            if step == "retry":
                self.due_ms.update(dict.fromkeys(ids, 0))  # at once, if it had ended
        elif step == "advance":
            if shard.held:
                shard.answer_reads()
            shard.advance_ms(a)
        elif step == "session_ended":
            self.running = {task_id: held for task_id, held in self.running.items() if held[1] != f"w{a}"}
            shard.deliver(m.SessionEnded(f"w{a}", "silent"), request=0)
        elif step == "reopen":
            shard.held.clear()
            shard.sent.clear()
            shard.reopen()
        elif step == "hold_reads":
            shard.hold_reads = True
        elif step == "answer_reads":
            shard.hold_reads = False
            self.late_bodies(lambda: shard.answer_reads(a))
        elif step == "answer_one" and shard.held:
            self.late_bodies(lambda: shard.deliver(shard.held.pop(a % len(shard.held)), sender="shard.0", request=0))

    def late_bodies(self, act: object) -> None:
        before = len(self.shard.sent)
        act()  # type: ignore[operator]
        for envelope in self.shard.sent[before:]:
            if isinstance(envelope.message, m.RunTasks):
                for body in envelope.message.bodies:
                    self.note_running(body, envelope.to.removeprefix("session."))

    def note_running(self, body: m.Body, session: str) -> None:
        assert self.due_ms[body.id] <= self.shard.now_ms, "started early"
        self.running[body.id] = (body, session)

    def finish(self) -> None:
        """Faults are over: everything must come to an end."""
        shard = self.shard
        shard.hold_reads = False
        self.late_bodies(shard.answer_reads)
        for _ in range(3):
            for number in range(3):
                shard.deliver(m.SessionEnded(f"w{number}", "silent"), request=0)
        for _ in range(2_000):
            states = shard.states()
            if not any(states.get(label) for label in ("scheduled", "queued", "retrying", "running")):
                break
            offered = shard.offered()
            for body in shard.lease(*offered, session="last") if offered else []:
                self.note_running(body, "last")
                shard.report(body, session="last")
            if not offered:
                shard.advance_ms(1_000)
        else:
            raise AssertionError(f"stuck: {shard.states()}")


@settings(max_examples=250, deadline=None)
@given(steps=STEPS)
def test_random_histories_lose_nothing_and_balance(steps: list[tuple[str, int, int]]) -> None:
    player = Player()
    for step in steps:
        player.play(*step)
    player.shard.hold_reads = False
    player.late_bodies(player.shard.answer_reads)
    player.shard.assert_balanced()
    player.finish()
    player.shard.assert_balanced()
    stored = {row[0] for row in player.shard.connection.execute("select id from tasks")}
    assert stored <= set(player.due_ms)
    assert len(stored) + player.shard.purged() == len(player.due_ms)
    assert player.shard.actor._table.tasks == {}
    assert player.shard.actor._waiting._backlog.count == 0
