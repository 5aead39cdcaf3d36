"""The floor of the cluster form: a script that does the least that must be done, on the same servers, and what it uses.

Its processes may end before anybody reads their clocks, so they are looked at while they run; the last moments are missing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..sdk.server_process import children_of
from .cpu import family_ns, process_ns

_LOOK_S: Final = 0.05


async def cluster_floor(
    script: str, tasks: int, *, nats: str, dsn: str, folder: str, servers: Mapping[str, int]
) -> dict[str, Any]:
    """Run `NATS=… DSN=… SCRIPT N lease`. `script`: its absolute path; `servers`: processes whose CPU time counts, too.

    Returns: its `tasks_per_s`, and `us_per_task` of CPU of all together."""
    before = {name: family_ns(pid) for name, pid in servers.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, str(tasks), "lease", cwd=folder, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NATS": nats, "DSN": dsn},
    )  # fmt: skip
    used: dict[int, int] = {}
    output = asyncio.create_task(process.communicate())
    try:
        while not (await asyncio.wait([output], timeout=_LOOK_S))[0]:
            for pid in [process.pid, *children_of(process.pid)]:
                used[pid] = max(used.get(pid, 0), process_ns(pid))
    finally:
        if process.returncode is None:
            process.kill()
    data = (await output)[0]
    assert process.returncode == 0, f"the floor's script ended with code {process.returncode}"
    found = msgspec.json.decode(data.strip().splitlines()[-1])
    of_servers = sum(family_ns(pid) - before[name] for name, pid in servers.items())
    return {
        "tasks_per_s": found["tasks_per_s"],
        "us_per_task": round((sum(used.values()) + of_servers) / tasks / 1e3, 2),
    }
