"""A running cache takes up the encryption keys that its settings have when it connects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from redkeep.cache.secure import SecureAIResponseCache
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

    async def find(self, *keys: str) -> None:
        """The keys change in the file, and the operator ends the session."""
        self.write(*keys)
        with self.server.log_in() as operator:
            operator.ask(("CLIENT", "KILL", "USER", "cache_service"))
        await asyncio.sleep(0.2)  # redis-py looks at a connection only when it takes it, and repeats nothing

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
    """Added, promoted, the old one retired: each counts from the next connect on, everything stays readable that a key of the
    ring has sealed (what is read is sealed anew), and nothing has failed. The count of seals goes on."""

    async def work() -> None:
        async with app.cache as cache:
            assert cache.redis is not None, cache.last_error
            await write(app, "first", 1)
            await app.find(OLD, NEW)
            assert await read(app, "first") == 1
            await write(app, "second", 2)
            await write(app, "third", 3)
            assert app.sealed_with() == {key_id(OLD)}
            assert cache.encryption is not None
            assert [len(cache.encryption.ring), cache.encryption.ring.primary.sealed] == [2, 3]

            await app.find(NEW, OLD)
            assert [await read(app, "first"), await read(app, "second")] == [1, 2]
            await write(app, "fourth", 4)
            assert app.sealed_with() == {key_id(OLD), key_id(NEW)}

            await app.find(NEW)
            assert [await read(app, "second"), await read(app, "fourth"), await read(app, "third")] == [2, 4, None]
            assert cache.error_counts["decryption"] == 0

    asyncio.run(work())


def test_half_written_keys_change_nothing(app: App) -> None:
    """What cannot be a ring is not taken up; the keys from before stay in use."""

    async def work() -> None:
        async with app.cache as cache:
            assert cache.redis is not None, cache.last_error
            await write(app, "first", 1)
            await app.find("half")
            assert await read(app, "first") == 1
            assert cache.encryption is not None
            assert cache.encryption.ring.primary.key_id.hex() == key_id(OLD)

    asyncio.run(work())
