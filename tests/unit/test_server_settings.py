"""redis.conf as values, and as a real Redis understands it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploys.rendering import render
from deploys.server_settings import (
    CERTIFICATE_SETTINGS,
    FIXED_AT_START,
    NEVER_ASKED,
    SET_BY_THE_SERVICE,
    flatten,
    line,
    server_settings,
)
from redkeep.access.acl import acl_file, build_users
from redkeep.crypto.pki import Authority
from redkeep.monitoring.wire import Refusal, Wire
from tests.redis.binary import redis_server
from tests.redis.server import free_port, wait_for_port
from tests.unit.wanted import FakeCredentials, bundle

MEMORY = 2 * 1024**3


def settings(**knobs: Any) -> dict[str, str]:
    return flatten(server_settings(bundle(**knobs), addresses=("127.0.0.1", "::1"), memory_bytes=MEMORY, certificates="/tls"))


# What no knob may weaken.
ESSENTIALS = {
    "port": "0",
    "unixsocket": "",
    "tls-port": "6380",
    "tls-auth-clients": "yes",
    "tls-protocols": "TLSv1.3",
    "tls-prefer-server-ciphers": "yes",
    "tls-session-caching": "no",
    "protected-mode": "yes",
    "bind": "127.0.0.1 -::1",
    "aclfile": "/etc/redis/users.acl",
    "acllog-max-len": "1024",
    "acl-pubsub-default": "resetchannels",
    "enable-protected-configs": "no",
    "enable-debug-command": "no",
    "enable-module-command": "no",
    "maxclients": "1000",
    "timeout": "900",
    "tcp-keepalive": "60",
    "maxmemory": str(1024**3),
    "maxmemory-policy": "allkeys-lru",
    "maxmemory-clients": "10%",
    "proto-max-bulk-len": "16777216",
    "client-query-buffer-limit": "33554432",
    "crash-log-enabled": "no",
    "save": "",
    "appendonly": "no",
}


@pytest.mark.parametrize("name", ESSENTIALS)
def test_an_essential_is_set(name: str) -> None:
    """Each demand of the security document is a line of redis.conf, with the value demanded."""
    assert ESSENTIALS[name] == settings()[name]


@pytest.mark.parametrize("version", ["1.3", "1.2"])
def test_only_ciphers_with_forward_secrecy_and_authentication(version: str) -> None:
    """Both lists are explicit, in either mode: AEAD, and ephemeral ECDH before TLS 1.3."""
    made = settings(tls_minimum_version=version)
    assert [] == [name for name in made["tls-ciphers"].split(":") if not re.fullmatch(r"ECDHE-ECDSA-.*(GCM|POLY1305).*", name)]
    assert [] == [name for name in made["tls-ciphersuites"].split(":") if not re.search(r"_(GCM|POLY1305)_", name)]
    assert {"1.3": "TLSv1.3", "1.2": "TLSv1.2 TLSv1.3"}[version] == made["tls-protocols"]


def test_client_certificates_by_choice() -> None:
    """"required" refuses a client without one, "optional" still checks the one it shows; there is no "no"."""
    assert ["yes", "optional"] == [settings(tls_client_certificates=kind)["tls-auth-clients"] for kind in ("required", "optional")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("off", ("", "no")), ("rdb", ("3600 1 300 100 60 10000", "no")), ("aof", ("3600 1 300 100 60 10000", "yes"))],
)
def test_persistence_by_choice(kind: str, expected: tuple[str, str]) -> None:
    """A pure cache writes nothing; snapshots or the append-only file are chosen, and the latter flushed each second."""
    made = settings(redis_persistence=kind)
    assert (*expected, "everysec") == (made["save"], made["appendonly"], made["appendfsync"])


def test_limits_follow_their_knobs() -> None:
    """Buffers are sized by the largest value, memory by the host's."""
    made = settings(redis_max_value_bytes=2**20, redis_maxmemory="25%", redis_maxclients=50, redis_idle_timeout=0)
    assert (str(2**20), str(2**21), str(2**29), "50", "0") == tuple(
        made[name] for name in ("proto-max-bulk-len", "client-query-buffer-limit", "maxmemory", "maxclients", "timeout")
    )
    assert made["client-output-buffer-limit"].startswith(f"normal {2**22} {2**21} 60 ")


def test_no_setting_is_named_twice() -> None:
    """A name stands in one section only: the last would win silently."""
    sections = server_settings(bundle(), addresses=(), memory_bytes=MEMORY, certificates="")
    names = [name for section in sections for name in section.settings]
    assert sorted(set(names)) == sorted(names)


def test_every_section_says_why() -> None:
    """Each is explained by a sentence of one line."""
    sections = server_settings(bundle(), addresses=(), memory_bytes=MEMORY, certificates="")
    assert [] == [section.why for section in sections if not section.why.endswith(".") or "\n" in section.why]


def test_no_password_is_a_setting() -> None:
    """Secrets have their own files; none of the names that hold one is ever written or asked for."""
    assert not NEVER_ASKED & set(settings())
    assert not [name for name in settings() if re.search("pass|auth$|secret", name)]


