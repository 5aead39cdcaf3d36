"""A campaign: many seeds, in processes of their own, in order of the seeds.

A child process plans and runs one seed after the other and is replaced after `recycle` of them, so that nothing that a
run leaves behind can grow. Whatever happens to a seed is said of that seed: a run that raises, hangs or takes its
process along is a violation (`run:…`), and so is one that comes to another digest in a process with another hash seed
and another allocator (`determinism:digest`). What is run does not depend on how many children there are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock, Timer
from typing import IO, Final

import msgspec

from ..runtime.errors import UsageError
from ..runtime.hashing import fnv1a
from .history import Violation
from .safe_run import RAN

RUN: Final = "foliot.simulations.run:run"
PLAN: Final = "foliot.simulations.plan:plan"
DETERMINISM: Final = "determinism"
_AHEAD: Final = 32  # seeds a child may be ahead of the slowest
_LAST_WORDS: Final = 600
_START_LIMIT_S: Final = 120.0


class Plan(msgspec.Struct, frozen=True):
    """How seeds are run. `profile`: empty for the one each seed draws. `check_percent`: of the seeds are run twice.
    `recycle`: seeds of a child. `limit_s`: a run that takes longer hangs. `run`, `plan`: module:function."""

    profile: str = ""
    jobs: int = 2
    check_percent: int = 0
    recycle: int = 200
    limit_s: float = 300.0
    run: str = RUN
    plan: str = PLAN


class Outcome(msgspec.Struct, frozen=True):
    """What became of a seed. `case`: encoded, if there are violations and it could be planned."""

    seed: int
    profile: str
    digest: str = ""
    virtual_ms: int = 0
    steps: int = 0
    tasks: int = 0
    faults: int = 0
    violations: list[Violation] = []
    figures: dict[str, int] = {}
    case: str = ""

    @property
    def identity(self) -> str:
        """The identity of the first violation, empty if there is none."""
        return self.violations[0].identity if self.violations else ""


class CampaignError(UsageError):
    """A child process does not even start, so no seed can be run."""

    code = "campaign"

    def __init__(self, run: str, plan: str, text: str) -> None:
        super().__init__(f"a process that runs {run} of {plan} does not start: {text or 'it said nothing'}")
        self.run = run
        self.plan = plan


def campaign(plan: Plan, seeds: Iterable[int], stop: Callable[[], bool] = lambda: False) -> Generator[Outcome]:
    """Yield the outcome of each seed, in their order. No further seed is begun once `stop` says so.

    Close the generator to end early: the children are ended with it. Raises: CampaignError.
    """
    left = iter(seeds)
    waiting: deque[Future[Outcome | None]] = deque()
    crew = _Crew(plan)
    pool = ThreadPoolExecutor(plan.jobs, thread_name_prefix="campaign")
    try:
        while True:
            while len(waiting) < plan.jobs * _AHEAD and not stop() and (seed := next(left, None)) is not None:
                waiting.append(pool.submit(lambda seed: None if stop() else crew.outcome(seed), seed))
            if not waiting:
                return
            outcome = waiting.popleft().result()
            if outcome is not None:
                yield outcome
    finally:
        crew.end()
        pool.shutdown(cancel_futures=True)


class _Crew:
    """The children of a campaign: some that take seeds in turn, and one of its own for each second run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: list[_Child] = []
        self._all: list[_Child] = []
        self._lock = Lock()
        self._is_ended = False

    def outcome(self, seed: int) -> Outcome:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is None:
            child = self._hire({})
        try:
            outcome = child.ask(seed)
        finally:
            with self._lock:
                self._idle.append(child)
        if fnv1a(b"check %d" % seed) % 100 < self._plan.check_percent and outcome.digest:
            outcome = self._checked(outcome)
        return outcome if outcome.violations else msgspec.structs.replace(outcome, case="")

    def end(self) -> None:
        with self._lock:
            self._is_ended = True
            children = list(self._all)
        for child in children:
            child.end()

    def _hire(self, environment: dict[str, str]) -> _Child:
        child = _Child(self._plan, environment)
        with self._lock:
            if self._is_ended:
                child.end()
            self._all.append(child)
        return child

    def _checked(self, first: Outcome) -> Outcome:
        """Run the seed again where hashes and addresses differ, and compare."""
        hash_seed = str(1 + fnv1a(b"hash %d" % first.seed) % 4_000_000_000)
        child = self._hire({"PYTHONHASHSEED": hash_seed, "PYTHONMALLOC": "malloc"})
        try:
            second = child.ask(first.seed)
        finally:
            child.end()
            with self._lock:
                self._all.remove(child)
        if (first.digest, first.steps) == (second.digest, second.steps):
            return first
        text = (
            f"the digest is {first.digest} after {first.steps} steps, and in another process {second.digest or 'none'} "
            f"after {second.steps}, with PYTHONHASHSEED={hash_seed} PYTHONMALLOC=malloc"
        )
        differs = Violation(oracle=DETERMINISM, kind="digest", at_ns=0, subject="", text=text)
        return msgspec.structs.replace(first, violations=[differs, *first.violations])


