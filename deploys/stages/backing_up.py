"""A backup of a host's Redis: a snapshot, sealed on the operator's side, tried if asked for, and the oldest ones gone."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfra import host, state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys import backups
from deploys.backups import Backup
from deploys.credentials import key_ids, open_store
from deploys.operations.converge import fail
from deploys.site import Site
from deploys.stages import snapshot
from deploys.stages.comparison import Comparison, compare
from deploys.stages.machine import MANAGED, STATE
from redkeep.crypto.archive import public_key
from redkeep.errors import ConfigurationError, RedkeepError

ARGUMENTS = ("keep", "drill", "backups_folder")


@dataclass(frozen=True)
class Plan:
    """How many backups of a host stay, whether each is tried, and where they go."""

    keep: int
    drill: bool
    folder: Path


def asked(site: Site) -> Plan:
    """What the caller's ``--data`` asks for. Raises DeployError: bad input, or a host that was never deployed to."""
    try:
        plan = choose({name: host.data.get(name) for name in ARGUMENTS}, backups.backups_folder(site.environment))
    except ConfigurationError as error:
        raise DeployError(str(error)) from None
    if site.bundle.is_redis and not site.survey().file(MANAGED).kind:
        raise DeployError(
            f"{site.bundle.name}: there is nothing to back up, because it was never deployed to: run deploys/secure_redis.py."
        )
    return plan


def choose(data: Mapping[str, Any], folder: Path) -> Plan:
    """The plan in ``data``: keep, drill, backups_folder. Raises ConfigurationError."""
    keep, drill = str(data.get("keep") or backups.KEEP), str(data.get("drill") or "no")
    if not keep.isascii() or not keep.isdigit() or not 1 <= int(keep) <= 10_000:
        raise ConfigurationError(f"keep={keep} is not a number of backups: give one from 1 to 10000.")
    if drill not in ("yes", "no"):
        raise ConfigurationError(f"drill={drill} must be yes or no.")
    return Plan(int(keep), drill == "yes", Path(data.get("backups_folder") or folder))


@operation()
def back_up(site: Site, plan: Plan) -> Generator[StringCommand, None, None]:
    """Take a backup; with a drill also load it again and compare. What was there before stays until it is complete."""
    if state.current_stage != StateStage.Execute:
        tried = ", load it into a throwaway server, compare" if plan.drill else ""
        site.say(f"would encrypt a snapshot into {plan.folder}{tried}, and keep the newest {plan.keep} backups of this host")
        yield StringCommand("true")
        return
    try:
        made = make(site, plan.folder)
        site.say(f"{made.path}: {made.head['keys']} keys, {made.head['size']} bytes, {made.version}")
        if plan.drill:
            site.say(drill(site, made))
        for path in backups.retire(plan.folder, site.bundle.name, keep=plan.keep):
            site.say(f"{path.name} was deleted: {plan.keep} are kept")
    except (DeployError, RedkeepError, OSError) as error:
        yield fail(str(error))


def make(site: Site, folder: Path, *, leave: str = "") -> Backup:
    """One backup of a host, in ``folder``; with ``leave`` the snapshot also stays on the host, as that folder.

    Raises DeployError, RedkeepError and OSError; nothing is left half done.
    """
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    found = snapshot.take(site)
    head = {
        "environment": site.environment,
        "host": site.bundle.name,
        "engine": site.bundle.engine.name,
        "version": found.version,
        "format": found.format,
        "taken": taken,
        "size": found.size,
        "sha256": found.sha256,
        "keys": found.keys,
        "expires": found.expires,
        "encryption_keys": list(key_ids(site.credentials.encryption_keys)),
    }
    try:
        recipient = public_key(open_store(site.secrets).backup_key())
        made = backups.write_backup(folder, snapshot.fetch(site, found), recipient=recipient, head=head)
        if leave:
            snapshot.move(site, found.folder, leave)
        return made
    finally:
        snapshot.remove(site, found.folder)


def drill(site: Site, backup: Backup) -> str:
    """Open a backup, load it on the host by a throwaway server, compare a sample with the running one, and say how it went.

    Raises DeployError and ConfigurationError when the backup is not worth its name.
    """
    folder = f"{STATE}/drill"
    content = backups.content_of(backup, private_key=open_store(site.secrets).backup_key())
    try:
        snapshot.send(site, content, folder=folder, sha256=str(backup.head["sha256"]))
        loaded = snapshot.throwaway(site, folder)
        found = compare(site, here=snapshot.throwaway_cli(site, folder))
    finally:
        snapshot.remove(site, folder)
    return judged(site, backup, loaded, found)


def judged(site: Site, backup: Backup, loaded: int, found: Comparison) -> str:
    """What a drill showed. Raises DeployError: keys are missing beyond those that ended, or nothing is as it was."""
    keys, expires = int(backup.head["keys"]), int(backup.head["expires"])
    if not keys - expires <= loaded <= keys:
        raise DeployError(
            f"{site.bundle.name}: the backup has {keys} keys, {expires} of them with an expiry, but {loaded} were loaded."
        )
    if found.sampled and not found.same:
        raise DeployError(f"{site.bundle.name}: the backup was loaded, but nothing in it is on the server: {found}.")
    return f"the drill loaded {loaded} of {keys} keys; {found}"
