"""All actors over a network that loses, repeats and reorders, while shards move and actors forget.

Checked after each commit: no more runs than the limits allow. At the end the network is well again: everything must come
to its end within the time that repairs may take, and then all must be silent and forgotten.
"""

from __future__ import annotations

import pytest

from .harness_cluster import QUEUE, Cluster


def play(seed: int, *, moves: bool) -> Cluster:
    limit, tenant_limit = [(3, 0), (0, 4), (5, 3), (0, 0)][seed % 4]
    cluster = Cluster(seed, loss=[0.05, 0.3][seed // 4 % 2], repeats=0.1, tail=0.1,
                      concurrency=limit, tenant_concurrency=tenant_limit)  # fmt: skip
    bound = min((bound for bound in (limit, tenant_limit) if bound), default=10_000)
    random = cluster.random
    for number in range(3):
        cluster.start_session(f"w{number}", 2)
    for _ in range(40):
        what = random.choice("ssstttmqwv")
        if what == "s":
            cluster.submit(random.randrange(cluster.shards), random.randint(1, 4))
        elif what == "m" and moves:
            cluster.start_shard(random.randrange(cluster.shards))
        elif what == "q":
            cluster.forget(QUEUE)
        elif what == "w" and cluster.sessions:
            cluster.forget(f"worker.{random.choice(sorted(cluster.sessions))}")
        elif what == "v":
            name = random.choice(sorted(cluster.sessions))
            del cluster.sessions[name]
            cluster.start_session(f"{name}n", 2)
        cluster.run_ms(random.choice([1, 10, 500, 3_000, 12_000]))
        if not (moves and tenant_limit):  # a tenant actor that began anew goes by reports of what runs, which are not exact
            assert cluster.most_running <= bound
    cluster.loss = cluster.repeats = cluster.tail = 0.0
    return cluster


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("moves", [False, True], ids=["lossy", "moving"])
def test_limits_hold_and_nothing_is_lost_whatever_the_network_does(seed: int, moves: bool) -> None:
    cluster = play(seed, moves=moves)
    cluster.run_ms(180_000)
    assert cluster.unfinished() == 0
    book = cluster.actor(QUEUE)._book
    assert (book.known, dict(book.grants), book.running) == ({}, {}, 0)
    cluster.sessions.clear()
    cluster.run_ms(120_000)
    cluster.sent.clear()
    cluster.run_ms(600_000)
    assert cluster.sent == []  # idle is silent
