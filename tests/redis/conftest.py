"""A real Redis for the tests of this folder: one for the session, and more on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redkeep.access.acl import build_users, setuser_arguments
from redkeep.crypto.passwords import password_hash
from redkeep.crypto.pki import Authority
from tests.redis.cluster import Cluster, cluster_of
from tests.redis.server import Files, Server, engine_and_version, free_port, start_server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own variables reach no test."""
    ours = ("REDIS_URL", "REDIS_TLS_ENABLED", "REDIS_ENCRYPTION_KEY", "REDIS_TLS_CA_FILE", "ENVIRONMENT")
    for name in (*ours, "REDIS_JANITOR_PASSWORD", "REDIS_JANITOR_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Our CA with a server certificate for the loopback addresses and a client certificate, and a foreign CA."""
    folder = tmp_path_factory.mktemp("tls")
    made = Files(folder, Authority.create("redkeep test CA"))
    made.ca.write_bytes(made.authority.cert_pem)
    made.pair("server", ["localhost", "127.0.0.1"], use="server")
    made.pair("cache_service", [], use="client")
    (folder / "foreign-ca.crt").write_bytes(Authority.create("somebody else").cert_pem)
    return made


@pytest.fixture(scope="session")
def server(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One hardened server for the whole session; tests leave it as they found it."""
    started = start_server(files, tmp_path_factory.mktemp("redis"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def open_server(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The Redis of the old template: plaintext, no users, no password."""
    started = start_server(files, tmp_path_factory.mktemp("open"), tls_port="", port=str(free_port()), aclfile="")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def cluster(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers of a Cluster for the whole session; a test empties it."""
    with cluster_of(files, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def start(files: Files, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start more servers, each with settings of its own; all are stopped after the test."""
    running: list[Server] = []

    def begin(**config: str) -> Server:
        running.append(start_server(files, tmp_path / f"server{len(running)}", **config))
        return running[-1]

    yield begin
    for each in running:
        each.stop()


@pytest.fixture
def tracked(server: Server) -> Iterator[Server]:
    """The server while its cache user has `client|tracking`, as `build_users(client_tracking=True)` grants it."""
    engine, version = engine_and_version()
    hashes = {name: (password_hash(secret),) for name, secret in server.passwords.items()}

    def grant(on: bool) -> None:
        users = build_users(engine=engine, version=version, hashes=hashes, client_tracking=on)
        (cache,) = (user for user in users if user.name == "cache_service")
        with server.log_in() as operator:
            assert operator.ask(("ACL", *setuser_arguments(cache))) == ["OK"]

    grant(True)
    yield server
    grant(False)
