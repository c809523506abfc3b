"""How far a sweep over all keys has come, how long the rest takes, and how fast it may go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

_CATCH_UP_SECONDS: Final = 0.25
"""A pace that was missed is made up for by so much at most: a pause must not be followed by a burst."""


def swept(cursor: int) -> float:
    """How much of the table SCAN has seen, from 0 to 1, from its cursor alone: Redis counts the buckets in reversed bits.

    A cursor of 0 is the end.
    """
    bits = f"{cursor:b}"
    return int(bits[::-1], 2) / 2 ** len(bits) if cursor else 1.0


class Pace:
    """No more than `rate` things a second, evenly; 0 is no limit."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock()

    async def take(self, things: float) -> None:
        """Wait until so many may be done."""
        if self._rate <= 0:
            await asyncio.sleep(0)
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - _CATCH_UP_SECONDS) + things / self._rate
        await asyncio.sleep(max(0.0, self._free_at - now))


def span(seconds: float) -> str:
    """A time for people, in its two largest units: 45 s, 3 min 10 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
