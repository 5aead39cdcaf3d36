"""`SyncClient.schedules` and `SyncClient.calendars`: the same methods, blocking."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..actors.rules import Calendar
from .durations import Span
from .handler import Handler
from .schedule_bulk import PutResult
from .schedule_views import BackfillForecast, BackfillInfo, NextTick, ScheduleDiff, ScheduleInfo, TickInfo
from .schedule_words import Draft
from .schedules import Backfill, Moment

if TYPE_CHECKING:
    from .client import Client
    from .sync import SyncClient, SyncTask

T = TypeVar("T")


class SyncBackfill:
    """A backfill that was started; see `Backfill`."""

    __slots__ = ("_backfill", "_client")

    def __init__(self, client: SyncClient, backfill: Backfill) -> None:
        self._client = client
        self._backfill = backfill

    @property
    def id(self) -> str:
        return self._backfill.id

    @property
    def schedule(self) -> str:
        return self._backfill.schedule

    def status(self) -> BackfillInfo:
        return self._client._call(self._backfill.status)

    def pause(self) -> str:
        return self._client._call(self._backfill.pause)

    def resume(self) -> str:
        return self._client._call(self._backfill.resume)

    def cancel(self) -> str:
        return self._client._call(self._backfill.cancel)

    def __repr__(self) -> str:
        return repr(self._backfill)


class SyncSchedules:
    """See `sdk.schedules.Schedules`."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    @property
    def _async(self) -> Client:
        return self._client._client

    def draft(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> Draft:
        """Return a schedule to put with `put_many`; words as for `create`."""
        return self._async.schedules.draft(name, handler, *args, **words)

    def create(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> ScheduleInfo:
        return self._client._call(self._async.schedules.create, name, handler, *args, **words)

    def put(self, name: str, handler: Handler[..., Any] | str, /, *args: Any, **words: Any) -> ScheduleInfo:
        return self._client._call(self._async.schedules.put, name, handler, *args, **words)

    def update(self, name: str, /, *, handler: Handler[..., Any] | str | None = None, **words: Any) -> ScheduleInfo:
        return self._client._call(self._async.schedules.update, name, handler=handler, **words)

    def put_many(
        self,
        drafts: Iterable[Draft] | AsyncIterable[Draft],
        *,
        progress: Callable[[int], object] | None = None,
        batch: int = 500,
        in_flight: int = 4,
        patience: Span = 60,
    ) -> PutResult:
        """As of the async client; `drafts` and `progress` are called in the client's thread."""
        return self._client._call(
            self._async.schedules.put_many, drafts, progress=progress, batch=batch, in_flight=in_flight, patience=patience
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> ScheduleInfo:
        return self._client._call(self._async.schedules.get, name)

    def get_many(self, names: Iterable[str]) -> Sequence[ScheduleInfo]:
        return self._client._call(self._async.schedules.get_many, names)

    def preview(
        self,
        name: str = "",
        *,
        count: int = 10,
        begin: Moment | None = None,
        until: Moment | None = None,
        **words: Any,
    ) -> Sequence[NextTick]:
        return self._client._call(self._async.schedules.preview, name, count=count, begin=begin, until=until, **words)

    def diff(self, name: str, *, count: int = 20, **words: Any) -> ScheduleDiff:
        return self._client._call(self._async.schedules.diff, name, count=count, **words)

    def history(self, name: str, *, limit: int | None = None) -> Iterator[TickInfo]:
        return self._each(self._async.schedules.history(name, limit=limit))

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Go through what an async iterator yields. One step of it runs at a time, in the client's thread."""

        async def step() -> tuple[T] | None:
            async for item in items:
                return (item,)
            return None

        while found := self._client._call(step):
            yield found[0]

    # -- commands ------------------------------------------------------------------------------------------------------

    @overload
    def pause(self, names: str, *, why: str = "", by: str = "") -> str: ...
    @overload
    def pause(self, names: Iterable[str], *, why: str = "", by: str = "") -> Sequence[str]: ...
    def pause(self, names: str | Iterable[str], *, why: str = "", by: str = "") -> str | Sequence[str]:
        return self._client._call(self._async.schedules.pause, names, why=why, by=by)

    @overload
    def resume(self, names: str, *, missed: str = "skip") -> str: ...
    @overload
    def resume(self, names: Iterable[str], *, missed: str = "skip") -> Sequence[str]: ...
    def resume(self, names: str | Iterable[str], *, missed: str = "skip") -> str | Sequence[str]:
        return self._client._call(self._async.schedules.resume, names, missed=missed)

    @overload
    def delete(self, names: str) -> str: ...
    @overload
    def delete(self, names: Iterable[str]) -> Sequence[str]: ...
    def delete(self, names: str | Iterable[str]) -> str | Sequence[str]:
        return self._client._call(self._async.schedules.delete, names)

    def trigger(self, name: str, *, overlap: str = "") -> SyncTask[Any] | None:
        from .sync import SyncTask  # which makes this object

        task = self._client._call(self._async.schedules.trigger, name, overlap=overlap)
        return SyncTask(self._client, task) if task is not None else None

    # -- backfills -----------------------------------------------------------------------------------------------------

    @overload
    def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: Literal[False] = False,
    ) -> SyncBackfill: ...  # fmt: skip
    @overload
    def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: Literal[True],
    ) -> BackfillForecast: ...  # fmt: skip
    def backfill(
        self, name: str, start: Moment, end: Moment, *, reprocess: str = "none", concurrency: int = 1,
        priority: str | int | None = None, backwards: bool = False, by: str = "", dry_run: bool = False,
    ) -> SyncBackfill | BackfillForecast:  # fmt: skip
        call: Callable[..., Any] = self._async.schedules.backfill
        found: Backfill | BackfillForecast = self._client._call(
            call, name, start, end, reprocess=reprocess, concurrency=concurrency, priority=priority,
            backwards=backwards, by=by, dry_run=dry_run,
        )  # fmt: skip
        return SyncBackfill(self._client, found) if isinstance(found, Backfill) else found

    def backfills(self, name: str = "", *, limit: int = 100) -> Sequence[BackfillInfo]:
        return self._client._call(self._async.schedules.backfills, name, limit=limit)

    def get_backfill(self, id: str, *, schedule: str = "") -> BackfillInfo:
        return self._client._call(self._async.schedules.get_backfill, id, schedule=schedule)

    def command_backfill(self, id: str, action: Literal["pause", "resume", "cancel"]) -> str:
        return self._client._call(self._async.schedules.command_backfill, id, action)

    # Last in the class: below this line the name `list` means the method to a type checker.
    def list(
        self, *, prefix: str = "", paused: bool | None = None, limit: int | None = None
    ) -> Iterator[ScheduleInfo]:  # fmt: skip
        return self._each(self._async.schedules.list(prefix=prefix, paused=paused, limit=limit))


class SyncCalendars:
    """See `sdk.calendars.Calendars`."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    def set(
        self,
        name: str,
        *,
        weekdays: Iterable[str | int] = (),
        dates: Iterable[date | str] = (),
        yearly: Iterable[str] = (),
        easter: Iterable[int] = (),
        nth: Iterable[tuple[str | int, str | int, int]] = (),
        hours: Iterable[str] = (),
        zone: str = "",
        force: bool = False,
    ) -> Calendar:
        return self._client._call(
            self._client._client.calendars.set, name, weekdays=weekdays, dates=dates, yearly=yearly, easter=easter,
            nth=nth, hours=hours, zone=zone, force=force,
        )  # fmt: skip

    def put(self, calendar: Calendar, *, force: bool = False) -> Calendar:
        return self._client._call(self._client._client.calendars.put, calendar, force=force)

    def get(self, name: str) -> Calendar:
        return self._client._call(self._client._client.calendars.get, name)

    def delete(self, name: str) -> None:
        self._client._call(self._client._client.calendars.delete, name)

    def list(self) -> Sequence[Calendar]:
        return self._client._call(self._client._client.calendars.list)
