"""Alerts by webhook: one POST of JSON, signed, to an address that was looked at after resolving and is the one connected to.

Against server-side request forgery: https only; every address the name resolves to must be public, or lie in a network that
was named; the connection goes to an address that was checked, so a name that resolves differently a moment later
(rebinding) changes nothing; and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from redkeep import __version__
from redkeep.errors import AlertError
from redkeep.monitoring.alert import Alert
from redkeep.monitoring.alert_settings import Network, Webhook

SIGNATURE: Final = "X-Redkeep-Signature"
CONNECT_SECONDS: Final = 3.0
"""For each address but the last, which has the rest of the deadline: a host's IPv6 may lead nowhere."""

_MAX_HEAD: Final = 16_384
_PASSING: Final = frozenset({408, 425, 429})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in IPv6 clothes."""

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookChannel:
    """One URL."""

    name = "webhook"
    deadline_seconds = 10.0

    def __init__(self, settings: Webhook, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch, for the signature."""
        self._settings = settings
        self._clock = clock
        parts = urlsplit(settings.url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._netloc = parts.netloc
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def send(self, alert: Alert) -> None:
        """POST it. Raises AlertError; the message never holds the URL, which can be a secret."""
        body = json.dumps({"text": slack_text(alert), **alert.as_dict()}).encode("ascii")
        try:
            status = await self._post(await self._addresses(), body)
        except ssl.SSLCertVerificationError as error:
            raise AlertError(f"the webhook's certificate is not valid ({error.verify_message})") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise AlertError(f"the webhook cannot be reached ({type(error).__name__})", again=True) from None
        if 300 <= status < 400:
            raise AlertError(f"the webhook answers {status}, a redirect, which is not followed; name the final URL")
        if not 200 <= status < 300:
            raise AlertError(f"the webhook answers {status}", again=status >= 500 or status in _PASSING)

    def headers(self, body: bytes) -> dict[str, str]:
        """The headers of the request; the signature is HMAC-SHA256 over "<seconds>.<body>", as `sign` makes it."""
        found = {
            "Host": self._netloc, "Content-Type": "application/json", "Content-Length": str(len(body)),
            "User-Agent": f"redkeep/{__version__}", "Accept": "*/*", "Connection": "close",
        }  # fmt: skip
        if self._settings.secret:
            found[SIGNATURE] = sign(self._settings.secret, body, seconds=int(self._clock()))
        return found

    async def _addresses(self) -> list[Ip]:
        loop = asyncio.get_running_loop()
        rows = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        found: list[Ip] = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
        if not found:
            raise OSError("no address")
        for address in found:
            if not may_call(address, self._settings.networks):
                raise AlertError(
                    "the webhook's name resolves to an address that is not public; if that is intended, add its network to "
                    "SECURITY_ALERT_WEBHOOK_NETWORKS"
                )
        return list(dict.fromkeys(found))

    async def _post(self, addresses: Sequence[Ip], body: bytes) -> int:
        options: dict[str, Any] = {}
        if self._tls:
            ca_file = self._settings.ca_file
            context = await asyncio.to_thread(ssl.create_default_context, cafile=str(ca_file) if ca_file else None)
            options = {"ssl": context, "server_hostname": self._host, "ssl_handshake_timeout": self.deadline_seconds}
        reader, writer = await self._connected(addresses, options)
        try:
            head = "".join(f"{name}: {value}\r\n" for name, value in self.headers(body).items())
            writer.write(f"POST {self._path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
            await writer.drain()
            line = await reader.readuntil(b"\r\n")
        finally:
            writer.transport.abort()
        version, _, rest = line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise ValueError("no HTTP")
        return int(rest[:3])

    async def _connected(self, addresses: Sequence[Ip], options: Mapping[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The first connection that comes about. A certificate that does not hold is an answer: no other address is asked."""
        *others, last = addresses
        for address in others:
            connecting = asyncio.open_connection(str(address), self._port, limit=_MAX_HEAD, **options)
            try:
                return await asyncio.wait_for(connecting, CONNECT_SECONDS)
            except ssl.SSLCertVerificationError:
                raise
            except OSError:  # of which TimeoutError is one
                continue
        return await asyncio.open_connection(str(last), self._port, limit=_MAX_HEAD, **options)


def may_call(address: Ip, networks: tuple[Network, ...]) -> bool:
    """Whether it is a public unicast address, or one of the networks that were named; IPv4 in IPv6 clothes is IPv4."""
    inner: Ip | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    looked = inner or address
    if any(looked in network for network in networks if network.version == looked.version):
        return True
    if isinstance(looked, ipaddress.IPv6Address) and looked.is_site_local:
        return False  # to Python it is global: RFC 3879 gives fec0::/10 out no longer, and sites that have it still route it
    return looked.is_global and not looked.is_multicast and not looked.is_reserved and not looked.is_unspecified


def sign(secret: str, body: bytes, *, seconds: int) -> str:
    """`t=<seconds>,v1=<hex>`: what a receiver computes again and compares; it should refuse times of long ago."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def slack_text(alert: Alert) -> str:
    """One line of text for chats: Slack's three control characters escaped, so that no name becomes a link or a mention."""
    mark = {"firing": "ALERT", "resolved": "resolved", "test": "test"}[alert.state]
    text = f"[redkeep] {mark}: {alert.title} on {alert.host}. {alert.message}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
