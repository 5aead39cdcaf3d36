"""The one hash of the project: FNV-1a, so that any language and the broker can route alike.

32 bits for slots, which is what a NATS `partition(n, …)` mapping computes; 64 bits where collisions would matter.
Python's own `hash` differs per process and is never used. Source: Fowler, Noll, Vo, http://www.isthe.com/chongo/tech/comp/fnv/
"""

from __future__ import annotations

_OFFSET_64 = 0xCBF29CE484222325
_PRIME_64 = 0x100000001B3
_MASK_64 = 0xFFFFFFFFFFFFFFFF
_OFFSET_32 = 0x811C9DC5
_PRIME_32 = 0x01000193
_MASK_32 = 0xFFFFFFFF
_LOW = bytes((value * _PRIME_32) & 0xFF for value in range(256))


def fnv1a(key: bytes) -> int:
    """Return the 64-bit FNV-1a hash of `key`, unsigned."""
    value = _OFFSET_64
    for byte in key:
        value = ((value ^ byte) * _PRIME_64) & _MASK_64
    return value


def fnv1a_32(key: bytes) -> int:
    """Return the 32-bit FNV-1a hash of `key`, unsigned."""
    value = _OFFSET_32
    for byte in key:
        value = ((value ^ byte) * _PRIME_32) & _MASK_32
    return value


def slot_of(key: str, slots: int) -> int:
    """Return the slot of `key`, 0..slots-1: the 32-bit hash of its UTF-8 bytes, modulo `slots`."""
    if 0 < slots <= 256 and not slots & (slots - 1):
        low = _OFFSET_32 & 0xFF  # a remainder by a power of two needs only the low bits, which no higher ones change
        for byte in key.encode():
            low = _LOW[low ^ byte]
        return low & (slots - 1)
    return fnv1a_32(key.encode()) % slots
