"""AIResponseCacheSecurityMigration: an application's cache of the old class becomes a secure one, with all that is in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redkeep.cache.keys import PREFIX
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.envelope import is_envelope
from redkeep.errors import ConfigurationError, RedkeepError, ServerUnavailableError
from redkeep.migration.cluster import refuse_unknown_keys
from redkeep.migration.counts import Counts
from redkeep.migration.primary import at_primary
from redkeep.migration.reencrypt import RATE, DataMigration
from redkeep.migration.sweep import HEADER_WEIGHT
from redkeep.settings import Settings
from redkeep.target import Target, read_for_the_cache

Evidence = Mapping[str, str | int | float]

_PROBE_SECONDS: Final = 60
_KEPT: Final = ("default_ttl", "operation_ttls", "text_size_tiers", "memory_cache_size", "memory_ttl")
"""What an application may have set on its cache, and finds again on the secure one."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was done: how long it took, and what was seen."""

    step: str
    seconds: float
    evidence: Evidence = field(default_factory=dict)


class AIResponseCacheSecurityMigration:
    """From a cache of the old class, in use, to `SecureAIResponseCache`, and back. Every step is done and proved, or raises.

    The server must be ready: its users, TLS and keys are the deploys' work (`deploys/migrate.py`).
    """

    def __init__(
        self,
        current_cache: AIResponseCache,
        settings: Settings | None = None,
        *,
        rate: float = RATE,
        state_file: Path | None = None,
        leave_unknown: bool = False,
    ) -> None:
        """`settings` are those of the secure cache, by default the environment's; `rate` and `state_file` as in `DataMigration`.

        `leave_unknown` says that entries sealed with keys that the settings do not hold may stay misses; else they are refused.
        """
        if not isinstance(current_cache, AIResponseCache) or getattr(current_cache, "encryption", None) is not None:
            raise TypeError("current_cache must be an AIResponseCache that encrypts nothing yet")
        self.current_cache = current_cache
        self.secure_cache: SecureAIResponseCache | None = None
        self.results: list[StepResult] = []
        self._settings = settings
        self._moving = False
        self._rate = rate
        self._state_file = state_file
        self._leave_unknown = leave_unknown
        self._actions: dict[str, Callable[[], Awaitable[Evidence]]] = {
            "Validate current AIResponseCache functionality": self._validate_current_cache,
            "Check the secure passwords and keys in the settings": self._check_settings,
            "Open SecureAIResponseCache beside it, reading old entries": self._open_secure_cache,
            "Validate security features without breaking existing cache": self._validate_secure_cache,
            "Migrate existing cached data": self._migrate_data,
            "Hand the secure cache over for dependency injection": self._hand_over,
        }
        self.steps = list(self._actions)

    async def migrate_to_secure_cache(self) -> SecureAIResponseCache:
        """Do all steps in order, and return the cache to use from now on; it holds the statistics and settings of the current one.

        When a step fails from the migration of the data on, entries are given back their old form; when one fails before, what
        other processes have sealed stays sealed. The step's error is raised: ConfigurationError, ServerUnavailableError and the
        other leaves of our error tree.
        """
        self.results = []
        try:
            for step in self.steps:
                await self.execute_step(step)
        except RedkeepError as error:
            try:
                await (self.rollback() if self._moving else self._close_secure_cache())
            except RedkeepError as second:
                error.add_note(f"entries were not given back ({second}): call rollback() once that is mended")
            raise
        assert self.secure_cache is not None  # a step has made it
        return self.secure_cache

    async def execute_step(self, step: str) -> StepResult:
        """Do one step. Raises ConfigurationError for one that is not among `steps`, and what the step raises."""
        action = self._actions.get(step)
        if action is None:
            raise ConfigurationError(f"there is no step {step[:80]!r}; the steps are: {'; '.join(self.steps)}")
        start = time.perf_counter()
        evidence = await action()
        result = StepResult(step, time.perf_counter() - start, evidence)
        self.results.append(result)
        return result

    async def rollback(self) -> Counts | None:
        """Give entries back their old names and forms, so that the current cache finds them, and close the secure cache.

        All that the settings' namespace holds, whoever has sealed it. None when the secure cache is not open. Raises the leaves of
        our error tree; then it stays open, and the next call goes on.
        """
        if self.secure_cache is None:
            return None
        counts = await self._move(reverse=True)
        await self._close_secure_cache()
        return counts

    async def _close_secure_cache(self) -> None:
        secure, self.secure_cache, self._moving = self.secure_cache, None, False
        if secure is not None:
            await secure.close()

    def _refuse_a_cluster(self) -> None:
        """The current cache speaks to one server, and would miss what lies on the others."""
        if (self._settings.for_the_cache if self._settings else read_for_the_cache())["redis_client"] == "cluster":
            raise ConfigurationError(
                "the settings are for a Cluster (REDIS_CLIENT=cluster), and a cache of the old class speaks to one server; run "
                "`redkeep migrate-data` on an app host, and create the cache with SecureAIResponseCache.from_settings()"
            )

    async def _validate_current_cache(self) -> Evidence:
        self._refuse_a_cluster()
        cache, key, value = self.current_cache, _probe(), {"probe": secrets.token_hex(8)}
        if not await cache.connect():
            raise ServerUnavailableError(f"the current cache cannot reach its Redis: {cache.last_error}")
        await cache.set(key, value, ttl=_PROBE_SECONDS)
        found = await cache.get(key)
        await cache.delete(key)
        if found != value or await cache.get(key) is not None:
            raise ConfigurationError("the current cache does not return what was set, or returns what was deleted; fix that first")
        summary = cache.get_performance_summary()
        return {"hit_ratio": summary["hit_ratio"], "total_operations": summary["total_operations"]}

    async def _check_settings(self) -> Evidence:
        self._refuse_a_cluster()
        settings = self._settings = self._settings or Settings()
        target = settings.target
        if not target.keys:
            raise ConfigurationError("REDIS_ENCRYPTION_KEY is not set; create the settings with `redkeep secrets env --production`")
        if not target.password or not (target.tls or target.development):
            raise ConfigurationError("the settings have no password or no TLS; create them with `redkeep secrets env --production`")
        self._data(target, reverse=False)  # says who may scan, before anything is opened
        if not self._leave_unknown:
            async with at_primary(target, settings.for_the_cache) as found:
                await refuse_unknown_keys(found, client=settings.redis_client, rate=self._rate / HEADER_WEIGHT)
        return {"keys": len(target.keys), "tls": int(target.tls), "user": target.username or "default"}

    async def _open_secure_cache(self) -> Evidence:
        if self._settings is None:
            await self._check_settings()
        assert self._settings is not None
        current = self.current_cache
        secure = SecureAIResponseCache.from_settings(
            self._settings.model_copy(update={"redis_read_legacy": True}),
            performance_monitor=current.performance_monitor,
            text_hash_threshold=current.key_generator.text_hash_threshold,
            hash_algorithm=current.key_generator.hash_algorithm,
        )
        for name in _KEPT:
            setattr(secure, name, getattr(current, name))
        try:
            if not await secure.connect():
                raise secure.last_error or ServerUnavailableError("the secure cache cannot reach its Redis")
            assert secure.redis is not None
            key = _probe()
            await current.set(key, 1, ttl=_PROBE_SECONDS)
            found = await secure.redis.execute("GET", key)
            await current.delete(key)
            if found is None:
                raise ConfigurationError("the settings name another Redis than the current cache uses: its entries are not found there")
        except BaseException:
            await secure.close()
            raise
        self.secure_cache = secure
        return {"reads_old_entries": 1}

    async def _validate_secure_cache(self) -> Evidence:
        secure = self._opened()
        lacking = [name for name in dir(AIResponseCache) if not name.startswith("_") and not hasattr(secure, name)]
        if lacking:
            raise ConfigurationError(f"the secure cache lacks {', '.join(lacking)}")
        text, answer = f"probe {secrets.token_hex(8)}", {"probe": secrets.token_hex(8)}
        await secure.cache_response(text, "_migration", {}, answer)
        name = secure._generate_cache_key(text, "_migration", {})
        assert secure.redis is not None
        stored = await secure.redis.execute("GET", name)
        found = await secure.get_cached_response(text, "_migration", {})
        await secure.redis.execute("UNLINK", name)
        if not isinstance(stored, bytes) or not is_envelope(stored) or text.encode() in stored or text in name:
            raise ConfigurationError("the secure cache does not encrypt what it stores; nothing was moved: report this")
        if found is None or found["probe"] != answer["probe"]:
            raise ConfigurationError("the secure cache does not find what it stored; nothing was moved")
        return {"sealed_bytes": len(stored)}

    async def _migrate_data(self) -> Evidence:
        self._opened()
        self._moving = True
        counts = await self._move(reverse=False)
        seen: dict[str, Any] = {name: count for name, count in vars(counts).items() if isinstance(count, int)}
        return seen

    async def _hand_over(self) -> Evidence:
        secure = self._opened()
        same = secure.performance_monitor is self.current_cache.performance_monitor
        await self.current_cache.close()
        return {"statistics_kept": int(same)}

    def _opened(self) -> SecureAIResponseCache:
        if self.secure_cache is None:
            raise ConfigurationError(f"the secure cache is not open yet; run this step first: {self.steps[2]}")
        return self.secure_cache

    async def _move(self, *, reverse: bool) -> Counts:
        assert self._settings is not None  # checked by a step before
        async with at_primary(self._settings.target, self._settings.for_the_cache) as target:
            return await self._data(target, reverse=reverse).run()

    def _data(self, target: Target, *, reverse: bool) -> DataMigration:
        assert self._settings is not None  # checked by a step before
        return DataMigration(
            target,
            compression=self._settings.redis_compression,
            rate=self._rate,
            reverse=reverse,
            state_file=self._state_file,
        )


def _probe() -> str:
    return f"{PREFIX}migration-probe:{secrets.token_hex(8)}"
