"""The end of a deploy: the package proves from where the app stands that the promises hold."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import logger, state
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.state import StateStage

from deploys.operations.converge import fail
from deploys.site import Site
from deploys.stages.application import COMMAND


@operation()
def prove(site: Site) -> Generator[StringCommand, None, None]:
    """Run ``redkeep status`` on the host, show its table, and fail the host when a control is weak. Changes nothing."""
    if state.current_stage != StateStage.Execute:
        return
    site.say(
        f"{site.changes} thing{'s were' if site.changes > 1 else ' was'} mended" if site.changes else "nothing had to change"
    )
    ok, lines, errors = site.run(f"{COMMAND} status")
    for line in lines:
        logger.info(line)
    if not ok:
        for line in errors:
            logger.error(line)
        yield fail("not every control holds: the table above says which, and what to do.")


@deploy("Proof")
def proof(site: Site) -> None:
    prove(site=site, name="Prove an encrypted write and read, and every control")
