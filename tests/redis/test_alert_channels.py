"""The alert channels against receivers that hang, lie, point elsewhere or refuse: one sentence, no secret, nothing held up."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from redkeep.monitoring import alert_mail
from redkeep.monitoring.alert_mail import MailChannel
from redkeep.monitoring.alert_settings import AlertSettings
from redkeep.monitoring.alert_webhook import WebhookChannel
from redkeep.monitoring.alerts import SimpleAlertManager
from redkeep.monitoring.events import SecurityMonitor
from tests.redis.receivers import MAIL_PASSWORD, MAIL_USER, Posts, mail_server, server_context, webhook
from tests.redis.server import Files, free_port
from tests.redis.watched import Channels, receivers, until, webhook_settings


def settings(**values: object) -> AlertSettings:
    return AlertSettings.read({name.upper(): str(value) for name, value in values.items()})


def tried(**values: object) -> dict[str, Any]:
    """What a test alert through the channels of these settings says."""
    return asyncio.run(SimpleAlertManager(settings=settings(**values)).send_test_alert())


@pytest.fixture
def hook(files: Files) -> Iterator[tuple[dict[str, object], Posts]]:
    """Settings of a webhook, and what it gets."""
    with webhook(files) as (url, posts):
        yield webhook_settings(files, url), posts


@pytest.fixture
def both(files: Files) -> Iterator[Channels]:
    """Settings of both channels, and what arrives."""
    with receivers(files) as there:
        yield there


def test_a_webhook_that_hangs(both: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up at its deadline and tried again; meanwhile the mail is out and the manager answers."""
    monkeypatch.setattr(WebhookChannel, "deadline_seconds", 0.3)
    monkeypatch.setattr("redkeep.monitoring.alerts.PAUSES", (0.01, 0.01))
    values, mails, posts = both
    over = threading.Event()
    posts.answer = lambda number: (over.wait(20), (200, {}))[1]

    async def run() -> list[Any]:
        monitor = SecurityMonitor()
        manager = SimpleAlertManager(monitor, settings=settings(**values))
        for _ in range(20):
            monitor.record("auth_attempt")
        await manager.check_and_send_alerts()
        assert [] == posts.taken == mails.taken
        assert await until(lambda: len(mails.taken) == 1)
        assert await until(lambda: monitor.count("alert_not_delivered") == 1)
        await manager.close()
        return [each for each in monitor.security_events if each.type == "alert_not_delivered"]

    (event,) = asyncio.run(run())
    over.set()
    assert (3, "not finished within 0.3 seconds") == (len(posts.taken), event.details["reason"])


