"""When to try again: exponential backoff with full jitter, and how long callers are asked to wait for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from redkeep.errors import RedkeepError, ServerUnavailableError

BASE_SECONDS: Final = 0.02
CAP_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 1.0
"""At least so long, doubled each time, after a refused login, certificate or setting: retries would look like guessing."""

PATIENCE_SECONDS: Final = 1.0
"""A connection that was lost may be away so long before callers are told: a restarted Redis is back within it."""

LOST_CAP_SECONDS: Final = 0.2
"""The longest delay while callers wait for a connection that was logged in: the server was there a moment ago."""

STABLE_SECONDS: Final = 1.0
"""A connection that lived so long was a good one: the count of losses begins anew."""


class Reconnect:
    """Counts failures and says when the next attempt may be, on the clock that is given.

    The delay before attempt n is uniform in [0, min(cap, base * 2^n)]: full jitter, as in "Exponential Backoff And Jitter"
    (AWS Architecture Blog, 2015), so that many clients of a restarted server do not come at once.
    """

    __slots__ = ("_clock", "_failures", "_losses", "_lost_at", "_up_at", "error", "not_before")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = self._losses = 0
        self._lost_at: float | None = None
        self._up_at = 0.0
        self.not_before = 0.0
        self.error: RedkeepError | None = None

    def delay(self) -> float:
        """Seconds until the next attempt may be."""
        return max(0.0, self.not_before - self._clock())

    def up(self) -> None:
        """A connection is logged in."""
        self._up_at, self._lost_at, self.error, self._failures = self._clock(), None, None, 0

    def lost(self) -> None:
        """A connection that was up is gone."""
        now = self._clock()
        if now - self._up_at >= STABLE_SECONDS:
            self._losses = 0
        self._lost_at = now
        self.not_before = now + _jitter(BASE_SECONDS, self._losses, LOST_CAP_SECONDS)
        self._losses += 1

    def failed(self, error: RedkeepError) -> None:
        """An attempt failed."""
        self.error = error
        patient = not self.gives_up()
        if not isinstance(error, ServerUnavailableError):
            wait = max(REFUSED_SECONDS, _jitter(REFUSED_SECONDS, self._failures, CAP_SECONDS))
        else:
            wait = _jitter(BASE_SECONDS, self._failures, LOST_CAP_SECONDS if patient else CAP_SECONDS)
        # A second of short delays does not count as a server that is down for long.
        if not patient or BASE_SECONDS * 2.0**self._failures < LOST_CAP_SECONDS:
            self._failures += 1
        self.not_before = self._clock() + wait

    def gives_up(self) -> bool:
        """Whether callers should hear of the failure now instead of waiting for the next attempt."""
        if self.error is None:
            return False
        if not isinstance(self.error, ServerUnavailableError) or self._lost_at is None:
            return True
        return self._clock() - self._lost_at > PATIENCE_SECONDS

    def forget(self) -> None:
        """Try at once: something was changed that gives hope."""
        self._failures = self._losses = 0
        self.not_before = 0.0


def _jitter(base: float, times: int, cap: float) -> float:
    return random.uniform(0, min(cap, base * 2.0 ** min(times, 16)))  # noqa: S311  # spreads load, keeps no secret
