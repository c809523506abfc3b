"""The way in: what a good connection is like, and that each thing that can go wrong has its own error."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from redkeep.access.connection import classify, connect
from redkeep.access.tls import SharedContext, client_context
from redkeep.crypto.passwords import generate_password
from redkeep.crypto.pki import Authority
from redkeep.errors import (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    PermissionDeniedError,
    RedkeepError,
    ServerUnavailableError,
    TLSError,
)
from redkeep.settings import Settings
from redkeep.target import Target
from tests.redis.server import Files, Server, free_port


def error_of(target: Target, **options: float) -> RedkeepError:
    """The error of a connection that must fail; no secret may stand in it or in what caused it."""
    with pytest.raises(RedkeepError) as caught:
        asyncio.run(connect(target, **options))  # type: ignore[arg-type]
    error: BaseException | None = caught.value
    while error is not None:
        assert target.password is None or target.password not in str(error)
        error = error.__cause__ or error.__context__
    return caught.value


def test_connected_means_logged_in_over_tls(server: Server) -> None:
    """What `connect` hands out has spoken TLS 1.3, is logged in as the cache user, and stores bytes."""

    async def work() -> tuple[bytes | None, str, object]:
        client = await connect(Settings(**server.settings))
        try:
            await client.set("ai_cache:c", b"v", ex=5)
            connection = await client.connection_pool.get_connection()
            version = connection._writer.get_extra_info("ssl_object").version()
            await client.connection_pool.release(connection)
            return await client.get("ai_cache:c"), version, await client.client_id()
        finally:
            await client.aclose()

    value, version, identity = asyncio.run(work())
    assert value == b"v"
    assert version == "TLSv1.3"
    assert isinstance(identity, int)


def test_connecting_leaves_no_trace_in_acl_log(server: Server) -> None:
    """A good connection is refused nothing: no CLIENT or HELLO command of redis-py ends in the server's ACL LOG."""

    async def work() -> None:
        await (await connect(server.target())).aclose()

    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        asyncio.run(work())
        assert operator.ask(("ACL", "LOG")) == [[]]


def test_system_authorities_are_not_trusted(server: Server) -> None:
    """The context knows our CA and no other, demands a certificate, and checks the name."""
    context = client_context(server.target())
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert ssl.TLSVersion.TLSv1_3 == context.minimum_version


def test_one_context_for_all_connections(server: Server) -> None:
    """Connections share a context until a file changes; then the next one gets the new certificate."""
    shared = SharedContext(server.target())
    first = shared.get()
    assert first is shared.get()


def test_renewed_certificate_is_picked_up_and_a_broken_one_is_not(files: Files, server: Server, tmp_path: Path) -> None:
    """A renewal needs no restart; while certificate and key do not match, the context before is used."""
    cert, key = tmp_path / "c.crt", tmp_path / "c.key"
    shutil.copy(server.target().cert_file or "", cert)
    shutil.copy(server.target().key_file or "", key)
    shared = SharedContext(server.target(redis_tls_cert_file=cert, redis_tls_key_file=key))
    first = shared.get()
    new_cert, new_key = files.pair("renewed", [], use="client")
    cert.write_bytes(new_cert.read_bytes())
    assert first is shared.get()
    key.write_bytes(new_key.read_bytes())
    assert first is not shared.get()


def test_wrong_authority(server: Server, files: Files) -> None:
    """A server that our CA did not sign: TLSError, and the password was not sent."""
    error = error_of(server.target(redis_tls_ca_file=files.folder / "foreign-ca.crt"))
    assert TLSError is type(error)
    assert "certificate is not valid" in str(error)


def test_wrong_name(start: Callable[..., Server], files: Files) -> None:
    """A certificate of our CA for another name: TLSError."""
    cert, key = files.pair("other-name", ["db.example.org"], use="server")
    other = start(tls_cert_file=str(cert), tls_key_file=str(key))
    assert TLSError is type(error_of(other.target()))


def test_no_client_certificate(server: Server) -> None:
    """Mutual TLS without a certificate: TLSError, although the alert comes only after the handshake."""
    target = server.target(redis_tls_cert_file=None, redis_tls_key_file=None)
    assert {TLSError} == {type(error_of(target)) for _ in range(20)}


def test_foreign_client_certificate(server: Server, tmp_path: Path) -> None:
    """A client certificate of another CA is refused like none."""
    leaf = Authority.create("somebody else").issue([], use="client", common_name="cache_service")
    cert, key = tmp_path / "c.crt", tmp_path / "c.key"
    cert.write_bytes(leaf.cert_pem)
    key.write_bytes(leaf.key_pem)
    target = server.target(redis_tls_cert_file=cert, redis_tls_key_file=key)
    assert {TLSError} == {type(error_of(target)) for _ in range(20)}


def test_plaintext_server_is_no_tls(start: Callable[..., Server]) -> None:
    """TLS to a plaintext port gets no answer: an unavailable server, and never a login in clear."""
    plain = start(tls_port="", port=str(free_port()))
    target = plain.target(redis_url=f"rediss://127.0.0.1:{plain.plain_port}/0")
    assert type(error_of(target, timeout=0.4)) is ServerUnavailableError


