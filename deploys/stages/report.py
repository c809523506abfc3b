"""The end of a status: what was found, and a failed host where something was."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import state
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.state import StateStage

from deploys.operations.converge import fail
from deploys.site import Site
from deploys.stages.preflight import foreign_secrets


@operation()
def drift(site: Site) -> Generator[StringCommand, None, None]:
    """Fail the host when the status found a difference."""
    if site.found and state.current_stage == StateStage.Execute:
        number = len(site.found)
        foreign = foreign_secrets(site, site.survey())
        advice = f", but {foreign}" if foreign else f": a deploy repairs {'them' if number > 1 else 'it'}."
        yield fail(f"{number} difference{'s' if number > 1 else ''} from the wanted state{advice}")


@deploy("Status")
def report(site: Site) -> None:
    for what in site.found:
        site.say(f"drift: {what}")
    if not site.found:
        site.say("as wanted")
    drift(site=site, name="Fail where a host has drifted")
