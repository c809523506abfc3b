"""Twenty-three ways of weakening a live server: each turns its own line red, with the remedy that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from redkeep.access.acl import USERS
from redkeep.access.tls import client_context
from redkeep.crypto.keyring import generate_key
from redkeep.monitoring import probes
from redkeep.monitoring.control import Control
from redkeep.monitoring.posture import assess
from redkeep.monitoring.status import security_fields
from redkeep.monitoring.wire import Wire
from redkeep.target import Target
from tests.redis.server import Files, Server, free_port

Commands = tuple[tuple[str, ...], ...]


@pytest.fixture(scope="module")
def quiet_port() -> int:
    """A port where nothing is, unless a test opens one."""
    return free_port()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, quiet_port: int) -> None:
    """The machine's own Redis and its kernel settings are not what is tested."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", quiet_port)
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))


def target_of(server: Server, **changes: object) -> Target:
    return server.target(redis_monitor_password=server.passwords["monitor"], **changes)


def weak(target: Target) -> dict[str, Control]:
    return {control.name: control for control in assess(target).controls if control.state == "weak"}


def setuser(*rules: str) -> Commands:
    return (("ACL", "SETUSER", *rules),)


RESETS = "resets the users"
BY_COMMAND: dict[str, tuple[Commands, str, str]] = {
    "default opened to all": (setuser("default", "on", "nopass", "+@all", "~*"), "no login without password", RESETS),
    "default may something": (setuser("default", "+info"), "default user's rights", RESETS),
    "any password opens a user nobody made": (setuser("redkeep-probe", "on", "nopass"), "wrong password", RESETS),
    "a user nobody deployed": (setuser("eve", "on", "nopass", "+@all", "~*"), "unknown users", "ACL DELUSER"),
    "cache user may everything": (setuser("cache_service", "+@all"), "cache user's rights", RESETS),
    "cache user may see other keys": (setuser("cache_service", "~*"), "cache user's rights", RESETS),
    "cache user may scan": (setuser("cache_service", "+scan"), "cache user's rights", RESETS),
    "cache user cannot write": (setuser("cache_service", "-set"), "sealed round trip", RESETS),
    "any password opens the cache user": (setuser("cache_service", "nopass"), "login", RESETS),
    **{
        f"any password opens {user}": (setuser(user, "nopass"), "users' passwords", RESETS)
        for user in USERS
        if user not in ("cache_service", "default")
    },
    "cache user is off": (setuser("cache_service", "off"), "login", "deploy again"),
    "health user may read values": (setuser("health_service", "+get", "~*"), "users' rights", RESETS),
    "janitor may flush": (setuser("cache_janitor", "+flushall"), "users' rights", RESETS),
    "exporter may configure": (setuser("exporter", "+config"), "users' rights", RESETS),
    "monitor may kill": (setuser("monitor", "+client|kill"), "users' rights", RESETS),
    "operator may DEBUG": (setuser("operator", "+debug"), "dangerous commands", RESETS),
    "operator may load modules": (setuser("operator", "+module"), "dangerous commands", RESETS),
    "client certificates not demanded": ((("CONFIG", "SET", "tls-auth-clients", "optional"),), "mutual TLS", "tls-auth-clients yes"),
    "TLS 1.2 accepted": ((("CONFIG", "SET", "tls-protocols", "TLSv1.2 TLSv1.3"),), "TLS downgrade", "tls-protocols"),
}


@pytest.mark.parametrize("way", BY_COMMAND)
def test_weakened_by_a_command(start: Callable[..., Server], way: str) -> None:
    """A right or a setting too much, given to the running server: its line is red, the remedy is the right one."""
    commands, name, remedy = BY_COMMAND[way]
    server = start()
    target = target_of(server)
    assert {} == weak(target)
    with server.log_in() as operator:
        assert ["OK"] * len(commands) == operator.ask(*commands)
    found = weak(target)
    assert name in found
    assert remedy in found[name].remedy


def test_a_plaintext_port_opened(start: Callable[..., Server], quiet_port: int) -> None:
    """`CONFIG SET port`: the classic port speaks plaintext."""
    server = start()
    with server.log_in() as operator:
        assert ["OK"] == operator.ask(("CONFIG", "SET", "port", str(quiet_port)))
    assert "sets port 0" in weak(target_of(server))["plaintext port"].remedy


def test_a_stranger_connected(start: Callable[..., Server]) -> None:
    """A user that nobody deployed, logged in: the remedy ends the sessions too."""
    server = start()
    with server.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "eve", "on", "nopass", "+ping"))
    with Wire("127.0.0.1", server.port, context=client_context(server.target()), timeout=3.0) as wire:
        assert ["OK"] == wire.ask(("AUTH", "eve", "x"))
        found = weak(target_of(server))
    assert "eve" in found["connected users"].evidence
    assert "CLIENT KILL USER" in found["connected users"].remedy


def test_every_address_listened_on(start: Callable[..., Server]) -> None:
    """`CONFIG SET bind`: no allow-list was seen to keep others out, and the field of the network says so as well."""
    server = start()
    target = target_of(server)
    assert True is security_fields(assess(target))["network_isolated"]
    with server.log_in() as operator:
        assert ["OK"] == operator.ask(("CONFIG", "SET", "bind", "0.0.0.0"))
    posture = assess(target)
    assert ("weak", 1, False) == (posture.state, posture.exit_code, security_fields(posture)["network_isolated"])
    assert "redis_bind" in weak(target)["network reach"].remedy


@pytest.fixture
def short_lived(files: Files) -> tuple[Path, Path]:
    """A server certificate with three days left."""
    return files.pair("short-lived", ["127.0.0.1"], use="server", days=3)


def test_a_certificate_about_to_end(start: Callable[..., Server], short_lived: tuple[Path, Path]) -> None:
    """A certificate put in place that ends in three days."""
    server = start()
    cert, key = short_lived
    with server.log_in() as operator:
        assert ["OK"] == operator.ask(("CONFIG", "SET", "tls-cert-file", str(cert), "tls-key-file", str(key)))
    assert "renews certificates" in weak(target_of(server))["certificate expiry"].remedy


def test_values_not_sealed(start: Callable[..., Server]) -> None:
    """No encryption key on this host: values would lie readable, whatever else is configured."""
    server = start()
    assert "REDIS_ENCRYPTION_KEY" in weak(target_of(server, redis_encryption_key=None))["sealed round trip"].remedy
    assert "sealed round trip" not in weak(target_of(server, redis_encryption_key=generate_key()))
