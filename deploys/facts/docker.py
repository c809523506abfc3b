"""The container engine of a host, and what of ours runs on it."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROJECT = "redkeep"
# What our images' names begin with. Without a host in front, compose and the engine would look for one that is gone in a public
# registry, where anybody may own the name.
IMAGES = f"localhost/{PROJECT}"
SETTINGS_FILE = "/etc/docker/daemon.json"

# Lines of an image's id, the version of the server in it, as the image itself told when it came, and the image's name.
VERSIONS = "/var/lib/redkeep/image-versions"

# The label that every container of our compose files has.
SPECIFICATION = "redkeep.spec"

_PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"

# Prints the engine's settings file as one line of JSON; a file that is none as the word "broken".
_READ_SETTINGS = f"""import json
try:
    print(json.dumps(json.load(open({SETTINGS_FILE!r}))))
except FileNotFoundError:
    print("{{}}")
except (ValueError, OSError):
    print("broken")"""

# Where the engine keeps its images, or will once it runs, as "$root", and the part of that path which is "$there" already.
_ROOT = f"""root=$(timeout 10 docker info --format '{{{{.DockerRootDir}}}}' 2>/dev/null)
[ -n "$root" ] || root=$(sed -n 's/.*"data-root": *"\\([^"]*\\)".*/\\1/p' {SETTINGS_FILE} 2>/dev/null)
root=${{root:-/var/lib/docker}}; there=$root; while [ ! -d "$there" ]; do there=$(dirname "$there"); done"""


@dataclass(frozen=True)
class Container:
    """One container of the stack, as `docker inspect` shows it."""

    raw: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.raw["Id"])

    @property
    def name(self) -> str:
        return str(self.raw["Name"]).lstrip("/")

    @property
    def service(self) -> str:
        return str(self.labels.get(_SERVICE_LABEL, ""))

    @property
    def labels(self) -> Mapping[str, str]:
        return self.raw["Config"].get("Labels") or {}

    @property
    def image(self) -> str:
        """The image's id."""
        return str(self.raw["Image"])

    @property
    def running(self) -> bool:
        return bool(self.raw["State"]["Running"]) and not self.raw["State"].get("Paused")

    @property
    def state(self) -> str:
        """ "running", "exited", "paused", ...; with the health check's word behind it when it is not well."""
        health = self.raw["State"].get("Health", {}).get("Status", "healthy")
        word = str(self.raw["State"]["Status"])
        return word if health == "healthy" or not self.running else f"{word} ({health})"

    @property
    def healthy(self) -> bool:
        """Running, and not found ill; one that has just been started counts as well until its check has said otherwise."""
        return self.running and self.raw["State"].get("Health", {}).get("Status", "healthy") != "unhealthy"

    @property
    def networks(self) -> Mapping[str, str]:
        """Its address on each network by the network's name; without one when it does not run."""
        return {n: str(v.get("IPAddress", "")) for n, v in (self.raw["NetworkSettings"].get("Networks") or {}).items()}

    @property
    def published(self) -> frozenset[int]:
        """The host's ports that lead to it."""
        bindings = (self.host.get("PortBindings") or {}).values()
        texts = [str(each.get("HostPort")) for binding in bindings for each in binding or ()]
        return frozenset(int(text) for text in texts if text.isdecimal())

    @property
    def host(self) -> Mapping[str, Any]:
        """HostConfig: limits, privileges, mounts."""
        found: Mapping[str, Any] = self.raw["HostConfig"]
        return found


@dataclass(frozen=True)
class Network:
    """One network of the engine, as `docker network inspect` shows it."""

    raw: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.raw["Name"])

    @property
    def internal(self) -> bool:
        return bool(self.raw.get("Internal"))

    @property
    def subnets(self) -> tuple[str, ...]:
        return tuple(str(c["Subnet"]) for c in (self.raw.get("IPAM") or {}).get("Config") or () if c.get("Subnet"))

    @property
    def options(self) -> Mapping[str, str]:
        return self.raw.get("Options") or {}

    @property
    def bridge(self) -> str:
        return self.options.get("com.docker.network.bridge.name", "")


@dataclass(frozen=True)
class DockerState:
    """``server`` is the engine's version, "" when none answers; ``compose`` the command that reads compose.yaml, "" when
    there is none; ``foreign`` the number of running containers that are not ours; ``env`` the stack's variables on disk;
    ``settings`` the content of daemon.json, None when it is no JSON object; ``source`` the SHA-256 of the server's files that an
    image is built from; ``identity`` the server's "uid:gid", ``app_identity`` that of the API, ``app_group`` the gid of the
    app's group; ``images`` ids by reference; ``versions`` what runs in each, by image id; ``noted`` the ids by reference as
    they were when the images came; ``processors`` how many; ``root`` where the engine keeps images, ``room`` the KiB
    that are free there, None when nobody knows."""

    server: str = ""
    compose: str = ""
    foreign: int = 0
    containers: tuple[Container, ...] = ()
    networks: tuple[Network, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    source: str = ""
    identity: str = ""
    app_identity: str = ""
    app_group: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict)
    processors: int = 1
    root: str = "/var/lib/docker"
    room: int | None = None
    routes: tuple[str, ...] = ()

    def container(self, service: str) -> Container | None:
        return next((c for c in self.containers if c.service == service), None)

    def network(self, name: str) -> Network | None:
        return next((n for n in self.networks if n.name == name), None)

    @property
    def version(self) -> tuple[int, int]:
        """(major, minor) of the engine; (0, 0) when none answers."""
        words = self.server.split(".")
        return (int(words[0]), int(words[1])) if len(words) > 1 and words[0].isdigit() and words[1].isdigit() else (0, 0)


