"""The files by which plain compose runs a hardened Redis on one developer's machine: secrets, certificates, configuration.

The same compose.yaml, redis.conf settings, users and health check as on a host that was deployed to, with other values.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from redkeep.access.acl import Engine, acl_file, build_users
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError
from redkeep.stack import compose
from redkeep.stack.server_settings import DATA, ServerPlan, line, server_sections

USERS = ("operator", "cache_service", "cache_janitor", "health_service", "health_check", "monitor")
PORT = 6380

# Folders that containers write to.
DATA_FOLDER, STATE = "data", "state"

# Another corner of 10.0.0.0/8 than the deploy's, for machines that have both.
_POOL = ipaddress.IPv4Network("10.214.0.0/16")
_LENGTH = 27
_CONFIG = "/etc/redis"
_MAX_CLIENTS = 1000


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What a developer wants. ``folder`` is absolute, ``image`` has the ``engine`` of ``version`` (major, minor) or later, ``user`` the
    "uid:gid" that the containers run as, ``published`` a port of 127.0.0.1 for the server and ``api`` and ``dashboard`` ones for
    those, 0 for none; the two images have the package with these extras. A dashboard needs the API."""

    folder: Path
    image: str
    engine: Engine
    version: tuple[int, int]
    user: str
    subnet: ipaddress.IPv4Network
    maxmemory_bytes: int
    published: int = 0
    api: int = 0
    api_image: str = ""
    dashboard: int = 0
    dashboard_image: str = ""

    @property
    def internal(self) -> ipaddress.IPv4Network:
        """The network of the server and its clients: the first half."""
        return next(self.subnet.subnets(1))

    @property
    def door(self) -> ipaddress.IPv4Network:
        """The network of the published port: the third quarter."""
        return list(self.subnet.subnets(2))[2]

    @property
    def edge(self) -> ipaddress.IPv4Network:
        """The network of the API and the dashboard: the last quarter."""
        return list(self.subnet.subnets(2))[3]

    @property
    def address(self) -> str:
        """The server's on its network."""
        return str(self.internal[2])

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that the server listens on."""
        return ("127.0.0.1", self.address, *([str(self.door[2])] if self.published else []))

    @property
    def url(self) -> str:
        """How this machine reaches the server."""
        return f"rediss://127.0.0.1:{self.published}/0" if self.published else f"rediss://{self.address}:{PORT}/0"

    @property
    def project(self) -> str:
        """compose's name for the stack; not the one of a deployed stack."""
        name = re.sub(r"[^a-z0-9_-]+", "-", self.folder.name.lower()).strip("-_") or "stack"
        return f"{name}-quickstart" if name == "redkeep" else name


@dataclass(frozen=True)
class QuickFile:
    """One file: its path in the folder, its content, and whether it is read inside a container."""

    path: str
    content: bytes = field(repr=False)
    mounted: bool = False


