"""How much a search for ticks may cost: counted work, so that it ends at the same point on every machine, in every replay.

A rule and its calendars can be such that the next tick is found only after minutes, and a shard serves thousands of others
meanwhile. So whatever may take long counts what it does in one currency, of which a unit is about a tenth of a microsecond
to half of one, and a search that has spent what it may ends with an error that names the calendar expression.
"""

from __future__ import annotations

from typing import Final

from .rule_errors import SearchTooLongError

MOST: Final = 400_000
"""What one question may cost: 50 to 100 ms."""
MOST_AT_FIRST: Final = 250_000
"""What the first tick of a new schedule may cost: less, so that a rule which was taken has room for later questions."""
PER_TICK: Final = 10_000
"""What each tick found adds, if a question asks for many."""


class Effort:
    """What is left of one question's work. `is_spent`: a question ended for want of it."""

    __slots__ = ("_expression", "_left", "is_spent")

    def __init__(self, expression: str) -> None:
        """`expression`: the calendars searched, for the message. Without a question there is no end to it."""
        self._expression = expression
        self._left = 1 << 62
        self.is_spent = False

    def allow(self, most: int) -> None:
        """Begin a question."""
        self._left = most
        self.is_spent = False

    def add(self, more: int) -> None:
        """Let the question cost so much more, but never more than a question may that has just begun."""
        self._left = min(self._left + more, MOST)

    def spend(self, work: int) -> None:
        """Count work that is about to be done. Raises: SearchTooLongError."""
        self._left -= work
        if self._left < 0:
            self.is_spent = True
            raise SearchTooLongError(self._expression)
