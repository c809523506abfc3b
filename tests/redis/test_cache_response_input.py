"""AIResponseCache's arguments on a real server: what is refused and how, and what is odd but good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redkeep.cache.response import AIResponseCache
from tests.redis.caches import plain
from tests.redis.server import Server


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda c: c.get(5), TypeError, "key"), (lambda c: c.set(None, 1), TypeError, "key"), (lambda c: c.delete(b"k"), TypeError, "keys"),
        (lambda c: c.set("k", 1, 0), ValueError, "ttl"), (lambda c: c.set("k", 1, "9"), TypeError, "ttl"),
        (lambda c: c.set("k", 1, True), TypeError, "ttl"), (lambda c: c.set("k", 1, 10**12), ValueError, "ttl"),
        (lambda c: c.set("k", {1}), TypeError, "value"), (lambda c: c.set("k", b"x"), TypeError, "value"),
        (lambda c: c.set("k", float("nan")), ValueError, "value"), (lambda c: c.set("k", "x" * 9_000_000), ValueError, "value"),
        (lambda c: c.set_many({"a": 1, "b": {1}}), TypeError, "values"), (lambda c: c.set_many({"a": 1, 5: 1}), TypeError, "values"),
        (lambda c: c.get_cached_response(5, "qa", {}), TypeError, "text"),
        (lambda c: c.get_cached_response("t", None, {}), TypeError, "operation"),
        (lambda c: c.get_cached_response("t", "qa", "x"), TypeError, "options"),
        (lambda c: c.get_cached_response("t", "qa", {"a": {1}}), TypeError, "options"),
        (lambda c: c.get_cached_response("t", "qa", {}, 5), TypeError, "question"),
        (lambda c: c.cache_response("t", "qa", {}, "x"), TypeError, "response"),
        (lambda c: c.cache_response("t", "qa", {}, {"a": datetime(2024, 1, 1)}), TypeError, "response"),
        (lambda c: c.cache_response("t", "qa", {}, {"a": float("inf")}), ValueError, "response"),
        (lambda c: c.cache_response("t", "qa", {"a": object()}, {}), TypeError, "options"),
        (lambda c: c.invalidate_pattern(5), TypeError, "pattern"), (lambda c: c.invalidate_by_operation(None), TypeError, "operation"),
    ],
)  # fmt: skip
def test_bad_input(open_server: Server, call: Callable[[AIResponseCache], Any], error: type[Exception], named: str) -> None:
    """A clear exception names the argument, and nothing is half written."""

    async def work() -> int:
        async with plain(open_server) as cache:
            with pytest.raises(error, match=named):
                await call(cache)
            assert cache.redis is not None
            return int(await cache.redis.execute("DBSIZE")) + len(cache.memory_cache)

    assert asyncio.run(work()) == 0


def test_odd_but_good_input(open_server: Server) -> None:
    """Huge texts, lone surrogates, names of 64 KB, empty everything: these work."""

    async def work() -> None:
        async with plain(open_server) as cache:
            for text, operation in (("x" * 5_000_000, "qa"), ("\udfff\ud800", "qa"), ("", ""), ("t", "o" * 65_536), ("\x00\r\n", "a b|c:*?")):
                await cache.cache_response(text, operation, {"\ud800": "\udc00"}, {"value": text[:9]}, "\ud800")
                found = await cache.get_cached_response(text, operation, {"\ud800": "\udc00"}, "\ud800")
                assert found is not None
                assert found["value"] == text[:9]
            for key in ("", "k" * 65_536, "\ud800", "\x00"):
                await cache.set(key, key)
                assert await cache.get(key) == key
            assert await cache.get_many(["", "\ud800"]) == {"": "", "\ud800": "\ud800"}

    asyncio.run(work())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.integers(-9, 9) | st.text(max_size=8), max_size=4), st.text(max_size=30),
    st.text(max_size=9),
)
def test_any_answer_comes_back(open_server: Server, answer: dict[str, Any], text: str, operation: str) -> None:
    """Through Redis and through memory."""

    async def work() -> None:
        async with plain(open_server) as cache:
            await cache.cache_response(text, operation, {"o": answer}, answer)
            for _ in range(2):
                found = await cache.get_cached_response(text, operation, {"o": answer})
                assert found is not None
                added = {"cached_at", "cache_hit", "text_length", "compression_used"}
                assert {key: found[key] for key in answer if key not in added} == {k: v for k, v in answer.items() if k not in added}
                await cache.invalidate_memory_cache()

    asyncio.run(work())
