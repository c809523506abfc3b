"""What is wanted of the server: its addresses, certificate, users, settings and sandbox, as values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address

from pyinfra.api import DeployError

from deploys.bundle import LOOPBACK, UNSPECIFIED, resolve
from deploys.facts.survey import Survey
from deploys.rendering import render
from deploys.server_settings import Section, flatten, server_settings
from deploys.site import Site
from deploys.stack import SERVICE, plan
from deploys.stages import image
from redkeep.access.acl import AclUser, build_users
from redkeep.crypto.pki import Leaf
from redkeep.errors import ConfigurationError

CLI = "/usr/local/sbin/redkeep-cli"
OPERATOR = "/etc/redkeep/operator"
DROP_IN = "etc/systemd/system/redis-server.service.d/redkeep.conf"


def cli_address(site: Site, survey: Survey) -> str:
    """Where the host itself reaches its Redis."""
    if site.bundle.in_container:
        return plan(site.bundle, survey.docker).redis
    return native_address(site)


def app_address(site: Site, survey: Survey) -> str:
    """Where the host's app reaches its Redis, by a name or address of the server's certificate."""
    return cli_address(site, survey) if site.bundle.in_container else site.bundle.app_redis_address


def native_address(site: Site) -> str:
    """Where the host reaches a Redis that is its own service."""
    bind = site.bundle.knobs.redis_bind
    return "127.0.0.1" if not bind or "127.0.0.1" in bind or UNSPECIFIED[0] in bind else bind[0]


def addresses(site: Site, survey: Survey) -> tuple[str, ...]:
    try:
        if site.bundle.in_container:
            return (LOOPBACK[0], plan(site.bundle, survey.docker).redis)
        return site.bundle.bind_addresses(survey.addresses)
    except ConfigurationError as error:
        raise DeployError(str(error)) from None


def leaf(site: Site, survey: Survey) -> Leaf:
    """The server's certificate: every name and address it is reached by."""
    return site.credentials.server(site.bundle.name, sorted(_names(site, survey)))


def _names(site: Site, survey: Survey) -> set[str]:
    bundle = site.bundle
    names = {"localhost", "127.0.0.1", survey.host.get("hostname", ""), bundle.redis_address, *bundle.knobs.tls_names}
    names |= {address for address in addresses(site, survey) if address not in UNSPECIFIED}
    if not bundle.is_local:
        names.add(bundle.name)
    if bundle.in_container:
        names.add(SERVICE)
    return set(filter(None, names))


def certificate_folder(site: Site, certificate: Leaf) -> str:
    digest = hashlib.sha256(certificate.cert_pem + site.credentials.trust_bundle).hexdigest()[:16]
    return f"{site.bundle.engine.tls_folder}/{digest}"


def users(site: Site, survey: Survey) -> tuple[AclUser, ...]:
    return build_users(
        engine=site.bundle.engine.name,
        version=version(site, survey),
        hashes=site.credentials.hashes,
        client_tracking=site.bundle.knobs.cache_tracking,
    )


def version(site: Site, survey: Survey) -> tuple[int, int]:
    """The installed server's version; the oldest we support, before it is installed."""
    engine = site.bundle.engine
    text = survey.packages.get(engine.package, engine.oldest).rpartition(":")[2]
    if site.bundle.in_container:
        text = survey.docker.versions.get(image.identity(site, survey), engine.oldest)
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def settings(site: Site, survey: Survey) -> dict[str, str]:
    return flatten(sections(site, survey))


def sections(site: Site, survey: Survey) -> tuple[Section, ...]:
    return server_settings(
        site.bundle,
        addresses=addresses(site, survey),
        memory_bytes=survey.memory_bytes,
        certificates=certificate_folder(site, leaf(site, survey)),
    )


def _called_by(site: Site, survey: Survey) -> Sequence[str]:
    """The addresses at which the host may call its own Redis. Of a server on every address those that a name in its certificate
    stands for: others come and go with the host's containers and its day, and each would be a restart."""
    bound = addresses(site, survey)
    if not set(UNSPECIFIED) & set(bound):
        return bound
    found = {address for name in _names(site, survey) for address in _resolved(name)}
    return sorted(found & set(survey.addresses))


@cache
def _resolved(name: str) -> tuple[str, ...]:
    return tuple(resolve(name))


def drop_in_text(site: Site, survey: Survey) -> bytes:
    knobs = site.bundle.knobs
    own = [address for address in _called_by(site, survey) if not ip_address(address).is_loopback]
    values = {
        "engine": site.bundle.engine,
        "beyond_loopback": site.bundle.listens_beyond_loopback,
        "firewall": knobs.firewall and site.bundle.listens_beyond_loopback,
        "open_files": knobs.redis_maxclients + 1024,
        # Itself by its own address too: a packet from there to there carries it on both ends.
        "reachable": ["localhost", *own, *site.bundle.client_addresses],
    }
    digest = hashlib.sha256(render(DROP_IN, digest="", **values)).hexdigest()[:16]
    return render(DROP_IN, digest=digest, **values)


def sandbox_digest(site: Site, survey: Survey) -> str:
    return drop_in_text(site, survey).partition(b"REDKEEP_SANDBOX=")[2].split(b"\n")[0].decode()
