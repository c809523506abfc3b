"""Values under keys of the caller's own: one or many, and computed when absent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redkeep.cache import arguments
from redkeep.cache.base import GONE, MISS, NOT_FOUND, CacheBase, OlderName, logger, wire_name
from redkeep.cache.flight import Flights
from redkeep.cache.keys import ENTRY_OPERATION, LOCK_PREFIX, PREFIX
from redkeep.cache.link import reason_of
from redkeep.errors import DecryptionError, RedkeepError

if TYPE_CHECKING:
    from redkeep.access.client import Command

Value = TypeVar("Value")

BATCH: Final = 500
"""Keys a command: more would hold up everyone else on the server, and the reply must fit."""

NEGATIVE_SECONDS: Final = 60
_PAUSE_EVERY: Final = 100
_QUIET_SECONDS: Final = 5.0
_FROM_MEMORY: Final[dict[str, Any]] = {"cache_tier": "memory"}
_FROM_REDIS: Final[dict[str, Any]] = {"cache_tier": "redis"}
_TO_REDIS: Final[dict[str, Any]] = {"cache_tier": "redis", "status": "success"}


class Entries(CacheBase):
    """The part of the cache that does not know what is cached."""

    encryption_batch_size = _PAUSE_EVERY
    _quiet_until = 0.0

    @cached_property
    def _flights(self) -> Flights:
        return Flights(self._execute)

    async def close(self) -> None:
        """End refreshes under way, then the connection, and forget the memory tier; a second call is idle. The next call connects
        again."""
        await self._flights.end_background()
        await super().close()

    async def get(self, key: str) -> Any:
        """The value under `key`, or None. Raises TypeError for a key that is no text; everything else is a miss."""
        value = await self._get(key)
        return None if value is MISS else value

    async def set(self, key: str, value: Any, ttl: int | None = None) -> None:
        """Keep `value` for `ttl` seconds, or `default_ttl`. Without Redis it is dropped, counted and logged.

        Raises TypeError or ValueError that names the argument: `key` no text, `value` nothing that JSON holds, `ttl` no number
        of seconds; then nothing was stored.
        """
        start = time.perf_counter()
        arguments.text(key, "key")
        seconds = self.default_ttl if ttl is None else arguments.seconds(ttl, "ttl")
        payload = self._codec.dump(value, field="value")
        epochs = self._epochs
        reason = await self._prepare(ENTRY_OPERATION) if epochs is not None and epochs.due(ENTRY_OPERATION) else ""
        if not reason:
            reason = await self._set_at(self._entry_name(key), key, value, seconds, payload)
        self._done("set", start, reason)

    async def _set_at(self, name: str, key: str, value: Any, seconds: int, payload: bytes) -> str:
        older = self._older_entry_names(key) if self._looks_elsewhere else []
        stored = self._encode(name, value, seconds, payload, self._entry_origin(key))
        return await self._write(name, stored, seconds, older)

    async def delete(self, key: str) -> None:
        """Forget what is under `key`. Without Redis it stays, and that is logged."""
        await self.delete_many([key])

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """What there is under `keys`, by key; misses are left out. One round trip for 500 keys. Raises TypeError for one text
        instead of several."""
        start = time.perf_counter()
        wanted = list(dict.fromkeys(arguments.keys(keys, "keys")))
        found: dict[str, Any] = {}
        tiers: dict[str, dict[str, Any]] = {}
        reason = await self._prepare(ENTRY_OPERATION)
        for first in range(0, len(wanted) if not reason else 0, BATCH):
            places = [(key, self._entry_name(key)) for key in wanted[first : first + BATCH]]
            if self._watch is not None and await self._watch.ready():
                for key, name in places:
                    if (value := self._recall(name)) is not MISS:
                        found[key], tiers[key] = value, _FROM_MEMORY
                places = [place for place in places if place[0] not in tiers]
            try:
                absent = await self._read_many(places, found) if places else []
            except RedkeepError as error:
                reason = reason_of(error)
                break
            if absent and self._looks_elsewhere:
                found.update(await self._read_many_elsewhere(absent))
        for key in wanted:
            if key in found:
                tier = tiers.get(key, _FROM_REDIS)
                self.performance_monitor.record_cache_operation_time("get", time.perf_counter() - start, True, 0, tier)
            else:
                self._record("get", start, False, cache_tier="redis", reason=reason or NOT_FOUND)
        return found

    async def _read_many(self, places: list[tuple[str, str]], found: dict[str, Any]) -> list[tuple[str, str]]:
        """Put the values of (key, name) pairs into `found`, by key. Returns the pairs that have none; raises what `_execute` does."""
        watch = self._watch
        reads = [(name, watch.begin(name)) for _, name in places] if watch is not None else []
        absent: list[tuple[str, str]] = []
        try:
            replies = await self._execute("MGET", *(wire_name(name) for _, name in places))
            for place, ((key, name), stored) in enumerate(zip(places, replies, strict=True)):
                if stored is None:
                    absent.append((key, name))
                    continue
                try:
                    found[key] = self._decode(name, stored)
                except DecryptionError as error:
                    await self._reject(name, stored, error)
                else:
                    if watch is not None and watch.end(*reads[place]):
                        self.memory_cache.put_bytes(name, stored, seconds=self.memory_ttl)
                if not (place + 1) % self.encryption_batch_size:
                    await asyncio.sleep(0)
        finally:
            if watch is not None:
                for name, read in reads:
                    watch.end(name, read)
        return absent

    async def _read_many_elsewhere(self, absent: list[tuple[str, str]]) -> dict[str, Any]:
        """The values, by key, of (key, name) pairs that have none under `name`: moved there from other names, batch by batch."""
        found: dict[str, Any] = {}
        places = [(key, name, self._older_entry_names(key)) for key, name in absent]
        step = max(1, 2 * BATCH // (1 + max((len(older) for _, _, older in places), default=0)))
        for first in range(0, len(places), step):
            part = places[first : first + step]
            # all names of a key in one command: what moves from one to another meanwhile is found all the same
            asked = [(key, name, other) for key, name, older in part for other in (OlderName(name, False), *older)]
            try:
                replies = await self._execute("MGET", *(wire_name(other.name) for _, _, other in asked))
                there = [(*place, stored) for place, stored in zip(asked, replies, strict=True) if stored is not None]
                times = await self._execute_many([("PTTL", wire_name(other.name)) for _, _, other, _ in there]) if there else []
            except RedkeepError:
                break
            moves: list[Command] = []
            emptied: list[OlderName] = []
            for place, ((key, name, other, stored), left) in enumerate(zip(there, times, strict=True), 1):
                if key in found:
                    continue
                if left == GONE or other.name == name:
                    value, _, _ = await self._read_elsewhere(name, self._older_entry_names(key), self._entry_origin(key))
                    if value is not MISS:
                        found[key] = value
                else:
                    value, fresh = await self._open_older(name, other, stored, left, self._entry_origin(key))
                    if fresh is not None:
                        found[key] = value
                        moves.append(fresh)
                        emptied += [other] if other.alias else []
                if not place % self.encryption_batch_size:
                    await asyncio.sleep(0)
            await self._move(moves, emptied)
        return found

    async def set_many(self, values: Mapping[str, Any], ttl: int | None = None) -> None:
        """Keep several values for `ttl` seconds, in one round trip for 500. Raises like `set`, before anything is stored."""
        start = time.perf_counter()
        seconds = self.default_ttl if ttl is None else arguments.seconds(ttl, "ttl")
        payloads = {arguments.text(key, "values (a key)"): self._codec.dump(value, field="values") for key, value in values.items()}
        reason = await self._prepare(ENTRY_OPERATION)
        batch: list[tuple[Any, ...]] = []
        ours: list[str] = []
        keys = list(payloads) if not reason else []
        for place, key in enumerate(keys, 1):
            name = self._entry_name(key)
            ours.append(name)
            stored = self._encode(name, values[key], seconds, payloads.pop(key), self._entry_origin(key))
            batch.append(("SET", wire_name(name), stored, "PX", seconds * 1000))
            if self._looks_elsewhere:
                batch.extend(("UNLINK", wire_name(other.name)) for other in self._older_entry_names(key))
            if len(batch) >= BATCH or place == len(keys):
                try:
                    await self._execute_many(batch)
                except RedkeepError as error:
                    reason = reason_of(error)
                    break
                finally:
                    self._written(*ours)
                batch, ours = [], []
            if not place % self.encryption_batch_size:
                await asyncio.sleep(0)
        for _ in values:
            self._done("set", start, reason)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Forget what is under `keys`; returns how many were there. Without Redis they stay, and that is logged. Raises TypeError
        like `get_many`."""
        start = time.perf_counter()
        wanted = arguments.keys(keys, "keys")
        reason = await self._prepare(ENTRY_OPERATION)
        removed = 0
        for first in range(0, len(wanted) if not reason else 0, BATCH):
            ours: list[str] = []
            names: list[Any] = []
            for key in wanted[first : first + BATCH]:
                name = self._entry_name(key)
                self.memory_cache.pop(name)
                ours.append(name)
                names += [wire_name(name), *(wire_name(other.name) for other in self._older_entry_names(key))]
            try:
                removed += await self._execute("UNLINK", *names)
            except RedkeepError as error:
                reason = reason_of(error)
                break
            finally:
                self._written(*ours)
        for _ in wanted:
            self._done("delete", start, reason)
        return removed

    async def get_or_set(
        self,
        key: str,
        compute: Callable[[], Awaitable[Value]],
        ttl: int | None = None,
        *,
        negative_ttl: int | None = NEGATIVE_SECONDS,
        early: float = 0.0,
        lock_seconds: float = 10.0,
    ) -> Value:
        """The value under `key`; when there is none, `compute()` is awaited once, however many ask, and its result kept.

        In a process concurrent callers share one computation. Across processes one computes and the others wait for its
        value, `lock_seconds` at most (0: no lock). A result of None is kept for `negative_ttl` seconds (None: not kept).
        With `early` between 0 and 1, a hit within that last part of its time starts a new computation in the background.

        Raises what `compute` raises, to everyone who waited for it; nothing is kept then. Without Redis it computes.
        """
        seconds = self.default_ttl if ttl is None else arguments.seconds(ttl, "ttl")
        if negative_ttl is not None:
            arguments.seconds(negative_ttl, "negative_ttl")
        if not 0 <= early < 1:
            raise ValueError("early must be from 0 to less than 1")

        async def work() -> Value:
            trouble = await self._prepare(ENTRY_OPERATION)
            name = self._entry_name(key)  # of this moment: what is invalidated meanwhile must not come back
            value = await compute()
            kept = seconds if value is not None else negative_ttl
            if kept is not None:
                start = time.perf_counter()
                payload = self._codec.dump(value, field="the computed value")
                self._done("set", start, trouble or await self._set_at(name, key, value, kept, payload))
            return value

        async def read() -> Any:
            return await self._get(key)

        async def there() -> bool:
            return await self._lies_at(self._entry_name(key))

        found = await read()
        lock = self._lock_name(self._entry_name(key))
        if found is MISS:
            result: Value = await self._flights.run(lock, work, read, there=there, miss=MISS, lock_seconds=lock_seconds)
            return result
        if early and await self._is_near_its_end(self._entry_name(key), seconds * early):
            self._flights.run_in_background(lock, work, lock_seconds=lock_seconds or 10.0)
        hit: Value = found
        return hit

    async def _get(self, key: str) -> Any:
        start = time.perf_counter()
        arguments.text(key, "key")
        epochs = self._epochs
        reason = await self._prepare(ENTRY_OPERATION) if epochs is not None and epochs.due(ENTRY_OPERATION) else ""
        value = MISS
        if not reason:
            name = self._entry_name(key)
            watch = self._watch
            if watch is not None and await watch.ready() and (value := self._recall(name)) is not MISS:
                self.performance_monitor.record_cache_operation_time("get", time.perf_counter() - start, True, 0, _FROM_MEMORY)
                return value
            value, _, reason = await self._read(name)
            if reason == NOT_FOUND and self._looks_elsewhere:
                value, _, reason = await self._read_elsewhere(name, self._older_entry_names(key), self._entry_origin(key))
        if value is MISS:
            self._record("get", start, False, cache_tier="redis", reason=reason)
        else:
            self.performance_monitor.record_cache_operation_time("get", time.perf_counter() - start, True, 0, _FROM_REDIS)
        return value

    async def _is_near_its_end(self, name: str, seconds: float) -> bool:
        try:
            left: int = await self._execute("PTTL", wire_name(name))
        except RedkeepError:
            return False
        return 0 <= left < seconds * 1000

    async def _lies_at(self, name: str) -> bool:
        try:
            return await self._execute("GET", wire_name(name)) is not None
        except RedkeepError:
            return False

    def _lock_name(self, name: str) -> str:
        return LOCK_PREFIX + name.removeprefix(PREFIX)

    def _done(self, operation: str, start: float, reason: str) -> None:
        if reason:
            now = time.monotonic()
            if now >= self._quiet_until:  # an outage drops thousands; that there is one is logged by the link
                self._quiet_until = now + _QUIET_SECONDS
                logger.warning("cache_operation_dropped", extra={"operation": operation, "reason": reason})
            self._record(operation, start, False, cache_tier="redis", reason=reason, status="failed")
        else:
            self.performance_monitor.record_cache_operation_time(operation, time.perf_counter() - start, False, 0, _TO_REDIS)
