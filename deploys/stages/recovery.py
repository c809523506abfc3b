"""A backup brought back: tried beside the running server, put in its place, compared; until that holds the old data stays aside."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host, state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys import backups
from deploys.backups import Backup
from deploys.credentials import key_ids, open_store
from deploys.difference import locked
from deploys.operations.converge import fail
from deploys.site import Site, hosts_of_run
from deploys.stack import SERVICE
from deploys.stages import backing_up, containers, snapshot
from deploys.stages.comparison import compare, keys_of
from deploys.stages.machine import MANAGED, STATE, init_stop
from deploys.stages.service import start_script
from redkeep.errors import ConfigurationError, RedkeepError

ARGUMENTS = ("file", "force", "backups_folder")

NEW = f"{STATE}/restore-new"
BEFORE = f"{STATE}/restore-before"
# Says that a run has begun to replace what is set aside there: from then on it alone is the old data.
BEGUN = f"{BEFORE}/begun"


@dataclass(frozen=True)
class Plan:
    """Which backup comes back, and where the one of what is there now goes."""

    backup: Backup
    folder: Path


def asked(site: Site) -> Plan:
    """What the caller's ``--data`` asks for. All of the backup is opened once: what is damaged is refused here.

    Raises DeployError: bad input, a host that is not ready, a backup that cannot be used.
    """
    data = {name: host.data.get(name) for name in ARGUMENTS}
    others = [other for other in hosts_of_run() if "redis" in other.groups and other.name != site.bundle.name]
    if others:
        raise DeployError(
            f"A backup belongs to one host, but this inventory has {len(others) + 1} Redis hosts: name one with --limit."
        )
    survey = site.survey()
    if not survey.file(MANAGED).kind or not survey.server.reachable:
        raise DeployError(f"{site.bundle.name}: its Redis is not running as deployed: run deploys/secure_redis.py first.")
    try:
        backup = chosen(data)
        for _ in backups.content_of(backup, private_key=open_store(site.secrets).backup_key()):
            pass
        check_keys(backup, key_ids(site.credentials.encryption_keys), force=data["force"] == "yes")
    except RedkeepError as error:
        raise DeployError(str(error)) from None
    return Plan(backup, Path(data["backups_folder"] or backups.backups_folder(site.environment)))


def chosen(data: Mapping[str, Any]) -> Backup:
    """The backup in ``data``. Raises ConfigurationError."""
    if str(data.get("force") or "no") not in ("yes", "no"):
        raise ConfigurationError(f"force={data['force']} must be yes or no.")
    if not data.get("file"):
        raise ConfigurationError("Say which backup: --data file=backups/<environment>/<name>.redkeep")
    return backups.read_backup(Path(str(data["file"])))


def check_keys(backup: Backup, ring: Sequence[str], *, force: bool) -> None:
    """Raise ConfigurationError when no key that was in use then is in the ring now: every value would be a miss."""
    then = [str(key) for key in backup.head.get("encryption_keys", [])]
    if then and not set(then) & set(ring) and not force:
        raise ConfigurationError(
            f"The values in {backup.path.name} are encrypted with {', '.join(then)}, and no such key is in the secrets now, so "
            "none could be decrypted: bring back the secrets of that time, or add --data force=yes."
        )


@operation()
def restore(site: Site, plan: Plan) -> Generator[StringCommand, None, None]:
    """Bring a backup back. Whatever goes wrong, the server has the old data or the new, and says which."""
    backup = plan.backup
    if state.current_stage != StateStage.Execute:
        site.say(
            f"would load {backup.path.name} ({backup.head.get('keys')} keys of {backup.head.get('host')}, {backup.head.get('taken')}) beside "
            "the server, back up the current data, restart the server with the restored data, compare, and go back if they differ"
        )
        yield StringCommand("true")
        return
    try:
        content = backups.content_of(backup, private_key=open_store(site.secrets).backup_key())
        snapshot.send(site, content, folder=NEW, sha256=str(backup.head["sha256"]))
        loaded = _try(site, backup)
        before = _set_aside(site, plan)
        site.say(f"{loaded} keys are loaded; {before}")
        if problem := _replace(site, backup, loaded):
            yield fail(f"{site.bundle.name}: {problem} The server has its old data again.")
            return
        site.say(f"{backup.path.name} is restored: {loaded} keys; {compare(site, here=snapshot.throwaway_cli(site, NEW))}")
        snapshot.remove(site, BEFORE)
    except (DeployError, RedkeepError, OSError) as error:
        yield fail(str(error))
    finally:
        with suppress(DeployError):  # the next run takes it away
            snapshot.remove(site, NEW)


def _try(site: Site, backup: Backup) -> int:
    """Load the new data beside the running server. Raises DeployError: a newer format, no memory, too much data."""
    try:
        loaded = snapshot.throwaway(site, NEW)
    except DeployError as error:
        if "RDB format version" in str(error) and site.bundle.in_container:
            raise DeployError(
                f"{site.bundle.name}: the backup is from {backup.version}, whose format is too new for this host's "
                f"{snapshot.checker(site.bundle.engine)}, which checks it before the container loads it: upgrade the package of that tool."
            ) from None
        if "RDB format version" in str(error):
            version = site.survey().server.info.get("valkey_version") or site.survey().server.info.get("redis_version", "?")
            raise DeployError(
                f"{site.bundle.name}: the backup is from {backup.version}, whose format is too new for {site.bundle.engine.name} "
                f"{version}: restore it on a host with that version or a later one."
            ) from None
        raise
    limit = int(site.survey().server.config.get("maxmemory", "0"))
    needed = snapshot.memory(site, NEW)
    if limit and needed > limit:
        raise DeployError(
            f"{site.bundle.name}: the data takes {needed // 1024**2} MiB and redis_maxmemory is {limit // 1024**2} MiB, so keys would be evicted "
            "at once: raise it, deploy, and run again."
        )
    return loaded


def _set_aside(site: Site, plan: Plan) -> str:
    """Keep what the server has now, sealed on the operator's side and ready on the host, and say so. On the host stays what a run
    that died had begun to replace: it is older, and to be gone back to."""
    kept = sum(keys_of(site))
    begun = site.run(f"[ -s {BEFORE}/dump.rdb ] && [ -e {BEGUN} ]")[0]
    made = backing_up.make(site, plan.folder, leave="" if begun else BEFORE)
    earlier = "; the data that an earlier run began to replace is kept on the host, too" if begun else ""
    return f"the {kept} current keys are backed up in {made.path}{earlier}"


def _replace(site: Site, backup: Backup, loaded: int) -> str:
    """Give the server the new data; returns what was wrong with that, and then it has the old again. Raises DeployError when it
    has neither."""
    try:
        _swap(site, NEW)
        problem = _differs(site, backup, loaded)
    except DeployError as error:
        problem = str(error).removeprefix(f"{site.bundle.name}: ")
    if problem:
        _swap(site, BEFORE)
        with suppress(DeployError):
            snapshot.remove(site, BEFORE)
    return problem


def _swap(site: Site, source: str) -> None:
    """Restart the server with the data of a folder. Raises DeployError with its last words when it does not come up; when there is
    no room for the data it is not stopped at all."""
    survey, engine = site.survey(), site.bundle.engine
    if site.bundle.in_container:
        stop, start = containers.compose(f"stop {SERVICE}"), containers.start_script(site)
    else:
        stop = f"systemctl stop {engine.unit}" if survey.has_systemd else init_stop(engine)
        start = start_script(site, survey, "start")
    beside, place = AOF if site.bundle.knobs.redis_persistence == "aof" else RDB
    clean = "rm -f dump.rdb" if site.bundle.knobs.redis_persistence == "off" else "true"
    script = f"""cd {engine.data_folder}; trap 'rm -rf .redkeep.rdb .redkeep.aof' EXIT
{beside.format(source=source)}
: > {BEGUN}
{stop}
{place}
( {start}
)
{clean}"""
    site.changed()
    ok, _, errors = site.run(locked(script))
    if not ok:
        words = " ".join(line.strip() for line in errors if line.strip())[-300:]
        raise DeployError(
            f"{site.bundle.name}: the server cannot use {source} ({words}); its previous data is in {BEFORE}. If the server "
            "does not run, deploys/secure_redis.py starts it; then run the same command again."
        )


def _differs(site: Site, backup: Backup, loaded: int) -> str:
    """What is wrong with what the server has now; "" when nothing is."""
    now, expires = sum(keys_of(site)), int(backup.head.get("expires", 0))
    found = compare(site, here=snapshot.throwaway_cli(site, NEW))
    # Clients are back already: they write new keys and change some.
    if now < loaded - expires or found.changed > found.same or found.gone > expires:
        return f"{loaded} keys were loaded, {expires} of them with an expiry, but the server has {now}, and {found}."
    return ""


# What is copied while the server still works, beside its place, and what is done once it is down: so its directory never has half a
# file under the name that is read, and a full disk stops nobody.
RDB = (
    """rm -f .redkeep.rdb; cp {source}/dump.rdb .redkeep.rdb; chown --reference=. .redkeep.rdb; chmod 0640 .redkeep.rdb
sync .redkeep.rdb""",
    "rm -rf appendonlydir; mv -f .redkeep.rdb dump.rdb; sync .",
)

# With an append-only file Redis looks at nothing else: the snapshot becomes its base (Redis 7: a manifest, a base, increments).
AOF = (
    """rm -rf .redkeep.aof; mkdir .redkeep.aof; cp {source}/dump.rdb .redkeep.aof/appendonly.aof.1.base.rdb
echo 'file appendonly.aof.1.base.rdb seq 1 type b' > .redkeep.aof/appendonly.aof.manifest
chown -R --reference=. .redkeep.aof; chmod 0750 .redkeep.aof; chmod 0640 .redkeep.aof/*; sync .redkeep.aof/*""",
    "rm -rf appendonlydir; mv .redkeep.aof appendonlydir; sync .",
)
