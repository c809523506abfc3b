"""The steps of a rotation between its deploys: begun, judged, ended, forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra import host, inventory, state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys import sessions
from deploys.credentials import key_ids
from deploys.invocation import invocation
from deploys.operations.converge import differences_of, fail, scripts
from deploys.rotation import Rotation, open_rotation, show_api_key
from deploys.site import Site, hosts_of_run
from deploys.stages import api, application, server, service
from deploys.stages.comparison import keys_of
from deploys.stages.machine import MANAGED
from redkeep.cache.secure import KEYS_SECONDS
from redkeep.errors import RedkeepError
from redkeep.migration.census import Census
from redkeep.migration.readiness import SHOWN, Session, older_than, refusal
from redkeep.monitoring.probes import MONITOR

ARGUMENTS = ("what", "users", "force", "quiet")

# A client of ours that is ended is back within a second; one that is refused has said so to the server by then.
TRIAL_SECONDS = 3.0

# Running apps look at their file every KEYS_SECONDS, at their next command; and one that is under way has its own time.
SETTLE_SECONDS = KEYS_SECONDS + 2.0

# What puts the old back beside the new, in this order.
BACK = (
    service.new_passwords,
    server.operator_access,
    server.certificates,
    server.configuration,
    service.running_users,
    service.running_settings,
)


def asked(site: Site) -> Rotation:
    """The rotation that was asked for. Raises DeployError: bad input, no secrets, a host that was never deployed to, a run
    that would take away what others need."""
    try:
        data = tuple((name, str(value)) for name in ARGUMENTS if (value := host.data.get(name)) is not None)
        rotation = open_rotation(site.secrets, data)
    except RedkeepError as error:
        raise DeployError(str(error)) from None
    if not site.survey().file(MANAGED).kind:
        raise DeployError(
            f"{site.bundle.name}: there is nothing to rotate, because it was never deployed to: run deploys/secure_redis.py."
        )
    part = {each.name for each in hosts_of_run()}
    concerned = [other.name for other in inventory if {"redis", "app"} & {*other.groups}]
    sentence = rotation.refusal(
        concerned=concerned,
        left_out=[name for name in concerned if name not in part],
        together=not invocation().apart and not state.config.FAIL_PERCENT,
    ) or _nobody_seals(site, rotation)
    if sentence:
        raise DeployError(sentence)
    if rotation.what == "api-key" and not any(other.data.get("api_enabled") for other in inventory):
        raise DeployError("No host here serves the API: api_enabled is off; `redkeep secrets renew-api-key` makes a new key.")
    return rotation


def _nobody_seals(site: Site, rotation: Rotation) -> str:
    """Why the entries of this host's Redis would be lost: no app host is there to seal them anew."""
    if rotation.what != "encryption-key" or rotation.force or not site.bundle.is_redis or site.bundle.apps:
        return ""
    if not sum(keys_of(site)):
        return ""
    return (
        f"{site.bundle.name}: no app host of the inventory uses this Redis, so nobody could re-encrypt its entries: put the host of an "
        "application into the group app, or give these entries up with --data force=yes."
    )


def _executing() -> bool:
    return bool(state.current_stage == StateStage.Execute)


