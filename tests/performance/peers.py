"""Other caches on the benchmark's work, each with the strongest security it offers itself; for `make bench`."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import quote

import orjson
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from redkeep.cli.bench_servers import HOST, Server
from redkeep.cli.bench_variants import TTL, Calls, Value, Variant

_NONCE_BYTES: Final = 12


def peers() -> list[Variant]:
    """All of them, on the server with a password and TLS."""
    return [
        Variant("cashews, TLS, signed pickle", "tls", _cashews),
        Variant("aiocache, TLS, JSON", "tls", _aiocache),
        Variant("cachekit, TLS, AES-GCM", "tls", _cachekit),
        Variant("valkey-glide, TLS, AES-GCM", "tls", _glide),
    ]


def _cashews(server: Server, value: Value) -> Calls:
    from cashews import Cache

    cache = Cache()
    url = f"rediss://:{quote(server.password or '', safe='')}@{HOST}:{server.port}/0"
    cache.setup(url, secret=os.urandom(32).hex(), ssl_ca_certs=str(server.ca))
    document = value.document
    return Calls(cache.get, lambda key: cache.set(key, document, expire=TTL), cache.close)


def _aiocache(server: Server, value: Value) -> Calls:
    from aiocache import RedisCache
    from aiocache.serializers import JsonSerializer

    cache = RedisCache(
        endpoint=HOST, port=server.port, password=server.password, ssl=True,
        connection_pool_kwargs={"ssl_ca_certs": str(server.ca)}, serializer=JsonSerializer(), timeout=0,
        create_connection_timeout=30,  # fifty handshakes at once, each with all of the system's authorities to load
    )  # fmt: skip
    document = value.document
    return Calls(cache.get, lambda key: cache.set(key, document, ttl=TTL), cache.close)


def _cachekit(server: Server, value: Value) -> Calls:
    """It is a decorator: what writes a value anew is an invalidation and the miss after it. Its own memory tier is off."""
    from cachekit import cache
    from cachekit.backends.redis import RedisBackend

    url = f"rediss://:{quote(server.password or '', safe='')}@{HOST}:{server.port}/0?ssl_ca_certs={server.ca}"
    secure = cache.secure(
        master_key=os.urandom(32).hex(), ttl=TTL, backend=RedisBackend(url), l1_enabled=False, namespace=f"size{len(value.json)}"
    )

    @secure
    async def answer(key: str) -> dict[str, str]:  # noqa: ARG001
        return value.document

    async def put(key: str) -> None:
        await answer.ainvalidate_cache(key)
        await answer(key)

    async def close() -> None:
        pass  # its connections end with their pool

    return Calls(answer, put, close)


def _glide(server: Server, value: Value) -> Calls:
    """It does not encode: orjson, zstd and AES-GCM with a cached key object are added, as somebody who wants speed would."""
    cipher = AESGCM(AESGCM.generate_key(256))
    pack, unpack = zstandard.ZstdCompressor(level=1).compress, zstandard.ZstdDecompressor().decompress
    expiry, client = None, None

    async def begin() -> Any:
        from glide import (
            AdvancedGlideClientConfiguration,
            ExpirySet,
            ExpiryType,
            GlideClient,
            GlideClientConfiguration,
            NodeAddress,
            ServerCredentials,
            TlsAdvancedConfiguration,
        )

        nonlocal client, expiry
        expiry = ExpirySet(ExpiryType.SEC, TTL)
        tls = TlsAdvancedConfiguration(root_pem_cacerts=server.ca.read_bytes())
        client = await GlideClient.create(GlideClientConfiguration(
            [NodeAddress(HOST, server.port)], use_tls=True, credentials=ServerCredentials(server.password or ""),
            request_timeout=5000, advanced_config=AdvancedGlideClientConfiguration(tls_config=tls),
        ))  # fmt: skip
        return client

    async def get(key: str) -> Any:
        found = await (client or await begin()).get(key)
        if found is None:
            return None
        return orjson.loads(unpack(cipher.decrypt(found[:_NONCE_BYTES], found[_NONCE_BYTES:], key.encode())))

    async def put(key: str) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, pack(orjson.dumps(value.document)), key.encode())
        await (client or await begin()).set(key, sealed, expiry=expiry)

    async def close() -> None:
        if client is not None:
            await client.close()

    return Calls(get, put, close)
