"""One node watched through a real server's misfortunes: every refusal is counted once, whatever happens in between."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from redkeep import AuthenticationError, ServerUnavailableError
from redkeep.access.tls import client_context
from redkeep.monitoring.node import Look, Node
from redkeep.monitoring.wire import Wire
from redkeep.target import build_target
from tests.redis.server import Server, free_port
from tests.redis.watched import guess, speaker
from tests.unit.wanted import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def node_of(server: Server, clock: Clock | None = None) -> Node:
    return Node(server.target(redis_monitor_password=server.passwords["monitor"]), clock=clock or Clock())


def logins(look: Look | None) -> tuple[int, int]:
    """Refused logins of a look: those with a name, and those that the log had lost."""
    assert look is not None
    return sum(growth for denial, growth in look.denials if denial.reason == "auth"), look.unseen_logins


def test_a_log_shorter_than_the_attack(start: Callable[..., Server]) -> None:
    """More guesses between two looks than the log has entries: the names are lost, the number is not."""
    server = start(acllog_max_len="5")
    node = node_of(server)
    node.look()
    for number in range(40):
        guess(server, times=1, user=f"user{number}")
    named, unseen = logins(node.look())
    assert (5, 35) == (named, unseen)
    assert (0, 0) == logins(node.look())
    node.close()


def test_guesses_while_the_first_look_is_made(start: Callable[..., Server]) -> None:
    """Counter and log of the first look belong together: what comes in between is counted once, by the next."""
    server = start(acllog_max_len="1024")
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            guess(server, times=5)

    attacker = threading.Thread(target=attack)
    attacker.start()
    nodes = []
    for _ in range(20):
        nodes.append(node_of(server))
        nodes[-1].look()
    stop.set()
    attacker.join()
    for node in nodes:
        assert 0 == logins(node.look())[1]
        assert (0, 0) == logins(node.look())
        node.close()


def test_a_log_that_somebody_resets(start: Callable[..., Server]) -> None:
    """ACL LOG RESET and CONFIG RESETSTAT by an operator neither bring an old guess back nor hide a new one."""
    server = start()
    node = node_of(server)
    guess(server, times=3)
    assert (3, 0) == logins(node.look())
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
    assert (0, 0) == logins(node.look())
    guess(server, times=2)
    assert (2, 0) == logins(node.look())
    with server.log_in() as operator:
        operator.ask(("CONFIG", "RESETSTAT"))
    guess(server, times=1)
    assert (1, 0) == logins(node.look())
    assert (0, 0) == logins(node.look())
    node.close()


def test_a_server_that_starts_anew(start: Callable[..., Server]) -> None:
    """Its log and counters are empty: only what comes after is counted, also when our own process started anew as well."""
    server, clock = start(), Clock()
    node = node_of(server, clock)
    guess(server, times=3)
    assert (3, 0) == logins(node.look())
    saved = node.snapshot()
    server.stop()
    with pytest.raises(ServerUnavailableError):
        node.look()
    assert node.look() is None, "left alone for a while"
    server.start_again()
    guess(server, times=2)
    other = node_of(server, clock)
    other.restore(saved)
    clock.now += 60
    assert (2, 0) == logins(node.look())
    assert (2, 0) == logins(other.look())
    other.close()
    node.close()


class Cutter:
    """Stands between node and server, plaintext, and cuts the connection when the node says a certain word."""

    def __init__(self, port: int) -> None:
        self.at: bytes | None = None
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            with peer, socket.create_connection(("127.0.0.1", self._to)) as server:
                threading.Thread(target=self._back, args=(server, peer), daemon=True).start()
                while words := peer.recv(65_536):
                    if self.at and self.at in words:
                        self.at = None
                        break
                    server.sendall(words)
                server.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _back(server: socket.socket, peer: socket.socket) -> None:
        try:
            while words := server.recv(65_536):
                peer.sendall(words)
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.mark.parametrize("word", [b"INFO", b"LOG", b"LIST"])
def test_a_look_that_is_cut_off(start: Callable[..., Server], word: bytes) -> None:
    """Cut off at any of its questions, a look counts nothing, and the next one everything."""
    port = free_port()
    server, clock = start(tls_port="", port=str(port)), Clock()
    cutter = Cutter(port)
    target = build_target(redis_url=f"redis://127.0.0.1:{cutter.port}/0", redis_monitor_password=server.passwords["monitor"])
    node = Node(target, clock=clock)
    try:
        node.look()
        with Wire("127.0.0.1", port, context=None, timeout=3.0) as wire:
            for number in range(4):
                wire.ask(("AUTH", "cache_service", f"wrong-{number}"))
        clock.now += 60
        cutter.at = word
        with pytest.raises(ServerUnavailableError):
            node.look()
        clock.now += 60
        assert (4, 0) == logins(node.look())
    finally:
        node.close()
        cutter.close()


def test_a_password_that_is_refused(server: Server) -> None:
    """It is tried again only after a minute: our own guessing would look like an attack."""
    clock = Clock()
    node = Node(server.target(redis_monitor_password="another-" + "x" * 20), clock=clock)
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            node.look()
        clock.now += 59
        assert node.look() is None
        clock.now += 2


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ((b"+OK\r\n", b"$5\r\nhello\r\n"), "INFO has no run_id"),
        ((b"+OK\r\n", b"$x\r\n"), "the reply cannot be read"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "does not speak the Redis protocol"),
        ((b"+OK\r\n", b"$8\r\nrun_id:a\r\n", b"$8\r\nrun_id:a\r\n+OK\r\n"), "ACL LOG: the reply is not a list"),
    ],
)
def test_what_is_no_redis(replies: tuple[bytes, ...], words: str) -> None:
    """Whatever answers on the port, the node is unavailable, with what to look at."""
    with speaker(*replies) as port:
        node = Node(build_target(redis_url=f"redis://127.0.0.1:{port}/0", redis_monitor_password="monitor-" + "x" * 20))
        with pytest.raises(ServerUnavailableError, match=words):
            node.look()


@pytest.mark.parametrize("saved", [{}, {"run": "x", "counted": [1], "surplus": 0, "entries": []}, {"run": "", "counted": None, "surplus": None}])
def test_a_snapshot_of_something_else(server: Server, saved: dict[str, object]) -> None:
    """It is refused as one."""
    with pytest.raises(ValueError, match="no snapshot of a node"):
        node_of(server).restore(saved)


def test_what_the_server_says_to_nobody(server: Server) -> None:
    """A handshake without a certificate, plaintext on the TLS port, a command before any login: none of them is a refusal in the server's
    log, and docs/monitoring.md says so."""
    node = node_of(server)
    node.look()
    nameless = client_context(server.target(), client_certificate=False)
    with suppress(OSError), Wire("127.0.0.1", server.port, context=nameless, timeout=3.0) as wire:
        wire.ask(("PING",))
    with suppress(OSError, ServerUnavailableError), Wire("127.0.0.1", server.port, context=None, timeout=3.0) as wire:
        wire.ask(("PING",))
    with Wire("127.0.0.1", server.port, context=client_context(server.target()), timeout=3.0) as wire:
        assert str(wire.ask(("GET", "ai_cache:x"))[0]).startswith("NOAUTH")
    found = node.look()
    node.close()
    assert found
    assert ([], 0, 0) == (found.denials, found.unseen_logins, found.probes)
    text = (ROOT / "docs/monitoring.md").read_text().partition("## What cannot be seen")[2].partition("\n## ")[0]
    assert all(words in text for words in ("failed TLS handshake", "plaintext", "before a login", "protected mode"))
