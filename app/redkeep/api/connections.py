"""Connections of `redkeep serve`: whoever does not send a request gets no place for long, and never one that others need."""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS: Final = 10.0
"""From a request's first byte, or from the connection on, to its last byte; uvicorn bounds neither, only the pause between two requests."""


def bounded_protocol(*, waiting: int, seconds: float = REQUEST_SECONDS) -> type[asyncio.Protocol]:
    """uvicorn's protocol for HTTP/1.1, for one server, which cuts a connection whose request is not whole after `seconds`.

    At most `waiting` connections may be without a whole request: one more, and the one that was silent for longest is cut.
    """
    there: dict[Bounded, None] = {}  # silent for longest first

    class Bounded(H11Protocol):
        _socket: asyncio.Transport
        _deadline: asyncio.TimerHandle | None = None

        @property
        def waits(self) -> bool:
            return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._socket = transport
            self._heard()
            silent = [each for each in there if each.waits]
            if len(silent) > waiting:
                silent[0].cut()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._heard()

        def connection_lost(self, exc: Exception | None) -> None:
            self._leave()
            super().connection_lost(exc)

        def cut(self) -> None:
            self._leave()
            self._socket.abort()

        def _heard(self) -> None:
            there.pop(self, None)
            there[self] = None
            if not self.waits:
                self._forget_deadline()
            elif self._deadline is None:
                self._deadline = asyncio.get_running_loop().call_later(seconds, self.cut)

        def _leave(self) -> None:
            there.pop(self, None)
            self._forget_deadline()

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Bounded