def test_a_mail_server_that_is_down(both: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there: three tries, one event with the reason; the webhook has the alert, once."""
    monkeypatch.setattr("redkeep.monitoring.alerts.PAUSES", (0.01, 0.01))
    values, mails, posts = both
    values["security_alert_smtp_port"] = free_port()
    tries: list[int] = []
    deliver = MailChannel._deliver
    monkeypatch.setattr(MailChannel, "_deliver", lambda *arguments: (tries.append(1), deliver(*arguments))[1])

    async def run() -> list[Any]:
        monitor = SecurityMonitor()
        manager = SimpleAlertManager(monitor, settings=settings(**values))
        monitor.record("auth_attempt", count=20)
        await manager.check_and_send_alerts()
        assert await until(lambda: monitor.count("alert_not_delivered") == 1)
        await manager.close()
        return [each for each in monitor.security_events if each.type == "alert_not_delivered"]

    (event,) = asyncio.run(run())
    assert (3, 1, []) == (len(tries), len(posts.taken), mails.taken)
    assert ("email", "the mail server cannot be reached (ConnectionRefusedError)") == (event.details["channel"], event.details["reason"])


class Resolver:
    """Stands before the system's: what one name resolves to, another answer each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str], name: str = "localhost") -> None:
        self.asked = 0
        self._name = name
        self._answers = answers
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if host != self._name:
            return self._real(host, port, *arguments, **named)
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [row for address in answer for row in self._real(address, port, *arguments, **named)]


def test_a_name_that_changes_its_address(hook: tuple[dict[str, object], Posts], monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is asked for once, and the connection goes to the address that was looked at."""
    values, posts = hook
    values["security_alert_webhook_networks"] = "127.0.0.2/32"
    resolver = Resolver(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    assert "cannot be reached" in tried(**values)["webhook"]["detail"]
    assert (1, []) == (resolver.asked, posts.taken)
    values["security_alert_webhook_networks"] = "127.0.0.1/32"
    resolver = Resolver(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert tried(**values)["webhook"]["ok"]
    assert (1, 1) == (resolver.asked, len(posts.taken))


def test_one_private_address_among_several(hook: tuple[dict[str, object], Posts], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with an address that may be called and one that may not is not called at all."""
    values, posts = hook
    values["security_alert_webhook_networks"] = "127.0.0.1/32"
    Resolver(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    assert "not public" in tried(**values)["webhook"]["detail"]
    assert [] == posts.taken


def test_an_address_where_nobody_listens(hook: tuple[dict[str, object], Posts], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses, all of them looked at, the next is called when one refuses: `localhost` is ::1 first, and many a host has IPv6
    that leads nowhere."""
    values, posts = hook
    resolver = Resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert {"ok": True, "detail": ""} == tried(**values)["webhook"]
    assert (1, 1) == (resolver.asked, len(posts.taken))


def test_an_address_that_swallows_everything(hook: tuple[dict[str, object], Posts], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is called while there is time: nothing answers behind a full queue."""
    values, posts = hook
    port = urlsplit(str(values["security_alert_webhook"])).port
    monkeypatch.setattr("redkeep.monitoring.alert_webhook.CONNECT_SECONDS", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.2", port))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        Resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])
        assert tried(**values)["webhook"]["ok"]
    assert 1 == len(posts.taken)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(hook: tuple[dict[str, object], Posts], status: int) -> None:
    """Not to the cloud's metadata and not to the receiver itself: one request, and the remedy."""
    values, posts = hook
    posts.answer = lambda number: (status, {"Location": "/elsewhere" if status > 302 else "http://169.254.169.254/latest/meta-data/"})
    found = tried(**values)["webhook"]
    assert (False, 1) == (found["ok"], len(posts.taken))
    assert f"{status}, a redirect, which is not followed" in found["detail"]


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (403, 1), (404, 1), (408, 3), (425, 3), (429, 3), (500, 3), (503, 3)])
def test_only_what_may_pass_is_tried_again(
    hook: tuple[dict[str, object], Posts], status: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the receiver will refuse again is told at once; a fault of its own gets two more tries, and no fourth."""
    monkeypatch.setattr("redkeep.monitoring.alerts.PAUSES", (0.01, 0.01))
    values, posts = hook
    posts.answer = lambda number: (status, {})

    async def run() -> None:
        monitor = SecurityMonitor()
        manager = SimpleAlertManager(monitor, settings=settings(**values))
        for _ in range(20):
            monitor.record("auth_attempt")
        await manager.check_and_send_alerts()
        await manager.close()

    asyncio.run(run())
    assert tries == len(posts.taken)


@contextmanager
def talker(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does what it is told with each connection; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    try:
                        answer(peer)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "words",
    [b"", b"\r\n", b"SSH-2.0-x\r\n", b"HTTP/1.1 OK\r\n", b"HTTP/1.1 200", b"HTTP/1.1 " + b"9" * 40_000],
    ids=["nothing", "empty line", "ssh", "no number", "cut", "endless"],
)
def test_a_receiver_that_talks_nonsense(files: Files, words: bytes) -> None:
    """Whatever it answers: it cannot be reached, in one sentence without the URL."""
    context = server_context(files)

    def answer(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(65_536)
            tls.sendall(words)

    with talker(answer) as port:
        found = tried(**webhook_settings(files, f"https://localhost:{port}/t0ken"))["webhook"]
    assert not found["ok"]
    assert found["detail"].startswith("the webhook cannot be reached (")
    assert "t0ken" not in found["detail"]


def test_a_receiver_with_another_certificate(
    hook: tuple[dict[str, object], Posts], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of another CA, or for another name: nothing is sent."""
    values, posts = hook
    url = str(values["security_alert_webhook"])
    foreign = tried(**{**values, "security_alert_webhook_ca_file": files.folder / "foreign-ca.crt"})["webhook"]["detail"]
    Resolver(monkeypatch, ["127.0.0.1"], name="other.example")
    named = tried(**{**values, "security_alert_webhook": url.replace("localhost", "other.example")})["webhook"]["detail"]
    assert "certificate is not valid" in foreign
    assert "certificate is not valid" in named
    assert [] == posts.taken


def mail_settings(files: Files, port: int, **more: object) -> dict[str, object]:
    return {
        "security_alert_email": "ops@example.org", "security_alert_smtp_host": "localhost", "security_alert_smtp_port": port,
        "security_alert_smtp_ca_file": files.ca, **more,
    }  # fmt: skip


def smtp(*lines: bytes) -> Callable[[socket.socket], None]:
    """A mail server that greets, and answers what comes with `lines`, one after the other."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(b"220 here\r\n")
        for line in lines:
            if not peer.recv(4_096):
                return
            peer.sendall(line)
        peer.recv(4_096)

    return answer


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((b"250 here\r\n",), "offers no STARTTLS; nothing was sent"),
        ((b"250-here\r\n250 STARTTLS\r\n", b"454 not now\r\n"), "the mail server answered 454"),
        ((b"250-here\r\n250 STARTTLS\r\n", b"220 go\r\n", b"plain nonsense\r\n"), "cannot be reached"),
        ((b"\xff\xfe nonsense\r\n",), "offers no STARTTLS; nothing was sent"),
    ],
)
def test_a_mail_server_without_tls(files: Files, lines: tuple[bytes, ...], words: str) -> None:
    """It offers no STARTTLS (or somebody took it out on the way), refuses it, or answers nonsense: no mail, no password."""
    heard: list[bytes] = []

    def answer(peer: socket.socket) -> None:
        peer.sendall(b"220 here\r\n")
        for line in lines:
            heard.append(peer.recv(4_096))
            peer.sendall(line)
        heard.append(peer.recv(4_096))

    with talker(answer) as port:
        login = {"security_alert_smtp_username": "alerts", "security_alert_smtp_password": "q" * 20}
        found = tried(**mail_settings(files, port, **login))["email"]
    assert not found["ok"]
    assert words in found["detail"]
    assert not any(word in b"".join(heard) for word in (b"AUTH", b"MAIL FROM", b"q" * 20))


@pytest.mark.parametrize(("reply", "tries"), [(b"421 later\r\n", 3), (b"554 never\r\n", 1)])
def test_a_mail_server_that_may_take_it_later(files: Files, reply: bytes, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server says may pass (4yz, RFC 5321) is tried again, what it refuses for good is not."""
    monkeypatch.setattr("redkeep.monitoring.alerts.PAUSES", (0.01, 0.01))
    greeted: list[int] = []

    def answer(peer: socket.socket) -> None:
        greeted.append(1)
        peer.sendall(reply)

    async def run(port: int) -> None:
        monitor = SecurityMonitor()
        manager = SimpleAlertManager(monitor, settings=settings(**mail_settings(files, port)))
        monitor.record("auth_attempt", count=20)
        await manager.check_and_send_alerts()
        await manager.close()
        assert 1 == monitor.count("alert_not_delivered")

    with talker(answer) as port:
        asyncio.run(run(port))
    assert tries == len(greeted)


def test_a_mail_server_that_hangs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is cut at the deadline: its thread ends with it and does not wait for the server."""
    monkeypatch.setattr(MailChannel, "deadline_seconds", 0.3)
    released = threading.Event()

    def answer(peer: socket.socket) -> None:
        peer.sendall(b"220 here\r\n")
        released.wait(20)

    with talker(answer) as port:
        found = tried(**mail_settings(files, port))["email"]
        assert "not finished within 0.3 seconds" == found["detail"]
        end = time.monotonic() + 5
        while any(each.name == "redkeep-alert-mail" for each in threading.enumerate()) and time.monotonic() < end:
            time.sleep(0.01)
        assert not any(each.name == "redkeep-alert-mail" for each in threading.enumerate())
        released.set()


def test_mail_servers_that_refuse(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens; a certificate of another CA; recipients that are refused: one sentence each, with the setting."""
    assert "cannot be reached (ConnectionRefusedError)" in tried(**mail_settings(files, free_port()))["email"]["detail"]
    with mail_server(files, security="starttls") as (port, mails):
        foreign = mail_settings(files, port, security_alert_smtp_ca_file=files.folder / "foreign-ca.crt")
        assert "certificate is not valid" in tried(**foreign)["email"]["detail"]
        assert "the mail server answered 530" in tried(**mail_settings(files, port))["email"]["detail"]
        assert [] == mails.taken

        async def refuse(*_: Any) -> str:
            return "550 nobody here"

        monkeypatch.setattr(type(mails), "handle_RCPT", refuse, raising=False)
        login = {"security_alert_smtp_username": MAIL_USER, "security_alert_smtp_password": MAIL_PASSWORD}
        assert "refused the recipients; check SECURITY_ALERT_EMAIL" in tried(**mail_settings(files, port, **login))["email"]["detail"]
    assert alert_mail.STEP_SECONDS < MailChannel.deadline_seconds


def test_one_recipient_of_two_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is known has the mail, once; that somebody has none is said, and not tried again."""
    with mail_server(files, security="starttls") as (port, mails):

        async def refuse(handler: Any, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
            if address.startswith("gone"):
                return "550 nobody here"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        monkeypatch.setattr(type(mails), "handle_RCPT", refuse, raising=False)
        login = {"security_alert_smtp_username": MAIL_USER, "security_alert_smtp_password": MAIL_PASSWORD}
        two = mail_settings(files, port, **login, security_alert_email="ops@example.org, gone@example.org")
        found = tried(**two)["email"]
        assert (False, "the mail server refused 1 of 2 recipients; see SECURITY_ALERT_EMAIL") == (found["ok"], found["detail"])
        assert 1 == len(mails.taken)
