"""docs/protocol/: the schema and the vectors say what the code does, and other libraries read them alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from foliot.transports.nats import protocol as p
from foliot.transports.nats.protocol_codec import (
    Codec,
    DocumentError,
    PublicVersionError,
    RequestUnreadableError,
    to_store,
    to_wire,
)
from foliot.transports.nats.protocol_schema import schema
from msgspec import Raw

from .vectors import vectors

DOCS = Path(__file__).resolve().parents[2] / "docs" / "protocol"


def test_the_published_schema_is_the_codes() -> None:
    published = json.loads((DOCS / "schema.json").read_text(encoding="utf-8"))

    assert published == json.loads(json.dumps(schema())), "python -m foliot.transports.nats.protocol_schema makes it"


def test_the_published_vectors_are_what_the_code_writes() -> None:
    published = json.loads((DOCS / "vectors.json").read_text(encoding="utf-8"))

    assert published == vectors(), "python -m foliot.tests.protocol.vectors makes them"


def test_every_message_has_a_vector_and_a_schema() -> None:
    pairs = (*p.CALLS.values(), *p.WORKER_CALLS.values())
    names = {each.__name__ for pair in pairs for each in pair} | {"Push", "Events", "Failed"}

    assert {vector["type"] for vector in vectors()} == names
    assert names <= set(schema()["$defs"])


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["type"])
def test_another_library_reads_and_writes_the_same_bytes(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["msgpack"])

    assert msgpack.unpackb(data) == vector["json"]
    assert msgpack.packb(vector["json"]) == data


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["type"])
def test_a_vector_fits_its_own_schema(vector: dict[str, Any]) -> None:
    assert list(misfits(vector["json"], {"$ref": f"#/$defs/{vector['type']}"}, schema()["$defs"], "$")) == []


def test_the_small_validator_finds_what_does_not_fit() -> None:
    wrong = {"slots": 0, "queues": [{"queue": "no name!"}], "labels": {"a": 1}, "pid": "x"}

    found = misfits(wrong, {"$ref": "#/$defs/Register"}, schema()["$defs"], "$")

    assert sorted(found) == ["$.labels.a: type", "$.pid: type", "$.queues[0].queue: pattern", "$.slots: minimum"]


@pytest.mark.parametrize("op", [*p.CALLS, *p.WORKER_CALLS])
def test_requests_of_both_formats_are_read_as_one(op: str) -> None:
    name = {**p.CALLS, **p.WORKER_CALLS}[op][0].__name__
    vector = next(each for each in vectors() if each["type"] == name)
    codec = Codec({**p.CALLS, **p.WORKER_CALLS})

    as_json = codec.read(op, json.dumps(vector["json"]).encode(), "json")
    as_msgpack = codec.read(op, bytes.fromhex(vector["msgpack"]), "msgpack")

    assert _without_documents(as_json) == _without_documents(as_msgpack)


def _without_documents(part: Any) -> Any:
    if isinstance(part, Raw):
        return bool(bytes(part))
    if isinstance(part, list):
        return [_without_documents(each) for each in part]
    if isinstance(part, msgspec.Struct):
        return {name: _without_documents(getattr(part, name)) for name in part.__struct_fields__}
    return part


# -- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\x80\x80", b"\x81", b"\xc1", b"\x91\x80", b"\x81\xa3ids\x90", b"\x91" * 100_000])
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(RequestUnreadableError, match="the request 'submit' cannot be read"):
        Codec(p.CALLS).read("submit", data, "msgpack")


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"tasks":[}', b'{"tasks":1e999}', b"[" * 100_000, b'{"tasks":"\xff"}'])
def test_text_that_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(RequestUnreadableError, match="the request 'submit' cannot be read"):
        Codec(p.CALLS).read("submit", data, "json")


def test_another_version_is_refused() -> None:
    with pytest.raises(PublicVersionError, match="version 2 of the protocol, expected 1"):
        Codec(p.CALLS).read("ping", b'{"version":2}', "json")


@pytest.mark.parametrize("text", [b"18446744073709551616", b"-9223372036854775809", b"[" * 50_000 + b"]" * 50_000])
def test_json_that_msgpack_does_not_have_is_refused(text: bytes) -> None:
    with pytest.raises(DocumentError, match="expected numbers of at most 64 bits and moderate depth"):
        to_store(Raw(text), "json")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "null"),
        (b"\xc1", '"wQ=="'),
        (b"\x91" * 5_000 + b"\xc0", None),
        (msgpack.packb({1: {(): 2}, None: b"\x00"}), '{"1":{"[]":2},"null":"AA=="}'),
        (msgpack.packb([float("nan"), 1.5]), "[null,1.5]"),
    ],
)
def test_every_document_can_be_shown_as_json(data: bytes, text: str | None) -> None:
    shown = bytes(to_wire(data, "json"))

    assert shown.decode() == text or (text is None and json.loads(shown))


# -- a small validator, of what the schema uses --------------------------------------------------------------------------


def misfits(value: Any, rule: Any, definitions: dict[str, Any], at: str) -> Any:
    """Yield where a value does not fit its schema."""
    if "$ref" in rule:
        yield from misfits(value, definitions[rule["$ref"].rpartition("/")[2]], definitions, at)
        return
    if "anyOf" in rule:
        if not any(not list(misfits(value, each, definitions, at)) for each in rule["anyOf"]):
            yield f"{at}: anyOf"
        return
    if "enum" in rule and value not in rule["enum"]:
        yield f"{at}: enum"
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if "type" in rule and not isinstance(value, kinds[rule["type"]]):
        yield f"{at}: type"
        return
    if "minimum" in rule and value < rule["minimum"]:
        yield f"{at}: minimum"
    if "maximum" in rule and value > rule["maximum"]:
        yield f"{at}: maximum"
    if "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{at}: pattern"
    if isinstance(value, list) and ("items" in rule or "prefixItems" in rule):
        rules = rule.get("prefixItems") or [rule["items"]] * len(value)
        if len(rules) != len(value):
            yield f"{at}: length"
        for number, (item, inner) in enumerate(zip(value, rules, strict=False)):
            yield from misfits(item, inner, definitions, f"{at}[{number}]")
    if isinstance(value, dict):
        for name in rule.get("required", []):
            if name not in value:
                yield f"{at}.{name}: missing"
        for name, item in value.items():
            inner = rule.get("properties", {}).get(name, rule.get("additionalProperties"))
            if inner:
                yield from misfits(item, inner, definitions, f"{at}.{name}")
