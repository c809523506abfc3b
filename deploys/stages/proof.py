"""The end of a deploy: the package proves from where the app stands that the promises hold."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import logger, state
from pyinfra.api import DeployError, StringCommand, deploy, operation
from pyinfra.api.state import StateStage

from deploys.site import Site


@operation()
def prove(site: Site) -> Generator[StringCommand, None, None]:
    """Run ``redkeep status`` on the host, show its table, and fail the host when a control is weak. Changes nothing."""
    if state.current_stage == StateStage.Execute:
        summary = "nothing had to change" if not site.changes else f"{site.changes} things were mended"
        site.say(f"{summary}")
        ok, output = site.run("/usr/local/bin/redkeep status")
        for line in output.stdout_lines:  # type: ignore[attr-defined]
            logger.info(line)
        if not ok:
            for line in output.stderr_lines:  # type: ignore[attr-defined]
                logger.error(line)
            raise DeployError(f"{site.bundle.name}: not every control holds; the table above says which and what to do.")
    return
    yield


@deploy("Proof")
def proof(site: Site) -> None:
    prove(site, name="Prove an encrypted write and read, and every control")
