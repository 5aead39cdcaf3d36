"""Settings of the interpreter that suit a scheduler; made while one runs, and taken back after it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may keep the interpreter while another waits for it. The store's thread needs it for moments only, but
by default waits 5 ms for each of them while the event loop is busy: docs/decisions/006."""
GC_THRESHOLDS: Final = (20_000, 20, 50)
"""Thousands of tasks are alive at a time and few of them in cycles: looking for cycles after every 700 new objects, which
is the default, costs a tenth of the event loop's time."""


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Tune what the program has left at its default."""
    interval_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(min(interval_s, SWITCH_INTERVAL_S))
    if gc.isenabled() and 0 < thresholds[0] < GC_THRESHOLDS[0]:
        gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.set_threshold(*thresholds)
