"""What must hold before anything is changed; each refusal is one sentence with the next step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyinfra import host
from pyinfra.api import DeployError

from deploys import stack
from deploys.engine import ENGINES
from deploys.facts.survey import Question, Survey, certificates_of
from deploys.migration.window import OPEN
from deploys.site import Site
from deploys.stages import api, app_containers, application, container_engine, containers, machine, network, server, watch
from deploys.stages import wanted as server_wanted
from redkeep.errors import RedkeepError

# Certificates are backdated by five minutes; a clock further off makes them invalid, or its own times worthless.
CLOCK_SECONDS = 300

# Addresses on which another program keeps a port of 127.0.0.1 from us, as ss writes them.
EVERYWHERE = ("127.0.0.1", "0.0.0.0", "*", "[::ffff:127.0.0.1]")  # noqa: S104 # nosec B104 - compared, never bound here

STAGES = (machine, container_engine, containers, server, network, watch, application, api, app_containers)


def question(site: Site) -> Question:
    """Everything that all stages compare, as one question."""
    asked = Question(files=(OPEN,)) if site.bundle.is_redis else Question()
    for stage in STAGES:
        asked |= stage.question(site)
    return asked


def preflight(site: Site) -> None:
    """Raise DeployError for a host that cannot be deployed to as it is."""
    _hold(
        site,
        (
            distribution,
            memory,
            clock,
            port,
            app_ports,
            accounts,
            api.problem,
            open_migration,
            foreign_server,
            foreign_secrets,
            container,
            wanted,
        ),
    )


def usable(site: Site) -> None:
    """The same for a host whose Redis is being migrated."""
    _hold(site, (distribution, memory, clock, port, app_ports, accounts, api.problem, foreign_secrets, container, wanted))


def _hold(site: Site, checks: Sequence[Callable[[Site, Survey], str]]) -> None:
    survey = site.survey()
    for check in checks:
        if problem := check(site, survey):
            raise DeployError(f"{site.bundle.name}: {problem}")
    site.keep_secrets()


def wanted(site: Site, survey: Survey) -> str:
    """Work out what will be written: a wrong address or certificate is found here, not half way."""
    try:
        if site.bundle.is_redis:
            server_wanted.settings(site, survey)
            server_wanted.users(site, survey)
            site.credentials.client("operator", site.bundle.name)
        if site.bundle.is_app:
            site.credentials.client("cache_service", site.bundle.name)
            application.values(site, survey)
            api.unit_text(site, survey)
    except RedkeepError as error:
        return str(error)
    return ""


def distribution(site: Site, survey: Survey) -> str:
    name, like = survey.host.get("id", ""), survey.host.get("like", "")
    release = survey.host.get("release", "")
    if name != "debian" and "debian" not in like.split():
        return f"the system is {name or 'unknown'}, not Debian or a derivative: Redkeep deploys to Debian 12 and later."
    if name == "debian" and release.isdigit() and int(release) < 12:
        return f"Debian {release} ships a Redis before 7.0: upgrade the host to Debian 12 or later."
    if (
        name == "debian"
        and site.bundle.is_redis
        and site.bundle.engine.name == "valkey"
        and release.isdigit()
        and int(release) < 13
    ):
        return "Valkey comes with Debian 13 and later: upgrade the host, or set redis_engine to redis."
    return ""


def memory(site: Site, survey: Survey) -> str:
    least = site.bundle.knobs.minimum_memory_mib
    found = survey.memory_bytes // 1024**2
    if found < least:
        return f"{found} MiB of memory is less than minimum_memory_mib ({least}): give the host more memory, or lower the knob."
    if site.bundle.is_redis and site.bundle.knobs.maxmemory_bytes(survey.memory_bytes) > survey.memory_bytes * 9 // 10:
        return f"redis_maxmemory leaves too little of the host's {found} MiB for the system: lower it below 90%."
    return ""


def clock(site: Site, survey: Survey) -> str:
    off = int(survey.host.get("time", "0")) - time.time()
    if abs(off) > CLOCK_SECONDS:
        hours = f"{abs(off) / 3600:.1f} hours {'ahead' if off > 0 else 'behind'}"
        return f"its clock is {hours}, so certificates would be rejected: set the clock (apt install systemd-timesyncd)."
    return ""


def port(site: Site, survey: Survey) -> str:
    if not site.bundle.is_redis:
        return ""
    for address, process in survey.sockets:
        if process and process != site.bundle.engine.package:
            if survey.file(machine.MANAGED).kind and process in {engine.package for engine in ENGINES.values()}:
                return f"it runs {process} from an earlier deploy: to change redis_engine, run deploys/destroy.py with the old engine first."
            return f"{address} is in use by {process}: stop it, or choose another redis_tls_port."
    return ""


def app_ports(site: Site, survey: Survey) -> str:
    """The ports of the loopback address for the API and the dashboard: whoever has one of them and is not ours is named."""
    knobs, shown = {port: knob for knob, port in api.ports(site).items()}, [c for c in survey.docker.containers if c.running]
    mine = {port for container in shown for port in container.published}
    going = not site.bundle.in_container and bool(survey.file(stack.COMPOSE).kind)
    for found in survey.listeners:
        by_engine = found.process in ("dockerd", "docker-proxy") and (going or found.port in mine)
        by_service = found.uid == survey.users.get(api.USER)
        if found.address in EVERYWHERE and found.port in knobs and not by_engine and not by_service:
            return (
                f"{found.address}:{found.port} is in use by {found.process or 'another program'}: stop it, or choose another "
                f"{knobs[found.port]}."
            )
    return ""


def open_migration(site: Site, survey: Survey) -> str:
    """In between the host is neither as it was nor as it shall be: only a migration's own verbs know it then."""
    if not survey.file(OPEN).kind:
        return ""
    return "a migration is under way: finish it with deploys/migrate.py, or undo it with deploys/rollback.py."


