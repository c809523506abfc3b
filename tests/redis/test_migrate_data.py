"""`redkeep migrate-data` on a real server: every old form and every older key, beside live traffic, interrupted, and back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from redkeep.cache.secure import SecureAIResponseCache
from redkeep.cli import main
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError
from redkeep.migration.counts import Counts
from redkeep.migration.reencrypt import DataMigration
from tests.redis.caches import CLIENTS, empty, plant, secure, stored
from tests.redis.old_application import Request, fill, requests
from tests.redis.server import Server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_JANITOR_PASSWORD", "REDIS_JANITOR_PASSWORD_FILE", "REDIS_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)


def migration(server: Server, **options: Any) -> DataMigration:
    changes = {name: options.pop(name) for name in list(options) if name.startswith("redis_")}
    target = server.target(**{"redis_janitor_password": server.passwords["cache_janitor"], **changes})
    return DataMigration(target, **{"rate": 0, **options})


def migrate(server: Server, **options: Any) -> Counts:
    return asyncio.run(migration(server, **options).run())


def times(server: Server) -> dict[str, int]:
    """Milliseconds to live of every entry."""
    names = list(stored(server))
    with server.log_in() as operator:
        return dict(zip(names, operator.ask(*(("PTTL", name) for name in names)), strict=True)) if names else {}  # type: ignore[arg-type]


async def answers(cache: SecureAIResponseCache, asked: list[Request]) -> list[Any]:
    found = [await cache.get_cached_response(*each[:4]) for each in asked]
    return [{name: hit[name] for name in each.answer} if hit else None for each, hit in zip(asked, found, strict=True)]


def read(server: Server, asked: list[Request], **changes: Any) -> list[Any]:
    async def work() -> list[Any]:
        async with secure(server, options={"memory_cache_size": 0}, **changes) as cache:
            assert cache.redis is not None, cache.last_error
            return await answers(cache, asked)

    return asyncio.run(work())


def test_old_entries_are_sealed_and_stay_hits(server: Server) -> None:
    """Every old form, under every kind of old name, is sealed with the time it had: a hit in the window and after it."""
    empty(server)
    asked = list(requests(60))
    fill(server, asked, fernet_key=str(server.settings["redis_encryption_key"]))
    plant(server, {"ai_cache:mine": b'{"my": "secret"}'})
    before = times(server)
    counts = migrate(server)
    assert (counts.readable, counts.left, counts.unreadable, counts.invalidated) == (61, 0, 0, 0)
    assert counts.compared
    lying = stored(server)
    assert not [name for name in lying if "|h:" not in name]
    assert b"secret" not in b"".join(lying.values())
    after = sorted(times(server).values())
    assert all(abs(one - other) < 2000 for one, other in zip(sorted(before.values()), after, strict=True))
    assert [each.answer for each in asked] == read(server, asked, redis_read_legacy=True)[:30] + read(server, asked)[30:]
    assert len(stored(server)) == 61, "an alias stays beside the entry that was read from it"

    async def mine() -> Any:
        async with secure(server) as cache:
            return await cache.get("ai_cache:mine")

    assert asyncio.run(mine()) == {"my": "secret"}
    assert migrate(server).moved == 0


def test_entries_of_an_older_key_outlive_it(server: Server) -> None:
    """After a promotion and the migration the old key can go: answers, keys of one's own, aliases and times are still there."""
    empty(server)
    old, new = generate_key(), generate_key()
    asked = list(requests(40))

    async def write() -> None:
        async with secure(server, redis_encryption_key=old) as cache:
            for each in asked[:20]:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)
            await cache.set("user:1", {"a": 1}, ttl=500)
            await cache.set("ai_cache:op:x|h:" + "ab" * 16, "a name of the caller's own", ttl=500)

    asyncio.run(write())
    fill(server, asked[20:])
    assert migrate(server, redis_encryption_key=old).readable == 20
    before = sorted(times(server).values())
    counts = migrate(server, redis_encryption_key=None, redis_encryption_keys=f"{new},{old}")
    assert (counts.older_key, counts.readable, counts.left, counts.unreadable) == (42, 0, 0, 0)
    prefix = KeyRing.from_strings([new]).primary.prefix
    assert {value[2:11] for value in stored(server).values()} == {prefix}
    assert all(abs(one - other) < 2000 for one, other in zip(before, sorted(times(server).values()), strict=True))
    assert [each.answer for each in asked] == read(server, asked, redis_encryption_key=new)

    async def own() -> list[Any]:
        async with secure(server, redis_encryption_key=new) as cache:
            return [await cache.get("user:1"), await cache.get("ai_cache:op:x|h:" + "ab" * 16)]

    assert asyncio.run(own()) == [{"a": 1}, "a name of the caller's own"]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
