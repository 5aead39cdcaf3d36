"""Real chaos: a cluster of processes under traffic, whose parts are killed, held still and restarted by a seeded schedule.

    python -m foliot.tests.chaos.run --minutes 2 --seed 7 --repeat 10

Three nodes, three NATS servers as a cluster, PostgreSQL and four workers. After the last fault everything is brought up, the
traffic ends, and when nothing is left to do the balance is drawn: what was acknowledged, by the product's books, by what the
handlers themselves wrote and by what events told. One JSON line for each run, and one for all of several; ends with 1 if
anything was lost, happened twice or is wrong.
Only what was started here is ever hit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

import structlog
import uvloop
from foliot import Client
from foliot.runtime.errors import FoliotError, UnavailableError
from foliot.runtime.rng import Rng
from foliot.sdk.cluster.local import whole
from foliot.sdk.errors import NotIdleError

from .balance import Seen, Told, judge, look, read
from .faults import KINDS, Storm
from .listener import Listener
from .place import SLOTS, Place, now_ns, reachable
from .traffic import Traffic
from .witness import read_witness

_IDLE_S: Final = 180
_SHOWN: Final = 10
_SUMS: Final = ("lost", "duplicates", "tasks", "one_way", "events", "untold")


class Options(argparse.Namespace):
    minutes: float
    seed: int | None
    repeat: int
    rate: int
    kinds: str
    dir: str
    quiet: bool
    keep: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Mistreat a real cluster, then demand the balance.")
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults at least, for each run, which has every kind")
    parser.add_argument("--seed", type=int, help="of the schedule of faults and of the traffic; each further run adds one")
    parser.add_argument("--repeat", type=int, default=1, help="runs, each on a new cluster")
    parser.add_argument("--rate", type=int, default=150, help="plain tasks a second; others come in addition")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of faults, separated by commas")
    parser.add_argument("--dir", default=None, help="where the files of the cluster lie; by default the system's place")
    parser.add_argument("--keep", action="store_true", help="keep the files even when all went well")
    parser.add_argument("--quiet", action="store_true", help="nothing but the JSON lines")
    options = parser.parse_args(arguments, namespace=Options())
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    unknown = set(options.kinds.split(",")) - set(KINDS)
    if unknown:
        parser.error(f"there are no faults {', '.join(sorted(unknown))}, expected some of {', '.join(KINDS)}")
    seed = Rng.of_the_system().below(1 << 32) if options.seed is None else options.seed
    runs: list[dict[str, Any]] = []
    for number in range(options.repeat):
        runs.append(uvloop.run(_interruptible(options, seed + number)))
        print(json.dumps(runs[-1]), flush=True)
    if options.repeat > 1:
        print(json.dumps(_of_all(runs)), flush=True)
    return 1 if any(_is_bad(found) for found in runs) else 0


def _is_bad(found: dict[str, Any]) -> bool:
    return bool(found["lost"] or found["duplicates"] or found["wrong"])


def _of_all(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the runs came to; recoveries as their median and the longest."""
    took_s: dict[str, list[float]] = {}
    for found in runs:
        for kind, each in found["recovery_s"].items():
            took_s.setdefault(kind, []).extend(each)
    sums = {name: sum(found[name] for found in runs) for name in _SUMS}
    recovery_s = {kind: [round(median(each), 2), max(each)] for kind, each in sorted(took_s.items())}
    return {"runs": len(runs), "failed": sum(map(_is_bad, runs)), **sums, "recovery_s": recovery_s}


async def _interruptible(options: Options, seed: int) -> dict[str, Any]:
    own = asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)  # ends in order, as with Ctrl-C
    folder = reachable(Path(tempfile.mkdtemp(prefix="foliot-chaos-", dir=options.dir)))
    is_good = False
    try:
        found = await _Run(options, seed, folder).run()
        is_good = not _is_bad(found)
        return found if is_good else found | {"files": str(folder)}
    finally:
        if is_good and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"seed {seed}: files are kept in {folder}", file=sys.stderr)


