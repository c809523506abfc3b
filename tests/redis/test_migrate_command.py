"""`redkeep migrate-data` and `redkeep keys retire` as commands: what they refuse, and what they say."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.facts.survey import ServerState
from deploys.migration import sealed
from deploys.migration.passage import Passage
from deploys.migration.window import Window
from deploys.stages.wanted import CLI
from redkeep.cli import main
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.crypto.store import SecretStore
from redkeep.migration.census import take_census
from redkeep.migration.stages import STAGES
from tests.redis.caches import empty, plant, secure, stored
from tests.redis.moving import command, env_file, migrate, read
from tests.redis.old_application import fill, requests
from tests.redis.server import Server
from tests.unit.wanted import FakeCredentials, FakeSite, bundle, survey


@pytest.mark.parametrize(
    ("more", "changes", "janitor", "says"),
    [
        ((), {}, False, "REDIS_JANITOR_PASSWORD is not set"),
        ((), {"REDIS_ENCRYPTION_KEY": ""}, True, "no encryption key; set REDIS_ENCRYPTION_KEY"),
        (("--rate", "-1"), {}, True, "must be a number of entries a second"),
        (("--state", "/nowhere/at/all"), {}, True, "cannot be kept at /nowhere/at/all: No such file"),
        ((), {"REDIS_URL": "rediss://127.0.0.1:1/0"}, True, "127.0.0.1:1: cannot connect"),
        ((), {"REDIS_CACHE_PASSWORD": generate_password()}, True, "the login of user cache_service was refused"),
    ],
)
def test_refusals(
    server: Server, tmp_path: Path, more: tuple[str, ...], changes: dict[str, str], janitor: bool, says: str
) -> None:
    """One sentence that names what is missing, and exit code 2; no secret in it."""
    empty(server)  # entries of a test before, sealed with other keys, would be refused first
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
    assert "would be encrypted" in run.communicate(timeout=30)[0]


def test_the_summary_names_what_is_left(server: Server, tmp_path: Path) -> None:
    """Exit code 1, and a sentence a kind: how many, why, and what they are."""
    empty(server)
    fill(server, list(requests(3)))
    plant(server, {"ai_cache:op:qa|h:" + "0" * 32: b"\xc1\x01\x01" + b"k" * 60, "ai_cache:op:qa|txt:x": b"no json"})
    run = command(server, tmp_path, "--leave-unknown")
    out, err = run.communicate(timeout=30)
    assert run.returncode == 1, err
    assert "3 entries encrypted: 3 were readable, 0 had an older key" in out
    assert f"1 left as they are: encrypted with key {(b'k' * 8).hex()}" in out
    assert "1 left as they are: neither this cache nor the old class wrote them" in out


def test_an_interrupted_run_says_how_to_go_on(server: Server, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 and what to do next; the same command then does the rest."""
    empty(server)
    fill(server, list(requests(40)))
    run = command(server, tmp_path, "--rate", "4")
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(timeout=4)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, out) == (130, "")
    assert "interrupted; nothing is lost, and the same command continues" in err
    assert "Traceback" not in err
    again = command(server, tmp_path)
    assert again.communicate(timeout=30)[0]
    assert again.returncode == 0


@pytest.mark.parametrize("way", [(), ("--reverse",)], ids=["there", "back"])
def test_a_wrong_key_is_refused_before_anything_moves(server: Server, tmp_path: Path, way: tuple[str, ...]) -> None:
    """Entries sealed with a key that the settings lack: how many, which key and what to do, and every byte is as before. A dry run
    tells them, and with the key in the ring the same command goes on."""
    empty(server)
    lost, asked = generate_key(), list(requests(4))

    async def write() -> None:
        async with secure(server, redis_encryption_key=lost, redis_read_legacy=True) as cache:
            for each in asked[:3]:
                await cache.cache_response(each.text, each.operation, each.options, each.answer, each.question)

    asyncio.run(write())
    fill(server, asked[3:])
    before = stored(server)
    run = command(server, tmp_path, *way)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, out) == (2, "")
    key_id = KeyRing.from_strings([lost]).primary.key_id.hex()
    assert f"(at least 3 with key {key_id}); nothing was changed. Add that key at the end of REDIS_ENCRYPTION_KEYS" in err
    assert stored(server) == before
    assert f"3 left as they are: encrypted with key {key_id}" in command(server, tmp_path, *way, "--dry-run").communicate(timeout=30)[0]
    ring = f"{server.settings['redis_encryption_key']},{lost}"
    run = command(server, tmp_path, *way, REDIS_ENCRYPTION_KEY="", REDIS_ENCRYPTION_KEYS=ring)
    assert "3 entries restored to readable" in (out := run.communicate(timeout=30)[0]) or "1 were readable, 3 had an older key" in out
    assert run.returncode == 0


