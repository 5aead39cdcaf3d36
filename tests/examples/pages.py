"""Pages of the documentation, done as they say: their programs written to files, their commands really run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ..sources import ROOT

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ID: Final = re.compile(r"0[0-9a-z]{12}")
_START_S: Final = 30


class Block(NamedTuple):
    """A fenced block. `kind`: python, console (a command a line), or text (what the last command prints)."""

    kind: str
    text: str


def blocks(page: str, *, since: str = "", until: str = "") -> list[Block]:
    """Return the blocks of a page, between two of its headings if these are given."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if since:
        assert since in text, f"{page} has no heading {since!r}"
        text = text.partition(since)[2]
    if until:
        assert until in text, f"{page} has no heading {until!r}"
        text = text.partition(until)[0]
    return [Block(*found) for found in _BLOCK.findall(text)]


class Reader:
    """Somebody who has only the page: types its commands, and looks up the id they need in what was printed last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLIOT_")}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        self.last_id = ""

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `ID` stands for the last id that was printed."""
        words = [self.last_id if word == "ID" else word for word in shlex.split(command)]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        ids = [word for word in (done.stderr + done.stdout).split() if _ID.fullmatch(word)]
        self.last_id = ids[-1] if ids else self.last_id
        return done

    @contextmanager
    def in_another_terminal(self, command: str) -> Iterator[None]:
        """Run a scheduler meanwhile, and end it with Ctrl-C."""
        process = subprocess.Popen(
            shlex.split(command), cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + _START_S
            while not (self.folder / "foliot.sock").exists():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline, "the scheduler does not listen"
                time.sleep(0.05)
            yield
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=60)
            assert process.returncode == 0, log
        finally:
            process.kill()
            process.wait()


def prints(expected: str, output: str) -> bool:
    """Tell whether a line of the output has the words of the expected one, in order; the page leaves some out."""
    pattern = re.compile(".*".join(map(re.escape, expected.split())))
    return any(pattern.search(line) for line in output.splitlines())
