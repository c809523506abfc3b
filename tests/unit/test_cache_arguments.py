"""Constructor arguments of the caches: of the wrong type or out of range, each is refused by its name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redkeep.cache.layer import EncryptedCacheLayer
from redkeep.cache.response import AIResponseCache
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.keyring import generate_key
from redkeep.errors import ConfigurationError

BASE: list[tuple[str, Any, type[Exception]]] = [
    ("redis_url", 5, TypeError), ("redis_url", None, TypeError), ("default_ttl", "60", TypeError), ("default_ttl", 0, ValueError),
    ("text_hash_threshold", "1000", TypeError), ("text_hash_threshold", -1, ValueError), ("hash_algorithm", "sha256", TypeError),
    ("hash_algorithm", dict, TypeError), ("compression_threshold", 1.5, TypeError), ("compression_threshold", -1, ValueError),
    ("compression_level", None, TypeError), ("compression_level", 10, ValueError), ("text_size_tiers", [1, 2, 3], TypeError),
    ("text_size_tiers", {"small": 1}, ValueError), ("text_size_tiers", {"small": 9, "medium": 5, "large": 7}, ValueError),
    ("text_size_tiers", {"small": "1", "medium": 5, "large": 7}, TypeError), ("memory_cache_size", True, TypeError),
    ("memory_cache_size", -1, ValueError), ("performance_monitor", "monitor", TypeError), ("read_legacy", "no", TypeError),
    ("timeout", "5", TypeError), ("timeout", 0, ValueError), ("timeout", float("nan"), ValueError), ("memory_ttl", None, TypeError),
    ("memory_ttl", -1, ValueError), ("memory_cache_bytes", "1", TypeError),
]
SECURE: list[tuple[str, Any, type[Exception]]] = [
    ("redis_password", 5, TypeError), ("redis_username", b"u", TypeError), ("redis_tls_enabled", "false", TypeError),
    ("redis_tls_ca_file", 5, TypeError), ("redis_tls_cert_file", 5, TypeError), ("redis_tls_key_file", 5, TypeError),
    ("namespace", None, TypeError), ("compression", 5, TypeError), ("compression", "gzip", ConfigurationError),
    ("encryption_key", 5, TypeError), ("encryption_key", [b"x"], TypeError), ("encryption_key", {"a": 1}, TypeError),
    ("security_monitor", "m", TypeError), ("optimization", {}, TypeError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error"), BASE)
@pytest.mark.parametrize("kind", [AIResponseCache, SecureAIResponseCache])
def test_arguments_of_both_caches(kind: type[AIResponseCache], name: str, value: Any, error: type[Exception]) -> None:
    """The error names the argument."""
    with pytest.raises(error, match=rf"^{name}\b"):
        kind(**{name: value})


@pytest.mark.parametrize(("name", "value", "error"), SECURE)
def test_arguments_of_the_secure_cache(name: str, value: Any, error: type[Exception]) -> None:
    """The error names the argument, also of those that only matter with a key that is not there."""
    with pytest.raises(error, match=rf"^{name}\b"):
        SecureAIResponseCache(**{name: value})


@pytest.mark.parametrize("name", ["compression_threshold", "compression_level", "memory_cache_size"])
def test_attributes_are_checked_like_arguments(name: str) -> None:
    """What the constructor refuses, assigning refuses too, and the old value stays."""
    cache = AIResponseCache()
    before = getattr(cache, name)
    for wrong in ("5", None, -1):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(cache, name, wrong)
    assert before == getattr(cache, name)


@pytest.mark.parametrize("wrong", [{"salt": "text"}, {"passphrase": 5}, {"encryption_key": 5}, {"compression": None}])
def test_arguments_of_the_layer(wrong: dict[str, Any]) -> None:
    """The PRD's class alone, the same."""
    right = {"passphrase": "several random words here", "salt": bytes(range(16))}
    arguments = {"encryption_key": generate_key(), **wrong} if "compression" in wrong else {**right, **wrong}
    with pytest.raises(TypeError, match=next(iter(wrong))):
        EncryptedCacheLayer(**arguments)


@pytest.mark.parametrize("call", ["get_many", "delete_many"])
@pytest.mark.parametrize("wrong", ["user:1", b"user:1", 5, ["a", 5]])
def test_keys_are_a_list_of_texts(call: str, wrong: Any) -> None:
    """One key instead of a list would be taken for its letters: nothing found, nothing deleted, and nobody told."""
    with pytest.raises(TypeError, match=r"^keys must be"):
        asyncio.run(getattr(AIResponseCache(), call)(wrong))


def test_good_arguments_are_taken() -> None:
    """Edges: nothing is kept in memory, everything is compressed, tiers of one size."""
    AIResponseCache(
        text_hash_threshold=0, compression_threshold=0, compression_level=0, memory_cache_size=0, memory_ttl=0, timeout=0.1,
        memory_cache_bytes=0, text_size_tiers={"small": 5, "medium": 5, "large": 5},
    )  # fmt: skip
