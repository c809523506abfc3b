"""The server: certificates, users and settings, on disk and in the running process."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from ipaddress import ip_address

from pyinfra.api import DeployError, deploy

from deploys.bundle import UNSPECIFIED
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.engine import Engine
from deploys.facts.survey import Question, Survey, UnitState
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.server_settings import (
    CERTIFICATE_SETTINGS,
    FIXED_AT_START,
    NEVER_ASKED,
    SET_BY_THE_SERVICE,
    Section,
    flatten,
    line,
    server_settings,
)
from deploys.site import Site
from deploys.stages.machine import MANAGED
from redkeep.access.acl import AclUser, acl_differences, acl_file, build_users, parse_acl_list, setuser_arguments
from redkeep.crypto.pki import Leaf
from redkeep.errors import ConfigurationError

CLI = "/usr/local/sbin/redkeep-cli"
# Gives Redis the one command on standard input, whole or not at all: a user's rules cut short could be too wide.
COMMAND_SCRIPT = f"""IFS= read -r line; printf '%s\\n' "$line" | {CLI} -e >/dev/null"""

OPERATOR = "/etc/redkeep/operator"
OPERATOR_FILES = ("password", "ca.crt", "client.crt", "client.key")


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
        globs=(f"{engine.tls_folder}/*", f"{engine.tls_folder}/*/*"),
        config=tuple(name for name in names if name not in NEVER_ASKED | SET_BY_THE_SERVICE),
        cli=CLI,
        identity=f"{OPERATOR}/client",
        port=site.bundle.knobs.redis_tls_port,
        address=cli_address(site),
    )


def cli_address(site: Site) -> str:
    """Where the host itself reaches its Redis."""
    bind = site.bundle.knobs.redis_bind
    return "127.0.0.1" if not bind or "127.0.0.1" in bind or UNSPECIFIED[0] in bind else bind[0]


def addresses(site: Site, survey: Survey) -> tuple[str, ...]:
    try:
        return site.bundle.bind_addresses(survey.addresses)
    except ConfigurationError as error:
        raise DeployError(str(error)) from None


def leaf(site: Site, survey: Survey) -> Leaf:
    """The server's certificate: every name and address it is reached by."""
    bundle = site.bundle
    names = {"localhost", "127.0.0.1", survey.host.get("hostname", ""), bundle.redis_address, *bundle.knobs.tls_names}
    names |= {address for address in addresses(site, survey) if address not in UNSPECIFIED}
    if not bundle.is_local:
        names.add(bundle.name)
    return site.credentials.server(bundle.name, sorted(filter(None, names)))


def certificate_folder(site: Site, certificate: Leaf) -> str:
    digest = hashlib.sha256(certificate.cert_pem + site.credentials.trust_bundle).hexdigest()[:16]
    return f"{site.bundle.engine.tls_folder}/{digest}"


def users(site: Site, survey: Survey) -> tuple[AclUser, ...]:
    return build_users(engine=site.bundle.engine.name, version=version(site, survey), hashes=site.credentials.hashes)


def version(site: Site, survey: Survey) -> tuple[int, int]:
    """The installed server's version; the oldest we support, before it is installed."""
    engine = site.bundle.engine
    text = survey.packages.get(engine.package, engine.oldest).rpartition(":")[2]
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def settings(site: Site, survey: Survey) -> dict[str, str]:
    return flatten(_sections(site, survey))


def _sections(site: Site, survey: Survey) -> tuple[Section, ...]:
    return server_settings(
        site.bundle,
        addresses=addresses(site, survey),
        memory_bytes=survey.memory_bytes,
        certificates=certificate_folder(site, leaf(site, survey)),
    )


def folders(site: Site, survey: Survey) -> Iterator[Difference]:
    engine = site.bundle.engine
    yield from folder_differences(
        [
            (engine.folder, "root", engine.user, "0750"),
            (engine.tls_folder, "root", engine.user, "0750"),
            (engine.data_folder, engine.user, engine.user, "0750"),
            (engine.log_file.rpartition("/")[0], engine.user, "adm", "2750"),
            (OPERATOR, "root", "root", "0700"),
        ],
        survey,
    )


