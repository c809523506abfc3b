"""What a posture says when a probe cannot run, or a server answers what no Redis should: never green, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from redkeep import ServerUnavailableError
from redkeep.crypto.keyring import generate_key
from redkeep.monitoring import probes, rights
from redkeep.monitoring.certificates import certificates
from redkeep.monitoring.control import Control
from redkeep.monitoring.node import Node
from redkeep.monitoring.posture import assess
from redkeep.monitoring.probes import REDEPLOY
from redkeep.monitoring.round_trip import sealed_round_trip
from redkeep.monitoring.wire import Wire
from redkeep.target import Target, build_target
from tests.redis.server import Files, Server, free_port
from tests.redis.watched import speaker

Commands = tuple[tuple[str, ...], ...]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own Redis and its kernel settings are not what is tested."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", free_port())
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))


def unknown(server: Server) -> dict[str, Control]:
    target = server.target(redis_monitor_password=server.passwords["monitor"])
    return {control.name: control for control in assess(target).controls if control.state == "unknown"}


@pytest.mark.parametrize(
    ("commands", "names", "words"),
    [
        ((("REPLICAOF", "127.0.0.1", "1"),), {"sealed round trip"}, "this server is a replica"),
        ((("CONFIG", "SET", "maxmemory", "1"),), {"sealed round trip"}, "the server is out of memory"),
        (
            (("ACL", "SETUSER", "monitor", "-acl|dryrun"),),
            {"users' rights", "default user's rights", "dangerous commands", "unknown users", "users' passwords"},
            "monitor may not run ACL DRYRUN",
        ),
        ((("ACL", "SETUSER", "monitor", "-acl|users"),), {"unknown users", "users' passwords"}, "monitor may not run ACL USERS"),
        ((("ACL", "SETUSER", "monitor", "-client|list"),), {"connected users", "connected ports"}, "monitor may not run CLIENT LIST"),
        (
            (("ACL", "SETUSER", "monitor", "off"),),
            set(rights.NAMES),
            "the login of monitor was refused",
        ),
    ],
)
def test_a_probe_that_cannot_run(start: Callable[..., Server], commands: Commands, names: set[str], words: str) -> None:
    """A replica, a full server, a monitor without its rights: just those controls are unknown, with the reason."""
    server = start()
    assert {} == unknown(server)
    with server.log_in() as operator:
        assert ["OK"] * len(commands) == operator.ask(*commands)
    found = unknown(server)
    assert names == set(found)
    assert {words} == {control.evidence.removeprefix("could not write: ") for control in found.values()}


def test_protected_mode_is_seen_where_it_acts() -> None:
    """What a server says to another host while `default` needs no password, by Redis 7.0.15: that is weak, and the rest is unknown, with the
    reason; the watcher's reason is the same."""
    with speaker(b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set.\r\n") as port:
        found = {control.name: control for control in probes.probe_server(TARGET._replace(address=TARGET.address._replace(port=port)))}
    assert ("weak", REDEPLOY) == (found["default user"].state, found["default user"].remedy)
    assert {"weak": 1, "unknown": len(found) - 1} == Counter(control.state for control in found.values())
    assert "protected mode refuses every connection" in found["no login without password"].evidence
    with speaker(b"-DENIED Redis is running in protected mode\r\n") as port, pytest.raises(ServerUnavailableError, match="protected mode"):
        Node(TARGET._replace(address=TARGET.address._replace(port=port))).look()


TARGET = build_target(redis_url="redis://127.0.0.1:1/0", redis_encryption_key=generate_key())


@pytest.mark.parametrize(
    ("replies", "state", "words"),
    [
        ((b"+OK\r\n", b"$-1\r\n:0\r\n"), "unknown", "the value disappeared"),
        ((b"+OK\r\n", b"$7\r\ngarbage\r\n:1\r\n"), "weak", "the value read back does not decrypt"),
        ((b"+QUEUED\r\n",), "weak", "the cache user cannot write its own keys"),
        ((b"-NOPERM no\r\n",), "weak", "the cache user cannot write its own keys: NOPERM no"),
        ((b"-LOADING wait\r\n",), "unknown", "the server is still loading"),
        ((b"-MOVED 1 a:1\r\n",) * 48, "unknown", "no key that belongs to this cluster node was found"),
    ],
)
def test_a_round_trip_that_goes_wrong(replies: tuple[bytes, ...], state: str, words: str) -> None:
    """What a server may answer to a write and its reading, and what it means."""
    with speaker(*replies) as port, Wire("127.0.0.1", port, context=None, timeout=3.0) as wire:
        control = sealed_round_trip(wire, TARGET)
    assert (state, True) == (control.state, words in control.evidence)


def test_a_round_trip_without_a_key() -> None:
    """Nothing is written, and the remedy is the key."""
    with speaker() as port, Wire("127.0.0.1", port, context=None, timeout=3.0) as wire:
        control = sealed_round_trip(wire, build_target(redis_url="redis://127.0.0.1:1/0"))
    assert ("weak", "set REDIS_ENCRYPTION_KEY") == (control.state, control.remedy)


def test_a_cluster_node_that_owns_a_later_key() -> None:
    """Random keys are tried until the node owns one."""
    replies = (b"-MOVED 1 a:1\r\n", b"-MOVED 2 a:1\r\n", b"+OK\r\n", b"$-1\r\n:0\r\n")
    with speaker(*replies) as port, Wire("127.0.0.1", port, context=None, timeout=3.0) as wire:
        assert "the value disappeared" in sealed_round_trip(wire, TARGET).evidence


def test_certificates_that_cannot_be_told(files: Files, server: Server) -> None:
    """Without TLS, with nobody there, with a foreign CA: none, and no exception."""
    away = server.target(redis_url=f"rediss://127.0.0.1:{free_port()}/0")
    foreign = server.target(redis_tls_ca_file=files.folder / "foreign-ca.crt")
    targets: list[Target] = [TARGET, away, foreign]
    assert [[], [], []] == [certificates({"node": each}, timeout=1.0) for each in targets]


def test_a_certificate_near_its_end(start: Callable[..., Server], files: Files, tmp_path: Path) -> None:
    """Thirteen days left: its line is weak, and so is the control, with whose certificate it is."""
    cert, key = files.pair("ending", ["localhost", "127.0.0.1"], use="server", days=13)
    server = start(tls_cert_file=str(cert), tls_key_file=str(key))
    target = server.target()
    rows = {each["whose"]: each for each in certificates({"node": target}, timeout=3.0)}
    assert ("weak", "ok") == (rows["server"]["state"], rows["client"]["state"])
    (control,) = [each for each in assess(target).controls if each.name == "certificate expiry"]
    assert ("weak", True) == (control.state, control.evidence.startswith("the server certificate expires first"))
