"""The server's word on keys that changed (CLIENT TRACKING, default mode), for a tier of values in this process's memory.

Default mode and not BCAST: the server then names only keys that this connection has read, while in broadcast mode it names those
of all tenants (acl.py). Never NOLOOP: with it an own write ends the tracking of the key without a word, and a later change by
somebody else would go unnoticed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from redkeep.access.client import Command
from redkeep.access.failures import WireError

logger = logging.getLogger(__name__)

Invalidate = Callable[[list[bytes] | None], None]

ARM: Final[Command] = ("CLIENT", "TRACKING", "ON")

HEARTBEAT_SECONDS: Final = 5.0
"""A tracked connection that is silent for so long is asked for a PING: a dead one cannot say what changed."""


class Tracking:
    """Whether the server tells us of changes, and whom we tell."""

    __slots__ = ("_callback", "active", "wanted")

    def __init__(self) -> None:
        self._callback: Invalidate | None = None
        self.wanted = False
        self.active = False

    def want(self, callback: Invalidate) -> None:
        """From the next login on."""
        self._callback, self.wanted = callback, True

    def begin(self) -> None:
        """The server has said OK. What was remembered before this moment is not watched: flush."""
        self._tell(None)
        self.active = True

    def end(self) -> None:
        """The connection is gone, or the server refuses: nothing in memory can be trusted."""
        if self.wanted:
            self.active = False
            self._tell(None)

    def push(self, message: list[Any]) -> None:
        """One push message. Raises WireError for one that is not ours."""
        if len(message) == 2 and message[0] == b"invalidate" and self.wanted:
            keys = message[1]
            if keys is None or (isinstance(keys, list) and all(isinstance(key, bytes) for key in keys)):
                self._tell(keys)
                return
        kind = message[0] if message and isinstance(message[0], bytes) else b"?"
        raise WireError(f"the server pushed something that was not requested ({kind[:32].decode('latin-1')!a})")

    def _tell(self, keys: list[bytes] | None) -> None:
        if self._callback is None:
            return
        try:
            self._callback(keys)
        except Exception:  # a callback's fault must not break the replies of others; the memory is told to forget
            logger.exception("invalidate_callback_failed")
            if keys is not None:
                self._tell(None)
