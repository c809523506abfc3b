"""The end of a deploy: the package proves from where the app stands that the promises hold."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence

from pyinfra import logger, state
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.state import StateStage

from deploys.operations.converge import fail
from deploys.site import Site
from deploys.stages.application import COMMAND
from redkeep.monitoring.reach import NAME as REACH


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
    if not ok and site.bundle.knobs.firewall and reach_alone_is_unknown(site.run(f"{COMMAND} status --json")[1]):
        logger.info("The rules on Redis' own host, which cannot be seen from here, were compared by this deploy.")
    elif not ok:
        for line in errors:
            logger.error(line)
        yield fail("not every control holds: the table above says which, and what to do.")


def reach_alone_is_unknown(lines: Sequence[str]) -> bool:
    """Whether nothing is wrong but that an app host cannot see who else reaches a Redis on a public address."""
    try:
        controls = json.loads("\n".join(lines))["controls"]
    except ValueError:
        return False
    return [(each["name"], each["state"]) for each in controls if each["state"] in ("weak", "unknown")] == [(REACH, "unknown")]


@deploy("Proof")
def proof(site: Site) -> None:
    prove(site=site, name="Prove an encrypted write and read, and every control")
