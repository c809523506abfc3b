"""The event loops that Redkeep makes itself: uvloop's where it is installed (the extra `uvloop`), else asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop, for `asyncio.Runner` or a thread; an application with a loop of its own chooses for itself."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
