"""Parts of the probes that need no Redis: the reply parser, plaintext detection, certificate dates, the sums."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from redkeep.cli.status import lines
from redkeep.cli.status_table import show
from redkeep.crypto.pki import Authority
from redkeep.errors import ServerUnavailableError
from redkeep.monitoring.certificates import certificate_end
from redkeep.monitoring.control import Control, State
from redkeep.monitoring.posture import Posture, _printable
from redkeep.monitoring.probes import _plaintext_here
from redkeep.monitoring.wire import Refusal, Wire


@contextmanager
def peer(*answers: bytes) -> Iterator[Wire]:
    """A connection to a peer that sends `answers` one by one, whatever it is asked, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                for answer in answers:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Wire("127.0.0.1", listening.getsockname()[1], context=None, timeout=2.0) as wire:
            yield wire
        thread.join(2)


def test_replies_in_pieces() -> None:
    """Every kind of reply is read, wherever the network cuts it."""
    stream = b"+OK\r\n-NOPERM no\r\n:7\r\n$5\r\na\r\nbc\r\n$-1\r\n*2\r\n$1\r\nx\r\n*0\r\n"
    with peer(*(stream[i : i + 1] for i in range(len(stream)))) as wire:
        replies = wire.ask(*[("X",)] * 6)
    assert replies == ["OK", "NOPERM no", 7, b"a\r\nbc", None, [b"x", []]]
    assert isinstance(replies[1], Refusal)
    assert replies[1].code == "NOPERM"


def test_peer_of_another_kind() -> None:
    """What is not Redis is said to be none."""
    with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as wire, pytest.raises(ServerUnavailableError):
        wire.ask(("PING",))


def test_endless_reply() -> None:
    """A reply without end is cut off, not collected."""
    with peer(b"$9999999\r\n" + b"x" * 1_200_000) as wire, pytest.raises(ServerUnavailableError):
        wire.ask(("PING",))


def test_reply_cut_in_the_middle() -> None:
    """A connection that ends inside a reply is an error, not half an answer."""
    with peer(b"$10\r\nabc") as wire, pytest.raises(ConnectionResetError):
        wire.ask(("PING",))


@pytest.mark.parametrize(
    ("answer", "state"),
    [(b"+PONG\r\n", "weak"), (b"-NOAUTH x\r\n", "weak"), (b"\x15\x03\x03\x00\x02\x02\x46", "ok"), (b"", "ok")],
)
def test_plaintext_on_the_tls_port(answer: bytes, state: str) -> None:
    """A reply in the Redis protocol is plaintext, also a refusal; a TLS alert or a closed connection is not."""
    with peer(*filter(None, [answer])) as wire:
        assert state == _plaintext_here(lambda context: wire).state


@pytest.mark.parametrize("days", [1, 13, 60, 89])
def test_certificate_end(days: int) -> None:
    """The end that is found in the bytes is the one the X.509 parser finds."""
    leaf = Authority.create("x").issue(["a.example", "10.0.0.1"], use="client", days=days)
    assert leaf.not_after.timestamp() == certificate_end(leaf.cert_pem.decode())


def test_certificate_end_after_2049() -> None:
    """RFC 5280 switches to GeneralizedTime in 2050."""
    made = Authority.create("x", days=365 * 30)
    end = certificate_end(made.cert_pem.decode())
    assert abs(end - (datetime.now(UTC) + timedelta(days=365 * 30)).timestamp()) < 600


def test_certificate_end_of_rubbish() -> None:
    """No certificate, no date."""
    with pytest.raises(ValueError, match=r"validity"):
        certificate_end("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("states", "state", "code", "summary"),
    [
        (["ok", "ok"], "ok", 0, "redkeep: 2 controls hold"),
        (["ok", "not applicable"], "ok", 0, "redkeep: 1 controls hold, 1 not applicable"),
        (["ok", "weak", "unknown"], "weak", 1, "redkeep: 1 controls hold, 1 weak, 1 unknown"),
        (["ok", "unknown"], "unknown", 3, "redkeep: 1 controls hold, 1 unknown"),
        (["not applicable"], "unknown", 3, "redkeep: 0 controls hold, 1 not applicable"),
        ([], "unknown", 3, "redkeep: 0 controls hold"),
    ],
)
def test_sum(states: list[State], state: str, code: int, summary: str) -> None:
    """Weak before unknown before ok; nothing that holds is not safety."""
    posture = Posture(tuple(Control("x", each, "") for each in states))
    assert (state, code, summary) == (posture.state, posture.exit_code, posture.summary)


def test_evidence_is_fit_for_a_terminal() -> None:
    """What a server says may hold escape codes and have no end; neither reaches the terminal."""
    control = _printable(Control("x", "weak", "\x1b[2J\nok  everything" + "x" * 500))
    assert control.evidence.isprintable()
    assert len(control.evidence) == 200


def test_lines() -> None:
    """Aligned; remedies under their line; what does not apply says why; no colour."""
    weak = Control("long name", "weak", "bad", "mend it")
    posture = Posture((Control("a", "ok", "fine"), weak, Control("c", "not applicable", "-")))
    plain = lines(posture).splitlines()
    assert plain[:3] == ["ok    a          fine", "WEAK  long name  bad", "                 -> mend it"]
    assert plain[3] == "-     c          -"
    assert len(plain) == 5


def test_table_on_a_terminal() -> None:
    """Grouped, each group named once; folded to the width and never cut; what looks like markup stays text."""
    controls = (
        Control("login", "ok", "answers to cache_service"), Control("env file", "weak", "[red]mode[/red] " + "long " * 30, "chmod 0640 it"),
        Control("wrong password", "unknown", "no answer in time"), Control("huge pages", "not applicable", "hidden"),
    )  # fmt: skip
    for width in (60, 120):
        screen = io.StringIO()
        show(Posture(controls), Console(file=screen, width=width, force_terminal=True, color_system="standard", highlight=False))
        bare = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
        assert all(len(line) <= width for line in bare.splitlines())
        assert [1, 1, 30, 1] == [bare.count(words) for words in ("login  ok", "[red]mode[/red]", "long", "-> chmod 0640 it")]
        assert "       ?     wrong password" in bare
        assert "redkeep: 1 controls hold, 1 weak, 1 unknown, 1 not applicable" in " ".join(bare.split())
        assert "\x1b[1;31mWEAK" in screen.getvalue()

