"""The event loops that Redkeep makes itself: uvloop's where it is installed (`pip install redkeep[uvloop]`), else asyncio's."""

from __future__ import annotations

import asyncio
from typing import cast


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for `asyncio.Runner(loop_factory=...)` or a thread; an application with a loop of its own chooses for itself."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())
