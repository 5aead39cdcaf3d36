"""Payloads and results: a msgpack map of named arguments, checked against the handler's signature on both sides.

Encoding goes through the `msgpack` package, so any language can write a payload; decoding and validation is one C call
into a `msgspec.Struct` built from the signature. What does not fit is refused with the field and what was expected.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import msgpack
import msgspec

from ..runtime.errors import UsageError

DEFAULT_LIMIT: Final = 1 << 20  # bytes of one payload, and of one result

_AT = re.compile(r"(?s)(.*) - at `(?:key` in `)?\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_MISMATCH = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding raises
_MSGSPEC_KNOWS: Final = (msgspec.Struct, UUID, Decimal, date, time, timedelta)
_PLAIN_DEFAULTS: Final = (int, float, str, bytes, bool, type(None), tuple, frozenset, Enum)


class PayloadError(UsageError):
    """Arguments that do not fit the handler's signature. `field` is empty where the payload as a whole is meant."""

    code = "payload"

    def __init__(self, handler: str, field: str, problem: str, expected: str) -> None:
        where = f"field {field!r} " if field else ""
        super().__init__(f"payload of {handler!r}: {where}{problem}" + (f", expected {expected}" if expected else ""))
        self.handler = handler
        self.field = field
        self.problem = problem
        self.expected = expected


class PayloadTooLargeError(PayloadError):
    """A payload over the limit: put the data elsewhere and pass a reference to it."""

    code = "payload_too_large"

    def __init__(self, handler: str, size: int, limit: int) -> None:
        super().__init__(handler, "", f"has {size:,} bytes", f"at most {limit:,}")
        self.size = size
        self.limit = limit


class ResultError(UsageError):
    """A result that cannot be kept: not a msgpack value, or too large."""

    code = "result"

    def __init__(self, handler: str, problem: str, expected: str) -> None:
        super().__init__(f"result of {handler!r} {problem}, expected {expected}")
        self.handler = handler
        self.expected = expected


class SignatureError(UsageError):
    """A function that cannot be a handler as it is written."""

    code = "signature"

    def __init__(self, handler: str, parameter: str, problem: str, expected: str) -> None:
        what = f"parameter {parameter!r} of {handler!r}" if parameter else f"the signature of {handler!r}"
        super().__init__(f"{what} {problem}, expected {expected}")
        self.handler = handler
        self.parameter = parameter
        self.expected = expected


class Packer:
    """Turns values into msgpack. The fast packer knows plain types only and so runs no Python code inside: one C call,
    which no other thread can come between. Whatever it refuses is packed again by one of its own, with the hook."""

    __slots__ = ("_fast",)

    def __init__(self) -> None:
        self._fast: Callable[[Any], bytes] = msgpack.Packer(datetime=True, strict_types=True, buf_size=4096).pack

    def pack(self, value: Any) -> bytes:
        """Return the bytes of `value`. Raises: TypeError, ValueError, OverflowError."""
        try:
            return self._fast(value)
        except (TypeError, ValueError):
            pass
        packed: bytes = msgpack.packb(value, datetime=True, strict_types=True, default=to_plain)
        return packed


def to_plain(value: Any) -> Any:
    """Return one level of `value` in types msgpack has. Raises: TypeError if it is no data."""
    match value:
        case Enum():
            return value.value
        case tuple() | list():
            return list(value)
        case set() | frozenset():  # in an order that does not depend on the process
            return sorted(value, key=lambda item: (type(item).__name__, repr(item)))
        case Mapping():
            return dict(value)
        case bool():
            return bool(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str.__str__(value)
        case PurePath():
            return str(value)
        case datetime():  # without a time zone; with one it is a timestamp and never comes here
            return value.isoformat()
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, _MSGSPEC_KNOWS):
        return msgspec.to_builtins(value, builtin_types=(bytes, datetime), enc_hook=to_plain)
    raise TypeError(f"cannot encode a value of type {type(value).__qualname__}")


def _from_plain(kind: type, value: Any) -> Any:
    """Build the types msgspec leaves to its caller."""
    if issubclass(kind, PurePath):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return kind(value)
    if _is_pydantic(kind):
        # As JSON, so that strict models take dates and the like in the form they were sent.
        return kind.model_validate_json(msgspec.json.encode(value))  # type: ignore[attr-defined]
    raise TypeError(f"cannot build a {kind.__qualname__}")