def operator_access(site: Site, survey: Survey) -> Iterator[Difference]:
    """The operator's own way in, for root on the host alone."""
    client = site.credentials.client("operator", site.bundle.name)
    contents = (site.credentials.password("operator").encode(), site.credentials.trust_bundle, client.cert_pem, client.key_pem)
    engine, port = site.bundle.engine, site.bundle.knobs.redis_tls_port
    wrapper = render("usr/local/sbin/redkeep-cli", engine=engine, address=cli_address(site), port=port)
    yield from file_differences(
        [
            *(ManagedFile(f"{OPERATOR}/{n}", c, mode="0600") for n, c in zip(OPERATOR_FILES, contents, strict=True)),
            ManagedFile(CLI, wrapper, mode="0700"),
        ],
        survey,
    )


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
    """redis.conf, users.acl and the OpenSSL policy. A new text is tried by a throwaway server first."""
    engine = site.bundle.engine
    group, folder = engine.user, engine.folder
    sections = _sections(site, survey)
    config = render("etc/redis/redis.conf", sections=sections, line=line)
    acl = acl_file(users(site, survey)).encode()
    policy = render("etc/redis/openssl.cnf", minimum_version=site.bundle.knobs.tls_minimum_version)
    yield from file_differences([ManagedFile(f"{folder}/openssl.cnf", policy, group=group, mode="0640")], survey)
    acl_wrong = list(file_differences([ManagedFile(engine.acl_file, acl, group=group, mode="0640")], survey))
    config_wrong = list(file_differences([ManagedFile(engine.config, config, group=group, mode="0640")], survey))
    if config_wrong:
        # The users first, then the configuration, tried together with them.
        yield from acl_wrong
        attempt = try_server(engine, config='"$t"', acl=engine.acl_file)
        yield from file_differences([ManagedFile(engine.config, config, group=group, mode="0640")], survey, before=attempt)
    else:
        attempt = try_server(engine, config=engine.config, acl='"$t"')
        yield from file_differences([ManagedFile(engine.acl_file, acl, group=group, mode="0640")], survey, before=attempt)
    if not survey.has_systemd:
        defaults = f"# Managed by redkeep: do not edit. Read by the init script.\nexport OPENSSL_CONF={folder}/openssl.cnf\nulimit -c 0\n"
        yield from file_differences([ManagedFile(f"/etc/default/{engine.package}", defaults.encode())], survey)


def try_server(engine: Engine, *, config: str, acl: str) -> str:
    """Shell that starts a throwaway server from these files on a loopback address of its own, and fails with its words
    when it does not come up. It runs for a moment, without data, and every user of it needs a password."""
    return f"""try=$(mktemp -d /run/redkeep-try.XXXXXX); chown {engine.user} "$try"
set -- {engine.server} {config} --aclfile {acl} --bind 127.83.7.$(( $$ % 250 + 2 )) --daemonize no --supervised no
set -- "$@" --logfile "$try/log" --dir "$try" --pidfile "$try/pid" --save '' --appendonly no
export OPENSSL_CONF={engine.folder}/openssl.cnf
setpriv --reuid={engine.user} --regid={engine.user} --clear-groups "$@" >"$try/out" 2>&1 & p=$!
up=no; i=0
while [ $i -lt 100 ] && kill -0 $p 2>/dev/null; do
    if grep -q 'Ready to accept connections' "$try/log" 2>/dev/null; then up=yes; break; fi
    i=$((i+1)); sleep 0.05
done
kill $p 2>/dev/null || true; wait $p 2>/dev/null || true
words=$(cat "$try/out" "$try/log" 2>/dev/null | tail -5); rm -rf "$try"
if [ $up = no ]; then echo "the new configuration does not start, the old one stays: $words" >&2; exit 1; fi"""


def old_data(site: Site, survey: Survey) -> Iterator[Difference]:
    """Without persistence no file may bring old values back at the next start."""
    if site.bundle.knobs.redis_persistence != "off":
        return
    for name in ("dump.rdb", "appendonlydir"):
        path = f"{site.bundle.engine.data_folder}/{name}"
        if survey.file(path).kind:
            yield Difference(f"{path} is there although redis_persistence is off", f"rm -rf {path}")


