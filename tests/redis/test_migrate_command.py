"""`redkeep migrate-data` and `redkeep keys retire` as commands: what they refuse, and what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from redkeep.cli import main
from redkeep.crypto.keyring import KeyRing
from redkeep.crypto.passwords import generate_password
from redkeep.crypto.store import SecretStore
from tests.redis.caches import empty, plant, secure
from tests.redis.moving import command, env_file, migrate, read
from tests.redis.old_application import fill, requests
from tests.redis.server import Server


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
