"""The stack of containers as values: its networks, the variables of compose.yaml and what each container must look like."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploys.bundle import Bundle
from deploys.facts.docker import PROJECT, SPECIFICATION, Container, DockerState, Network
from deploys.knobs import bytes_of
from redkeep.errors import ConfigurationError
from redkeep.stack import compose

FOLDER = "/etc/redkeep/stack"
ENV = f"{FOLDER}/.env"
COMPOSE = f"{FOLDER}/compose.yaml"
INTERNAL = f"{PROJECT}_internal"
BRIDGE = f"{PROJECT}-in"
EDGE = f"{PROJECT}_edge"
EDGE_BRIDGE = f"{PROJECT}-edge"
SERVICE = compose.SERVICE
API_FOLDER = "/etc/redkeep/api"
API_STATE = "/var/lib/redkeep-api"
DASHBOARD_FOLDER = "/etc/redkeep/dashboard"

# What the API and the dashboard listen on inside their containers.
API_PORT = 8765
DASHBOARD_PORT = 8501

# Where a free network is looked for: a corner of 10.0.0.0/8 that neither Docker nor common routers hand out, and another one
# for hosts with a route to all of 10.0.0.0/8.
_POOLS = (ipaddress.IPv4Network("10.213.0.0/16"), ipaddress.IPv4Network("192.168.213.0/24"))
_LENGTH = 28


@dataclass(frozen=True)
class Plan:
    """The networks of one host: the server's, and that of what people reach."""

    internal: ipaddress.IPv4Network
    edge: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        return str(self.internal[1])

    @property
    def redis(self) -> str:
        """The server's address."""
        return str(self.internal[2])

    @property
    def api(self) -> str:
        """The API's address on the edge."""
        return str(self.edge[2])

    @property
    def dashboard(self) -> str:
        """The dashboard's, on the edge alone."""
        return str(self.edge[3])


def plan(bundle: Bundle, docker: DockerState) -> Plan:
    """The networks that are wanted: the knob's, or the ones in use already, or the first free ones.

    Raises ConfigurationError for a network that something else on the host has, and where none is free.
    """
    internal = _network(bundle, docker, "container_subnet", "INTERNAL_SUBNET", [])
    return Plan(internal, _network(bundle, docker, "container_edge_subnet", "EDGE_SUBNET", [internal]))


def _network(
    bundle: Bundle, docker: DockerState, knob: str, variable: str, others: list[ipaddress.IPv4Network]
) -> ipaddress.IPv4Network:
    taken = _taken(docker) + others
    if wanted := getattr(bundle.knobs, knob):
        network = ipaddress.IPv4Network(wanted)
        clash = next((other for other in taken if other.overlaps(network)), None)
        if clash is not None:
            raise ConfigurationError(f"{knob} {wanted} overlaps with {clash}, which {bundle.name} uses: choose another.")
        return network
    recorded = _recorded(docker, variable)
    if recorded and not any(recorded.overlaps(other) for other in others):
        return recorded
    for candidate in (subnet for pool in _POOLS for subnet in pool.subnets(new_prefix=_LENGTH)):
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    pools = " and ".join(map(str, _POOLS))
    raise ConfigurationError(f"no network is free in {pools} on {bundle.name}: name one with {knob}.")


def _recorded(docker: DockerState, variable: str) -> ipaddress.IPv4Network | None:
    """The network that the stack has: as noted, or as the engine shows it where somebody garbled the note."""
    live = docker.network(INTERNAL if variable == "INTERNAL_SUBNET" else EDGE)
    for text in (docker.env.get(variable, ""), *(live.subnets if live else ())):
        try:
            return ipaddress.IPv4Network(text)
        except ValueError:
            continue
    return None


def _taken(docker: DockerState) -> list[ipaddress.IPv4Network]:
    """Networks of the host that are not this stack's."""
    own = {subnet for network in docker.networks if network.name in (INTERNAL, EDGE) for subnet in network.subnets}
    # An engine that is stopped shows no networks, and leaves its bridges behind.
    own |= {docker.env[name] for name in ("INTERNAL_SUBNET", "EDGE_SUBNET") if name in docker.env and not docker.server}
    texts = [s for network in docker.networks if network.name not in (INTERNAL, EDGE) for s in network.subnets]
    texts += [route for route in docker.routes if route not in own]
    if not docker.server:
        texts.append(_default_bridge(docker))
    found = [ipaddress.ip_network(text, strict=False) for text in texts]
    return [network for network in found if isinstance(network, ipaddress.IPv4Network)]


