"""What became of the ticks of the reference calendar: none forgotten, none made up, none fired that was to be missed.

A schedule's cursor is the next tick that is not decided. Of each commit this is recomputed from the rows alone: the
reference ticks between the cursor there was and the one there is, and what waited before, are the ticks that have rows now,
wait now, or are counted as missed. What is missed, nobody could fire within the grace; of that, what the policy says fires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ...actors.schedule_rows import SOURCE_RULE, TickRow
from ..history import Committed, Observation
from .diary import Change, Page
from .reference import Reference, reference
from .steps import NS
from .ticks import LOW_MS
from .versions import Versions
from .watch import Watch

_TURN_MS: Final = 2_000  # between a turn and its commit where nothing delays it
_FAR_MS: Final = 400 * 86_400_000  # a calendar that leaves nothing for so long is held to leave nothing at all
Problem = tuple[str, str]


class Decided(Watch):
    """Every tick of the reference calendar is decided once, in its order and by the policy, and nothing else is."""

    name = "decided"

    def reactions(self) -> dict[type[Observation], Callable[[Any], None]]:
        self._versions = Versions(self.bounds, self.tasks)
        self._ruled_ms: dict[int, int] = {}  # by schedule: since when it has had its fixed delay
        self._pinned: dict[int, int] = {}  # by schedule: a tick that was due when calendars changed, and may still fire
        return {Committed: self._committed}

    def _committed(self, seen: Committed) -> None:
        self._versions.forget(seen.at_ns)
        for change in self.tasks.diary.changes:
            before, after = change.before, change.after
            if after is None or (before is not None and after.revision > before.revision + 1):
                continue  # what a definition in between had decided is in no row
            if after.spec.rule.after_ms or (before is not None and before.spec.rule.after_ms):
                self._check_delay(change, seen)
            else:
                self._check(change, seen)

    def _broken(self, kind: str, seen: Observation, page: Page, text: str) -> None:
        name = "/".join(page.key)
        self.violated(kind, seen.at_ns, name, f"schedule {name} {text}")

    def _check(self, change: Change, seen: Committed) -> None:
        """Note what is wrong, unless some way in which things may have come about is right."""
        before, after = change.before, change.after
        assert after is not None
        if before is not None and before.stamp != after.stamp and before.spec.rule == after.spec.rule:
            problems = [self._recomputed(before, after, seen)]
        else:
            problems = [
                next(self._problems(change, seen, reference(after.spec.rule, calendars), start_ms), None)
                for calendars in self._versions.of(after)
                for start_ms in self._starts(change)
            ]
        if problems and None not in problems:
            kind, text = problems[0] or ("", "")
            self._broken(kind, seen, after, text)

    def _recomputed(self, before: Page, after: Page, seen: Committed) -> Problem | None:
        """By calendars that have changed: what was due by the old ones may fire, then the next of the new is next."""
        cursor_ms = after.state.cursor_ms
        after_ms = max(seen.now_ms, before.state.cursor_ms)
        for calendars in self._versions.of(after):
            known = reference(after.spec.rule, calendars)
            if cursor_ms == before.state.cursor_ms and after_ms == cursor_ms and not known.has(cursor_ms):
                continue
            if not cursor_ms and known.ticks(after_ms + 1, after_ms + _FAR_MS) and not self._may_end(after):
                return "stopped", "ticks no more, though its calendars leave it ticks"
            if not cursor_ms or cursor_ms <= after_ms:
                self._pinned[after.id] = cursor_ms
                return None
            if known.has(cursor_ms) and not known.ticks(after_ms + 1, cursor_ms):
                return None
        return "cursor", f"is to tick at {cursor_ms}, which is not the next tick by its calendars"

    def _starts(self, change: Change) -> list[int]:
        """Return from when on ticks may have been undecided: mostly the cursor there was."""
        before, after = change.before, change.after
        assert after is not None
        state = after.state
        if before is None:
            return [1 if after.spec.rule.at_ms else state.created_ms]  # instants that are past count as well
        starts = [before.state.cursor_ms]
        if before.spec.rule != after.spec.rule:
            starts = [state.updated_ms + 1]
            if before.state.paused:
                starts.insert(0, before.state.paused_at_ms + 1)
        return starts

    def _problems(self, change: Change, seen: Committed, known: Reference, start_ms: int) -> Iterator[Problem]:
        """Yield what is wrong if ticks were undecided from then on."""
        before, after = change.before, change.after
        assert after is not None
        state, rule = after.state, after.spec.rule
        rows = [row for row in change.rows if row.source == SOURCE_RULE]
        if before is not None and before.spec.rule != rule:  # those of the old rule came first
            rows = [row for row in rows if row.revision == after.revision]
        was_waiting = before.waiting if before is not None else []
        seen_ticks = [row.tick_ms for row in rows] + after.waiting
        decided = self._decided(after, known, start_ms, seen_ticks)
        if start_ms and start_ms == self._pinned.get(after.id) and state.cursor_ms != start_ms and start_ms not in decided:
            decided = [start_ms, *decided]
        if state.cursor_ms and not known.has(state.cursor_ms) and state.cursor_ms != self._pinned.get(after.id):
            yield "cursor", f"is to tick next at {state.cursor_ms}, which its rule does not name"
        if state.cursor_ms and state.cursor_ms < start_ms:
            yield "cursor", f"went back from tick {start_ms} to {state.cursor_ms}"
        if not state.cursor_ms and not state.is_over:
            yield "stopped", "has no next tick and is not over"
        has_stopped = start_ms and not state.cursor_ms and not self._may_end(after)
        if has_stopped and not self._is_shut(after, known, max(start_ms, seen.now_ms)):
            yield "stopped", f"ticks no more after {start_ms}, though its rule does not end"
        if state.cursor_ms and not start_ms:
            yield "cursor", f"was over and is to tick at {state.cursor_ms}"
        strangers = [tick for tick in seen_ticks if tick not in decided and tick not in was_waiting]
        if strangers:
            yield "unknown", f"decided tick {strangers[0]}, which is none or was not to be decided"
        left = [tick for tick in (*decided, *was_waiting) if tick not in seen_ticks]
        missed = state.missed - (before.state.missed if before is not None else 0)
        if not len(left) <= missed <= len(left) + self._missed_before(change):
            text = f"passed over {len(left)} ticks from {left[0] if left else start_ms}, and counts {missed} missed"
            yield "undecided", text
        if before is not None and before.state.paused and after.state.paused and (decided or rows):
            yield "paused", f"decided tick {(*decided, *seen_ticks)[0]} while it was paused"
        yield from self._lateness(change, seen, rows, left)
        yield from self._choice(change, seen, known, start_ms, [row.tick_ms for row in rows])

    def _missed_before(self, change: Change) -> int:
        """Return how many ticks of the rule there was may have been missed in the turn that changed it."""
        before, after = change.before, change.after
        assert after is not None
        if before is None or before.spec.rule == after.spec.rule or not before.state.cursor_ms:
            return 0
        fired = sum(row.source == SOURCE_RULE and row.revision == before.revision for row in change.rows)
        until_ms = after.state.updated_ms + 1
        ways = [reference(before.spec.rule, calendars) for calendars in self._versions.of(before)]
        most = max([len(known.ticks(before.state.cursor_ms, until_ms)) for known in ways], default=0)
        return max(most - fired, 0)

    def _decided(self, page: Page, known: Reference, start_ms: int, seen_ticks: list[int]) -> list[int]:
        """Return the reference ticks that the cursor has passed."""
        state, rule = page.state, page.spec.rule
        if not start_ms:
            return []
        if state.cursor_ms:
            return known.ticks(start_ms, state.cursor_ms)
        if self._is_used_up(page):
            return known.ticks(start_ms, max(seen_ticks, default=start_ms - 1) + 1)
        return known.ticks(start_ms, max(rule.end_ms, *rule.at_ms, 0) + 1) if self._may_end(page) else []

    @staticmethod
    def _is_used_up(page: Page) -> bool:
        limit = page.spec.rule.limit
        return bool(limit) and page.state.fired + len(page.waiting) >= limit

    def _may_end(self, page: Page) -> bool:
        return self._is_used_up(page) or bool(page.spec.rule.end_ms or page.spec.rule.at_ms)

    @staticmethod
    def _is_shut(page: Page, known: Reference, from_ms: int) -> bool:
        """Its calendars leave it nothing, so far as anybody looks."""
        return bool(page.spec.rule.calendar) and not known.ticks(from_ms, from_ms + _FAR_MS)

    # -- when ------------------------------------------------------------------------------------------------------------

    def _lateness(self, change: Change, seen: Committed, rows: list[TickRow], left: list[int]) -> Iterator[Problem]:
        """What nobody could fire within the grace is missed, and nothing else is."""
        before, after = change.before, change.after
        assert after is not None
        spec = after.spec
        grace_ms = min(spec.grace_ms, before.spec.grace_ms if before is not None else spec.grace_ms)
        most_ms = max(spec.grace_ms, before.spec.grace_ms if before is not None else spec.grace_ms)
        spread_ms = spec.rule.jitter_ms + LOW_MS * (spec.rule.precision == "low")
        passing_ms = max(after.state.pass_until_ms, before.state.pass_until_ms if before is not None else 0)
        excused_ms = max(after.resumed_ms, after.state.created_ms if spec.rule.at_ms else 0)
        for tick_ms in left:
            late_ms = seen.now_ms - tick_ms
            if tick_ms < excused_ms:
                continue
            if late_ms + self.bounds.skew_ms <= grace_ms:
                yield "given_up", f"missed tick {tick_ms} after {late_ms} ms, its grace is {grace_ms} ms"
            elif grace_ms < self.bounds.undecided_ms:
                continue
            elif self._calm_ms(seen) > late_ms + spread_ms + self.bounds.take_over_ms:
                yield "idle", f"missed tick {tick_ms}, though nothing kept its shard from firing it"
        for row in rows:
            if not row.task_id or row.tick_ms <= passing_ms or (before is not None and row.tick_ms in before.waiting):
                continue
            if row.at_ms - row.tick_ms > most_ms + spread_ms:
                yield "too_late", f"fired tick {row.tick_ms} after {row.at_ms - row.tick_ms} ms, its grace is {most_ms} ms"
            if row.tick_ms + spread_ms < after.resumed_ms:
                yield "resumed", f"fired tick {row.tick_ms}, which had passed while it was paused"

    def _calm_ms(self, seen: Committed) -> int:
        """Return for how long nothing kept shards from working."""
        return min(self.tasks.calm_ms(seen.at_ns), self.bounds.quiet_ms(seen.at_ns // NS))

    def _choice(
        self, change: Change, seen: Committed, known: Reference, start_ms: int, decided: list[int]
    ) -> Iterator[Problem]:
        """Of ticks that passed while nobody could fire them, those fire late that the policy says."""
        before, after = change.before, change.after
        assert after is not None
        state = after.state
        is_resumed = before is not None and before.state.paused and not state.paused
        until_ms = state.pass_until_ms
        is_new = until_ms and (before is None or until_ms != before.state.pass_until_ms or is_resumed)
        if not is_new or until_ms < start_ms:
            return
        passed = known.ticks(start_ms, until_ms + 1)
        late = sorted({*[tick for tick in (*decided, *after.waiting) if start_ms <= tick <= until_ms], *state.late_ticks})
        latest_ms = state.updated_ms if is_resumed else seen.now_ms + self.bounds.skew_ms
        earliest_ms = state.updated_ms if is_resumed else seen.now_ms - _TURN_MS - self.bounds.skew_ms
        policies = self._policies(change, is_resumed=is_resumed)
        choices: list[list[int]] = []
        for policy in policies:
            for oldest_ms in self._oldest(after, passed, earliest_ms, latest_ms):
                choices.append(_chosen(policy, passed, oldest_ms, after.spec.max_catchup))
        if late not in choices:
            text = f"fires {len(late)} of {len(passed)} ticks from {start_ms} to {until_ms} late, by {' or '.join(policies)}"
            yield "choice", f"{text} it would be {' or '.join(str(len(choice)) for choice in choices)}"

    def _policies(self, change: Change, *, is_resumed: bool) -> list[str]:
        before, after = change.before, change.after
        assert after is not None
        own = [after.spec.missed, *([before.spec.missed] if before is not None else [])]
        if not is_resumed:
            return list(dict.fromkeys(own))
        diary = self.tasks.diary
        open_ = [ask for ask in diary.asked.values() if ask.command == "resume"]
        asked = [ask.missed for ask in open_ if (ask.tenant, ask.name) == after.key]
        if not asked or self.bounds.troubles:  # a copy of an earlier request may have come late
            asked = diary.resumes.get(after.key, [])
        wanted = [word for missed in asked for word in ([missed] if missed else own)]
        return list(dict.fromkeys(wanted)) or ["none asked for"]

    @staticmethod
    def _oldest(page: Page, passed: list[int], earliest_ms: int, latest_ms: int) -> list[int]:
        """Return the instants before which ticks may have been too old."""
        lateness_ms = page.spec.max_lateness_ms
        if not lateness_ms:
            return [0]
        low_ms, high_ms = earliest_ms - lateness_ms, latest_ms - lateness_ms
        return [low_ms, high_ms, *[tick + 1 for tick in passed if low_ms <= tick < high_ms]]

    # -- fixed delays ----------------------------------------------------------------------------------------------------

    def _check_delay(self, change: Change, seen: Committed) -> None:
        """A fixed delay counts from the end of the run before."""
        before, after = change.before, change.after
        assert after is not None
        if before is None or before.spec.rule != after.spec.rule or not after.spec.rule.after_ms:
            self._ruled_ms[after.id] = after.state.updated_ms  # the first tick of a rule follows no run
            return
        ended_ms = before.state.last_ended_ms if before.state.last_ended_ms > self._ruled_ms.get(after.id, 0) else 0
        for row in change.rows:
            if row.source == SOURCE_RULE and ended_ms and row.tick_ms < ended_ms + after.spec.rule.after_ms:
                text = f"ticked {row.tick_ms - ended_ms} ms after the run before, its delay is {after.spec.rule.after_ms} ms"
                self._broken("delay", seen, after, text)
        waits = bool(after.state.cursor_ms) or after.state.is_over or after.alive
        if not waits:
            self._broken("stopped", seen, after, "has no next tick, and no run is alive whose end would set it")



def _chosen(policy: str, passed: list[int], oldest_ms: int, most: int) -> list[int]:
    """Return which of the ticks that passed fire late."""
    young = [tick for tick in passed if tick >= oldest_ms]
    match policy:
        case "last":
            return young[-1:]
        case "first":
            return young[:1]
        case "all":
            return young[len(young) - min(most, len(young)) :]
        case _:
            return []
