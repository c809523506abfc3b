"""The stack on a host: its files, its network, its containers, and the unit that starts it at boot."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from pyinfra.api import deploy

from deploys import stack
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.docker import IMAGES, PROJECT, SETTINGS_FILE, SPECIFICATION, VERSIONS
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stack import SERVICE
from deploys.stages import app_containers, app_images, image
from deploys.stages.wanted import CLI
from redkeep.errors import RedkeepError
from redkeep.stack.compose import env_text, text

UNIT = "redkeep-stack.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
LOADER = "/usr/local/sbin/redkeep-stack"
# An API is there after a second or two, a dashboard after five; a busy machine takes its time.
PATIENCE_SECONDS = 90
COMPOSE_FILES = ("compose.yaml", "compose.api.yaml", "compose.dashboard.yaml")


def question(site: Site) -> Question:
    engine = site.bundle.engine
    if not site.bundle.in_container:
        return Question(files=(stack.FOLDER, stack.COMPOSE, UNIT_FILE, LOADER)) if site.bundle.is_redis else Question()
    compose_files = (f"{stack.FOLDER}/{name}" for name in COMPOSE_FILES)
    return Question(
        files=(stack.FOLDER, *compose_files, stack.ENV, stack.DASHBOARD_FOLDER, UNIT_FILE, LOADER, SETTINGS_FILE),
        units=(UNIT,),
        stack=stack.FOLDER,
        stack_user=engine.user,
        binaries=image.binaries(engine),
    )


def values(site: Site, survey: Survey) -> dict[str, str]:
    """The variables of the compose files."""
    name = image.reference(site, survey)
    server = stack.variables(site.bundle, survey.docker, image=name, memory_bytes=survey.memory_bytes)
    return server | app_containers.variables(site, survey)


def identity(site: Site, survey: Survey, service: str) -> str:
    """The id of the image that a service's container shall have; "" while the host does not have it."""
    return image.identity(site, survey) if service == SERVICE else app_images.identity(site, survey, service)


def compose(arguments: str) -> str:
    """Shell that gives the stack to whichever compose the host has: the same file for both."""
    return f"{LOADER} {arguments}"


def stack_files(site: Site, survey: Survey) -> Iterator[Difference]:
    """The compose files and their variables, which name the files: they come last."""
    yield from folder_differences([(stack.FOLDER, "root", "root", "0750")], survey)
    files = [
        ManagedFile(LOADER, render("usr/local/sbin/redkeep-stack", folder=stack.FOLDER, project=PROJECT), mode="0750"),
        *(ManagedFile(f"{stack.FOLDER}/{name}", text(name), mode="0640") for name in stack.compose_files(site.bundle)),
        ManagedFile(stack.ENV, env_text(values(site, survey)), mode="0640"),
    ]
    yield from file_differences(files, survey)
    unit = render("etc/systemd/system/redkeep-stack.service", loader=LOADER)
    yield from file_differences([ManagedFile(UNIT_FILE, unit)], survey, after="systemctl daemon-reload")


def network(site: Site, survey: Survey) -> Iterator[Difference]:
    """A network that differs is made anew; what others have put on it is put back on the new one."""
    given = values(site, survey)
    wanted = [(stack.INTERNAL, given["INTERNAL_SUBNET"], stack.BRIDGE, True, SERVICE)]
    if site.bundle.api_in_container:
        wanted.append((stack.EDGE, given["EDGE_SUBNET"], stack.EDGE_BRIDGE, False, "api"))
    said, again = [], {}
    for name, subnet, bridge, internal, first in wanted:
        if found := survey.docker.network(name):
            faults = list(stack.network_faults(found, subnet=subnet, bridge=bridge, internal=internal))
            if faults:
                said.append(f"network {name} {'; '.join(faults)}")
                again[name] = first
    if said:
        # Both at once: the new one may have the old addresses of the other.
        script = f"{_networks_again(again)}\n{start_script(site, service=next(iter(again.values())))}"
        yield Difference("; ".join(said), script)


