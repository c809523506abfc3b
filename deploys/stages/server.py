"""The server on disk: folders, the operator's access, certificates, configuration and sandbox."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile, encode, file_differences, folder_differences
from deploys.engine import Engine
from deploys.facts.survey import Question, Survey, UnitState
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.server_settings import NEVER_ASKED, SET_BY_THE_SERVICE, flatten, line, server_settings
from deploys.site import Site
from deploys.stages import image
from deploys.stages.service import new_passwords, start_script
from deploys.stages.wanted import (
    CLI,
    OPERATOR,
    certificate_folder,
    cli_address,
    drop_in_text,
    leaf,
    native_address,
    sandbox_digest,
    sections,
    users,
)
from redkeep.access.acl import acl_file
from redkeep.stack.compose import openssl_policy, text

OPERATOR_FILES = ("password", "ca.crt", "client.crt", "client.key")
HEALTH_FILES = (*OPERATOR_FILES, "check")
HEALTH_USER = "health_check"
# A folder of drop-ins that are for more than one unit.
_SHARED = re.compile(r"(/|-\.)service\.d/[^/]*$")


def question(site: Site) -> Question:
    if not site.bundle.is_redis:
        return Question()
    engine = site.bundle.engine
    names = flatten(server_settings(site.bundle, addresses=(), memory_bytes=2**30, certificates=""))
    return Question(
        files=(
            CLI,
            OPERATOR,
            *(f"{OPERATOR}/{name}" for name in OPERATOR_FILES),
            engine.config,
            engine.acl_file,
            f"{engine.folder}/openssl.cnf",
            f"/etc/default/{engine.package}",
            engine.tls_folder,
            engine.drop_in,
            engine.drop_in.rpartition("/")[0],
            engine.data_folder,
            f"{engine.data_folder}/dump.rdb",
            f"{engine.data_folder}/appendonlydir",
            engine.log_file.rpartition("/")[0],
        ),
        authorities=(f"{OPERATOR}/ca.crt", f"{engine.tls_folder}/*/ca.crt"),
        globs=(f"{engine.folder}/health", f"{engine.folder}/health/*", f"{engine.tls_folder}/*", f"{engine.tls_folder}/*/*"),
        config=tuple(name for name in names if name not in NEVER_ASKED | SET_BY_THE_SERVICE),
        cli=CLI,
        identity=f"{OPERATOR}/client",
        port=site.bundle.knobs.redis_tls_port,
        address=native_address(site),
    )


def folders(site: Site, survey: Survey) -> Iterator[Difference]:
    engine = site.bundle.engine
    logs = [] if site.bundle.in_container else [(engine.log_file.rpartition("/")[0], engine.user, "adm", "2750")]
    yield from folder_differences(
        [
            (engine.folder, "root", engine.user, "0750"),
            (engine.tls_folder, "root", engine.user, "0750"),
            (engine.data_folder, engine.user, engine.user, "0750"),
            *logs,
        ],
        survey,
    )


def operator_access(site: Site, survey: Survey) -> Iterator[Difference]:
    """The operator's own way in, for root on the host alone."""
    yield from operator_files(site, survey)
    yield from operator_command(site, survey)


def operator_files(site: Site, survey: Survey) -> Iterator[Difference]:
    """The operator's password and certificate."""
    client = site.credentials.client("operator", site.bundle.name)
    contents = (site.credentials.password("operator").encode(), site.credentials.trust_bundle, client.cert_pem, client.key_pem)
    yield from folder_differences([(OPERATOR, "root", "root", "0700")], survey)
    files = [ManagedFile(f"{OPERATOR}/{n}", c, mode="0600") for n, c in zip(OPERATOR_FILES, contents, strict=True)]
    yield from file_differences(files, survey)


def operator_command(site: Site, survey: Survey) -> Iterator[Difference]:
    """Redis' command line over TLS."""
    engine, port = site.bundle.engine, site.bundle.knobs.redis_tls_port
    wrapper = render("usr/local/sbin/redkeep-cli", way="tls", engine=engine, address=cli_address(site, survey), port=port)
    yield from file_differences([ManagedFile(CLI, wrapper, mode="0700")], survey)


