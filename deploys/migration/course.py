"""The course of each stage: its gates, its steps in their order, and its proof. The way back is the same in reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyinfra import host, inventory, state
from pyinfra.api import DeployError, StringCommand

from deploys.facts.survey import Question, as_root
from deploys.migration import apps, closing, legacy, preparation, proofs, sealed, ways
from deploys.migration import window as windows
from deploys.migration.passage import Check, Passage, Proof, Wish, conclude, gate, refuse, step, take
from deploys.migration.window import BACKUP, BEFORE, FOLDER, OPEN, PLAN, VERIFIED, include_file
from deploys.site import Site
from deploys.stages import preflight
from deploys.stages.machine import MANAGED, PACKAGES
from deploys.stages.whole import whole
from redkeep.errors import ConfigurationError
from redkeep.migration.stages import LEVELS, check_back, check_forward, find, following

Steps = tuple[tuple[str, Wish], ...]

_PREPARED: Steps = (
    ("Document the current configuration", preparation.document),
    ("Install what the stages need", preparation.packages),
    ("Back up the data and compare the restored backup", preparation.backup),
    ("Write the rollback plan", preparation.plan),
)
_USERS: Steps = (
    ("Reach the server", ways.reach),
    ("Create the users", ways.live_users),
    ("Give root on the host the operator's login", ways.command),
    ("Make the state survive a restart", ways.persisted),
)
_TLS: Steps = (
    ("Reach the server", ways.reach),
    ("Install the certificates", ways.certificates),
    ("Set the allow-list of hosts", ways.firewall),
    ("Open the TLS port", ways.live_tls),
    ("Give root on the host the operator's login", ways.command),
    ("Make the state survive a restart", ways.persisted),
)
_ACCESS: Steps = (
    ("Reach the server", ways.reach),
    ("Turn off the previous users", ways.live_users),
    ("End the sessions of users that are turned off", apps.strangers_end),
    ("Give root on the host the operator's login", ways.command),
    ("Make the state survive a restart", ways.persisted),
)
_CLOSE: Steps = (
    ("Close the plaintext port", closing.port_closed),
    ("End the sessions on the plaintext port", apps.plaintext_ends),
    ("Write the append-only file", closing.append_only),
    ("Write the final configuration", closing.final_files),
    ("Write the sandbox", closing.sandbox),
    ("Restart the server once", closing.restart),
    ("Mark the host as managed", closing.managed),
)
SERVER_FORWARD: Mapping[str, Steps] = {
    "preparation": _PREPARED,
    "authentication": _USERS,
    "tls": _TLS,
    "application_encryption": _TLS,
    "access_control": _ACCESS,
    "close": _CLOSE,
}

# On the way back: what comes before the gate, for the clients follow it, and what comes after.
SERVER_BACK: Mapping[str, Steps] = {
    "close": (
        ("Make the state before the close survive a restart", ways.persisted),
        ("Restore the previous files", closing.files_before),
        ("Restore the previous running settings and the plaintext port", closing.live_before),
        ("Write the data to disk", closing.snapshot),
    ),
    "access_control": (
        ("Turn on the previous users", ways.live_users),
        ("Make the state survive a restart", ways.persisted),
    ),
    "application_encryption": (),
    "tls": (
        ("Give root on the host plaintext access", ways.command),
        ("Make the state survive a restart", ways.persisted),
        ("Close the TLS port", ways.live_tls),
        ("Remove the allow-list of hosts", ways.firewall),
        ("Remove the certificates", ways.certificates),
    ),
    "authentication": (
        ("Give root on the host its previous access", ways.command),
        ("Restore the previous configuration", ways.persisted),
        ("Remove the users", ways.live_users),
        ("Remove the operator's login", ways.command_gone),
    ),
    "preparation": (
        ("Remove what was installed", preparation.packages),
        ("Remove the documents", preparation.document),
    ),
}

GATES_FORWARD: Mapping[str, Check] = {
    "application_encryption": apps.all_by_tls,
    "access_control": apps.all_have_users,
    "close": apps.all_are_admitted,
}
GATES_BACK: Mapping[str, Check] = {"tls": apps.none_by_tls, "authentication": apps.none_has_users}

PROOFS: Mapping[int, Proof] = {
    LEVELS["preparation"]: proofs.backed_up,
    LEVELS["authentication"]: proofs.log_in,
    LEVELS["tls"]: proofs.encrypted,
    LEVELS["application_encryption"]: apps.sealed,
    LEVELS["access_control"]: proofs.bounded,
    LEVELS["close"]: closing.nothing_differs,
}


def question(site: Site) -> Question:
    """What a deploy compares, and what a migration leaves on the host."""
    asked = preflight.question(site)
    if site.bundle.is_redis:
        asked |= Question(
            files=(
                FOLDER,
                OPEN,
                BEFORE,
                f"{BEFORE}/complete",
                BACKUP,
                VERIFIED,
                PLAN,
                PACKAGES,
                include_file(site.bundle.engine),
                closing.KEPT_UNITS,
            )
        )
    return asked


def window_of(site: Site) -> windows.Window:
    """The window of the Redis host that this one belongs to: its own, or the server's that its app uses."""
    if site.bundle.is_redis:
        return windows.read(site.run, site.bundle.engine)
    server = inventory.get_host(site.bundle.server)

    def run(command: str) -> tuple[bool, list[str], list[str]]:
        # Connected before anything is prepared, when it is part of the run.
        if server is None or not server.connected:
            return False, [], [f"{site.bundle.server}, whose journal is needed, is not part of this run"]
        sudo = bool(server.data.get("_sudo") or state.config.SUDO)
        ok, output = server.run_shell_command(StringCommand(as_root(command)), _sudo=sudo)
        return ok, output.stdout_lines, output.stderr_lines

    return windows.read(run, site.bundle.engine)


