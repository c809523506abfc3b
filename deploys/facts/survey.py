"""What is true on a host right now, read by one command.

A round trip costs more than what it asks for, so everything the deploy compares is read at once: a Survey is put
together from Sections, each a piece of POSIX shell and the function that understands its output. Nothing here changes
the host, and nothing prints a secret: files are compared by their SHA-256, passwords only ever as Redis' own hashes.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pyinfra.api import FactBase

from deploys.facts import docker
from deploys.facts.docker import DockerState
from deploys.facts.server import ServerState, server_of
from redkeep.migration.readiness import OWN_NAME
from redkeep.monitoring.allow_list import NOTE

# Held by each script of a deploy while it runs. A run that was killed leaves its last script at work: what is true is
# known when that has ended.
LOCK = "/run/redkeep.lock"
LOCK_SECONDS = 600
# The digest of the rules that the kernel has shown after they were loaded.
FIREWALL_NOTE = str(NOTE)
WAIT = f"[ ! -e {LOCK} ] || flock -w {LOCK_SECONDS} {LOCK} true || true"

# Forbids packages to start their services, where there is no systemd to mask them, and what ours says of itself.
POLICY = "/usr/sbin/policy-rc.d"
POLICY_MARK = "Managed by redkeep while it installs packages."

# Section marks carry a random number for each run: no text found on the host (a file's, process's or client's name) can
# pass for one.
_FIRST = re.compile(r"(@@redkeep-[0-9a-f]{16} )login")


@dataclass(frozen=True)
class FileState:
    """One path: ``kind`` is file, directory, link, other or "" (absent); ``mode`` octal text; ``sha256`` of a file;
    ``modified`` in seconds since 1970."""

    kind: str = ""
    mode: str = ""
    owner: str = ""
    group: str = ""
    sha256: str = ""
    target: str = ""
    modified: int = 0


@dataclass(frozen=True)
class UnitState:
    """systemd's view of a unit: ``enabled`` is UnitFileState, ``stale`` a change on disk that is not loaded,
    ``environment`` the loaded text's, ``started`` in seconds since 1970, ``fragment`` and ``drop_ins`` its files."""

    load: str = ""
    active: str = ""
    enabled: str = ""
    stale: bool = False
    environment: str = ""
    started: int = 0
    fragment: str = ""
    drop_ins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket: ``address`` as ss writes it, "*" for every one, ``uid`` the account that opened it."""

    address: str
    port: int
    process: str
    uid: int


@dataclass(frozen=True)
class Survey:
    """Everything read from one host."""

    login: dict[str, str]
    host: dict[str, str]
    addresses: tuple[str, ...]
    packages: dict[str, str]
    files: dict[str, FileState]
    units: dict[str, UnitState]
    running: bool
    kernel: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    users: dict[str, int]
    authorities: frozenset[str]
    sockets: tuple[tuple[str, str], ...]
    firewall: str
    server: ServerState
    docker: DockerState = field(default_factory=DockerState)
    listeners: tuple[Listener, ...] = ()

    @property
    def has_systemd(self) -> bool:
        return self.host.get("systemd") == "yes"

    @property
    def in_container(self) -> bool:
        return self.host.get("container") == "yes"

    @property
    def memory_bytes(self) -> int:
        return int(self.host.get("memory_kib", "0")) * 1024

    def file(self, path: str) -> FileState:
        return self.files.get(path, FileState())


@dataclass(frozen=True)
class Question:
    """What to read. Paths and names only: a question never holds a secret."""

    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    port: int = 0
    listening: tuple[int, ...] = ()
    address: str = ""
    config: tuple[str, ...] = ()
    cli: str = ""
    identity: str = ""
    process: str = ""
    firewall: bool = False
    stack: str = ""
    stack_user: str = ""
    stack_app: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()

    def __or__(self, other: Question) -> Question:
        """Both questions in one; a single value given by either is kept."""
        merged: dict[str, Any] = {}
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            merged[item.name] = tuple(dict.fromkeys(mine + theirs)) if isinstance(mine, tuple) else mine or theirs
        return Question(**merged)


def command(question: Question) -> str:
    """The shell that answers a question, section by section, as root: by sudo when the login is another user."""
    mark = f"@@redkeep-{secrets.token_hex(8)} "
    script = "\n".join(["export LC_ALL=C", WAIT, *_sections(question, mark), f"echo '{mark}end'"])
    return f"echo '{mark}login'; echo \"uid $(id -u)\"; {as_root(script)}"


def as_root(script: str) -> str:
    """Shell that runs a script as root, whoever logs in; it fails with a sentence where that takes a password."""
    return (
        f"S={shlex.quote(script)}; "
        'if [ "$(id -u)" = 0 ]; then sh -c "$S"; elif sudo -n true 2>/dev/null; then sudo -n sh -c "$S"; '
        'else echo "no root, and no sudo without a password" >&2; exit 1; fi'
    )


def _sections(q: Question, mark: str) -> Iterable[str]:
    yield f"""echo '{mark}host'
