"""One node, seen through the eyes of the user `monitor`: INFO, ACL LOG and CLIENT LIST over one connection that stays.

Blocking, so that nothing of it competes with the cache in an event loop; the service runs it in a thread. INFO costs the
server a tenth of a millisecond and tells by its counters whether ACL LOG has changed at all, and by how much.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from redkeep.access.failures import Peer, network_error, reply_error
from redkeep.access.tls import SharedContext
from redkeep.errors import AuthenticationError, RedkeepError, ServerUnavailableError
from redkeep.monitoring.acl_log import AclBook, Denial, first_entries, parse_acl_log, split_probes
from redkeep.monitoring.probes import MONITOR
from redkeep.monitoring.server_report import ClientLine, figures, parse_clients, parse_info, refusals
from redkeep.monitoring.wire import Refusal, Wire
from redkeep.target import Target

MAX_REPLY_BYTES: Final = 16 * 1024 * 1024
"""CLIENT LIST of 40,000 clients; a name in ACL LOG can have 16 KB (Redis' limit before a login)."""

CLIENTS_SECONDS: Final = 10.0
"""Between two CLIENT LIST: it costs the server 3 microseconds a client, INFO none."""

_REFUSED_SECONDS: Final = 60.0
"""After a refused login: trying again at each look would itself look like guessing."""

_LONGEST_PAUSE: Final = 15.0
_EVERYTHING: Final = 4_096
"""More entries than any ACL LOG of ours has: the whole of it."""



class Look(NamedTuple):
    """What one look at a node found. `denials` grew by the number beside them since the look before; `unseen_logins` are
    refused logins that the server counted and its log has already lost."""

    figures: Mapping[str, Any]
    milliseconds: float
    denials: list[tuple[Denial, int]]
    probes: int
    unseen_logins: int
    clients: Counter[ClientLine] | None
    server_time: float


class _Growth(NamedTuple):
    """What the server's counters say since the last look: refused logins, and the `most` that its log can have of news.

    `whole` when the counters cannot tell, at the first look at any server and after CONFIG RESETSTAT: the log alone does.
    `anew` when the server has started anew, and its log and counters with it.
    """

    run: str
    whole: bool
    anew: bool
    counters: tuple[int, int]
    logins: int
    most: int


class Node:
    """A node and what has been counted of it. `look` from one thread at a time."""

    def __init__(self, target: Target, *, timeout: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`target` names host, port, TLS files and the monitor's password. `timeout` in seconds, for each step."""
        self.peer = Peer(target.host, target.port, MONITOR)
        self._target = target
        self._timeout = timeout
        self._clock = clock
        self._contexts: SharedContext | None = None
        self._wire: Wire | None = None
        self._book = AclBook()
        self._run = ""
        self._counted: tuple[int, int] | None = None  # the server's own counters at the last look: logins, all
        self._surplus = 0  # logins that the counter has and the log had not, at the last look
        self._clients_at = 0.0
        self._not_before = 0.0
        self._failures = 0

    @property
    def name(self) -> str:
        """host:port."""
        return f"[{self.peer.host}]:{self.peer.port}" if ":" in self.peer.host else str(self.peer)

    def look(self) -> Look | None:
        """Ask the node; None while it is left alone after a failure. Raises the leaves of our error tree."""
        if self._clock() < self._not_before:
            return None
        try:
            found = self._look()
        except (OSError, RedkeepError, ValueError) as error:
            self.close()
            ours = _ours(error, self.peer)
            self._failures += 1
            pause = _REFUSED_SECONDS if isinstance(ours, AuthenticationError) else min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 4))
            self._not_before = self._clock() + pause
            raise ours from error
        self._failures = 0
        return found

    def close(self) -> None:
        """End the connection; the next look makes another."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.socket.close()

    def snapshot(self) -> dict[str, Any]:
        """What has been counted, as plain data."""
        return {"run": self._run, "counted": self._counted, "surplus": self._surplus, **self._book.snapshot()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot. Raises ValueError when it is something else."""
        try:
            book, run, counted, surplus = AclBook(saved), str(saved["run"]), saved["counted"], int(saved["surplus"])
            self._counted = None if counted is None else (int(counted[0]), int(counted[1]))
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no snapshot of a node: {type(error).__name__}") from None
        self._book, self._run, self._surplus = book, run, surplus

    def _look(self) -> Look:
        wire = self._wire or self._connect()
        began = time.perf_counter()
        info = parse_info(*self._asked(wire, ("INFO",)))
        milliseconds = (time.perf_counter() - began) * 1000
        if "run_id" not in info:
            raise ServerUnavailableError(f"{self.peer}: INFO has no run_id; check what listens on this port")
        # Everything is asked before anything is noted: whoever is cut off in between asks the same again.
        growth = self._growth(info)
        entries: list[Denial] = []
        if growth.whole:
            # Counter and log at one moment: the server answers one client's pipeline without a word of others in between.
            text, log = self._asked(wire, ("INFO",), ("ACL", "LOG", str(first_entries(_EVERYTHING))))
            info, entries = parse_info(text), parse_acl_log(log)
            growth = self._growth(info)._replace(whole=True)
        elif growth.most:
            entries = parse_acl_log(*self._asked(wire, ("ACL", "LOG", str(first_entries(growth.most)))))
        clients = None
        if self._clock() >= self._clients_at:
            clients = parse_clients(*self._asked(wire, ("CLIENT", "LIST")))
            self._clients_at = self._clock() + CLIENTS_SECONDS
        if growth.anew:
            self._book.clear()
        if growth.whole or growth.anew:
            self._surplus = 0
        self._run = growth.run
        self._counted = growth.counters
        denials = self._book.enter(entries, most=growth.most) if growth.most else []
        attributed = sum(times for denial, times in denials if denial.reason == "auth")
        others, probes = split_probes(denials)
        seconds = info.get("server_time_usec", "")
        return Look(
            figures=figures(info), milliseconds=milliseconds, denials=others, probes=probes,
            unseen_logins=0 if growth.whole else self._unseen(growth.logins, attributed), clients=clients,
            server_time=int(seconds) / 1e6 if seconds.isdigit() else time.time(),
        )  # fmt: skip

    def _growth(self, info: Mapping[str, str]) -> _Growth:
        run, now = info["run_id"], refusals(info)
        first, anew = not self._run, bool(self._run) and run != self._run
        before = (0, 0) if anew else self._counted or (0, 0)
        counters = (now.logins, now.all)
        if first or now.all < before[1] or now.logins < before[0]:
            return _Growth(run, True, anew, counters, now.logins, _EVERYTHING)
        return _Growth(run, False, anew, counters, now.logins - before[0], now.all - before[1])

    def _unseen(self, logins: int, attributed: int) -> int:
        """Logins in the counter that the log did not show. The log is read after the counter, so it may be ahead by what
        the counter will have at the next look: that is carried over, and never taken for unseen."""
        self._surplus += logins - attributed
        unseen = max(0, self._surplus)
        self._surplus -= unseen
        return unseen

    def _connect(self) -> Wire:
        target, context = self._target, None
        if target.tls:
            self._contexts = self._contexts or SharedContext(target)
            context = self._contexts.get()
        wire = Wire(target.host, target.port, context=context, timeout=self._timeout, max_reply_bytes=MAX_REPLY_BYTES)
        try:
            self._asked(wire, ("AUTH", MONITOR, target.monitor_password or ""))
        except BaseException:
            wire.socket.close()
            raise
        self._wire = wire
        return wire

    def _asked(self, wire: Wire, *commands: tuple[str, ...]) -> list[object]:
        replies = wire.ask(*commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Refusal):
                raise reply_error(Exception(str(reply)), command, self.peer)
        return replies


def _ours(error: Exception, peer: Peer) -> RedkeepError:
    if isinstance(error, ValueError) and not isinstance(error, OSError):  # a reply that no Redis would send
        return ServerUnavailableError(f"{peer}: the reply cannot be read; check what listens on this port")
    return network_error(error, peer)
