"""One host during one run: what is wanted of it, what is true on it, and the way to run things there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from paramiko import SSHException
from pyinfra import host, inventory, logger, state
from pyinfra.api import DeployError, Host, StringCommand

from deploys import pace
from deploys.bundle import Bundle, build
from deploys.credentials import Credentials, open_credentials, secrets_folder
from deploys.difference import Difference
from deploys.facts.survey import HostSurvey, Question, Survey, complete
from deploys.invocation import invocation
from redkeep.errors import RedkeepError

# A survey this young, with nothing changed by us since, is not taken again between the two phases of a run.
FRESH_SECONDS = 10.0

Concern = Callable[["Site", Survey], Iterable[Difference]]


@dataclass
class Site:
    """``reporting`` collects differences instead of mending them; ``changes`` counts what this run has mended; ``dress`` gives
    the shell for a difference where a deploy is part of something larger."""

    bundle: Bundle
    credentials: Credentials
    environment: str
    secrets: Path
    question: Question = field(default_factory=Question)
    reporting: bool = False
    found: dict[str, None] = field(default_factory=dict)
    changes: int = 0
    dress: Callable[[Difference], str] | None = None
    _survey: Survey | None = None
    _surveyed_at: float = 0.0

    @property
    def sudo(self) -> bool:
        """Whether commands need sudo: the login is not root and pyinfra was not told to use it anyway."""
        return (self._survey or self.survey()).login.get("uid") != "0" and not state.config.SUDO

    def survey(self) -> Survey:
        """What is true on the host; read again when it is old or when this run has changed something.

        Raises DeployError when the host cannot be read: no root and no sudo.
        """
        if self._survey is None or time.monotonic() - self._surveyed_at > FRESH_SECONDS:
            command = HostSurvey().command(self.question)
            ok, lines, errors = self._run(command, sudo=bool(state.config.SUDO))
            if not ok or not complete(lines):
                reason = next((line for line in errors if line.strip()), "no answer")
                raise DeployError(
                    f"{self.bundle.name} cannot be read as root ({reason.strip()}): log in as root, or give the user "
                    "passwordless sudo, or run pyinfra with --sudo --use-sudo-password."
                )
            self._survey, self._surveyed_at = HostSurvey().process(lines), time.monotonic()
        return self._survey

    def run(self, command: str, *, stdin: str = "") -> tuple[bool, list[str], list[str]]:
        """Run shell on the host as root, outside of any operation: (succeeded, output lines, error lines)."""
        return self._run(command, sudo=self.sudo or bool(state.config.SUDO), stdin=stdin)

    def _run(self, command: str, *, sudo: bool, stdin: str = "") -> tuple[bool, list[str], list[str]]:
        try:
            ok, output = host.run_shell_command(
                StringCommand(command),
                print_output=state.print_fact_output,
                print_input=state.print_fact_input,
                _sudo=sudo,
                **({"_stdin": stdin} if stdin else {}),
            )
        except (OSError, EOFError, SSHException) as error:
            raise DeployError(f"{self.bundle.name}: the connection broke ({error or type(error).__name__}): run again.") from None
        return ok, output.stdout_lines, output.stderr_lines

    def changed(self) -> None:
        """Note that this run is about to change the host: the survey is no longer true."""
        self.changes += 1
        self.forget()

    def forget(self) -> None:
        """Read the host again when it is next asked for."""
        self._surveyed_at = float("-inf")

    def keep_secrets(self) -> None:
        """Make the secrets when there are none yet: asked once everything else about the host is known to be well."""
        if not invocation().dry:
            try:
                self.credentials = open_credentials(self.secrets, self.bundle.knobs.tls_renew_days)
            except RedkeepError as error:
                raise DeployError(str(error)) from None

    def reread_secrets(self) -> None:
        """Take up what this run has changed in the secrets."""
        open_credentials.cache_clear()
        self.credentials = open_credentials(self.secrets, self.bundle.knobs.tls_renew_days)

    def say(self, text: str) -> None:
        logger.info(f"{host.print_prefix}{text}")


def hosts_of_run() -> list[Host]:
    """The inventory's hosts without those that --limit and --exclude leave out."""
    return [each for each in inventory if state.is_host_in_limit(each)]


def open_site(question: Callable[[Site], Question], *, reporting: bool = False) -> Site:
    """The site of the host that pyinfra is working on.

    Checks every host's knobs first, so that a mistake in one stops the run before any host is touched.
    Where there are no secrets yet it has throwaway ones: `keep_secrets` makes them. Raises DeployError with one
    sentence for anything that is wrong.
    """
    try:
        bundles = build([(h.name, frozenset(h.groups), h.data.dict()) for h in inventory])  # type: ignore[no-untyped-call] # pyinfra has no types there
        bundle = bundles[host.name]
        environment = bundle.knobs.environment or invocation().inventory
        if not environment:
            raise DeployError("The inventory is not a file: give the environment a name with --data environment=NAME.")
        folder = Path(host.data.get("secrets_folder") or secrets_folder(environment))
        credentials = open_credentials(folder, bundle.knobs.tls_renew_days, keep=False)
    except RedkeepError as error:
        raise DeployError(str(error)) from None
    pace.send_without_delay(host)
    site = Site(bundle, credentials, environment, folder, reporting=reporting)
    site.question = question(site)
    for sentence in credentials.open_rotations():
        site.say(sentence)
    return site