def _is_pydantic(kind: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


class Shape:
    """What a handler takes and gives: a signature, turned once into an encoder and a validating decoder."""

    __slots__ = (
        "_decode",
        "_decode_result",
        "_expected",
        "_names",
        "_packer",
        "_positional",
        "handler",
        "limit",
        "struct",
    )

    def __init__(
        self, handler: str, parameters: list[inspect.Parameter], hints: dict[str, Any], *, limit: int = DEFAULT_LIMIT
    ) -> None:
        """`parameters` without the context. Raises: SignatureError."""
        self.handler = handler
        self.limit = limit
        self._packer = Packer()
        self._names = tuple(parameter.name for parameter in parameters)
        self._positional = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
        self._expected: dict[str, str] = {}
        fields: list[Any] = []
        for parameter in parameters:
            annotation = self._annotation(parameter, hints)
            self._expected[parameter.name] = _type_text(parameter.annotation if parameter.annotation else annotation)
            default = parameter.default
            if default is parameter.empty:
                fields.append((parameter.name, annotation))
            elif isinstance(default, _PLAIN_DEFAULTS):
                fields.append((parameter.name, annotation, default))
            else:  # the very object, as in a plain call
                fields.append((parameter.name, annotation, msgspec.field(default_factory=_constant(default))))
        try:
            self.struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
            self._decode = msgspec.msgpack.Decoder(self.struct, dec_hook=_from_plain).decode
        except TypeError as error:
            raise SignatureError(handler, "", f"cannot be a payload: {error}", "types msgspec or pydantic know") from error
        self._decode_result = self._result_decoder(hints.get("return", Any))

    # -- arguments ----------------------------------------------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the payload. Raises: PayloadError, PayloadTooLargeError."""
        return self.prepare(args, kwargs)[0]

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, Any]:
        """Return the payload and the arguments it will arrive as. Raises: PayloadError, PayloadTooLargeError."""
        named = self._bind(args, kwargs) if args else kwargs
        try:
            payload = self._packer.pack(named)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._not_encodable(named, error) from error
        if len(payload) > self.limit:
            raise PayloadTooLargeError(self.handler, len(payload), self.limit)
        return payload, self.arguments(payload)

    def arguments(self, payload: bytes) -> Any:
        """Return the struct of arguments, defaults filled in. Raises: PayloadError."""
        try:
            return self._decode(payload)
        except _UNREADABLE as error:
            raise self._not_fitting(error) from error

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return the arguments by name, defaults filled in. Raises: PayloadError."""
        return msgspec.structs.asdict(self.arguments(payload))

    def caller(self, function: Callable[..., Any], *, takes_context: bool) -> Callable[..., Any]:
        """Return a function of (payload) or (payload, context) that calls `function` with the arguments. Its own
        validation errors are PayloadError; what `function` raises passes through."""
        decode, refuse = self._decode, self._not_fitting
        astuple, asdict = msgspec.structs.astuple, msgspec.structs.asdict
        positional = self._positional

        def call(payload: bytes, *context: Any) -> Any:
            try:
                arguments = decode(payload)
            except _UNREADABLE as error:
                raise refuse(error) from error
            if positional:
                return function(*context, *astuple(arguments))
            return function(*context, **asdict(arguments))

        def call_fast(payload: bytes) -> Any:
            try:
                arguments = decode(payload)
            except _UNREADABLE as error:
                raise refuse(error) from error
            return function(*astuple(arguments))

        return call_fast if positional and not takes_context else call

    # -- results ----------------------------------------------------------------------------------------------------

    def encode_result(self, value: Any) -> bytes:
        """Return the result's bytes; None is no bytes at all. Raises: ResultError."""
        if value is None:
            return b""
        try:
            data = self._packer.pack(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ResultError(
                self.handler, f"of type {type(value).__qualname__} cannot be encoded: {error}", "a msgpack value"
            ) from error
        if len(data) > self.limit:
            raise ResultError(self.handler, f"has {len(data):,} bytes", f"at most {self.limit:,}")
        return data

    def decode_result(self, data: bytes) -> Any:
        """Return the result as the annotated type where it fits that, plain otherwise: a finished task stays readable
        when its handler's annotation changes."""
        if not data:
            return None
        try:
            return self._decode_result(data)
        except msgspec.ValidationError:
            return msgspec.msgpack.decode(data)

    # -- in words ----------------------------------------------------------------------------------------------------

    def _annotation(self, parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(self.handler, name, f"is {parameter.kind.description}", "parameters that have a name each")
        annotation = hints.get(name, Any)
        if annotation is object:
            return Any
        try:
            unknown = _custom_types(msgspec.inspect.type_info(annotation))
        except TypeError as error:
            raise SignatureError(self.handler, name, f"has a type of no use: {error}", "a type msgspec knows") from error
        for kind in unknown:
            if not _is_pydantic(kind) and not issubclass(kind, PurePath):
                raise SignatureError(
                    self.handler, name, f"has type {kind.__qualname__}, which is no data",
                    "builtin types, dataclasses, msgspec Structs or pydantic models",
                )  # fmt: skip
        return annotation

    def _result_decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        try:
            return msgspec.msgpack.Decoder(annotation, dec_hook=_from_plain).decode
        except TypeError:
            return msgspec.msgpack.decode

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = self._names
        if len(args) > len(names) or not self._positional:
            raise PayloadError(
                self.handler, "", f"has {len(args)} positional arguments", f"{self._names_text()}, by name if in doubt"
            )
        named = dict(zip(names, args, strict=False))
        for name in kwargs:
            if name in named:
                raise PayloadError(self.handler, name, "was given twice", "one value")
        named.update(kwargs)
        return named

    def _not_encodable(self, named: Mapping[str, Any], error: Exception) -> PayloadError:
        for name, value in named.items():
            try:
                self._packer.pack(value)
            except (TypeError, ValueError, OverflowError) as own:
                text = "a whole number of at most 64 bits" if isinstance(own, OverflowError) else "data"
                return PayloadError(self.handler, name, f"cannot be encoded: {own}", self._expected.get(name, text))
        return PayloadError(self.handler, "", f"cannot be encoded: {error}", self._names_text())

    def _not_fitting(self, error: Exception) -> PayloadError:
        text = str(error)
        if not isinstance(error, msgspec.ValidationError):
            return PayloadError(self.handler, "", f"is not msgpack: {text}", "a map of named arguments")
        found = _AT.fullmatch(text)
        text, path = (found[1], found[2]) if found else (text, "")
        if unknown := _UNKNOWN.fullmatch(text):
            if not path:
                return PayloadError(self.handler, unknown[1], "is unknown", self._names_text())
            return PayloadError(self.handler, f"{path}.{unknown[1]}", "is unknown", "only the fields of its type")
        if missing := _MISSING.fullmatch(text):
            field = f"{path}.{missing[1]}" if path else missing[1]
            return PayloadError(self.handler, field, "is missing", self._expected.get(field, "a value"))
        if mismatch := _MISMATCH.fullmatch(text):
            if not path:
                return PayloadError(self.handler, "", f"is a msgpack {mismatch[2]}", "a map of named arguments")
            return PayloadError(self.handler, path, f"got {mismatch[2]}", mismatch[1].replace(" | ", " or "))
        return PayloadError(self.handler, path, f"is refused: {text}", self._expected.get(path, ""))

    def _names_text(self) -> str:
        return ", ".join(self._names) if self._names else "no arguments"


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _type_text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if annotation is Any or annotation is inspect.Parameter.empty:
        return "a value"
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _custom_types(info: msgspec.inspect.Type) -> list[type]:
    """Return the classes inside a type that msgspec leaves to its caller, Structs and dataclasses not entered."""
    match info:
        case msgspec.inspect.CustomType(cls):
            return [cls] if cls is not object else []
        case msgspec.inspect.UnionType(types):
            return [kind for part in types for kind in _custom_types(part)]
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return _custom_types(key) + _custom_types(value)
        case msgspec.inspect.TupleType(item_types=items):
            return [kind for part in items for kind in _custom_types(part)]
        case msgspec.inspect.Metadata(type=inner):
            return _custom_types(inner)
        case msgspec.inspect.CollectionType(item_type=item):
            return _custom_types(item)
    return []