echo "arch $(dpkg --print-architecture 2>/dev/null || uname -m)"
echo "time $(date +%s)"
echo "memory_kib $(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
[ -d /run/systemd/system ] && echo 'systemd yes' || echo 'systemd no'
if grep -qz '^container=' /proc/1/environ 2>/dev/null || [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then c=yes; else c=no; fi
echo "container $c"
. /etc/os-release 2>/dev/null; echo "id ${{ID:-}}"; echo "like ${{ID_LIKE:-}}"; echo "release ${{VERSION_ID:-}}"
[ ! -x /usr/bin/python3 ] || echo "python $(/usr/bin/python3 -I -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')"
echo "hostname $(hostname 2>/dev/null || cat /etc/hostname)"
echo "policy $(if grep -qs '{POLICY_MARK}' {POLICY}; then echo ours; elif [ -e {POLICY} ]; then echo yes; else echo no; fi)"
echo '{mark}addresses'
ip -o addr show 2>/dev/null | awk '{{split($4, a, "/"); print a[1]}}' || hostname -I | tr ' ' '\\n'"""
    if q.packages:
        form = "${Package} ${db:Status-Status} ${Version}\\n"
        yield f"echo '{mark}packages'\ndpkg-query -W -f '{form}' {_words(q.packages)} 2>/dev/null"
    if q.files or q.globs:
        paths = " ".join([_words(q.files), *q.globs])
        yield f"""echo '{mark}files'
stat -c '%a|%U|%G|%Y|%F|%n' {paths} 2>/dev/null
for f in {paths}; do [ -L "$f" ] && printf '%s|%s\\n' "$f" "$(readlink "$f")"; done
echo '{mark}sums'
for f in {paths}; do [ -f "$f" ] && echo "$f"; done | xargs -r -d '\\n' sha256sum 2>/dev/null"""
    if q.units:
        wanted = (
            "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,Environment,ActiveEnterTimestamp,FragmentPath,DropInPaths"
        )
        yield f"""echo '{mark}units'
if [ -d /run/systemd/system ]; then systemctl show -p {wanted} --timestamp=unix {_words(q.units)} 2>/dev/null; fi"""
    if q.process:
        yield f"echo '{mark}process'\npgrep -x -r D,R,S {shlex.quote(q.process)}"
    if q.kernel:
        yield f"echo '{mark}kernel'\n" + "\n".join(
            f'echo {shlex.quote(path)} "$(cat {shlex.quote(path)} 2>/dev/null)"' for path in q.kernel
        )
    if q.groups:
        yield f"echo '{mark}groups'\ngetent group {_words(q.groups)}"
    if q.users:
        yield f"echo '{mark}users'\ngetent passwd {_words(q.users)}"
    if q.authorities:
        # Certificates are public; the paths are ours, with a pattern where a folder is named after its content.
        yield f"echo '{mark}authorities'\ncat {' '.join(q.authorities)} 2>/dev/null"
    if q.port:
        yield f"echo '{mark}sockets'\nss -Hltnp 'sport = :{q.port}' 2>/dev/null"
    if q.listening:
        ports = " or ".join(f"sport = :{port}" for port in q.listening)
        yield f"echo '{mark}listeners'\nss -Hltnpe '{ports}' 2>/dev/null"
    if q.firewall:
        yield f"""echo '{mark}firewall'
command -v nft >/dev/null && for t in "inet redkeep" "bridge redkeep"; do nft --stateless list table $t 2>/dev/null; done | sha256sum | cut -c1-64
[ -r {FIREWALL_NOTE} ] && cat {FIREWALL_NOTE}"""
    if q.stack:
        yield from docker.sections(q.stack, q.stack_user, q.stack_app, q.binaries, mark)
    if q.cli:
        asked = {"info": "INFO server", "config": f"CONFIG GET {' '.join(q.config)}", "acl": "ACL LIST", "clients": "CLIENT LIST"}
        lines = "\n".join([f"CLIENT SETNAME {OWN_NAME}", *(f'ECHO "{mark}{name}"\n{words}' for name, words in asked.items())])
        address = f"[{q.address}]" if ":" in q.address else q.address
        if q.stack:
            address = f"$(sed -n 's/^REDIS_ADDRESS=//p' {q.stack}/.env 2>/dev/null)"
        yield f"""echo '{mark}server'
if [ -x {q.cli} ]; then timeout 10 {q.cli} --no-raw 2>&1 <<'redkeep'
{lines}
redkeep
else echo "no {q.cli} yet"; fi
echo '{mark}certificate'
[ -x {q.cli} ] && echo | timeout 5 openssl s_client -no-CAfile -no-CApath -no-CAstore -connect {address}:{q.port} \\
    -cert {q.identity}.crt -key {q.identity}.key 2>/dev/null | openssl x509 -noout -fingerprint -sha256 2>/dev/null"""


def _words(items: Sequence[str]) -> str:
    return " ".join(shlex.quote(item) for item in items)


def complete(lines: Sequence[str]) -> bool:
    """Whether the output of ``command`` is there to its end."""
    return "end" in _parts(lines)


def _parts(lines: Iterable[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    mark = ""
    for line in lines:
        if not mark and (first := _FIRST.fullmatch(line)):
            mark = first[1]
        marked = line.strip('"')
        if mark and marked.startswith(mark):
            current = parts.setdefault(marked.removeprefix(mark), [])
        else:
            current.append(line)
    return parts


def parse(lines: Sequence[str]) -> Survey:
    """Understand the output of ``command``."""
    parts = _parts(lines)
    return Survey(
        login=_pairs(parts.get("login", [])),
        host=_pairs(parts.get("host", [])),
        addresses=tuple(dict.fromkeys(parts.get("addresses", []))),
        packages=_packages(parts.get("packages", [])),
        files=_files(parts.get("files", []), parts.get("sums", [])),
        units=_units(parts.get("units", [])),
        running=bool(parts.get("process")),
        kernel=_pairs(parts.get("kernel", [])),
        groups=_groups(parts.get("groups", [])),
        users=_users(parts.get("users", [])),
        authorities=certificates_of("\n".join(parts.get("authorities", []))),
        sockets=tuple(_sockets(parts.get("sockets", []))),
        firewall=" ".join(parts.get("firewall", [])),
        server=server_of(parts),
        docker=docker.docker_of(parts),
        listeners=tuple(_listeners(parts.get("listeners", []))),
    )


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(" ") for line in lines) if key}


def _packages(lines: Iterable[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, _, rest = line.partition(" ")
        status, _, version = rest.partition(" ")
        if status == "installed":
            found[name] = version
    return found


def _files(lines: Iterable[str], sums: Iterable[str]) -> dict[str, FileState]:
    kinds = {"regular file": "file", "regular empty file": "file", "directory": "directory", "symbolic link": "link"}
    digests = {path: digest for digest, _, path in (line.partition("  ") for line in sums)}
    found: dict[str, FileState] = {}
    for line in lines:
        if stat := re.fullmatch(r"([0-7]+)\|([^|]*)\|([^|]*)\|(\d+)\|([^|]*)\|(.*)", line):
            mode, owner, group, modified, kind, path = stat.groups()
            state = FileState(kinds.get(kind, "other"), mode.zfill(4), owner, group, digests.get(path, ""), "", int(modified))
            found[path] = state
        elif (path := line.partition("|")[0]) in found:
            found[path] = replace(found[path], sha256="", target=line.partition("|")[2])
    return found


def _units(lines: Iterable[str]) -> dict[str, UnitState]:
    found: dict[str, UnitState] = {}
    block: dict[str, str] = {}
    for line in [*lines, ""]:
        key, separator, value = line.partition("=")
        if separator:
            block[key] = value
        elif block:
            found[block.get("Id", "")] = UnitState(
                load=block.get("LoadState", ""),
                active=block.get("ActiveState", ""),
                enabled=block.get("UnitFileState", ""),
                stale=block.get("NeedDaemonReload") == "yes",
                environment=block.get("Environment", ""),
                started=int(block.get("ActiveEnterTimestamp", "").lstrip("@") or 0),
                fragment=block.get("FragmentPath", ""),
                drop_ins=tuple(block.get("DropInPaths", "").split()),
            )
            block = {}
    return found


def _groups(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {p[0]: tuple(filter(None, p[3].split(","))) for p in (line.split(":") for line in lines) if len(p) == 4}


def _users(lines: Iterable[str]) -> dict[str, int]:
    """The number of each account, as getent prints them: name:x:number:..."""
    return {p[0]: int(p[2]) for p in (line.split(":") for line in lines) if len(p) == 7 and p[2].isdecimal()}


def certificates_of(text: str) -> frozenset[str]:
    """The certificates of a PEM text, each as its base64 in one line."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.DOTALL)
    return frozenset("".join(body.split()) for body in found)


def _sockets(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(address, process name) of each listening socket, as ss -Hltnp prints it."""
    for line in lines:
        words = line.split()
        if len(words) >= 4:
            yield words[3], words[5].partition('(("')[2].partition('"')[0] if len(words) > 5 else ""


def _listeners(lines: Iterable[str]) -> Iterable[Listener]:
    """What ss -Hltnpe prints. Root's sockets have no uid there, and a program's name can be any text."""
    for line in lines:
        words = line.split()
        address, _, port = words[3].rpartition(":") if len(words) > 3 else ("", "", "")
        if port.isdecimal():
            process, uid = (
                re.search(r'users:\(\("(.*?)",pid=', line),
                re.search(r"\)\) uid:(\d+) ino:\d+ sk:\S+ (?!.*\)\))", line),
            )
            yield Listener(address.partition("%")[0], int(port), process[1] if process else "", int(uid[1]) if uid else 0)


class HostSurvey(FactBase[Survey]):
    """One round trip for everything the deploy compares."""

    def command(self, question: Any) -> str:
        return command(question)

    def process(self, output: list[str]) -> Survey:
        return parse(output)
