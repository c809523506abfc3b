"""The servers of the benchmark: without security, with a password, with a password and TLS, and as Redkeep sets them up."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from redkeep.access.acl import USERS, Engine, acl_file, build_users
from redkeep.crypto.passwords import generate_password, password_hash
from redkeep.crypto.pki import Authority
from redkeep.errors import ConfigurationError

HOST: Final = "127.0.0.1"
_BINARIES: Final = ("redis-server", "valkey-server")
_START_SECONDS: Final = 5.0

Kind = Literal["plain", "password", "tls", "full"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "password", "tls", "full")


class Server(NamedTuple):
    """One running server: where it is, how to log in, and the files of TLS."""

    kind: Kind
    port: int
    password: str | None
    folder: Path
    users: Mapping[str, str]
    """Passwords by user; only of the full one."""

    @property
    def ca(self) -> Path:
        """Our CA's certificate."""
        return self.folder / "ca.crt"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the cache on the full server, without its encryption key."""
        return {
            "redis_url": f"rediss://{HOST}:{self.port}/0", "redis_cache_password": self.users["cache_service"],
            "redis_tls_ca_file": self.ca, "redis_tls_cert_file": self.folder / "client.crt",
            "redis_tls_key_file": self.folder / "client.key",
        }


def server_binary() -> str:
    """The server's program. Raises ConfigurationError when there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin"])
    for name in _BINARIES:
        if found := shutil.which(name, path=path):
            return found
    raise ConfigurationError("the benchmark needs redis-server or valkey-server on this machine; install the package redis-server")


@contextmanager
def servers(folder: Path) -> Iterator[dict[Kind, Server]]:
    """All four on free loopback ports, with their files in `folder`; they end with the block. Raises ConfigurationError."""
    binary = server_binary()
    authority = Authority.create("redkeep benchmark CA")
    (folder / "ca.crt").write_bytes(authority.cert_pem)
    for name, names, use in (("server", ["localhost", HOST], "server"), ("client", [], "client")):
        leaf = authority.issue(names, use=use, days=2, common_name=name)  # type: ignore[arg-type]  # two literals
        (folder / f"{name}.crt").write_bytes(leaf.cert_pem)
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_bytes(leaf.key_pem)
    with ExitStack() as stack:
        yield {kind: stack.enter_context(_running(binary, folder, kind)) for kind in KINDS}


@contextmanager
def _running(binary: str, folder: Path, kind: Kind) -> Iterator[Server]:
    own = folder / kind
    own.mkdir()
    with socket.create_server((HOST, 0)) as listening:
        port = int(listening.getsockname()[1])
    password = generate_password() if kind in ("password", "tls") else None
    users = {name: generate_password() for name in USERS if name != "default"} if kind == "full" else {}
    settings = {"bind": HOST, "port": str(port), "dir": str(own), "save": '""', "logfile": str(own / "log")}
    if password is not None:
        settings["requirepass"] = password
    if kind in ("tls", "full"):
        settings |= {
            "port": "0", "tls-port": str(port), "tls-cert-file": str(folder / "server.crt"), "tls-protocols": '"TLSv1.3"',
            "tls-key-file": str(folder / "server.key"), "tls-ca-cert-file": str(folder / "ca.crt"),
            "tls-auth-clients": "yes" if kind == "full" else "no",
        }
    if kind == "full":
        engine, version = _engine(binary)
        hashes = {name: (password_hash(secret),) for name, secret in users.items()}
        made = build_users(engine=engine, version=version, hashes=hashes, client_tracking=True)  # one variant asks for it
        (own / "users.acl").write_text(acl_file(made))
        settings["aclfile"] = str(own / "users.acl")
    (own / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    process = subprocess.Popen(
        [binary, str(own / "redis.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port, process)
        yield Server(kind, port, password, folder, users)
    finally:
        process.terminate()
        process.wait(10)


def _engine(binary: str) -> tuple[Engine, tuple[int, int]]:
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)", text)
    if found is None:
        raise ConfigurationError(f"{Path(binary).name} does not print its version; use Redis or Valkey")
    return ("valkey" if found[1] == "Valkey" else "redis"), (int(found[2]), int(found[3]))


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise ConfigurationError("the benchmark's server did not start; was it built with TLS?")