def _default_bridge(docker: DockerState) -> str:
    """The network of docker0 that an engine will make at its first start, or an engine that is stopped makes again."""
    chosen = str((docker.settings or {}).get("bip") or "")
    try:
        return str(ipaddress.ip_interface(chosen).network)
    except ValueError:
        return "172.17.0.0/16"


def variables(bundle: Bundle, docker: DockerState, *, image: str, memory_bytes: int) -> dict[str, str]:
    """The variables of compose.yaml for one host; none is a secret.

    ``image`` is the server's image, ``memory_bytes`` the host's memory.
    """
    knobs, engine, networks = bundle.knobs, bundle.engine, plan(bundle, docker)
    values = {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "INTERNAL": "true",
        "INTERNAL_BRIDGE": BRIDGE,
        "INTERNAL_GATEWAY": networks.gateway,
        "INTERNAL_SUBNET": str(networks.internal),
        "REDIS_ADDRESS": networks.redis,
        "REDIS_CONFIG": engine.folder,
        "REDIS_CONFIG_FILE": engine.config.rpartition("/")[2],
        "REDIS_CONFIG_FOLDER": engine.folder,
        "REDIS_CPUS": processors(bundle, docker.processors),
        "REDIS_DATA_FOLDER": engine.data_folder,
        "REDIS_IMAGE": image,
        "REDIS_MEMORY": str(memory_limit(bundle, memory_bytes)),
        "REDIS_OPEN_FILES": str(knobs.redis_maxclients + 1024),
        "REDIS_PORT": str(knobs.redis_tls_port),
        "REDIS_SERVER": engine.package,
        "REDIS_USER": docker.identity,
    }
    return values | {"REDIS_SPEC": compose.specification(compose.SERVICE, values)}


def compose_files(bundle: Bundle) -> tuple[str, ...]:
    """What compose reads, in this order."""
    parts = {"api": bundle.api_in_container, "dashboard": bundle.has_dashboard}
    return ("compose.yaml", *(f"compose.{name}.yaml" for name, there in parts.items() if there))


def app_variables(bundle: Bundle, docker: DockerState, images: Mapping[str, str], read: Mapping[str, bytes]) -> dict[str, str]:
    """The variables of the API and the dashboard, where they are wanted; none is a secret.

    ``images`` are their images by service, ``read`` tells what each reads when it starts.
    """
    if not bundle.api_in_container:
        return {}
    knobs, networks = bundle.knobs, plan(bundle, docker)
    values = {
        "API_ADDRESS": str(networks.internal[-2]),
        "API_EDGE_ADDRESS": networks.api,
        "API_FOLDER": API_FOLDER,
        "API_GROUP": docker.app_group,
        "API_IMAGE": images["api"],
        "API_PUBLISHED": str(knobs.api_port),
        "API_STATE_FOLDER": API_STATE,
        "API_USER": docker.app_identity,
        "COMPOSE_FILE": ":".join(compose_files(bundle)),
        "EDGE_BRIDGE": EDGE_BRIDGE,
        "EDGE_GATEWAY": str(networks.edge[1]),
        "EDGE_SUBNET": str(networks.edge),
    }
    if bundle.has_dashboard:
        values |= {
            "DASHBOARD_EDGE_ADDRESS": networks.dashboard,
            "DASHBOARD_FOLDER": DASHBOARD_FOLDER,
            "DASHBOARD_IMAGE": images["dashboard"],
            "DASHBOARD_PUBLISHED": str(knobs.dashboard_port),
        }
    specs = {
        f"{name.upper()}_SPEC": compose.specification(name, values, content, source=f"compose.{name}.yaml")
        for name, content in read.items()
    }
    return values | specs


def processors(bundle: Bundle, there: int) -> str:
    """How many of the host's processors the server's container may use. The engine refuses more than are there."""
    if not (wanted := bundle.knobs.container_cpus):
        return str(float(max(1, min(2, there - 1))))
    if float(wanted) > there:
        has = f"{there} processors" if there > 1 else "one processor"
        raise ConfigurationError(f"container_cpus {wanted} is more than the {has} of {bundle.name}: lower it, or leave it empty.")
    return wanted