def forward(site: Site) -> None:
    """One stage: the one asked for with --data stage=..., or the next one due."""
    window = window_of(site)
    done, asked = window.position.done, host.data.get("stage")
    try:
        stage = check_forward(asked, done) if asked else following(done)
    except ConfigurationError as error:
        raise DeployError(f"{site.bundle.name}: {error}") from None
    if stage is None:
        site.say("migration: complete, nothing to do")
        return
    passage = Passage(site, "migrate", stage, LEVELS[stage.name], window, again=stage.name in done, **_arguments())
    if site.bundle.is_redis:
        refuse(site, may_begin(passage))
    preflight.usable(site)
    _go(passage)


def back(site: Site) -> None:
    """The last stage, or with --data stage=... every stage back to that one, the last one first."""
    window = window_of(site)
    where, asked = window.position, host.data.get("stage")
    begun = (find(where.begun),) if where.begun else ()
    try:
        reached = (*where.done, where.begun) if where.begun else where.done
        undone = check_back(asked, reached) if asked else begun or tuple(map(find, where.done[-1:]))
    except ConfigurationError as error:
        raise DeployError(f"{site.bundle.name}: {error}") from None
    if not undone:
        site.say("migration: not begun, nothing to undo")
        return
    preflight.usable(site)
    for stage in undone:
        _return(Passage(site, "rollback", stage, LEVELS[stage.name] - 1, window, **_arguments()))


def under_way(site: Site) -> bool:
    """Whether this host, or the server of its app, is in the middle of a migration; says where it stands."""
    if site.bundle.is_redis and not site.survey().file(OPEN).kind:
        return False
    window = window_of(site)
    if not window.position.started or window.position.complete:
        return False
    site.say(f"migration: {window.position}")
    return True


def compare(site: Site) -> None:
    """What differs from the stage that was reached; nothing is compared while one is begun and not done."""
    window = window_of(site)
    if window.position.begun or not window.position.done:
        return
    stage = find(window.position.done[-1])
    passage = Passage(site, "migrate", stage, LEVELS[stage.name], window)
    if site.bundle.is_redis:
        if passage.level >= LEVELS["authentication"] and not site.survey().server.reachable:
            site.found[f"the operator cannot use the running server ({site.survey().server.error})"] = None
        for steps in (_USERS, _TLS, _ACCESS):
            _steps(passage, steps[1:])
    if site.bundle.is_app:
        step(passage, apps.environment, name="Give the app its settings")


