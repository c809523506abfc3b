"""One host, asked over testinfra: shell as root, its Redis as the operator, its TLS door by openssl."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import testinfra

from .inventory import Member, Wanted

OPERATOR = "/etc/redkeep/operator"
APP_TLS = "/etc/redkeep/tls"
CACHE_ENV = "/etc/redkeep/cache.env"
API = "/etc/redkeep/api"
API_USER = "redkeep-api"
MANAGED = "/var/lib/redkeep/managed"

_PRELUDE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL; cd /\n"

_FACTS = """
echo "systemd=$([ -d /run/systemd/system ] && echo yes || echo no)"
inside() { grep -qz '^container=' /proc/1/environ || [ -e /.dockerenv ] || [ -e /run/.containerenv ]; }
echo "container=$(inside 2>/dev/null && echo yes || echo no)"
echo "memory=$(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
echo "addresses=$(ip -o addr show | awk '{split($4, a, "/"); printf "%s ", a[1]}')"
echo "version=$(dpkg-query -W -f '${Version}' SERVER 2>/dev/null)"
echo "pid=$(pgrep -x SERVER | tr '\\n' ' ')"
"""


@dataclass(frozen=True)
class Stat:
    """Mode (octal text), owner and group of a path."""

    mode: str
    owner: str
    group: str


class Machine:
    """A host of the inventory. Nothing it does lasts: a folder for a throwaway certificate is removed with the command.

    ``peer`` is the address by which the host sees this machine; empty for @local.
    """

    peer = ""

    def __init__(self, wanted: Wanted, sockets: Path) -> None:
        self.wanted = wanted
        self.name = wanted.member.name
        self._connection = connection(wanted.member, sockets)
        self._host = testinfra.get_host(**self._connection)
        self._answers: dict[str, Any] = {}

    # --- shell -----------------------------------------------------------------------------------------------------

    @cached_property
    def host(self) -> testinfra.host.Host:
        """testinfra's host, as root. Raises RuntimeError, with a sentence, for a host that does not let us in."""
        try:
            asked = self._host.run("sh -c %s", "id -u; echo ${SSH_CONNECTION%% *}; sudo -n true 2>&1 || echo refused")
        except RuntimeError as error:
            reason = getattr(error.args[0], "stderr", str(error)).strip()
            raise RuntimeError(f"{self.name} cannot be reached: {reason}") from None
        lines = asked.stdout.split("\n")
        self.peer = lines[1]
        if lines[0] == "0":
            return self._host
        if "refused" in lines:
            raise RuntimeError(f"{self.name}: log in as root, or give the user passwordless sudo.")
        return testinfra.get_host(**self._connection, sudo=True)

    def run(self, script: str) -> Any:
        """Run a POSIX shell script as root; the result has rc, stdout and stderr. The same question is asked once."""
        if script not in self._answers:
            self._answers[script] = self.host.run("sh -c %s", _PRELUDE + script)
        return self._answers[script]

    def out(self, script: str) -> str:
        """Standard output of a script that must succeed."""
        result = self.run(script)
        assert result.rc == 0, f"exit code {result.rc}: {result.stderr.strip()[-500:]}"
        return str(result.stdout)

    def lines(self, script: str) -> list[str]:
        return self.out(script).splitlines()

    # --- what the host is ------------------------------------------------------------------------------------------

    @cached_property
    def _facts(self) -> dict[str, str]:
        # Of the container's server only the tools' package is on the host: a built image holds the same version.
        package = f"{self.engine}-{'tools' if self.wanted['redis_runtime'] == 'docker' else 'server'}"
        script = _FACTS.replace("' SERVER", f"' {package}").replace("SERVER", f"{self.engine}-server")
        return {k: v.strip() for k, _, v in (line.partition("=") for line in self.run(script).stdout.splitlines())}

    @cached_property
    def traits(self) -> dict[str, object]:
        """What tests are chosen by."""
        return {
            "systemd": self._facts["systemd"] == "yes",
            "container": self._facts["container"] == "yes",
            "firewall": self.wanted.firewall,
            "beyond_loopback": self.wanted.beyond_loopback,
            "ssh": not self.wanted.member.is_local,
            "client_certificates": self.wanted["tls_client_certificates"],
            "persistence": self.wanted["redis_persistence"],
            "runtime": self.wanted["redis_runtime"],
            "redis": "redis" in self.wanted.member.groups,
            "api": bool(self.api),
            "api_runtime": self.api,
            "dashboard": self.dashboard,
        }

    @property
    def api(self) -> str:
        """How the API is served here: "unit", "container" or not at all."""
        if not self.wanted["api_enabled"] or "app" not in self.wanted.member.groups:
            return ""
        contained = self.wanted["redis_runtime"] == "docker" and "redis" in self.wanted.member.groups
        return "container" if contained else "unit"

    @property
    def dashboard(self) -> bool:
        """Whether the dashboard is wanted here."""
        return self.api == "container" and bool(self.wanted["dashboard_enabled"])

    @property
    def engine(self) -> str:
        return self.wanted.engine

    @property
    def folder(self) -> str:
        return f"/etc/{self.engine}"

    @property
    def unit(self) -> str:
        return f"{self.engine}-server.service"

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(self._facts["addresses"].split())

    @property
    def bind(self) -> frozenset[str]:
        if self.wanted["redis_runtime"] == "docker":
            return frozenset({"127.0.0.1", self.container})
        return self.wanted.bind(self.addresses)

    @property
    def data(self) -> tuple[str, str]:
        """The data folder as the server sees it and as the host does."""
        there = f"/var/lib/{self.engine}"
        return ("/data", there) if self.wanted["redis_runtime"] == "docker" else (there, there)

    @property
    def door(self) -> str:
        """address:port at which the host itself reaches its Redis, as openssl wants it."""
        if self.wanted["redis_runtime"] == "docker":
            return endpoint(self.container, self.wanted.port)
        return endpoint(self.wanted.inside(self.addresses), self.wanted.port)

    @property
    def container(self) -> str:
        """The address of the one container of the stack, as the engine tells it."""
        ids = self.out("docker ps --quiet --filter label=com.docker.compose.service=redis").split()
        assert len(ids) == 1, f"containers of Redis: {ids}"
        form = "{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}"
        return self.out(f"docker inspect --format '{form}' {ids[0]}").strip()

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self._facts["memory"]) * 1024

    @property
    def version(self) -> tuple[int, int]:
        """Upstream's major and minor, from the package: 5:7.0.15-1 is (7, 0)."""
        major, minor = self._facts["version"].rpartition(":")[2].split(".")[:2]
        return int(major), int(minor)

    @property
    def pid(self) -> str:
        """The one server process."""
        pids = self._facts["pid"].split()
        assert len(pids) == 1, f"{self.engine}-server processes: {pids}"
        return pids[0]

    # --- files -----------------------------------------------------------------------------------------------------

    def stat(self, *paths: str) -> dict[str, Stat | None]:
        """Mode, owner and group of each path; None for one that is not there."""
        found = {}
        for line in self.run(f"stat -c '%a %U %G %n' {shlex.join(paths)} 2>/dev/null").stdout.splitlines():
            mode, owner, group, path = line.split(" ", 3)
            found[path] = Stat(mode.zfill(4), owner, group)
        return {path: found.get(path) for path in paths}

    def tree(self, folder: str) -> dict[str, tuple[str, Stat]]:
        """Everything below a folder, itself included: kind (f, d, l, ...) and state by path."""
        found = {}
        for line in self.lines(f"find {shlex.quote(folder)} -printf '%y %m %u %g %p\\n'"):
            kind, mode, owner, group, path = line.split(" ", 4)
            found[path] = (kind, Stat(mode.zfill(4), owner, group))
        return found

    def read(self, path: str) -> str:
        return self.out(f"cat {shlex.quote(path)}")

    # --- Redis -----------------------------------------------------------------------------------------------------

    def cli(self, options: str = "", *, operator: bool = True) -> str:
        """The redis-cli command over TLS with the operator's certificate; with its password unless told otherwise."""
        address, _, port = self.door.rpartition(":")
        tls = f"--tls --cacert {OPERATOR}/ca.crt --cert {OPERATOR}/client.crt --key {OPERATOR}/client.key"
        command = f"{self.engine}-cli --no-auth-warning {tls} -h {address.strip('[]')} -p {port} {options}"
        return f'REDISCLI_AUTH="$(cat {OPERATOR}/password)" {command} --user operator' if operator else command

    def redis(self, *commands: str) -> list[str]:
        """Reply lines of commands sent as the operator through one redis-cli; an error is a line like any other."""
        text = "".join(f"{command}\n" for command in commands)
        return [line for line in self.lines(f"printf %s {shlex.quote(text)} | {self.cli()}") if line]

    def redis_json(self, *command: str) -> Any:
        """One command's reply, as redis-cli's JSON."""
        return json.loads(self.out(f"{self.cli('--json')} {shlex.join(command)}"))

    def config(self, *names: str) -> dict[str, str]:
        """The running values of these settings; one that the server does not know is missing."""
        return {name: self._config[name] for name in names if name in self._config}

    @cached_property
    def _config(self) -> dict[str, str]:
        """Every setting but those that hold a password: requirepass, masterauth, primaryauth and the keys' passphrases."""
        patterns = "[a-lnoqsu-z]* m[^a]* max* p[^r]* pro* r[^e]* re[^q]* t[^l]* tls-[^ck]* tls-c[^l]* tls-key-file"
        return {name: str(value) for name, value in self.redis_json("CONFIG", "GET", *patterns.split()).items()}

    # --- TLS -------------------------------------------------------------------------------------------------------

    def s_client(self, options: str = "", *, identity: bool = True, words: str = "") -> str:
        """What openssl s_client says about the door, errors included, after sending ``words``.

        The client's own policy is switched off, so that a refusal is the server's. With words it listens until the
        server ends the connection: let the last one be QUIT.
        """
        certificate = f"-cert {OPERATOR}/client.crt -key {OPERATOR}/client.key" if identity else ""
        command = f"OPENSSL_CONF=/dev/null timeout 5 openssl s_client -connect {self.door} -CAfile {OPERATOR}/ca.crt"
        quiet = "-quiet" if words else ""
        return str(self.run(f"printf {shlex.quote(words)} | {command} {certificate} {quiet} {options} 2>&1").stdout)

    @cached_property
    def served(self) -> str:
        """The certificate the server shows, as PEM."""
        found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", self.s_client("-showcerts"), re.S)
        assert found, "the server shows no certificate"
        return found[0]

    def x509(self, options: str, pem: str) -> str:
        """openssl x509's view of a certificate."""
        return self.out(f"printf %s {shlex.quote(pem)} | openssl x509 -noout {options}")


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ssh_options(member: Member) -> list[str]:
    """OpenSSH's options for the connection data that pyinfra keeps beside a host."""
    data = member.data
    strict = str(data.get("ssh_strict_host_key_checking") or "accept-new")
    known = data.get("ssh_known_hosts_file") or ("/dev/null" if strict in ("no", "off") else "")
    options = {
        "BatchMode": "yes",
        "LogLevel": "ERROR",
        "ConnectTimeout": "10",
        "StrictHostKeyChecking": strict,
        "UserKnownHostsFile": known,
        "User": data.get("ssh_user"),
        "Port": data.get("ssh_port"),
        "IdentityFile": data.get("ssh_key"),
        "IdentitiesOnly": "yes" if data.get("ssh_key") else "",
    }
    words = [word for name, value in options.items() if value for word in ("-o", f"{name}={value}")]
    config = data.get("ssh_config_file")
    return [*words, *(["-F", str(config)] if config else [])]