def test_aliases_are_entries_like_others(server: Server, client: str, closed: bool) -> None:
    """With the window closed or open: read alone and in one call for many, replaced, deleted, invalidated, and gone with their time."""
    empty(server)
    keys = [f"ai_cache:user:{number}" for number in range(6)]
    asked = list(requests(6))
    fill(server, asked)
    plant(server, {key: json.dumps(number).encode() for number, key in enumerate(keys)})
    assert migrate(server).readable == 12

    async def work() -> None:
        async with secure(server, redis_client=client, redis_read_legacy=not closed, options={"memory_cache_size": 0}) as cache:
            assert await cache.get_many([*keys[:3], "ai_cache:none"]) == dict(zip(keys, range(3), strict=False))
            assert await cache.get(keys[3]) == 3
            await cache.set(keys[4], "new")
            await cache.delete(keys[5])
            await cache.delete(keys[4])
            assert await cache.get_many(keys[4:]) == {}
            assert await cache.get_many(keys[:4]) == dict(zip(keys, range(4), strict=False))
            assert len(stored(server, "ai_cache:op:_entry|*")) == 4
            summarize = [each for each in asked if each.operation == "summarize"]
            await cache.cache_response(*summarize[0][:3], {"answer": "new"}, summarize[0].question)
            await cache.invalidate_by_operation("summarize")
            assert await answers(cache, summarize) == [None, None]
            others = [each for each in asked if each.operation != "summarize"]
            assert await answers(cache, others) == [each.answer for each in others]
            short = next(each for each in others if len(each.text) < 1000)
            wrong = short._replace(text=short.text.replace("|", "_"))  # the same old name; whose answer it was is known by now
            assert wrong.name == short.name
            assert await answers(cache, [wrong]) == [None]

    asyncio.run(work())


def test_live_writes_are_never_overwritten(server: Server) -> None:
    """While entries move, a reader of all of them misses none, and the last write of each key is what is there at the end."""
    empty(server)
    asked = list(requests(300))
    fill(server, asked)
    latest = {each.name: each.answer for each in asked}
    misses: list[str] = []
    rounds = 0

    async def traffic(window: SecureAIResponseCache, done: asyncio.Event) -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            for number, each in enumerate(asked):
                if number % 3 == rounds % 3:
                    latest[each.name] = {**each.answer, "round": rounds}
                    await window.cache_response(each.text, each.operation, each.options, latest[each.name], each.question)
                    continue
                found = await window.get_cached_response(*each[:4])
                if found is None or {name: found[name] for name in latest[each.name]} != latest[each.name]:
                    misses.append(each.name)

    async def work() -> Counts:
        async with secure(server, redis_read_legacy=True, options={"memory_cache_size": 0}) as window:
            done = asyncio.Event()
            live = asyncio.create_task(traffic(window, done))
            await asyncio.sleep(0.05)
            counts = await migration(server, rate=400).run()
            done.set()
            await live
            assert sum(window.error_counts.values()) == 0, window.last_error
            return counts

    counts = asyncio.run(work())
    assert not misses
    assert counts.left == 0
    assert rounds > 1
    assert not [name for name in stored(server) if "|h:" not in name]
    found = read(server, asked)
    assert [latest[each.name] for each in asked] == [
        {name: hit.get(name) for name in latest[each.name]} if hit else None
        for each, hit in zip(asked, _whole(server, asked), strict=True)
    ]
    assert None not in found


