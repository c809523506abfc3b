"""pyinfra's inventory file and group_data, read plainly: which hosts there are and what is wanted of each."""

from __future__ import annotations

import ipaddress
import runpy
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Member:
    """One host of the inventory. ``data`` is its own, over its groups', over group_data/all.py."""

    name: str
    groups: frozenset[str]
    data: Mapping[str, Any]

    @property
    def is_local(self) -> bool:
        return self.name == "@local"

    @property
    def address(self) -> str:
        """By which this machine reaches the host."""
        return str(self.data.get("ssh_hostname") or self.name.removeprefix("@ssh/"))


@dataclass(frozen=True)
class Wanted:
    """What the inventory asks of one host.

    ``clients`` are the networks that may reach Redis from elsewhere; ``service`` is the name or address by which others
    reach this host's Redis, ``app_service`` the one by which this host's app reaches its own.
    """

    member: Member
    clients: frozenset[str]
    beyond_loopback: bool
    service: str
    app_service: str

    def __getitem__(self, knob: str) -> Any:
        return self.member.data[knob]

    @property
    def engine(self) -> str:
        return str(self["redis_engine"])

    @property
    def port(self) -> int:
        return int(self["redis_tls_port"])

    @property
    def firewall(self) -> bool:
        return bool(self["firewall"]) and (self.beyond_loopback or self["redis_runtime"] == "docker") and "redis" in self.member.groups

    def bind(self, own: frozenset[str]) -> frozenset[str]:
        """The addresses to listen on, for a host that has the addresses ``own``."""
        if self["redis_bind"]:
            return frozenset(self["redis_bind"])
        reachable = resolve(self.service) & own if self.beyond_loopback else frozenset()
        return frozenset({LOOPBACK[0]} | ({LOOPBACK[1]} & own) | reachable)

    def inside(self, own: frozenset[str]) -> str:
        """An address at which the host itself reaches its Redis."""
        bind = self.bind(own)
        return LOOPBACK[0] if bind & {LOOPBACK[0], "0.0.0.0"} else sorted(bind)[0]


def read(path: Path) -> dict[str, Wanted]:
    """Every host of an inventory file, in the file's order.

    Raises ValueError for a file without hosts, or a host that is reached otherwise than by SSH or as @local.
    """
    groups = {k: _group(v) for k, v in runpy.run_path(str(path)).items() if _is_group(k, v)}
    names = list(dict.fromkeys(name for hosts, _ in groups.values() for name in hosts))
    groups.setdefault(path.stem, ({name: {} for name in names}, {}))
    shared: dict[str, dict[str, Any]] = {}
    for folder in dict.fromkeys((ROOT / "group_data", path.absolute().parent / "group_data")):
        for file in sorted(folder.glob("*.py")):
            values = {k: v for k, v in runpy.run_path(str(file)).items() if not k.startswith("_") and k != "annotations"}
            shared.setdefault(file.stem, {}).update(values)
    members = []
    for name in names:
        if name.startswith("@") and name != "@local" and not name.startswith("@ssh/"):
            raise ValueError(f"{name}: only hosts over SSH and @local can be verified.")
        mine = [group for group, (hosts, _) in groups.items() if name in hosts]
        data = dict(shared.get("all", {}))
        for group in mine:
            data |= groups[group][1] | shared.get(group, {})
        for group in mine:
            data |= groups[group][0][name]
        members.append(Member(name, frozenset(mine), data))
    if not members:
        raise ValueError(f"{path} has no hosts: it needs lists like redis = [...] and app = [...].")
    return {member.name: _wanted(member, members) for member in members}


def _is_group(name: str, value: object) -> bool:
    return not name.startswith("_") and isinstance(value, (list, tuple))


def _group(value: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Hosts with their data, and the data of the group: a list, or (list, data); a host is a name, or (name, data)."""
    hosts, data = value if isinstance(value, tuple) else (value, {})
    return {h if isinstance(h, str) else h[0]: {} if isinstance(h, str) else dict(h[1]) for h in hosts}, dict(data)


def _wanted(member: Member, members: list[Member]) -> Wanted:
    servers = [m for m in members if "redis" in m.groups]
    apps = [m for m in members if "app" in m.groups]
    server = _server(member, servers)
    # Each app uses the Redis on its own machine, or the one it names, or the only one there is.
    remote = [app for app in apps if app is not server and _server(app, servers) is server]
    extra = list(server.data["allowed_clients"])
    bind = server.data["redis_bind"]
    beyond = bool(remote or extra or any(not ipaddress.ip_address(a).is_loopback for a in bind))
    called = bool(remote or (extra and not bind))
    service = server.data["redis_address"] or (server.address if called and not server.is_local else LOOPBACK[0])
    inside = not bind or {LOOPBACK[0], "0.0.0.0"} & set(bind)
    return Wanted(
        member=member,
        clients=frozenset([*extra, *(a for app in remote for a in resolve(app.data["app_address"] or app.address))]),
        beyond_loopback=beyond,
        service=service,
        app_service=service if server is not member else LOOPBACK[0] if inside else bind[0],
    )


def _server(app: Member, servers: list[Member]) -> Member:
    named = app.data["redis_address"]
    return app if app in servers else next((s for s in servers if named in (s.name, s.address)), servers[0])


def resolve(name: str) -> frozenset[str]:
    """The IP addresses of a name; an address is its own."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(item[4][0]).partition("%")[0] for item in found)