def certificates(site: Site, survey: Survey) -> Iterator[Difference]:
    """A folder for each set of certificate, key and CA; redis.conf names the folder, so a restart at any moment finds
    a matching pair."""
    certificate = leaf(site, survey)
    folder, group = certificate_folder(site, certificate), site.bundle.engine.user
    yield from folder_differences([(folder, "root", group, "0750")], survey)
    yield from file_differences(
        [
            ManagedFile(f"{folder}/server.key", certificate.key_pem, group=group, mode="0640"),
            ManagedFile(f"{folder}/server.crt", certificate.cert_pem, group=group, mode="0640"),
            ManagedFile(f"{folder}/ca.crt", site.credentials.trust_bundle, group=group, mode="0640"),
        ],
        survey,
    )


def configuration(site: Site, survey: Survey) -> Iterator[Difference]:
    """redis.conf, users.acl and the OpenSSL policy. New texts are tried by a throwaway server first, both together: where they are
    refused, both stay as they were."""
    engine = site.bundle.engine
    group, folder = engine.user, engine.folder
    parts = sections(site, survey)
    config = render("etc/redis/redis.conf", sections=parts, line=line)
    acl = acl_file(users(site, survey)).encode()
    policy = openssl_policy(site.bundle.knobs.tls_minimum_version)
    yield from file_differences([ManagedFile(f"{folder}/openssl.cnf", policy, group=group, mode="0640")], survey)
    users_file = ManagedFile(engine.acl_file, acl, group=group, mode="0640")
    config_file = ManagedFile(engine.config, config, group=group, mode="0640")
    here, beside = '"$t"', '"$c"'
    if config_file.wrong(survey.file(engine.config)):
        attempt = f"{_beside(config_file)}\n{trial(site, survey, config=beside, acl=here)}"
    else:
        attempt = trial(site, survey, config=engine.config, acl=here)
    tried = file_differences([users_file], survey, before=attempt)
    yield from tried
    attempt = "" if tried else trial(site, survey, config=here, acl=engine.acl_file)
    yield from file_differences([config_file], survey, before=attempt)
    if not survey.has_systemd and not site.bundle.in_container:
        defaults = f"# Managed by redkeep: do not edit. Read by the init script.\nexport OPENSSL_CONF={folder}/openssl.cnf\nulimit -c 0\n"
        yield from file_differences([ManagedFile(f"/etc/default/{engine.package}", defaults.encode())], survey)


def _beside(file: ManagedFile) -> str:
    """Shell that writes a text which holds no secret as "$c", beside its place, for as long as the script of another file runs."""
    return f"""c=$(mktemp {file.path.rpartition("/")[0]}/.redkeep.XXXXXXXX); trap 'rm -f "$t" "$c"' EXIT
base64 -d > "$c" <<'redkeep'
{encode(file.content)}redkeep
chown {file.owner}:{file.group} "$c" && chmod {file.mode} "$c" || exit 1"""


def trial(site: Site, survey: Survey, *, config: str, acl: str) -> str:
    """Shell that fails when a server does not come up from these files."""
    engine = site.bundle.engine
    if site.bundle.in_container:
        return image.try_container(image.reference(site, survey), engine, config=config, acl=acl, user=survey.docker.identity)
    # Whoever listens on every address has the real port on the throwaway server's, too.
    return try_server(engine, config=config, options=f"--aclfile {acl} --tls-port $(( 30000 + $$ % 10000 ))")


def try_server(engine: Engine, *, config: str, options: str = "") -> str:
    """Shell that starts a throwaway server from these files on a loopback address of its own, and fails with its words
    when it does not come up. It runs for a moment, without data, and every user of it needs a password."""
    # Its words go to a file that was open before the folder is its user's, who could put a link in the place of another.
    return f"""try=$(mktemp -d /run/redkeep-try.XXXXXX); exec 3>"$try/out"; chown {engine.user} "$try/out" "$try"
as="setpriv --reuid={engine.user} --regid={engine.user} --clear-groups"
set -- {engine.server} {config} {options} --bind 127.83.7.$(( $$ % 250 + 2 )) --daemonize no --supervised no
set -- "$@" --logfile "$try/log" --dir "$try" --pidfile "$try/pid" --save '' --appendonly no
export OPENSSL_CONF={engine.folder}/openssl.cnf
$as "$@" >&3 2>&3 & p=$!
exec 3>&-
up=no; i=0
while [ $i -lt 100 ] && kill -0 $p 2>/dev/null; do
    if grep -q 'Ready to accept connections' "$try/log" 2>/dev/null; then up=yes; break; fi
    i=$((i+1)); sleep 0.05
done
kill $p 2>/dev/null || true; wait $p 2>/dev/null || true
words=$($as cat "$try/out" "$try/log" 2>/dev/null | tail -5); rm -rf "$try"
if [ $up = no ]; then echo "the new configuration does not start, the old one stays: $words" >&2; exit 1; fi"""