def _whole(server: Server, asked: list[Request]) -> list[Any]:
    async def work() -> list[Any]:
        async with secure(server, options={"memory_cache_size": 0}) as cache:
            return [await cache.get_cached_response(*each[:4]) for each in asked]

    return asyncio.run(work())


def test_a_change_between_reading_and_writing(server: Server) -> None:
    """An entry that is replaced, and one that is deleted, in the very moment before it would be moved stay so."""
    empty(server)
    plant(server, {"ai_cache:a": b'"old"', "ai_cache:b": b'"old"'})

    class Interrupted(DataMigration):
        async def _mark(self, moves: Any) -> None:
            await super()._mark(moves)
            if not self.counts.conflicts:
                async with secure(server, redis_read_legacy=True) as cache:
                    await cache.set("ai_cache:a", "new")
                    await cache.delete("ai_cache:b")

    migration = Interrupted(server.target(redis_janitor_password=server.passwords["cache_janitor"]), rate=0)
    assert asyncio.run(migration.run()).conflicts == 1

    async def work() -> None:
        async with secure(server, redis_read_legacy=True) as cache:
            assert await cache.get_many(["ai_cache:a", "ai_cache:b"]) == {"ai_cache:a": "new"}

    asyncio.run(work())
    assert len(stored(server)) == 1


def test_what_was_invalidated_stays_so(server: Server) -> None:
    """Entries from before an invalidation are removed, readable and sealed ones, not brought back under new names."""
    empty(server)
    old, new = generate_key(), generate_key()
    asked = list(requests(30))
    fill(server, asked)

    async def invalidate() -> None:
        async with secure(server, redis_encryption_key=old, redis_read_legacy=True) as cache:
            assert all(await answers(cache, asked))
            await cache.invalidate_by_operation("qa")

    asyncio.run(invalidate())
    counts = migrate(server, redis_encryption_key=None, redis_encryption_keys=f"{new},{old}")
    assert (counts.invalidated, counts.readable, counts.older_key) == (20, 20, 20)
    found = read(server, asked, redis_encryption_key=new, redis_read_legacy=True)
    assert [each.operation == "qa" for each in asked] == [answer is None for answer in found]
    assert not [name for name in stored(server) if ":qa|" in name]


def test_there_and_back_and_there(server: Server) -> None:
    """The way back gives the old names and plain JSON again, also to what was written since; and forward works anew."""
    empty(server)
    asked = list(requests(30))
    fill(server, asked[:20])
    assert migrate(server).readable == 20

    async def since() -> None:
        async with secure(server, redis_read_legacy=True) as cache:
            await answers(cache, asked[:5])
            await cache.invalidate_by_operation("qa")
            for each in [each for number, each in enumerate(asked) if number >= 20 or each.operation == "qa"]:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)

    asyncio.run(since())
    counts = migrate(server, reverse=True)
    assert (counts.returned, counts.left, counts.without_old_name, counts.unreadable) == (30, 0, 0, 0)
    assert counts.invalidated == 6
    lying = stored(server)
    assert {each.name for each in asked} == set(lying)
    for each in asked:
        answer = json.loads(lying[each.name])
        assert {name: answer[name] for name in each.answer} == each.answer
        assert "_redkeep" not in answer
    left = times(server)
    assert all(0 <= (3600 + number) * 1000 - left[each.name] < 60_000 for number, each in enumerate(asked[:20]) if each.operation != "qa")
    assert migrate(server).readable == 30
    assert [each.answer for each in asked] == read(server, asked)


def test_a_dry_run_writes_nothing(server: Server) -> None:
    """It counts what would be done; every byte and every time in Redis is as before."""
    empty(server)
    fill(server, list(requests(20)))
    before = stored(server)
    assert migrate(server, dry_run=True).readable == 20
    assert before == stored(server)


