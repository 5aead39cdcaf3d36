"""Handlers that run in child processes; a module of its own, since the children import it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from foliot.sdk.app import Foliot
from foliot.sdk.context import Context, Fatal, RetryLater
from foliot.sdk.options import Retry

app = Foliot("child")


@app.task(isolation="process")
def pid(ctx: Context) -> int:
    return os.getpid()


@app.task(isolation="process")
def add(a: int, b: int = 1) -> int:
    return a + b


@app.task(isolation="process")
async def add_async(ctx: Context, a: int) -> dict[str, Any]:
    await ctx.sleep("1ms")
    return {"sum": a + 1, "token": ctx.attempt_token, "checkpoint": ctx.checkpoint, "left": ctx.time_left() is not None}


@app.task(isolation="process", retry=Retry(fatal=(KeyError,)))
def failing(what: str) -> None:
    match what:
        case "value":
            raise ValueError("bad")
        case "key":
            raise KeyError("k")
        case "later":
            raise RetryLater("5s")
        case "fatal":
            raise Fatal("never")
        case "exit":
            sys.exit(3)
        case "hard exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)


@app.task(isolation="process", timeout="300ms")
def endless() -> None:
    """Hold the interpreter, so that no other thread of the child can run."""
    re.match(r"(a+)+$", "a" * 60 + "b")


@app.task(isolation="process", cancel_grace="60s")
def polite(ctx: Context, path: str) -> None:
    touch(path)
    while not ctx.cancelled:
        time.sleep(0.005)


@app.task(isolation="process", cancel_grace="60s")
async def polite_async(path: str) -> None:
    touch(path)
    await asyncio.sleep(3_600)


@app.task(isolation="process", cancel_grace="50ms")
def deaf(path: str) -> None:
    """Start a process of its own, tell both ids, and never end."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    touch(path, f"{os.getpid()} {other.pid}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


@app.task(isolation="process")
def talking(ctx: Context) -> None:
    print("from python")
    subprocess.run(["echo", "from a subprocess"], check=True)
    print("to stderr", file=sys.stderr)
    logging.getLogger("shop").warning("from logging")
    ctx.log.info("from the context", order=5)
    ctx.progress(0.5, "half")
    ctx.heartbeat({"row": 3})


@app.task(isolation="process")
def quiet() -> None: ...


@app.task(isolation="process")
def dup_closed() -> str:
    os.close(1)
    return "closed"


def touch(path: str, text: str = "begun") -> None:
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(path + ".part", path)


@app.task(isolation="process", timeout=None)
def holding(path: str) -> None:
    """Hold the interpreter for ever."""
    touch(path, str(os.getpid()))
    re.match(r"(a+)+$", "a" * 60 + "b")
