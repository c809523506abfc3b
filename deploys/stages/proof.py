"""The end of a deploy: the package verifies from the app's side that every control holds."""

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
    site.say(f"{site.changes} change{'s' if site.changes > 1 else ''} made" if site.changes else "nothing had to change")
    ok, lines, errors = site.run(f"{COMMAND} status")
    for line in lines:
        logger.info(line)
    if not ok and site.bundle.knobs.firewall and reach_alone_is_unknown(site.run(f"{COMMAND} status --json")[1]):
        logger.info("The firewall rules on the Redis host are not visible from here; this deploy has checked them there.")
    elif not ok:
        for line in errors:
            logger.error(line)
        yield fail("not every control holds: the table above says which ones, and what to do.")


def reach_alone_is_unknown(lines: Sequence[str]) -> bool:
    """Whether nothing is wrong but that an app host cannot see who else reaches a Redis on a public address."""
    try:
        controls = json.loads("\n".join(lines))["controls"]
    except ValueError:
        return False
    return [(each["name"], each["state"]) for each in controls if each["state"] in ("weak", "unknown")] == [(REACH, "unknown")]


@deploy("Proof")
def proof(site: Site) -> None:
    prove(site=site, name="Verify an encrypted write and read, and every control")
