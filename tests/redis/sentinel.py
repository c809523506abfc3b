"""A real primary with a replica and a Sentinel on loopback: our users, mutual TLS everywhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redkeep.crypto.passwords import generate_password
from tests.redis.binary import redis_server
from tests.redis.server import Files, Server, free_port, start_server, wait_for_port

NAME = "cache"


@dataclass
class Watched:
    """The servers, the first is the primary to begin with; `settings` are those of the cache user, by the Sentinel."""

    servers: list[Server]
    port: int
    password: str

    @property
    def settings(self) -> dict[str, Any]:
        return {
            **self.servers[0].settings,
            "redis_client": "sentinel",
            "redis_sentinels": f"127.0.0.1:1,127.0.0.1:{self.port}",  # the first one is down
            "redis_sentinel_name": NAME,
            "redis_sentinel_password": self.password,
        }

    def primary(self) -> Server | None:
        """Who calls itself the primary, if one alone does."""
        found = []
        for server in self.servers:
            if server.process.poll() is None:
                with server.log_in() as operator:
                    (role,) = operator.ask(("ROLE",))
                found += [server] if role[0] == b"master" else []  # type: ignore[index]
        return found[0] if len(found) == 1 else None


@contextmanager
def watched(files: Files, folder: Path) -> Iterator[Watched]:
    """Up when the Sentinel knows the replica."""
    cert, key = files.pair("node", ["localhost", "127.0.0.1"], use="replication")
    tls = {"tls_replication": "yes", "repl_diskless_sync_delay": "0", "tls_cert_file": str(cert), "tls_key_file": str(key)}
    sentinel, servers = None, list[Server]()
    try:
        servers.append(start_server(files, folder / "first", **tls))
        passwords = servers[0].passwords
        login = {"masteruser": "replica", "masterauth": passwords["replica"]}
        following = {**login, "replicaof": f"127.0.0.1 {servers[0].port}"}
        servers.append(start_server(files, folder / "second", passwords=passwords, **tls, **following))
        with servers[0].log_in() as operator:  # for the day when it is the replica
            assert operator.ask(("CONFIG", "SET", "masteruser", "replica", "masterauth", passwords["replica"])) == ["OK"]
        port, password = free_port(), generate_password()
        (folder / "sentinel.conf").write_text(
            f"""port 0
tls-port {port}
bind 127.0.0.1
dir {folder}
logfile {folder}/log
requirepass {password}
tls-replication yes
tls-cert-file {cert}
tls-key-file {key}
tls-ca-cert-file {files.ca}
sentinel monitor {NAME} 127.0.0.1 {servers[0].port} 1
sentinel auth-user {NAME} sentinel
sentinel auth-pass {NAME} {passwords["sentinel"]}
sentinel down-after-milliseconds {NAME} 500
sentinel failover-timeout {NAME} 2000
"""
        )
        sentinel = subprocess.Popen([redis_server(), str(folder / "sentinel.conf"), "--sentinel"], stdout=subprocess.DEVNULL)
        wait_for_port(port, sentinel, folder / "log")
        end = time.monotonic() + 20
        while "+slave slave" not in (folder / "log").read_text():
            assert time.monotonic() < end, "the Sentinel does not find the replica"
            time.sleep(0.05)
        yield Watched(servers, port, password)
    finally:
        for process in (sentinel, *(server.process for server in servers)):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(10)
