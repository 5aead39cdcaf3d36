"""Requests that are larger than one message, cut in two and put together again.

A submission's halves carry request ids that follow from the whole one's, so a repetition of the whole is cut alike and its
halves are recognised. That holds only for the whole: what was done in part and may yet be done in full is therefore told as
unknown, so that whoever asked repeats all of it, and not a rest that nobody would recognise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from ...actors.messages import SubmitTasks, TaskRefusal, TasksEnded, TasksSubmitted, WatchTasks
from ...actors.schedule_messages import PutSchedules, SchedulesPut
from ...runtime.bus import Refusal
from ...runtime.errors import UnavailableError
from .. import api
from ..repeats import RETRYABLE

Send = Callable[[Any], Awaitable[Any]]

CUT: Final = (SubmitTasks, PutSchedules)
"""Requests that can be sent in parts."""
ASKED_APART: Final = (api.GetTasks, WatchTasks)
"""Questions whose answers can be got in parts."""


class PartlyDoneError(UnavailableError):
    """Some of a large request was carried out, and of the rest nobody knows."""

    code = "deadline"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"{what} was too large for one message, and was carried out in part only: {reason}; repeat all of it"
        )
        self.what = what
        self.reason = reason


def size_of(message: SubmitTasks | PutSchedules) -> int:
    """Return how many things the request is about."""
    return len(message.tasks if isinstance(message, SubmitTasks) else message.schedules)


async def sent_apart(message: SubmitTasks | PutSchedules, send: Send) -> Any:
    """Return the answer to a request that is sent as two. Raises: PartlyDoneError, and as `send`."""
    what = type(message).__name__
    answers: list[Any] = []
    for part in _halves(message):
        try:
            answer = await send(part)
        except UnavailableError as error:
            if not answers:
                raise
            raise PartlyDoneError(what, str(error)) from error
        reason = _retryable(answer)
        if reason:
            if isinstance(answer, Refusal) and not answers:
                return answer  # nothing was done
            raise PartlyDoneError(what, reason)
        answers.append(answer)
    return _joined(answers, message)


def _halves(message: SubmitTasks | PutSchedules) -> list[SubmitTasks | PutSchedules]:
    middle = size_of(message) // 2
    if isinstance(message, PutSchedules):
        parts = (message.schedules[:middle], message.schedules[middle:])
        return [msgspec.structs.replace(message, schedules=part) for part in parts]
    found: list[SubmitTasks | PutSchedules] = []
    for number, tasks in enumerate((message.tasks[:middle], message.tasks[middle:])):
        request_id = f"{message.request_id}.{number}" if message.request_id else ""
        found.append(msgspec.structs.replace(message, tasks=tasks, request_id=request_id))
    return found


def _retryable(answer: Any) -> str:
    """Return why a part of it should be sent again, empty if all of it is decided."""
    if isinstance(answer, Refusal):
        return answer.text if answer.retry_after_ms >= 0 else ""
    if isinstance(answer, TasksSubmitted):
        return next((refusal.text for refusal in answer.refused if refusal.code in RETRYABLE), "")
    return ""  # schedules are put by name, so the rest of them may be put by itself


def _joined(answers: list[Any], message: SubmitTasks | PutSchedules) -> Any:
    """Return one answer by the positions of the whole; a half that was refused is refused one by one."""
    if all(isinstance(answer, Refusal) for answer in answers):
        return answers[0]
    middle = size_of(message) // 2
    sizes = (middle, size_of(message) - middle)
    refused: list[TaskRefusal] = []
    for start, answer, size in zip((0, middle), answers, sizes, strict=True):
        if isinstance(answer, Refusal):
            refused += [TaskRefusal(start + at, answer.code, answer.text) for at in range(size)]
        else:
            refused += [msgspec.structs.replace(each, position=start + each.position) for each in answer.refused]
    if isinstance(message, PutSchedules):
        outcomes = [
            answer.outcomes if isinstance(answer, SchedulesPut) else ["refused"] * size
            for answer, size in zip(answers, sizes, strict=True)
        ]  # fmt: skip
        return SchedulesPut([*outcomes[0], *outcomes[1]], refused)
    ids: list[int] = []
    existing: list[int] = []
    for start, answer, size in zip((0, middle), answers, sizes, strict=True):
        if isinstance(answer, TasksSubmitted):
            ids += answer.ids
            existing += [start + at for at in answer.existing]
        else:
            ids += [0] * size
    repeated = all(isinstance(answer, TasksSubmitted) and answer.repeated for answer in answers)
    return TasksSubmitted(ids, existing, refused, repeated)


async def asked_apart(message: api.GetTasks | WatchTasks, send: Send) -> Any:
    """Return the answer to a question, got for half of the tasks each time; a Refusal if one half was refused."""
    middle = len(message.ids) // 2
    answers = []
    for ids in (message.ids[:middle], message.ids[middle:]):
        answer = await send(msgspec.structs.replace(message, ids=ids))
        if isinstance(answer, Refusal):
            return answer
        answers.append(answer)
    if isinstance(message, WatchTasks):
        return TasksEnded([end for answer in answers for end in answer.ended])
    return api.TasksFound([task for answer in answers for task in answer.tasks])
