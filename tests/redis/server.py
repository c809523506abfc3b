"""A real Redis with TLS, mutual TLS and our users, on a free loopback port, in a folder of its own."""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from redkeep.access.acl import USERS, AclUser, Engine, acl_file, build_users
from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password, password_hash
from redkeep.crypto.pki import Authority
from redkeep.monitoring.wire import Wire
from redkeep.target import Target, build_target
from tests.redis.binary import redis_server


@dataclass(frozen=True)
class Files:
    """Certificates as files: ours, a foreign client's of another CA, and one server certificate a fault."""

    folder: Path
    authority: Authority

    def pair(self, name: str, names: list[str], *, use: str, days: int = 60) -> tuple[Path, Path]:
        """Issue a certificate and write it; returns the paths of certificate and key."""
        leaf = self.authority.issue(names, use=use, days=days, common_name=name)  # type: ignore[arg-type]
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(leaf.cert_pem)
        key.write_bytes(leaf.key_pem)
        key.chmod(0o600)
        return cert, key

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"


@dataclass
class Server:
    """A running redis-server and what a test needs to speak to it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    passwords: Mapping[str, str]
    users: tuple[AclUser, ...]
    settings: dict[str, object]
    version: tuple[int, int]
    plain_port: int = 0

    def target(self, **changes: object) -> Target:
        """The target of the cache user, with `changes` to the settings."""
        return build_target(**{**self.settings, **changes})  # type: ignore[arg-type]

    def log_in(self, user: str = "operator") -> Wire:
        """An open connection of one of our users; close it."""
        from redkeep.access.tls import client_context

        target = self.target()
        context = client_context(target) if target.tls else None
        wire = Wire("127.0.0.1", self.port, context=context, timeout=3.0)
        assert wire.ask(("AUTH", user, self.passwords[user])) == ["OK"]
        return wire

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def start_again(self) -> None:
        """After `stop`: on the same port, with the same settings and what it has saved."""
        self.process = subprocess.Popen([redis_server(), str(self.folder / "redis.conf")], stdout=subprocess.DEVNULL)
        wait_for_port(self.port or self.plain_port, self.process, self.folder / "log")


@functools.cache
def engine_and_version() -> tuple[Engine, tuple[int, int]]:
    """What the server is, by its own word: `Redis server v=7.0.15 ...`, `Valkey server v=8.1.1 ...`."""
    text = subprocess.run([redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)", text)
    assert found, text
    return ("valkey" if found[1] == "Valkey" else "redis"), (int(found[2]), int(found[3]))


def free_port() -> int:
    """A TCP port that was free on the loopback address a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def start_server(files: Files, folder: Path, *, passwords: Mapping[str, str] | None = None, **config: str) -> Server:
    """Start redis-server with our users, TLS 1.3 and mutual TLS; `config` replaces single settings ("" drops one)."""
    folder.mkdir(parents=True, exist_ok=True)
    passwords = passwords or {name: generate_password() for name in USERS if name != "default"}
    hashes = {name: (password_hash(secret),) for name, secret in passwords.items()}
    engine, version = engine_and_version()
    users = build_users(engine=engine, version=version, hashes=hashes)
    (folder / "users.acl").write_text(acl_file(users))
    cert, key = (files.folder / "server.crt", files.folder / "server.key")
    port = free_port()
    settings = {
        "port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": '""', "loglevel": "notice",
        "logfile": str(folder / "log"), "aclfile": str(folder / "users.acl"), "tls-cert-file": str(cert),
        "tls-key-file": str(key), "tls-ca-cert-file": str(files.ca), "tls-auth-clients": "yes",
        "tls-protocols": '"TLSv1.3"', "databases": "2", **{name.replace("_", "-"): value for name, value in config.items()},
    }
    (folder / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items() if value))
    process = subprocess.Popen([redis_server(), str(folder / "redis.conf")], stdout=subprocess.DEVNULL)
    wait_for_port(port if settings["tls-port"] else int(settings["port"]), process, folder / "log")
    tls = bool(settings["tls-port"])
    client_cert, client_key = files.folder / "cache_service.crt", files.folder / "cache_service.key"
    return Server(
        folder=folder, port=port, process=process, passwords=passwords, users=users, version=version,
        plain_port=int(settings["port"]),
        settings={
            "redis_url": f"redis{'s' if tls else ''}://127.0.0.1:{port if tls else settings['port']}/0",
            "redis_cache_password": passwords["cache_service"], "redis_encryption_key": generate_key(),
            "redis_tls_ca_file": files.ca, "redis_tls_cert_file": client_cert, "redis_tls_key_file": client_key,
        },
    )


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something listens, 5 s at most."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)
    pytest.fail(f"redis-server did not start: {log.read_text() if log.exists() else 'no log'}")
