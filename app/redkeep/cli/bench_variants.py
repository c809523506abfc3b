"""What the benchmark compares: each variant reads and writes the same values in its own way."""

from __future__ import annotations

import pickle  # nosec B403 - the PRD's design, measured; it reads only what this process wrote
import random
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from redkeep.cli.bench_servers import HOST, Kind, Server

TTL: Final = 3600
BATCH: Final = 50
WORDS: Final = ("the", "cache", "keeps", "what", "a", "model", "has", "said", "about", "some", "text", "so", "nobody", "pays", "twice")

BASE: Final = "redis-py, plain, raw"
OWN_PLAIN: Final = "our transport, plain, raw"
PRD: Final = "the PRD's design on redis-py"
FULL: Final = "our cache, lz4"
OLD: Final = "the old cache: plain, pickle"
ON_REDIS_PY: Final = "our cache on redis-py, lz4"


class Calls(NamedTuple):
    """One variant at work; `get_many` and `set_many` where it can take several keys at once."""

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str], Awaitable[Any]]
    close: Callable[[], Awaitable[None]]
    get_many: Callable[[Sequence[str]], Awaitable[Any]] | None = None
    set_many: Callable[[Sequence[str]], Awaitable[Any]] | None = None


class Value(NamedTuple):
    """What is cached: as an object, and as JSON for those who do not encode."""

    document: dict[str, str]
    json: bytes


Make = Callable[[Server, Value], Calls]


class Variant(NamedTuple):
    """How to begin."""

    name: str
    server: Kind
    make: Make
    uvloop: bool = False
    batches: bool = False
    """Whether it can take several keys at once."""


def value_of(size: int) -> Value:
    """An English text with nine fields of metadata, as JSON of about `size` bytes."""
    choose = random.Random(size)  # noqa: S311  # nosec B311 - filler text
    document = {f"field_{number}": choose.choice(WORDS) for number in range(9)}
    room = size - len(orjson.dumps(document)) - 13
    text = ""
    while len(text) < room:
        text += choose.choice(WORDS) + " "
    document["result"] = text[: max(0, room)]
    return Value(document, orjson.dumps(document))


def variants(*, uvloop: bool) -> list[Variant]:
    """All of them; the first is the measure of the others."""
    found = [
        Variant(BASE, "plain", raw_redis_py, batches=True),
        Variant("redis-py, password, raw", "password", raw_redis_py),
        Variant("redis-py, password + TLS, raw", "tls", raw_redis_py),
        Variant(PRD, "tls", _prd),
        Variant(OLD, "plain", _old),
        Variant(ON_REDIS_PY, "full", _cache("lz4", "redis-py"), batches=True),
        Variant(FULL, "full", _cache("lz4", "transport"), batches=True),
        Variant(f"{FULL}, tracked memory", "full", _cache("lz4", "transport", redis_client_tracking=True)),
        Variant("our cache, zstd", "full", _cache("zstd", "transport")),
        Variant("our cache, no compression", "full", _cache("none", "transport")),
        Variant(OWN_PLAIN, "plain", raw_transport, batches=True),
    ]
    if uvloop:
        found.append(Variant(f"{FULL}, uvloop", "full", _cache("lz4", "transport"), uvloop=True))
    return found


def stock_client(server: Server) -> Any:
    """redis-py as it comes, on a server with a password or without."""
    from redis.asyncio import Redis

    if server.kind == "tls":
        return Redis(host=HOST, port=server.port, password=server.password, ssl=True, ssl_ca_certs=str(server.ca))
    return Redis(host=HOST, port=server.port, password=server.password)


