"""The dashboard's way to the API over a real socket: no redirect, no proxy, TLS 1.3 alone, and one sentence for what goes wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from redkeep.dashboard.client import ApiAway, Client, SettingsWrong
from tests.unit.wanted import authority


class Answers:
    """What a server answers to everything, and how often and with which key it was asked."""

    def __init__(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.keys: list[str] = []


@contextmanager
def answering(answers: Answers, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A running server; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.keys.append(str(self.headers["X-API-Key"]))
            if not answers.status:
                return  # ends the connection without a word
            self.send_response(answers.status)
            for name, value in {"Content-Length": str(len(answers.body)), **answers.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answers.body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (Answers(302, Location="/elsewhere"), "answered 302 to /x; its log says why"),
        (Answers(401), "refuses this dashboard's key"),
        (Answers(429, Retry_After="7"), "asks for a pause of 7 s"),
        (Answers(500), "answered 500 to /x"),
        (Answers(200, b"<html>"), "is not Redkeep's API"),
        (Answers(0), "broke (RemoteProtocolError)"),
    ],
    ids=["redirect", "wrong key", "too many", "error", "no JSON", "cut"],
)
def test_what_is_no_answer(answers: Answers, said: str) -> None:
    """One sentence without the key, after one request: no redirect is followed."""
    with answering(answers) as port, pytest.raises(ApiAway) as caught:
        Client(f"http://127.0.0.1:{port}", "the-key").get("/x")
    assert said in str(caught.value)
    assert "the-key" not in str(caught.value)
    assert ["the-key"] == answers.keys


def test_after_no_answer_nobody_asks_for_a_while() -> None:
    """Each part of the page would wait for the same silence: the next question gets the same sentence at once."""
    answers = Answers(0)
    with answering(answers) as port:
        client = Client(f"http://127.0.0.1:{port}", "k")
        for _ in range(3):
            with pytest.raises(ApiAway, match="broke"):
                client.get("/x")
    assert 1 == len(answers.keys)


def test_a_silence_is_as_long_as_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test alert may take far longer than a question: the sentence has its own seconds."""
    monkeypatch.setattr("redkeep.dashboard.client.POST_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ApiAway, match=r"did not answer within 1 s\."):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "k").post("/x")


def test_no_proxy_sees_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY of the machine is not for this."""
    proxy, api = Answers(), Answers(200, b'{"a": 1}')
    with answering(proxy) as through, answering(api) as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{through}")
        assert {"a": 1} == Client(f"http://127.0.0.1:{port}", "k").get("/x")
    assert ([], ["k"]) == (proxy.keys, api.keys)


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of our CA, whose own is in `ca.crt`."""
    leaf = authority().issue(["127.0.0.1"], use="server", days=60, common_name="api")
    (tmp_path / "ca.crt").write_bytes(authority().cert_pem)
    (tmp_path / "api.pem").write_bytes(leaf.cert_pem + leaf.key_pem)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(tmp_path / "api.pem")
    return made


def test_tls(context: ssl.SSLContext, tmp_path: Path) -> None:
    """With the CA's file it works; without, the certificate is not trusted; and an older TLS is none."""
    with answering(Answers(), context) as port:
        url = f"https://127.0.0.1:{port}"
        assert {} == Client(url, "k", ca_file=tmp_path / "ca.crt").get("/x")
        with pytest.raises(ApiAway, match="certificate that is not trusted; set REDKEEP_API_CA_FILE"):
            Client(url, "k").get("/x")
        with pytest.raises(SettingsWrong, match="REDKEEP_API_CA_FILE"):
            Client(url, "k", ca_file=tmp_path / "nowhere")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    old, plain = Answers(), Answers()
    with answering(old, context) as port, answering(plain) as other:
        for each in (port, other):
            with pytest.raises(ApiAway, match=r"does not speak TLS 1\.3"):
                Client(f"https://127.0.0.1:{each}", "k", ca_file=tmp_path / "ca.crt").get("/x")
    assert ([], []) == (old.keys, plain.keys)


@pytest.mark.parametrize(("word", "fine"), [("true", True), ("True", True), ("false", False), ("", False), ("1", False)])
def test_plain_http_to_others_only_by_its_name(word: str, fine: bool) -> None:
    """REDKEEP_INSECURE_HTTP allows it with `true` alone."""
    variables = {"REDKEEP_API_URL": "http://api:8765", "REDKEEP_API_KEY": "k", "REDKEEP_INSECURE_HTTP": word}
    if fine:
        assert "http://api:8765" == Client.from_environment(variables).url
    else:
        with pytest.raises(SettingsWrong, match="plain http to another host"):
            Client.from_environment(variables)
