"""What every part of the cache stands on: attributes, hooks, and reading and writing by name."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redkeep.cache import arguments
from redkeep.cache.codec import Codec
from redkeep.cache.keys import CacheKeyGenerator
from redkeep.cache.link import TIMEOUT_SECONDS, Link, reason_of
from redkeep.cache.memory import MAX_BYTES, MemoryTier, Reads
from redkeep.cache.origin import NO_ORIGIN
from redkeep.crypto.envelope import expiry_of
from redkeep.errors import (
    DecryptionError,
    RedkeepError,
)
from redkeep.monitoring.performance import CachePerformanceMonitor

if TYPE_CHECKING:
    from redkeep.access.client import Argument, Command
    from redkeep.cache.epochs import Epochs
    from redkeep.cache.watch import Watch

logger = logging.getLogger(__name__)

NOT_FOUND: Final = "key_not_found"
MISS: Final = object()
"""No value; None is a value that JSON can hold."""

_TRIES: Final = 3
"""Looks at all names while values are being moved: a value is moved once, or twice when a key is retired meanwhile."""

GONE: Final = -2
"""What PTTL says of a key that is not there."""

MEMORY_SECONDS: Final = 300.0
"""The longest that the memory tier serves an entry without asking Redis: what another process replaced is seen by then."""


class OlderName(NamedTuple):
    """Another name under which a value may lie; `legacy` when it is one of the old readable names, `alias` when
    `redkeep migrate-data` has named it by that one's hash."""

    name: str
    legacy: bool
    alias: bool = False


