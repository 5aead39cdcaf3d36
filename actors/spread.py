"""Numbers drawn from text: the same text gives the same number in every process, and similar texts give unlike ones."""

from __future__ import annotations

from typing import Final

from ..runtime.hashing import fnv1a

_MASK: Final = 0xFFFFFFFFFFFFFFFF


def spread(text: str, bound: int) -> int:
    """Return a number in 0..bound-1; `bound` ≥ 1.

    FNV-1a leaves traces of the last characters in few bits, so its value goes through the finaliser of MurmurHash3.
    """
    value = fnv1a(text.encode())
    value = ((value ^ value >> 33) * 0xFF51AFD7ED558CCD) & _MASK
    value = ((value ^ value >> 33) * 0xC4CEB9FE1A85EC53) & _MASK
    return (value ^ value >> 33) % bound
