"""Where alerts arrive in tests: a mail server that demands STARTTLS or TLS and a login, and an HTTPS receiver."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.redis.server import Files, free_port

MAIL_USER = "alerts"
MAIL_PASSWORD = "mail-" + "x" * 20  # pragma: allowlist secret - for the receiver of these tests


class Mails:
    """What a mail server took."""

    def __init__(self) -> None:
        self.taken: list[Message] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        assert server.transport.get_extra_info("ssl_object") is not None
        assert session.authenticated
        self.taken.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


def _login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (MAIL_USER.encode(), MAIL_PASSWORD.encode())
    return AuthResult(success=good, handled=False)


def server_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.folder / "server.crt", files.folder / "server.key")
    return context


@contextmanager
def mail_server(files: Files, *, security: str) -> Iterator[tuple[int, Mails]]:
    """A running one; yields its port and what it takes."""
    mails, port = Mails(), free_port()
    options: dict[str, Any] = {"authenticator": _login, "auth_required": True}
    if security == "tls":
        options |= {"ssl_context": server_context(files), "auth_require_tls": False}
    else:
        options |= {"tls_context": server_context(files), "require_starttls": True}
    controller = Controller(mails, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port, mails
    finally:
        controller.stop()


class Posts:
    """What a receiver got: body and headers; `answer` gives status and headers of the next reply, and may sleep."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, dict[str, str]]] = []
        self.answer: Callable[[int], tuple[int, dict[str, str]]] = lambda number: (200, {})

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.taken]


@contextmanager
def webhook(files: Files) -> Iterator[tuple[str, Posts]]:
    """A running HTTPS receiver; yields its URL and what it gets."""
    posts = Posts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.taken.append((body, dict(self.headers)))
            status, headers = posts.answer(len(posts.taken))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = server_context(files).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}/hook?token=t0ken", posts
    finally:
        server.shutdown()
        server.server_close()