def drop_in(site: Site, survey: Survey) -> Iterator[Difference]:
    """The sandbox. Its file's time tells whether the running process was started under it: a text mended after a change
    by hand that no start has seen keeps an older time, so that nothing is restarted for it."""
    if not survey.has_systemd:
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
    mended = file_differences([ManagedFile(path, drop_in_text(site, survey))], survey, after=after)
    yield from mended
    if unit.stale and not mended:
        yield Difference(f"unit {engine.unit} was changed on disk but not loaded", "systemctl daemon-reload")


def sandbox_digest(site: Site, survey: Survey) -> str:
    return drop_in_text(site, survey).partition(b"REDKEEP_SANDBOX=")[2].split(b"\n")[0].decode()


def drop_in_text(site: Site, survey: Survey) -> bytes:
    knobs = site.bundle.knobs
    bound = addresses(site, survey)
    listening = survey.addresses if set(UNSPECIFIED) & set(bound) else bound
    own = [address for address in listening if not ip_address(address).is_loopback]
    values = {
        "engine": site.bundle.engine,
        "beyond_loopback": site.bundle.listens_beyond_loopback,
        "firewall": knobs.firewall and site.bundle.listens_beyond_loopback,
        "open_files": knobs.redis_maxclients + 1024,
        # Itself by its own address too: a packet from there to there carries it on both ends.
        "reachable": ["localhost", *own, *site.bundle.client_addresses],
    }
    digest = hashlib.sha256(render(DROP_IN, digest="", **values)).hexdigest()[:16]
    return render(DROP_IN, digest=digest, **values)


DROP_IN = "etc/systemd/system/redis-server.service.d/redkeep.conf"


def service(site: Site, survey: Survey) -> Iterator[Difference]:
    """The service is enabled and up, and was started under what is wanted now; a restart only when it must be."""
    engine = site.bundle.engine
    unit = survey.units.get(engine.unit)
    start = start_script(site, survey, "start")
    if survey.has_systemd:
        if unit is None or unit.load == "masked" or not survey.file(MANAGED).kind:
            yield Difference(
                f"unit {engine.unit} is not set up",
                f"systemctl unmask {engine.unit} >/dev/null 2>&1\nsystemctl enable {engine.unit} >/dev/null 2>&1\n{start}",
            )
            return
        if unit.enabled != "enabled":
            yield Difference(
                f"unit {engine.unit} is {unit.enabled}, wanted enabled", f"systemctl enable {engine.unit} >/dev/null 2>&1"
            )
        running = unit.active == "active"
    else:
        running = survey.running
    if not running:
        yield Difference(f"service {engine.package} is not running", start)
        return
    reasons = restart_reasons(site, survey)
    if reasons:
        yield Difference("; ".join(reasons) + " (needs a restart)", start_script(site, survey, "restart"))


def restart_reasons(site: Site, survey: Survey) -> list[str]:
    """Why the running process cannot be mended live."""
    server = survey.server
    if not server.reachable:
        return [f"the operator cannot use the running server ({server.error})"] if survey.file(CLI).kind else []
    reasons = [
        f"setting {name} is {server.config.get(name)!r}, wanted {value!r}"
        for name, value in settings(site, survey).items()
        if name in FIXED_AT_START and name in server.config and server.config[name] != value
    ]
    unit = survey.units.get(site.bundle.engine.unit)
    text, there = ManagedFile(site.bundle.engine.drop_in, drop_in_text(site, survey)), survey.file(site.bundle.engine.drop_in)
    if unit and not text.wrong(there) and there.modified > unit.started:
        reasons.append("the process was started before its sandbox was written")
    return reasons


