"""A lock that outlives event loops: an asyncio.Lock belongs for ever to the first loop in which somebody had to wait for it."""

from __future__ import annotations

import asyncio


class LoopLock:
    """A cache made once serves several `asyncio.run` calls, as scripts do; each loop has a lock of its own."""

    __slots__ = ("_lock", "_loop")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def here(self) -> asyncio.Lock:
        """The lock of the running loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._lock, self._loop = asyncio.Lock(), loop
        return self._lock
