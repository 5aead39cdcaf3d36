"""What users' code finds instead of clocks, randomness, threads and sockets while a simulated test runs.

Clocks answer with simulated time, randomness comes from the seed, and what would leave the simulation raises an
`EscapeError` that names its replacement. Only threads of the run are affected, and everything is put back when it is over.

What cannot be redirected: `id`, `hash` of objects and iteration over sets; C extensions that read a clock or the entropy of
the system themselves (numpy has generators of its own: seed them); files, which are real and survive crashes.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import datetime
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NoReturn, Protocol

import anyio.lowlevel
import anyio.to_thread

from .loop import NS, EscapeError

_NODE: Final = 0x02F0110F0110  # a locally administered network address, as uuid1 wants one
_SERVICE: Final = "an outside service that the simulation knows (`sim.service`)"
_IN_PLACE: Final = "the work in place, in an `async def` handler, or in a plain `def` handler, which may block"
_MISSING: Final = object()


class Ports(Protocol):
    """The run whose clocks and randomness are to be found."""

    def is_inside(self) -> bool:
        """Tell whether the calling thread belongs to the run."""
        ...

    def wall_ns(self) -> int: ...
    def mono_ns(self) -> int: ...
    def sleep_ns(self, span_ns: int) -> None:
        """Block a plain handler. Raises: EscapeError elsewhere."""
        ...

    def entropy(self, count: int) -> bytes: ...


@contextmanager
def redirected(ports: Ports, *, seed: int, tz: str) -> Iterator[None]:
    """Redirect inside the block. `tz`: the local time zone of naive datetimes."""
    with ExitStack() as stack:
        stack.enter_context(_streams())
        stack.enter_context(_local_time(tz))
        stack.enter_context(_module_random(seed))
        patches = _Patches(ports)
        stack.callback(patches.undo)
        patches.clocks()
        patches.randomness()
        patches.escapes()
        yield


class _Patches:
    """The changes of one run, undone in reverse."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _set(self, owner: Any, name: str, value: Any) -> None:
        own = vars(owner)
        before = own.get(name, _MISSING)
        setattr(owner, name, value)
        if before is _MISSING:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))

    def _instead(self, owner: Any, name: str, inside: Callable[..., Any]) -> None:
        """Call `inside` in threads of the run, what was there before in all others."""
        outside = getattr(owner, name, None)
        if outside is None:
            return
        ports = self._ports

        def function(*args: Any, **options: Any) -> Any:
            return (inside if ports.is_inside() else outside)(*args, **options)

        function.__name__ = name
        self._set(owner, name, function)

    # -- clocks --------------------------------------------------------------------------------------------------------

    def clocks(self) -> None:
        ports = self._ports
        self._instead(time, "time_ns", lambda: ports.wall_ns())
        self._instead(time, "time", lambda: ports.wall_ns() / NS)
        for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
            self._instead(time, f"{name}_ns", lambda: ports.mono_ns())
            self._instead(time, name, lambda: ports.mono_ns() / NS)
        self._instead(time, "clock_gettime_ns", self._clock_ns)
        self._instead(time, "clock_gettime", lambda clock: self._clock_ns(clock) / NS)
        self._instead(time, "sleep", lambda seconds: ports.sleep_ns(max(round(seconds * NS), 0)))
        for name in ("localtime", "gmtime", "ctime"):
            self._now_by_default(name)
        strftime, localtime = time.strftime, time.localtime
        self._instead(time, "strftime", lambda form, moment=None: strftime(form, moment or time.localtime()))
        del localtime
        self._datetime()

    def _clock_ns(self, clock: int) -> int:
        return self._ports.wall_ns() if clock == time.CLOCK_REALTIME else self._ports.mono_ns()

    def _now_by_default(self, name: str) -> None:
        """Functions of the time module that read the clock where they are given no moment."""
        original, ports = getattr(time, name), self._ports
        self._instead(time, name, lambda secs=None: original(ports.wall_ns() / NS if secs is None else secs))

    def _datetime(self) -> None:
        """`datetime.now` and `utcnow` belong to a class that cannot be changed by assignment, and everybody has imported
        it by name; so its dictionary is changed. `today` asks the time module, which is redirected."""
        moment, ports = datetime.datetime, self._ports
        table: dict[str, Any] = gc.get_referents(moment.__dict__)[0]
        originals = {name: table[name] for name in ("now", "utcnow")}

        def at(cls: Any, tz: datetime.tzinfo | None) -> Any:
            seconds, rest = divmod(ports.wall_ns(), NS)
            return cls.fromtimestamp(seconds, tz).replace(microsecond=rest // 1_000)

        def now(cls: Any, tz: datetime.tzinfo | None = None) -> Any:
            return at(cls, tz) if ports.is_inside() else originals["now"].__get__(None, cls)(tz)

        def utcnow(cls: Any) -> Any:
            if ports.is_inside():
                return at(cls, datetime.UTC).replace(tzinfo=None)
            return originals["utcnow"].__get__(None, cls)()

        def put(entries: dict[str, Any]) -> None:
            table.update(entries)
            ctypes.pythonapi.PyType_Modified(ctypes.py_object(moment))

        put({"now": classmethod(now), "utcnow": classmethod(utcnow)})
        self._undo.append(lambda: put(originals))

    # -- randomness ----------------------------------------------------------------------------------------------------

    def randomness(self) -> None:
        entropy = self._ports.entropy
        self._instead(os, "urandom", entropy)
        self._instead(os, "getrandom", lambda count, flags=0: entropy(count))
        self._instead(random, "_urandom", entropy)  # what `secrets` and `SystemRandom` use
        seeded = random.Random.seed

        def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
            seeded(self, int.from_bytes(entropy(16), "big") if a is None and self_is_inside() else a, version)

        self_is_inside = self._ports.is_inside
        self._set(random.Random, "seed", seed)
        self._set(uuid, "_generate_time_safe", None)  # which reads the clock and the network card
        self._set(uuid, "_node", _NODE)
        self._set(uuid, "_last_timestamp", None)

    # -- what would leave the simulation -------------------------------------------------------------------------------

    def escapes(self) -> None:
        for owner, name, what, instead in (
            (socket.socket, "__init__", "opening a socket", _SERVICE),
            (socket, "create_connection", "opening a connection", _SERVICE),
            (socket, "getaddrinfo", "looking up a host name", _SERVICE),
            (socket, "gethostbyname", "looking up a host name", _SERVICE),
            (subprocess.Popen, "__init__", "starting a process", _SERVICE),
            (os, "fork", "forking", _SERVICE),
            (os, "system", "starting a process", _SERVICE),
            (os, "posix_spawn", "starting a process", _SERVICE),
            (threading.Thread, "start", "starting a thread", _IN_PLACE),
            (_thread, "start_new_thread", "starting a thread", _IN_PLACE),
            (_thread, "start_new", "starting a thread", _IN_PLACE),
            (_thread, "start_joinable_thread", "starting a thread", _IN_PLACE),  # from Python 3.13 on
        ):
            self._instead(owner, name, _refusing(what, instead))

        async def run_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return function(*args)

        self._instead(anyio.to_thread, "run_sync", run_sync)


def _refusing(what: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise EscapeError(what, instead)

    return refuse


@contextmanager
def _module_random(seed: int) -> Iterator[None]:
    """Seed the functions of the random module, those bound at import as well, since all share one generator."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _local_time(tz: str) -> Iterator[None]:
    if not hasattr(time, "tzset"):
        yield
        return
    before = os.environ.get("TZ")
    os.environ["TZ"] = tz
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = before
        time.tzset()


@contextmanager
def _streams() -> Iterator[None]:
    """Workers that are killed do not put back what they put in the place of the standard streams."""
    out, err = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "stdout", out)
        stack.callback(setattr, sys, "stderr", err)
        yield