def start_script(site: Site, survey: Survey, verb: str) -> str:
    """Shell that starts or restarts the service and waits until the operator gets an answer, or says the log's words."""
    engine = site.bundle.engine
    act = f"systemctl {verb} {engine.unit}" if survey.has_systemd else f"service {engine.package} {verb} >/dev/null 2>&1"
    return f"""{act} || true
i=0; while [ $i -lt 100 ]; do [ "$({CLI} PING 2>/dev/null)" = PONG ] && exit 0; i=$((i+1)); sleep 0.1; done
echo "{engine.package} does not answer; its log ends with:" >&2; tail -5 {engine.log_file} >&2 || true; exit 1"""


def running_users(site: Site, survey: Survey) -> Iterator[Difference]:
    """Users live, each by one whole-user command: no client loses its connection, on 7.0 as well. A user that is not
    wanted goes, and its sessions with it."""
    if not survey.server.reachable:
        return
    wanted = {user.name: user for user in users(site, survey)}
    running = parse_acl_list(survey.server.acl, version=version(site, survey))
    wrong: dict[str, list[str]] = {}
    for sentence in acl_differences(wanted.values(), running):
        wrong.setdefault(sentence.partition(":")[0].removeprefix("user "), []).append(sentence.partition(": ")[2])
    for name, sentences in wrong.items():
        words = setuser_arguments(wanted[name]) if name in wanted else ("DELUSER", name)
        command = "ACL " + " ".join(_quoted(word) for word in words) + "\n"
        yield Difference(f"user {name}: {'; '.join(sentences)}", COMMAND_SCRIPT, command)


def _quoted(word: str) -> str:
    """A word for redis-cli's command line reader."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def running_settings(site: Site, survey: Survey) -> Iterator[Difference]:
    """Settings live; the three files of a certificate in one command, which makes Redis read them all again."""
    server = survey.server
    if not server.reachable:
        return
    wanted = settings(site, survey)
    known = {name: value for name, value in wanted.items() if name in server.config}
    wrong = [n for n, value in known.items() if n not in FIXED_AT_START and server.config[n] != value]
    certificate = leaf(site, survey)
    if set(wrong) & set(CERTIFICATE_SETTINGS) or server.certificate != certificate.fingerprint:
        pairs = " ".join(f"{name} {_quoted(wanted[name])}" for name in CERTIFICATE_SETTINGS)
        shown = f"the server shows certificate {server.certificate[:16] or 'none'}, wanted {certificate.fingerprint[:16]}"
        read = f"the server reads {server.config.get('tls-cert-file')}, wanted {wanted['tls-cert-file']}"
        yield Difference(
            read if server.certificate == certificate.fingerprint else shown,
            COMMAND_SCRIPT,
            f"CONFIG SET {pairs}\n",
        )
    for name in wrong:
        if name not in CERTIFICATE_SETTINGS:
            yield Difference(
                f"running setting {name} is {server.config[name]!r}, wanted {known[name]!r}",
                COMMAND_SCRIPT,
                f"CONFIG SET {name} {_quoted(known[name])}\n",
            )


def old_certificates(site: Site, survey: Survey) -> Iterator[Difference]:
    """Folders of certificates that neither the file nor the running server names any more."""
    engine = site.bundle.engine
    kept = {certificate_folder(site, leaf(site, survey)), survey.server.config.get("tls-cert-file", "").rpartition("/")[0]}
    for path in survey.files:
        if path.rpartition("/")[0] == engine.tls_folder and path not in kept and survey.server.reachable:
            yield Difference(f"folder {path} holds certificates no longer in use", f"rm -rf {shlex.quote(path)}")


@deploy("Server")
def server_files(site: Site) -> None:
    converge(site, folders, name="Make the server's folders")
    converge(site, operator_access, name="Give root on the host the operator's access")
    converge(site, certificates, name="Install the certificates")
    converge(site, configuration, name="Write the configuration and the users")
    converge(site, drop_in, name="Write the sandbox")


@deploy("Server")
def server_running(site: Site) -> None:
    converge(site, old_data, name="Remove data that nothing reads")
    converge(site, service, name="Start the service")
    converge(site, running_users, name="Apply the users to the running server")
    converge(site, running_settings, name="Apply the settings to the running server")
    converge(site, old_certificates, name="Remove certificates no longer in use")
