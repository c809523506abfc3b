"""Who is not ready for the next stage: the server's own list of clients, judged.

Redis does not say whether a session is encrypted; the local port it came in by does (`laddr` in CLIENT LIST, since 6.2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

OWN_NAME: Final = "redkeep-survey"
"""CLIENT SETNAME of the survey's own session."""

OPERATOR: Final = "operator"
"""As whom it is logged in, wherever somebody is asked to move."""

SHOWN: Final = 8
"""Clients named in one sentence; the rest is a number."""


@dataclass(frozen=True, slots=True)
class Session:
    """One line of CLIENT LIST. `age` and `idle` in seconds; `port` is the server's port it came in by, 0 for a socket file, and
    `door` the server's address."""

    number: int
    address: str
    port: int
    name: str
    user: str
    age: int
    idle: int
    library: str
    door: str = ""

    @property
    def peer(self) -> str:
        """The client's address, without its port."""
        return _host(self.address)

    def __str__(self) -> str:
        name = f" {_plain(self.name)!r}" if self.name else ""
        library = f", {_plain(self.library)}" if self.library else ""
        door = f"port {self.port}" if self.port else "the socket file"
        return f"{_plain(self.address)}{name} (user {_plain(self.user)}, {door}, connected for {_span(self.age)}{library})"


def sessions(lines: Iterable[Mapping[str, str]]) -> tuple[Session, ...]:
    """The clients of CLIENT LIST, each line as its fields. A replica is one, for it reads everything; this server's own link to
    a primary is none."""
    found = []
    for line in lines:
        if "M" in line.get("flags", ""):
            continue
        library = " ".join(filter(None, (line.get("lib-name", ""), line.get("lib-ver", ""))))
        found.append(
            Session(
                number=_number(line.get("id", "")),
                address=line.get("addr", ""),
                port=_number(line.get("laddr", "").rpartition(":")[2]),
                name=line.get("name", ""),
                user=line.get("user", ""),
                age=_number(line.get("age", "")),
                idle=_number(line.get("idle", "")),
                library=library,
                door=_host(line.get("laddr", "")),
            )
        )
    return tuple(found)


def parse_client_list(text: str) -> tuple[Session, ...]:
    """`sessions` from the text of CLIENT LIST itself."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sessions(dict(pair.split("=", 1) for pair in line.split(" ") if "=" in pair) for line in lines)


def bystanders(found: Iterable[Session]) -> tuple[Session, ...]:
    """Without the surveys. Anybody may call himself so: the name counts only for the operator's own sessions."""
    return tuple(session for session in found if (session.name, session.user) != (OWN_NAME, OPERATOR))


def not_on_port(found: Iterable[Session], port: int) -> tuple[Session, ...]:
    """Who did not come in by the TLS port `port`: by the plaintext port, or by a socket file."""
    return tuple(session for session in found if session.port != port)


def not_among(found: Iterable[Session], users: Collection[str]) -> tuple[Session, ...]:
    """Who is logged in as another user than these: as `default`, mostly."""
    return tuple(session for session in found if session.user not in users)


def among(found: Iterable[Session], users: Collection[str]) -> tuple[Session, ...]:
    """Who is logged in as one of these users."""
    return tuple(session for session in found if session.user in users)


def older_than(found: Iterable[Session], seconds: float) -> tuple[Session, ...]:
    """Who was connected before something happened `seconds` ago. CLIENT LIST rounds ages down: one second is allowed for."""
    return tuple(session for session in found if session.age + 1 > seconds)


def refusal(found: Iterable[Session], *, what: str, remedy: str) -> str:
    """One sentence that names the clients in the way, and what to do; empty when there are none."""
    waiting = sorted(found, key=lambda session: (session.address, session.number))
    if not waiting:
        return ""
    shown = "; ".join(str(session) for session in waiting[:SHOWN])
    more = f"; and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
    return f"{len(waiting)} client{'s' if len(waiting) > 1 else ''} {what}: {shown}{more}. {remedy}"


def _host(text: str) -> str:
    return text.rpartition(":")[0].strip("[]")


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h"


def _plain(text: str) -> str:
    """What a client calls itself is its own choice: nothing that steers a terminal."""
    shown = text[:64]
    return shown if shown.isprintable() else ascii(shown)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
