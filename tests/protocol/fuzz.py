"""A fuzzer of every subject a node listens at: malformed, truncated, oversized, wrong-version and hostile messages.

    python -m foliot.tests.protocol.fuzz --count 100000 [--seed N]

Most messages are requests of the golden vectors that were mutated, so they get past the first checks. A message with a reply
subject must be answered, with an error or not; one without must be counted or carried out. Nothing may raise, and the node
must answer as before afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
import nats
import structlog
from foliot.actors import messages as m
from foliot.runtime.rng import Rng
from foliot.sdk.servers import LocalNats
from foliot.transports import api
from foliot.transports.nats import protocol as p

from .gate import Plain, PublicGate
from .vectors import vectors

OPERATIONS: Final = (*p.CALLS, *p.WORKER_CALLS, "edge", "nothing", "worker.nothing", "events", "$", "edge.x")
TENANTS: Final = ("default", "acme", "$operator", "a" * 64, "a" * 65, "grüße", "-", "default ")
WORDS: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1 << 63, -(1 << 63), 1 << 64, 1.5, float("inf"), "", "x", "\ud7ff", "x" * 300, "../..", "$SYS", "*",
    ">", b"\x00", [], {}, [[]], {"a": {}}, "0" * 13, "7zzzzzzzzzzzz", "default~plain-00000000000000000000", ["x"] * 50,
)  # fmt: skip
LARGE: Final = (b"[" * 900_000, b"\x91" * 900_000, b'{"tasks":[' + b"{}," * 300_000, b"\xdf\xff\xff\xff\xff")
_WINDOW: Final = 64


@dataclass
class Report:
    """What became of the messages. `broken`: what went wrong, in words."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    by_code: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def line(self) -> str:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(self.by_code.items()))
        return f"{self.sent} sent, {self.answered} answered, {self.unanswered} without a reply subject: {codes}"


