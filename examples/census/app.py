"""The handlers of the census: what is done with one file, and a few tasks that misbehave on purpose.

This module is imported by the program that submits, by the workers, and by the child processes that parse. So it only
defines: making an app and its handlers starts nothing.
"""

from __future__ import annotations

import ast
import os
import time
from dataclasses import dataclass
from pathlib import Path

from foliot import Context, Foliot, Retry

app = Foliot("census")


@dataclass
class Count:
    """What is in one module."""

    lines: int
    functions: int
    classes: int
    longest: str  # the longest function's name, empty if there is none
    longest_lines: int


# Parsing keeps a core busy, so it is done in child processes. A file that is no Python will not become any by parsing it
# again; whatever else goes wrong is tried three times.
@app.task(queue="parse", isolation="process", timeout="30s", retry=Retry(base="200ms", jitter=False, fatal=SyntaxError))
def count_module(ctx: Context, path: str, busy_attempts: int = 0) -> Count:
    """Parse a file and count. `busy_attempts`: this many attempts find the file in use by somebody else."""
    if ctx.attempt <= busy_attempts:
        raise BlockingIOError(f"{Path(path).name} is in use, try again later")
    source = Path(path).read_bytes()
    functions: list[tuple[int, str]] = []
    classes = 0
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append(((node.end_lineno or node.lineno) - node.lineno + 1, node.name))
        elif isinstance(node, ast.ClassDef):
            classes += 1
    longest_lines, longest = max(functions, default=(0, ""))
    return Count(source.count(b"\n"), len(functions), classes, longest, longest_lines)


@app.task(queue="clock", result="discard")
async def appointment(number: int) -> None:
    """Nothing to do: what counts is when it starts."""


@app.task(queue="slow", timeout="5m")
def watch_for_changes(ctx: Context) -> None:
    """Run until somebody says stop: `ctx.sleep` is where a plain function hears it."""
    seconds = 0
    while True:
        ctx.progress(0.5, note=f"nothing has changed for {seconds} s")
        ctx.sleep("1s")
        seconds += 1


@app.task(queue="slow", isolation="process", timeout="1s", max_attempts=1)
def hang() -> None:
    """Never come back. Only a process of its own can be got rid of."""
    print(f"process {os.getpid()} hangs", flush=True)
    while True:
        time.sleep(60)