def _networks_again(again: Mapping[str, str]) -> str:
    """Shell that makes networks anew, each with the service that is named for it on it.

    Ours on them goes first, and nothing else: whatever is wrong with the edge, Redis keeps what it holds. compose's own `down`
    would take all, and that of version 1 fails where others are on a network.
    """
    project = f"--filter label=com.docker.compose.project={PROJECT}"
    names = f"docker ps --all --format '{{{{.Names}}}}' {project}"
    lines = [f'own="$({names})"']
    for number, name in enumerate(again):
        on_it = f"docker network inspect --format '{{{{range .Containers}}}}{{{{println .Name}}}}{{{{end}}}}' {name}"
        lines.append(f"""others{number}=$({on_it} | grep -v '^$' | grep -vxF "$own" || true)
mine=$(docker ps --all --quiet {project} --filter network={name})
[ -z "$mine" ] || {{ docker stop $mine >/dev/null || true; docker rm --force $mine >/dev/null; }}
for c in $others{number}; do docker network disconnect --force {name} "$c" || true; done
docker network rm {name} >/dev/null 2>&1 || true""")
    lines += [compose(f"up -d --no-deps {first}") for first in again.values()]
    lines += [
        f'for c in $others{number}; do docker network connect {name} "$c" || echo "$c could not be put back on {name}" >&2; done'
        for number, name in enumerate(again)
    ]
    return "\n".join(lines)


def containers(site: Site, survey: Survey) -> Iterator[Difference]:
    """Each container is there as wanted, and runs."""
    services = stack.services(site.bundle, values(site, survey))
    for service in services:
        yield from _container(site, survey, service)
    for other in survey.docker.containers:
        if other.service not in {service.name for service in services}:
            yield Difference(f"container {other.name} is not part of the stack", f"docker rm --force {other.id} >/dev/null")


def _container(site: Site, survey: Survey, wanted: stack.Service) -> Iterator[Difference]:
    name = wanted.name
    found = survey.docker.container(name)
    if found is None:
        yield Difference(f"container {name} is missing", start_script(site, service=name))
        return
    faults = list(stack.container_faults(found, wanted, identity(site, survey, name)))
    if faults:
        again = start_script(site, "up -d --no-deps --force-recreate", service=name)
        yield Difference(f"container {name} {'; '.join(faults)}", again)
    elif not found.running:
        yield Difference(
            f"container {name} is {found.state}, wanted running",
            f"docker unpause {found.id} >/dev/null 2>&1 || true\n{start_script(site, service=name)}",
        )


def leftovers(site: Site, survey: Survey) -> Iterator[Difference]:
    """What an earlier deploy with the API or the dashboard left, once their containers are gone."""
    if not site.bundle.api_in_container and survey.docker.network(stack.EDGE):
        yield Difference(f"network {stack.EDGE} is not part of the stack", f"docker network rm {stack.EDGE} >/dev/null")
    there = [f"{stack.FOLDER}/{name}" for name in COMPOSE_FILES if name not in stack.compose_files(site.bundle)]
    there += [] if site.bundle.has_dashboard else [stack.DASHBOARD_FOLDER]
    if there := [path for path in there if survey.file(path).kind]:
        yield Difference(f"not part of the stack: {' '.join(there)}", f"rm -rf {' '.join(there)}")


