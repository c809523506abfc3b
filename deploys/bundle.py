"""What Redkeep wants of one host: its knobs, its roles and its neighbours."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploys.engine import ENGINES, Engine
from deploys.knobs import Knobs, is_host
from redkeep.errors import ConfigurationError

LOOPBACK = ("127.0.0.1", "::1")
UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 # nosec B104 - compared, never bound here


@dataclass(frozen=True)
class Neighbour:
    """Another host of the inventory as this one sees it: its name there and its knobs."""

    name: str
    address: str
    groups: frozenset[str]
    knobs: Knobs


@dataclass(frozen=True)
class Bundle:
    """One host's part of the deploy. ``name`` is the inventory's; addresses are as the inventory gives them:
    ``server`` names the Redis host that the app uses, ``redis_address`` is how others reach the Redis,
    ``app_redis_address`` how the app on this very host does; ``apps`` are the app hosts that use this host's Redis."""

    name: str
    knobs: Knobs
    is_redis: bool
    is_app: bool
    server: str
    redis_address: str
    app_redis_address: str
    client_addresses: tuple[str, ...]
    apps: tuple[str, ...]
    listens_beyond_loopback: bool

    @property
    def engine(self) -> Engine:
        return ENGINES[self.knobs.redis_engine]

    @property
    def in_container(self) -> bool:
        """Whether this host's Redis runs in a container."""
        return self.is_redis and self.knobs.redis_runtime == "docker"

    @property
    def api_in_unit(self) -> bool:
        """Whether the API is a service of systemd on this host."""
        return self.is_app and self.knobs.api_enabled and not self.in_container

    @property
    def api_in_container(self) -> bool:
        """Whether the API is a container of this host's stack."""
        return self.is_app and self.knobs.api_enabled and self.in_container

    @property
    def has_dashboard(self) -> bool:
        """Whether the dashboard is a container of this host's stack."""
        return self.api_in_container and self.knobs.dashboard_enabled

    @property
    def is_local(self) -> bool:
        return self.name == "@local"

    def bind_addresses(self, own_addresses: Sequence[str]) -> tuple[str, ...]:
        """The addresses Redis listens on, given those the host has.

        Raises ConfigurationError when an address does not belong to the host.
        """
        if self.knobs.redis_bind:
            wanted = list(self.knobs.redis_bind)
        else:
            wanted = [address for address in LOOPBACK if address in own_addresses or address == LOOPBACK[0]]
            if self.listens_beyond_loopback:
                reachable = [a for a in resolve(self.redis_address) if a in own_addresses]
                if not reachable:
                    raise ConfigurationError(
                        f"{self.name} has no address that {self.redis_address} resolves to "
                        f"({', '.join(resolve(self.redis_address)) or 'none'}): set redis_bind, or redis_address, for this host."
                    )
                wanted += [a for a in reachable if a not in wanted]
        for address in wanted:
            if address not in own_addresses and not ipaddress.ip_address(address).is_unspecified:
                raise ConfigurationError(
                    f"{self.name} does not have the address {address} of redis_bind: it has {', '.join(own_addresses)}."
                )
        return tuple(wanted)


def build(hosts: Sequence[tuple[str, frozenset[str], Mapping[str, Any]]]) -> dict[str, Bundle]:
    """Check the whole inventory at once; hosts are (name, groups, data).

    Raises ConfigurationError: an unknown knob, no host in group ``redis``, an app host without its Redis or
    with a knob that its Redis lacks.
    """
    neighbours = []
    for name, groups, data in hosts:
        try:
            knobs = Knobs.from_data(data)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (host {name})") from None
        neighbours.append(Neighbour(name, str(data.get("ssh_hostname") or name), groups, knobs))
    redis = [n for n in neighbours if "redis" in n.groups]
    apps = [n for n in neighbours if "app" in n.groups]
    if not redis:
        raise ConfigurationError(
            'The inventory has no host in the group "redis": write redis = ["your-host"] as in inventories/single.py.'
        )
    return {n.name: _bundle(n, redis, apps) for n in neighbours}


