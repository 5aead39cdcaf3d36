"""A census of Python's standard library, as a job of one task per module.

    make demo                       all of it, well under a minute
    make demo ARGS="--sample 50"    fifty files, a few seconds
    make demo CLUSTER=1             the same on a cluster: a broker, a database, two nodes and two workers, each a process

The scheduler, its workers and this program share one process and one database file, or else a whole cluster of processes
does the work; all of it is thrown away in the end. Some tasks are made to go wrong, each in another way; the program checks
that everything came out as it had to, and exits with 1 if anything did not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from app import app, appointment, count_module, hang, watch_for_changes  # type: ignore[import-not-found]
from foliot import Client, Scheduler, Task, TaskInfo
from foliot.sdk.cluster.local import LocalCluster, LocalOptions

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TENANTS = ("modules", "packages")
APPOINTMENTS = 20


class Checks:
    """What had to be, and whether it was."""

    def __init__(self) -> None:
        self.failed = 0

    def equal(self, what: str, found: object, expected: object) -> None:
        if found == expected:
            print(f"  ok      {what}: {found}")
        else:
            print(f"  FAILED  {what}: {found}, expected {expected}")
            self.failed += 1


# -- what there is to count ------------------------------------------------------------------------------------------------


def modules_of_the_library(sample: int | None) -> list[Path]:
    """Return the library's source files, sorted; or `sample` of them, evenly spread."""
    files = sorted(
        file for file in LIBRARY.rglob("*.py") if not {"site-packages", "dist-packages"} & {*file.parts} and file.is_file()
    )
    if sample is None or sample >= len(files):
        return files
    return [files[len(files) * number // sample] for number in range(sample)]


def tenant_of(file: Path) -> str:
    """Single modules belong to one tenant, what is inside a package to the other."""
    return "modules" if file.parent == LIBRARY else "packages"


def priority_of(file: Path) -> str:
    """Large files first, so that nobody waits for the last one in the end."""
    size = file.stat().st_size
    return "high" if size > 64_000 else "normal" if size > 8_000 else "low"


def name_of(path: str) -> str:
    file = Path(path)
    return str(file.relative_to(LIBRARY)) if file.is_relative_to(LIBRARY) else file.name


def is_python(path: str) -> bool:
    try:
        compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


# -- the job -------------------------------------------------------------------------------------------------------------


async def submit_files(client: Client, files: Sequence[Path], busy: Sequence[Path]) -> list[int]:
    """Submit a task for each file, in bulk, and return their ids in the order of the files."""
    specs = (
        client.spec(count_module, str(file), busy_attempts=2 if file in busy else 0, priority=priority_of(file))
        for file in files
    )
    return (await client.submit_many(specs, ids=True)).ids


async def submit_appointments(client: Client) -> list[int]:
    """Submit tasks that are due two to four seconds from now."""
    specs = [client.spec(appointment, number, delay=2 + number * 0.1) for number in range(APPOINTMENTS)]
    return (await client.submit_many(specs, ids=True)).ids


async def cancel_while_it_runs(client: Client) -> Task[None]:
    """Start a task without an end, wait until it has told its progress, and cancel it."""
    task = await client.submit(watch_for_changes)
    while True:
        info = await task.info()
        if info.progress is not None:
            await task.cancel("seen enough")
            return task
        await asyncio.sleep(0.05)


async def wait_for_all(client: Client) -> None:
    """Wait until nothing waits or runs any more; on a terminal, say how much is left."""
    idle = asyncio.create_task(client.wait_until_idle(all_tenants=True))
    while not (await asyncio.wait([idle], timeout=0.5))[0]:
        left = sum(tally.waiting + tally.running for tally in (await client.stats()).tallies)
        if sys.stdout.isatty():
            print(f"\r{left:6} tasks left ", end="", flush=True)
    if sys.stdout.isatty():
        print("\r" + " " * 30, end="\r")
    await idle


async def dead_letters(clients: Sequence[Client]) -> list[TaskInfo]:
    """Return all dead letters with all there is to know of them, sorted by file."""
    found = [await client.get(info.id) for client in clients async for info in client.list(states=["dead"])]
    return sorted(found, key=lambda info: (info.handler, str(info.payload)))


def process_is_gone(log: str) -> bool:
    """Tell whether the process that `hang` printed the number of is no more, or will be in a moment."""
    number = int(log.split()[1])
    for _ in range(50):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


async def census(clients: Sequence[Client], files: list[Path], folder: Path, checks: Checks) -> None:
    modules, packages = clients
    by_tenant = {tenant: [file for file in files if tenant_of(file) == tenant] for tenant in TENANTS}
    busy = files[:: max(len(files) // 3, 1)][:3]  # in use at the first two attempts
    target = folder / "correct.py"
    target.write_text("def answer():\n    return 42\n")
    (folder / "broken.py").write_text("def answer(:\n    return 42\n")

    started = time.perf_counter()
    ids = {client.tenant: await submit_files(client, by_tenant[client.tenant], busy) for client in clients}
    submitted = time.perf_counter() - started
    await modules.submit(count_module, str(folder / "broken.py"))  # is no Python: not tried again
    misspelt = await modules.submit(count_module, str(folder / "corect.py"))  # is not there: three attempts
    appointments = await submit_appointments(packages)
    hanging = await packages.submit(hang, priority="high")
    watching = await cancel_while_it_runs(modules)
    await wait_for_all(modules)
    elapsed = time.perf_counter() - started

    infos = [info for client in clients for info in await client.get_many(ids[client.tenant])]
    counted = [info for info in infos if info.state == "completed"]
    report(counted)

    letters = await dead_letters(clients)
    print_letters(letters)
    outcome = await modules.retry(misspelt, payload={"path": str(target)})
    corrected = await misspelt.result(timeout="30s")
    print(f"  retried corect.py as correct.py: {outcome}, {corrected.functions} function in {corrected.lines} lines\n")

    lateness = [late_ms(info) for info in await packages.get_many(appointments)]
    print_speed(len(counted), submitted, elapsed, lateness)

    # What the census found is counted again without it, as far as that is cheap.
    broken = [info for info in infos if info.state == "dead"]
    good = [Path(info.payload["path"]) for info in counted]
    print("checks")
    checks.equal("files counted or found broken", len(counted) + len(broken), len(files))
    checks.equal("broken files that are Python after all", [b.id for b in broken if is_python(b.payload["path"])], [])
    checks.equal("lines", total("lines", counted), sum(f.read_bytes().count(b"\n") for f in good))
    in_use = [info for info in counted if info.payload["busy_attempts"]]
    checks.equal("files that were in use, counted at last", sum(info.attempt > 2 for info in in_use), len(busy))
    checks.equal("dead letters of the census's own making", len(letters) - len(broken), 3)
    checks.equal("the misspelt one, retried", (await misspelt.info()).state, "completed")
    checks.equal("the endless one, cancelled", await watching.status(), "cancelled")
    checks.equal("the hanging one", [a.outcome for a in (await hanging.info()).attempts], ["timed_out"])
    checks.equal("its process is gone", process_is_gone(await hanging.logs()), True)
    checks.equal("appointments kept", len(lateness), APPOINTMENTS)
    checks.equal("appointments early", sum(late < 0 for late in lateness), 0)
    await check_ledger(modules, checks)


def late_ms(info: TaskInfo) -> float:
    assert info.started_at is not None, f"task {info.id} is {info.state}"
    assert info.due_at is not None
    return (info.started_at - info.due_at).total_seconds() * 1000


async def check_ledger(client: Client, checks: Checks) -> None:
    """Compare what was accepted with what became of it: counted at the edge, in the store and by the workers."""
    ledger = await client.verify()
    counts: Counter[str] = Counter()
    for line in ledger.lines:
        for word in ("accepted", "completed", "failed", "dead", "cancelled", "expired", "waiting", "running"):
            counts[word] += getattr(line, word)
    print("\nledger: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    for difference in ledger.differences:
        print(f"  {difference.text}")
    checks.equal("the ledger balances", ledger.balanced, True)


# -- the report ------------------------------------------------------------------------------------------------------------


def report(counted: Sequence[TaskInfo]) -> None:
    """Print what the library consists of."""
    packages: dict[str, list[TaskInfo]] = {}
    for info in counted:
        packages.setdefault(Path(name_of(info.payload["path"])).parts[0], []).append(info)
    largest = sorted(packages.items(), key=lambda item: (-total("lines", item[1]), item[0]))[:8]

    print(f"{'':22}{'files':>8}{'lines':>10}{'functions':>11}{'classes':>9}")
    for name, infos in [("the whole library", counted), *largest]:
        print(f"{name:22}{len(infos):8}{total('lines', infos):10}", end="")
        print(f"{total('functions', infos):11}{total('classes', infos):9}")

    print("\nthe longest functions")
    for info in sorted(counted, key=lambda info: (-info.result["longest_lines"], info.payload["path"]))[:5]:
        print(f"  {info.result['longest_lines']:6} lines  {info.result['longest']}, {name_of(info.payload['path'])}")
    print()


def total(what: str, infos: Sequence[TaskInfo]) -> int:
    return sum(info.result[what] for info in infos)


def print_letters(letters: Sequence[TaskInfo]) -> None:
    print("dead letters")
    for info in letters:
        what = name_of(info.payload["path"]) if "path" in info.payload else info.handler
        times = {1: "once", 3: "3 times"}[len(info.attempts)]
        assert info.error is not None
        print(f"  {what:42}tried {times:9}{info.error.type}: {info.error.message:.60}")


def print_speed(files: int, submitted: float, elapsed: float, lateness: Sequence[float]) -> None:
    print("speed")
    print(f"  {files} files submitted in {submitted:.2f} s, all done after {elapsed:.1f} s: {files / elapsed:.0f} files/s")
    print(f"  {len(lateness)} appointments, late by {statistics.median(lateness):.0f} ms in the median,", end="")
    print(f" {max(lateness):.0f} ms at most\n")


# -- who does it -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def one_process(folder: str) -> AsyncIterator[Callable[[str], Client]]:
    """A scheduler and its workers in this process, on a file. Yields what makes a client for a tenant."""
    async with Scheduler(app, database=f"{folder}/census.db") as scheduler:
        yield lambda tenant: scheduler.client(tenant=tenant)


@asynccontextmanager
async def a_cluster(folder: str) -> AsyncIterator[Callable[[str], Client]]:
    """Two nodes, two workers, a NATS server and a PostgreSQL server, each a process of its own."""
    processes = max((os.cpu_count() or 1) // 2, 1)  # for each of the two workers
    options = LocalOptions(
        nodes=2, workers=2, env={"PYTHONPATH": str(Path(__file__).parent)},
        worker_arguments=["--app", "app:app", "--processes", str(processes)], log=f"{folder}/cluster.log",
    )  # fmt: skip
    async with LocalCluster(options) as cluster:
        yield lambda tenant: Client(cluster.address, tenant=tenant, connect_timeout="30s")


async def main() -> int:
    parser = argparse.ArgumentParser(description="Count Python's standard library.")
    parser.add_argument("--sample", type=int, help="count only so many files")
    parser.add_argument("--cluster", action="store_true", help="on a cluster of processes instead of in this one")
    options = parser.parse_args()
    files = modules_of_the_library(options.sample)
    checks = Checks()
    print(f"a census of the standard library: {len(files)} files in {LIBRARY}, on {os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory(prefix="foliot-census-") as folder:
        async with AsyncExitStack() as stack:
            client_of = await stack.enter_async_context(a_cluster(folder) if options.cluster else one_process(folder))
            clients = [await stack.enter_async_context(client_of(tenant)) for tenant in TENANTS]
            await census(clients, files, Path(folder), checks)
    print(f"\n{checks.failed} checks failed" if checks.failed else "\nall as expected")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
