"""The app and its decorator: names, templates, and options refused where they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from foliot.actors.messages import RetryPolicy, Template
from foliot.runtime.errors import UsageError
from foliot.sdk.app import AsyncHandler, DuplicateHandlerError, Foliot, PlainHandler, UnknownTaskError
from foliot.sdk.context import Context
from foliot.sdk.options import InvalidOptionError, Retry, parse_priority
from foliot.sdk.payload import PayloadError


def double(number: int) -> int:
    return number * 2


async def greet(ctx: Context, name: str = "you") -> str:
    return f"hello {name}"


def keyed(order_id: int, shop: str = "main") -> None: ...


def test_a_handler_is_named_after_app_and_function() -> None:
    app = Foliot("shop")

    assert app.task(double).name == "shop.double"
    assert app.task(name="other.name")(double).name == "other.name"
    assert list(app.handlers) == ["shop.double", "other.name"]


async def test_a_handler_is_still_the_function_it_was() -> None:
    app = Foliot("shop")
    plain, coroutine = app.task(double), app.task(queue="mail")(greet)

    assert isinstance(plain, PlainHandler)
    assert isinstance(coroutine, AsyncHandler)
    assert plain(4) == 8
    assert await coroutine(None, name="Ada") == "hello Ada"  # type: ignore[arg-type]
    assert (coroutine.__name__, coroutine.__module__, coroutine.__wrapped__) == ("greet", __name__, greet)


def test_without_options_the_defaults_of_the_requirements_hold() -> None:
    handler = Foliot("shop").task(double)

    assert handler.template == Template("shop.double")
    assert handler.default_priority == 5
    assert handler.mode == "thread"
    assert not handler.takes_context


def test_every_option_reaches_the_template() -> None:
    handler = Foliot("shop").task(
        queue="mail", pool="big", max_attempts=5, timeout="30s", priority="high", cost=2,
        retry=Retry(base="2s", factor=3, cap="1m", jitter=False, fatal=(ValueError, "shop.Broken"), retry_on=OSError),
        wait_timeout="1h", total_timeout="2h", heartbeat_timeout="5s", cancel_grace="1s", delivery="exactly_once",
        require=["gpu=true"], prefer=["zone in (a,b)"], key="number", key_limit=2, key_rate="10/min",
        isolation="thread", dead_letter=False, dedupe_window="1h", on_conflict="reject", result="discard",
    )(double)  # fmt: skip

    assert handler.template == Template(
        handler="shop.double", queue="mail", pool="big", cost=2, max_attempts=5,
        retry=RetryPolicy(2_000, 3.0, 60_000, False, ("ValueError", "shop.Broken"), ("OSError",)),
        timeout_ms=30_000, wait_timeout_ms=3_600_000, total_timeout_ms=7_200_000, heartbeat_timeout_ms=5_000,
        cancel_grace_ms=1_000, delivery="exactly_once", require=("gpu=true",), prefer=("zone in (a,b)",),
        key_limit=2, key_rate=10, key_rate_ms=60_000, dead_letter=False, dedupe_window_ms=3_600_000,
        on_conflict="reject",
    )  # fmt: skip
    assert handler.default_priority == 2
    assert not handler.keeps_result


def test_no_timeout_is_no_limit() -> None:
    assert Foliot("shop").task(timeout=None)(double).template.timeout_ms == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue": "a b"}, "option 'queue' of 'shop.double' is 'a b', expected 1 to 64 letters, digits, '_' and '-'"),
        ({"queue": 3}, "option 'queue' of 'shop.double' is 3, expected 1 to 64"),
        ({"pool": ""}, "option 'pool' of 'shop.double' is '', expected 1 to 64"),
        ({"max_attempts": 0}, "option 'max_attempts' of 'shop.double' is 0, expected a whole number from 1 to"),
        ({"max_attempts": 2.5}, "option 'max_attempts' of 'shop.double' is 2.5, expected a whole number"),
        ({"cost": True}, "option 'cost' of 'shop.double' is True, expected a whole number from 1"),
        ({"timeout": "-3s"}, "option 'timeout' of 'shop.double' is '-3s', expected a span such as"),
        ({"timeout": float("nan")}, "option 'timeout' of 'shop.double' is nan, expected a span such as"),
        ({"cancel_grace": "soon"}, "option 'cancel_grace' of 'shop.double' is 'soon', expected a span"),
        ({"priority": "urgent"}, "option 'priority' of 'shop.double' is 'urgent', expected critical, high, normal"),
        ({"priority": 10}, "option 'priority' of 'shop.double' is 10, expected critical, high, normal"),
        ({"retry": 3}, "option 'retry' of 'shop.double' is 3, expected Retry("),
        ({"retry": Retry(factor=0.5)}, "option 'retry.factor' of 'shop.double' is 0.5, expected a number from 1"),
        ({"retry": Retry(base="x")}, "option 'retry.base' of 'shop.double' is 'x', expected a span"),
        ({"retry": Retry(fatal=(3,))}, "option 'retry.fatal' of 'shop.double' is 3, expected exception types"),  # type: ignore[arg-type]
        ({"delivery": "twice"}, "option 'delivery' of 'shop.double' is 'twice', expected 'at_most_once' or"),
        ({"require": "gpu"}, "option 'require' of 'shop.double' is 'gpu', expected a list of requirements"),
        ({"prefer": ["mem>="]}, "option 'prefer' of 'shop.double' is 'mem>=', expected a list of requirements"),
        ({"key": "nomber"}, "option 'key' of 'shop.double' is 'nomber', expected the name of one of its parameters"),
        ({"key": 5}, "option 'key' of 'shop.double' is 5, expected a parameter's name or a function"),
        ({"key_rate": "fast"}, "option 'key_rate' of 'shop.double' is 'fast', expected a rate such as"),
        ({"isolation": "vm"}, "option 'isolation' of 'shop.double' is 'vm', expected nothing or 'thread' or 'process'"),
        ({"dead_letter": 1}, "option 'dead_letter' of 'shop.double' is 1, expected True or False"),
        ({"on_conflict": "x"}, "option 'on_conflict' of 'shop.double' is 'x', expected 'return_existing' or"),
        ({"result": "x"}, "option 'result' of 'shop.double' is 'x', expected 'keep' or 'discard'"),
        ({"qeue": "mail"}, "option 'qeue' of 'shop' is 'mail', expected one of queue, pool, max_attempts"),
        ({"name": "no name"}, "handler 'no name' is not a name"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_written(options: dict[str, Any], text: str) -> None:
    app = Foliot("shop")
    with pytest.raises(UsageError) as caught:
        app.task(**options)(double)
    assert str(caught.value).startswith(text)
    assert not app.handlers


def test_a_local_function_cannot_run_in_a_child_process() -> None:
    def local() -> None: ...

    with pytest.raises(InvalidOptionError, match="expected a function at the top of a module"):
        Foliot("shop").task(isolation="process")(local)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the signature of 'shop.Thing' is that of a type, expected a function"):
        Foliot("shop").task(type("Thing", (), {}))


def test_two_functions_of_one_name_are_refused() -> None:
    app = Foliot("shop")
    app.task(double)
    with pytest.raises(DuplicateHandlerError, match=r"handler 'shop.double' is already .*test_app.double"):
        app.task(name="shop.double")(keyed)


def test_an_unknown_handler_is_named_with_the_known_ones() -> None:
    app = Foliot("shop")
    app.task(double)
    with pytest.raises(UnknownTaskError, match=r"handler 'shop.triple' is unknown, expected one of shop.double"):
        app.handler("shop.triple")


def test_the_context_is_the_first_parameter_by_annotation_or_name() -> None:
    def named(ctx, number: int): ...  # type: ignore[no-untyped-def]

    def value(ctx: int) -> None: ...

    app = Foliot("shop")
    assert app.task(greet).takes_context
    assert app.task(named).takes_context
    assert not app.task(value).takes_context
    assert app.task(greet).decode(b"\x80") == {"name": "you"}


@pytest.mark.parametrize(
    ("key", "kwargs", "found"),
    [
        (None, {"order_id": 1}, ""),
        ("order_id", {"order_id": 1}, "1"),
        ("shop", {"order_id": 1}, "main"),
        (lambda a: f"{a['shop']}/{a['order_id']}", {"order_id": 2}, "main/2"),
        (lambda _: None, {"order_id": 2}, ""),
    ],
)
def test_the_concurrency_key_comes_from_the_arguments(key: Any, kwargs: dict[str, Any], found: str) -> None:
    handler = Foliot("shop").task(key=key)(keyed)
    payload, got = handler.prepare((), kwargs)
    assert got == found
    assert handler.key_of(handler.decode(payload)) == found


def test_a_key_function_that_fails_refuses_the_submission() -> None:
    def broken(arguments: Mapping[str, Any]) -> str:
        return str(arguments["missing"])

    with pytest.raises(PayloadError, match="gives no concurrency key: KeyError: 'missing'"):
        Foliot("shop").task(key=broken)(keyed).prepare((), {"order_id": 1})
    with pytest.raises(PayloadError, match="a concurrency key of 300 characters, expected at most 200"):
        Foliot("shop").task(key=lambda _: "x" * 300)(keyed).prepare((), {"order_id": 1})


@pytest.mark.parametrize(
    ("written", "number"), [("critical", 0), ("HIGH", 2), ("normal", 5), ("medium", 5), ("low", 8), (0, 0), (9, 9)]
)
def test_priorities_have_names_and_numbers(written: str | int, number: int) -> None:
    assert parse_priority(written) == number


def test_the_queues_of_an_app_are_those_of_its_handlers() -> None:
    app = Foliot("shop")
    app.task(queue="mail")(double)
    app.task(queue="mail", name="b")(keyed)
    app.task(pool="big")(greet)
    assert app.queues() == [("default", "mail"), ("big", "default")]
