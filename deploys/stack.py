"""The stack of containers as values: its networks, the variables of compose.yaml and what each container must look like."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deploys.bundle import Bundle
from deploys.facts.docker import PROJECT, Container, DockerState, Network
from deploys.knobs import bytes_of
from redkeep.errors import ConfigurationError
from redkeep.stack import compose

FOLDER = "/etc/redkeep/stack"
ENV = f"{FOLDER}/.env"
COMPOSE = f"{FOLDER}/compose.yaml"
INTERNAL = f"{PROJECT}_internal"
BRIDGE = f"{PROJECT}-in"
SERVICE = compose.SERVICE

# Where a free network is looked for: a corner of 10.0.0.0/8 that neither Docker nor common routers hand out.
_POOL = ipaddress.IPv4Network("10.213.0.0/16")
_LENGTH = 28


@dataclass(frozen=True)
class Plan:
    """The networks of one host."""

    internal: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        return str(self.internal[1])

    @property
    def redis(self) -> str:
        """The server's address."""
        return str(self.internal[2])


def plan(bundle: Bundle, docker: DockerState) -> Plan:
    """The networks that are wanted: the knob's, or the ones in use already, or the first free ones.

    Raises ConfigurationError for a network that something else on the host has.
    """
    taken = _taken(docker)
    if wanted := bundle.knobs.container_subnet:
        network = ipaddress.IPv4Network(wanted)
        clash = next((other for other in taken if other.overlaps(network)), None)
        if clash is not None:
            raise ConfigurationError(
                f"container_subnet {wanted} overlaps with {clash}, which {bundle.name} uses: choose another."
            )
        return Plan(network)
    if recorded := docker.env.get("INTERNAL_SUBNET"):
        return Plan(ipaddress.IPv4Network(recorded))
    free = (n for n in _POOL.subnets(new_prefix=_LENGTH) if not any(n.overlaps(other) for other in taken))
    return Plan(next(free))


def _taken(docker: DockerState) -> list[ipaddress.IPv4Network]:
    """Networks of the host that are not this stack's."""
    own = {subnet for network in docker.networks if network.name == INTERNAL for subnet in network.subnets}
    texts = [s for network in docker.networks if network.name != INTERNAL for s in network.subnets]
    texts += [route for route in docker.routes if route not in own]
    found = [ipaddress.ip_network(text) for text in texts]
    return [network for network in found if isinstance(network, ipaddress.IPv4Network)]


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
        "REDIS_CPUS": knobs.container_cpus or str(float(max(1, min(2, docker.processors - 1)))),
        "REDIS_DATA_FOLDER": engine.data_folder,
        "REDIS_IMAGE": image,
        "REDIS_MEMORY": str(memory_limit(bundle, memory_bytes)),
        "REDIS_OPEN_FILES": str(knobs.redis_maxclients + 1024),
        "REDIS_PORT": str(knobs.redis_tls_port),
        "REDIS_SERVER": engine.package,
        "REDIS_USER": docker.identity,
    }
    return values | {"REDIS_SPEC": compose.specification(compose.SERVICE, values)}


def memory_limit(bundle: Bundle, memory_bytes: int) -> int:
    """Bytes that the server's container may take: a half more than its data, and a little."""
    data = bundle.knobs.maxmemory_bytes(memory_bytes)
    if wanted := bundle.knobs.container_memory:
        limit = bytes_of(wanted)
        if limit < data + compose.OVERHEAD:
            raise ConfigurationError(
                f"container_memory {wanted} leaves no room beside redis_maxmemory ({data // 1024**2} MiB): "
                f"give it {(data + compose.OVERHEAD) // 1024**2 + 1}mb at least, or lower redis_maxmemory."
            )
        return limit
    return compose.memory_limit(data)


def network_faults(network: Network, values: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a network that is there."""
    if not network.internal:
        yield "has a way out"
    if network.subnets != (values["INTERNAL_SUBNET"],):
        yield f"has the addresses {' '.join(network.subnets) or 'none'}, wanted {values['INTERNAL_SUBNET']}"
    if network.bridge != values["INTERNAL_BRIDGE"]:
        yield f"has the bridge {network.bridge or 'of no name'}, wanted {values['INTERNAL_BRIDGE']}"
    extra = sorted(set(network.options) - {"com.docker.network.bridge.name"})
    if extra:
        yield f"has options that are not wanted: {' '.join(extra)}"


def container_faults(container: Container, values: Mapping[str, str], image_id: str) -> Iterator[str]:
    """What is wrong with the server's container that no restart mends: it must be made anew."""
    if container.labels.get("redkeep.spec") != values["REDIS_SPEC"]:
        yield "was made from another specification"
        return
    if image_id and container.image != image_id:
        yield "has another image"
    host = container.host
    wanted = {
        "Memory": int(values["REDIS_MEMORY"]),
        "MemorySwap": int(values["REDIS_MEMORY"]),
        "NanoCpus": int(float(values["REDIS_CPUS"]) * 10**9),
        "PidsLimit": 64,
        "ReadonlyRootfs": True,
        "Privileged": False,
        "NetworkMode": INTERNAL,
    }
    for name, value in wanted.items():
        if host.get(name) != value:
            yield f"has {name} {host.get(name)}, wanted {value}"
    restart = host.get("RestartPolicy") or {}
    if (restart.get("Name"), restart.get("MaximumRetryCount")) != ("on-failure", 5):
        yield f"has the restart policy {restart.get('Name') or 'no'}, wanted on-failure:5"
    if set(map(_bare, host.get("CapDrop") or ())) != {"ALL"} or host.get("CapAdd"):
        yield "has capabilities"
    if not any(option.startswith("no-new-privileges") for option in host.get("SecurityOpt") or ()):
        yield "may gain privileges"
    if host.get("PortBindings"):
        yield "publishes a port"
    if container.raw["Config"].get("User") != values["REDIS_USER"]:
        yield f"runs as {container.raw['Config'].get('User') or 'root'}, wanted {values['REDIS_USER']}"
    yield from _network_membership(container.networks)


def _network_membership(networks: Iterable[str]) -> Iterator[str]:
    for name in sorted(set(networks) - {INTERNAL}):
        yield f"is on the network {name} as well"
    if INTERNAL not in networks:
        yield f"is not on the network {INTERNAL}"


def _bare(capability: str) -> str:
    return capability.removeprefix("CAP_")
