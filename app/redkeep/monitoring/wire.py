"""A Redis client for probes: blocking, RESP2, standard library only, no retry, nothing hidden.

It exists because a probe must see what the server says to the first byte, and because importing a full client costs more
than the whole probe.
"""

from __future__ import annotations

import socket
import ssl
from typing import Self

from redkeep.errors import ServerUnavailableError

MAX_REPLY_BYTES = 1_048_576
"""No reply to a probe is that long; a peer that sends more is not a Redis that we asked."""



class Refusal(str):
    """An error reply. `code` is its first word: NOAUTH, NOPERM, WRONGPASS, ERR, ..."""

    __slots__ = ()

    @property
    def code(self) -> str:
        """The first word."""
        return self.partition(" ")[0]


class ProtectedModeError(ServerUnavailableError):
    """Protected mode, the server's last resort, refuses whoever comes from another host: its user `default` needs no password."""


class Wire:
    """One connection. Use as a context manager; every method may raise OSError, of which ssl.SSLError is one, and ServerUnavailableError."""

    def __init__(
        self, host: str, port: int, *, context: ssl.SSLContext | None, timeout: float, max_reply_bytes: int = MAX_REPLY_BYTES
    ) -> None:
        """Connect to `host`:`port` within `timeout` seconds, which also bounds each read. No context: plaintext."""
        self._max_reply_bytes = max_reply_bytes
        plain = socket.create_connection((host, port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = context.wrap_socket(plain, server_hostname=host) if context else plain
        except BaseException:
            plain.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, *commands: tuple[str | bytes, ...]) -> list[object]:
        """Send the commands in one write and return their replies; an error reply is a `Refusal`, not raised."""
        self.socket.sendall(b"".join(map(_encode, commands)))
        return [self._reply() for _ in commands]

    def _reply(self) -> object:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode("utf-8", "replace")
        if kind == b"-":
            refusal = Refusal(rest.decode("utf-8", "replace"))
            if refusal.code == "DENIED":
                raise ProtectedModeError("protected mode refuses all other hosts, because the user `default` needs no password; deploy again")
            return refusal
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._take(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise ServerUnavailableError("the peer does not speak the Redis protocol")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _fill(self) -> None:
        chunk = self.socket.recv(65_536)
        if not chunk:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += chunk
        if len(self._buffer) > self._max_reply_bytes:
            raise ServerUnavailableError("the peer sent more than a reply")


def _encode(words: tuple[str | bytes, ...]) -> bytes:
    parts = [word.encode("utf-8") if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
