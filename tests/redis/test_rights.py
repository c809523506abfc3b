"""What each user of a live server may really do, and who is connected how: weak by name, and unknown when nobody can be asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from redkeep.access.acl import USERS
from redkeep.access.tls import client_context
from redkeep.monitoring.any_password import Tried
from redkeep.monitoring.control import Control
from redkeep.monitoring.rights import NAMES, probe_users
from redkeep.monitoring.wire import Wire
from redkeep.target import Target, build_target
from tests.redis.server import Server, free_port
from tests.redis.watched import speaker


def found(target: Target) -> dict[str, Control]:
    return {control.name: control for control in probe_users(target, timeout=3.0)}


def as_monitor(server: Server) -> Target:
    return server.target(redis_monitor_password=server.passwords["monitor"])


@pytest.mark.parametrize(
    ("rule", "name", "words"),
    [
        (("cache_service", "+@all", "~*"), "users' rights", "cache_service may run "),
        (("monitor", "+acl|setuser"), "users' rights", "monitor may run ACL SETUSER"),
        (("default", "on", "+get", "~*"), "default user's rights", "default may run GET"),
        (("exporter", "+monitor"), "dangerous commands", "exporter may run MONITOR"),
    ],
)
def test_a_right_too_many(start: Callable[..., Server], rule: tuple[str, ...], name: str, words: str) -> None:
    """Its own control is weak, with the user and the command; a long list is cut and says how long it is."""
    server = start()
    assert {"ok"} == {control.state for control in found(as_monitor(server)).values()}
    with server.log_in() as operator:
        assert ["OK"] == operator.ask(("ACL", "SETUSER", *rule))
    control = found(as_monitor(server))[name]
    assert ("weak", True) == (control.state, words in control.evidence)
    assert "deploy" in control.remedy
    assert ("more" in control.evidence) == ("+@all" in rule)


def test_who_is_connected(start: Callable[..., Server]) -> None:
    """Names that are not ours, five at most and harmless; a port that is not the TLS port; gone again with the client."""
    port = free_port()
    server = start(port=str(port))
    names = [f"\x1b[31mguest{number}" for number in range(6)]
    with server.log_in() as operator, ExitStack() as open_ones:
        for name in names:
            operator.ask(("ACL", "SETUSER", name, "on", "nopass", "+ping"))
            client = open_ones.enter_context(Wire("127.0.0.1", server.port, context=client_context(server.target()), timeout=3.0))
            assert ["OK"] == client.ask(("AUTH", name, "x"))
        plain = open_ones.enter_context(Wire("127.0.0.1", port, context=None, timeout=3.0))
        assert ["OK"] == plain.ask(("AUTH", "cache_service", server.passwords["cache_service"]))
        there = found(as_monitor(server))
        users, ports = there["connected users"], there["connected ports"]
        assert ("weak", 5) == (users.state, users.evidence.count(r"\x1b[31mguest"))
        assert users.evidence.isprintable()
        assert ("weak", f"clients also use port {port}") == (ports.state, ports.evidence)
        open_ones.close()
        for name in names:
            operator.ask(("CLIENT", "KILL", "USER", name), ("ACL", "DELUSER", name))
        assert {"ok"} == {control.state for control in found(as_monitor(server)).values()}


def test_who_else_there_is(start: Callable[..., Server]) -> None:
    """Users that wait unconnected: five at most and harmless; none once they are expected by the settings, or gone."""
    server = start()
    names = [f"\x1b[31mguest{number}" for number in range(6)]
    with server.log_in() as operator:
        operator.ask(*(("ACL", "SETUSER", name, "on", ">a password of its own", "+@all", "~*") for name in names))
        control = found(as_monitor(server))["unknown users"]
        assert ("weak", 5) == (control.state, control.evidence.count(r"\x1b[31mguest"))
        assert control.evidence.endswith(" and 1 more")
        assert control.evidence.isprintable()
        assert "SECURITY_MONITOR_USERS" in control.remedy
        assert {"ok"} == {control.state for control in probe_users(as_monitor(server), expected=names)}
        operator.ask(*(("ACL", "DELUSER", name) for name in names))
    assert "ok" == found(as_monitor(server))["unknown users"].state


def test_the_users_of_a_redis_of_ones_own(start: Callable[..., Server]) -> None:
    """Whom the cache logs in as is expected, whatever the name."""
    server = start()
    with server.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "shop", "on", f">{server.passwords['cache_service']}", "+ping"))
    target = server.target(redis_username="shop", redis_monitor_password=server.passwords["monitor"])
    assert "ok" == found(target)["unknown users"].state


def test_a_deployment_without_the_right(start: Callable[..., Server]) -> None:
    """One from before: unknown, with the command that grants it, and no refusal in ACL LOG."""
    server = start()
    with server.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "monitor", "-acl|users"), ("ACL", "LOG", "RESET"))
        control = found(as_monitor(server))["unknown users"]
        assert ("unknown", True) == (control.state, "make deploy" in control.remedy)
        assert [[]] == operator.ask(("ACL", "LOG"))


def test_any_password_opens_a_user(start: Callable[..., Server]) -> None:
    """The user is named, one of one's own too; who is switched off is not open; and the next ones are found after the first."""
    server = start()
    with server.log_in() as operator:
        rules = (("backup", "nopass"), ("operator", "nopass"), ("health_service", "nopass", "off"), ("shop", "on", "nopass", "+ping"))
        assert ["OK"] * 4 == operator.ask(*(("ACL", "SETUSER", *each) for each in rules))
        (control,) = (each for each in probe_users(as_monitor(server), expected=["shop"]) if each.name == "users' passwords")
        assert ("weak", "any password opens backup, operator, shop") == (control.state, control.evidence)
        assert "deploy again" in control.remedy


