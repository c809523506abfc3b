"""What an app host holds at each level, and what is asked of the clients before the next one."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence

from deploys.bundle import LOOPBACK
from deploys.difference import Difference, ManagedFile, file_differences
from deploys.facts.survey import Survey
from deploys.migration.passage import Passage
from deploys.migration.ways import sessions_end
from deploys.rendering import render
from deploys.stages import application
from deploys.stages.application import COMMAND, ENVIRONMENT, TLS
from deploys.stages.wanted import CLI
from redkeep.access.acl import USERS
from redkeep.migration import readiness
from redkeep.migration.stages import LEVELS

# Only needed with TLS; only with keys.
_OF_TLS = ("REDIS_TLS_MIN_VERSION", "REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE")
_OF_KEYS = ("REDIS_ENCRYPTION_KEYS",)

OURS = tuple(name for name in USERS if name != "default")


def release(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The package, of the version that the settings are written for."""
    if passage.level >= LEVELS["preparation"]:
        yield from application.account(passage.site, survey)
        yield from application.package(passage.site, survey)


def environment(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The app's settings follow the level: password, TLS, key with the reading of old entries, and that off at the end."""
    level, site = passage.level, passage.site
    if level >= LEVELS["close"]:
        yield from application.environment(site, survey)
        return
    values = _values(passage, survey)
    if not values:
        there = [path for path in (ENVIRONMENT, TLS) if survey.file(path).kind]
        if there:
            yield Difference(f"the app's settings are still there: {' '.join(there)}", f"rm -rf {' '.join(there)}")
        return
    group = site.bundle.knobs.app_group
    if level >= LEVELS["tls"]:
        yield from application.certificates(site, survey)
    text = render("etc/redkeep/cache.env", group=group, values=values)
    yield from file_differences([ManagedFile(ENVIRONMENT, text, group=group, mode="0640")], survey)
    if level < LEVELS["tls"] and survey.file(TLS).kind:
        yield Difference(f"folder {TLS} is not needed without TLS", f"rm -rf {TLS}")


def _values(passage: Passage, survey: Survey) -> dict[str, str]:
    level, site = passage.level, passage.site
    if level < LEVELS["authentication"]:
        return {}
    values = application.values(site, survey)
    if level >= LEVELS["application_encryption"]:
        return values | {"REDIS_READ_LEGACY": "true"}
    values = {name: value for name, value in values.items() if name not in _OF_KEYS}
    if level >= LEVELS["tls"]:
        return values
    if site.bundle.app_redis_address not in LOOPBACK:
        # A password does not cross a network in clear.
        return {}
    values = {name: value for name, value in values.items() if name not in _OF_TLS}
    return values | {"REDIS_URL": f"redis://{passage.window.address}:{passage.window.port}/0", "REDIS_TLS_ENABLED": "false"}


def _clients(survey: Survey) -> tuple[readiness.Session, ...]:
    return readiness.bystanders(readiness.sessions(survey.server.clients))


def strangers_end(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """A user that is off keeps the sessions it has: they end."""
    found = readiness.not_among(_clients(survey), OURS)
    if passage.level >= LEVELS["access_control"] and found:
        script = "\n".join(f"{CLI} CLIENT KILL ID {session.number} >/dev/null || true" for session in found)
        yield Difference(f"{len(found)} sessions of users that are turned off are still open", script)


def plaintext_ends(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """What came in by the plaintext port, which is closed."""
    found = readiness.not_on_port(_clients(survey), passage.site.bundle.knobs.redis_tls_port)
    if passage.level >= LEVELS["close"] and found:
        yield Difference(f"{len(found)} sessions on the plaintext port are still open", sessions_end(passage.window.port))


def all_by_tls(passage: Passage, survey: Survey) -> str:
    """Who still speaks plaintext."""
    found = readiness.not_on_port(_clients(survey), passage.site.bundle.knobs.redis_tls_port)
    unknown = sorted({session.peer for session in found if not _within(session.peer, _admitted(passage, survey))})
    missing = f"{', '.join(unknown)} {'are no hosts' if len(unknown) > 1 else 'is no host'} of the inventory"
    return _unless_ended(
        passage,
        readiness.refusal(
            found,
            what="still use plaintext" if len(found) > 1 else "still uses plaintext",
            remedy=f"Move them to port {passage.site.bundle.knobs.redis_tls_port} with TLS ({ENVIRONMENT} on the app hosts has the settings)"
            + (
                f"; {missing}: add it to the group app, or to allowed_clients, and give it the settings of an app host"
                if unknown
                else ""
            ),
        ),
    )


def all_are_admitted(passage: Passage, survey: Survey) -> str:
    """Who still speaks plaintext; then who comes from where, or to where, nobody can come once the last stage is over."""
    if sentence := all_by_tls(passage, survey):
        return sentence
    bundle = passage.site.bundle
    doors = bundle.bind_addresses(survey.addresses)
    everywhere = any(ipaddress.ip_address(door).is_unspecified for door in doors)
    admitted = _admitted(passage, survey)
    found = [
        session for session in _clients(survey) if not (_within(session.peer, admitted) and (everywhere or session.door in doors))
    ]
    shut = readiness.refusal(
        found,
        what="would be shut out",
        remedy=f"Let their hosts be in the inventory's group app or in allowed_clients, and call Redis at {' or '.join(doors)}",
    )
    return _unless_ended(passage, shut)


def _admitted(passage: Passage, survey: Survey) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """From where a client may come once the last stage is over."""
    known = (*passage.site.bundle.client_addresses, *survey.addresses, "127.0.0.0/8", "::1")
    return [ipaddress.ip_network(text) for text in known]


def _within(text: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)


def all_have_users(passage: Passage, survey: Survey) -> str:
    """Who is still logged in as `default`, or as nobody."""
    found = readiness.not_among(_clients(survey), OURS)
    return _unless_ended(
        passage,
        readiness.refusal(
            found,
            what="still log in as a previous user" if len(found) > 1 else "still logs in as a previous user",
            remedy=f"Give each its own user and password ({ENVIRONMENT} on the app hosts has them)",
        ),
    )


def none_has_users(passage: Passage, survey: Survey) -> str:
    """On the way back: who would lose its user."""
    found = readiness.among(_clients(survey), [name for name in OURS if name != "operator"])
    remedy = "Move them back to the previous password, or to none"
    return _unless_ended(passage, readiness.refusal(found, what="would lose their user", remedy=remedy))


def none_by_tls(passage: Passage, survey: Survey) -> str:
    """On the way back: who would lose its TLS port."""
    port = passage.site.bundle.knobs.redis_tls_port
    found = [session for session in _clients(survey) if session.port == port and session.user != "operator"]
    remedy = f"Move them back to port {passage.window.port}"
    return _unless_ended(passage, readiness.refusal(found, what="would lose the TLS port", remedy=remedy))


def _unless_ended(passage: Passage, sentence: str) -> str:
    if passage.stragglers or not sentence:
        return ""
    return f"{sentence}, then run again; or add --data stragglers=end, which ends their sessions when their port or user closes."


def sealed(passage: Passage, _: Survey) -> tuple[str, Mapping[str, str | int]]:
    """The app host writes, reads and opens a sealed value."""
    _ok, lines, errors = passage.site.run(f"{COMMAND} status --json")
    try:
        controls = {control["name"]: control for control in json.loads("\n".join(lines))["controls"]}
        found = controls["sealed round trip"]
    except (ValueError, KeyError, TypeError):
        return f"the app's status could not be read ({' '.join(errors)[:200] or 'no answer'}).", {}
    if found["state"] != "ok":
        return f"the app's sealed round trip: {found['evidence']}.", {}
    return "", {"sealed round trip": str(found["evidence"])}