def connection(member: Member, sockets: Path) -> dict[str, Any]:
    """Arguments for testinfra.get_host; one SSH connection carries all commands to a host."""
    if member.is_local:
        return {"hostspec": "local://"}
    options = [*ssh_options(member), "-o", "ControlMaster=auto", "-o", f"ControlPath={control_path(member, sockets)}"]
    host = f"[{member.address}]" if ":" in member.address else member.address
    return {"hostspec": f"ssh://{host}", "ssh_extra_args": shlex.join([*options, "-o", "ControlPersist=60"])}


def control_path(member: Member, sockets: Path) -> Path:
    """A socket's path holds about 100 characters, so the host's name is not part of it."""
    return sockets / format(abs(hash((member.name, member.address))) % 2**32, "x")


@contextlib.contextmanager
def connections(wanted: Iterable[Wanted]) -> Iterator[dict[str, Machine]]:
    """Machines by name; their SSH connections end with the block."""
    with tempfile.TemporaryDirectory(prefix="rk-", dir="/tmp") as folder:  # short: see control_path
        sockets = Path(folder)
        machines = {w.member.name: Machine(w, sockets) for w in wanted}
        try:
            yield machines
        finally:
            for machine in machines.values():
                path = control_path(machine.wanted.member, sockets)
                if path.exists():
                    command = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", machine.wanted.member.address]
                    subprocess.run(command, check=False, capture_output=True)
