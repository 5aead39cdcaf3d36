"""The handler `foliot.shell`: from a payload to a command that runs, and from how it ended to a result or an error.

A worker runs commands only if its operator says so, with `app.add_shell()` or `foliot up --shell`; which tenants may ask
for them, and as which users, is the operator's choice too.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from .capture import current
from .context import Context
from .handler import AsyncHandler
from .options import InvalidOptionError, TaskOptions
from .payload import PayloadError
from .shell import (
    OUTPUT_DEFAULT,
    OUTPUT_MAX,
    QUEUE,
    SHELL,
    ShellExitError,
    ShellLimits,
    ShellRefusedError,
    ShellResult,
    ShellStartError,
    last_lines,
    signal_name,
)
from .shell_output import Tail
from .shell_run import Commands, Ended, Order, SystemCommands
from .shell_shape import ShellShape, argv_of, check_env, text_of

_EARLY_MS: Final = 500  # a command is killed so much before the end of its grace, so that its end is still told
_REFUSED_STEPS: Final = ("user",)  # what no repetition can change


class ShellHandler(AsyncHandler[..., ShellResult]):
    """The handler of commands. `users`: as whom they may run, besides the worker's own user."""

    shape_type = ShellShape
    users: tuple[str, ...] = ()

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return a payload's arguments by name. The scheduler asks this of whatever is submitted, so a command that every
        run would refuse to begin as its user never becomes a task. Raises: PayloadError."""
        arguments = super().decode(payload)
        user = arguments["user"]
        if user and not self.may_run_as(user):
            names = ", ".join(dict.fromkeys([own_user() or "nobody by name", *self.users]))
            expected = f"one as whom commands may run here ({names}); `foliot up --shell --shell-user {user}` allows it"
            raise PayloadError(SHELL, "user", f"is {user!r:.80}", expected)
        return arguments

    def may_run_as(self, user: str) -> bool:
        """Tell whether the operator allows commands of this user."""
        return user in self.users or user == own_user()


def shell_handler(
    *,
    payload_limit: int,
    tenants: Sequence[str] | None = None,
    users: Sequence[str] = (),
    commands: Commands | None = None,
    options: TaskOptions | None = None,
) -> ShellHandler:
    """Return the handler. See `Foliot.add_shell`. Raises: InvalidOptionError."""
    allowed_tenants = None if tenants is None else _names("tenants", tenants)
    allowed_users = _names("users", users)
    runs = commands or SystemCommands()

    async def shell(
        ctx: Context,
        command: str | list[str],
        shell: str = "/bin/sh",
        env: dict[str, str] | None = None,
        clean_env: bool | None = None,
        cwd: str = "",
        user: str = "",
        stdin: str = "",
        limits: ShellLimits | None = None,
        output_max: Annotated[int, msgspec.Meta(ge=0, le=OUTPUT_MAX)] = OUTPUT_DEFAULT,
        ok_codes: tuple[int, ...] = (0,),
        background: Literal["kill", "leave"] = "kill",
    ) -> ShellResult:
        """Run a command: a text for the shell, or a program with its arguments, which needs none."""
        if allowed_tenants is not None and ctx.tenant not in allowed_tenants:
            raise ShellRefusedError("tenant", ctx.tenant, _allowed(allowed_tenants, "no tenant at all"))
        if user and not handler.may_run_as(user):
            raise ShellRefusedError("user", user, _allowed(allowed_users, "the worker's own user"))
        check_env(env or {})
        order = Order(
            argv=argv_of(command, shell),
            shell=shell,
            env={**_about(ctx), **(env or {})},
            clean_env=bool(user) if clean_env is None else clean_env,
            cwd=text_of("cwd", cwd),
            user=user,
            stdin=stdin.encode(),
            limits=_set(limits or ShellLimits()),
            output_max=output_max,
            leave=background == "leave",
            grace_ms=_grace_ms(ctx),
        )
        output = Tail(_writer())
        try:
            ended = await runs.run(order, output.write)
        except asyncio.CancelledError as stopped:
            if lines := last_lines(output.text()):
                stopped.add_note(f"its last output:\n{lines}")
            raise
        except ShellStartError as error:
            if error.step in _REFUSED_STEPS:
                raise ShellRefusedError(error.step, error.value, error.reason) from error
            raise
        result = _result(ended)
        if result.exit_code not in ok_codes:
            raise ShellExitError(result, ok_codes)
        return result

    handler = ShellHandler(shell, SHELL, options or TaskOptions(queue=QUEUE), payload_limit=payload_limit)
    handler.mode = "command"
    handler.users = allowed_users
    return handler


def own_user() -> str:
    """Return the name of the user this process runs as, empty if it has none, as in containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _names(option: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise InvalidOptionError(option, names, "a list of names", where=SHELL)
    return tuple(names)


def _allowed(names: tuple[str, ...], otherwise: str) -> str:
    return f"the operator allows {', '.join(names) or otherwise} only"


def _about(ctx: Context) -> dict[str, str]:
    """What a command may know of its task."""
    return {
        "FOLIOT_TASK_ID": ctx.task_id, "FOLIOT_ATTEMPT": str(ctx.attempt), "FOLIOT_ATTEMPT_TOKEN": ctx.attempt_token,
        "FOLIOT_QUEUE": ctx.queue, "FOLIOT_TENANT": ctx.tenant,
    }  # fmt: skip


def _set(limits: ShellLimits) -> dict[str, int]:
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}


def _grace_ms(ctx: Context) -> int:
    grace_ms = ctx.cancel_grace_ms
    return grace_ms - min(_EARLY_MS, grace_ms // 10)


def _writer() -> Callable[[bytes], None]:
    """Return where output goes: to the attempt's log, or on where there is no attempt."""
    attempt = current.get()
    if attempt is not None:
        return attempt.capture().write
    return lambda data: print(data.decode("utf-8", "replace"), end="", file=sys.stdout)


def _result(ended: Ended) -> ShellResult:
    name = signal_name(-ended.code) if ended.code < 0 else None
    return ShellResult(
        exit_code=ended.code if name is None else None,
        signal=name,
        duration_ms=ended.duration_ms,
        cpu_ms=ended.cpu_ms,
        memory_peak=ended.memory_peak,
        output=ended.tail.decode("utf-8", "replace"),
        output_bytes=ended.output_bytes,
        dropped_bytes=ended.dropped_bytes,
    )
