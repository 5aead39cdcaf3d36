"""The outside world of a user's test: services that handlers call, which count what really happened.

A service answers any operation. It can be slow, refuse, be away, or do what it was asked for and lose the answer, so that
the caller sees a timeout: what finds handlers that do something twice. It is beyond the cluster: crashes do not touch it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from ..runtime.errors import UsageError
from ..runtime.ids import to_text
from ..runtime.rng import Rng
from ..sdk import capture
from ..sdk.attempt import Attempt
from ..sdk.durations import Span, parse_span
from .loop import MS
from .process import Process
from .strands import Strands

Reply = Callable[..., Any]
_KEY_NAMES: Final = ("key", "idempotency_key", "dedupe_key")
_MILLION: Final = 1_000_000
HAPPENED: Final = ("done", "lost")
"""The outcomes of calls that had an effect."""


class ServiceError(ConnectionError):
    """A simulated service did not do what it was asked for; nothing happened."""


class ServiceTimeoutError(TimeoutError):
    """No answer came from a simulated service; it may have done what it was asked for."""


class UnknownServiceError(UsageError):
    """Effects of a service that the test has not made."""

    code = "unknown_service"

    def __init__(self, name: str, known: list[str]) -> None:
        names = ", ".join(known) or "those that sim.service has made, which are none"
        super().__init__(f"there is no service {name!r}, expected one of {names}")
        self.name = name


class ServiceOverError(UsageError):
    """A service that an earlier test has left somewhere."""

    code = "service_over"

    def __init__(self, name: str) -> None:
        super().__init__(f"service {name!r} belongs to a simulation that has ended, expected one that this test has made")
        self.name = name


class InvalidChanceError(UsageError):
    """A probability that is none."""

    code = "invalid_chance"

    def __init__(self, what: str, value: object) -> None:
        super().__init__(f"{what} {value!r} is no probability, expected a number from 0 to 1")
        self.what = what
        self.value = value


@dataclass(frozen=True)
class Call:
    """One call. `outcome`: done, lost (done, but the caller was not told), repeated (its key was known), refused (by the
    reply), failed (by chance, or the service was away). `task_id`: empty if the test itself called."""

    service: str
    operation: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: str
    task_id: str
    attempt: int
    process: str
    at: datetime
    outcome: str

    @property
    def happened(self) -> bool:
        return self.outcome in HAPPENED


class Surroundings(Protocol):
    """What a service needs of the run."""

    @property
    def strands(self) -> Strands: ...
    @property
    def now(self) -> datetime: ...
    def here(self) -> Process | None:
        """Return the process whose step runs, None outside of the cluster."""
        ...

    def note(self, kind: str, /, **fields: Any) -> None: ...


@dataclass
class _Trouble:
    """How bad the service is. Chances in millionths."""

    least_ns: int = MS
    most_ns: int = 5 * MS
    fail: int = 0
    lose: int = 0
    timeout_ns: int = 5_000 * MS
    error: Callable[[], BaseException] = field(default=lambda: ServiceError("the service failed"))
    is_down: bool = False


class Service:
    """A simulated service. Any attribute is an operation: `await bank.charge(order=1)` in a coroutine, and without `await`
    in a plain handler."""

    def __init__(
        self, name: str, surroundings: Surroundings, rng: Rng, *, key: str = "", idempotent: bool = False
    ) -> None:  # fmt: skip
        self._name = name
        self._surroundings = surroundings
        self._bits = rng.stream(f"service/{name}").bits
        self._key_name = key
        self._is_idempotent = idempotent
        self._replies: dict[str, Reply] = {}
        self._answers: dict[tuple[str, str], Any] = {}  # by (operation, key)
        self._trouble = _Trouble()
        self._is_over = False
        self.calls: list[Call] = []

    # -- how it behaves ------------------------------------------------------------------------------------------------

    def on(self, operation: str, reply: Reply) -> Service:
        """Answer an operation with what `reply` returns for its arguments; what it raises is the service's refusal."""
        self._replies[operation] = reply
        return self

    def latency(self, least: Span, most: Span | None = None) -> Service:
        """Take so long for a call, there and back; between the two, where two are given."""
        least_ms = parse_span(least, what="latency")
        most_ms = least_ms if most is None else max(parse_span(most, what="latency"), least_ms)
        self._trouble.least_ns, self._trouble.most_ns = least_ms * MS, most_ms * MS
        return self

    def fail(self, chance: float, error: Callable[[], BaseException] | type[BaseException] | None = None) -> Service:
        """Fail so many of the calls, before anything happened. `error`: what the caller gets."""
        self._trouble.fail = _millionths("fail", chance)
        if error is not None:
            self._trouble.error = error
        return self

    def lose_answers(self, chance: float, timeout: Span = "5s") -> Service:
        """Do what was asked for and lose the answer, for so many of the calls: the caller gets a timeout error."""
        self._trouble.lose = _millionths("lose_answers", chance)
        self._trouble.timeout_ns = parse_span(timeout, what="timeout") * MS
        return self

    def down(self) -> Service:
        """Refuse every call until `up`."""
        self._trouble.is_down = True
        return self

    def up(self) -> Service:
        self._trouble.is_down = False
        return self

    def heal(self) -> Service:
        """Be reliable from now on."""
        self.up()
        self._trouble.fail = self._trouble.lose = 0
        return self

    # -- calls ---------------------------------------------------------------------------------------------------------

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        if self._is_over:
            raise ServiceOverError(self._name)
        return lambda *args, **kwargs: self.call(operation, *args, **kwargs)

    def call(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an operation. Returns: in a plain handler its answer, elsewhere what is to be awaited for it."""
        step = _Call(self, operation, args, kwargs)
        return step.here() if self._surroundings.strands.current is not None else step.awaited()

    def end(self) -> None:
        """The simulation it belongs to has ended: whoever still holds it is told."""
        self._is_over = True

    def draw(self) -> tuple[int, int, int]:
        """Return how long a call takes there, in nanoseconds, and two draws from a million."""
        trouble = self._trouble
        span_ns = trouble.least_ns + self._bits(40) % (trouble.most_ns - trouble.least_ns + 1)
        return span_ns // 2, self._bits(48) * _MILLION >> 48, self._bits(48) * _MILLION >> 48

    def key_of(self, kwargs: dict[str, Any]) -> str:
        names = (self._key_name,) if self._key_name else _KEY_NAMES
        return next((str(kwargs[name]) for name in names if kwargs.get(name) is not None), "")

    def act(self, call: _Call, fail: int, lose: int) -> tuple[Any, BaseException | None, int]:
        """Do what is asked for, now. Returns: the answer, or the error, and how much longer than the way back the caller
        waits for it, in nanoseconds."""
        trouble, key = self._trouble, self.key_of(call.kwargs)
        known = (call.operation, key)
        if trouble.is_down:
            self._record(call, key, "failed")
            return None, ServiceError(f"{self._name} is down"), 0
        if fail < trouble.fail:
            self._record(call, key, "failed")
            return None, trouble.error(), 0
        if self._is_idempotent and key and known in self._answers:
            answer, outcome = self._answers[known], "repeated"
        else:
            reply = self._replies.get(call.operation)
            try:
                answer = reply(*call.args, **call.kwargs) if reply is not None else None
            except Exception as error:
                self._record(call, key, "refused")
                return None, error, 0
            outcome = "done"
            self._answers[known] = answer
        if lose < trouble.lose:
            self._record(call, key, "lost" if outcome == "done" else outcome)
            return None, ServiceTimeoutError(f"no answer from {self._name}.{call.operation}"), trouble.timeout_ns
        self._record(call, key, outcome)
        return answer, None, 0

    def _record(self, call: _Call, key: str, outcome: str) -> None:
        around, process = self._surroundings, self._surroundings.here()
        attempt = current_attempt()
        task_id = to_text(attempt.id) if attempt is not None else ""
        number = attempt.attempt if attempt is not None else 0
        name = process.name if process is not None else ""
        self.calls.append(
            Call(self._name, call.operation, call.args, call.kwargs, key, task_id, number, name, around.now, outcome)
        )
        around.note(
            "effect", task=task_id, attempt=number, number=f"{self._name}.{call.operation}", accepted=outcome in HAPPENED,
            key=key[:40], outcome=outcome,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<service {self._name}, {len(self.calls)} calls>"


class _Call:
    """One call on its way there and back."""

    def __init__(self, service: Service, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._service = service
        self._around = service._surroundings
        self.operation = operation
        self.args = args
        self.kwargs = kwargs

    def here(self) -> Any:
        """In a plain handler."""
        there_ns, fail, lose = self._service.draw()
        strand = self._around.strands.current
        assert strand is not None
        strand.sleep_ns(there_ns)
        result = self._act(fail, lose)
        while result is None:
            strand.wait()
        answer, error, more_ns = result
        strand.sleep_ns(there_ns + more_ns)
        if error is not None:
            raise error
        return answer

    def awaited(self) -> Coroutine[Any, Any, Any]:
        return self._awaited()

    async def _awaited(self) -> Any:
        there_ns, fail, lose = self._service.draw()
        await asyncio.sleep(there_ns / 1e9)
        result = self._act(fail, lose)
        while result is None:  # noqa: ASYNC110  (its process is dead, so this never ends)
            await asyncio.sleep(3_600)
        answer, error, more_ns = result
        await asyncio.sleep((there_ns + more_ns) / 1e9)
        if error is not None:
            raise error
        return answer

    def _act(self, fail: int, lose: int) -> tuple[Any, BaseException | None, int] | None:
        """Returns: None if the process is dead, killed at one of the points."""
        process = self._around.here()
        if process is not None and not process.point("effect.before"):
            return None
        result = self._service.act(self, fail, lose)
        return result if process is None or process.point("effect.after") else None


class Effects:
    """What a service really did: calls that happened, whatever their callers were told."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = [call for call in calls if call.happened]

    @property
    def count(self) -> int:
        return len(self._calls)

    def for_task(self, task: object) -> int:
        """Return how many belong to a task, given by its handle or id."""
        return len(self._of_task(task))

    def for_key(self, key: object) -> int:
        """Return how many were done under a key."""
        return len([call for call in self._calls if call.key == str(key)])

    def _of_task(self, task: object) -> list[Call]:
        name = str(getattr(task, "id", task))
        return [call for call in self._calls if call.task_id == name]

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<{len(self._calls)} effects>"


def current_attempt() -> Attempt | None:
    """Return the attempt whose handler calls."""
    found = capture.current.get()
    return found if isinstance(found, Attempt) else None


def _millionths(what: str, chance: float) -> int:
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
        raise InvalidChanceError(what, chance)
    return round(chance * _MILLION)
