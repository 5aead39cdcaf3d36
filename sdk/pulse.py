"""The heartbeat's own thread: a handler that blocks the event loop must not make its worker look dead.

The thread beats whatever the loop does. What it hands the beat to decides how far it gets: with a bus on the loop a beat
waits for the loop, as the actor that listens does; a bus with a connection of its own sends at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from ..actors.addresses import session_address, worker_address
from ..actors.messages import Heartbeat
from ..runtime.blocking import Blocking
from ..runtime.bus import Bus, Envelope
from ..runtime.clock import Clock, Timer

log = structlog.get_logger("foliot.worker")


class HeartbeatSender(Protocol):
    """Whoever can send a heartbeat from a thread that is not the loop's."""

    def send(self, heartbeat: Heartbeat) -> None:
        """Hand it over; returns at once. From any thread."""
        ...


class LoopSender:
    """Sends over a bus that lives on the event loop. While the loop is blocked only the newest beat is kept."""

    def __init__(self, bus: Bus, loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._loop = loop
        self._newest: Heartbeat | None = None
        self._lock = threading.Lock()

    def send(self, heartbeat: Heartbeat) -> None:
        with self._lock:
            posted = self._newest is not None
            self._newest = heartbeat
        if not posted:
            self._loop.call_soon_threadsafe(self._on_loop)

    def _on_loop(self) -> None:
        with self._lock:
            heartbeat, self._newest = self._newest, None
        if heartbeat is not None:
            session = heartbeat.session
            self._bus.send(Envelope(worker_address(session), heartbeat, session_address(session)))


class Pulse(Protocol):
    """Something that calls a function again and again."""

    def start(self, interval_ms: int, beat: Callable[[], None]) -> None:
        """Call `beat` every interval, the first time after one interval."""
        ...

    def stop(self) -> None:
        """Call it no more; harmless if it never began."""
        ...


class ThreadPulse:
    """Beats from a thread of its own, whatever the event loop does."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._stop = threading.Event()

    def start(self, interval_ms: int, beat: Callable[[], None]) -> None:
        stop = self._stop = threading.Event()

        def run() -> None:
            while not stop.wait(interval_ms / 1_000):
                try:
                    beat()
                except Exception as error:  # the next one may get through; a closed loop ends with its worker
                    if not stop.is_set():
                        log.warning("heartbeat_failed", error=str(error))

        self._blocking.start(run, name="foliot-heartbeat")

    def stop(self) -> None:
        self._stop.set()


class ClockPulse:
    """Beats by the clock's timers, on the loop: for simulations, where no thread may run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timer: Timer | None = None

    def start(self, interval_ms: int, beat: Callable[[], None]) -> None:
        def run() -> None:
            self._timer = self._clock.call_at_ms(self._clock.now_ms() + interval_ms, run)
            beat()

        self._timer = self._clock.call_at_ms(self._clock.now_ms() + interval_ms, run)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