class _Run:
    """One cluster, one storm, one balance."""

    def __init__(self, options: Options, seed: int, folder: Path) -> None:
        self._options = options
        self._seed = seed
        self._folder = folder
        self._started_s = time.monotonic()
        self._outcomes: dict[str, set[tuple[Any, ...]]] = {}

    def _say(self, text: str) -> None:
        if not self._options.quiet:
            print(f"[{self._seed} {time.monotonic() - self._started_s:6.1f} s] {text}", file=sys.stderr, flush=True)

    async def run(self) -> dict[str, Any]:
        options, rng = self._options, Rng(self._seed)
        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(Place(self._folder))
            client = await stack.enter_async_context(Client(place.address, connect_timeout=60))
            await whole(client, SLOTS)
            listener = await stack.enter_async_context(Listener(client))
            self._say("three nodes, three brokers, a database and four workers are up")
            traffic = Traffic(client, rng.stream("traffic"), rate=options.rate)
            storm = Storm(place, client, rng.stream("storm"), kinds=options.kinds.split(","), say=self._say)
            await traffic.begin_schedules()
            submitting = asyncio.create_task(traffic.run())
            raging = asyncio.create_task(storm.rage(now_ns() + round(options.minutes * 60e9), lambda: self._look(client)))
            stuck = ""
            try:
                await asyncio.wait([submitting, raging], return_when=asyncio.FIRST_COMPLETED)
                try:
                    await raging
                except TimeoutError:
                    stuck = "traffic did not flow again in time"
                    self._say(stuck)
                await place.all_up()
                traffic.stop()
                await asyncio.wait_for(submitting, _IDLE_S)
            finally:
                submitting.cancel()
                raging.cancel()
            stuck = await self._idle(client, traffic) or stuck
            kept = await listener.again()
            await listener.has_heard(kept)
            stuck = stuck or listener.trouble
            told = Told(listener.ends, kept, [at_ns for node in place.nodes for at_ns in node.silences_ns])
            seen = await read(client, self._outcomes)
            return self._result(place, traffic, storm, listener, seen, told, stuck)

    async def _look(self, client: Client) -> None:
        with suppress(UnavailableError):  # else the next time
            await look(client, self._outcomes)

    async def _idle(self, client: Client, traffic: Traffic) -> str:
        """Wait until nothing is left to do. Returns: what stands in the way."""
        self._say(f"healed; {len(traffic.book.owed)} tasks were acknowledged")
        async with asyncio.timeout(2 * _IDLE_S):
            while True:
                try:
                    await whole(client, SLOTS)
                    await traffic.end_schedules()
                    await client.wait_until_idle(_IDLE_S)
                except NotIdleError as error:
                    return str(error)
                except FoliotError as error:
                    self._say(f"not yet idle: {error}")
                    await asyncio.sleep(1)
                else:
                    return ""

    def _result(
        self, place: Place, traffic: Traffic, storm: Storm, listener: Listener, seen: Seen, told: Told, stuck: str
    ) -> dict[str, Any]:
        book, witness = traffic.book, read_witness(place.witness)
        verdict = judge(book, witness, seen, told)
        requeued = [took for pid, at_ns in storm.killed_workers for took in witness.requeue_s(pid, at_ns)]
        wrong = [*([stuck] if stuck else []), *verdict.wrong]
        for text in (*wrong, *place.alone):
            self._say(text)
        return {
            "lost": verdict.lost,
            "duplicates": verdict.duplicates,
            "recovery_s": dict(sorted(storm.recovery_s.items())),
            "requeue_s": round(max(requeued, default=0.0), 2),
            "requeued": len(requeued),
            "seed": self._seed,
            "tasks": len(book.owed),
            "one_way": len(book.handed),
            "ticks": len(witness.ticks),
            "events": listener.events,
            "missed": listener.missed,
            "untold": verdict.untold,
            "kinds": dict(sorted(book.kinds.items())),
            "faults": dict(sorted(storm.faults.items())),
            "unanswered": dict(sorted(book.unanswered.items())),
            "odd": book.odd[:_SHOWN],
            "balanced": seen.balanced,
            "wrong": wrong,
            "ended_alone": place.alone,
            "took_s": round(time.monotonic() - self._started_s),
        }


if __name__ == "__main__":
    sys.exit(main())