def _arguments() -> dict[str, Any]:
    stragglers, backup, unknown = (host.data.get(name) for name in ("stragglers", "old_backup", "unknown_keys"))
    if stragglers not in (None, "end"):
        raise DeployError("stragglers: the only value is end, which ends the sessions of clients that are not ready.")
    if backup not in (None, "keep", "delete"):
        raise DeployError("old_backup: give keep or delete; by default the stage close deletes it.")
    if unknown not in (None, "leave"):
        raise DeployError(
            "unknown_keys: the only value is leave, which leaves entries encrypted with a missing key where they are, as misses."
        )
    return {"stragglers": stragglers == "end", "old_backup": str(backup or ""), "leave_unknown": unknown == "leave"}


def may_begin(passage: Passage) -> str:
    """Why the stage may not begin on this host."""
    site, window = passage.site, passage.window
    survey = site.survey()
    if site.bundle.in_container:
        return "a migration needs a server that runs as the distribution's service: set redis_runtime to native."
    if not window.position.started:
        if survey.file(MANAGED).kind:
            return "this Redis was set up by Redkeep, there is nothing to migrate: use deploys/secure_redis.py."
        found = legacy.inspect(site)
        if told := legacy.notice(found):
            site.say(told)
        return legacy.problem(site, found, survey.memory_bytes)
    config, engine = survey.file(site.bundle.engine.config).sha256, site.bundle.engine
    if window.documented and passage.level < LEVELS["close"] and config not in (window.original, window.extended):
        return (
            f"{engine.config} was changed since the migration began: restore {windows.original_file(engine)}, or go back with "
            "deploys/rollback.py and begin again."
        )
    return ""


def _go(passage: Passage) -> None:
    site, name = passage.site, passage.stage.name
    if site.bundle.is_redis:
        take(passage=passage, name=f"Begin: {passage.stage.description}")
        if check := GATES_FORWARD.get(name):
            gate(passage=passage, check=check, name="Check which clients are not ready")
        if name == "tls" and (sentence := ways.open_door(passage)):
            site.say(sentence)
        _steps(passage, SERVER_FORWARD[name])
        if name == "application_encryption":
            gate(passage=passage, check=sealed.keys_are_known, patience=0, name="Check for entries encrypted with other keys")
    if name == "close":
        # What a deploy mends is a step of this stage, too: only with the lock.
        site.dress = passage.dressed
        whole(site)
    elif site.bundle.is_app:
        if name == "preparation" and not site.bundle.is_redis:
            step(passage, preparation.packages, name="Install what the stages need")
        step(passage, apps.release, name="Install the package")
        step(passage, apps.environment, name="Give the app its settings")
    if site.bundle.is_redis:
        conclude(passage=passage, proof=_proof(passage), name=f"Verify: {passage.stage.validation}")


def _return(passage: Passage) -> None:
    site, name = passage.site, passage.stage.name
    if site.bundle.is_redis:
        take(passage=passage, name=f"Begin: undo {name}")
        if name != "preparation":
            step(passage, ways.reach, name="Reach the server")
    if site.bundle.is_app:
        step(passage, apps.release, name="Install the package")
        step(passage, apps.environment, name="Give the app its previous settings")
        if name == "preparation" and not site.bundle.is_redis:
            step(passage, preparation.packages, name="Remove what was installed")
    if site.bundle.is_redis:
        if check := GATES_BACK.get(name):
            gate(passage=passage, check=check, name="Check which clients would lose access")
        _steps(passage, SERVER_BACK[name])
        conclude(passage=passage, proof=_proof(passage), name=f"Verify: {name} is undone")


def _steps(passage: Passage, steps: Steps) -> None:
    for name, wish in steps:
        step(passage, wish, name=name)


def _proof(passage: Passage) -> Proof | None:
    if passage.level < LEVELS["preparation"]:
        return None
    if passage.verb == "rollback" and passage.level == LEVELS["preparation"]:
        return proofs.as_before
    if passage.level == LEVELS["application_encryption"] and not passage.site.bundle.is_app:
        return None
    return PROOFS[passage.level]