def foreign_server(site: Site, survey: Survey) -> str:
    """A Redis that somebody uses is not ours to change; one that was only installed is."""
    engine = site.bundle.engine
    if not site.bundle.is_redis or survey.file(machine.MANAGED).kind or engine.package not in survey.packages:
        return ""
    ok, lines, _ = site.run(USAGE.format(engine=engine))
    signs = [line for line in lines if line.strip()]
    if not ok:
        signs = ["its state could not be read"]
    if signs:
        return (
            f"a {engine.package} that Redkeep did not make is in use here ({'; '.join(signs)}), and it was not touched: "
            "deploys/migrate.py migrates a server in use, stage by stage (docs/migration.md); or remove the package and its data first."
        )
    return ""


def foreign_secrets(site: Site, survey: Survey) -> str:
    """A host that trusts only other authorities was set up from another secrets folder: all its keys would change."""
    ours = certificates_of(site.credentials.trust_bundle.decode())
    if not survey.authorities or survey.authorities & ours or host.data.get("replace_secrets") == "yes":
        return ""
    return (
        f"it was set up with other secrets than those in secrets/{site.environment}: copy that folder here from whoever deployed "
        "last. To give it new passwords and keys instead, which makes stored values unreadable, add --data replace_secrets=yes."
    )


def container(site: Site, survey: Survey) -> str:
    if not site.bundle.in_container:
        return ""
    return container_engine.problem(site, survey) or containers.problem(site, survey)


def accounts(site: Site, survey: Survey) -> str:
    if site.bundle.is_app:
        for user in site.bundle.knobs.app_users:
            if user not in survey.users:
                return f"there is no user {user} here: create it first, or remove it from app_users."
    return ""


# Prints a line for each sign of use. An empty snapshot, as a clean stop leaves it, is no sign: it has about 90 bytes.
USAGE = """set -u; LC_ALL=C; export LC_ALL
was=$(dpkg-query -W -f '${{Conffiles}}' {engine.package} | awk '$1 == "{engine.config}" {{print $2}}')
[ "$was" = "$(md5sum < {engine.config} | cut -d' ' -f1)" ] || echo 'its configuration was changed'
size=$(find {engine.data_folder} -type f -size +256c -printf x 2>/dev/null | wc -c)
[ "$size" = 0 ] || echo 'it keeps data on disk'
[ "$(pgrep -cx {engine.package})" -le 1 ] || echo 'more than one server is running'
if pgrep -x {engine.package} >/dev/null; then
    if [ "$({engine.cli} PING 2>/dev/null)" != PONG ]; then echo 'it runs but does not answer on its default port'; else
    keys=$({engine.cli} INFO keyspace | grep -c '^db'); [ "$keys" = 0 ] || echo 'it contains keys'
    clients=$({engine.cli} CLIENT LIST | grep -c .); [ "$clients" -le 1 ] || echo 'clients are connected'; fi
fi
"""
