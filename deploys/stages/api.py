"""The API on app hosts: a service of its own, shut in, with credentials of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from pyinfra.api import DeployError, deploy

from deploys import stack
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stages import application
from deploys.stages.machine import STATE
from deploys.stages.wanted import app_address

UNIT = "redkeep-api.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
FOLDER, STATES = stack.API_FOLDER, stack.API_STATE
USER = "redkeep-api"
# Says that the user is ours to take away.
USER_MARK = f"{STATE}/user-{USER}"
ENVIRONMENT = f"{FOLDER}/api.env"
LOCAL = f"{FOLDER}/local.env"
CREDENTIALS = ("monitor-password", "client.crt", "client.key")
# The running API looks at these itself.
KEYS = (f"{FOLDER}/key", f"{FOLDER}/older-key")
# What the API reads in a container, and nothing else does.
CONTAINED = ("cache.env", "ca.crt", "server.crt", "server.key")


def question(site: Site) -> Question:
    if not site.bundle.is_app:
        return Question(files=(FOLDER, UNIT_FILE))
    files = (FOLDER, ENVIRONMENT, LOCAL, UNIT_FILE, USER_MARK, *KEYS, *(f"{FOLDER}/{name}" for name in CREDENTIALS + CONTAINED))
    return Question(files=files, units=(UNIT,), users=(USER,), listening=tuple(ports(site).values()))


def ports(site: Site) -> dict[str, int]:
    """The ports of the loopback address that are wanted on this host, by knob."""
    bundle = site.bundle
    wanted = {"api_port": bundle.api_in_unit or bundle.api_in_container, "dashboard_port": bundle.has_dashboard}
    return {knob: getattr(bundle.knobs, knob) for knob, there in wanted.items() if there}


def problem(site: Site, survey: Survey) -> str:
    """Why the host cannot serve the API, or an empty text."""
    if not site.bundle.api_in_unit or survey.has_systemd:
        return ""
    return "the API needs systemd, which does not run here: set api_enabled to False and start `redkeep serve` yourself."


def account(site: Site, survey: Survey) -> Iterator[Difference]:
    """A user that owns nothing and cannot log in."""
    if USER not in survey.users:
        yield Difference(
            f"user {USER} is missing",
            f"touch {USER_MARK}\n"
            f"useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin {USER}",
        )


def access_files(site: Site) -> list[ManagedFile]:
    """How the API shows itself to Redis."""
    client = site.credentials.client("redkeep-api", site.bundle.name)
    return [
        ManagedFile(f"{FOLDER}/client.crt", client.cert_pem, mode="0644"),
        ManagedFile(f"{FOLDER}/client.key", client.key_pem, group=USER, mode="0640"),
    ]


def files(site: Site, survey: Survey) -> Iterator[Difference]:
    """The unit and what it reads."""
    group = site.bundle.knobs.app_group
    yield from folder_differences([(FOLDER, "root", group, "0750")], survey)
    yield from keys(site, survey)
    yield from file_differences(
        [
            *access_files(site),
            ManagedFile(
                f"{FOLDER}/monitor-password", site.credentials.password("monitor").encode() + b"\n", group=USER, mode="0640"
            ),
            ManagedFile(ENVIRONMENT, render("etc/redkeep/api/api.env", values=values()), group=group, mode="0640"),
        ],
        survey,
    )
    yield from file_differences([ManagedFile(UNIT_FILE, unit_text(site, survey))], survey, after="systemctl daemon-reload")


def keys(site: Site, survey: Survey) -> Iterator[Difference]:
    """The key, and while a rotation lasts the one before: that first, so that no caller is refused in between. The key can be read
    by the app's group: who is in it may ask the API."""
    newest, older = KEYS
    before = site.credentials.older_api_key().encode()
    if before:
        yield from file_differences([ManagedFile(older, before + b"\n", group=USER, mode="0640")], survey)
    key = site.credentials.api_key().encode() + b"\n"
    yield from file_differences([ManagedFile(newest, key, group=site.bundle.knobs.app_group, mode="0640")], survey)
    if not before and survey.file(older).kind:
        yield Difference(f"file {older} contains a key that is no longer valid", f"rm -f {older}")


def values() -> dict[str, str]:
    """What differs from the app's own environment."""
    return {
        "REDKEEP_API_KEY_FILE": KEYS[0],
        "REDKEEP_API_OLDER_KEY_FILE": KEYS[1],
        "REDIS_MONITOR_PASSWORD_FILE": f"{FOLDER}/monitor-password",
        "REDIS_TLS_CERT_FILE": f"{FOLDER}/client.crt",
        "REDIS_TLS_KEY_FILE": f"{FOLDER}/client.key",
    }


def unit_text(site: Site, survey: Survey) -> bytes:
    knobs = site.bundle.knobs
    return render(
        f"etc/systemd/system/{UNIT}",
        engine=site.bundle.engine,
        with_redis=site.bundle.is_redis,
        program=f"{application.CURRENT}/bin/redkeep",
        port=knobs.api_port,
        cache_environment=application.ENVIRONMENT,
        folder=FOLDER,
        user=USER,
        group=knobs.app_group,
        reachable=reachable(site, survey),
    )


