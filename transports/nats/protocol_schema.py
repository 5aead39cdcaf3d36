"""The public protocol as JSON Schema (2020-12), made from the structs that decode it.

`python -m foliot.transports.nats.protocol_schema` prints what docs/protocol/schema.json holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from . import protocol as p

_ABOUT: Final = (
    "Requests and answers of the public protocol, by operation. In msgpack the maps are the same, and documents may hold "
    "bytes."
)


def schema() -> dict[str, Any]:
    """Return the schema of every operation: `operations` by name, with the subject, and `$defs` of all maps."""
    pairs: dict[str, tuple[type[p.Ask], type[p.Part]]] = {**p.CALLS, **p.WORKER_CALLS}
    types: list[type[p.Part]] = [each for pair in pairs.values() for each in pair]
    types += [p.Push, p.Events, p.Failed]
    references, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    found = iter(references)
    refused = {"$ref": "#/$defs/Failed"}
    operations = {
        op: {"subject": subject_of(op), "request": next(found), "answer": {"anyOf": [next(found), refused]}} for op in pairs
    }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Foliot, version {p.VERSION} of the public protocol",
        "description": _ABOUT,
        "operations": operations,
        "push": {"subject": "the session's `bodies`", "message": next(found)},
        "events": {"subject": f"{p.PREFIX}.v{p.VERSION}.<tenant>.events.<shard>", "message": next(found)},
        "$defs": {name: _plain(definitions[name]) for name in sorted(definitions)},
    }


def subject_of(op: str) -> str:
    """Return where an operation is asked."""
    if op == "worker.register" or op in p.CALLS:
        return f"{p.PREFIX}.v{p.VERSION}.<tenant>.{op}"
    return f"<subject>.{op.removeprefix('worker.')}"


def _plain(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition whose description is one line."""
    return {
        key: " ".join(value.split()) if key == "description" else value for key, value in definition.items()
    }  # fmt: skip


def main() -> None:
    json.dump(schema(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
