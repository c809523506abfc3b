"""The one operation of this bundle: repair what differs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from pyinfra import state
from pyinfra.api import DeployError, QuoteString, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys.difference import Difference, locked
from deploys.site import Concern, Site
from redkeep.errors import RedkeepError

Dress = Callable[[Difference], str]


def converge(site: Site, concern: Concern, *, name: str, dress: Dress | None = None) -> None:
    """Repair what the concern finds, as a pyinfra operation; for a reporting site only note it.

    ``dress`` gives the shell to run for a difference: its script, with what a migration puts around it.
    """
    if site.reporting:
        site.found.update(dict.fromkeys(difference.what for difference in differences_of(site, concern)))
    else:
        mend(site=site, concern=concern, dress=dress, name=name)


def differences_of(site: Site, concern: Concern) -> list[Difference]:
    """What the concern finds now. Raises DeployError with one sentence when it cannot tell."""
    try:
        return list(concern(site, site.survey()))
    except RedkeepError as error:
        raise DeployError(f"{site.bundle.name}: {error}") from None


@operation()
def mend(site: Site, concern: Concern, dress: Dress | None = None) -> Generator[StringCommand, None, None]:
    """Run the script of each difference the concern finds now, and say what and why.

    A concern that finds nothing yields no command, so the operation counts as unchanged. Scripts are run by ``sh``
    under ``set -eu`` as root; secrets travel on standard input only.
    """
    executing, dress = state.current_stage == StateStage.Execute, dress or site.dress
    try:
        if executing:
            refuse_outdated(site)
        differences = differences_of(site, concern)
    except DeployError as error:
        if not executing:
            raise
        yield fail(str(error))
        return
    if executing:
        yield from scripts(site, differences, dress=dress)
        return
    for difference in differences:
        site.say(f"would repair: {difference.what}")
    for difference in differences:
        yield StringCommand(locked(dress(difference) if dress else difference.script), _sudo=site.sudo)


def refuse_outdated(site: Site) -> None:
    """Raise DeployError when a rotation has begun or ended beside this run: its own secrets would undo that on the hosts."""
    try:
        outdated = site.credentials.outdated()
    except RedkeepError as error:
        raise DeployError(f"{site.bundle.name}: {error}") from None
    if outdated:
        raise DeployError(f"{site.bundle.name}: {site.secrets} was changed by another run since this one began: run again.")


def scripts(site: Site, differences: Iterable[Difference], *, dress: Dress | None = None) -> Generator[StringCommand, None, None]:
    """The commands that repair these, each announced first. For operations while they execute."""
    for difference in differences:
        site.say(difference.what)
        site.changed()
        script = locked(dress(difference) if dress else difference.script)
        stdin = difference.stdin() if callable(difference.stdin) else difference.stdin
        yield StringCommand(script, _sudo=site.sudo, _stdin=stdin) if stdin else StringCommand(script, _sudo=site.sudo)


def fail(sentence: str) -> StringCommand:
    """A command that fails the host with one sentence; an exception at this point would print a traceback instead."""
    return StringCommand("printf", "'%s\\n'", QuoteString(sentence), ">&2;", "exit", "1")
