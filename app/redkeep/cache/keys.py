"""Key names: the old readable ones, and keyed hashes that show nobody what was asked.

A hashed name is `ai_cache:op:{operation}|h:{keyed BLAKE2b, 32 hex digits}` (RFC 7693; a MAC by itself, and three times as fast as
HMAC-SHA256 for a short request) over the epochs and the request: a BLAKE2b of 256 bits over namespace,
operation, text, options and question, each with its length before it, so that no two requests share a name.
128 bits are enough for the name: who does not hold the key cannot search for a collision. The request's 256 bits lie sealed in
the value (`origin.py`), so that whoever holds the keys can name the value anew without knowing what was asked.

The key of the hash comes from the encryption key that seals. After a rotation a lookup that misses tries the names under the
older keys, so nothing is lost and there is no further secret to keep; see `HashedNames`.
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol

from redkeep.cache.document import to_json

if TYPE_CHECKING:
    from redkeep.crypto.keyring import KeyRing

PREFIX: Final = "ai_cache:"
LOCK_PREFIX: Final = f"{PREFIX}lock:"
ENTRY_OPERATION: Final = "_entry"
"""What `get` and `set` use as operation; an application's own operations begin with a letter."""

REQUEST_BYTES: Final = 32
"""BLAKE2b of 256 bits: nobody finds two requests with one hash, though no key is in it."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}|~[0-9a-f]{32}")
_HASHED_HEAD: Final = f"{PREFIX}op:"
_HASHED: Final = re.compile(r"ai_cache:op:(?:[A-Za-z0-9_.-]{1,64}|~[0-9a-f]{32})\|h:[0-9a-f]{32}")
_HEAD: Final = struct.Struct(">II")
_BODY: Final = struct.Struct(">III")
_ABSENT: Final = 0xFFFFFFFF
_DIGEST_BYTES: Final = 16
_HEX_DIGITS: Final = 2 * _DIGEST_BYTES
_MAX_OPERATIONS: Final = 1_000


class KeyTimes(Protocol):
    """What takes the time of a key generation: CachePerformanceMonitor, or a stand-in."""

    def record_key_generation_time(
        self, duration: float, text_length: int, operation_type: str = "", additional_data: dict[str, Any] | None = None
    ) -> None:
        """Note one key generation."""
        ...


class CacheKeyGenerator:
    """The readable names of the old class, digit for digit: `ai_cache:op:{op}|txt:{id}[|opts:{md5}][|q:{md5}]`.

    They show texts up to the threshold and can collide; AIResponseCache checks each hit against the whole request.
    """

    def __init__(
        self,
        text_hash_threshold: int = 1000,
        hash_algorithm: Callable[[], Any] = hashlib.sha256,
        performance_monitor: KeyTimes | None = None,
    ) -> None:
        """Texts longer than `text_hash_threshold` characters are named by their hash."""
        self.text_hash_threshold = text_hash_threshold
        self.hash_algorithm = hash_algorithm
        self.performance_monitor = performance_monitor

    def generate_cache_key(
        self, text: str, operation: str, options: Mapping[str, Any] | None, question: str | None = None
    ) -> str:
        """The name under which the answer to this request is kept."""
        start = time.perf_counter()
        name = f"ai_cache:op:{operation}|txt:{self._hash_text_efficiently(text)}"
        if options:
            pairs = "&".join(f"{key}={value}" for key, value in sorted(options.items(), key=lambda item: str(item[0])))
            name += f"|opts:{_short(pairs)}"
        if question:
            name += f"|q:{_short(question)}"
        if self.performance_monitor is not None:
            self.performance_monitor.record_key_generation_time(
                time.perf_counter() - start,
                len(text),
                operation,
                {
                    "text_tier": "large" if len(text) > self.text_hash_threshold else "small",
                    "has_options": bool(options),
                    "has_question": bool(question),
                },
            )
        return name

    def _hash_text_efficiently(self, text: str) -> str:
        if len(text) <= self.text_hash_threshold:
            return text.replace("|", "_").replace(":", "_")
        digest = self.hash_algorithm()
        digest.update(_utf8(text))
        digest.update(f"len:{len(text)}".encode())
        digest.update(f"words:{len(text.split())}".encode())
        return f"hash:{digest.hexdigest()[:16]}"


def canonical_request(
    namespace: str, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None = None
) -> bytes:
    """One byte string a request: equal requests give equal ones, different requests different ones.

    No options and empty options are one request. Raises TypeError or ValueError, naming `options`, when they are no JSON.
    """
    return _head(namespace, operation) + _body(text, options, question)


def _head(namespace: str, operation: str) -> bytes:
    tenant, verb = _utf8(namespace), _utf8(operation)
    return _HEAD.pack(len(tenant), len(verb)) + tenant + verb


def _body(text: str, options: Mapping[str, Any] | None, question: str | None) -> bytes:
    try:
        body = text.encode()
    except UnicodeEncodeError:
        body = _utf8(text)
    if question is None and not options:
        return _BODY.pack(len(body), 0, _ABSENT) + body
    choices = to_json(options, field="options", ordered=True) if options else b""
    if question is None:
        return _BODY.pack(len(body), len(choices), _ABSENT) + body + choices
    asked = _utf8(question)
    return _BODY.pack(len(body), len(choices), len(asked)) + body + choices + asked


class HashedNames:
    """Names under the keys of a ring: `named` by the key that seals, `under_each_key` by all of them.

    While a ring holds several keys, a lookup that misses also asks for the names under the others, and a write removes what
    lies there: processes that disagree about the first key still see each other's values, and never a value that was replaced.
    """

    def __init__(self, ring: KeyRing, namespace: str) -> None:
        self._keys = tuple(key.derive("redis key names") for key in ring.keys)
        self._namespace = namespace
        self._begun: dict[str, tuple[str, str, Any, Any]] = {}

    @property
    def several(self) -> bool:
        """Whether there are names under other keys to think of."""
        return len(self._keys) > 1

    def named(
        self, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None, *, epochs: str
    ) -> tuple[str, bytes]:
        """The name of a request under the key that seals, and what `request` gives for it."""
        begun = self._begun.get(operation)
        if begun is None or begun[0] != epochs:
            begun = self._begin(operation, epochs)
        asked = begun[3].copy()
        asked.update(_body(text, options, question))
        request: bytes = asked.digest()
        digest = begun[2].copy()
        digest.update(request)
        return begun[1] + digest.hexdigest(), request

    def request(self, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None) -> bytes:
        """The 32 bytes that stand for a request, whatever keys and epochs are."""
        digest = _asked(_head(self._namespace, operation))
        digest.update(_body(text, options, question))
        found: bytes = digest.digest()
        return found

    def readable(self, name: str) -> bytes:
        """The 32 bytes that stand for an old readable name, when what was asked is not known: it may hold the text's hash alone."""
        return blake2b(_head(self._namespace, "") + _utf8(name), digest_size=REQUEST_BYTES, person=b"redkeep old name").digest()

    def under_each_key(self, operation: str, request: bytes, *, epochs: str) -> list[str]:
        """The names of what `request` or `readable` gave, the one under the sealing key first."""
        prefix = operation_prefix(operation) + "h:"
        named = epochs.encode() + request
        return [prefix + _keyed(key, named).hexdigest() for key in self._keys]

    def _begin(self, operation: str, epochs: str) -> tuple[str, str, Any, Any]:
        """What all names of an operation share: how they are spelled, and both hashes as far as they are the same."""
        named, request = _keyed(self._keys[0], epochs.encode()), _asked(_head(self._namespace, operation))
        begun = (epochs, operation_prefix(operation) + "h:", named, request)
        # An application has dozens; those made from user input must not pile up.
        if operation in self._begun or len(self._begun) < _MAX_OPERATIONS:
            self._begun[operation] = begun
        return begun


