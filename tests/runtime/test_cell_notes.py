"""Messages that an idle actor notes without a turn: in order with all others, never instead of a turn that is due."""

from __future__ import annotations

from typing import Any

import pytest
from foliot.runtime.actor import Actor, Journal, Turn

from .harness import PEER, Harness, Note


class Keeper(Actor[Any]):
    """Keeps what it hears and rings so long after the last; notes what begins with a letter. `broken`: noting raises."""

    RINGS_AFTER_MS = 1_000

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.noted: list[str] = []
        self.due: int | None = None
        self.broken = False

    def handle(self, message: Any, turn: Turn) -> None:
        self._hear(message.text, turn.now_ms)
        turn.reply(Note(message.text))

    def note(self, message: Any, now_ms: int, mono_ms: int) -> bool:
        if self.broken:
            raise ValueError("it cannot be noted")
        if not message.text[0].isalpha():
            return False
        self.noted.append(message.text)
        self._hear(message.text, now_ms)
        return True

    def _hear(self, text: str, now_ms: int) -> None:
        self.heard.append(text)
        self.due = now_ms + self.RINGS_AFTER_MS

    def due_ms(self) -> int | None:
        return self.due

    def on_time(self, turn: Turn) -> None:
        self.due = None
        turn.send(PEER, Note(f"nothing since {self.heard[-1]}"))


class KeeperHarness(Harness):
    def __init__(self) -> None:
        super().__init__()
        self.keeper = Keeper()

    async def _make(self) -> tuple[Actor[Any], Journal | None]:
        return self.keeper, None


@pytest.fixture
async def keeping() -> KeeperHarness:
    return KeeperHarness()


async def test_an_idle_actor_notes_a_message_before_the_call_returns_and_without_a_turn(keeping: KeeperHarness) -> None:
    async with keeping.running():
        keeping.tell(Note("1"))
        await keeping.settle()
        turns, messages = keeping.cell.stats.turns, keeping.cell.stats.messages

        keeping.tell(Note("a"), Note("b"))

        assert keeping.keeper.heard == ["1", "a", "b"]
        assert (keeping.cell.stats.turns, keeping.cell.stats.messages) == (turns, messages + 2)
        assert keeping.cell.is_idle


async def test_nothing_is_noted_before_what_waits(keeping: KeeperHarness) -> None:
    keeping.tell(Note("a"))  # the actor has not started
    async with keeping.running():
        await keeping.settle()
        keeping.tell(Note("1"), Note("b"))
        await keeping.settle()
        assert keeping.keeper.heard == ["a", "1", "b"]
        assert keeping.keeper.noted == []

        keeping.tell(Note("c"))
        assert keeping.keeper.noted == ["c"]


async def test_a_request_is_not_noted_since_it_waits_for_an_answer(keeping: KeeperHarness) -> None:
    async with keeping.running():
        await keeping.settle()
        assert await keeping.ask(Note("a")) == Note("a")
    assert keeping.keeper.noted == []


async def test_what_noting_raises_is_left_to_a_turn(keeping: KeeperHarness) -> None:
    async with keeping.running():
        await keeping.settle()
        keeping.keeper.broken = True
        keeping.tell(Note("a"))
        await keeping.settle()
    assert keeping.keeper.heard == ["a"]
    assert keeping.cell.stats.restarts == 0


async def test_what_a_note_puts_off_is_not_done_earlier_nor_forgotten(keeping: KeeperHarness) -> None:
    async with keeping.running():
        keeping.tell(Note("1"))
        await keeping.settle()
        for text in "abc":
            keeping.clock.advance_ms(900)
            await keeping.settle()
            keeping.tell(Note(text))
        keeping.clock.advance_ms(999)
        await keeping.settle()
        assert keeping.heard() == []

        keeping.clock.advance_ms(1)
        await keeping.settle()

    assert keeping.heard() == [Note("nothing since c")]
    assert keeping.keeper.noted == ["a", "b", "c"]


async def test_a_cell_that_ends_notes_nothing_more(keeping: KeeperHarness) -> None:
    async with keeping.running() as life:
        await keeping.settle()
        keeping.cell.retire()
        keeping.tell(Note("a"))
        await life
        keeping.tell(Note("b"))
    assert keeping.keeper.heard == ["a"]
    assert keeping.keeper.noted == []
