"""Every user against every command on a real server, and what a whole-user SETUSER does to open connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redkeep.access.acl import acl_differences, acl_file, build_users, parse_acl_list, setuser_arguments
from redkeep.access.matrix import command_matrix
from redkeep.crypto.passwords import password_hash
from redkeep.monitoring.wire import Refusal, Wire
from tests.redis.server import Server, engine_and_version


@pytest.fixture
def operator(server: Server) -> Iterator[Wire]:
    with server.log_in() as wire:
        yield wire


def running(wire: Wire, server: Server) -> tuple[str, ...]:
    lines = [line.decode() for line in wire.ask(("ACL", "LIST"))[0]]  # type: ignore[attr-defined]
    return acl_differences(server.users, parse_acl_list(lines, version=server.version))


def test_matrix(operator: Wire) -> None:
    """ACL DRYRUN agrees with the table in all its cells, about a thousand."""
    cells = command_matrix()
    replies = operator.ask(*(("ACL", "DRYRUN", case.user, *case.line) for case in cells))
    answers = ["allowed" if r == "OK" else "denied" if b"no permissions" in bytes(r) else r for r in replies]  # type: ignore[call-overload]
    expected = ["allowed" if case.allowed else "denied" for case in cells]
    wrong = [(c.user, " ".join(c.line), e, a) for c, e, a in zip(cells, expected, answers, strict=True) if e != a]
    assert wrong == []


def test_users_from_the_file_are_the_wanted_ones(operator: Wire, server: Server) -> None:
    """A server started from our ACL file has no difference."""
    assert running(operator, server) == ()


def test_setuser_drops_nobody_and_changes_nothing(operator: Wire, server: Server) -> None:
    """Setting every user again keeps each open connection logged in and leaves no difference."""
    with server.log_in("cache_service") as cache:
        for user in server.users:
            assert operator.ask(("ACL", *setuser_arguments(user))) == ["OK"]
        assert cache.ask(("PING",)) == ["PONG"]
    assert running(operator, server) == ()


def test_drift_is_told_and_mended(operator: Wire, server: Server) -> None:
    """Changes by hand are named; the whole-user command and DELUSER mend them."""
    operator.ask(
        ("ACL", "SETUSER", "cache_service", "+flushall", "~*"),
        ("ACL", "SETUSER", "monitor", ">another-password-of-somebody"),
        ("ACL", "SETUSER", "replica", "+@all"),
        ("ACL", "SETUSER", "backup", "(+get ~x*)", "off"),
        ("ACL", "SETUSER", "default", "on", "nopass"),
        ("ACL", "SETUSER", "eve", "on", "nopass", "+@all"),
    )
    expected = {
        "user cache_service: rule +flushall is there but not wanted",
        "user cache_service: rule ~* is there but not wanted",
        "user cache_service: rule ~ai_cache:* is missing",
        "user monitor: password differs",
        "user replica: rule +@all is there but not wanted",
        "user backup: is off, wanted on",
        "user backup: rule (~x* resetchannels -@all +get) is there but not wanted",
        "user default: is on, wanted off",
        "user default: rule nopass is there but not wanted",
        "user eve: not wanted",
    }
    found = set(running(operator, server))
    operator.ask(*(("ACL", *setuser_arguments(user)) for user in server.users), ("ACL", "DELUSER", "eve"))
    assert expected == found
    assert running(operator, server) == ()


def test_saved_file_reads_back_the_same(operator: Wire, server: Server) -> None:
    """What ACL SAVE writes over our file is still no difference."""
    ours = (server.folder / "users.acl").read_text()
    assert operator.ask(("ACL", "SAVE")) == ["OK"]
    saved = (server.folder / "users.acl").read_text()
    (server.folder / "users.acl").write_text(ours)
    assert saved != ours == acl_file(server.users)
    assert acl_differences(server.users, parse_acl_list(saved.splitlines(), version=server.version)) == ()


def test_an_old_password_stops_working(operator: Wire, server: Server) -> None:
    """Mistake 32: after a new hash the old password is refused, because the command begins with reset."""
    hashes = {user.name: user.hashes for user in server.users if user.name != "default"}
    hashes["backup"] = (password_hash("a new one, long"),)
    changed = build_users(engine=engine_and_version()[0], version=server.version, hashes=hashes)
    operator.ask(*(("ACL", *setuser_arguments(user)) for user in changed if user.name == "backup"))
    (refusal,) = operator.ask(("AUTH", "backup", server.passwords["backup"]))
    operator.ask(("AUTH", "operator", server.passwords["operator"]))
    operator.ask(*(("ACL", *setuser_arguments(user)) for user in server.users if user.name == "backup"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "WRONGPASS"


@pytest.mark.parametrize(
    "line",
    [
        ("KEYS", "*"), ("SCAN", "0"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("GET", "other:k"),
        ("SET", "other:k", "v"), ("EVAL", "return 1", "0"), ("MONITOR",),
        ("GEORADIUS", "ai_cache:g", "0", "0", "1", "km", "STORE", "ai_cache:x", "STORE", "other:y"),
    ],
)
def test_cache_user_is_really_refused(server: Server, line: tuple[str, ...]) -> None:
    """Not only DRYRUN: the cache user itself gets NOPERM."""
    with server.log_in("cache_service") as wire:
        (reply,) = wire.ask(line)
    assert isinstance(reply, Refusal)
    assert reply.code == "NOPERM"


def test_cache_user_can_do_its_work(server: Server) -> None:
    """Write, read, expire and delete its own keys, also in a transaction."""
    with server.log_in("cache_service") as wire:
        replies = wire.ask(
            ("SET", "ai_cache:t", "v", "EX", "60"), ("GET", "ai_cache:t"), ("TTL", "ai_cache:t"), ("MULTI",),
            ("STRLEN", "ai_cache:t"), ("EXEC",), ("UNLINK", "ai_cache:t"), ("CLIENT", "SETNAME", "x"),
        )
    assert replies == ["OK", b"v", 60, "OK", "QUEUED", [1], 1, "OK"]


def test_broadcast_tracking_would_leak_names(server: Server, operator: Wire) -> None:
    """Why CLIENT TRACKING is off by default: its holder is told the key names of everybody, outside its own prefix."""
    hashes = {user.name: user.hashes for user in server.users if user.name != "default"}
    users = build_users(engine=engine_and_version()[0], version=server.version, hashes=hashes, client_tracking=True)
    operator.ask(*(("ACL", *setuser_arguments(user)) for user in users if user.name == "cache_service"))
    with server.log_in("cache_service") as wire:
        wire.ask(("CLIENT", "TRACKING", "on", "BCAST"))
        wire.socket.sendall(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")
        seen = wire.socket.recv(65536)
        operator.ask(("SET", "other:tenant", "1"), ("DEL", "other:tenant"))
        while b"invalidate" not in seen:
            seen += wire.socket.recv(65536)
    operator.ask(*(("ACL", *setuser_arguments(user)) for user in server.users if user.name == "cache_service"))
    assert b"other:tenant" in seen
