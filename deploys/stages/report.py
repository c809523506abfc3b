"""The end of a status: what was found, and a failed host where something was."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import state
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.state import StateStage

from deploys.facts.survey import Survey
from deploys.operations.converge import fail
from deploys.site import Site
from deploys.stages.preflight import foreign_secrets, foreign_server, open_migration


@operation()
def drift(site: Site) -> Generator[StringCommand, None, None]:
    """Fail the host when the status found a difference."""
    if site.found and state.current_stage == StateStage.Execute:
        yield fail(verdict(site, site.survey()))


def verdict(site: Site, survey: Survey) -> str:
    """How many differences there are, and what to do about them: a deploy, unless it would refuse this host."""
    number = len(site.found)
    refusal = open_migration(site, survey) or foreign_secrets(site, survey) or foreign_server(site, survey)
    advice = f", but {refusal}" if refusal else f": a deploy repairs {'them' if number > 1 else 'it'}."
    return f"{number} difference{'s' if number > 1 else ''} from the wanted state{advice}"


@deploy("Status")
def report(site: Site) -> None:
    for what in site.found:
        site.say(f"drift: {what}")
    if not site.found:
        site.say("as wanted")
    drift(site=site, name="Fail where a host has drifted")