def test_a_look_ends_when_its_time_is_over(server: Server) -> None:
    """A sample of a large server, not all of it."""
    empty(server)
    plant(server, {f"ai_cache:op:qa|h:{number:032x}": b"\xc1\x01\x01" + b"k" * 60 for number in range(3000)})
    target = server.target(redis_janitor_password=server.passwords["cache_janitor"])
    found = asyncio.run(take_census(target, seconds=0.0)).sealed[(b"k" * 8).hex()]
    assert 0 < found < 3000


def test_a_deploy_looks_at_the_server_by_its_client(server: Server, tmp_path: Path) -> None:
    """What is sealed with a key that the secrets lack is told before the apps get theirs; a name that ends one command and begins
    another is not asked for, and a server that cannot be asked is no consent."""
    empty(server)
    plant(server, {f"ai_cache:op:qa|h:{number:032x}": b"\xc1\x01\x01" + b'k"\n\x00\\\xff7' + b"k" * 53 for number in range(5)})
    plant(server, {"ai_cache:op:qa|h:\nFLUSHALL": b"1", "ai_cache:op:qa|h:" + "f" * 32: b"raw:1", "ai_cache:op:x|txt:y": b"raw:1"})
    client = tmp_path / "redkeep-cli"
    tls = f"--tls --cacert {server.settings['redis_tls_ca_file']} --cert {server.settings['redis_tls_cert_file']}"
    client.write_text(
        f"#!/bin/sh\nexport REDISCLI_AUTH={server.passwords['operator']}\nexec redis-cli --user operator --no-auth-warning {tls} "
        f'--key {server.settings["redis_tls_key_file"]} -p {server.port} "$@"\n'
    )
    client.chmod(0o700)

    class Host(FakeSite):
        def run(self, command: str, *, stdin: str = "") -> tuple[bool, list[str], list[str]]:
            done = subprocess.run(["sh", "-c", command.replace(CLI, str(client))], capture_output=True, text=True, check=False)
            return done.returncode == 0, done.stdout.splitlines(), done.stderr.splitlines()

    key = generate_key()
    site = Host(bundle(), FakeCredentials(encryption_keys=(key,)))
    passage = Passage(site, "migrate", STAGES[3], 3, Window())  # type: ignore[arg-type]
    running = survey(server=ServerState(error="", config={"port": "0"}))
    key_id = b'k"\n\x00\\\xff7k'.hex()
    said = sealed.keys_are_known(passage, running)
    assert said.startswith(f"entries are encrypted with a key that is not in the key ring (at least 5 with key {key_id})")
    assert "bring back the secrets that have that key" in said
    assert len(stored(server)) == 8
    assert sealed.keys_are_known(replace(passage, leave_unknown=True), running) == ""
    empty(server)

    async def write() -> None:
        async with secure(server, redis_encryption_key=key) as cache:
            await cache.set("a", 1)

    asyncio.run(write())
    assert sealed.keys_are_known(passage, running) == ""
    client.write_text("#!/bin/sh\necho 'no connection' >&2; exit 1\n")
    assert "the encrypted entries on the server cannot be counted" in sealed.keys_are_known(passage, running)


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
        ["10", "encrypted", "with", f"{old_id},", "an", "older", "key"], ["2", "readable"],
    ]  # fmt: skip
    assert migrate(server, redis_encryption_key=None, redis_encryption_keys=",".join(ring)).older_key == 10
    assert main(retire) == 0
    assert SecretStore.open(folder).encryption_keys() == (new,)
    assert [each.answer for each in asked] == read(server, asked, redis_encryption_key=new)