def _bundle(host: Neighbour, redis: Sequence[Neighbour], apps: Sequence[Neighbour]) -> Bundle:
    is_redis = host in redis
    is_app = host in apps
    server = _server_of(host, redis)
    # Several Redis hosts in one inventory are independent of each other: each serves the app on its own machine and
    # the app hosts that name it. With one, it serves all app hosts.
    remote = [app for app in apps if app is not host and _server_of(app, redis) is host] if is_redis else []
    beyond = bool(remote or host.knobs.allowed_clients or _has_remote_bind(host.knobs))
    if is_redis and host.knobs.redis_runtime == "docker":
        _only_for_itself(host, remote)
        _isolated(host)
    if is_app and is_redis and host.knobs.redis_runtime == "docker" and host.knobs.api_enabled:
        _reachable_from_a_container(host)
    if is_app and host.knobs.dashboard_enabled:
        _has_what_a_dashboard_needs(host, contained=is_redis and host.knobs.redis_runtime == "docker")
    if is_app and host.knobs.cache_tracking and not server.knobs.cache_tracking:
        raise ConfigurationError(
            f"The app host {host.name} has the knob cache_tracking, but the Redis host {server.name} does not: set it for both."
        )
    called = bool(is_app and server is not host) or bool(remote or (host.knobs.allowed_clients and not host.knobs.redis_bind))
    address = server.knobs.redis_address or (server.address if called else LOOPBACK[0])
    if not is_host(address):
        raise ConfigurationError(
            f"Other hosts need to reach the Redis of {server.name}, which is not an address: set its redis_address in the inventory."
        )
    clients: list[str] = []
    for app in remote:
        found = resolve(app.knobs.app_address or app.address)
        if not found:
            raise ConfigurationError(
                f"The app host {app.name} has no address for the allow-list: set its app_address in the inventory."
            )
        clients += found
    return Bundle(
        name=host.name,
        knobs=host.knobs,
        is_redis=is_redis,
        is_app=is_app,
        server=server.name,
        redis_address=address,
        app_redis_address=_own_address(host.knobs) if server is host else address,
        apps=tuple(app.name for app in apps if is_redis and _server_of(app, redis) is host),
        client_addresses=tuple(sorted({*clients, *map(_plain, host.knobs.allowed_clients)})),
        listens_beyond_loopback=beyond,
    )


def _only_for_itself(host: Neighbour, remote: Sequence[Neighbour]) -> None:
    """A container's port is not published: nobody elsewhere can be served."""
    knobs = host.knobs
    wanted = [f"the app host {app.name}" for app in remote]
    wanted += [f"the knob {name}" for name in ("allowed_clients", "redis_bind", "redis_address") if getattr(knobs, name)]
    if wanted:
        raise ConfigurationError(
            f"The Redis of {host.name} runs in a container that only its own host can reach, but {wanted[0]} needs it from "
            "elsewhere: remove that, or set redis_runtime to native."
        )


def _isolated(host: Neighbour) -> None:
    """The engine lets the host's accounts and services, and other containers, to the stack and from it."""
    if not host.knobs.firewall:
        raise ConfigurationError(
            f"The Redis of {host.name} runs in a container, which only the firewall isolates: set firewall to True, or set redis_runtime "
            "to native."
        )


def _reachable_from_a_container(host: Neighbour) -> None:
    """The stack's networks have no IPv6."""
    for entry in host.knobs.api_reachable:
        if ipaddress.ip_network(entry).version == 6:
            raise ConfigurationError(
                f"The API of {host.name} runs in a container that has IPv4 alone, but api_reachable lists {entry}: remove it, or give "
                "the IPv4 address."
            )


def _has_what_a_dashboard_needs(host: Neighbour, *, contained: bool) -> None:
    if not contained:
        raise ConfigurationError(
            f"The dashboard of {host.name} needs its Redis in a container too: set redis_runtime to docker, or set "
            "dashboard_enabled to False and start `redkeep dashboard` where you want to see it."
        )
    if not host.knobs.api_enabled:
        raise ConfigurationError(f"The dashboard of {host.name} needs the API, which is off: set api_enabled to True as well.")
    if host.knobs.dashboard_port == host.knobs.api_port:
        raise ConfigurationError(
            f"The API and the dashboard of {host.name} share the port {host.knobs.api_port}: change dashboard_port."
        )


def _plain(client: str) -> str:
    """A network in the one spelling that both nftables and systemd read; a single address without its length."""
    network = ipaddress.ip_network(client)
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _server_of(app: Neighbour, redis: Sequence[Neighbour]) -> Neighbour:
    if app in redis:
        return app
    named = [n for n in redis if app.knobs.redis_address and app.knobs.redis_address in (n.name, n.address)]
    if len(redis) == 1 or named:
        return (named or list(redis))[0]
    raise ConfigurationError(
        f"The app host {app.name} could use any of {len(redis)} Redis hosts: set its redis_address in the inventory."
    )


def _own_address(knobs: Knobs) -> str:
    """Where the Redis host reaches itself, by a name of its certificate."""
    if not knobs.redis_bind or {LOOPBACK[0], UNSPECIFIED[0]} & set(knobs.redis_bind):
        return LOOPBACK[0]
    return "localhost" if ipaddress.ip_address(knobs.redis_bind[0]).is_unspecified else knobs.redis_bind[0]


def _has_remote_bind(knobs: Knobs) -> bool:
    return any(not ipaddress.ip_address(address).is_loopback for address in knobs.redis_bind)


def resolve(name: str) -> list[str]:
    """The IP addresses of a name as the operator's machine resolves it; an address is its own answer."""
    try:
        return [str(ipaddress.ip_address(name.partition("%")[0]))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(item[4][0]).split("%")[0] for item in found})
