"""From where Redis can be reached: the addresses it listens on and the allow-list, when it runs here; else the kind of address."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from redkeep.monitoring.allow_list import RULES, Sight, look
from redkeep.monitoring.control import Control, State
from redkeep.monitoring.host import contained_servers, is_here
from redkeep.monitoring.network_space import Ip, listening
from redkeep.target import Target

NAME: Final = "network reach"
_SEEN: Final[dict[Sight, str]] = {
    "in force": "the allow-list is in force",
    "changed": "the allow-list in the kernel has changed since it was loaded",
    "absent": "Redkeep's allow-list is not in the kernel",
    "noted": "the allow-list was loaded; only root can see whether it is still in force",
    "unseen": "it cannot be seen from here whether a firewall keeps others out",
}
_BIND: Final = "bind it to loopback or private addresses (redis_bind), or deploy with firewall = True"
_LOAD: Final = "deploy again with firewall = True, which loads the allow-list"
_AS_ROOT: Final = "run `redkeep status` as root, who can see the allow-list"


def probe_reach(target: Target, *, proc: Path = Path("/proc"), rules: Path = RULES) -> Iterator[Control]:
    """One control; never raises. An address beyond loopback is ok where an allow-list was seen, or when it is private, on another host
    or in a container that no allow-list was asked for. What cannot be seen is "unknown"; `rules` is the file that asks for one.
    """
    try:
        found = {ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in socket.getaddrinfo(target.host, target.port)}
    except (OSError, ValueError):
        yield Control(NAME, "unknown", "the server's name cannot be resolved", "add the name of Redis' host to DNS or /etc/hosts")
        return
    where = f"{target.host} is" if target.host in map(str, found) else f"{target.host} resolves to"
    here = is_here(target.host)
    if here:
        found = set(listening(proc / "self", target.port))
        where = "Redis listens on"
        if not found:
            yield Control(NAME, "unknown", f"no listener on port {target.port} of this machine is visible", "start Redis, or deploy again")
            return
    shown = f"{where} {_kind(found)}: {', '.join(sorted(map(str, found))[:4])}"
    if all(address.is_loopback for address in found):
        yield Control(NAME, "ok", shown)
    elif here or (os.path.exists(rules) and contained_servers(target.host, target.port, proc)):
        sight = look()
        yield Control(NAME, *_judged(sight, f"{shown}; {_SEEN[sight]}", exposed=_exposed(found)))
    elif _exposed(found):
        yield Control(NAME, "unknown", f"{shown}; {_SEEN['unseen']}", f"{_AS_ROOT}, on Redis' own host; or give that host a private address")
    else:
        yield Control(NAME, "ok", shown)


def _judged(sight: Sight, evidence: str, *, exposed: bool) -> tuple[State, str, str]:
    if sight == "in force" or (sight == "noted" and not exposed):
        return "ok", evidence, ""
    if sight == "changed":
        return "weak", evidence, _LOAD
    if sight == "absent":
        return "weak", evidence, _BIND if exposed else _LOAD
    if sight == "unseen" and exposed:
        return "weak", evidence, _BIND
    return "unknown", evidence, _AS_ROOT


def _exposed(found: set[Ip]) -> bool:
    return any(address.is_unspecified or address.is_global for address in found)


def _kind(found: set[Ip]) -> str:
    if any(address.is_unspecified for address in found):
        return "every address of this machine"
    if any(address.is_global for address in found):
        return "a public address"
    return "loopback only" if all(address.is_loopback for address in found) else "private addresses only"
