import asyncio, pytest, os
from redkeep import *
from redkeep.crypto.keyring import generate_key
from tests.redis.conftest import *
from tests.redis.caches import *

def test_loops(server):
    empty(server)
    for cl in ("transport","redis-py"):
        c = secure(server, redis_client=cl)
        async def go():
            await asyncio.gather(*(c.set(f"k{i}", i) for i in range(50)))
            r = await asyncio.gather(*(c.get(f"k{i}") for i in range(50)))
            assert r == list(range(50)), r[:4]
            c._epochs._due = 0
            await asyncio.gather(*(c.get_cached_response(f"k{i}", "qa", {}) for i in range(50)))
            await asyncio.gather(*(c.get_or_set("x", lambda: asyncio.sleep(0.05, 3)) for i in range(50)))
        for _ in range(3):
            c._epochs._due = 0
            asyncio.run(go())
        asyncio.run(c.close())

@pytest.mark.parametrize("kw", [dict(encryption_key=""), dict(encryption_key=[]), dict(redis_password=""), dict(redis_tls_ca_file="x.crt"), dict(redis_tls_cert_file="x.crt", redis_tls_key_file="k"), dict(namespace="t1"), dict(encryption_key=generate_key().encode()), dict(encryption_key=5), dict(encryption_key=[b"x"]), dict(compression="gzip"), dict(compression="zstd"), dict(redis_password=5), dict(redis_username="u"), dict(namespace=5, encryption_key=generate_key())])
def test_args(kw):
    try:
        c = SecureAIResponseCache("redis://localhost:6379", **kw)
        print(kw, "ACCEPTED", c.encryption, c._access and c._access.target.tls)
    except Exception as e:
        print(kw, type(e).__name__, e)

def test_settings_ns(server):
    try:
        c = secure(server, redis_encryption_key=None, redis_namespace="t1")
        print("NS without key:", c._generate_cache_key("t","qa",{}), c._entry_name("k"))
    except Exception as e:
        print(type(e).__name__, e)

def test_nan(server):
    async def go():
        async with plain(start_plain) as c: pass
    from redkeep.cache.document import from_json
    print(from_json(b'["\\ud800",NaN]'))
    from redkeep.cache.codec import Codec
    print(Codec().read(b'["\\ud800",NaN, 1e999]', name="", read_pickles=False))

def test_empty_op(server):
    async def go():
        async with opened(server) as c:
            await c.cache_response("t"*900, "qa", {}, {"a":1})
            await c.cache_response("t"*900, "", {}, {"a":2})
            await c.invalidate_by_operation("")
            print("qa after inv('')", await c.get_cached_response("t"*900,"qa",{}), await c.get_cached_response("t"*900,"",{}))
            for bad in (None, 5, b"x"):
                for f in ("invalidate_pattern","invalidate_by_operation"):
                    try: await getattr(c,f)(bad)
                    except Exception as e: print(f, bad, type(e).__name__, e)
            await c.cache_response("t", "qa", {}, {"_redkeep": 1, "a": 1})
            print(await c.get_cached_response("t","qa",{}))
    asyncio.run(go())
