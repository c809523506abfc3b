"""What the memory tier may keep while the server says which keys have changed (CLIENT TRACKING), and when it may be asked.

An entry is kept only when a GET of this very connection brought it, and only when its name was neither called changed nor
written here since that GET was sent: the word of a change can come between a reply and the moment its reader goes on. What is
written here is not kept, because the server watches what was read and not what was written. When the connection is lost, all
of it is forgotten, and nothing is kept or served until the server watches again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from redkeep.cache.memory import MemoryTier, Reads

if TYPE_CHECKING:
    from redkeep.access.tracking import Invalidate

PAUSE_AFTER: Final = 64
"""Hits of memory without a turn of the event loop after which it gets one: who does nothing else must hear of changes, too."""


class Source(Protocol):
    """Who hears of changes: the multiplexed transport."""

    async def enable_tracking(self, on_invalidate: Invalidate) -> None: ...

    @property
    def tracking(self) -> bool: ...


class Watch(Reads):
    """The memory tier's guard; of one cache."""

    __slots__ = ("_asked", "_heard", "_memory", "_source")

    def __init__(self, memory: MemoryTier, *, heard: Callable[[bytes], None]) -> None:
        """`heard` is told each name that has changed."""
        super().__init__()
        self._memory = memory
        self._heard = heard
        self._source: Source | None = None
        self._asked = 0

    async def follow(self, source: Source) -> None:
        """Watch through this connection from now on. Raises what `enable_tracking` raises; then nothing is kept or served."""
        self._source = None
        self.changed(None)
        await source.enable_tracking(self.changed)
        self._source = source

    @property
    def active(self) -> bool:
        """Whether the server tells of changes at this moment."""
        return self._source is not None and self._source.tracking

    async def ready(self) -> bool:
        """Whether what is kept may be served now; when nobody else does, it lets the event loop hear of changes first."""
        self._asked += 1
        if self._asked == 1:
            asyncio.get_running_loop().call_soon(self._turned)
        elif self._asked > PAUSE_AFTER:
            await asyncio.sleep(0)
            self._turned()
        return self.active

    def _turned(self) -> None:
        self._asked = 0

    def end(self, name: str, read: object) -> bool:
        """As of every read; and whether the server would tell of a change."""
        return super().end(name, read) and self.active

    def written(self, names: Iterable[str]) -> None:
        """These names were written here: forget them. The server's own word may come later than the reply, by another connection."""
        for name in names:
            self._reads.pop(name, None)
            self._memory.pop(name)

    def changed(self, names: list[bytes] | None) -> None:
        """The server's word: these names have changed; None means that any may have."""
        if names is None:
            self.forget()
            self._memory.clear()
            return
        self.written(name.decode("utf-8", "replace") for name in names)
        for name in names:
            self._heard(name)
