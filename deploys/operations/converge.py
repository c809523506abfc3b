"""The one operation of this bundle: mend what differs, and nothing else."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys.site import Concern, Site
from redkeep.errors import RedkeepError


@operation()
def converge(site: Site, concern: Concern) -> Generator[StringCommand, None, None]:
    """Run the script of each difference the concern finds now, and say what and why.

    A concern that finds nothing yields no command, so the operation counts as unchanged. Scripts are run by ``sh``
    under ``set -eu`` as root; secrets travel on standard input only.
    """
    executing = state.current_stage == StateStage.Execute
    try:
        differences = list(concern(site, site.survey()))
    except RedkeepError as error:
        raise DeployError(f"{site.bundle.name}: {error}") from None
    site.found.update(dict.fromkeys(difference.what for difference in differences))
    if site.reporting:
        return
    for difference in differences:
        if not executing:
            site.say(f"would mend: {difference.what}")
    for difference in differences:
        if executing:
            site.say(difference.what)
            site.changed()
        stdin = difference.stdin() if executing and callable(difference.stdin) else difference.stdin
        yield StringCommand(
            "set -eu\n" + difference.script, _sudo=site.sudo, **({"_stdin": stdin} if stdin and executing else {})
        )
