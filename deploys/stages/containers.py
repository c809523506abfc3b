"""The stack on a host: its files, its network, its containers, and the unit that starts it at boot."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pyinfra.api import deploy

from deploys import stack
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.docker import PROJECT, SETTINGS_FILE, VERSIONS
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stack import SERVICE
from deploys.stages import image
from deploys.stages.wanted import CLI
from redkeep.errors import RedkeepError
from redkeep.stack.compose import compose_text, env_text

UNIT = "redkeep-stack.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
LOADER = "/usr/local/sbin/redkeep-stack"


def question(site: Site) -> Question:
    engine = site.bundle.engine
    if not site.bundle.in_container:
        return Question(files=(stack.FOLDER, stack.COMPOSE, UNIT_FILE, LOADER)) if site.bundle.is_redis else Question()
    return Question(
        files=(stack.FOLDER, stack.COMPOSE, stack.ENV, UNIT_FILE, LOADER, SETTINGS_FILE),
        units=(UNIT,),
        stack=stack.FOLDER,
        stack_user=engine.user,
        binaries=image.binaries(engine),
    )


def values(site: Site, survey: Survey) -> dict[str, str]:
    """The variables of compose.yaml."""
    name = image.reference(site, survey)
    return stack.variables(site.bundle, survey.docker, image=name, memory_bytes=survey.memory_bytes)


def compose(arguments: str) -> str:
    """Shell that gives the stack to whichever compose the host has: the same file for both."""
    return f"{LOADER} {arguments}"


def stack_files(site: Site, survey: Survey) -> Iterator[Difference]:
    """compose.yaml and its variables; compose itself reads them before they take the place of the old ones."""
    yield from folder_differences([(stack.FOLDER, "root", "root", "0750")], survey)
    files = [
        ManagedFile(LOADER, render("usr/local/sbin/redkeep-stack", folder=stack.FOLDER, project=PROJECT), mode="0750"),
        ManagedFile(stack.ENV, env_text(values(site, survey)), mode="0640"),
        ManagedFile(stack.COMPOSE, compose_text().encode(), mode="0640"),
    ]
    yield from file_differences(files, survey)
    unit = render("etc/systemd/system/redkeep-stack.service", loader=LOADER)
    yield from file_differences([ManagedFile(UNIT_FILE, unit)], survey, after="systemctl daemon-reload")


def network(site: Site, survey: Survey) -> Iterator[Difference]:
    """A network that differs is made anew; what others have put on it is put back on the new one."""
    found = survey.docker.network(stack.INTERNAL)
    faults = list(stack.network_faults(found, values(site, survey))) if found else []
    if faults:
        yield Difference(f"network {stack.INTERNAL} {'; '.join(faults)}", f"{_network_again()}\n{start_script(site)}")


def _network_again() -> str:
    name = stack.INTERNAL
    list_others = f"docker network inspect --format '{{{{range .Containers}}}}{{{{println .Name}}}}{{{{end}}}}' {name}"
    own = f"docker ps --all --format '{{{{.Names}}}}' --filter label=com.docker.compose.project={PROJECT}"
    return f"""others=$({list_others} | grep -v '^$' | grep -vxF "$({own})" || true)
{compose("down")}
for c in $others; do docker network disconnect --force {name} "$c" || true; done
docker network rm {name} >/dev/null 2>&1 || true
{compose("up -d --no-deps " + SERVICE)}
for c in $others; do docker network connect {name} "$c" || echo "$c could not be put back on {name}" >&2; done"""


def containers(site: Site, survey: Survey) -> Iterator[Difference]:
    """The server's container is there as wanted, and runs."""
    found = survey.docker.container(SERVICE)
    wanted = values(site, survey)
    if found is None:
        yield Difference(f"container {SERVICE} is not there", start_script(site))
        return
    faults = list(stack.container_faults(found, wanted, image.identity(site, survey)))
    if faults:
        yield Difference(f"container {SERVICE} {'; '.join(faults)}", start_script(site, "up -d --no-deps --force-recreate"))
    elif not found.running:
        yield Difference(
            f"container {SERVICE} is {found.state}, wanted running",
            f"docker unpause {found.id} >/dev/null 2>&1 || true\n{start_script(site)}",
        )
    for other in survey.docker.containers:
        if other.service != SERVICE:
            yield Difference(f"container {other.name} is not part of the stack", f"docker rm --force {other.id} >/dev/null")


def start_script(site: Site, verb: str = "up -d --no-deps") -> str:
    """Shell that has compose bring the server up and waits until the operator gets an answer, or says its last words."""
    return f"""{compose(f"{verb} {SERVICE}")}
i=0; while [ $i -lt 100 ]; do
    case "$(timeout 2 {CLI} PING 2>/dev/null)" in PONG) exit 0 ;; LOADING*) i=0 ;; esac
    i=$((i+1)); sleep 0.1
done
echo 'the server in its container does not answer; its log ends with:' >&2
{compose(f"logs --tail 5 {SERVICE}")} >&2 || true; exit 1"""


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
        yield Difference("the stack of the docker runtime is there", gone())


def gone() -> str:
    """Shell that takes the stack away: containers, network, images, files. Users, certificates and data stay."""
    return f"""systemctl disable --now {UNIT} >/dev/null 2>&1 || true
[ ! -x {LOADER} ] || {compose("down --remove-orphans")} || true
docker image ls --quiet '{PROJECT}/*' 2>/dev/null | sort -u | xargs -r docker rmi --force >/dev/null 2>&1 || true
nft delete table bridge redkeep 2>/dev/null || true
rm -rf {stack.FOLDER} {LOADER} {UNIT_FILE} {shlex.quote(VERSIONS)}
systemctl daemon-reload"""


def problem(site: Site, survey: Survey) -> str:
    """Why the stack cannot come to this host; "" when it can."""
    try:
        values(site, survey)
    except RedkeepError as error:
        return str(error)
    if not survey.has_systemd:
        return "it runs without systemd, which starts the firewall and the stack at boot: set redis_runtime to native."
    return image.problem(site, survey)


@deploy("Runtime")
def runtime(site: Site) -> None:
    converge(site, unwanted, name="Take the other runtime away")


def stack_running(site: Site) -> None:
    """Everything about the stack, in the order in which it is brought up."""
    converge(site, stack_files, name="Write the stack")
    converge(site, network, name="Set the stack's network right")
    converge(site, containers, name="Start the server's container")
    converge(site, at_boot, name="Start the stack at boot")
    converge(site, image.old_images, name="Remove images no longer in use")