@operation()
def begin(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Put the new beside the old in the secrets."""
    if not _executing():
        site.say(f"would {rotation.plan()}")
        yield StringCommand("true")
        return
    hosts = frozenset(each.name for each in hosts_of_run())
    yield from _with_secrets(site, lambda: rotation.begin(hosts))


@operation()
def advance(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Every host trusts the new authority: it issues all certificates from now on."""
    if _executing():
        yield from _with_secrets(site, rotation.advance)


@operation()
def note(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Since when this host's app has the new credentials. Changes nothing."""
    if not _executing():
        return
    file = f"{application.TLS}/client.crt" if rotation.what == "ca" else application.ENVIRONMENT
    ok, lines, _ = site.run(f"echo $(( $(date +%s) - $(stat -c %Y {file}) ))")
    if not ok or not lines or not lines[0].lstrip("-").isdigit():
        yield fail(f"the age of {file} cannot be read: run again.")
        return
    rotation.switched[site.bundle.name] = time.monotonic() - max(0, int(lines[0]))


def unaware(found: Iterable[Session], rotation: Rotation, *, in_container: bool, now: float) -> list[Session]:
    """Who cannot know the new credentials, as far as the time of the login tells. ``now`` in monotonic seconds."""
    since = max(rotation.switched.values(), default=rotation.begun_at)
    others = [session for session in found if session.name != sessions.FOLLOWS]
    # The API's container is a new one, with the new secret, before the app's files are written.
    early = [session for session in others if in_container and session.user == MONITOR]
    late = [session for session in others if session not in early]
    return [*older_than(early, now - rotation.begun_at), *older_than(late, now - since)]


@operation()
def gate(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Fail the host while clients are connected that cannot know the new credentials. Changes nothing."""
    if not _executing() or rotation.force:
        return

    def look() -> Sequence[Session]:
        found = sessions.connected(site, rotation.users)
        return unaware(found, rotation, in_container=site.bundle.in_container, now=time.monotonic())

    try:
        waiting = sessions.lasting(look)
    except DeployError as error:
        yield fail(str(error))
        return
    sentence = refusal(
        waiting,
        what=f"logged in before the new {rotation.thing} was there",
        remedy="Old and new stay valid: restart these clients, then run the same command again; --data force=yes ends them.",
    )
    if sentence:
        yield fail(f"{site.bundle.name}: {sentence}")


@operation()
def quiet(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Fail the host while somebody may still ask its API with the old key. Changes nothing."""
    if not _executing() or rotation.force or not site.bundle.knobs.api_enabled:
        return
    try:
        use = api.older_key_use(site)
    except DeployError as error:
        yield fail(str(error))
        return
    if sentence := still_used(use, minutes=rotation.quiet, secrets=rotation.secrets):
        yield fail(f"{site.bundle.name}: {sentence}")


def still_used(use: Mapping[str, Any], *, minutes: int, secrets: Path) -> str:
    """Why the old API key must not go yet, by what the API says of it; "" when nobody has used it for so long."""
    last, watched = use["seconds_since_last"], float(use["watched_seconds"])
    remedy = (
        f"Both stay valid: `{show_api_key(secrets)}` prints the new one for the callers. Then run the same command again; "
        "--data quiet=MINUTES shortens the wait, --data force=yes skips it."
    )
    if last is not None and last < minutes * 60:
        callers = ", ".join(sorted(use["callers"], key=lambda caller: -int(use["callers"][caller]))[:SHOWN])
        return f"the old API key was used {int(last)} s ago, {use['requests']} times in all, by {callers}. {remedy}"
    if watched < minutes * 60:
        left = minutes - int(watched // 60)
        return f"nobody has used the old API key in the {int(watched)} s since the API received the new one: run again in {left} min. {remedy}"
    return ""


@operation()
def settle(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Wait until every running app has looked at its file again. Changes nothing."""
    if _executing():
        left = max(rotation.switched.values(), default=rotation.begun_at) + SETTLE_SECONDS - time.monotonic()
        time.sleep(max(0.0, left))
    yield from ()


@operation()
def reseal(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Seal the entries of this app's namespace on its Redis anew with the new key. What is left is judged once all have done so."""
    if not _executing() or not rotation.reseals(site.bundle):
        return
    try:
        with rotation.alone_on(site.bundle.server):
            ok, lines, errors = _migrate_data(site, "--leave-unknown")
    except DeployError as error:
        yield fail(str(error))
        return
    for line in lines:
        site.say(line)
    if not ok and not lines:
        site.say("migrate-data: " + next((line.strip() for line in reversed(errors) if line.strip()), "no answer"))


@operation()
def count(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Fail the host while an entry of its Redis, in whichever namespace, needs an old key. Changes nothing."""
    if not _executing() or not rotation.counts(site.bundle):
        return
    try:
        counted, counts, errors = _migrate_data(site, "--count --json")
        if not counted:
            raise ValueError(" ".join(errors)[:200])
        left = Census.parse(json.loads("\n".join(counts))).refusal(key_ids(site.credentials.encryption_keys[1:]))
    except (ValueError, RedkeepError) as error:
        yield fail(f"{site.bundle.name}: the entries that still need the old key could not be counted ({error}): run again.")
        return
    except DeployError as error:
        yield fail(str(error))
        return
    if not left:
        site.say(f"no entry on {site.bundle.server} needs an old key")
    elif rotation.force:
        site.say(f"given up on {site.bundle.server}: {left}")
    else:
        yield fail(
            f"{site.bundle.name}: on {site.bundle.server}: {left}. Old and new keys stay valid: see the output of migrate-data above, then run "
            "the same command again; --data force=yes gives these entries up."
        )


def _migrate_data(site: Site, arguments: str = "") -> tuple[bool, list[str], list[str]]:
    """Run it with the janitor's password, which no host keeps. Raises DeployError when the connection broke."""
    script = "IFS= read -r REDIS_JANITOR_PASSWORD; export REDIS_JANITOR_PASSWORD; " + application.COMMAND
    return site.run(f"{script} migrate-data {arguments}", stdin=site.credentials.password("cache_janitor") + "\n")


@operation()
def narrow(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """From here on the new alone is wanted; the secrets keep the old until it is over."""
    if _executing():
        known = site.credentials
        if rotation.what == "passwords":
            site.credentials = known.newest_passwords()
        else:
            narrowed = {"ca": known.newest_authority, "api-key": known.newest_api_key}.get(rotation.what, known.newest_key)
            site.credentials = narrowed()
    yield from ()


@operation()
def end(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """End the sessions that may rest on the old, one of each kind first. When one is refused afterwards, the old is put back."""
    if not _executing():
        return
    try:
        found = sessions.connected(site, rotation.users)
        before = sessions.refusals(site, rotation.users, handshakes=rotation.what == "ca")
        for part in (sessions.one_of_each(found), found):
            sessions.end(site, part)
            if refused := {} if rotation.force or not part else _refused_soon(site, rotation, before):
                yield from _put_back(site, rotation, refused)
                return
        left = {s.number for s in found} & {s.number for s in sessions.connected(site, rotation.users)}
        if left:
            yield fail(f"{site.bundle.name}: {len(left)} old sessions could not be ended: run the same command again.")
            return
    except DeployError as error:
        yield fail(str(error))
        return
    site.say(f"{len(found)} session{'s' if len(found) != 1 else ''} ended; the old {rotation.thing} no longer works")


def _put_back(site: Site, rotation: Rotation, refused: Mapping[str, int]) -> Generator[StringCommand, None, None]:
    """Make the old valid beside the new again, and fail the host with who needs it."""
    site.reread_secrets()
    for concern in BACK:
        yield from scripts(site, differences_of(site, concern))
    who = ", ".join(f"{name} ({times} time{'s' if times > 1 else ''})" for name, times in sorted(refused.items()))
    yield fail(
        f"{site.bundle.name}: {who} came back with the old {rotation.thing}; old and new are valid again. Restart "
        "these clients, then run the same command again; --data force=yes locks them out."
    )


def _refused_soon(site: Site, rotation: Rotation, before: Mapping[str, int]) -> dict[str, int]:
    """Who is refused within the trial's seconds, and how often."""
    time.sleep(TRIAL_SECONDS)
    after = sessions.refusals(site, rotation.users, handshakes=rotation.what == "ca")
    return {who: times - before.get(who, 0) for who, times in after.items() if times > before.get(who, 0)}


@operation()
def finish(site: Site, rotation: Rotation) -> Generator[StringCommand, None, None]:
    """Forget the old on the operator's side."""
    if _executing():
        yield from _with_secrets(site, rotation.finish)
        site.say(rotation.done())


def _with_secrets(site: Site, change: Callable[[], None]) -> Generator[StringCommand, None, None]:
    try:
        change()
        site.reread_secrets()
    except RedkeepError as error:
        yield fail(str(error))
