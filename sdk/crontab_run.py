"""`foliot crontab run`: a scheduler whose schedules are the lines of crontabs, as long as it runs.

The files are the truth: what is not in them any more has no schedule any more. They are looked at now and then, as cron
does, and a change is taken over without a restart. A file that cannot be read leaves everything as it is.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from ..runtime.errors import FoliotError
from ..transports.local import default_socket
from .app import Foliot
from .client import Client
from .client_spec import Options
from .crontab_plan import Account, Job, Plan, PlanOptions, own_account, plan_of
from .handler import Handler
from .logs import configure_logging
from .schedule_words import Draft
from .scheduler import Scheduler, SchedulerOptions
from .shell import SHELL
from .up import serve

log = structlog.get_logger("foliot")

PREFIX: Final = "crontab."  # of the names of all schedules that come from crontabs
_LOOK_S: Final = 10  # between two looks at the files
_CHUNK: Final = 500


def drafts_of(client: Client, handler: Handler[..., Any] | str, jobs: Sequence[Job]) -> list[Draft]:
    """Return the schedules of jobs, by position. Raises: UsageError."""
    make = client.schedules.draft
    return [make(job.name, handler, arguments=dict(job.arguments), **job.words) for job in jobs]


class Crontabs:
    """Keeps the schedules of a scheduler as the crontabs say. `read`: returns what they say now."""

    def __init__(self, client: Client, handler: Handler[..., Any], paths: Sequence[str], read: Callable[[], Plan]) -> None:
        self._client = client
        self._handler = handler
        self._paths = list(paths)
        self._read = read
        self._seen: list[tuple[int, ...]] = []

    async def begin(self, plan: Plan) -> None:
        """Take over what was read, and run what is to run once at the start."""
        await self._take(plan)
        for job in plan.reboots:
            options = Options(max_attempts=job.words["max_attempts"], timeout=job.words["timeout"])
            task = await self._client.submit_with(self._handler, dict(job.arguments), options)
            log.info("crontab_started", task=task.id, path=job.path, line=job.line, command=job.command)

    async def look(self) -> bool:
        """Read the files again if one of them changed. Returns: whether anything was taken over."""
        if self._marks() == self._seen:
            return False
        seen = self._marks()
        try:
            await self._take(self._read())
        except FoliotError as error:
            log.warning("crontab_not_read", error=str(error), advice="everything goes on as it was")
            self._seen = seen
            return False
        return True

    async def _take(self, plan: Plan) -> None:
        self._seen = self._marks()
        for each in plan.problems:
            self._warn(each.path, each.problem.line, each.problem.reason, each.problem.text)
        result = await self._client.schedules.put_many(drafts_of(self._client, self._handler, plan.jobs))
        for refusal in result.refused:
            job = plan.jobs[refusal.position]
            self._warn(job.path, job.line, refusal.text, job.command)
        gone = await self._forget({job.name for job in plan.jobs})
        log.info(
            "crontab_taken", paths=self._paths, schedules=len(plan.jobs), created=result.created, changed=result.replaced,
            deleted=gone, at_start=len(plan.reboots), not_honoured=len(plan.problems) + result.refused_count,
        )  # fmt: skip

    def _warn(self, path: str, line: int, reason: str, text: str) -> None:
        log.warning("crontab_line_not_honoured", path=path, line=line, reason=reason, text=text)

    async def _forget(self, names: set[str]) -> int:
        """Delete the schedules of lines that are no longer there."""
        gone = [info.name async for info in self._client.schedules.list(prefix=PREFIX) if info.name not in names]
        for start in range(0, len(gone), _CHUNK):
            await self._client.schedules.delete(gone[start : start + _CHUNK])
        return len(gone)

    def _marks(self) -> list[tuple[int, ...]]:
        """Return what tells whether a file is still the one that was read."""
        marks: list[tuple[int, ...]] = []
        for path in self._paths:
            try:
                found = os.stat(path)
            except OSError:
                marks.append(())
            else:
                marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
        return marks


@dataclass(frozen=True)
class CrontabRun:
    """What to run, and where. `socket`: by default beside the database."""

    paths: tuple[str, ...]
    database: str
    options: PlanOptions
    socket: str | None = None
    commands: int = 32
    strict: bool = False
    log_json: bool = False


async def run_crontabs(run: CrontabRun, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve the crontabs until SIGTERM or SIGINT, then drain.

    Raises: CrontabFileError, SameNamesError, UnhonouredError if lines must be honoured and cannot; as `run_up`.
    """
    account = own_account()

    def read() -> Plan:
        plan = plan_of(run.paths, run.options, account)
        if run.strict:
            plan.check_strictly()
        return plan

    plan = read()
    configure_logging(json=run.log_json)
    app = Foliot("crontab")
    handler = app.add_shell(users=_users(account, plan), timeout=None, dead_letter=False)
    socket = run.socket or default_socket(run.database)
    options = SchedulerOptions(database=run.database, socket=socket, commands=run.commands, processes=1)

    async def begin(scheduler: Scheduler, group: TaskGroup) -> None:
        crontabs = Crontabs(scheduler.client(), handler, run.paths, read)
        await crontabs.begin(plan)
        log.info("ready", database=run.database, socket=socket, handlers=[SHELL], zone=run.options.zone)
        ready()

        async def watch() -> None:
            while True:
                await anyio.sleep(_LOOK_S)
                await crontabs.look()

        group.start_soon(watch, name="crontabs")

    await serve([app], options, begin)


def _users(account: Account, plan: Plan) -> list[str]:
    """Return as whom commands may run: root is free to name anybody in a crontab, all others only themselves."""
    if not account.is_root:
        return []
    named = [job.user for job in [*plan.jobs, *plan.reboots] if job.user]
    return sorted({*(each.pw_name for each in pwd.getpwall()), *named})
