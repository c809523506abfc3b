"""The container engine: up, and with settings that close what it leaves open."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.docker import SETTINGS_FILE
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.site import Site

UNIT = "docker.service"
BEFORE = "/var/lib/redkeep/daemon.json-before"

SETTINGS: Mapping[str, Any] = {
    # A restart of the engine, by an update or by us, leaves the containers running.
    "live-restore": True,
    # Published ports are the kernel's business: no process of root's for each, and the client's address is kept.
    "userland-proxy": False,
    "log-driver": "json-file",
    "log-opts": {"max-file": "5", "max-size": "10m"},
    # On the default bridge containers do not talk to each other. The stack has a network of its own.
    "icc": False,
    "no-new-privileges": True,
}


def question(site: Site) -> Question:
    if not site.bundle.in_container:
        return Question()
    return Question(files=(SETTINGS_FILE, SETTINGS_FILE.rpartition("/")[0], BEFORE), units=(UNIT,))


def merged(found: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings as they shall be: ours, and those of others that do not contradict them."""
    return {**found, **SETTINGS}


def settings(site: Site, survey: Survey) -> Iterator[Difference]:
    """daemon.json with our settings. What stood there before is kept for the way back."""
    found = survey.docker.settings
    if site.bundle.knobs.docker_engine != "hardened" or found is None or merged(found) == found:
        return
    folder = SETTINGS_FILE.rpartition("/")[0]
    yield from folder_differences([(folder, "root", "root", "0755")], survey)
    text = json.dumps(merged(found), indent=2, sort_keys=True) + "\n"
    wrong = sorted(name for name, value in SETTINGS.items() if found.get(name) != value)
    keep = f"[ -e {BEFORE} ] || {{ cat {SETTINGS_FILE} 2>/dev/null || true; }} > {BEFORE}"
    for difference in file_differences([ManagedFile(SETTINGS_FILE, text.encode())], survey):
        yield Difference(
            f"the engine's settings {', '.join(wrong)} differ in {SETTINGS_FILE}",
            f"{keep}\n{difference.script}",
            difference.stdin,
        )


def running(site: Site, survey: Survey) -> Iterator[Difference]:
    """The engine is enabled and up, and was started under its settings. Live-restore is read again first: with it the
    containers outlive the restart."""
    unit = survey.units.get(UNIT)
    if unit is None or unit.load != "loaded":
        yield Difference("the container engine is not set up", start("start"))
        return
    if unit.enabled != "enabled":
        yield Difference(f"unit {UNIT} is {unit.enabled}, wanted enabled", f"systemctl enable {UNIT} >/dev/null 2>&1")
    if unit.active != "active" or not survey.docker.server:
        yield Difference("the container engine does not run", start("start"))
    elif site.bundle.knobs.docker_engine == "hardened" and survey.file(SETTINGS_FILE).modified > unit.started:
        yield Difference(
            "the container engine was started before its settings were written (needs a restart; containers keep running)",
            _restart(),
        )


def start(verb: str) -> str:
    """Shell that starts or restarts the engine and waits for its answer, or says the journal's words."""
    return f"""systemctl enable {UNIT} >/dev/null 2>&1 || true
systemctl {verb} {UNIT} || true
i=0; while [ $i -lt 150 ]; do docker version >/dev/null 2>&1 && exit 0; i=$((i+1)); sleep 0.2; done
echo 'the container engine does not answer; its journal ends with:' >&2
journalctl --no-pager -o cat -n 3 -t dockerd -u {UNIT} >&2 || true; exit 1"""


def _restart() -> str:
    """Shell that restarts the engine under the new settings. One that refuses them, because a flag of its unit says otherwise
    or for what stood in the file already, gets its own back: nobody's containers stay without an engine."""
    return f"""systemctl reload {UNIT} || true
sleep 1
(
{start("restart")}
) || {{
    if [ -s {BEFORE} ]; then cat {BEFORE} > {SETTINGS_FILE}; else rm -f {SETTINGS_FILE}; fi
    systemctl reset-failed {UNIT} || true
    systemctl restart {UNIT} || true
    echo 'its previous settings were restored: remove the conflicting ones, or set docker_engine to "as-found"' >&2
    exit 1
}}"""


def put_back(survey: Survey) -> str:
    """Shell that gives an engine of others its own settings back."""
    if not survey.file(BEFORE).kind:
        return "true"
    quoted = shlex.quote(SETTINGS_FILE)
    return f"""if [ -s {BEFORE} ]; then cat {BEFORE} > {quoted}; else rm -f {quoted}; fi
rm -f {BEFORE}
! systemctl is-active --quiet {UNIT} || {{ systemctl reload {UNIT} || true; systemctl restart {UNIT} || true; }}"""


def problem(site: Site, survey: Survey) -> str:
    """Why this engine cannot be used; "" when it can."""
    docker, managed = survey.docker, survey.file(BEFORE).kind
    if docker.server and docker.version < (20, 10):
        return f"its container engine is {docker.server}: 20.10 or later is needed."
    if docker.server and not docker.compose:
        return "its container engine has no compose: install docker-compose, or the engine's plugin docker-compose-plugin."
    if docker.settings is None:
        return f"{SETTINGS_FILE} is not a JSON object, so its settings cannot be kept: correct it, or remove it."
    if (
        site.bundle.knobs.docker_engine == "hardened"
        and not managed
        and docker.foreign
        and merged(docker.settings) != docker.settings
    ):
        return (
            f"{docker.foreign} other container{'s' if docker.foreign > 1 else ''} run{'' if docker.foreign > 1 else 's'} on its engine, "
            'whose settings would change: stop them during the deploy, or set docker_engine to "as-found".'
        )
    return ""


@deploy("Container engine")
def container_engine(site: Site) -> None:
    converge(site, settings, name="Write the container engine's settings")
    converge(site, running, name="Start the container engine")
