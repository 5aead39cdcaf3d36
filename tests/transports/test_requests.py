"""Requests that wait for their answers."""

from __future__ import annotations

import asyncio

import pytest
from foliot.runtime.errors import DeadlineError
from foliot.transports.requests import Requests


async def test_a_request_that_nobody_answers_ends_with_its_deadline_and_a_late_answer_is_dropped() -> None:
    requests, sent = Requests(), list[int]()

    async with asyncio.timeout(5):
        with pytest.raises(DeadlineError, match="Look to it was not answered within 5 ms"):
            await requests.ask("Look to it", sent.append, timeout_ms=5)
    requests.answer(sent[0], "late")

    asked = asyncio.create_task(requests.ask("Look to it", sent.append, timeout_ms=5_000))
    await asyncio.sleep(0)
    requests.answer(sent[0], "still later")
    requests.answer(sent[1], "in time")
    requests.answer(sent[1], "twice")
    assert await asked == "in time"
