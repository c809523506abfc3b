"""The running server: started under what is wanted, its users and settings changed live."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile
from deploys.facts.survey import Survey
from deploys.operations.converge import converge
from deploys.server_settings import CERTIFICATE_SETTINGS, FIXED_AT_START
from deploys.site import Site
from deploys.stack import SERVICE
from deploys.stages import containers, network
from deploys.stages.machine import MANAGED, init_stop
from deploys.stages.wanted import CLI, certificate_folder, drop_in_text, leaf, settings, users, version
from redkeep.access.acl import acl_differences, parse_acl_list, setuser_arguments

# Gives Redis the one command on standard input, whole or not at all: a user's rules cut short could be too wide. What is refused
# fails here: redis-cli ends with 0 then, `-e` or not, when it reads the command from a pipe.
COMMAND_SCRIPT = f"""(IFS= read -r line || exit 1
said=$(printf '%s\\n' "$line" | {CLI} 2>&1) || true
case $said in OK | [0-9] | [0-9][0-9]) ;; *) printf '%s\\n' "$said" >&2; exit 1 ;; esac)"""

# What the survey hears of a server that is well and has no time or place for one client more.
_BUSY = re.compile(r"\bBUSY\b|\bLOADING\b|unexpected eof|Connection reset|^no answer$|timed out")


def busy(site: Site, survey: Survey) -> list[Difference]:
    """A running server with no answer for the operator, because every place is taken, a script runs, or it loads. Nothing repairs that
    here: a restart would empty a cache without persistence."""
    error = survey.server.error
    if not survey.file(CLI).kind or not _BUSY.search(error):
        return []
    told = "it was not restarted, which could empty it: see what keeps it busy and run again, or restart it yourself."
    script = f"echo {shlex.quote(f'{site.bundle.engine.package}: {told}')} >&2; exit 1"
    return [Difference(f"the running server has no answer for the operator now ({error})", script)]


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
    if found := busy(site, survey):
        yield from found
        return
    reasons = restart_reasons(site, survey)
    if reasons:
        yield Difference("; ".join(reasons) + " (needs a restart)", start_script(site, survey, "restart"))


def process(site: Site, survey: Survey) -> Iterator[Difference]:
    """A container whose process cannot be mended live starts anew; it stays the same container."""
    found = survey.docker.container(SERVICE)
    if found and found.running and (engaged := busy(site, survey)):
        yield from engaged
    elif found and found.running and (reasons := restart_reasons(site, survey)):
        yield Difference("; ".join(reasons) + " (needs a restart)", containers.start_script(site, "restart"))


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
    if survey.has_systemd:
        act = f"systemctl {verb} {engine.unit} || true"
        if network.wanted(site):
            act += f"\nif systemctl is-failed -q {network.UNIT}; then {network.WHY}; exit 1; fi"
    else:
        act = f"{init_stop(engine)}\nservice {engine.package} start >/dev/null 2>&1 || true"
    return f"""{act}
i=0; while [ $i -lt 100 ]; do
    case "$({CLI} PING 2>/dev/null)" in PONG) exit 0 ;; LOADING*) i=0 ;; esac
    i=$((i+1)); sleep 0.1
done
echo "{engine.package} does not answer; its log ends with:" >&2; tail -5 {engine.log_file} >&2 || true; exit 1"""


def new_passwords(site: Site, survey: Survey) -> Iterator[Difference]:
    """Passwords that the running server does not know yet, let in beside those it knows, before any file names them: so
    nobody, the operator on the host neither, ever holds one that is not valid."""
    if not survey.server.reachable:
        return
    running = {user.name: set(user.hashes) for user in parse_acl_list(survey.server.acl, version=version(site, survey)).values()}
    for user in users(site, survey):
        fresh = [digest for digest in user.hashes if digest not in running.get(user.name, user.hashes)]
        if fresh:
            command = f"ACL SETUSER {user.name} {' '.join(f'#{digest}' for digest in fresh)}\n"
            yield Difference(f"user {user.name}: a new password is not accepted yet", COMMAND_SCRIPT, command)


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
        command = "ACL " + " ".join(quoted(word) for word in words) + "\n"
        yield Difference(f"user {name}: {'; '.join(sentences)}", COMMAND_SCRIPT, command)


def quoted(word: str) -> str:
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
        pairs = " ".join(f"{name} {quoted(wanted[name])}" for name in CERTIFICATE_SETTINGS)
        shown = f"the server presents certificate {server.certificate[:16] or 'none'}, wanted {certificate.fingerprint[:16]}"
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
                f"CONFIG SET {name} {quoted(known[name])}\n",
            )


def old_certificates(site: Site, survey: Survey) -> Iterator[Difference]:
    """Folders of certificates that neither the file nor the running server names any more."""
    engine = site.bundle.engine
    kept = {certificate_folder(site, leaf(site, survey)), survey.server.config.get("tls-cert-file", "").rpartition("/")[0]}
    for path in survey.files:
        if path.rpartition("/")[0] == engine.tls_folder and path not in kept and survey.server.reachable:
            yield Difference(f"folder {path} holds certificates no longer in use", f"rm -rf {shlex.quote(path)}")


@deploy("Server")
def server_running(site: Site) -> None:
    if site.bundle.in_container:
        containers.stack_running(site)
        converge(site, process, name="Restart the server if nothing less helps")
    else:
        converge(site, service, name="Start the service")
    converge(site, running_users, name="Apply the users to the running server")
    converge(site, running_settings, name="Apply the settings to the running server")
    converge(site, old_certificates, name="Remove certificates no longer in use")