def reachable(site: Site, survey: Survey) -> list[str]:
    """The addresses that the service may speak to; empty for all of them."""
    asked = list(site.bundle.knobs.api_reachable)
    try:
        redis = ip_address(app_address(site, survey))
    except ValueError:
        return ["localhost", *asked] if asked else []
    return ["localhost", *([] if redis.is_loopback else [str(redis)]), *asked]


def running(site: Site, survey: Survey) -> Iterator[Difference]:
    """The service is up, and was started under what it reads now."""
    unit = survey.units.get(UNIT)
    if unit is None or unit.enabled != "enabled" or unit.active != "active":
        yield Difference(f"unit {UNIT} is not enabled and active", start_script())
        return
    read = (UNIT_FILE, ENVIRONMENT, LOCAL, application.ENVIRONMENT, application.CURRENT, f"{application.TLS}/ca.crt")
    for path in (*read, *(f"{FOLDER}/{name}" for name in CREDENTIALS)):
        if survey.file(path).kind and survey.file(path).modified > unit.started:
            yield Difference(f"unit {UNIT} was started before {path} was written (needs a restart)", start_script())
            return


def unwanted(site: Site, survey: Survey) -> Iterator[Difference]:
    """What an earlier deploy with the API left."""
    if survey.file(UNIT_FILE).kind or survey.file(FOLDER).kind:
        what = f"unit {UNIT}" if survey.file(UNIT_FILE).kind else f"folder {FOLDER}"
        why = "api_enabled is False" if site.bundle.is_app else "the host is not in the group app"
        yield Difference(f"{what} exists although {why}", gone())


def other_way(site: Site, survey: Survey) -> Iterator[Difference]:
    """What the API has as a service when it is to be a container, or the other way round. Key, state and local.env stay."""
    names = ("monitor-password", ENVIRONMENT.rpartition("/")[2]) if site.bundle.api_in_container else CONTAINED
    there = [path for name in names if survey.file(path := f"{FOLDER}/{name}").kind]
    if site.bundle.api_in_container and survey.file(UNIT_FILE).kind:
        script = f"systemctl disable --now {UNIT} >/dev/null 2>&1 || true\nrm -f {UNIT_FILE}\nsystemctl daemon-reload"
        yield Difference(f"unit {UNIT} exists beside the container", script)
    if there:
        yield Difference(f"files are not needed by the API here: {' '.join(there)}", f"rm -f {' '.join(there)}")


def start_script() -> str:
    """Shell that starts the service anew and waits until it listens, or says its own last words."""
    return f"""systemctl enable {UNIT} >/dev/null 2>&1
systemctl restart {UNIT} 2>/dev/null || {{
    echo '{UNIT} does not start; its log ends with:' >&2
    journalctl -u {UNIT} -n 5 -o cat --no-pager >&2 || true
    exit 1
}}"""


def older_key_use(site: Site) -> dict[str, Any]:
    """What the API of this host says of the use of its older key. Raises DeployError when it does not answer."""
    scheme, authority = ("https", f"{FOLDER}/ca.crt") if site.bundle.api_in_container else ("http", "")
    address = f"{scheme}://127.0.0.1:{site.bundle.knobs.api_port}/internal/monitoring/older-key"
    ok, lines, errors = site.run(f"{application.CURRENT}/bin/python -c {shlex.quote(ASK)} {address} {KEYS[0]} {authority}")
    try:
        found = json.loads("\n".join(lines)) if ok else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        reason = next((line.strip() for line in reversed(errors) if line.strip()), "no answer")
        raise DeployError(f"{site.bundle.name}: the API does not report who uses its older key ({reason[:200]}): run again.")
    return found


# Asked on the host itself, where the key is. No proxy of the environment comes between.
ASK = """import ssl, sys, urllib.request as r
asked = r.Request(sys.argv[1], headers={"X-API-Key": open(sys.argv[2]).read().strip()})
trust = r.HTTPSHandler(context=ssl.create_default_context(cafile="".join(sys.argv[3:]) or None))
print(r.build_opener(r.ProxyHandler({}), trust).open(asked, timeout=10).read().decode())"""


def gone() -> str:
    """Shell that takes the service away."""
    return f"""systemctl disable --now {UNIT} >/dev/null 2>&1 || true
rm -rf {UNIT_FILE} {FOLDER} {STATES}
systemctl daemon-reload
[ ! -e {USER_MARK} ] || {{ userdel {USER} 2>/dev/null || true; rm -f {USER_MARK}; }}"""


@deploy("API")
def api(site: Site) -> None:
    if not (site.bundle.is_app and site.bundle.knobs.api_enabled):
        converge(site, unwanted, name="Remove the API")
    if not site.bundle.api_in_unit:
        return
    converge(site, account, name="Create the API's user")
    converge(site, files, name="Write the API's service and its credentials")
    converge(site, other_way, name="Remove the files of the API's container")
    converge(site, running, name="Start the API")