class Fuzzer:
    """Draws messages from a seed. `session`: a live one of tenant acme, which most requests of workers name."""

    def __init__(self, seed: int, session: str) -> None:
        self._rng = Rng(seed)
        by_type = {vector["type"]: vector["json"] for vector in vectors()}
        self._requests = {op: by_type[ask.__name__] for op, (ask, _) in {**p.CALLS, **p.WORKER_CALLS}.items()}
        for op in ("credits", "heartbeat", "outcomes"):
            self._requests[f"worker.{op}"] = {**self._requests[f"worker.{op}"], "session": session}
        self._edge = [
            api.encode(each)
            for each in (
                api.Hello(), api.GetTasks("acme", [1]), api.ListTasks("acme"), api.ReadStats(), api.DrainMember("x"),
                m.SubmitTasks("acme", [m.Template("x")], [m.TaskSpec(0, b"\x80")], "r"), m.CancelTasks("acme", [1]),
                m.WatchTasks("acme", [1], 5), api.SetQueue("q", concurrency=-1), api.Verify(), api.ListQueues(),
            )
        ]  # fmt: skip

    def _one_of(self, choices: Any) -> Any:
        return choices[self._rng.below(len(choices))]

    def message(self, node: str) -> tuple[str, bytes, dict[str, str] | None, bool]:
        """Return a subject, bytes, headers, and whether an answer is wanted."""
        op = self._one_of(OPERATIONS)
        tenant = self._one_of(TENANTS) if self._rng.below(4) == 0 else "acme"
        if op in p.WORKER_CALLS and self._rng.below(2):
            op = f"worker.{node}.{op.removeprefix('worker.')}"
        headers = None
        if self._rng.below(16) == 0:
            kind = self._one_of(("application/json", "application/msgpack", "text/plain", "", ";", "x" * 500))
            headers = {"Content-Type": kind}
        return f"foliot.v1.{tenant}.{op}", self._data(op), headers, op != "events" and self._rng.below(8) > 0

    def _data(self, op: str) -> bytes:
        if op == "edge" or self._rng.below(20) == 0:
            data: bytes = self._one_of(self._edge)
        else:
            name = op if op in self._requests else f"worker.{op.rpartition('.')[2]}"
            value = self._requests.get(name) or self._one_of(list(self._requests.values()))
            for _ in range(self._rng.below(3)):
                value = self._changed(value, 0)
            data = self._packed(value)
        match self._rng.below(12):
            case 0:
                return data[: self._rng.below(len(data) + 1)]
            case 1 | 2:
                return self._flipped(data)
            case 3:
                return bytes(self._rng.below(256) for _ in range(self._rng.below(60)))
            case 4 if self._rng.below(50) == 0:
                return LARGE[self._rng.below(len(LARGE))]
            case 5:
                return data + data
            case _:
                return data

    def _packed(self, value: Any) -> bytes:
        if self._rng.below(2):
            return json.dumps(value, default=repr).encode()
        try:
            packed: bytes = msgpack.packb(value)
        except (OverflowError, ValueError):
            packed = b"\xc1"
        return packed

    def _flipped(self, data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(1 + self._rng.below(4)):
            if out:
                out[self._rng.below(len(out))] = self._rng.below(256)
        return bytes(out)

    def _changed(self, value: Any, depth: int) -> Any:
        """Return a value with one thing in it that is another."""
        if depth < 6 and isinstance(value, dict) and value and self._rng.below(5):
            key = self._one_of(list(value))
            if self._rng.below(12) == 0:
                return {name: item for name, item in value.items() if name != key}
            return {**value, key: self._changed(value[key], depth + 1)}
        if depth < 6 and isinstance(value, list) and value and self._rng.below(5):
            at = self._rng.below(len(value))
            return [*value[:at], self._changed(value[at], depth + 1), *value[at + 1 :]]
        return self._one_of(WORDS)


async def fuzz(gate: PublicGate, count: int, seed: int) -> Report:
    """Send `count` messages, and look whether the node is as before."""
    report = Report()
    async with Plain(gate.url, tenant="acme") as plain:
        registered = await plain.ask("worker.register", queues=[{"queue": "mail"}], slots=8)
    fuzzer = Fuzzer(seed, registered["session"])
    listener = gate.listener
    connection = await nats.connect(gate.url)
    room = asyncio.Semaphore(_WINDOW)
    losses = _Losses()

    async def ask(subject: str, data: bytes, headers: dict[str, str] | None) -> None:
        try:
            answer = await connection.request(subject, data, timeout=20, headers=headers)
            report.answered += 1
            code = _code_of(answer.data, subject)
        except nats.errors.NoRespondersError:
            code = "no_responders"
        except Exception as error:
            report.broken.append(f"{subject} {data[:200]!r}: {type(error).__name__}: {error}")
            return
        finally:
            room.release()
        report.by_code[code] = report.by_code.get(code, 0) + 1
        if code in ("internal", "unreadable"):
            report.broken.append(f"{subject} {data[:200]!r}: answered {code}")

    with losses:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                subject, data, headers, wants_answer = fuzzer.message(gate.links[0][1].ident)
                if " " in subject or len(data) > 1_048_576 - 4_096:
                    continue
                report.sent += 1
                if wants_answer:
                    await room.acquire()
                    group.create_task(ask(subject, data, headers))
                else:
                    report.unanswered += 1
                    await connection.publish(subject, data, headers=headers)
        await connection.close()
        async with Plain(gate.url) as plain:
            if (await plain.ask("ping"))["version"] != 1:
                report.broken.append("the node does not answer any more")
            if registered["session"] not in listener.workers.sessions:
                report.broken.append("the worker's session is gone")
            if (await plain.ask("get", ids=[await plain.submit("x", delay_ms=3_600_000)]))["tasks"] == []:
                report.broken.append("the node accepts no tasks any more")
        await gate.links[0][1].flush()
    report.broken += losses.found
    if listener.dropped.get("internal") or gate.links[0][1].dropped:
        report.broken.append(f"dropped: {listener.dropped}, {gate.links[0][1].dropped}")
    return report


def _code_of(data: bytes, subject: str) -> str:
    """Return the code of an answer's error, or `ok`."""
    try:
        if subject.endswith(".edge"):
            answer = api.decode_answer(data)
            return str(getattr(answer, "code", "ok"))
        value = json.loads(data) if data[:1] in (b"{", b"[") else msgpack.unpackb(data, strict_map_key=False)
        return str(value["error"]["code"]) if "error" in value else "ok"
    except Exception:
        return "unreadable"


class _Losses:
    """Collects what was logged as an error, and what escaped from tasks, meanwhile."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> _Losses:
        self._handler = asyncio.get_running_loop().get_exception_handler()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.found.append(str(context)))
        self._processors = structlog.get_config()["processors"]
        structlog.configure(processors=[self._note, *self._processors])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().set_exception_handler(self._handler)
        structlog.configure(processors=self._processors)

    def _note(self, logger: Any, method: str, event: Any) -> Any:
        if method in ("error", "critical"):
            self.found.append(f"{event.get('event')}: {event.get('error', '')} {event.get('exc_info', '')}")
        return event


async def run(count: int, seed: int) -> Report:
    server = LocalNats()
    await server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with PublicGate(server.url, Path(folder)) as gate:
                return await fuzz(gate, count, seed)
    finally:
        await server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Send hostile messages to a node, and look whether it minds.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = asyncio.run(run(options.count, options.seed))
    print(report.line())
    for each in report.broken[:20]:
        print(f"BROKEN {each}")
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main()