def memory_limit(bundle: Bundle, memory_bytes: int) -> int:
    """Bytes that the server's container may take: a half more than its data, and a little."""
    data = bundle.knobs.maxmemory_bytes(memory_bytes)
    if wanted := bundle.knobs.container_memory:
        limit = bytes_of(wanted)
        if limit < data + compose.OVERHEAD:
            raise ConfigurationError(
                f"container_memory {wanted} leaves too little room beside redis_maxmemory ({data // 1024**2} MiB): "
                f"give it {(data + compose.OVERHEAD) // 1024**2 + 1}mb or more, or lower redis_maxmemory."
            )
        return limit
    return compose.memory_limit(data)


def network_faults(network: Network, *, subnet: str, bridge: str, internal: bool) -> Iterator[str]:
    """What is wrong with a network that is there."""
    if network.internal != internal:
        yield "has no outside access" if network.internal else "has outside access"
    if network.subnets != (subnet,):
        yield f"has the addresses {' '.join(network.subnets) or 'none'}, wanted {subnet}"
    if network.bridge != bridge:
        yield f"has the bridge {network.bridge or 'without a name'}, wanted {bridge}"
    extra = sorted(set(network.options) - {"com.docker.network.bridge.name"})
    if extra:
        yield f"has options that are not wanted: {' '.join(extra)}"


@dataclass(frozen=True)
class Service:
    """What one container shall be. ``spec`` stands for its text and what it reads at its start, ``limits`` are the bytes of
    memory, processors and processes that it may take, ``port`` leads from one of 127.0.0.1 to its own, 0 for none."""

    name: str
    image: str
    spec: str
    user: str
    limits: compose.Limits
    networks: frozenset[str]
    port: int = 0
    published: int = 0


def services(bundle: Bundle, values: Mapping[str, str]) -> tuple[Service, ...]:
    """The containers of this host, in the order in which they start."""
    server = compose.Limits(int(values["REDIS_MEMORY"]), float(values["REDIS_CPUS"]), compose.SERVER_PROCESSES)
    inside, outside = frozenset({INTERNAL}), frozenset({EDGE})
    found = [Service(SERVICE, values["REDIS_IMAGE"], values["REDIS_SPEC"], values["REDIS_USER"], server, inside)]
    for name, there, networks, port in (
        ("api", bundle.api_in_container, inside | outside, API_PORT),
        ("dashboard", bundle.has_dashboard, outside, DASHBOARD_PORT),
    ):
        if there:
            image, spec, published = (values[f"{name.upper()}_{what}"] for what in ("IMAGE", "SPEC", "PUBLISHED"))
            limits = compose.LIMITS[name]
            found.append(Service(name, image, spec, values["API_USER"], limits, networks, port, int(published)))
    return tuple(found)


def container_faults(container: Container, wanted: Service, image_id: str) -> Iterator[str]:
    """What is wrong with a container that no restart mends: it must be made anew."""
    if container.labels.get(SPECIFICATION) != wanted.spec:
        yield "was created from another specification"
        return
    if image_id and container.image != image_id:
        yield "uses another image"
    host = container.host
    fixed = {
        "Memory": wanted.limits.memory,
        "MemorySwap": wanted.limits.memory,
        "NanoCpus": int(wanted.limits.cpus * 10**9),
        "PidsLimit": wanted.limits.processes,
        "ReadonlyRootfs": True,
        "Privileged": False,
    }
    for name, value in fixed.items():
        if host.get(name) != value:
            yield f"has {name} {host.get(name)}, wanted {value}"
    restart = host.get("RestartPolicy") or {}
    if (restart.get("Name"), restart.get("MaximumRetryCount")) != ("on-failure", 5):
        yield f"has the restart policy {restart.get('Name') or 'no'}, wanted on-failure:5"
    if set(map(_bare, host.get("CapDrop") or ())) != {"ALL"} or host.get("CapAdd"):
        yield "has capabilities"
    if not any(option.startswith("no-new-privileges") for option in host.get("SecurityOpt") or ()):
        yield "may gain privileges"
    there = [{"HostIp": "127.0.0.1", "HostPort": str(wanted.published)}]
    if (host.get("PortBindings") or {}) != ({f"{wanted.port}/tcp": there} if wanted.port else {}):
        yield "publishes other ports than it should" if wanted.port else "publishes a port"
    if container.raw["Config"].get("User") != wanted.user:
        yield f"runs as {container.raw['Config'].get('User') or 'root'}, wanted {wanted.user}"
    for name in sorted(set(container.networks) - wanted.networks):
        yield f"is also on the network {name}"
    for name in sorted(wanted.networks - set(container.networks)):
        yield f"is not on the network {name}"


def _bare(capability: str) -> str:
    return capability.removeprefix("CAP_")
