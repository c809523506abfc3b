"""The interface every cache here keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class CacheInterface(ABC):
    """Get, set and delete by a key of the caller's own."""

    @abstractmethod
    async def get(self, key: str) -> Any:
        """Return the value under `key`, or None."""

    @abstractmethod
    async def set(self, key: str, value: Any, ttl: int | None = None) -> None:
        """Keep `value` under `key` for `ttl` seconds."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Forget what is under `key`."""