def operation_label(operation: str) -> str:
    """The operation as names have it; one that is no plain word is named by its hash. A label is its own label."""
    return operation if _LABEL.fullmatch(operation) else f"~{hashlib.sha256(_utf8(operation)).hexdigest()[:_HEX_DIGITS]}"


def operation_prefix(operation: str) -> str:
    """How hashed names of an operation begin."""
    return f"{PREFIX}op:{operation_label(operation)}|"


def operation_of(name: str) -> str:
    """The operation, or its label, that a name was made for: hashed, or readable as the old class had it.

    `ENTRY_OPERATION` for every other name: it was a key of `set`.
    """
    head, mark, _ = name.partition("|h:" if is_hashed_name(name) else "|txt:")
    return head[len(_HASHED_HEAD) :] if mark and head.startswith(_HASHED_HEAD) else ENTRY_OPERATION


def is_hashed_name(key: str) -> bool:
    """Whether `key` is a name that `HashedNames` makes."""
    return key.startswith(_HASHED_HEAD) and _HASHED.fullmatch(key) is not None


def _keyed(key: bytes, request: bytes) -> Any:
    return blake2b(request, key=key, digest_size=_DIGEST_BYTES)


def _asked(head: bytes) -> Any:
    return blake2b(head, digest_size=REQUEST_BYTES, person=b"redkeep request")


def _short(text: str) -> str:
    return hashlib.md5(_utf8(text), usedforsecurity=False).hexdigest()[:8]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate; one-to-one all the same
        return text.encode("utf-8", "surrogatepass")
