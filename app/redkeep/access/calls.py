"""A call on its way: who waits for the reply, until when, and what must be known to send it again."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from redkeep.access.client import Command


class Waiter(Protocol):
    """Who waits for a reply: an `asyncio.Future` or a `Batch`."""

    def done(self) -> bool: ...
    def set_result(self, reply: Any, /) -> None: ...
    def set_exception(self, error: Any, /) -> None: ...


class Batch:
    """Waits for several replies as one; an error reply becomes a value among them."""

    __slots__ = ("_wanted", "done", "future", "replies", "set_exception")

    def __init__(self, future: asyncio.Future[list[Any]], wanted: int) -> None:
        self.future = future
        self.replies: list[Any] = []
        self._wanted = wanted
        self.done = future.done
        self.set_exception = future.set_exception

    def set_result(self, reply: Any, /) -> None:
        """Take the next reply; the last one ends the wait."""
        self.replies.append(reply)
        if len(self.replies) == self._wanted:
            self.future.set_result(self.replies)


Call = tuple[Waiter, float, int, Command, int]
"""Waiter, deadline on the loop's clock, bytes of the command, the command, times it was written before."""
