"""From an address to a connection that is logged in: socket, TLS, HELLO 3, and the tracking that was asked for."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from redkeep.access.client import Command
from redkeep.access.failures import Peer, login_error, network_error
from redkeep.access.tls import SharedContext, alert_after_handshake
from redkeep.access.tracking import ARM
from redkeep.access.wire_protocol import Owner, WireProtocol
from redkeep.errors import ConfigurationError, RedkeepError, ServerUnavailableError
from redkeep.target import Target, read_target

logger = logging.getLogger(__name__)

Credentials = Callable[[], tuple[str | None, str | None]]
"""Returns user name and password; called at each connect, so that a rotated password needs no restart."""

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_WRITE_HIGH_WATER: Final = 256 * 1024


class Dialer:
    """Makes logged-in connections to one target."""

    def __init__(
        self,
        target: Target,
        *,
        contexts: SharedContext | None,
        credentials: Credentials | None,
        client_name: str,
        timeout: float,
        max_reply_bytes: int,
        max_reply_elements: int,
    ) -> None:
        self.peer = Peer(target.host, target.port, target.username or "default")
        self.credentials = credentials or credentials_of(target)
        self._target = target
        self._contexts = contexts
        self._client_name = client_name
        self._timeout = timeout
        self._most = {"max_reply_bytes": max_reply_bytes, "max_reply_elements": max_reply_elements}

    async def dial(self, owner: Owner, *, tracking: bool) -> tuple[WireProtocol, bool]:
        """A connection that answers, and whether the server tracks for it. Raises the leaves of our error tree."""
        wire: WireProtocol | None = None
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                context = self._contexts.get() if self._contexts else None
                sock = await _connect(loop, self.peer, seconds=self._timeout)
                try:
                    wire = made = WireProtocol(owner, loop, sock, context=context, **self._most)
                    commands = self._login(tracking=tracking)
                    answered = wire.begin_with(commands)
                    transport, _ = await loop.create_connection(lambda: made, sock=sock)
                except BaseException:
                    sock.close()
                    raise
                transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
                return wire, self._logged_in(wire, commands, await answered)
        except BaseException as error:
            if wire is not None:
                wire.abort(error)
            if not isinstance(error, OSError | RedkeepError):  # ssl.SSLError and TimeoutError are OSErrors
                raise
            ours = network_error(error, self.peer)
            broke_off = wire is not None and type(ours) is ServerUnavailableError and not isinstance(error, TimeoutError)
            if broke_off and self._contexts:
                alert = await asyncio.to_thread(_alert, self.peer, self._contexts, self._timeout)
                ours = network_error(alert, self.peer) if alert else ours
            raise ours from error

    def _login(self, *, tracking: bool) -> list[Command]:
        username, password = self.credentials()
        hello: list[str] = ["HELLO", "3"]
        if password:
            hello += ["AUTH", username or "default", password]
        commands: list[Command] = [(*hello, "SETNAME", self._client_name)]
        if self._target.address.database:
            commands.append(("SELECT", self._target.address.database))
        if tracking:
            commands.append(ARM)
        return commands

    def _logged_in(self, wire: WireProtocol, commands: list[Command], answers: list[Any]) -> bool:
        """Whether the server tracks for the connection. Raises what is wrong with the answers to the login."""
        hello = answers[0]
        if isinstance(hello, Exception):
            raise hello
        if not isinstance(hello, dict):
            raise login_error(self.peer)
        database = self._target.address.database
        if database and isinstance(answers[1], Exception):
            raise ConfigurationError(f"{self.peer}: database {database} is refused; use 0 in REDIS_URL, or grant SELECT")
        tracking = ARM in commands
        tracked = tracking and answers[-1] == b"OK"
        if tracking and not tracked:
            logger.warning("client_tracking_refused", extra={"peer": str(self.peer), "user": self.peer.user})
        if wire.over:
            raise ServerUnavailableError(f"{self.peer}: the connection ended during the login")
        return tracked


def credentials_of(target: Target) -> Credentials:
    """The target's own, read again from its env file where it has one."""

    def read() -> tuple[str | None, str | None]:
        if target.env_file is not None:
            try:
                now = read_target(target.env_file)
            except ConfigurationError:  # half written, or moved away: what worked before may still
                logger.warning("env_file_unusable", extra={"file": str(target.env_file)})
            else:
                return now.username, now.password
        return target.username, target.password

    return read


async def _connect(loop: asyncio.AbstractEventLoop, peer: Peer, *, seconds: float) -> socket.socket:
    """A socket to the first of the name's addresses that takes it. Each has its share of the time: a silent one does not use it up."""
    try:  # an address needs no resolver, and so no thread
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    error: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                with suppress(AttributeError, OSError):  # not on every system
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            async with asyncio.timeout(seconds / len(found)):
                await loop.sock_connect(sock, address)
        except OSError as failed:
            sock.close()
            error = failed
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


def _alert(peer: Peer, contexts: SharedContext, timeout: float) -> ssl.SSLError | None:
    """Why a connection broke off before its first reply: the server's TLS alert, when that is the reason."""
    try:
        with (
            socket.create_connection((peer.host, peer.port), timeout=timeout) as plain,
            contexts.get().wrap_socket(plain, server_hostname=peer.host) as connection,
        ):
            return alert_after_handshake(connection, timeout=min(timeout, 0.5))
    except (OSError, RedkeepError):
        return None
