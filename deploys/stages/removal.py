"""Taking everything away again."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import DeployError, deploy

from deploys import stack
from deploys.difference import Difference
from deploys.facts.survey import LOCK, Question, Survey
from deploys.operations.converge import converge
from deploys.site import Site
from deploys.stages import api, application, container_engine, containers, machine, network, preflight, watch
from deploys.stages.wanted import CLI

_OPTIONS = "-o APT::AutoRemove::SuggestsImportant=false -o APT::AutoRemove::RecommendsImportant=false"
LEFT_OVER = f"{machine.STATE}/left-over"
_NEEDLESS = f"apt-get -s {_OPTIONS} autoremove | awk '$1 == \"Remv\" {{print $2}}' | LC_ALL=C sort"
# Notes what nothing needs any more before anything of ours goes: an old kernel, for instance.
NOTE_LEFT_OVER = f"[ -e {LEFT_OVER} ] || {{ {_NEEDLESS} > {LEFT_OVER}.new; mv {LEFT_OVER}.new {LEFT_OVER}; }}"
# Removes the packages that were installed by us, but for what was there before or is left over from something else.
PACKAGES_SCRIPT = f"""export DEBIAN_FRONTEND=noninteractive LC_ALL=C
{NOTE_LEFT_OVER}
if [ -s {machine.PACKAGES} ] && [ -s {machine.BEFORE} ]; then
    sort -u {machine.PACKAGES} | while read -r p; do
        # One word for each architecture that a package is there for.
        case $(dpkg-query -W -f ' ${{db:Status-Status}} ' "$p" 2>/dev/null) in *' installed '*) echo "$p" ;; esac
    done | xargs -r apt-mark auto >/dev/null
    gone=$({_NEEDLESS} | comm -23 - {machine.BEFORE} | comm -23 - {LEFT_OVER})
    [ -z "$gone" ] || apt-get -q -y -o DPkg::Lock::Timeout=300 purge $gone >/dev/null
fi"""


def question(site: Site) -> Question:
    return preflight.question(site)


def confirm(site: Site) -> None:
    """Raise DeployError unless the caller named the environment that is to go, and in the middle of a migration."""
    if host.data.get("confirm") != site.environment:
        raise DeployError(
            f"This removes Redis and all its data from {site.bundle.name}. If you want that, add: "
            f"--data confirm={site.environment}"
        )
    if problem := preflight.open_migration(site, site.survey()):
        raise DeployError(f"{site.bundle.name}: {problem}")


def stack_gone(site: Site, survey: Survey) -> Iterator[Difference]:
    """The containers, and the engine's own settings back."""
    if survey.file(stack.COMPOSE).kind:
        yield Difference("the stack of the docker runtime is still there", containers.gone())
    if survey.file(container_engine.BEFORE).kind:
        yield Difference("the container engine still has settings of redkeep", container_engine.put_back(survey))


def server_folders(site: Site, survey: Survey) -> Iterator[Difference]:
    """What the container kept on the host, and no package takes away."""
    engine = site.bundle.engine
    there = [path for path in (engine.folder, engine.data_folder) if survey.file(path).kind]
    if site.bundle.in_container and there and survey.file(machine.MANAGED).kind:
        yield Difference(f"folders are still there: {' '.join(there)}", f"rm -rf {' '.join(there)}")


def engine_gone(site: Site, survey: Survey) -> Iterator[Difference]:
    """The server's package with its data. Only what Redkeep manages: elsewhere there is nothing to do."""
    engine = site.bundle.engine
    if engine.package not in survey.packages or not survey.file(machine.MANAGED).kind:
        return
    stop = f"systemctl disable --now {engine.unit} >/dev/null 2>&1 || true" if survey.has_systemd else machine.init_stop(engine)
    yield Difference(
        f"package {engine.package} and its data are still there",
        f"{stop}\nexport DEBIAN_FRONTEND=noninteractive\n{NOTE_LEFT_OVER}\n"
        f"apt-get -q -y -o DPkg::Lock::Timeout=300 purge {engine.package} >/dev/null\n"
        f"dpkg-statoverride --force-all --remove {engine.config} >/dev/null 2>&1 || true\n"
        f"rm -rf {engine.folder} {engine.data_folder} {engine.log_file.rpartition('/')[0]} {engine.drop_in.rpartition('/')[0]} "
        f"/etc/systemd/system/{engine.unit} /etc/logrotate.d/{engine.package}",
    )


def files_gone(site: Site, survey: Survey) -> Iterator[Difference]:
    yield from machine.policy_left(survey)
    if survey.file(api.UNIT_FILE).kind or survey.file(api.FOLDER).kind:
        yield Difference("the API is still there", api.gone())
    paths = [
        *(machine.SYSCTL, machine.TMPFILES, CLI, "/etc/redkeep"),
        *(watch.SCRIPT, f"{watch.UNITS}/{watch.SERVICE}", f"{watch.UNITS}/{watch.TIMER}"),
        *(application.COMMAND, application.HOME),
    ]
    there = [path for path in paths if survey.file(path).kind]
    if any(survey.file(path).kind for path in (network.RULES, network.UNIT_FILE, network.DROP_IN)):
        yield Difference("the firewall's rules are still loaded", network.remove_script(survey))
    if there:
        timer = f"systemctl disable --now {watch.TIMER} >/dev/null 2>&1 || true\n" if survey.has_systemd else ""
        reload_units = "\nsystemctl daemon-reload" if survey.has_systemd else ""
        yield Difference(f"files are still there: {' '.join(there)}", f"{timer}rm -rf {' '.join(there)}{reload_units}")
    group = site.bundle.knobs.app_group
    if group in survey.groups and survey.file(f"{machine.STATE}/group-{group}").kind:
        yield Difference(f"group {group} still exists", f"groupdel {group} >/dev/null 2>&1 || true")


def packages_gone(site: Site, survey: Survey) -> Iterator[Difference]:
    """Packages that came with Redkeep and that nothing else needs. A suggestion is no need; and what was there before,
    or is left over from something else, is not ours to remove."""
    if not survey.file(machine.STATE).kind:
        return
    yield Difference(f"folder {machine.STATE} still exists", f"{PACKAGES_SCRIPT}\nrm -rf {machine.STATE} {LOCK}")


@deploy("Removal")
def removal(site: Site) -> None:
    converge(site, stack_gone, name="Remove the stack of containers")
    converge(site, server_folders, name="Remove the container's configuration and data")
    converge(site, engine_gone, name="Remove the server and its data")
    converge(site, files_gone, name="Remove the files")
    converge(site, packages_gone, name="Remove the packages installed by Redkeep")