class CacheBase(Link):
    """Not for use by itself; see AIResponseCache."""

    _epochs: Epochs | None = None
    _watch: Watch | None = None
    """Guards the memory tier where the server tells of changes; None where entries are merely short-lived."""

    @property
    def _looks_elsewhere(self) -> bool:
        """A hook: whether values may lie under other names, too: several keys, or a migration window."""
        return False

    def __init__(
        self,
        redis_url: str = "redis://redis:6379",
        default_ttl: int = 3600,
        text_hash_threshold: int = 1000,
        hash_algorithm: Callable[[], Any] = hashlib.sha256,
        compression_threshold: int = 1000,
        compression_level: int = 6,
        text_size_tiers: Mapping[str, int] | None = None,
        memory_cache_size: int = 100,
        performance_monitor: CachePerformanceMonitor | None = None,
        *,
        read_legacy: bool | None = None,
        timeout: float = TIMEOUT_SECONDS,
        memory_ttl: float = MEMORY_SECONDS,
        memory_cache_bytes: int = MAX_BYTES,
    ) -> None:
        """Nothing connects before it is needed. Times are in seconds, sizes in bytes or, for texts, in characters.

        `read_legacy` reads the pickles of the old class, as plain data; by default on. Raises TypeError and ValueError naming
        the argument.
        """
        super().__init__(arguments.text(redis_url, "redis_url"), arguments.span(timeout, "timeout"))
        self.default_ttl = arguments.seconds(default_ttl, "default_ttl")
        self.operation_ttls: dict[str, int] = {
            "summarize": 7200, "sentiment": 86400, "key_points": 7200, "questions": 3600, "qa": 1800,
        }
        self.text_size_tiers: dict[str, int] = arguments.tiers(
            {"small": 500, "medium": 5000, "large": 50000} if text_size_tiers is None else text_size_tiers, "text_size_tiers"
        )
        monitor: CachePerformanceMonitor | None = arguments.instance(performance_monitor, "performance_monitor", CachePerformanceMonitor)
        self.performance_monitor = monitor or CachePerformanceMonitor()
        self.key_generator = CacheKeyGenerator(
            arguments.whole(text_hash_threshold, "text_hash_threshold"),
            arguments.hasher(hash_algorithm, "hash_algorithm"),
            self.performance_monitor,
        )
        self.read_legacy = True if read_legacy is None else arguments.flag(read_legacy, "read_legacy")
        self.memory_ttl = arguments.span(memory_ttl, "memory_ttl", zero=True)
        self._codec = Codec(
            threshold=arguments.whole(compression_threshold, "compression_threshold"),
            zlib_level=arguments.whole(compression_level, "compression_level", most=9),
        )
        self.memory_cache = MemoryTier(
            max_entries=arguments.whole(memory_cache_size, "memory_cache_size"),
            max_bytes=arguments.whole(memory_cache_bytes, "memory_cache_bytes"),
            decode=self._decode,
        )
        self._reads = Reads()

    @property
    def compression_threshold(self) -> int:
        """Bytes of JSON up to which nothing is compressed."""
        return self._codec.threshold

    @compression_threshold.setter
    def compression_threshold(self, value: int) -> None:
        self._codec.threshold = arguments.whole(value, "compression_threshold")

    @property
    def compression_level(self) -> int:
        """zlib's level for what is not sealed, 1 to 9."""
        return self._codec.zlib_level

    @compression_level.setter
    def compression_level(self, value: int) -> None:
        self._codec.zlib_level = arguments.whole(value, "compression_level", most=9)

    @property
    def memory_cache_size(self) -> int:
        """Entries that the memory tier holds at most."""
        return self.memory_cache.max_entries

    @memory_cache_size.setter
    def memory_cache_size(self, value: int) -> None:
        self.memory_cache.max_entries = arguments.whole(value, "memory_cache_size")

    @property
    def memory_cache_order(self) -> list[str]:
        """The keys in the memory tier, the next to go first."""
        return self.memory_cache.keys()

    async def close(self) -> None:
        """End the connection and forget the memory tier; a second call is idle. The next call connects again."""
        self.memory_cache.clear()
        await super().close()

    # naming, encoding and decoding

    def _generate_cache_key(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None = None
    ) -> str:
        return self.key_generator.generate_cache_key(text, operation, options, question)

    def _entry_name(self, key: str) -> str:
        """A hook: the Redis key for a key of `get` and `set`."""
        return arguments.text(key, "key")

    def _older_entry_names(self, key: str) -> list[OlderName]:
        """A hook: where else the value for `key` may lie."""
        return []

    def _older_response_names(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None
    ) -> list[OlderName]:
        """A hook: where else the answer to a request may lie."""
        return []

    def _entry_origin(self, key: str) -> bytes:
        """A hook: what is sealed with the value for `key`, to name it anew."""
        return NO_ORIGIN

    def _response_origin(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None
    ) -> bytes:
        """A hook: what is sealed with the answer to a request, to name it anew."""
        return NO_ORIGIN

    def _compress_data(self, data: Any) -> bytes:
        return self._codec.wrap(self._codec.dump(data, field="data"))

    def _decompress_data(self, data: bytes) -> Any:
        return self._codec.read(data, name="", read_pickles=self.read_legacy)

    def _encode(
        self, name: str, value: Any, seconds: float, payload: bytes | None = None, origin: bytes = NO_ORIGIN
    ) -> bytes:
        """A hook: what is stored under `name` for `seconds`; `payload` is the value as JSON, when that is known already."""
        return self._compress_data(value)

    def _decode(self, name: str, stored: bytes, legacy: bool = False) -> Any:
        """A hook: the value of what is stored under `name`. Raises DecryptionError."""
        return self._decompress_data(stored)

    def _update_memory_cache(self, key: str, value: Any) -> None:
        if self._watch is None:  # else nobody would tell of a change to it
            self.memory_cache.put_bytes(key, self._encode(key, value, self.memory_ttl), seconds=self.memory_ttl)

    # reading and writing by name

    async def _prepare(self, operation: str) -> str:
        """Know the epochs that names of `operation` are made with. Returns why Redis cannot be used, or ""."""
        if self._epochs is not None and self._epochs.due(operation):
            try:
                await self._epochs.refresh(operation)
            except RedkeepError as error:
                return reason_of(error)
        return ""

    async def _read(self, name: str) -> tuple[Any, bytes, str]:
        """The value under `name` as (value, stored bytes, reason). The value is MISS when there is none, with the reason."""
        watch = self._watch
        try:
            if watch is None:
                stored, lasts = await self._execute("GET", wire_name(name)), False
            else:
                stored, lasts = await self._read_watched(watch, name)
        except RedkeepError as error:
            if "WRONGTYPE" not in str(error):
                return MISS, b"", reason_of(error)
            await self._reject(name, b"", DecryptionError("the key has no plain value"))
            return MISS, b"", "unreadable"
        if stored is None:
            return MISS, b"", NOT_FOUND
        try:
            value = self._decode(name, stored)
        except DecryptionError as error:
            await self._reject(name, stored, error)
            return MISS, b"", "unreadable"
        if lasts:
            self.memory_cache.put_bytes(name, stored, seconds=self.memory_ttl)
        return value, stored, ""

    async def _read_watched(self, watch: Watch, name: str) -> tuple[Any, bool]:
        """What is stored under `name`, and whether it may be kept in memory."""
        read, stored = watch.begin(name), None
        try:
            stored = await self._execute("GET", wire_name(name))
        finally:
            lasts = watch.end(name, read)
        return stored, lasts

    def _recall(self, name: str) -> Any:
        """The value that memory keeps under `name`, or MISS."""
        stored = self.memory_cache.get_bytes(name)
        if stored is None:
            return MISS
        try:
            return self._decode(name, stored)
        except DecryptionError:  # its time is over: the tier's clock and the envelope's differ
            self.memory_cache.pop(name)
            return MISS

    async def _read_elsewhere(self, name: str, older: list[OlderName], origin: bytes) -> tuple[Any, bytes, str]:
        """The value under the first of the other names that has one, moved to `name` with the time it has left.

        All names are asked at one instant, `name` itself again: what moves from one to another meanwhile is found all the same.
        """
        others = [wire_name(other.name) for other in older]
        for _ in range(_TRIES if older else 0):
            try:
                (moved, *found), *times = await self._execute_many(
                    [("MGET", wire_name(name), *others), *(("PTTL", other) for other in others)]
                )
            except RedkeepError as error:
                return MISS, b"", reason_of(error)
            if moved is not None:
                return await self._read(name)
            again = False
            for other, stored, left in zip(older, found, times, strict=True):
                if stored is None:
                    continue
                if left == GONE:  # it was there a moment ago
                    again = True
                    continue
                value, move = await self._open_older(name, other, stored, left, origin)
                if move is not None:
                    await self._move([move], [other] if other.alias else [])
                    return value, move[2], ""
            if not again:
                break
        return MISS, b"", NOT_FOUND

    async def _open_older(
        self, name: str, other: OlderName, stored: bytes, left: int, origin: bytes
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """The value that lies under another name with `left` milliseconds to live, and the command that moves it to `name`;
        no command when there is no value to be had."""
        try:
            value = self._decode(other.name, stored, other.legacy)
        except DecryptionError as error:
            await self._reject(other.name, stored, error)
            return MISS, None
        seconds = self._seconds_left(stored, left)
        try:
            fresh = self._encode(name, value, seconds, None, origin)
        except (TypeError, ValueError):  # an old pickle with a NaN
            return MISS, None
        except RedkeepError:  # the key has sealed all it may
            return MISS, None
        return value, ("SET", wire_name(name), fresh, "PX", max(1, int(seconds * 1000)), "NX")

    def _seconds_left(self, stored: bytes, left: int) -> float:
        """How long a value stays that is moved: what Redis says, and no longer than what is sealed with it."""
        until = expiry_of(stored)
        sealed = until / 1000 - time.time() if until else math.inf
        seconds = min(left / 1000 if left > 0 else math.inf, sealed)
        return seconds if seconds < math.inf else float(self.default_ttl)

    async def _move(self, moves: list[Command], emptied: list[OlderName]) -> None:
        """Store what was found elsewhere, and leave nothing at the places in `emptied`: both or neither."""
        if emptied:
            moves = [("MULTI",), *moves, ("UNLINK", *(wire_name(other.name) for other in emptied)), ("EXEC",)]
        try:
            if moves:
                await self._execute_many(moves)
        except RedkeepError:
            logger.debug("cache_value_not_moved")  # it is read again from where it lies

    async def _write(self, name: str, stored: bytes, seconds: float, older: list[OlderName]) -> str:
        """Store under `name`, and leave nothing under other names. Returns why it was not stored, or ""."""
        command: Command = ("SET", wire_name(name), stored, "PX", max(1, int(seconds * 1000)))
        try:
            if older:
                await self._execute_many([command, *(("UNLINK", wire_name(other.name)) for other in older)])
            else:
                await self._execute(*command)
        except RedkeepError as error:
            return reason_of(error)
        finally:
            self._written(name)
        return ""

    def _written(self, *names: str) -> None:
        """Said after a write, whatever came of it: what was read before it is not kept in memory."""
        (self._watch or self._reads).written(names)

    async def _reject(self, name: str, stored: bytes, error: DecryptionError) -> None:
        """A hook: what lies under `name` cannot be read."""
        self.error_counts["decryption"] += 1
        logger.warning("cache_value_unreadable", extra={"reason": str(error)})

    def _record(self, operation: str, start: float, hit: bool, length: int = 0, **data: Any) -> None:
        self.performance_monitor.record_cache_operation_time(operation, time.perf_counter() - start, hit, length, data)


def wire_name(name: str) -> Argument:
    """A key name as it goes to Redis: text, or bytes when it holds lone surrogates."""
    return name if name.isascii() else name.encode("utf-8", "surrogatepass")