def start_script(site: Site, verb: str = "up -d --no-deps", *, service: str = SERVICE) -> str:
    """Shell that has compose bring a service up and waits until it answers, or says its last words.

    The server has answered when the operator gets a reply, the others when their own health check is content.
    """
    if service == SERVICE:
        return f"""{compose(f"{verb} {service}")}
i=0; while [ $i -lt 100 ]; do
    case "$(timeout 2 {CLI} PING 2>/dev/null)" in PONG) exit 0 ;; LOADING*) i=0 ;; esac
    i=$((i+1)); sleep 0.1
done
{_last_words(service)}"""
    mine = f"--filter label=com.docker.compose.project={PROJECT} --filter label=com.docker.compose.service={service}"
    return f"""{compose(f"{verb} {service}")}
c=$(docker ps --all --quiet {mine})
check=$(docker inspect --format '{{{{index .Config.Healthcheck.Test 3}}}}' "$c")
end=$(( $(date +%s) + {PATIENCE_SECONDS} )); while [ "$(date +%s)" -lt $end ]; do
    if docker exec "$c" python3 -c "$check" >/dev/null 2>&1; then exit 0; fi
    sleep 0.2
done
{_last_words(service)}"""


def _last_words(service: str) -> str:
    return f"""echo 'the container {service} does not answer; its log ends with:' >&2
{compose(f"logs --tail 5 {service}")} >&2 || true; exit 1"""


def at_boot(site: Site, survey: Survey) -> Iterator[Difference]:
    unit = survey.units.get(UNIT)
    if unit is None or unit.enabled != "enabled" or unit.active != "active":
        yield Difference(f"unit {UNIT} is not enabled and active", f"systemctl enable --now {UNIT} >/dev/null 2>&1")


def unwanted(site: Site, survey: Survey) -> Iterator[Difference]:
    """The other runtime's server: its service goes, its users, certificates and data stay for the one that follows."""
    engine = site.bundle.engine
    if site.bundle.in_container and engine.package in survey.packages:
        yield Difference(
            f"package {engine.package} runs Redis beside the container",
            f"""systemctl disable --now {engine.unit} >/dev/null 2>&1 || true
DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 remove {engine.package} >/dev/null
rm -rf {engine.drop_in.rpartition("/")[0]} /etc/logrotate.d/{engine.package} /etc/systemd/system/{engine.unit}
systemctl daemon-reload""",
        )
    if not site.bundle.in_container and survey.file(stack.COMPOSE).kind:
        yield Difference("the stack of the docker runtime is still there", gone())


def gone() -> str:
    """Shell that takes the stack away: containers, network, images, files. Users, certificates and data stay."""
    return f"""systemctl disable --now {UNIT} >/dev/null 2>&1 || true
[ ! -x {LOADER} ] || {compose("down --remove-orphans")} || true
docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' '{IMAGES}/*' 2>/dev/null | grep -Ex '{app_images.OURS}' |
    xargs -r docker rmi --force >/dev/null 2>&1 || true
nft delete table bridge redkeep 2>/dev/null || true
rm -rf {stack.FOLDER} {stack.DASHBOARD_FOLDER} {LOADER} {UNIT_FILE} {shlex.quote(VERSIONS)}
systemctl daemon-reload"""


def problem(site: Site, survey: Survey) -> str:
    """Why the stack cannot come to this host; "" when it can."""
    try:
        values(site, survey)
    except RedkeepError as error:
        return str(error)
    if others := [c.name for c in survey.docker.containers if SPECIFICATION not in c.labels]:
        return (
            f"a compose project named {PROJECT} that Redkeep did not create is on the host ({', '.join(sorted(others))}); its containers "
            "would be removed as leftovers: give that project another name (COMPOSE_PROJECT_NAME), or remove it."
        )
    if not survey.has_systemd:
        return "it runs without systemd, which the firewall and the stack need at boot: set redis_runtime to native."
    return image.problem(site, survey) or app_images.problem(site, survey)


@deploy("Runtime")
def runtime(site: Site) -> None:
    converge(site, unwanted, name="Remove the other runtime")


def stack_running(site: Site) -> None:
    """Everything about the stack, in the order in which it is brought up."""
    converge(site, stack_files, name="Write the stack")
    converge(site, network, name="Set up the stack's networks")
    converge(site, containers, name="Start the containers")
    converge(site, leftovers, name="Remove what the stack no longer uses")
    converge(site, at_boot, name="Start the stack at boot")
    converge(site, app_images.old_images, name="Remove images no longer in use")