def test_what_cannot_be_moved_is_left_and_named(server: Server) -> None:
    """Foreign keys, damage, and other kinds of values stay where they are, are counted, and stop nothing."""
    empty(server)
    other = generate_key()

    async def write() -> None:
        async with secure(server, redis_encryption_key=other) as cache:
            await cache.set("a", 1)

    asyncio.run(write())
    fill(server, list(requests(3)))
    plant(server, {"ai_cache:op:qa|txt:damaged": b"raw:\x80\x04no", "ai_cache:\xff\xfe": b"1", "ai_cache:op:qa|h:" + "0" * 32: b"raw:1"})
    with server.log_in() as operator:
        assert operator.ask(("LPUSH", "ai_cache:list", "x"), ("SET", b"ai_cache:\xff", b"1")) == [1, "OK"]  # type: ignore[arg-type]
    counts = migrate(server)
    key_id = KeyRing.from_strings([other]).primary.key_id.hex()
    assert counts.foreign == {key_id: 1}
    assert (counts.readable, counts.unreadable, counts.left) == (4, 5, 0)
    assert migrate(server, reverse=True).returned == 4


def env_file(server: Server, folder: Path, **changes: str) -> Path:
    """An app host's env file: it does not hold the janitor's password."""
    path = folder / "cache.env"
    values = {name.upper(): str(value) for name, value in server.settings.items()} | changes
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items() if value))
    return path