def batched(variant: Variant) -> Variant:
    """The variant at batches of 50: each of its calls takes the key it is given and 49 others."""

    def make(server: Server, value: Value) -> Calls:
        calls = variant.make(server, value)
        get_many, set_many = calls.get_many, calls.set_many
        assert get_many is not None
        assert set_many is not None
        places: dict[str, int] = {}
        keys: list[str] = []

        def some(key: str) -> list[str]:
            if key not in places:
                places[key] = len(keys)
                keys.append(key)
            first = places[key]
            return (keys * 2)[first : first + BATCH] if len(keys) >= BATCH else keys * 1

        return Calls(lambda key: get_many(some(key)), lambda key: set_many(some(key)), calls.close)

    return variant._replace(make=make)


def raw_redis_py(server: Server, value: Value) -> Calls:
    """redis-py as it comes, bytes in and bytes out."""
    client = stock_client(server)

    async def put_many(keys: Sequence[str]) -> None:
        async with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.set(key, value.json, ex=TTL)
            await pipeline.execute()

    return Calls(client.get, lambda key: client.set(key, value.json, ex=TTL), client.aclose, client.mget, put_many)


def _insecure_unpickle(payload: bytes) -> Any:
    """What the measured designs do and ours never: only for bytes that this process put into a server of its own on loopback."""
    return pickle.loads(payload)  # noqa: S301  # nosec B301 - the benchmark's own bytes, from its own server


def _old(server: Server, value: Value) -> Calls:
    """What the PRD found: pickle behind a marker, zlib above 1000 bytes, no security."""
    client = stock_client(server)

    async def get(key: str) -> Any:
        found = await client.get(key)
        if found is None:
            return None
        kind, _, payload = found.partition(b":")
        return _insecure_unpickle(zlib.decompress(payload) if kind == b"compressed" else payload)

    async def put(key: str) -> None:
        payload = pickle.dumps(value.document)
        stored = b"raw:" + payload if len(payload) <= 1000 else b"compressed:" + zlib.compress(payload, 6)
        await client.setex(key, TTL, stored)

    return Calls(get, put, client.aclose)


def _prd(server: Server, value: Value) -> Calls:
    """Pickle, then Fernet, then zlib, in the order that the PRD has them."""
    from cryptography.fernet import Fernet

    client = stock_client(server)
    fernet = Fernet(Fernet.generate_key())

    async def get(key: str) -> Any:
        found = await client.get(key)
        return None if found is None else _insecure_unpickle(fernet.decrypt(zlib.decompress(found)))

    async def put(key: str) -> None:
        await client.set(key, zlib.compress(fernet.encrypt(pickle.dumps(value.document)), 6), ex=TTL)

    return Calls(get, put, client.aclose)


def raw_transport(server: Server, value: Value) -> Calls:
    """Our transport, bytes in and bytes out; with all security where the server has it."""
    from redkeep.access.transport import Transport
    from redkeep.target import build_target

    plain = {"environment": "development", "redis_url": f"redis://{HOST}:{server.port}/0"}
    client = Transport(build_target(**(server.settings if server.kind == "full" else plain)))
    execute = client.execute
    return Calls(
        lambda key: execute("GET", key), lambda key: execute("SET", key, value.json, "EX", TTL), client.close,
        lambda keys: execute("MGET", *keys), lambda keys: client.execute_many([("SET", key, value.json, "EX", TTL) for key in keys]),
    )  # fmt: skip


def _cache(compression: str, client: str, **more: Any) -> Make:
    def make(server: Server, value: Value) -> Calls:
        from redkeep.cache.secure import SecureAIResponseCache
        from redkeep.crypto.keyring import generate_key
        from redkeep.settings import Settings

        chosen: dict[str, Any] = {
            **server.settings, "redis_encryption_key": generate_key(), "redis_compression": compression, "redis_client": client, **more,
        }
        cache = SecureAIResponseCache.from_settings(Settings(**chosen), memory_cache_size=1000)
        document = value.document
        return Calls(
            cache.get, lambda key: cache.set(key, document, TTL), cache.close,
            cache.get_many, lambda keys: cache.set_many(dict.fromkeys(keys, document), TTL),
        )  # fmt: skip

    return make