class _Child:
    """A process that runs one seed at a time; started when it is first asked, and again after `recycle` seeds."""

    def __init__(self, plan: Plan, environment: dict[str, str]) -> None:
        self._plan = plan
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._said_before = 0
        self._asked = 0
        self._is_ended = False
        self._lock = Lock()

    def ask(self, seed: int) -> Outcome:
        """Return what became of the seed, the end of the process included."""
        if self._process is None or self._asked >= self._plan.recycle:
            self._stop()
            self._start()
        self._asked += 1
        self._said_before = self._said.seek(0, os.SEEK_END) if self._said is not None else 0
        (case, line), is_late = self._answer(b"%d\n" % seed, lines=2, limit_s=self._plan.limit_s)
        planned = msgspec.json.decode(case, type=str) if case else ""
        if line:
            return msgspec.structs.replace(msgspec.json.decode(line, type=Outcome), case=planned)
        code = self._process.wait() if self._process is not None else 0
        text = f"the run does not end within {self._plan.limit_s:g} s" if is_late else f"its process ended with code {code}"
        text = " ".join(f"{text}: {self._last_words()}".split()).rstrip(": ")
        self._stop()
        broken = Violation(oracle=RAN, kind="hang" if is_late else "died", at_ns=0, subject="", text=text)
        return Outcome(seed=seed, profile=self._plan.profile, violations=[broken], case=planned)

    def end(self) -> None:
        """End the process, from any thread; who waits for an answer gets none."""
        with self._lock:
            self._is_ended = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (`_stop` closes it)
        command = [sys.executable, "-P", "-m", "foliot.simulations.campaign_child"]
        command += [self._plan.run, self._plan.plan, self._plan.profile]
        with self._lock:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=self._environment
            )
            if self._is_ended:
                self._process.kill()
        self._asked = self._said_before = 0
        (ready,), _ = self._answer(b"", lines=1, limit_s=_START_LIMIT_S)
        if not ready:
            words = self._last_words()
            self._stop()
            if not self._is_ended:
                raise CampaignError(self._plan.run, self._plan.plan, words)

    def _answer(self, request: bytes, *, lines: int, limit_s: float) -> tuple[list[bytes], bool]:
        """Return the lines the child answers with, those empty that it did not write before its end, and whether it was
        ended for taking too long."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return [b""] * lines, False
        late = Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = Timer(limit_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return [process.stdout.readline() for _ in range(lines)], late.is_set()
        except BrokenPipeError:
            return [b""] * lines, late.is_set()
        finally:
            timer.cancel()

    def _last_words(self) -> str:
        """Return the end of what the child wrote since it was asked: the product's output, a fatal error's traceback."""
        if self._said is None:
            return ""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(size - _LAST_WORDS, self._said_before))
        return " ".join(self._said.read().decode(errors="replace").split())

    def _stop(self) -> None:
        process, said, self._process, self._said = self._process, self._said, None, None
        if process is not None:
            process.kill()
            process.communicate()
        if said is not None:
            said.close()
