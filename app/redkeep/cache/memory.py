"""The memory tier: what was read or written a moment ago, bounded by entries, bytes and time.

It holds the very bytes that Redis holds, sealed when encryption is on, for four reasons: every hit is decoded afresh, so no
caller can change what another gets; the checks of key, namespace and expiry hold here as they do there; plaintext does not lie
about in the process for minutes (swap, core dumps); and its size is known to the byte. It costs a hit the decoding, some 8 us
at 2 KB against 100 and more for the way to Redis.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

MAX_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD_BYTES: Final = 200
"""What an entry costs besides key and value: the tuple, the dictionary's slot, two object headers."""

Decode = Callable[[str, bytes], Any]


class MemoryTier:
    """Least recently used goes first; an entry past its time is not there. Looks like the old class's dictionary.

    `tier[key]` decodes; `get_bytes` and `put_bytes` are the way of the cache itself.
    """

    __slots__ = ("_bytes", "_clock", "_decode", "_entries", "max_bytes", "max_entries")

    def __init__(
        self, *, max_entries: int, decode: Decode, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`max_entries` 0 keeps nothing. `clock` is in seconds and never goes back."""
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._decode = decode
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def put_bytes(self, key: str, stored: bytes, *, seconds: float) -> None:
        """Keep `stored` for `seconds`. What is larger than the tier is not kept."""
        self.pop(key)
        size = _size(key, stored)
        if self.max_entries <= 0 or seconds <= 0 or size > self.max_bytes:
            return
        self._entries[key] = (stored, self._clock() + seconds)
        self._bytes += size
        while len(self._entries) > self.max_entries or self._bytes > self.max_bytes:
            oldest, (old, _) = self._entries.popitem(last=False)
            self._bytes -= _size(oldest, old)

    def get_bytes(self, key: str) -> bytes | None:
        """What is kept under `key`, now the most recently used; None when there is nothing, or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[1]:
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def pop(self, key: str) -> bool:
        """Forget `key`; tells whether it was there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= _size(key, entry[0])
        return True

    def pop_where(self, matches: Callable[[str], bool]) -> int:
        """Forget every key for which `matches` holds; returns how many."""
        return sum(self.pop(key) for key in list(self._entries) if matches(key))

    def clear(self) -> int:
        """Forget everything; returns how many entries there were."""
        count = len(self._entries)
        self._entries.clear()
        self._bytes = 0
        return count

    @property
    def bytes_used(self) -> int:
        """What the entries take, with an estimate for Python's own share."""
        return self._bytes

    def keys(self) -> list[str]:
        """The keys whose time is not over, least recently used first."""
        now = self._clock()
        return [key for key, (_, end) in self._entries.items() if now < end]

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        entry = self._entries.get(key) if isinstance(key, str) else None
        return entry is not None and self._clock() < entry[1]

    def __getitem__(self, key: str) -> Any:
        stored = self.get_bytes(key)
        if stored is None:
            raise KeyError(key)
        return self._decode(key, stored)

    def get(self, key: str, default: Any = None) -> Any:
        """A fresh copy of the value under `key`, or `default`."""
        stored = self.get_bytes(key)
        return default if stored is None else self._decode(key, stored)

    def items(self) -> list[tuple[str, Any]]:
        """Keys and fresh copies of their values."""
        return [(key, self[key]) for key in self.keys()]

    def values(self) -> list[Any]:
        """Fresh copies of the values."""
        return [value for _, value in self.items()]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, dict):
            return dict(self.items()) == other
        return self is other

    __hash__ = None  # type: ignore[assignment]  # like the dictionary it stands for

    def __repr__(self) -> str:
        return f"MemoryTier({len(self)} of {self.max_entries} entries, {self._bytes} bytes)"


class Reads:
    """Which names are being read, to keep what lies there: not what a write has replaced before the reply was there."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        self._reads: dict[str, object] = {}

    def begin(self, name: str) -> object:
        """`name` is about to be read; returns what `end` wants."""
        return self._reads.setdefault(name, object())

    def end(self, name: str, read: object) -> bool:
        """The read is over, however it ended; tells whether what it brought may be kept."""
        if self._reads.get(name) is not read:
            return False
        del self._reads[name]
        return True

    def written(self, names: Iterable[str]) -> None:
        """These names were written here, or are about to be."""
        for name in names:
            self._reads.pop(name, None)

    def forget(self) -> None:
        """Any name may have been."""
        self._reads.clear()


def _size(key: str, stored: bytes) -> int:
    return len(key) + len(stored) + _OVERHEAD_BYTES