def free_subnet(folder: Path, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """A network for the stack in ``folder``: the same one each time unless it overlaps with those ``taken``."""
    subnets = list(_POOL.subnets(new_prefix=_LENGTH))
    first = int.from_bytes(hashlib.sha256(bytes(folder)).digest()[:4], "big") % len(subnets)
    busy = list(taken)
    found = next((n for n in subnets[first:] + subnets[:first] if not any(n.overlaps(other) for other in busy)), None)
    if found is None:
        raise ConfigurationError(f"no network in {_POOL} is free on this machine; give one with --subnet")
    return found


def quickstart_files(wanted: Quickstart, store: SecretStore) -> tuple[QuickFile, ...]:
    """Every file but the secrets themselves, which are made in ``store`` when missing."""
    with store.transaction():
        server = _server_files(wanted, store)
        api = _api_files(wanted, store) if wanted.api else {}
        dashboard = _dashboard_files(store) if wanted.dashboard else {}
        client = _client_files(store, "cache_service")
        environment = _environment(_settings(wanted.url, wanted.folder / "client", store))
    return (
        *(QuickFile(path, content, mounted=True) for part in (server, api, dashboard) for path, content in part.items()),
        *(QuickFile(f"client/{name}", content) for name, content in client.items()),
        QuickFile("cache.env", environment),
        QuickFile(".env", compose.env_text(_variables(wanted, server, api, dashboard))),
        *(QuickFile(name, compose.text(name)) for name in compose_files(wanted)),
        QuickFile(".gitignore", b"# Secrets: nothing in here belongs into git.\n*\n"),
    )


def writable_folders(wanted: Quickstart) -> tuple[str, ...]:
    """What containers write to: Redis' data, and what the API remembers of events and alerts."""
    return (DATA_FOLDER, STATE) if wanted.api else (DATA_FOLDER,)


def compose_files(wanted: Quickstart) -> tuple[str, ...]:
    """What compose reads, in this order."""
    parts = {"port": wanted.published, "api": wanted.api, "dashboard": wanted.dashboard}
    return ("compose.yaml", *(f"compose.{name}.yaml" for name, port in parts.items() if port))


def _server_files(wanted: Quickstart, store: SecretStore) -> dict[str, bytes]:
    """What the server's container reads."""
    plan = ServerPlan(
        addresses=wanted.addresses,
        certificates=f"{_CONFIG}/tls",
        acl_file=f"{_CONFIG}/users.acl",
        data_folder=DATA,
        maxmemory_bytes=wanted.maxmemory_bytes,
        in_container=True,
        port=PORT,
        maxclients=_MAX_CLIENTS,
    )
    hashes = {user: store.password_hashes(user) for user in USERS}
    users = build_users(engine=wanted.engine, version=wanted.version, hashes=hashes, names=USERS)
    leaf = store.leaf("server", sorted({compose.SERVICE, "localhost", "127.0.0.1", wanted.address}), use="server")
    return {
        "redis/redis.conf": _configuration(plan),
        "redis/users.acl": acl_file(users).encode(),
        "redis/openssl.cnf": compose.openssl_policy(plan.tls_minimum_version),
        "redis/tls/ca.crt": store.trust_bundle(),
        "redis/tls/server.crt": leaf.cert_pem,
        "redis/tls/server.key": leaf.key_pem,
        "redis/health/check": compose.text("health-check.sh"),
        "redis/health/password": store.password("health_check").encode() + b"\n",
        **{f"redis/health/{name}": content for name, content in _client_files(store, "health_check").items()},
    }


def _api_files(wanted: Quickstart, store: SecretStore) -> dict[str, bytes]:
    """What the API's container reads: the app's access, the monitor's password, a certificate to be seen by and the key."""
    leaf = store.leaf("api-server", ["127.0.0.1", "api", "localhost"], use="server")
    settings = _settings(f"rediss://{compose.SERVICE}:{PORT}/0", Path("/etc/redkeep"), store)
    return {
        "api/cache.env": _environment(settings | {"REDIS_MONITOR_PASSWORD": store.password("monitor")}),
        "api/key": store.password("api").encode() + b"\n",
        "api/server.crt": leaf.cert_pem,
        "api/server.key": leaf.key_pem,
        **{f"api/{name}": content for name, content in _client_files(store, "api").items()},
    }


def _dashboard_files(store: SecretStore) -> dict[str, bytes]:
    """What the dashboard's container reads: the key of the API and whose certificate to trust."""
    return {"dashboard/key": store.password("api").encode() + b"\n", "dashboard/ca.crt": store.trust_bundle()}


def _client_files(store: SecretStore, service: str) -> dict[str, bytes]:
    leaf = store.leaf(service, [f"{service}.redkeep"], use="client")
    return {"ca.crt": store.trust_bundle(), "client.crt": leaf.cert_pem, "client.key": leaf.key_pem}


def _settings(url: str, folder: Path, store: SecretStore) -> dict[str, str]:
    """The environment of an app, whose certificates are in ``folder``."""
    return {
        "ENVIRONMENT": "production",
        "REDIS_URL": url,
        "REDIS_USERNAME": "cache_service",
        "REDIS_PASSWORD": store.password("cache_service"),
        "REDIS_HEALTH_PASSWORD": store.password("health_service"),
        "REDIS_ENCRYPTION_KEYS": ",".join(store.encryption_keys()),
        "REDIS_TLS_ENABLED": "true",
        "REDIS_TLS_CA_FILE": _quoted(folder / "ca.crt"),
        "REDIS_TLS_CERT_FILE": _quoted(folder / "client.crt"),
        "REDIS_TLS_KEY_FILE": _quoted(folder / "client.key"),
    }


def _variables(wanted: Quickstart, server: dict[str, bytes], api: dict[str, bytes], dashboard: dict[str, bytes]) -> dict[str, str]:
    memory = str(compose.memory_limit(wanted.maxmemory_bytes))
    # Bridges have at most 15 characters, as the kernel allows, and another one for each folder.
    mark = hashlib.sha256(bytes(wanted.folder)).hexdigest()[:10]
    values = {
        "COMPOSE_FILE": ":".join(compose_files(wanted)),
        "COMPOSE_PROJECT_NAME": wanted.project,
        "INTERNAL": "true",
        "INTERNAL_BRIDGE": f"rk-{mark}",
        "INTERNAL_GATEWAY": str(wanted.internal[1]),
        "INTERNAL_SUBNET": str(wanted.internal),
        "REDIS_ADDRESS": wanted.address,
        "REDIS_CONFIG": _CONFIG,
        "REDIS_CONFIG_FILE": "redis.conf",
        "REDIS_CONFIG_FOLDER": "./redis",
        "REDIS_CPUS": "1.0",
        "REDIS_DATA_FOLDER": f"./{DATA_FOLDER}",
        "REDIS_IMAGE": wanted.image,
        "REDIS_MEMORY": memory,
        "REDIS_OPEN_FILES": str(_MAX_CLIENTS + 1024),
        "REDIS_PORT": str(PORT),
        "REDIS_SERVER": f"{wanted.engine}-server",
        "REDIS_USER": wanted.user,
    }
    if wanted.published:
        values |= {"REDIS_PUBLISHED": str(wanted.published), "DOOR_ADDRESS": str(wanted.door[2]), "DOOR_SUBNET": str(wanted.door)}
    if wanted.api:
        values |= {
            "API_ADDRESS": str(wanted.internal[-2]),
            "API_EDGE_ADDRESS": str(wanted.edge[2]),
            "API_FOLDER": "./api",
            "API_GROUP": wanted.user.partition(":")[2],
            "API_IMAGE": wanted.api_image,
            "API_PUBLISHED": str(wanted.api),
            "API_STATE_FOLDER": f"./{STATE}",
            "API_USER": wanted.user,
            "EDGE_BRIDGE": f"rk-{mark}-e",
            "EDGE_GATEWAY": str(wanted.edge[1]),
            "EDGE_SUBNET": str(wanted.edge),
        }
        values["API_SPEC"] = compose.specification("api", values, *api.values(), source="compose.api.yaml")
    if wanted.dashboard:
        values |= {
            "DASHBOARD_EDGE_ADDRESS": str(wanted.edge[3]),
            "DASHBOARD_FOLDER": "./dashboard",
            "DASHBOARD_IMAGE": wanted.dashboard_image,
            "DASHBOARD_PUBLISHED": str(wanted.dashboard),
        }
        values["DASHBOARD_SPEC"] = compose.specification("dashboard", values, *dashboard.values(), source="compose.dashboard.yaml")
    # Files are read when a container starts: other files are another container, so that `up -d` is all there is to do.
    return values | {"REDIS_SPEC": compose.specification(compose.SERVICE, values, *server.values())}


def _configuration(plan: ServerPlan) -> bytes:
    lines = ["# Managed by redkeep: do not edit, `redkeep quickstart` writes it again."]
    for section in server_sections(plan):
        lines += ["", f"# {section.why}"]
        # An empty path of a socket is no directive.
        lines += [line(name, value) for name, value in section.settings.items() if value or name != "unixsocket"]
    return ("\n".join(lines) + "\n").encode()


def _environment(values: dict[str, str]) -> bytes:
    head = "# Made by `redkeep quickstart`: how an app on this machine reaches the cache. Secrets: keep it at mode 0600, out of git.\n"
    return (head + "".join(f"{name}={value}\n" for name, value in values.items())).encode()


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def own_networks(routes: str) -> Iterator[ipaddress.IPv4Network]:
    """The networks of /proc/net/route, but the default one. Columns: interface, destination, gateway, ..., mask at 7."""
    for text in routes.splitlines()[1:]:
        words = text.split()
        if len(words) > 7 and int(words[7], 16):
            address, mask = (int.from_bytes(bytes.fromhex(words[n]), "little") for n in (1, 7))
            yield ipaddress.IPv4Network((address & mask, mask.bit_count()))
