"""AIResponseCache: the old class's interface, kept whole, its faults mended."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from redkeep.cache import arguments
from redkeep.cache.base import MISS, NOT_FOUND
from redkeep.cache.entries import Entries
from redkeep.cache.invalidation import Invalidation
from redkeep.cache.keys import canonical_request
from redkeep.cache.reports import Reports

_NOT_COMPRESSED: Final = b'"compression_used":false}'
_COMPRESSED: Final = b'"compression_used":true}'

_PROOF: Final = "_redkeep"
"""A field of stored answers, not of returned ones: [whose answer it is, until when], each None where the name says it; and the
caller's own field of that name, if there is one, as a third."""

_PROOF_DIGITS: Final = 24


class AIResponseCache(Entries, Invalidation, Reports):
    """Answers of an AI by request, in Redis and, for small texts, in memory. Without Redis every call is a miss.

    No security: values lie readable in Redis. See SecureAIResponseCache, a drop-in for this class.
    """

    def _get_text_tier(self, text: str) -> str:
        length, tiers = len(text), self.text_size_tiers
        if length < tiers["small"]:
            return "small"
        if length < tiers["medium"]:
            return "medium"
        return "large" if length < tiers["large"] else "xlarge"

    async def get_cached_response(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None = None
    ) -> dict[str, Any] | None:
        """The answer to this very request, a copy of the caller's own, or None.

        Raises TypeError or ValueError that names the argument: no text, or options that JSON cannot hold.
        """
        start = time.perf_counter()
        _check_request(text, operation, options, question)
        epochs = self._epochs
        trouble = await self._prepare(operation) if epochs is not None and epochs.due(operation) else ""
        name = self._generate_cache_key(text, operation, options, question)
        tier = self._get_text_tier(text)
        proof = self._proof(text, operation, options, question)
        watch = self._watch
        if tier == "small" if watch is None else await watch.ready():
            held = self._recall(name)
            if held is not MISS:
                answer = _unwrap(held, proof)
                if answer is None:
                    self.memory_cache.pop(name)
                else:
                    self._record("get", start, True, len(text), cache_tier="memory", operation_type=operation, text_tier=tier)
                    return answer
        keeping = tier == "small" and watch is None and self.memory_cache.max_entries > 0
        read = self._reads.begin(name) if keeping else None
        try:
            if trouble:
                value, stored, reason = MISS, b"", trouble
            else:
                value, stored, reason = await self._read(name)
                if reason == NOT_FOUND and self._looks_elsewhere:
                    value, stored, reason = await self._read_elsewhere(
                        name,
                        self._older_response_names(text, operation, options, question),
                        self._response_origin(text, operation, options, question),
                    )
        finally:
            keeping = keeping and self._reads.end(name, read)
        if value is not MISS:
            answer = _unwrap(value, proof)
            if answer is not None:
                if keeping and stored:
                    self.memory_cache.put_bytes(name, stored, seconds=min(self.memory_ttl, self._ttl(operation)))
                self._record("get", start, True, len(text), cache_tier="redis", operation_type=operation, text_tier=tier)
                return answer
            reason = "other_request"
        self._record("get", start, False, len(text), cache_tier="redis", operation_type=operation, text_tier=tier, reason=reason)
        return None

    async def cache_response(
        self,
        text: str,
        operation: str,
        options: Mapping[str, Any] | None,
        response: Mapping[str, Any],
        question: str | None = None,
    ) -> None:
        """Keep `response` for the operation's time to live. Without Redis it is dropped (small texts stay in memory).

        Raises TypeError or ValueError that names the argument; then nothing was stored.
        """
        await self._keep_response(text, operation, options, response, question, None, "")

    async def _keep_response(
        self,
        text: str,
        operation: str,
        options: Mapping[str, Any] | None,
        response: Mapping[str, Any],
        question: str | None,
        name: str | None,
        trouble: str,
    ) -> None:
        """Keep an answer under `name`, or under the name of this moment."""
        start = time.perf_counter()
        _check_request(text, operation, options, question)
        if not isinstance(response, Mapping):
            raise TypeError(f"response must be a dictionary, not {type(response).__name__}")
        seconds = self._ttl(operation)
        value: dict[str, Any] = {
            **response,
            "cached_at": datetime.now(UTC).isoformat(),
            "cache_hit": True,
            "text_length": len(text),
        }
        proof = self._proof(text, operation, options, question)
        if proof is not None or _PROOF in response:
            until = None if proof is None else int((time.time() + seconds) * 1000)
            value[_PROOF] = [proof, until, response[_PROOF]] if _PROOF in response else [proof, until]
        value["compression_used"] = False
        payload = self._codec.dump(value, field="response")
        length = len(payload)
        if length > self._codec.threshold:
            value["compression_used"] = True
            if payload.endswith(_NOT_COMPRESSED):
                payload = payload[: -len(_NOT_COMPRESSED)] + _COMPRESSED
            else:
                payload = self._codec.dump(value, field="response")
        if name is None:
            trouble = await self._prepare(operation)
            name = self._generate_cache_key(text, operation, options, question)
        packing = time.perf_counter()
        stored = self._encode(name, value, seconds, payload, self._response_origin(text, operation, options, question))
        if value["compression_used"]:
            self.performance_monitor.record_compression_ratio(
                length, len(stored), time.perf_counter() - packing, operation
            )
        tier = self._get_text_tier(text)
        if tier == "small" and self._watch is None:
            self._reads.written((name,))
            self.memory_cache.put_bytes(name, stored, seconds=min(self.memory_ttl, seconds))
        older = self._older_response_names(text, operation, options, question) if self._looks_elsewhere else []
        reason = trouble or await self._write(name, stored, seconds, older)
        if reason:
            self._record(
                "set", start, False, len(text), operation_type=operation, text_tier=tier, reason=reason, status="failed"
            )
        else:
            self._record("set", start, False, len(text), operation_type=operation, text_tier=tier, status="success")

    async def get_or_compute_response(
        self,
        text: str,
        operation: str,
        options: Mapping[str, Any] | None,
        compute: Callable[[], Awaitable[Mapping[str, Any]]],
        question: str | None = None,
        *,
        lock_seconds: float = 30.0,
    ) -> dict[str, Any]:
        """The cached answer, or that of `compute()`, awaited once however many ask; see `get_or_set` for the lock.

        A fresh answer has `cache_hit` False. Raises what `compute` raises.
        """

        async def read() -> Any:
            found = await self.get_cached_response(text, operation, options, question)
            return MISS if found is None else found

        async def work() -> Mapping[str, Any]:
            trouble = await self._prepare(operation)
            name = self._generate_cache_key(text, operation, options, question)  # see get_or_set
            response = await compute()
            await self._keep_response(text, operation, options, response, question, name, trouble)
            return {**response, "cache_hit": False}

        async def there() -> bool:
            return await self._lies_at(self._generate_cache_key(text, operation, options, question))

        found = await read()
        if found is not MISS:
            return dict(found)
        lock = self._lock_name(self._generate_cache_key(text, operation, options, question))
        answer = await self._flights.run(lock, work, read, there=there, miss=MISS, lock_seconds=lock_seconds)
        return _copy(self._codec.dump(answer, field="response"))

    def _ttl(self, operation: str) -> int:
        return self.operation_ttls.get(operation, self.default_ttl)

    def _proof(self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None) -> str | None:
        """A hook: what tells this request from others that may share its name; None where names are unique."""
        request = canonical_request("", operation, text, options, question)
        return hashlib.blake2b(request, digest_size=_PROOF_DIGITS // 2).hexdigest()


def _check_request(text: object, operation: object, options: object, question: object) -> None:
    if type(text) is type(operation) is str and type(options) is dict and (question is None or type(question) is str):
        return
    arguments.text(text, "text")
    arguments.text(operation, "operation")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dictionary, not {type(options).__name__}")
    if question is not None:
        arguments.text(question, "question")


def without_proof(value: Any) -> Any:
    """A stored value as whoever asks for it gets it."""
    return _unwrap(value, None) if isinstance(value, dict) else value


def _unwrap(value: Any, proof: str | None) -> dict[str, Any] | None:
    """The answer in a stored value, if it is one, to this request, and its time is not over."""
    if not isinstance(value, dict):
        return None
    seal = value.get(_PROOF)
    if not isinstance(seal, list) or len(seal) not in (2, 3) or not _is_proof(*seal[:2]):
        return value  # none, or a field of the caller's own from before there were proofs
    del value[_PROOF]
    if len(seal) == 3:
        value[_PROOF] = seal[2]
    whose, until = seal[:2]
    if whose is None or proof is None:
        return value
    return value if whose == proof and time.time() * 1000 < until else None


def _is_proof(whose: object, until: object) -> bool:
    if whose is None:
        return until is None
    return isinstance(whose, str) and len(whose) == _PROOF_DIGITS and type(until) is int


def _copy(payload: bytes) -> dict[str, Any]:
    from redkeep.cache.document import from_json

    copied: dict[str, Any] = from_json(payload)
    return copied
