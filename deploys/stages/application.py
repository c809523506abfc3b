"""The application's side: the package in an environment of its own, and the credentials of this host alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pyinfra.api import DeployError, deploy

from deploys import release
from deploys.difference import Difference, ManagedFile, encode, file_differences, folder_differences
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stages.machine import STATE
from deploys.stages.wanted import app_address
from redkeep.errors import ConfigurationError

HOME = "/opt/redkeep"
CURRENT = f"{HOME}/current"
COMMAND = "/usr/local/bin/redkeep"
TLS = "/etc/redkeep/tls"
ENVIRONMENT = "/etc/redkeep/cache.env"
CREDENTIALS = (ENVIRONMENT, TLS)


def question(site: Site) -> Question:
    # Also of a host that was in the group app before.
    always = Question(files=(HOME, COMMAND, *CREDENTIALS))
    if not site.bundle.is_app:
        return always
    return always | Question(
        files=(
            f"{HOME}/releases",
            CURRENT,
            *(f"{TLS}/{n}" for n in ("ca.crt", "client.crt", "client.key")),
        ),
        globs=(f"{STATE}/group-*", f"{HOME}/releases/*/.complete", f"{HOME}/releases/*"),
        groups=(site.bundle.knobs.app_group,),
        users=site.bundle.knobs.app_users,
        authorities=(f"{TLS}/ca.crt",),
    )


def account(site: Site, survey: Survey) -> Iterator[Difference]:
    group = site.bundle.knobs.app_group
    if group not in survey.groups:
        # The mark tells a removal that the group is ours to take away: an existing one is not.
        make = f"getent group {group} >/dev/null || {{ touch {STATE}/group-{group}; groupadd --system {group}; }}"
        yield Difference(f"group {group} is missing", make)
    for user in site.bundle.knobs.app_users:
        if user not in survey.groups.get(group, ()):
            yield Difference(f"user {user} is not in the group {group}", f"usermod --append --groups {group} {user}")
    if survey.file(f"{STATE}/group-{group}").kind:
        for user in survey.groups.get(group, ()):
            if user not in site.bundle.knobs.app_users:
                what = f"user {user} can read the app's credentials through the group {group}, but is not in app_users"
                yield Difference(what, f"gpasswd --delete {shlex.quote(user)} {group} >/dev/null")


def package(site: Site, survey: Survey) -> Iterator[Difference]:
    """A release is a folder named after its source; ``current`` points to the one in use and is switched at once."""
    yield from folder_differences([(HOME, "root", "root", "0755"), (f"{HOME}/releases", "root", "root", "0755")], survey)
    # Before the first packages are there, the host may have no Python yet; it will be the distribution's.
    python = survey.host.get("python", "3")
    folder = f"{HOME}/releases/{release.release_name(python, extra=_extra(site))}"
    if survey.file(f"{folder}/.complete").kind != "file":
        yield Difference(f"release {folder} is not installed", _install(site, folder), lambda: _archive(site, survey))
    if survey.file(CURRENT).target != folder:
        yield Difference(f"link {CURRENT} does not point to {folder}", link(CURRENT, folder))
    if survey.file(COMMAND).target != f"{CURRENT}/bin/redkeep":
        yield Difference(f"link {COMMAND} does not point to the package", link(COMMAND, f"{CURRENT}/bin/redkeep"))
    # The one before stays, for processes that still run from it and for the way back.
    before = survey.file(CURRENT).target
    others = [p for p in survey.files if p.rpartition("/")[0] == f"{HOME}/releases" and p != folder]
    if before == folder:
        before = max(others, key=lambda path: survey.file(path).modified, default="")
    for path in others:
        if path != before:
            yield Difference(f"release {path} is no longer in use", f"rm -rf {path}")


def _extra(site: Site) -> str:
    return "api" if site.bundle.api_in_unit else ""


def link(path: str, target: str) -> str:
    """Shell that points a symbolic link elsewhere in one step."""
    return f"ln -sfn {target} {path}.new && mv -fT {path}.new {path}"


def _archive(site: Site, survey: Survey) -> str:
    knobs = site.bundle.knobs
    python, architecture = survey.host.get("python", ""), survey.host.get("arch", "")
    if not python:
        return ""
    try:
        return encode(release.archive(python, architecture, knobs.package_source, extra=_extra(site)))
    except ConfigurationError as error:
        raise DeployError(str(error)) from None


def _install(site: Site, folder: str) -> str:
    offline = "--no-index --find-links ." if site.bundle.knobs.package_source == "wheelhouse" else ""
    pip = f"{folder}/bin/pip --quiet --disable-pip-version-check --no-input install"
    return f"""umask 022; t=$(mktemp -d {HOME}/.install.XXXXXX); trap 'rm -rf "$t"' EXIT; cd "$t"
