"""The synchronous face: the same cache for scripts and WSGI, on one event loop in a thread of its own. A forked child, such as a
worker of a preloaded WSGI server, has neither of its parent's, and makes its own with its first call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Self, TypeVar

from redkeep.access.event_loop import loop_factory
from redkeep.access.forks import part_at_fork
from redkeep.cache.response import AIResponseCache
from redkeep.errors import ConfigurationError

Result = TypeVar("Result")

_left: list[asyncio.AbstractEventLoop] = []
"""Loops of the parent's: nothing here may use or close them, the garbage collection neither."""

_CLOSED: Final = "this SyncCache is closed, or was called from its own loop"


class SyncCache:
    """Calls of any thread run on the loop of this object. Close it, or use it in a `with` block."""

    def __init__(self, cache: AIResponseCache) -> None:
        """`cache` must be used through this object alone from now on."""
        self.cache = cache
        self._closed = False
        self._begin()
        part_at_fork(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._loop = loop_factory()()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redkeep-cache", daemon=True)

    def leave_to_parent(self) -> None:
        """In a forked child: nobody runs the parent's loop here, and another thread may have held the lock."""
        if not self._closed:
            _left.append(self._loop)
            self._begin()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> bool:
        """Connect unless it is done; True when Redis answers."""
        return self._run(self.cache.connect())

    def close(self) -> None:
        """End connection, loop and thread; a second call is idle. Calls of other threads that are under way end with a
        ConfigurationError: nobody is left waiting for a loop that has stopped."""
        with self._lock:
            if self._closed:
                return
            if threading.current_thread() is self._thread:
                raise ConfigurationError(_CLOSED)
            self._closed = True
            for call in self._calls:
                call.cancel()
            self._start()
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def get(self, key: str) -> Any:
        """The value under `key`, or None."""
        return self._run(self.cache.get(key))

    def set(self, key: str, value: Any, ttl: int | None = None) -> None:
        """Keep `value` for `ttl` seconds."""
        self._run(self.cache.set(key, value, ttl))

    def delete(self, key: str) -> None:
        """Forget what is under `key`."""
        self._run(self.cache.delete(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """What there is under `keys`."""
        return self._run(self.cache.get_many(keys))

    def set_many(self, values: Mapping[str, Any], ttl: int | None = None) -> None:
        """Keep several values for `ttl` seconds."""
        self._run(self.cache.set_many(values, ttl))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Forget what is under `keys`; returns how many were there."""
        return self._run(self.cache.delete_many(keys))

    def get_cached_response(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None = None
    ) -> dict[str, Any] | None:
        """The answer to this very request, or None."""
        return self._run(self.cache.get_cached_response(text, operation, options, question))

    def cache_response(
        self,
        text: str,
        operation: str,
        options: Mapping[str, Any] | None,
        response: Mapping[str, Any],
        question: str | None = None,
    ) -> None:
        """Keep an answer for the operation's time to live."""
        self._run(self.cache.cache_response(text, operation, options, response, question))

    def invalidate_by_operation(self, operation: str, operation_context: str = "") -> int:
        """Remove every answer to `operation`."""
        return self._run(self.cache.invalidate_by_operation(operation, operation_context))

    def invalidate_all(self, operation_context: str = "manual_clear_all") -> int:
        """Remove every entry."""
        return self._run(self.cache.invalidate_all(operation_context))

    def get_cache_stats(self) -> dict[str, Any]:
        """Redis, memory tier and performance."""
        return self._run(self.cache.get_cache_stats())

    def health_check(self) -> dict[str, Any]:
        """Whether Redis answers."""
        return self._run(self.cache.health_check())

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    async def _end(self) -> None:
        try:
            await self.cache.close()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            if self._closed or threading.current_thread() is self._thread:
                call.close()
                raise ConfigurationError(_CLOSED)
            self._start()
            future: Future[Result] = asyncio.run_coroutine_threadsafe(call, self._loop)
            self._calls.add(future)
        try:
            return future.result()
        except CancelledError:
            raise ConfigurationError(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise
        finally:
            with self._lock:
                self._calls.discard(future)
