"""The synchronous face: the same cache for scripts and WSGI, on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Self, TypeVar

from redkeep.access.event_loop import loop_factory
from redkeep.cache.response import AIResponseCache
from redkeep.errors import ConfigurationError

Result = TypeVar("Result")

_CLOSED: Final = "this SyncCache is closed, or was called from its own loop"


class SyncCache:
    """Calls of any thread run on the loop of this object. Close it, or use it in a `with` block."""

    def __init__(self, cache: AIResponseCache) -> None:
        """`cache` must be used through this object alone from now on."""
        self.cache = cache
        self._lock = threading.Lock()
        self._closed = False
        self._calls: set[Future[Any]] = set()
        self._loop = loop_factory()()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redkeep-cache", daemon=True)
        self._thread.start()

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