def health(site: Site, survey: Survey) -> Iterator[Difference]:
    """What the health check inside the container needs; nothing where there is no container."""
    engine = site.bundle.engine
    folder = f"{engine.folder}/health"
    if not site.bundle.in_container:
        if survey.file(folder).kind:
            yield Difference(f"folder {folder} is not needed without a container", f"rm -rf {folder}")
        return
    client = site.credentials.client(HEALTH_USER, site.bundle.name)
    contents = (
        site.credentials.password(HEALTH_USER).encode() + b"\n",
        site.credentials.trust_bundle,
        client.cert_pem,
        client.key_pem,
        text("health-check.sh"),
    )
    yield from folder_differences([(folder, "root", engine.user, "0750")], survey)
    yield from file_differences(
        [ManagedFile(f"{folder}/{n}", c, group=engine.user, mode="0640") for n, c in zip(HEALTH_FILES, contents, strict=True)],
        survey,
    )


def old_data(site: Site, survey: Survey) -> Iterator[Difference]:
    """Without persistence no file may bring old values back at the next start."""
    if site.bundle.knobs.redis_persistence != "off":
        return
    for name in ("dump.rdb", "appendonlydir"):
        path = f"{site.bundle.engine.data_folder}/{name}"
        if survey.file(path).kind:
            yield Difference(f"{path} exists although redis_persistence is off", f"rm -rf {path}")


def drop_in(site: Site, survey: Survey) -> Iterator[Difference]:
    """The sandbox. Its file's time tells whether the running process was started under it: a text mended after a change
    by hand that no start has seen keeps an older time, so that nothing is restarted for it."""
    if not survey.has_systemd or site.bundle.in_container:
        return
    engine, path = site.bundle.engine, site.bundle.engine.drop_in
    yield from folder_differences([(path.rpartition("/")[0], "root", "root", "0755")], survey)
    unit, found = survey.units.get(engine.unit, UnitState()), survey.file(path)
    unseen = unit.stale or found.modified > unit.started
    after = "systemctl daemon-reload"
    if unit.active == "active" and unseen and sandbox_digest(site, survey) in unit.environment:
        after = f"touch -d @{unit.started - 1} {path}\n{after}"
    elif unit.active == "active":
        after = f"{after}\n{start_script(site, survey, 'restart')}"
    yield from foreign_units(site, survey)
    mended = file_differences([ManagedFile(path, drop_in_text(site, survey))], survey, after=after)
    yield from mended
    if unit.stale and not mended:
        yield Difference(f"unit {engine.unit} was changed on disk but not loaded", "systemctl daemon-reload")


def foreign_units(site: Site, survey: Survey) -> Iterator[Difference]:
    """Other texts that change the unit: they could undo the sandbox, so they go, and the server starts without them."""
    engine, unit = site.bundle.engine, survey.units.get(site.bundle.engine.unit, UnitState())
    if found := foreign_texts(engine, unit):
        again = start_script(site, survey, "restart") if unit.active == "active" else "true"
        yield Difference(
            f"unit {engine.unit} is changed by {' '.join(found)}, which is not Redkeep's (needs a restart)",
            f"rm -f {shlex.join(found)}\nsystemctl daemon-reload\n{again}",
        )


def foreign_texts(engine: Engine, unit: UnitState) -> list[str]:
    """Files of this unit that are neither ours nor the distribution's. What says something for other units too is not ours to
    remove: "service.d" is for every service of the host, "redis-.service.d" for all whose names begin so."""
    mine = [path for path in unit.drop_ins if path != engine.drop_in and not _SHARED.search(path)]
    texts = [*mine, *([unit.fragment] if unit.load == "loaded" else [])]
    return [path for path in texts if path.startswith(("/etc/", "/run/"))]


@deploy("Server")
def server_files(site: Site) -> None:
    converge(site, new_passwords, name="Accept new passwords")
    converge(site, folders, name="Create the server's folders")
    converge(site, operator_files, name="Give root on the host the operator's login")
    converge(site, certificates, name="Install the certificates")
    converge(site, configuration, name="Write the configuration and the users")
    # Not before: where the new configuration is refused, the command still asks the server that is there.
    converge(site, operator_command, name="Write the operator's command")
    converge(site, health, name="Write the container's health check")
    converge(site, old_data, name="Remove unused data")
    converge(site, drop_in, name="Write the sandbox")
