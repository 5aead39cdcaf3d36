"""The process that outlives a worker for a moment, to end the commands it ran.

Run as a script with a pipe as standard input: `+SESSION START` and `-SESSION`, a line each, say which sessions the worker
has. The kernel kills each command's own process group (see `shell_child`); but programs as common as `timeout` make a
group of their own, and those are ended here: when the pipe closes, the worker is gone, and so must be all of its
sessions. Needs Linux's /proc, and does nothing where there is none.
"""

from __future__ import annotations

import os
import sys
import time

ROUNDS = 200  # what is being started while others are killed is found in the next
ROUND_S = 0.01


def main() -> None:
    """Listen until the worker is gone, then end what it left."""
    sessions: dict[int, str] = {}
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid, _, start = line[1:].decode().partition(" ")
            if line.startswith(b"+"):
                sessions[int(pid)] = start
            else:
                sessions.pop(int(pid), None)
    for _ in range(ROUNDS if sessions else 0):
        if not kill_once(sessions):
            break
        time.sleep(ROUND_S)


def kill_once(sessions: dict[int, str]) -> bool:
    """Kill whatever lives in the sessions. Returns: whether anything did."""
    living: list[tuple[int, int]] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(int(entry))
            session = int(fields[3]) if fields else 0
            if session in sessions and fields[0] not in ("Z", "X"):
                if int(entry) == session and fields[19] != sessions[session]:
                    del sessions[session]  # the number belongs to somebody else by now
                else:
                    living.append((int(entry), session))
    found = False
    for pid, session in living:
        if session in sessions:
            found = True
            try:
                os.kill(pid, 9)
            except OSError:
                continue
    return found


def stat(pid: int) -> list[str]:
    """Return a process's fields of /proc/PID/stat from its state on; none if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
    sys.exit()
