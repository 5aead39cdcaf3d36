"""What the gateways of several nodes let in adds up, and says when it cannot be complete."""

from __future__ import annotations

from foliot.actors.messages import LedgerEntry
from foliot.actors.node_messages import EdgeEntry, EdgeReport, EdgesLeft, PeerRead
from foliot.actors.wire import decode, encode
from foliot.transports.balance import balance
from foliot.transports.peers import Edges, merged

KEY = ("acme", "default")


def report(boot: str, base: int, accepted: int, unsettled: int = 0, *, knows: tuple[str, ...] = ()) -> EdgeReport:
    entry = EdgeEntry(*KEY, base_accepted=base, accepted=accepted, unsettled=unsettled)
    return EdgeReport(boot, 1, True, [entry], list(knows))


def differences(edges: Edges, accepted: int) -> list[str]:
    ledger = [LedgerEntry(*KEY, accepted=accepted, completed=accepted)]
    verified = balance(
        ledger, ledger, baseline=edges.baseline, before=edges.snapshot, after=edges.snapshot, since_ms=edges.since_ms
    )
    return [difference.text for difference in verified.differences]


def test_gateways_that_began_one_after_the_other_balance_together() -> None:
    # 10 tasks were there; the first let in 5, then the second began and both let in more.
    edges = merged([report("1", 10, 12, knows=("2",)), report("2", 15, 8, knows=("1",))])

    assert edges.snapshot.edge == {KEY: (20, 0)}
    assert differences(edges, 30) == []
    assert differences(edges, 29) == ["acme/default: the edge promised 20 tasks, the store has accepted 19: 1 are missing"]
    assert differences(edges, 31) == [
        "acme/default: the store has accepted 21 tasks, the edge let in 20 and 0 have no known outcome: 1 came from nowhere"
    ]


def test_what_a_killed_gateway_let_in_is_not_called_from_nowhere_but_nothing_promised_may_be_missing() -> None:
    edges = merged([report("1", 10, 12, knows=("2",))])

    assert not edges.snapshot.is_whole
    assert differences(edges, 30) == []
    assert len(differences(edges, 21)) == 1


def test_what_a_gateway_left_behind_counts_on() -> None:
    edges = merged([report("1", 10, 12, knows=("2",)), report("2", 15, 8, knows=("1",))])

    assert edges.snapshot.is_whole
    assert edges.boots == ("1", "2")


def test_a_gateway_that_has_not_begun_changes_nothing() -> None:
    edges = merged([report("1", 10, 12, knows=("2",)), EdgeReport("2", 9, False, knows=["1"])])

    assert edges.snapshot.is_whole
    assert edges.since_ms == 1
    assert differences(edges, 22) == []


def test_unanswered_submissions_at_any_gateway_widen_the_bound() -> None:
    edges = merged([report("1", 0, 5, 2), report("2", 0, 5, 1)])

    assert differences(edges, 13) == []
    assert len(differences(edges, 14)) == 1


def test_nodes_answers_can_travel() -> None:
    read = PeerRead("n1", "b", "host", 1, "0.1.0", 64, 1, 2, hosted={3: 7}, addresses={"queue": ["queue.a.b"]}, reports=[
        report("1", 10, 12)
    ])  # fmt: skip
    for message in (read, EdgesLeft([report("1", 0, 1)])):
        assert decode(encode(message)) == message
