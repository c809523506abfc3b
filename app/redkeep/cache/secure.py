"""SecureAIResponseCache: AIResponseCache behind TLS and a login, with every value sealed and every name hashed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redkeep.cache import arguments
from redkeep.cache.access_points import Access
from redkeep.cache.base import OlderName, logger, wire_name
from redkeep.cache.compression import PRESETS, Preset
from redkeep.cache.epochs import EVERYTHING, NOT_ENTRIES, Epochs
from redkeep.cache.keys import is_hashed_name, operation_prefix
from redkeep.cache.layer import EncryptedCacheLayer
from redkeep.cache.link import reason_of
from redkeep.cache.origin import NO_ORIGIN
from redkeep.cache.places import Places
from redkeep.cache.response import AIResponseCache
from redkeep.cache.watch import Source, Watch
from redkeep.crypto.envelope import is_envelope
from redkeep.crypto.keyring import KeyRing
from redkeep.errors import ConfigurationError, DecryptionError, PermissionDeniedError, RedkeepError
from redkeep.monitoring.events import MAX_EVENTS, SecurityMonitor
from redkeep.monitoring.metrics import SecurityMetricsCollector
from redkeep.monitoring.server_report import parse_info
from redkeep.optimization import SecurityOptimizationConfig

if TYPE_CHECKING:
    from redkeep.access.client import CacheClient
    from redkeep.settings import Settings


KEYS_SECONDS: Final = 5.0
"""A changed file of settings is noticed so soon: the time that `deploys/rotate.py` waits, twice, between the steps of a new key."""


class SecureAIResponseCache(AIResponseCache):
    """With security arguments: TLS, a login, values sealed for their key, namespace and time, names that show nothing.

    Once there is an encryption key, whatever does not open is a miss, is counted, raises a security event and is deleted.
    Without any security argument it is its parent.
    """

    def __init__(
        self,
        redis_url: str = "redis://redis:6379",
        default_ttl: int = 3600,
        redis_password: str | None = None,
        redis_tls_enabled: bool = False,
        encryption_key: str | Sequence[str] | KeyRing | None = None,
        *,
        redis_username: str | None = None,
        redis_tls_ca_file: str | os.PathLike[str] | None = None,
        redis_tls_cert_file: str | os.PathLike[str] | None = None,
        redis_tls_key_file: str | os.PathLike[str] | None = None,
        namespace: str = "",
        compression: Preset = "none",
        read_legacy: bool | None = None,
        security_monitor: SecurityMonitor | None = None,
        optimization: SecurityOptimizationConfig | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of AIResponseCache. `redis_tls_enabled` needs a CA file, here or in REDIS_TLS_CA_FILE.

        `read_legacy` reads, at the old readable names only, what the old class and the PRD's wrote: migration windows.
        Raises ConfigurationError for a weak password, a key that will not do, and arguments that are less secure than the
        environment demands; TypeError naming the argument that has the wrong type.
        """
        arguments.text(redis_url, "redis_url")
        arguments.text_or_none(redis_username, "redis_username")
        arguments.text_or_none(redis_password, "redis_password")
        arguments.flag(redis_tls_enabled, "redis_tls_enabled")
        arguments.path_or_none(redis_tls_ca_file, "redis_tls_ca_file")
        arguments.path_or_none(redis_tls_cert_file, "redis_tls_cert_file")
        arguments.path_or_none(redis_tls_key_file, "redis_tls_key_file")
        arguments.text(namespace, "namespace")
        arguments.instance(security_monitor, "security_monitor", SecurityMonitor)
        arguments.instance(optimization, "optimization", SecurityOptimizationConfig)
        if arguments.text(compression, "compression") not in PRESETS:  # also where nothing is sealed, and so nothing packed
            raise ConfigurationError(f"compression must be one of {', '.join(PRESETS)}")
        tuned = optimization or SecurityOptimizationConfig(connection_pool_size=64)
        access = Access.of(
            settings,
            redis_url=redis_url,
            redis_username=redis_username,
            redis_password=redis_password,
            redis_tls_enabled=redis_tls_enabled,
            redis_tls_ca_file=redis_tls_ca_file,
            redis_tls_cert_file=redis_tls_cert_file,
            redis_tls_key_file=redis_tls_key_file,
            encrypted=encryption_key is not None,
            namespace=namespace,
            tuned=tuned,
        )
        sealed = encryption_key is not None  # an empty one is refused: a variable that is not set must not turn sealing off
        if namespace and not sealed:
            raise ConfigurationError("a namespace separates encrypted values only; set REDIS_ENCRYPTION_KEY, or drop REDIS_NAMESPACE")
        super().__init__(
            redis_url=access.target.address.url(tls=access.target.tls) if access else redis_url,
            default_ttl=default_ttl,
            read_legacy=(not sealed) if read_legacy is None else read_legacy,
            **options,
        )
        self.redis_tls_enabled = bool(access and access.target.tls)
        events = MAX_EVENTS if optimization is None else tuned.security_event_buffer_size
        self.security_monitor = security_monitor or SecurityMonitor(events)
        self.security_metrics = SecurityMetricsCollector()
        self.optimization = tuned
        self.encryption_batch_size = tuned.encryption_batch_size
        self.metrics_collection_interval = tuned.metrics_collection_interval if access else 0.0
        self.encryption: EncryptedCacheLayer | None = None
        self._access = access
        self._places: Places | None = None
        self._info_refused = False
        self._next_look = time.monotonic() + KEYS_SECONDS if access is not None else math.inf
        if sealed:
            self.encryption = EncryptedCacheLayer(
                encryption_key,
                namespace=namespace,
                compression=compression,
                compression_threshold=self._codec.threshold,
                read_legacy=self.read_legacy,
            )
            self._codec = self.encryption.codec
            self._epochs = Epochs(self._execute, namespace)
            self._places = Places(
                self.encryption.ring,
                namespace,
                self._epochs,
                window=self.read_legacy,
                readable=self.key_generator.generate_cache_key,
            )
        if access is not None and access.tracking:
            if self._epochs is None:
                raise ConfigurationError("REDIS_CLIENT_TRACKING keeps encrypted values only; set REDIS_ENCRYPTION_KEY, or turn it off")
            self._watch = Watch(self.memory_cache, heard=self._epochs.changed)

    @classmethod
    def from_settings(
        cls, settings: Settings | None = None, *, optimization: SecurityOptimizationConfig | None = None, **options: Any
    ) -> Self:
        """The cache that `settings` (by default the environment) describe. Raises ConfigurationError."""
        if settings is None:
            from redkeep.settings import Settings

            settings = Settings()
        target = settings.target
        return cls(
            redis_url=settings.redis_url,
            encryption_key=target.keys or None,
            namespace=target.namespace,
            compression=settings.redis_compression,
            read_legacy=settings.redis_read_legacy if target.keys else None,
            optimization=optimization,
            settings=settings,
            **options,
        )

    def _look_for_changes(self) -> None:
        """Take up the login and the keys that the settings' files have now, when it is time to look. A value that is on its way is
        named under the one ring and sealed under the other: whoever has both finds it."""
        now = time.monotonic()
        if now < self._next_look or self._access is None:
            return
        self._next_look = now + KEYS_SECONDS
        keys, login = self._access.changes()
        if login:
            self._login_has_changed()
        if keys and self.encryption is not None and self._places is not None:
            self.encryption.rekey(keys)
            self._places.rekey(self.encryption.ring)
            logger.info("encryption_keys_changed", extra={"seals": self.encryption.ring.primary.key_id.hex(), "keys": len(keys)})

    # connecting

    def _new_client(self) -> CacheClient:
        return super()._new_client() if self._access is None else self._access.client(timeout=self.timeout)

    async def _greeted(self, client: CacheClient) -> None:
        if self._watch is None:
            return
        try:
            await self._watch.follow(cast("Source", client))
        except PermissionDeniedError as error:
            logger.warning("client_tracking_refused", extra={"remedy": "grant client|tracking, or turn REDIS_CLIENT_TRACKING off"})
            self._note(error)

    def _logged_in(self) -> None:
        if self._access is not None:
            self.security_monitor.record("auth_attempt", success=True, username=self._access.target.username)
            self.security_metrics.record_auth_attempt(True)
            self.security_metrics.set_connection_count(1)

    def _note_security(self, error: RedkeepError) -> None:
        event = self.security_monitor.record_error(error, username=self._access.target.username if self._access else None)
        if event is not None:
            self.security_metrics.record_security_event(event.severity)
            if event.type == "auth_attempt":
                self.security_metrics.record_auth_attempt(False)

    # names

    @property
    def _looks_elsewhere(self) -> bool:
        return self._places is not None and self._places.several

    def _generate_cache_key(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None = None
    ) -> str:
        start = time.perf_counter()
        if time.monotonic() >= self._next_look:
            self._look_for_changes()
        if self._places is None:
            return super()._generate_cache_key(text, operation, options, question)
        name = self._places.name(operation, text, options, question)
        self.performance_monitor.record_key_generation_time(time.perf_counter() - start, len(text), operation)
        return name

    def _older_response_names(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None
    ) -> list[OlderName]:
        return [] if self._places is None else self._places.older(operation, text, options, question)

    def _response_origin(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None
    ) -> bytes:
        return NO_ORIGIN if self._places is None else self._places.origin(operation, text, options, question)

    def _entry_name(self, key: str) -> str:
        if time.monotonic() >= self._next_look:
            self._look_for_changes()
        return super()._entry_name(key) if type(key) is not str or self._places is None else self._places.entry(key)

    def _older_entry_names(self, key: str) -> list[OlderName]:
        return [] if self._places is None else self._places.older_entry(key)

    def _entry_origin(self, key: str) -> bytes:
        return NO_ORIGIN if self._places is None else self._places.entry_origin(key)

    def _proof(self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None) -> str | None:
        if self._places is not None and not self._places.may_share_a_name:
            return None
        return super()._proof(text, operation, options, question)

    # values

    def _compress_data(self, data: Any) -> bytes:
        if self.encryption is None:
            return super()._compress_data(data)
        return self.encryption.encrypt_cache_data(data)

    def _decompress_data(self, data: bytes) -> Any:
        if self.encryption is None:
            return super()._decompress_data(data)
        return self.encryption.decrypt_cache_data(data)

    def _encode(
        self, name: str, value: Any, seconds: float, payload: bytes | None = None, origin: bytes = NO_ORIGIN
    ) -> bytes:
        if self.encryption is None:
            return super()._encode(name, value, seconds, payload)
        if payload is None:
            payload = self._codec.dump(value, field="value")
        try:
            expires_at_ms = int((time.time() + seconds) * 1000)
            stored = self._codec.seal(payload, name=name, expires_at_ms=expires_at_ms, origin=origin)
        except ConfigurationError:
            self.security_metrics.record_encryption_operation("encrypt", False)
            raise
        self.security_metrics.record_encryption_operation("encrypt", True)
        return stored

    def _decode(self, name: str, stored: bytes, legacy: bool = False) -> Any:
        if self.encryption is None:
            return super()._decode(name, stored)
        codec = self._codec
        value = codec.read(stored, name=name, read_pickles=True) if legacy else codec.open(stored, name=name)
        self.security_metrics.record_encryption_operation("decrypt", True)
        return value

    async def _reject(self, name: str, stored: bytes, error: DecryptionError) -> None:
        if self.encryption is None:
            await super()._reject(name, stored, error)
            return
        self.error_counts["decryption"] += 1
        self.security_metrics.record_encryption_operation("decrypt", False)
        if not is_envelope(stored):
            event = self.security_monitor.record("downgrade_refused", severity="error", key=name, reason=str(error))
        elif self._is_only_late(name, stored):
            event = self.security_monitor.record("expired_value", severity="info", key=name, reason=str(error))
        else:
            event = self.security_monitor.record("decryption_failure", severity="error", key=name, reason=str(error))
        self.security_metrics.record_security_event(event.severity)
        try:
            await self._execute("UNLINK", wire_name(name))
        except RedkeepError as failed:
            logger.warning("cache_value_not_deleted", extra={"reason": reason_of(failed)})

    def _is_only_late(self, name: str, stored: bytes) -> bool:
        """Whether a value is ours and merely past its time: two clocks differ, or somebody plays it back."""
        try:
            self._codec.open(stored, name=name, clock=lambda: 0.0)
        except DecryptionError:
            return False
        return True

    # invalidation

    async def invalidate_pattern(self, pattern: str, operation_context: str = "") -> int:
        """Invalidate an operation (`op:NAME`) or everything ("") by its epoch, at once and without a scan.

        Any other pattern can only find readable names, as before the migration: hashed ones hold no text. That needs
        REDIS_JANITOR_PASSWORD. Returns how many readable entries and memory entries were removed.
        """
        if self._epochs is None or not isinstance(pattern, str):
            return await super().invalidate_pattern(pattern, operation_context)
        if pattern and (not pattern.startswith("op:") or "|" in pattern):
            logger.warning("pattern_of_hashed_names", extra={"pattern": pattern})
            return await super().invalidate_pattern(pattern, operation_context)
        start = time.perf_counter()
        operation = pattern.removeprefix("op:") if pattern else EVERYTHING
        prefix = operation_prefix(operation) if pattern else ""
        removed = self.memory_cache.pop_where(lambda name: name.startswith(prefix))
        data: dict[str, Any] = {"status": "success", "method": "epoch"}
        try:
            await self._epochs.renew(operation)
            if self.read_legacy and self._access is not None and self._access.may_scan:
                glob = "ai_cache:op:*" if not pattern else f"ai_cache:{pattern}|*"
                removed += await self._scan_and_unlink(glob)
        except RedkeepError as error:
            logger.warning("cache_not_invalidated", extra={"pattern": pattern, "reason": str(error)})
            data |= {"status": "failed", "reason": reason_of(error)}
        self.performance_monitor.record_invalidation_event(
            pattern, removed, time.perf_counter() - start, "manual", operation_context, data
        )
        return removed

    def _may_unlink(self, name: bytes) -> bool:
        """Hashed names show no namespace: they are perhaps another's, and our own, aliases too, end by the epoch. So do words and
        locks. What is readable belongs to all, as the old class had it."""
        if self._epochs is None:
            return super()._may_unlink(name)
        return not name.startswith(NOT_ENTRIES) and not is_hashed_name(name.decode("utf-8", "surrogateescape"))

    @asynccontextmanager
    async def _janitor(self) -> AsyncIterator[CacheClient]:
        janitor = None if self._access is None else self._access.janitor(timeout=self.timeout)
        if janitor is None:
            async with super()._janitor() as own:  # the URL's own user, who may scan
                yield own
            return
        try:
            yield janitor
        finally:
            await janitor.close()

    # reports

    async def get_cache_stats(self) -> dict[str, Any]:
        """The parent's shape; with security on, a section `security` more."""
        found = await super().get_cache_stats()
        if self._access is not None or self.encryption is not None:
            found["security"] = {
                "tls": self.redis_tls_enabled,
                "encryption_enabled": self.encryption is not None,
                "errors": dict(self.error_counts),
                **self.security_metrics.get_security_summary(),
            }
        return found

    async def _ask_info(self) -> dict[str, str]:
        if self._access is None:
            return await super()._ask_info()
        await self._execute("PING")
        reporter = self._access.reporter(timeout=self.timeout)
        if reporter is not None:
            try:
                return parse_info(await reporter.execute("INFO"))
            finally:
                await reporter.close()
        if self._info_refused or not self._access.may_ask_info:  # a refused command is a line in the server's ACL LOG
            raise PermissionDeniedError("the cache user may not run INFO; set REDIS_HEALTH_PASSWORD")
        try:
            return parse_info(await self._execute("INFO"))
        except PermissionDeniedError:
            self._info_refused = True
            raise
