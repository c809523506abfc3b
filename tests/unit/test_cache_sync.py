"""The synchronous face when it is closed while other threads use it: every call ends, and none waits for a loop that has stopped."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from redkeep.cache.response import AIResponseCache
from redkeep.cache.sync import SyncCache
from redkeep.errors import ConfigurationError, ServerUnavailableError

SECONDS = 10.0


class Slow(AIResponseCache):
    """Answers nothing until it is told to, not even when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    async def get(self, key: str) -> Any:
        self.asked.set()
        await asyncio.sleep(3600)


class Broken(AIResponseCache):
    """Cannot be closed in order."""

    async def close(self) -> None:
        raise ServerUnavailableError("the connection broke")


def test_a_call_under_way_ends_when_the_cache_is_closed() -> None:
    """With an error that says so, instead of waiting for ever."""
    slow, said = Slow(), list[str]()
    plain = SyncCache(slow)

    def ask() -> None:
        try:
            plain.get("k")
        except ConfigurationError as error:
            said.append(str(error))

    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    assert slow.asked.wait(SECONDS)
    plain.close()
    caller.join(SECONDS)
    assert not caller.is_alive()
    assert said == ["this SyncCache is closed, or was called from its own loop"]


def test_many_threads_may_close_it_at_once() -> None:
    """One does; the others, and calls that come too late, end as well."""
    plain = SyncCache(AIResponseCache())
    closers = [threading.Thread(target=plain.close, daemon=True) for _ in range(8)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(SECONDS)
    assert not any(closer.is_alive() for closer in closers)
    with pytest.raises(ConfigurationError, match="is closed"):
        plain.get("k")


def test_a_connection_that_cannot_be_closed_leaves_no_thread() -> None:
    """The error is raised; loop and thread are gone, and a second call is idle."""
    plain = SyncCache(Broken())
    with pytest.raises(ServerUnavailableError):
        plain.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "redkeep-cache" and thread.is_alive()]
    plain.close()
