"""Flights: one computation for everybody who wants the same value, in this process and, by a lock in Redis, across processes.

The lock is `SET ai_cache:lock:... token NX PX`: it ends by itself. It is deleted early only while it is certainly still ours, by
our own clock and with a margin: a compare-and-delete needs EVAL, which the cache user's ACL does not have, and must not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redkeep.errors import RedkeepError

logger = logging.getLogger(__name__)

FIRST_LOOK: Final = 0.02
LONGEST_LOOK: Final = 0.25
"""Seconds between looks for the value that another process computes."""

_MARGIN: Final = 1.0
"""Seconds before the end of a lock within which it is left to end by itself: a DEL under way must not hit the next owner's."""

Work = Callable[[], Awaitable[Any]]
Look = Callable[[], Awaitable[bool]]


class Flights:
    """Who computes what at this moment."""

    def __init__(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """`ask` executes one Redis command."""
        self._ask = ask
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, name: str, work: Work, read: Work, *, there: Look, miss: object, lock_seconds: float) -> Any:
        """The result of `work`, or of whoever else computes for `name`. `read` looks whether the value has come; `miss` if not.
        `there` tells the same as cheaply as can be, and counts nowhere as a miss.

        A caller that is cancelled takes nothing from the others: the computation goes on.
        """
        task = self._tasks.get(name)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._start(name, self._computed(name, work, read, there, miss, lock_seconds))
        return await asyncio.shield(task)

    def run_in_background(self, name: str, work: Work, *, lock_seconds: float) -> None:
        """Have one process compute anew; whoever finds it under way does nothing. Failures are logged."""
        if name not in self._tasks:
            task = self._start(name, self._refreshed(name, work, lock_seconds))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def end_background(self) -> None:
        """Cancel what `run_in_background` began and wait until it has ended, its locks released. What callers await goes on."""
        here, mine = asyncio.get_running_loop(), []
        for task in list(self._background):
            loop = task.get_loop()
            if loop is here:
                task.cancel()
                mine.append(task)
            elif loop.is_running():  # in another thread; a loop that stands still runs nothing
                loop.call_soon_threadsafe(task.cancel)
        await asyncio.gather(*mine, return_exceptions=True)

    def _start(self, name: str, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._end(name, done))
        return task

    def _end(self, name: str, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled():
            task.exception()  # seen: every caller may have been cancelled

    async def _computed(self, name: str, work: Work, read: Work, there: Look, miss: object, lock_seconds: float) -> Any:
        if not lock_seconds:
            return await work()
        end = time.monotonic() + lock_seconds
        pause = FIRST_LOOK
        while True:
            taken, until = await self._take(name, lock_seconds)
            if taken:
                try:
                    if until and await there():  # stored, and the lock given back, between our look and our lock
                        value = await read()
                        if value is not miss:
                            return value
                    return await work()
                finally:
                    if until:
                        await self._release(name, until)
            await asyncio.sleep(pause)
            value = await read()
            if value is not miss:
                return value
            if time.monotonic() >= end:  # whoever had the lock is slow or dead: better twice than never
                return await work()
            pause = min(pause * 2, LONGEST_LOOK)

    async def _refreshed(self, name: str, work: Work, lock_seconds: float) -> None:
        taken, until = await self._take(name, lock_seconds)
        if not taken:
            return
        try:
            await work()
        except Exception as error:  # the caller has been answered; the value in the cache still holds
            logger.warning("early_refresh_failed", extra={"kind": type(error).__name__})
        finally:
            if until:
                await self._release(name, until)

    async def _take(self, name: str, lock_seconds: float) -> tuple[bool, float]:
        """Whether the lock is ours, and until when by our clock; without Redis there is nobody to wait for: (True, 0)."""
        until = time.monotonic() + lock_seconds
        try:
            reply = await self._ask("SET", name, secrets.token_hex(8), "NX", "PX", max(1, int(lock_seconds * 1000)))
        except RedkeepError:
            return True, 0.0
        return reply is not None, until

    async def _release(self, name: str, until: float) -> None:
        if time.monotonic() + _MARGIN >= until:
            return
        try:
            await self._ask("DEL", name)
        except RedkeepError:
            logger.debug("lock_left")  # it ends by itself
