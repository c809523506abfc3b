"""Who is connected to a host's Redis, who was refused there, and the end of sessions, by the operator's own access."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from pyinfra.api import DeployError

from deploys.site import Site
from deploys.stack import SERVICE
from deploys.stages import containers
from deploys.stages.wanted import CLI
from redkeep.migration.readiness import Session, parse_client_list
from redkeep.monitoring.probes import MONITOR, PROBE_NAME, PROBED_USER_OBJECT

FOLLOWS = "redkeep"
"""The name by which the package's own connections show themselves: one that is ended logs in again with what is then in the
file, and repeats what was under way. Nobody has to wait for it."""

_AT_ONCE = 200
_LOG = 1024


def connected(site: Site, users: Collection[str]) -> tuple[Session, ...]:
    """The sessions of these users now, our own left out. Raises DeployError when the server does not say."""
    own, text = _ask(site, "CLIENT ID\nCLIENT LIST")
    marker = int(own) if own.isdigit() else 0
    found = parse_client_list("\n".join(text))
    return tuple(session for session in found if session.user in users and session.number != marker)


def lasting(look: Callable[[], Sequence[Session]], *, seconds: float = 2.0) -> tuple[Session, ...]:
    """Those whom a second look finds, too. A session that is over by then, such as a probe's, need not be waited for."""
    numbers = {session.number for session in look()}
    if not numbers:
        return ()
    time.sleep(seconds)
    return tuple(session for session in look() if session.number in numbers)


def refusals(site: Site, users: Collection[str], *, handshakes: bool = False) -> Counter[str]:
    """How often each user's login was refused, as far as the server's log of refusals reaches back; by user and address. With
    ``handshakes`` also how often a certificate was: the server's log does not say whose."""
    ok, lines, errors = site.run(f"{CLI} --json ACL LOG {_LOG}")
    try:
        entries = json.loads("\n".join(lines)) if ok else None
    except ValueError:
        entries = None
    if not isinstance(entries, list):
        raise DeployError(f"{site.bundle.name}: the server does not show its ACL LOG ({_reason(errors)}): run again.")
    found: Counter[str] = Counter()
    for entry in entries:
        if entry.get("reason") == "auth" and entry.get("username") in users:
            info = dict(pair.split("=", 1) for pair in str(entry.get("client-info", "")).split() if "=" in pair)
            if entry.get("object") == PROBED_USER_OBJECT and (info.get("name") == PROBE_NAME or info.get("user") == MONITOR):
                continue  # the posture tries a wrong password for the user that it is logged in as, and as monitor for the others
            address = info.get("addr", "").rpartition(":")[0].strip("[]")
            found[f"{entry['username']} from {address}"] += int(entry.get("count", 1))
    if handshakes:
        log = containers.compose(f"logs {SERVICE}") if site.bundle.in_container else f"cat {site.bundle.engine.log_file}"
        _, lines, _ = site.run(f"{log} 2>/dev/null | grep -c 'Error accepting a client connection'")
        found["a client without a valid certificate"] = int(lines[0]) if lines and lines[0].isdigit() else 0
    return found


def end(site: Site, sessions: Iterable[Session]) -> None:
    """End these sessions; one that is gone already is fine."""
    numbers = [session.number for session in sessions]
    for start in range(0, len(numbers), _AT_ONCE):
        lines = "".join(f"CLIENT KILL ID {number}\n" for number in numbers[start : start + _AT_ONCE])
        site.run(f"{CLI} >/dev/null", stdin=lines)


def one_of_each(sessions: Iterable[Session]) -> tuple[Session, ...]:
    """One session for each user, machine and name: what happens to it, happens to its like."""
    found: dict[tuple[str, str, str], Session] = {}
    for session in sessions:
        found.setdefault((session.user, session.address.rpartition(":")[0], session.name), session)
    return tuple(found.values())


def _ask(site: Site, commands: str) -> tuple[str, list[str]]:
    ok, lines, errors = site.run(CLI, stdin=commands + "\n")
    if not ok or not lines:
        raise DeployError(f"{site.bundle.name}: the server does not list its clients ({_reason(errors)}): run again.")
    return lines[0].strip(), lines[1:]


def _reason(errors: list[str]) -> str:
    return next((line.strip() for line in errors if line.strip()), "no answer")
