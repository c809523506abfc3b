"""Connections that send no whole request: they keep nobody out, and are cut in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from redkeep.api.connections import REQUEST_SECONDS
from redkeep.cli.serve import CONNECTIONS
from tests.api.service import Api

HEAD = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
BODY = b"POST /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\nx"


@contextlib.contextmanager
def opened(api: Api, begun: bytes, *, times: int = 1) -> Iterator[list[socket.socket]]:
    """Connections to the API that have sent `begun`."""
    parts = urlsplit(api.url)
    with contextlib.ExitStack() as closing:
        found = [closing.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=20)) for _ in range(times)]
        for each in found:
            each.sendall(begun)
        yield found


def ended(connection: socket.socket) -> float:
    """When the server cut it, by the monotonic clock; what it says before is read and thrown away."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4_096):
            continue
    return time.monotonic()


def test_half_requests_keep_nobody_out(api: Api) -> None:
    """More of them than the API has places: a new connection is served at once, again and again, and the oldest of them are cut."""
    for begun in (b"", HEAD, BODY):
        with opened(api, begun, times=CONNECTIONS + 20) as halves:
            began = time.monotonic()
            for _ in range(5):
                assert 200 == httpx.get(f"{api.url}/health/live", timeout=5).status_code
            assert time.monotonic() - began < REQUEST_SECONDS / 2
            assert ended(halves[0]) - began < REQUEST_SECONDS / 2


def test_a_request_has_its_seconds(api: Api) -> None:
    """Nothing, half a head, half a body, half a head after a whole request, halves that go on byte by byte: each is cut after them.
    A connection that sends one whole request after the other lives longer."""
    over, used = threading.Event(), set()
    with contextlib.ExitStack() as closing:
        client = closing.enter_context(httpx.Client())
        began = time.monotonic()
        halves = [closing.enter_context(opened(api, begun))[0] for begun in (b"", HEAD, BODY, HEAD + b"\r\n" + HEAD, HEAD, BODY)]

        def go_on() -> None:
            while not over.wait(0.5):
                used.add(client.get(f"{api.url}/health/live").extensions["network_stream"].get_extra_info("client_addr"))
                for dripping in halves[-2:]:
                    with contextlib.suppress(OSError):
                        dripping.sendall(b"X")

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            seconds = [ended(each) - began for each in halves]
            time.sleep(1)
        finally:
            over.set()
            thread.join()
    assert all(REQUEST_SECONDS - 1 < each < REQUEST_SECONDS + 4 for each in seconds), seconds
    assert 1 == len(used)