base64 -d | tar -xz
# Another run was faster: what is in use is not touched.
[ ! -e {folder}/.complete ] || exit 0
rm -rf {folder}; python3 -m venv {folder}
{pip} {offline} --require-hashes -r requirements.lock || {{
    echo 'pip cannot fetch the package: name an index (and its CA) in /etc/pip.conf on the host, or set package_source to wheelhouse.' >&2
    exit 1
}}
{pip} --no-index --no-deps redkeep-*.whl
{folder}/bin/pip --disable-pip-version-check check >/dev/null
{folder}/bin/python -c 'from redkeep import SecureAIResponseCache'
chmod -R go-w {folder}; touch {folder}/.complete; sync {folder}"""


def environment(site: Site, survey: Survey) -> Iterator[Difference]:
    """cache.env and the client certificate: this host's own, for root and the app's group."""
    group = site.bundle.knobs.app_group
    text = render("etc/redkeep/cache.env", group=group, values=values(site, survey))
    yield from certificates(site, survey)
    yield from file_differences([ManagedFile(ENVIRONMENT, text, group=group, mode="0640")], survey)


def certificates(site: Site, survey: Survey) -> Iterator[Difference]:
    """What the app shows to Redis, and whom it trusts."""
    group = site.bundle.knobs.app_group
    client = site.credentials.client("cache_service", site.bundle.name)
    yield from folder_differences([(TLS, "root", group, "0750")], survey)
    yield from file_differences(
        [
            ManagedFile(f"{TLS}/ca.crt", site.credentials.trust_bundle, group=group, mode="0644"),
            ManagedFile(f"{TLS}/client.crt", client.cert_pem, group=group, mode="0644"),
            ManagedFile(f"{TLS}/client.key", client.key_pem, group=group, mode="0640"),
        ],
        survey,
    )


def left(site: Site, survey: Survey) -> Iterator[Difference]:
    """A host that has left the group app keeps none of the app's credentials: with its Redis alone it must not open a value."""
    if there := [path for path in CREDENTIALS if survey.file(path).kind]:
        words = " ".join(there)
        yield Difference(
            f"the app's credentials are still there, but the host is not in the group app: {words}", f"rm -rf {words}"
        )


def values(site: Site, survey: Survey) -> dict[str, str]:
    """The environment of the app, by the names of redkeep.Settings."""
    knobs, secrets = site.bundle.knobs, site.credentials
    address = app_address(site, survey)
    host = f"[{address}]" if ":" in address else address
    return {
        "ENVIRONMENT": "production",
        # A process that has these lines as its environment finds a rotated password here.
        "REDIS_SETTINGS_FILE": ENVIRONMENT,
        "REDIS_URL": f"rediss://{host}:{knobs.redis_tls_port}/0",
        "REDIS_USERNAME": "cache_service",
        "REDIS_PASSWORD": secrets.password("cache_service"),
        # May PING and ask INFO, nothing else: the figures of the cache's statistics.
        "REDIS_HEALTH_PASSWORD": secrets.password("health_service"),
        "REDIS_TLS_ENABLED": "true",
        "REDIS_TLS_MIN_VERSION": knobs.tls_minimum_version,
        "REDIS_TLS_CA_FILE": f"{TLS}/ca.crt",
        "REDIS_TLS_CERT_FILE": f"{TLS}/client.crt",
        "REDIS_TLS_KEY_FILE": f"{TLS}/client.key",
        "REDIS_ENCRYPTION_KEYS": ",".join(secrets.encryption_keys),
        "REDIS_NAMESPACE": knobs.cache_namespace,
        "REDIS_COMPRESSION": knobs.cache_compression,
        "REDIS_PROTECTED_MODE": "true",
        "REDIS_DEV_MODE": "false",
        **({"REDIS_CLIENT_TRACKING": "true"} if knobs.cache_tracking else {}),
    }


@deploy("Application")
def application(site: Site) -> None:
    if not site.bundle.is_app:
        converge(site, left, name="Remove the app's credentials")
        return
    converge(site, account, name="Create the app's group")
    converge(site, package, name="Install the package")
    converge(site, environment, name="Write the app's credentials")