def command(server: Server, folder: Path, *more: str, janitor: bool = True, **changes: str) -> subprocess.Popen[str]:
    """`redkeep migrate-data`, begun."""
    line = [sys.executable, "-m", "redkeep.cli", "migrate-data", "--env-file", str(env_file(server, folder, **changes))]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    if janitor:
        variables["REDIS_JANITOR_PASSWORD"] = server.passwords["cache_janitor"]
    return subprocess.Popen([*line, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def test_killed_and_run_again(server: Server, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """SIGKILL in the middle loses no entry: the next run goes on where it was, and at its end all are hits."""
    empty(server)
    count = 20_000 if pytestconfig.getoption("--soak") else 5_000
    asked = list(requests(count))
    fill(server, asked)
    state = tmp_path / ".local" / "state" / "redkeep" / "migrate-data.json"
    running = command(server, tmp_path, "--rate", "1500")
    end = time.monotonic() + 30
    while (not state.exists() or not json.loads(state.read_text())["cursor"]) and time.monotonic() < end:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.kill()
    running.communicate()
    left = [name for name in stored(server) if "|h:" not in name]
    assert 0 < len(left) < count
    again = command(server, tmp_path, "--rate", "0", "--json")
    counts = json.loads(again.communicate(timeout=120)[0])
    assert again.returncode == 0
    assert len(left) <= counts["readable"] <= count
    assert counts["left"] == counts["unreadable"] == 0
    assert not state.exists()
    assert [each.answer for each in asked[::100]] == read(server, asked[::100])


def test_lost_connections_are_made_anew(server: Server) -> None:
    """A server that drops every client in the middle costs a moment, and no entry."""
    empty(server)
    asked = list(requests(400))
    fill(server, asked)

    async def work() -> Counts:
        run = asyncio.create_task(migration(server, rate=300).run())
        for _ in range(3):
            await asyncio.sleep(0.9)
            with server.log_in() as operator:
                operator.ask(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        return await run

    counts = asyncio.run(work())
    assert (counts.readable, counts.left) == (400, 0)
    assert [each.answer for each in asked[::10]] == read(server, asked[::10])


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    """The second run of the same state is refused with a sentence; runs with states of their own do no harm to each other."""
    empty(server)
    asked = list(requests(300))
    fill(server, asked)

    async def both() -> tuple[Counts, Counts]:
        first = migration(server, rate=200, state_file=tmp_path / "state")
        run = asyncio.create_task(first.run())
        await asyncio.sleep(0.3)
        with pytest.raises(ConfigurationError, match="another run is at work"):
            await migration(server, state_file=tmp_path / "state").run()
        return await migration(server).run(), await run

    one, other = asyncio.run(both())
    assert one.readable + other.readable == 300
    assert [each.answer for each in asked] == read(server, asked)


@pytest.mark.parametrize(
    ("more", "changes", "janitor", "says"),
    [
        ((), {}, False, "REDIS_JANITOR_PASSWORD is not set"),
        ((), {"REDIS_ENCRYPTION_KEY": ""}, True, "no encryption key to seal with; set REDIS_ENCRYPTION_KEY"),
        (("--rate", "-1"), {}, True, "must be a number of entries a second"),
        (("--state", "/nowhere/at/all"), {}, True, "cannot be kept at /nowhere/at/all: No such file"),
        ((), {"REDIS_URL": "rediss://127.0.0.1:1/0"}, True, "127.0.0.1:1: no connection"),
        ((), {"REDIS_CACHE_PASSWORD": generate_password()}, True, "the login of user cache_service was refused"),
    ],
)
def test_refusals(
    server: Server, tmp_path: Path, more: tuple[str, ...], changes: dict[str, str], janitor: bool, says: str
) -> None:
    """One sentence that names what is missing, and exit code 2; no secret in it."""
    run = command(server, tmp_path, *more, janitor=janitor, **changes)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 2, (out, err)
    assert says in err
    assert "Traceback" not in err
    assert not any(password in err + out for password in server.passwords.values())


def test_nowhere_to_keep_the_state(server: Server, tmp_path: Path) -> None:
    """A user without a home of his own is told to name a file; a dry run needs none."""
    (tmp_path / ".local").touch()
    run = command(server, tmp_path)
    assert "name a file with --state" in run.communicate(timeout=30)[1]
    assert run.returncode == 2
    run = command(server, tmp_path, "--dry-run")
    assert "would be sealed anew" in run.communicate(timeout=30)[0]


def test_the_summary_names_what_is_left(server: Server, tmp_path: Path) -> None:
    """Exit code 1, and a sentence a kind: how many, why, and what they are."""
    empty(server)
    fill(server, list(requests(3)))
    plant(server, {"ai_cache:op:qa|h:" + "0" * 32: b"\xc1\x01\x01" + b"k" * 60, "ai_cache:op:qa|txt:x": b"no json"})
    run = command(server, tmp_path)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 1, err
    assert "3 entries sealed anew: 3 readable ones, 0 of older keys" in out
    assert f"1 left as they are: sealed with key {(b'k' * 8).hex()}" in out
    assert "1 left as they are: nothing that this cache or the old class wrote" in out


def test_a_key_is_retired_when_nothing_needs_it(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """add, promote, migrate-data, retire: refused by the server's own count before the migration, done after it, nothing lost."""
    empty(server)
    folder = tmp_path / "secrets"
    store = SecretStore.open(folder, create=True)
    store.set_password("cache_janitor", server.passwords["cache_janitor"])
    (old,) = store.encryption_keys()
    asked = list(requests(10))

    async def write() -> None:
        async with secure(server, redis_encryption_key=old) as cache:
            for each in asked:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)

    asyncio.run(write())
    assert main(["keys", "add", "--secrets", str(folder)]) == main(["keys", "promote", "--secrets", str(folder)]) == 0
    new, _ = ring = SecretStore.open(folder).encryption_keys()
    settings = env_file(server, tmp_path, REDIS_ENCRYPTION_KEY="", REDIS_ENCRYPTION_KEYS=",".join(ring))
    retire = ["keys", "retire", "--secrets", str(folder), "--env-file", str(settings)]
    assert main(retire) == 2
    old_id = KeyRing.from_strings([old]).primary.key_id.hex()
    assert f"10 with {old_id}; run `redkeep migrate-data` first" in capsys.readouterr().err
    fill(server, list(requests(2)))
    run = command(server, tmp_path, "--count", REDIS_ENCRYPTION_KEY="", REDIS_ENCRYPTION_KEYS=",".join(ring))
    assert [line.split() for line in run.communicate(timeout=30)[0].splitlines()] == [
        ["10", "sealed", "with", f"{old_id},", "an", "older", "key"], ["2", "readable"],
    ]  # fmt: skip
    assert migrate(server, redis_encryption_key=None, redis_encryption_keys=",".join(ring)).older_key == 10
    assert main(retire) == 0
    assert SecretStore.open(folder).encryption_keys() == (new,)
    assert [each.answer for each in asked] == read(server, asked, redis_encryption_key=new)
