"""What a shell command's process does before it becomes the command: lifeline, limits, user, folder, environment, exec.

Run as a script by its path, `shell_child.py ORDER LIFELINE TROUBLE`, which are inherited descriptors; it imports nothing
of the package and little else, so that the command begins within some 20 ms. What holds: the command never
outlives the worker unnoticed, since the kernel kills its process group when the lifeline's other end closes (Linux); a
step that fails is told by name, and then nothing of the command ran.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself brings enum along, which takes longer
import fcntl
import marshal
import os
import pwd
import resource
import sys

TYPE_CHECKING = False  # the module typing takes as long to import as everything else
if TYPE_CHECKING:
    from typing import Any

LIMITS = (  # name in the order, resource, unit
    ("cpu_s", "RLIMIT_CPU", 1),
    ("memory_mb", "RLIMIT_AS", 1 << 20),
    ("file_mb", "RLIMIT_FSIZE", 1 << 20),
    ("core_mb", "RLIMIT_CORE", 1 << 20),
    ("files", "RLIMIT_NOFILE", 1),
    ("processes", "RLIMIT_NPROC", 1),
)
PATH = "/usr/local/bin:/usr/bin:/bin"
OUT_OF_THE_WAY = 200  # scripts use small descriptors by number


def main() -> None:
    """Become the command, or say why not."""
    order_fd, lifeline_fd, trouble_fd = (int(text) for text in sys.argv[1:4])
    os.set_inheritable(trouble_fd, False)
    steps = Steps()
    try:
        steps.run(order_fd, lifeline_fd)
    except Exception as error:  # whatever it is, it has to reach the worker
        text = str(getattr(error, "strerror", None) or error)
        os.write(trouble_fd, marshal.dumps((steps.name, steps.value[:1_000], text[:1_000])))
    os._exit(127)


class Steps:
    """The steps in order. `name`, `value`: the one that is being taken."""

    def __init__(self) -> None:
        self.name = "order"
        self.value = ""

    def run(self, order_fd: int, lifeline_fd: int) -> None:
        with open(order_fd, "rb") as file:
            order: dict[str, Any] = marshal.load(file)
        self._at("lifeline")
        hold_lifeline(lifeline_fd)
        self._limit(order["limits"])
        account = self._become(order["user"])
        env = environment(order, account)
        self._at("cwd", order["cwd"])
        enter(order["cwd"], env.get("HOME", "/"))
        argv = order["argv"]
        self._at("command", argv[0])
        for ignored in ("SIGPIPE", "SIGXFSZ"):  # by Python, and a command would inherit that
            _signal.signal(getattr(_signal, ignored), _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.execvpe(argv[0], argv, env)

    def _at(self, name: str, value: str = "") -> None:
        self.name, self.value = name, value

    def _limit(self, limits: dict[str, int]) -> None:
        for name, kind, unit in LIMITS:
            if name in limits:
                self._at(f"limits.{name}", str(limits[name]))
                value = limits[name] * unit
                hard = value + 1 if name == "cpu_s" else value  # SIGXCPU first, SIGKILL a second later
                resource.setrlimit(getattr(resource, kind), (value, hard))
        if "nice" in limits:
            self._at("limits.nice", str(limits["nice"]))
            os.nice(limits["nice"])

    def _become(self, user: str) -> pwd.struct_passwd | None:
        """Change to the user, if it is not this one already, and return the account."""
        self._at("user", user)
        if not user:
            try:
                return pwd.getpwuid(os.geteuid())
            except KeyError:  # as in containers
                return None
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise ValueError("there is no such user on this machine") from None
        if account.pw_uid != os.geteuid():
            if os.geteuid() != 0:
                raise ValueError("only a worker that runs as root can run commands as another user")
            os.initgroups(user, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        return account


def enter(cwd: str, home: str) -> None:
    """Go to the folder. A user without a home, as many of a system's own are, is at home in the root, as in cron."""
    if cwd == "~":
        try:
            os.chdir(home)
        except OSError:
            os.chdir("/")
    elif cwd:
        os.chdir(home + cwd[1:] if cwd.startswith("~/") else cwd)


def environment(order: dict[str, Any], account: pwd.struct_passwd | None) -> dict[str, str]:
    """Return the command's environment."""
    env = {} if order["clean_env"] else dict(os.environ)
    if order["clean_env"]:
        env = {"PATH": PATH, "SHELL": order["shell"]}
    if account is not None and (order["clean_env"] or order["user"]):
        env |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return {**env, **order["env"]}


def hold_lifeline(descriptor: int) -> None:
    """Have the kernel kill this process group when the pipe's other end closes. The descriptor stays open in the
    command, out of the way of what scripts open themselves."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, OUT_OF_THE_WAY)
        os.close(descriptor)
        descriptor = moved
    except OSError:  # fewer descriptors allowed than that
        pass
    os.set_inheritable(descriptor, True)
    set_signal = getattr(fcntl, "F_SETSIG", None)
    if set_signal is None:
        return
    kill = int(_signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, set_signal, kill)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    # The pipe never carries a byte, so being readable means that the worker died before this line.
    try:
        os.read(descriptor, 1)
    except BlockingIOError:
        return
    os.killpg(0, kill)


if __name__ == "__main__":
    main()
