"""Percentiles and medians."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` percent of them do not exceed (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 100)  # rounded up
    return ordered[min(max(int(rank), 1), len(ordered)) - 1]


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure over the runs that have it; what is no number is taken from the last one.

    Medians of whole numbers stay whole where there is an odd number of runs."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if name in run]
        if all(isinstance(value, dict) for value in values):
            merged[name] = medians(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            merged[name] = median(values)
        else:
            merged[name] = values[-1]
    return merged


def rounded(value: float, digits: int = 3) -> float:
    """Return a figure as people read it: whole numbers from 1,000 on."""
    return round(value) if abs(value) >= 1_000 else round(value, digits)