def test_wrong_password(server: Server) -> None:
    """A refused login is an AuthenticationError, tried once: one line in ACL LOG, not the pattern of an attack."""
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        error = error_of(server.target(redis_cache_password=generate_password()))
        (log,) = operator.ask(("ACL", "LOG"))
    assert AuthenticationError is type(error)
    assert [dict(zip(entry[::2], entry[1::2], strict=True))[b"count"] for entry in log] == [1]  # type: ignore[attr-defined]


def test_unknown_user(server: Server) -> None:
    """An unknown user is refused like a wrong password."""
    assert AuthenticationError is type(error_of(server.target(redis_username="nobody")))


def test_no_password(server: Server) -> None:
    """A server that wants a login, and none configured."""
    assert AuthenticationError is type(error_of(server.target(redis_cache_password=None)))


def test_another_database_is_refused(server: Server) -> None:
    """The cache user has no SELECT: ACLs do not separate databases, so there is one."""
    error = error_of(server.target(redis_url=f"rediss://127.0.0.1:{server.port}/1"))
    assert PermissionDeniedError is type(error)


def test_refused_command(server: Server) -> None:
    """NOPERM of a later command is a PermissionDeniedError."""

    async def work() -> Exception:
        client = await connect(server.target())
        try:
            await client.get("other:key")
        except NoPermissionError as error:
            return classify(error, server.target())
        finally:
            await client.aclose()
        raise AssertionError("not refused")

    assert PermissionDeniedError is type(asyncio.run(work()))


def test_refused_port(server: Server) -> None:
    """Nothing listens: an unavailable server, not a failed login."""
    assert ServerUnavailableError is type(error_of(server.target(redis_url=f"rediss://127.0.0.1:{free_port()}/0")))


def test_unknown_name(server: Server) -> None:
    """A name that does not resolve (RFC 6761 keeps .invalid for it): an unavailable server."""
    error = error_of(server.target(redis_url="rediss://redis.invalid:6380/0"))
    assert ServerUnavailableError is type(error)
    assert "cannot be resolved" in str(error)


@contextmanager
def silent_peer(*, answer: bytes | None) -> Iterator[int]:
    """A port that takes a connection and says nothing, or sends `answer` and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept: list[socket.socket] = []

        def accept() -> None:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            kept.append(peer)
            if answer is not None:
                peer.recv(100)
                peer.sendall(answer)
                peer.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        for peer in kept:
            peer.close()


def test_half_open_peer(server: Server) -> None:
    """A peer that never answers: unavailable after the timeout."""
    with silent_peer(answer=None) as port:
        error = error_of(server.target(redis_url=f"rediss://127.0.0.1:{port}/0"), timeout=0.3)
    assert ServerUnavailableError is type(error)


def test_peer_that_talks_nonsense(server: Server) -> None:
    """A web server behind the port: TLSError."""
    with silent_peer(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = error_of(server.target(redis_url=f"rediss://127.0.0.1:{port}/0"), timeout=2.0)
    assert TLSError is type(error)


def test_unusable_files(server: Server, files: Files, tmp_path: Path) -> None:
    """A missing CA, a file that is no certificate, and a pair that does not match are told apart, by setting."""
    rubbish = tmp_path / "rubbish.crt"
    rubbish.write_text("nothing")
    cert, _ = files.pair("unmatched", [], use="client")
    cases = [
        ({"redis_tls_ca_file": None}, ConfigurationError, "REDIS_TLS_CA_FILE"),
        ({"redis_tls_ca_file": tmp_path / "absent.crt"}, ConfigurationError, "REDIS_TLS_CA_FILE"),
        ({"redis_tls_ca_file": rubbish}, CertificateError, "REDIS_TLS_CA_FILE"),
        ({"redis_tls_cert_file": tmp_path / "absent.crt"}, ConfigurationError, "REDIS_TLS_CERT_FILE"),
        ({"redis_tls_cert_file": cert}, CertificateError, "REDIS_TLS_CERT_FILE"),
    ]
    for changes, kind, named in cases:
        error = error_of(server.target(**changes))
        assert (kind, True) == (type(error), named in str(error))


def test_nothing_in_the_package_turns_verification_off() -> None:
    """CERT_NONE and an unchecked name occur nowhere in the code, dev mode or not."""
    package = Path(client_context.__code__.co_filename).parents[1]
    texts = [path.read_text() for path in package.rglob("*.py")]
    assert len(texts) > 10
    assert not any("ssl.CERT_NONE" in text or "check_hostname = False" in text for text in texts)


def test_environment_of_the_machine_is_not_trusted(server: Server, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE, which adds authorities to other programs, adds none here."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(files.ca))
    error = error_of(server.target(redis_tls_ca_file=files.folder / "foreign-ca.crt"))
    assert TLSError is type(error)
