"""Worker credits: which session can take how many slots, and which of them suits a task best.

A session says how many slots are free beyond the bodies it has seen; what was granted and not yet seen is taken off.
Both counts are absolute, so a lost message is repaired by the next. A fit is a pair of required and preferred labels;
each fit keeps the sessions it may use in heaps by number of preferences met: most free slots first, and on ties the one
that changed longest ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from .labels import InvalidLabelError, Requirement, count_matches, matches, parse_all
from .lanes import Shape
from .messages import WorkerCredits

UNDER_WAY_MS: Final = 5_000  # a refresh forgets grants older than this which the session has not seen
SESSION_SILENT_MS: Final = 60_000  # credits not renewed for so long are void: heartbeats refresh them every 10 s
_GRANT_SPAN_MS: Final = 250  # grants within this are remembered as one
_ENDED_KEPT: Final = 1_024
_FITS_KEPT: Final = 256
_CACHED_MATCHES: Final = 4_096
_SWEEP_FLOOR: Final = 256

Labels = tuple[tuple[str, str], ...]


class Fit:
    """Required and preferred labels. `error`: why the texts cannot be read; then no worker fits."""

    __slots__ = ("_matches", "error", "members", "prefer", "require", "shapes", "texts", "tiers")

    def __init__(self, require: tuple[str, ...], prefer: tuple[str, ...]) -> None:
        self.texts = (require, prefer)
        self.error = ""
        self.require: tuple[Requirement, ...] = ()
        self.prefer: tuple[Requirement, ...] = ()
        try:
            self.require = parse_all(require)
            self.prefer = parse_all(prefer)
        except InvalidLabelError as error:
            self.error = str(error)
        self.tiers: list[list[tuple[int, int, Session]]] = [[] for _ in range(len(self.prefer) + 1)]
        self.members = 0  # sessions that match
        self.shapes: dict[int, Shape] = {}  # by cost
        self._matches: dict[Labels, int] = {}

    def tier_of(self, key: Labels, labels: Mapping[str, str]) -> int:
        """Return how many preferences these labels meet, -1 if they do not meet what is required."""
        tier = self._matches.get(key)
        if tier is None:
            if len(self._matches) >= _CACHED_MATCHES:
                self._matches.clear()
            fits = not self.error and matches(self.require, labels)
            tier = self._matches[key] = count_matches(self.prefer, labels) if fits else -1
        return tier

    @property
    def is_idle(self) -> bool:
        """Tell whether no kind of task needs it any more."""
        return not any(shape.lines for shape in self.shapes.values())


class Session:
    """One worker session as this queue sees it; all amounts in slots."""

    __slots__ = (
        "fits", "free", "heard_ms", "key", "labels", "most", "name", "recent", "recent_slots", "seen", "sent", "spare",
        "stamp"
    )  # fmt: skip

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name = name
        self.labels = labels
        self.key: Labels = tuple(sorted(labels.items()))
        self.spare = 0  # what it said is free
        self.seen = 0
        self.sent = 0
        self.free = 0  # what can be granted now
        self.most = 0  # the most it ever had free
        self.stamp = 0  # number of its last change: earlier entries in heaps are stale
        self.heard_ms = 0
        self.recent: deque[tuple[int, int]] = deque()  # (when, slots) granted lately
        self.recent_slots = 0
        self.fits: dict[Fit, int] = {}  # fit → tier, where it matches


class Credits:
    """The free slots of all sessions that serve one queue."""

    def __init__(self, *, silent_ms: int = SESSION_SILENT_MS) -> None:
        self._silent_ms = silent_ms
        self.free = 0
        self.sessions_free = 0
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, None] = {}
        self._fits: dict[tuple[tuple[str, ...], tuple[str, ...]], Fit] = {}
        self._stamp = 0
        self._sweep_at = _SWEEP_FLOOR
        self._fits_sweep_at = _FITS_KEPT

    def __len__(self) -> int:
        return len(self._sessions)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def update(self, message: WorkerCredits, now_ms: int) -> Session | None:
        """Take what a session says of itself. Returns the session if it has slots free, else None."""
        session = self._sessions.get(message.session)
        if session is None:
            if message.session in self._ended:
                return None
            session = self._register(message, now_ms)
        elif session.labels is not message.labels and session.labels != message.labels:
            self._relabel(session, message.labels)
        session.heard_ms = now_ms
        session.spare = message.free
        session.seen = message.seen
        if message.refresh:
            self._trim(session, now_ms)
            session.sent = min(session.sent, message.seen + session.recent_slots)
        session.sent = max(session.sent, message.seen)  # more seen than sent: granted by this queue's earlier life
        self._set(session, message.free - session.sent + message.seen)
        return session if session.free > 0 else None

    def spend(self, session: Session, slots: int, now_ms: int) -> None:
        """Count slots granted to a session."""
        recent = session.recent
        session.sent += slots
        session.recent_slots += slots
        if recent and now_ms - recent[-1][0] < _GRANT_SPAN_MS:
            recent[-1] = (recent[-1][0], recent[-1][1] + slots)
        else:
            self._trim(session, now_ms)
            recent.append((now_ms, slots))
        self._set(session, session.free - slots)

    def give_back(self, name: str, slots: int) -> Session | None:
        """Return credits of grants that no body will follow. Returns the session if it has slots free, else None."""
        session = self._sessions.get(name)
        if session is None:
            return None
        session.sent = max(session.sent - slots, session.seen)
        self._set(session, session.spare - session.sent + session.seen)
        return session if session.free > 0 else None

    def end(self, name: str) -> None:
        """Forget a session for good: credits that arrive late are not taken."""
        self._ended[name] = None
        if len(self._ended) > _ENDED_KEPT:
            del self._ended[next(iter(self._ended))]
        session = self._sessions.get(name)
        if session is not None:
            self._drop(session)

    def shift(self, by_ms: int) -> None:
        """The wall clock was set."""
        for session in self._sessions.values():
            session.heard_ms += by_ms
            session.recent = deque((at_ms + by_ms, slots) for at_ms, slots in session.recent)

    def _register(self, message: WorkerCredits, now_ms: int) -> Session:
        if len(self._sessions) >= self._sweep_at:
            for session in list(self._sessions.values()):
                if now_ms - session.heard_ms > self._silent_ms:
                    self._drop(session)
            self._sweep_at = max(2 * len(self._sessions), _SWEEP_FLOOR)
        session = self._sessions[message.session] = Session(message.session, message.labels)
        session.sent = message.seen
        self._join(session)
        return session

    def _relabel(self, session: Session, labels: dict[str, str]) -> None:
        self._set(session, 0)
        self._leave(session)
        session.labels = labels
        session.key = tuple(sorted(labels.items()))
        self._join(session)

    def _join(self, session: Session) -> None:
        for fit in self._fits.values():
            tier = fit.tier_of(session.key, session.labels)
            if tier >= 0:
                session.fits[fit] = tier
                fit.members += 1

    def _leave(self, session: Session) -> None:
        for fit in session.fits:
            fit.members -= 1
        session.fits = {}

    def _drop(self, session: Session) -> None:
        self._set(session, 0)
        self._leave(session)
        del self._sessions[session.name]

    def _trim(self, session: Session, now_ms: int) -> None:
        recent = session.recent
        while recent and recent[0][0] <= now_ms - UNDER_WAY_MS:
            session.recent_slots -= recent.popleft()[1]

    def _set(self, session: Session, free: int) -> None:
        """Change what can be granted to a session, and tell every fit that may use it."""
        free = max(free, 0)
        before = session.free
        if before == free:
            return
        session.free = free
        self.free += free - before
        self.sessions_free += (free > 0) - (before > 0)
        self._stamp += 1
        session.stamp = self._stamp
        if free:
            if free > session.most:
                session.most = free
            for fit, tier in session.fits.items():
                self._push(fit, tier, session)

    # -- fits ------------------------------------------------------------------------------------------------------------

    def shape(self, require: tuple[str, ...], prefer: tuple[str, ...], cost: int) -> Shape:
        """Return the shape of tasks with these labels and slots, always the same while anything uses it."""
        fit = self._fits.get((require, prefer))
        if fit is None:
            if len(self._fits) >= self._fits_sweep_at:
                self._sweep_fits()
            fit = self._fits[require, prefer] = Fit(require, prefer)
            for session in self._sessions.values():
                tier = fit.tier_of(session.key, session.labels)
                if tier >= 0:
                    session.fits[fit] = tier
                    fit.members += 1
                    if session.free:
                        self._push(fit, tier, session)
        shape = fit.shapes.get(cost)
        if shape is None:
            shape = fit.shapes[cost] = Shape(fit, cost)
        return shape

    def best(self, fit: Fit, cost: int, now_ms: int) -> Session | None:
        """Return the session a task goes to: most preferences met, then most free slots. None: nobody has `cost` free."""
        for heap in reversed(fit.tiers):
            while heap:
                negative_free, stamp, session = heap[0]
                if session.stamp != stamp:
                    heappop(heap)
                elif session.heard_ms < now_ms - self._silent_ms:
                    self._drop(session)
                elif -negative_free >= cost:
                    return session
                else:
                    break
        return None

    def most_free(self, fit: Fit) -> tuple[int, int]:
        """Return the most slots a session of this fit has free now, and the most any of them ever had."""
        sessions = [session for session in self._sessions.values() if fit in session.fits]
        return (max((s.free for s in sessions), default=0), max((s.most for s in sessions), default=0))

    def _push(self, fit: Fit, tier: int, session: Session) -> None:
        heap = fit.tiers[tier]
        while heap and heap[0][2].stamp != heap[0][1]:
            heappop(heap)
        heappush(heap, (-session.free, session.stamp, session))
        if len(heap) > 2 * fit.members + 64:
            heap[:] = [entry for entry in heap if entry[2].stamp == entry[1]]
            heapify(heap)

    def _sweep_fits(self) -> None:
        for texts, fit in list(self._fits.items()):
            if fit.is_idle:
                del self._fits[texts]
                for session in self._sessions.values():
                    session.fits.pop(fit, None)
        self._fits_sweep_at = max(2 * len(self._fits), _FITS_KEPT)
