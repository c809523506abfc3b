"""The circuit breaker: a Redis that is down costs one attempt in a while, not one a call."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, Literal

FAILURES: Final = 3
"""Commands in a row that must fail before the breaker opens; a failed connect opens it at once."""

FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 2.0
"""Seconds. A server that is back is found within them: recovery stays under 5 s."""

REFUSED_WAIT: Final = 30.0
"""Seconds after a refused login or handshake: asking more often would look like guessing in the server's ACL LOG."""

PROBE_LIMIT: Final = 15.0
"""Seconds after which a probe that never reported counts as lost."""

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed: everybody may. Open: nobody. Half-open: one probe may, and its outcome decides."""

    __slots__ = ("_clock", "_jitter", "_probe_ends", "_until", "_wait", "closed", "failures", "opened")

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self.closed = True
        self.opened = 0
        """How often it has opened so far."""
        self.failures = 0
        """Failures since the last success."""
        self._wait = FIRST_WAIT
        self._until = 0.0
        self._probe_ends = 0.0

    @property
    def state(self) -> State:
        """Where it stands at this moment."""
        if self.closed:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    def allow(self) -> bool:
        """Whether this caller may try. In the half-open state true for one, who must report success or failure."""
        if self.closed:
            return True
        now = self._clock()
        if now < self._until or now < self._probe_ends:
            return False
        self._probe_ends = now + PROBE_LIMIT
        return True

    def success(self) -> bool:
        """A command was answered. Tells whether that closed the breaker."""
        self.failures = 0
        if self.closed:
            return False
        self.closed = True
        self._wait = FIRST_WAIT
        self._probe_ends = 0.0
        return True

    def failure(self, *, connecting: bool = False, refused: bool = False) -> bool:
        """A command or connect failed, or was `refused` for a reason that time alone does not mend.

        Tells whether that opened the breaker, which it does once however many callers report the same trouble.
        """
        self.failures += 1
        if self.closed and not connecting and not refused and self.failures < FAILURES:
            return False
        now = self._clock()
        was_closed = self.closed
        if not was_closed and now < self._until:
            return False
        wait = REFUSED_WAIT if refused else self._wait
        self._until = now + wait * (0.75 + self._jitter() / 4)  # a fleet must not come back in step
        self._wait = min(self._wait * 2, LONGEST_WAIT)
        self._probe_ends = 0.0
        self.closed = False
        self.opened += was_closed
        return was_closed

    def undecided(self) -> None:
        """A command ended without a word on the server: refused for a reason of its own, or cancelled. Was it the probe, the next
        caller may try after a wait; else everybody would be kept out for PROBE_LIMIT."""
        if not self.closed and self._probe_ends:
            self._until, self._probe_ends = self._clock() + self._wait, 0.0

    def reset(self) -> None:
        """Forget everything: there are new credentials, or somebody asked by hand."""
        self.closed, self.failures, self._wait, self._until, self._probe_ends = True, 0, FIRST_WAIT, 0.0, 0.0
