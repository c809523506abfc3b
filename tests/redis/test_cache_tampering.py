"""Hostile values in Redis: whatever somebody who may write anything puts there is a counted miss, and nothing more.

The short form takes a sample of the bits; the long form (--soak) every bit, with either client.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import lz4.block
import pytest
import zstandard
from cryptography.fernet import Fernet

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.crypto.envelope import seal
from redkeep.crypto.keyring import KeyRing, generate_key
from tests.redis.caches import CLIENTS, empty, opened, plant, secure, stored
from tests.redis.server import Server

ANSWER = {"summary": "the right one"}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def refused(cache: SecureAIResponseCache, server: Server, hostile: list[bytes], *, late: bool = False) -> None:
    """Plant each value under the name of an answer and of an entry: each read is a miss, counted, told, and deleted."""
    await cache.get("k")
    await cache.get_cached_response("t" * 600, "qa", {})
    names = (cache._generate_cache_key("t" * 600, "qa", {}), cache._entry_name("k"))
    for first in range(0, len(hostile), 200):
        for value in hostile[first : first + 200]:
            plant_all = dict.fromkeys(names, value)
            assert cache.redis is not None
            for name in names:
                await cache.redis.execute("SET", name, value)
            before = (cache.error_counts["decryption"], cache.performance_monitor.cache_misses, events(cache))
            assert await cache.get_cached_response("t" * 600, "qa", {}) is None
            assert await cache.get("k") is None
            after = (cache.error_counts["decryption"], cache.performance_monitor.cache_misses, events(cache))
            assert [2, 2, 2] == [new - old for new, old in zip(after, before, strict=True)]
            assert set(plant_all) & set(stored(server)) == set() if not first else True
    assert not cache.error_counts["server_unavailable"]
    assert cache._breaker.state == "closed"


def events(cache: SecureAIResponseCache) -> int:
    monitor = cache.security_monitor
    return sum(monitor.count(kind) for kind in ("decryption_failure", "downgrade_refused", "expired_value"))


def test_every_bit_and_every_truncation(server: Server, soak: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One bit flipped anywhere, cut anywhere, or longer: 100 % counted misses, 0 exceptions, 0 wrong values."""
    caplog.set_level(logging.CRITICAL)

    async def work(client: str) -> int:
        async with opened(server, redis_client=client, options={"memory_cache_size": 0}) as cache:
            await cache.cache_response("t" * 600, "qa", {}, ANSWER)
            whole = stored(server)[cache._generate_cache_key("t" * 600, "qa", {})]
            step = 1 if soak else 29
            places = range(0, len(whole) * 8, step)
            flipped = [whole[: at // 8] + bytes([whole[at // 8] ^ (1 << at % 8)]) + whole[at // 8 + 1 :] for at in places]
            cut = [whole[:length] for length in range(0, len(whole), 1 if soak else 11)]
            hostile = [*flipped, *cut, whole + b"\x00", whole * 2]
            await refused(cache, server, hostile)
            return len(hostile)

    for client in CLIENTS if soak else CLIENTS[:1]:
        count = asyncio.run(work(client))
        print(f"tampering, {client}: {count} values, each read twice")


def test_swaps(server: Server) -> None:
    """A value moved to another key, of another tenant, of another ring, or played back after its time."""

    async def work() -> None:
        async with opened(server, redis_namespace="a", options={"memory_cache_size": 0}) as cache:
            other = secure(server, redis_namespace="b", options={"memory_cache_size": 0})
            foreign = secure(server, redis_namespace="a", redis_encryption_key=generate_key(), options={"memory_cache_size": 0})
            async with other, foreign:
                for each in (cache, other, foreign):
                    await each.cache_response("u" * 600, "qa", {}, ANSWER)
                    await each.cache_response("t" * 600, "qa", {}, ANSWER)
                    await each.set("other", 1)
                    await each.set("k", 1)
                hostile = list(stored(server).values())
                assert len(hostile) == 12
                own = {cache._generate_cache_key("t" * 600, "qa", {}), cache._entry_name("k")}
                hostile = [value for name, value in stored(server).items() if name not in own]
                await refused(cache, server, hostile)
            await cache.set("k", "short", 1)
            name = cache._entry_name("k")
            old = stored(server)[name]
            await asyncio.sleep(1.1)
            plant(server, {name: old})
            assert await cache.get("k") is None
            assert cache.security_monitor.security_events[-1].type == "expired_value"
            assert name not in stored(server)

    asyncio.run(work())


class Planted:
    """A pickle with a side effect."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_plaintext_pickles_and_bombs(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Planted plaintext, pickles with a side effect, inflation bombs of 1000:1, JSON 100,000 deep: misses, in under 32 MB."""
    caplog.set_level(logging.CRITICAL)
    key = str(server.settings["redis_encryption_key"])
    ring = KeyRing.from_strings([key])
    evil = pickle.dumps({"a": Planted(tmp_path / "planted")})
    size = 100 * 1024 * 1024
    engine = zlib.compressobj(9)
    block = bytes(1024 * 1024)
    zipped = b"".join(engine.compress(block) for _ in range(100)) + engine.flush()
    frame = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    zstd = b"".join(frame.compress(block) for _ in range(100)) + frame.flush()
    deep = b"[" * 100_000 + b"]" * 100_000
    hostile = [
        b"", b"null", b"1", b'{"summary": "planted"}', b"raw:" + json.dumps(ANSWER).encode(), b"raw:" + evil, evil,
        b"compressed:" + zlib.compress(evil), b"encrypted:" + Fernet(key).encrypt(evil), Fernet(key).encrypt(evil),
        b"compressed_encrypted:" + zlib.compress(b"encrypted:" + Fernet(key).encrypt(evil)),
        b"compressed:" + zipped, b"compressed_encrypted:" + zipped, deep, b"raw:" + deep, b'{"a":' * 100_000, os.urandom(5000),
        b"\xc1", b"\xc1\x01\x01" + bytes(60), b"\xc1\x02" + os.urandom(60), "ï»¿{}".encode(),
    ]

    def own(packed: bytes, name: str) -> bytes:  # by somebody who has the key, or through a bug of ours
        return seal(packed, key=name, ring=ring)

    async def work() -> int:
        async with opened(server, options={"memory_cache_size": 0}) as cache:
            await refused(cache, server, hostile[:3])
            gc.collect()
            before, peak = resident(), 0
            for value in hostile:
                await refused(cache, server, [value])
                peak = max(peak, resident())
            for packed in (
                b"\x02" + zstd, b"\x01" + struct.pack("<I", size) + lz4.block.compress(block, store_size=False), b"\x00" + deep, b"\x07{}", b"",
                b"\x00" + evil,
            ):
                await cache.get("k")
                name = cache._entry_name("k")
                plant(server, {name: own(packed, name)})
                count = cache.error_counts["decryption"]
                assert await cache.get("k") is None
                assert cache.error_counts["decryption"] == count + 1
                peak = max(peak, resident())
            return peak - before

    grown = asyncio.run(work())
    print(f"memory growth {grown / 1024 / 1024:.1f} MB")
    assert grown < 32 * 1024 * 1024
    assert not (tmp_path / "planted").exists()


def test_planted_pickles_in_the_window(server: Server, tmp_path: Path) -> None:
    """Also while read_legacy is on nothing runs, and a sealed name takes nothing but an envelope."""
    evil = pickle.dumps({"a": Planted(tmp_path / "planted")})

    async def work() -> None:
        async with opened(server, redis_read_legacy=True, options={"memory_cache_size": 0}) as cache:
            name = cache.key_generator.generate_cache_key("t", "qa", {})
            token = Fernet(str(server.settings["redis_encryption_key"])).encrypt(evil)
            for value in (b"raw:" + evil, b"compressed:" + zlib.compress(evil), b"encrypted:" + token):
                plant(server, {name: value})
                assert await cache.get_cached_response("t", "qa", {}) is None
                assert name not in stored(server)
            assert cache.error_counts["decryption"] == 3
            await cache.get("k")
            plant(server, {cache._entry_name("k"): b"raw:" + pickle.dumps({"plain": 1})})
            assert await cache.get("k") is None

    asyncio.run(work())
    assert not (tmp_path / "planted").exists()


def test_a_key_of_another_type(server: Server) -> None:
    """A list where a value should be: a miss, deleted."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.get("k")
            name = cache._entry_name("k")
            for client in CLIENTS:
                with server.log_in() as operator:
                    operator.ask(("DEL", name), ("RPUSH", name, "x"))
                other = secure(server, redis_client=client)
                assert await other.get("k") is None
                assert await other.get("k") is None
                assert other.error_counts["decryption"] == 1
                await other.close()

    asyncio.run(work())
    empty(server)


def test_a_list_of_answers_is_no_answer(server: Server) -> None:
    """A sealed value that is no dictionary does not become an answer."""

    async def work() -> None:
        async with opened(server) as cache:
            await cache.get_cached_response("t", "qa", {})
            name = cache._generate_cache_key("t", "qa", {})
            plant(server, {name: cache._encode(name, [1, 2], 60)})
            assert await cache.get_cached_response("t", "qa", {}) is None

    start = time.monotonic()
    asyncio.run(work())
    assert time.monotonic() - start < 5
