"""When a failed attempt is tried again."""

from __future__ import annotations

from ..runtime.rng import Rng
from .messages import RetryPolicy


def retry_delay_ms(policy: RetryPolicy, spent: int, rng: Rng) -> int:
    """Return the delay before the next attempt after `spent` ≥ 1 failed ones: base, doubling (or by `factor`), capped;
    with jitter a random part of it, evenly from 0 ("full jitter").

    Source: Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015.
    """
    ceiling = float(policy.base_ms)
    for _ in range(min(spent - 1, 64)):
        ceiling *= policy.factor
        if ceiling >= policy.cap_ms:
            break
    ceiling_ms = min(int(ceiling), policy.cap_ms)
    return rng.below(ceiling_ms + 1) if policy.jitter else ceiling_ms
