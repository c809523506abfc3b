"""Whether a random password opens one of the users besides the one that the cache logs in as: `nopass`, found out by trying.

Asked on the connection of `monitor`, which may not read other users' password hashes, and should not. The refused logins
stand in ACL LOG with that client's user and the probe's own spelling of AUTH. The server keeps that log short: so a process that
asks again and again tries again only when the users can have changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from redkeep.monitoring.control import Control
from redkeep.monitoring.probes import MONITOR, PROBED_USER_OBJECT, REDEPLOY
from redkeep.monitoring.server_report import parse_info
from redkeep.monitoring.wire import Refusal, Wire
from redkeep.monitoring.words import harmless, listed

NAME: Final = "users' passwords"
TRUSTED_SECONDS: Final = 600.0
"""What was found holds that long at most, also when the server counts no change: CONFIG RESETSTAT resets what it counts."""

_CHANGES: Final = ("cmdstat_acl|setuser", "cmdstat_acl|deluser", "cmdstat_acl|load")
_SHOWN: Final = 5


class _Found(NamedTuple):
    users: frozenset[str]
    state: tuple[str, ...]
    at: float
    open: tuple[str, ...]


class Tried:
    """What was found at each server, for as long as its users stay the same."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, _Found] = {}

    def opened(self, wire: Wire, server: str, users: Collection[str], password: str) -> tuple[str, ...]:
        """Those of `users` that a random password opens, on a `wire` that is logged in as monitor. May raise OSError and ValueError."""
        asked, state = frozenset(users), _state(wire)
        found = self._found.get(server)
        if found is None or (found.users, found.state) != (asked, state) or self._clock() - found.at >= TRUSTED_SECONDS:
            found = _Found(asked, state, self._clock(), tuple(user for user in sorted(asked) if _opens(wire, user, password)))
            self._found[server] = found
        return found.open


def probe_passwords(wire: Wire, server: str, users: Collection[str], password: str, tried: Tried) -> Control:
    """One control. `password` is that of monitor; `server` names the server that `wire` leads to."""
    found = tried.opened(wire, server, users, password)
    if not found:
        return Control(NAME, "ok", f"{len(users)} users refuse a wrong password")
    return Control(NAME, "weak", f"any password opens {listed([*map(harmless, found)], most=_SHOWN)}", REDEPLOY)


def _opens(wire: Wire, user: str, password: str) -> bool:
    (reply,) = wire.ask((PROBED_USER_OBJECT, user, os.urandom(24).hex()))
    if isinstance(reply, Refusal):
        if reply.code != "WRONGPASS":
            raise ValueError(f"the login of {harmless(user)} was neither accepted nor refused")
        return False
    (back,) = wire.ask(("AUTH", MONITOR, password))  # we are that user now
    if back != "OK":
        raise ValueError("the login of monitor was refused")
    return True


def _state(wire: Wire) -> tuple[str, ...]:
    """What changes with the users: which run of the server it is, and how often its users were set or loaded."""
    info = parse_info(wire.ask(("INFO", "server", "commandstats"))[0])
    return (info.get("run_id", ""), *(info.get(name, "").partition(",")[0] for name in _CHANGES))
