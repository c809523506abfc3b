"""The stages of a migration as values: what each does, how it is proved, how it is undone, and in which order they go.

Nothing here connects. The deploys `migrate` and `rollback` carry the stages out on hosts, the managers from Python.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redkeep.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `actions` are carried out in this order; `minutes` is what a small team plans, clients' moves included."""

    name: str
    description: str
    minutes: int
    actions: tuple[str, ...]
    validation: str
    rollback: str
    risk: str


STAGES: Final = (
    Stage(
        "preparation",
        "Prepare for the migration; nothing changes for any client",
        15,
        (
            "Verify that the server's version and settings can be migrated",
            "Document the current configuration",
            "Back up the current data",
            "Restore the backup into a throwaway server and compare",
            "Write the rollback plan",
        ),
        "The backup was restored and matches the server",
        "Remove what was installed; the backup stays",
        "a snapshot needs memory and disk space for a moment",
    ),
    Stage(
        "authentication",
        "Create the users; clients without a password keep working as before",
        15,
        (
            "Generate the passwords",
            "Create the users on the running server",
            "Write the users to the configuration",
            "Give the passwords to the apps on the server's own host",
            "Test the logins",
        ),
        "Each user logs in with its own password and a wrong one is refused",
        "Remove the users, once nobody is logged in as one of them",
        "none for connected clients",
    ),
    Stage(
        "tls",
        "Open the TLS port beside the plaintext port, then move the clients",
        60,
        (
            "Generate the certificates",
            "Open the TLS port on the running server",
            "Write the TLS settings to the configuration",
            "Give certificates and passwords to the apps",
            "Test encrypted connections",
        ),
        "The TLS port shows a valid certificate and refuses a client without one",
        "Close the TLS port, once nobody is connected to it",
        "clients that move need the new address, the CA and a certificate",
    ),
    Stage(
        "application_encryption",
        "Encrypt what is written from now on; older entries stay readable",
        30,
        (
            "Generate the encryption key",
            "Give the key to the apps and let them read old entries",
            "Test an encrypted write and read",
        ),
        "The app writes and reads an encrypted value",
        "Remove the key from the apps; entries encrypted meanwhile are misses until the key is back",
        "an app without the key misses what the others have encrypted",
    ),
    Stage(
        "access_control",
        "Turn off the default user; each service has its own user",
        15,
        (
            "Turn off the default user and the previous users on the running server",
            "End the sessions of users that are turned off",
            "Write it to the configuration",
            "Test the rights of each user",
        ),
        "The running server's users and rights are as wanted, and nobody gets in without a password",
        "Turn the previous users on again",
        "a client that was overlooked is refused",
    ),
    Stage(
        "close",
        "Close the plaintext port, stop reading old entries, and write the final configuration",
        15,
        (
            "Close the plaintext port and end its connections",
            "Write the final configuration",
            "Restart the server once if needed, with all its data",
            "Stop reading old entries",
            "Delete or keep the old backup",
        ),
        "Nothing differs from what a deploy wants",
        "Open the plaintext port again, with the configuration of the previous stage",
        "one restart of the server, covered by the clients' retries",
    ),
)
"""In the order they go. The names are the PRD's; `close` is what its list lacks."""

NAMES: Final = tuple(stage.name for stage in STAGES)

LEVELS: Final = {name: level for level, name in enumerate(NAMES)}
"""The state after a stage, as a number; -1 is the state before all."""

_OTHER_NAMES: Final = {"tls_optional": "tls"}


def find(name: str) -> Stage:
    """The stage of that name; the PRD's `tls_optional` is `tls`. Raises ConfigurationError for an unknown one."""
    wanted = _OTHER_NAMES.get(name, name)
    for stage in STAGES:
        if stage.name == wanted:
            return stage
    close = difflib.get_close_matches(wanted, NAMES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigurationError(f"stage: there is no such stage; {hint}The stages are, in this order: {', '.join(NAMES)}")


def following(done: Sequence[str]) -> Stage | None:
    """The stage that is due when `done` are done, None when all are."""
    return next((stage for stage in STAGES if stage.name not in done), None)


def check_forward(name: str, done: Sequence[str]) -> Stage:
    """The stage to carry out: the one due, or the last one done (again).

    Raises ConfigurationError for an unknown stage and for one that is out of order.
    """
    stage, due = find(name), following(done)
    if due is None or stage.name in done:
        if not done or stage.name != done[-1]:
            raise ConfigurationError(f"stage: {stage.name} is already done; the last one done is {done[-1]}")
        return stage
    if stage != due:
        raise ConfigurationError(f"stage: {stage.name} is out of order; {due.name} comes first")
    return stage


def check_back(name: str, done: Sequence[str]) -> tuple[Stage, ...]:
    """The stages to undo to be back before `name`, the last one first.

    Raises ConfigurationError for an unknown stage and for one that is not done.
    """
    stage = find(name)
    if stage.name not in done:
        last = f"the last one done is {done[-1]}" if done else "none is done"
        raise ConfigurationError(f"stage: {stage.name} is not done, so there is nothing to undo; {last}")
    return tuple(find(other) for other in reversed(done[list(done).index(stage.name) :]))