def sections(stack: str, user: str, app: tuple[str, ...], binaries: Sequence[str], mark: str) -> Iterator[str]:
    """Shell that prints the sections which `docker_of` understands. ``app`` is the API's user and the app's group, or empty."""
    app_user, app_group = map(shlex.quote, app or ("", ""))
    yield f"""echo '{mark}docker'
echo "server $(timeout 10 docker version --format '{{{{.Server.Version}}}}' 2>/dev/null)"
if command -v docker-compose >/dev/null; then echo 'compose docker-compose'
elif docker compose version >/dev/null 2>&1; then echo 'compose docker compose'; fi
echo "identity $(id -u {user} 2>/dev/null):$(id -g {user} 2>/dev/null)"
echo "app-identity $(id -u {app_user} 2>/dev/null):$(id -g {app_user} 2>/dev/null)"
echo "app-group $(getent group {app_group} 2>/dev/null | cut -d: -f3)"
echo "processors $(nproc)"
{_ROOT}
echo "root $root"
echo "room $(df -kP "$there" 2>/dev/null | awk 'NR == 2 {{print $4}}')"
echo '{mark}versions'
cat {VERSIONS} 2>/dev/null
echo '{mark}stack'
cat {stack}/.env 2>/dev/null
echo '{mark}settings'
[ ! -x /usr/bin/python3 ] || /usr/bin/python3 -I -S -c {shlex.quote(_READ_SETTINGS)}
echo '{mark}routes'
ip -4 -o route show table main 2>/dev/null | cut -d' ' -f1
echo '{mark}source'
for f in {shlex.join(binaries)}; do [ ! -e $f ] || {{ echo $f; ldd $f 2>/dev/null | grep -o '/[^ ]*'; }}; done | LC_ALL=C sort -u |
    xargs -r sha256sum 2>/dev/null | sha256sum
if docker version >/dev/null 2>&1; then
    echo '{mark}running'; docker ps --quiet --no-trunc
    echo '{mark}containers'
    c=$(docker ps --all --quiet --filter label={_PROJECT_LABEL}={PROJECT}); [ -z "$c" ] || docker inspect $c
    echo '{mark}networks'
    docker network inspect $(docker network ls --quiet)
    echo '{mark}images'
    docker image ls --no-trunc --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.ID}}}}' '{IMAGES}/*' 2>/dev/null
fi"""


def docker_of(parts: Mapping[str, Sequence[str]]) -> DockerState:
    """Understand the output of ``sections``."""
    words = dict(line.partition(" ")[::2] for line in parts.get("docker", ()))
    text = "".join(parts.get("settings", ()))
    settings = None if text == "broken" else json.loads(text or "{}")
    containers = tuple(Container(raw) for raw in _json(parts.get("containers", ())))
    running = {line.strip() for line in parts.get("running", ()) if line.strip()}
    came = [line.split() for line in parts.get("versions", ())]
    return DockerState(
        server=words.get("server", ""),
        compose=words.get("compose", ""),
        foreign=len(running - {c.id for c in containers}),
        containers=containers,
        networks=tuple(Network(raw) for raw in _json(parts.get("networks", ()))),
        images={k: v for k, _, v in (line.strip().partition(" ") for line in parts.get("images", ())) if v},
        env={k: v for k, s, v in (line.partition("=") for line in parts.get("stack", ())) if s and k[:1] != "#"},
        settings=settings if isinstance(settings, dict) else None,
        source="".join(parts.get("source", ()))[:64],
        identity=_identity(words.get("identity", "")),
        app_identity=_identity(words.get("app-identity", "")),
        app_group=words.get("app-group", ""),
        processors=int(words.get("processors", "1") or 1),
        versions={line[0]: line[1] for line in came if len(line) > 1},
        noted={line[2]: line[0] for line in came if len(line) > 2},
        root=words.get("root") or "/var/lib/docker",
        room=int(room) if (room := words.get("room")) else None,
        routes=tuple(line for line in map(str.strip, parts.get("routes", ())) if _is_network(line)),
    )


def _identity(text: str) -> str:
    """A "uid:gid" that is whole."""
    return text if all(text.partition(":")[::2]) else ""


def _json(lines: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return list(json.loads("\n".join(lines) or "[]"))
    except ValueError:
        return []


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
