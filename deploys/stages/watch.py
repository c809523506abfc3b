"""The daily look at the certificates' expiry."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile, file_differences
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stack import API_FOLDER, DASHBOARD_FOLDER

SCRIPT = "/usr/local/sbin/redkeep-certificates"
SERVICE = "redkeep-certificates.service"
TIMER = "redkeep-certificates.timer"
UNITS = "/etc/systemd/system"


def question(site: Site) -> Question:
    return Question(files=(SCRIPT, f"{UNITS}/{SERVICE}", f"{UNITS}/{TIMER}"), units=(TIMER,))


def certificates(site: Site) -> Iterator[str]:
    """Shell patterns of every certificate that a deploy lays on this host."""
    bundle = site.bundle
    if bundle.is_redis:
        yield from (f"{bundle.engine.tls_folder}/*/*.crt", "/etc/redkeep/operator/*.crt")
    if bundle.in_container:
        yield f"{bundle.engine.folder}/health/*.crt"
    if bundle.is_app:
        yield "/etc/redkeep/tls/*.crt"
    if bundle.api_in_unit or bundle.api_in_container:
        yield f"{API_FOLDER}/*.crt"
    if bundle.has_dashboard:
        yield f"{DASHBOARD_FOLDER}/*.crt"


def watch_files(site: Site, survey: Survey) -> Iterator[Difference]:
    found, days = list(certificates(site)), site.bundle.knobs.tls_alarm_days
    script = render("usr/local/sbin/redkeep-certificates", certificates=found, alarm_days=days)
    yield from file_differences([ManagedFile(SCRIPT, script, mode="0755")], survey)
    if survey.has_systemd:
        units = [ManagedFile(f"{UNITS}/{name}", render(f"etc/systemd/system/{name}")) for name in (SERVICE, TIMER)]
        yield from file_differences(units, survey, after="systemctl daemon-reload")


def watch_timer(site: Site, survey: Survey) -> Iterator[Difference]:
    unit = survey.units.get(TIMER)
    if survey.has_systemd and (unit is None or unit.enabled != "enabled" or unit.active != "active"):
        yield Difference(f"unit {TIMER} is not enabled and active", f"systemctl enable --now {TIMER} >/dev/null 2>&1")


@deploy("Watch")
def watch(site: Site) -> None:
    converge(site, watch_files, name="Write the daily check of the certificates")
    converge(site, watch_timer, name="Start the daily check of the certificates")
