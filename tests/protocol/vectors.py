"""Golden vectors of the public protocol: the same messages as JSON and as the bytes of msgpack.

`python -m foliot.tests.protocol.vectors` prints what docs/protocol/vectors.json holds.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import msgspec
from foliot.transports.nats import protocol as p
from foliot.transports.nats.protocol_codec import Format, to_wire

TASK: Final = "1psm4a2000040"
SESSION: Final = "acme~mailer-00c0ffee00c0ffee0042"
AT_MS: Final = 1_767_225_600_000
DOCUMENT: Final[dict[str, Any]] = {
    "text": "grüße", "small": 1, "negative": -129, "large": 9_007_199_254_740_991, "half": 0.5, "none": None, "yes": True,
    "list": [[], {}, "x" * 40],
}  # fmt: skip


def messages(form: Format) -> list[tuple[str, p.Part]]:
    """Return every kind of message once, by name; what it holds of documents is in the format."""
    document = to_wire(msgspec.msgpack.encode(DOCUMENT), form)
    null = to_wire(b"", form)
    failure = p.Failure(type="ValueError", message="no good", traceback="line 1")
    refusal = p.Error(code="overloaded", text="retry in 200 ms", retry_after_ms=200, details={"queue": "mail"})
    attempt = p.AttemptInfo(
        attempt=1, outcome="failed", session=SESSION, started_ms=AT_MS, ended_ms=AT_MS + 5, error=failure
    )
    info = p.TaskInfo(
        id=TASK, handler="mail.send", queue="mail", pool="acme", state="completed", priority=5, attempt=2, max_attempts=3,
        created_ms=AT_MS, due_ms=0, started_ms=AT_MS + 10, ended_ms=AT_MS + 20, key="", dedupe_key="order-42",
        session=SESSION, is_cancelling=False, payload=document, result=document, error=None, attempts=[attempt],
        permille=-1, note="",
    )  # fmt: skip
    credits_ = p.QueueCredit(queue="mail", pool="acme", free=8, seen=120)
    body = p.TaskBody(
        id=TASK, attempt=2, handler="mail.send", queue="mail", pool="acme", cost=1, payload=document, priority=5, key="",
        timeout_ms=300_000, deadline_ms=0, cancel_grace_ms=10_000, max_attempts=3, delivery="at_least_once",
        checkpoint=null, schedule="", tick_ms=0,
    )  # fmt: skip
    outcome = p.OutcomeIn(
        id=TASK, attempt=2, outcome="completed", result=document, started_ms=AT_MS + 10, ended_ms=AT_MS + 20
    )
    task = p.TaskIn(
        handler="mail.send", payload=document, queue="mail", priority=2, delay_ms=60_000, dedupe_key="order-42",
        retry=p.Retries(base_ms=500, cap_ms=60_000),
    )  # fmt: skip
    held = p.Held(id=TASK, attempt=2)
    told = p.Events(
        shard=7, epoch=3, number=12, at_ms=AT_MS, events=[(TASK, "", "queued", 0), (TASK, "queued", "running", 1)]
    )
    return [
        ("Ping", p.Ping()),
        ("Pong", p.Pong(version=1, product="0.1.0", shards=64, now_ms=AT_MS, max_payload=1_048_576)),
        ("Submit", p.Submit(tasks=[task], request_id="r-1")),
        ("Submitted", p.Submitted(tasks=[p.TaskOut(id=TASK), p.TaskOut(id=TASK, existing=True), p.TaskOut(error=refusal)])),
        ("Get", p.Get(ids=[TASK])),
        ("Found", p.Found(tasks=[info])),
        ("List", p.List(states=["queued", "dead"], queue="mail", before=TASK, limit=10)),
        ("Listed", p.Listed(tasks=[], next_before=TASK)),
        ("Cancel", p.Cancel(ids=[TASK], reason="by hand")),
        ("Retry", p.Retry(ids=[TASK], payload=document)),
        ("Answered", p.Answered(outcomes=["cancelled", "not_found"])),
        ("Wait", p.Wait(ids=[TASK], timeout_ms=60_000)),
        ("Ended", p.Ended(ended=[p.End(id=TASK, state="dead", attempt=3, result=null, error=failure)], alive=[])),
        ("Queues", p.Queues()),
        ("QueuesTold", p.QueuesTold(
            queues=[p.QueueInfo(queue="mail", accepted=10, waiting=2, running=1, paused_in=["acme"])])),
        ("Feed", p.Feed(cursor="41@2026-01-01T00:00:00.5Z", wait_ms=10_000)),
        ("FeedPage", p.FeedPage(
            messages=[told], start="41@2026-01-01T00:00:00.5Z", cursor="43@2026-01-01T00:00:00.5Z", at_end=True)),
        ("Events", told),
        ("Failed", p.Failed(error=refusal)),
        ("Register", p.Register(
            queues=[p.WorkerQueue(queue="mail", pool="acme")], slots=8, name="mailer", host="h1", pid=4_711,
            labels={"zone": "eu"})),
        ("Registered", p.Registered(
            session=SESSION, subject="foliot.v1.acme.worker.1234567890abcdef", bodies=f"foliot.v1.acme.bodies.{SESSION}",
            heartbeat_interval_ms=10_000, dead_after_ms=30_000)),
        ("Credits", p.Credits(session=SESSION, queues=[credits_])),
        ("Beat", p.Beat(session=SESSION, queues=[credits_], held=[held], done=119)),
        ("Outcomes", p.Outcomes(session=SESSION, outcomes=[outcome])),
        ("Taken", p.Taken(stale=[0])),
        ("Leave", p.Leave(session=SESSION)),
        ("Done", p.Done()),
        ("Push", p.Push(kind="run", tasks=[body])),
        ("Push", p.Push(kind="cancel", attempts=[held], reason="cancelled")),
    ]  # fmt: skip


def vectors() -> list[dict[str, Any]]:
    """Return all messages: `type` as in schema.json, `json` as a value, `msgpack` as hexadecimal digits."""
    return [
        {
            "type": name,
            "json": msgspec.json.decode(msgspec.json.encode(as_json)),
            "msgpack": msgspec.msgpack.encode(as_msgpack).hex(),
        }
        for (name, as_json), (_, as_msgpack) in zip(messages("json"), messages("msgpack"), strict=True)
    ]


def main() -> None:
    sys.stdout.write("[\n")
    sys.stdout.write(",\n".join(json.dumps(each, ensure_ascii=False) for each in vectors()))
    sys.stdout.write("\n]\n")


if __name__ == "__main__":
    main()
