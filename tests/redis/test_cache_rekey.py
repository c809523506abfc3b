"""A running cache takes up the encryption keys that its settings' files have."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from redkeep.cache.secure import KEYS_SECONDS, SecureAIResponseCache
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.settings import Settings
from tests.redis.caches import CLIENTS, empty, stored
from tests.redis.server import Server

OLD, NEW = generate_key(), generate_key()


def key_id(key: str) -> str:
    return KeyRing.from_strings([key]).primary.key_id.hex()


class App:
    """A cache that was started from an env file, which changes under it."""

    def __init__(self, server: Server, file: Path, client: str) -> None:
        self.server, self.file = server, file
        known = {name: value for name, value in server.settings.items() if not name.startswith("redis_encryption")}
        lines = [f"{name.upper()}={value}" for name, value in known.items()]
        self.lines = [*lines, f"REDIS_CLIENT={client}"]
        self.write(OLD)
        self.cache = SecureAIResponseCache.from_settings(Settings.load(file))

    def write(self, *keys: str) -> None:
        self.file.write_text("\n".join([*self.lines, f"REDIS_ENCRYPTION_KEYS={','.join(keys)}"]) + "\n")

    def find(self, *keys: str) -> None:
        """The keys change in the file, and it is time to look at it again."""
        self.write(*keys)
        self.cache._next_look = 0.0

    def sealed_with(self) -> set[str]:
        return {value[3:11].hex() for value in stored(self.server).values()}


@pytest.fixture(params=CLIENTS)
def app(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> App:
    empty(server)
    return App(server, tmp_path / "cache.env", request.param)


async def read(app: App, text: str) -> object:
    found = await app.cache.get_cached_response(text * 300, "summarize", {})
    return None if found is None else found["n"]


async def write(app: App, text: str, n: int) -> None:
    await app.cache.cache_response(text * 300, "summarize", {}, {"n": n})


def test_keys_change_under_a_running_cache(app: App) -> None:
    """Added, promoted, the old one retired: each counts from the next look on, everything stays readable that a key of the
    ring has sealed (what is read is sealed anew), and nothing has failed. The count of seals goes on."""

    async def work() -> None:
        async with app.cache as cache:
            assert cache.redis is not None, cache.last_error
            await write(app, "first", 1)
            app.find(OLD, NEW)
            assert await read(app, "first") == 1
            await write(app, "second", 2)
            await write(app, "third", 3)
            assert app.sealed_with() == {key_id(OLD)}
            assert cache.encryption is not None
            assert [len(cache.encryption.ring), cache.encryption.ring.primary.sealed] == [2, 3]

            app.find(NEW, OLD)
            assert [await read(app, "first"), await read(app, "second")] == [1, 2]
            await write(app, "fourth", 4)
            assert app.sealed_with() == {key_id(OLD), key_id(NEW)}

            app.find(NEW)
            assert [await read(app, "first"), await read(app, "fourth"), await read(app, "third")] == [1, 4, None]
            assert cache.error_counts["decryption"] == 0

    asyncio.run(work())


def test_a_look_is_due_every_five_seconds(app: App) -> None:
    """Not before, and while nothing changes the ring stays the same object."""

    async def work() -> None:
        async with app.cache as cache:
            assert cache.encryption is not None
            app.write(OLD, NEW)
            assert 0 < cache._next_look - time.monotonic() <= KEYS_SECONDS == 5
            cache._next_look = time.monotonic() + 60
            await write(app, "first", 1)
            assert len(cache.encryption.ring) == 1
            app.find(OLD, NEW)
            await write(app, "first", 1)
            ring = cache.encryption.ring
            assert len(ring) == 2
            assert 0 < cache._next_look - time.monotonic() <= KEYS_SECONDS
            app.find(OLD, NEW)
            await write(app, "first", 1)
            assert cache.encryption.ring is ring

    asyncio.run(work())


def test_half_written_keys_change_nothing(app: App) -> None:
    """What cannot be a ring is not taken up; the keys from before stay in use."""

    async def work() -> None:
        async with app.cache as cache:
            assert cache.redis is not None, cache.last_error
            await write(app, "first", 1)
            app.find("half")
            assert await read(app, "first") == 1
            assert cache.encryption is not None
            assert cache.encryption.ring.primary.key_id.hex() == key_id(OLD)

    asyncio.run(work())
