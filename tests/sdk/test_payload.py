"""Payloads: what goes in comes out as the signature says, and what does not fit is named."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgpack
import msgspec
import pytest
from foliot.sdk.app import Foliot
from foliot.sdk.payload import Packer, PayloadError, PayloadTooLargeError, ResultError, SignatureError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    TOP = 3


class Point(msgspec.Struct):
    x: int
    tags: set[str] = set()


class Tagged(msgspec.Struct, tag=True, array_like=True):
    when: datetime
    where: Point


@dataclasses.dataclass
class Address:
    street: str
    since: date


class Order(BaseModel):
    id: int
    lines: list[str] = Field(alias="rows", default=[])
    at: datetime | None = None


class Pair(NamedTuple):
    a: int
    b: str


NOW = datetime(2030, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
EXAMPLES = [
    (int, 5),
    (float, 1.5),
    (str, "grüße"),
    (bytes, b"\0\xff"),
    (bool, True),
    (None, None),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (Pair, Pair(1, "x")),
    (datetime, NOW),
    (datetime, datetime(2030, 1, 1)),  # noqa: DTZ001
    (date, date(2030, 1, 2)),
    (timedelta, timedelta(hours=5, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (Path, Path("/tmp/x")),
    (Colour, Colour.RED),
    (Level, Level.TOP),
    (Point, Point(1, {"a"})),
    (Tagged, Tagged(NOW, Point(2))),
    (Address, Address("Elm", date(2001, 2, 3))),
    (list[Address | None], [Address("Elm", date(2001, 2, 3)), None]),
    (Order, Order(id=1, rows=["a"], at=NOW)),
    (list[Order], [Order(id=1), Order(id=2)]),
    (Literal["a", "b"], "b"),
    (Annotated[int, msgspec.Meta(gt=0)], 4),
    (Any, {"deep": [1, {"er": None}]}),
]


@pytest.mark.parametrize(("kind", "value"), EXAMPLES, ids=lambda part: str(part)[:30])
def test_a_value_of_a_known_type_arrives_as_it_was(kind: Any, value: Any) -> None:
    def function(v) -> None: ...  # type: ignore[no-untyped-def]

    function.__annotations__["v"] = kind
    handler = Foliot("shop").task(function)

    payload = handler.encode((), {"v": value})

    assert handler.decode(payload) == {"v": value}
    assert type(handler.decode(payload)["v"]) is type(value)
    assert list(msgpack.unpackb(payload, timestamp=3, strict_map_key=False)) == ["v"]


@pytest.mark.parametrize(("kind", "value"), EXAMPLES, ids=lambda part: str(part)[:30])
def test_a_result_of_a_known_type_arrives_as_it_was(kind: Any, value: Any) -> None:
    def function() -> None: ...

    function.__annotations__["return"] = kind
    handler = Foliot("shop").task(function)

    assert handler.decode_result(handler.shape.encode_result(value)) == value


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_msgpack_value_survives(value: Any) -> None:
    def function(v: Any) -> None: ...

    handler = Foliot("shop").task(function)
    assert handler.decode(handler.encode((), {"v": value})) == {"v": value}


def example(order: int, note: str = "none", *, options: list[str] = ["a"]) -> None:  # noqa: B006
    """The signature most of the following is about."""


def by_position(order: int, point: Point | None = None, note: str = "none") -> None: ...


EXAMPLE = Foliot("shop").task(example)
POSITIONAL = Foliot("shop").task(by_position)


def test_defaults_are_filled_in_with_the_very_objects() -> None:
    decoded = EXAMPLE.decode(EXAMPLE.encode((), {"order": 1}))

    assert decoded == {"order": 1, "note": "none", "options": ["a"]}
    assert decoded["options"] is (example.__kwdefaults__ or {})["options"]


def test_arguments_can_be_given_by_position() -> None:
    assert POSITIONAL.decode(POSITIONAL.encode((1, Point(2)), {"note": "x"})) == {
        "order": 1,
        "point": Point(2),
        "note": "x",
    }


@pytest.mark.parametrize(
    ("args", "kwargs", "field", "text"),
    [
        ((), {}, "order", "field 'order' is missing, expected int"),
        ((), {"order": "x"}, "order", "field 'order' got str, expected int"),
        ((), {"order": 1, "nite": 2}, "nite", "field 'nite' is unknown, expected order, point, note"),
        ((), {"order": 1, "point": {"y": 1}}, "point.x", "field 'point.x' is missing, expected a value"),
        ((), {"order": 1, "point": {"x": "a"}}, "point.x", "field 'point.x' got str, expected int"),
        ((), {"order": 2**70}, "order", "field 'order' cannot be encoded: Integer value out of range, expected int"),
        ((), {"order": object()}, "order", "field 'order' cannot be encoded: cannot encode a value of type object"),
        ((1,), {"order": 1}, "order", "field 'order' was given twice, expected one value"),
        ((1, None, "a", 4), {}, "", "has 4 positional arguments, expected order, point, note"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_submission(
    args: tuple[Any, ...], kwargs: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        POSITIONAL.encode(args, kwargs)

    assert str(caught.value).startswith(f"payload of 'shop.by_position': {text}")
    assert caught.value.field == field
    assert caught.value.handler == "shop.by_position"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "is not msgpack"),
        (b"\xc1", "is not msgpack"),
        (b"\x81\xa5ord\xd9r\x01", "is not msgpack"),
        (msgpack.packb([1]), "is a msgpack array, expected a map of named arguments"),
        (msgpack.packb(None), "is a msgpack None, expected a map of named arguments"),
        (msgpack.packb({1: 2}), "expected a map of named arguments"),
        (msgpack.packb({"order": 1.5}), "field 'order' got float, expected int"),
    ],
)
def test_a_payload_from_elsewhere_is_checked_too(payload: bytes, text: str) -> None:
    with pytest.raises(PayloadError, match=r"payload of 'shop.by_position'") as caught:
        POSITIONAL.decode(payload)
    assert text in str(caught.value)


def test_a_payload_that_is_nested_without_end_is_refused() -> None:
    def function(anything: Any) -> None: ...

    handler = Foliot("shop").task(function)
    with pytest.raises(PayloadError, match="is not msgpack: maximum recursion depth"):
        handler.decode(b"\x81\xa8anything" + b"\x91" * 100_000)


def test_a_pydantic_error_names_the_field() -> None:
    def function(order: Order) -> None: ...

    handler = Foliot("shop").task(function)
    with pytest.raises(PayloadError, match=r"field 'order' is refused: 1 validation error(.|\n)*id(.|\n)*integer"):
        handler.encode((), {"order": {"id": "x"}})


def test_a_payload_over_the_limit_is_refused_with_both_sizes() -> None:
    def function(text: str) -> None: ...

    handler = Foliot("shop", payload_limit=1_000).task(function)
    handler.encode((), {"text": "x" * 900})
    with pytest.raises(PayloadTooLargeError, match=r"has 2,009 bytes, expected at most 1,000") as caught:
        handler.encode((), {"text": "x" * 2_000})
    assert (caught.value.size, caught.value.limit) == (2_009, 1_000)


def test_a_result_that_is_no_data_is_refused() -> None:
    with pytest.raises(ResultError, match=r"result of 'shop.example' of type object cannot be encoded"):
        EXAMPLE.shape.encode_result(object())
    with pytest.raises(ResultError, match="has 1,048,581 bytes, expected at most 1,048,576"):
        EXAMPLE.shape.encode_result("x" * (1 << 20))


def test_no_result_is_no_bytes() -> None:
    assert EXAMPLE.shape.encode_result(None) == b""
    assert EXAMPLE.decode_result(b"") is None


def test_a_result_that_no_longer_fits_its_annotation_stays_readable() -> None:
    def function() -> int: ...  # type: ignore[empty-body]

    result: object = Foliot("shop").task(function).decode_result(Packer().pack({"a": 1}))
    assert result == {"a": 1}


def test_a_deep_value_is_refused_not_a_crash() -> None:
    def function(v: Any) -> None: ...

    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(PayloadError, match="field 'v' cannot be encoded"):
        Foliot("shop").task(function).encode((), {"v": deep})


class NoData:
    """Not something a payload can carry."""


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def f(*args): ...", "parameter 'args' of 'shop.f' is variadic positional"),
        ("def f(**kwargs): ...", "parameter 'kwargs' of 'shop.f' is variadic keyword"),
        ("def f(a, /): ...", "parameter 'a' of 'shop.f' is positional-only"),
        ("def f(a: NoData): ...", "parameter 'a' of 'shop.f' has type NoData, which is no data"),
        ("def f(a: list[NoData]): ...", "parameter 'a' of 'shop.f' has type NoData, which is no data"),
        ("def f(a: 'Missing'): ...", "the signature of 'shop.f' cannot be read: name 'Missing' is not defined"),
        ("def f(a: int, c: Context): ...", "parameter 'c' of 'shop.f' is a Context, expected the context as first"),
        ("def f(): yield 1", "the signature of 'shop.f' is that of a generator"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_where_it_is_written(code: str, text: str) -> None:
    from foliot.sdk.context import Context

    names: dict[str, Any] = {"NoData": NoData, "Context": Context}
    exec(code, names)
    with pytest.raises(SignatureError) as caught:
        Foliot("shop").task(names["f"])
    assert str(caught.value).startswith(text)