def test_valkey_has_its_own_places() -> None:
    """No path of Redis is left with the other engine."""
    assert [] == [value for value in settings(redis_engine="valkey").values() if "redis" in value]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "0", "port 0"),
        ("save", "", 'save ""'),
        ("save", "3600 1 300 100", "save 3600 1 300 100"),
        ("bind", "127.0.0.1 ::1", "bind 127.0.0.1 ::1"),
        ("tls-protocols", "TLSv1.2 TLSv1.3", 'tls-protocols "TLSv1.2 TLSv1.3"'),
        ("client-output-buffer-limit", "a 4 2 60 b 2 1 60", "client-output-buffer-limit a 4 2 60\nclient-output-buffer-limit b 2 1 60"),
    ],
)
def test_a_line_of_the_file(name: str, value: str, expected: str) -> None:
    """Lists are directives of several words or several directives; other values with spaces are quoted."""
    assert expected == line(name, value)


class Running:
    """A real server started from the rendered files."""

    def __init__(self, folder: Path, port: int, wanted: dict[str, str], started: subprocess.Popen[bytes]) -> None:
        self.folder, self.port, self.wanted, self.process = folder, port, wanted, started

    def ask(self, *words: str) -> Any:
        """One command as the operator, over mutual TLS."""
        import ssl

        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        context.load_cert_chain(self.folder / "client.crt", self.folder / "client.key")
        with Wire("127.0.0.1", self.port, context=context, timeout=5.0) as wire:
            return wire.ask(("AUTH", "operator", "the operator's word"), words)[1]

    def config(self) -> dict[str, str]:
        flat = [word.decode() for word in self.ask("CONFIG", "GET", *self.wanted)]
        return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.fixture(scope="module", params=["default", "everything else"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server that a host would run, but for its folders, its port and staying in the foreground."""
    folder = tmp_path_factory.mktemp("redis")
    other = {
        **{"tls_minimum_version": "1.2", "tls_client_certificates": "optional", "redis_persistence": "aof"},
        **{"redis_maxmemory": "64mb", "redis_maxmemory_policy": "noeviction", "redis_log_level": "verbose", "redis_databases": 16},
    }
    made = server_settings(
        bundle(redis_tls_port=(port := free_port()), **(other if request.param != "default" else {})),
        addresses=("127.0.0.1",), memory_bytes=MEMORY, certificates=str(folder),
    )  # fmt: skip
    authority = Authority.create("redkeep test CA")
    (folder / "ca.crt").write_bytes(authority.cert_pem)
    for name, use in (("server", "server"), ("client", "client")):
        leaf = authority.issue(["127.0.0.1"] if use == "server" else [], use=use, days=9, common_name=name)  # type: ignore[arg-type]
        (folder / f"{name}.crt").write_bytes(leaf.cert_pem)
        (folder / f"{name}.key").write_bytes(leaf.key_pem)
    import hashlib

    hashes = FakeCredentials().hashes | {"operator": (hashlib.sha256(b"the operator's word").hexdigest(),)}
    (folder / "users.acl").write_text(acl_file(build_users(engine="redis", version=(7, 0), hashes=hashes)))
    here = {"dir": str(folder), "aclfile": f"{folder}/users.acl", "logfile": f"{folder}/log", "pidfile": f"{folder}/pid", "daemonize": "no"}
    text = render("etc/redis/redis.conf", sections=made, line=lambda name, value: line(name, here.get(name, value)))
    (folder / "redis.conf").write_bytes(text)
    process = subprocess.Popen([redis_server(), str(folder / "redis.conf")], cwd=folder)
    try:
        wait_for_port(port, process, folder / "log")
        yield Running(folder, port, flatten(made) | here, process)
    finally:
        process.terminate()
        process.wait(10)


def test_the_server_runs_exactly_what_is_written(running: Running) -> None:
    """CONFIG GET of a server started from the file shows the very text of every setting: a second deploy changes nothing."""
    assert running.wanted == running.config()


def test_the_server_found_nothing_to_warn_about(running: Running) -> None:
    """No line of the log complains about the configuration."""
    said = [text.partition(" # ")[2] for text in (running.folder / "log").read_text().splitlines() if " # " in text]
    expected = "oO0OoO0OoO0Oo|Redis version=|Configuration loaded|overcommit|Huge Page|somaxconn|TCP backlog|Server initialized|Error accepting"
    assert [] == [text for text in said if not re.search(expected, text)]


def test_what_is_fixed_at_start_is_exactly_what_cannot_be_set(running: Running) -> None:
    """Each setting takes its own value again by CONFIG SET, but those listed as fixed (and daemonize, the service's)."""
    refused = set()
    for name, value in running.wanted.items():
        if name not in CERTIFICATE_SETTINGS and isinstance(answer := running.ask("CONFIG", "SET", name, value), Refusal):
            assert re.search("immutable|protected", answer), answer
            refused.add(name)
    assert FIXED_AT_START | SET_BY_THE_SERVICE == refused


def test_the_certificate_is_set_by_one_command(running: Running) -> None:
    """The three files together are taken by the running server."""
    words = [word for name in CERTIFICATE_SETTINGS for word in (name, running.wanted[name])]
    assert "OK" == running.ask("CONFIG", "SET", *words)