def test_passwords_are_tried_when_the_users_can_have_changed(start: Callable[..., Server]) -> None:
    """A process that asks again leaves no more lines in ACL LOG, until a user is set or ten minutes are over."""
    server, now = start(), [0.0]
    tried = Tried(clock=lambda: now[0])

    def ask() -> tuple[str, int]:
        with server.log_in() as operator:
            operator.ask(("ACL", "LOG", "RESET"))
            (control,) = (each for each in probe_users(as_monitor(server), tried=tried) if each.name == "users' passwords")
            (log,) = operator.ask(("ACL", "LOG", "100"))
        return control.state, len(log)  # type: ignore[arg-type]  # a list

    others = len(USERS) - 2
    assert [("ok", others), ("ok", 0)] == [ask(), ask()]
    with server.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "backup", "nopass"))
    assert [("weak", others - 1), ("weak", 0)] == [ask(), ask()]
    now[0] = 600.0
    assert [("weak", others - 1), ("weak", 0)] == [ask(), ask()]


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), "does not speak the Redis protocol"),
        ((b"-ERR max number of clients reached\r\n",), "the login of monitor was refused"),
        ((b"",), "could not be checked"),
    ],
)
def test_nobody_can_be_asked(replies: tuple[bytes, ...], words: str) -> None:
    """Something that is no Redis, a full one, an end without a word: all of them are unknown, with the reason, and none is green."""
    with speaker(*replies) as port:
        target = build_target(redis_url=f"redis://127.0.0.1:{port}/0", redis_monitor_password="monitor-" + "x" * 20)
        there = found(target)
    assert [(name, "unknown") for name in NAMES] == [(control.name, control.state) for control in there.values()]
    assert all(words in control.evidence for control in there.values())


def test_nobody_to_ask_as(server: Server) -> None:
    """Without the monitor's password one control says so."""
    (control,) = probe_users(server.target())
    assert ("not applicable", True) == (control.state, "monitor" in control.evidence)
