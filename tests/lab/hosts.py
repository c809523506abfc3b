"""One host of the lab: a container that boots systemd, or a plain one whose only daemon is sshd."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import paramiko

from tests.lab import engine
from tests.lab.access import Access
from tests.lab.engine import LabError, Result, docker

LABEL = "redkeep.lab"
SPEC_LABEL = "redkeep.lab.spec"
ADDRESS_LABEL = "redkeep.lab.address"

# Measured: what systemd, stock Debian units and a nested engine need in a container.
FLAGS = (
    "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
    "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
    "--tmpfs", "/run", "--tmpfs", "/tmp:exec",
)  # fmt: skip
# A host without systemd is the container most people have: the engine's own capabilities, no more.
PLAIN_FLAGS = ("--tmpfs", "/run", "--tmpfs", "/tmp:exec")
# A nested engine writes net.*; the rest of /proc/sys stays read-only, for vm.* belong to the machine.
WRITABLE_NET = (
    "mount -o remount,bind,rw /proc/sys; mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,ro /proc/sys"
)
SYSTEMD_FLAGS = ("--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw")


@dataclass(frozen=True)
class Spec:
    """What a host is; ValueError for a name that is no host name (lower-case letters, digits, hyphens).

    `init`: boots systemd, else only sshd runs. `docker`: a volume and writable net.* for a nested engine.
    `apt_lists`: the package lists of the image's day are there, so that apt-get install works without an update.
    """

    name: str
    suite: str = "bookworm"
    init: bool = True
    docker: bool = False
    apt_lists: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise ValueError(f"host name {self.name!r}: use 1 to 40 lower-case letters, digits and hyphens")

    def label(self) -> str:
        """The specification as the label that lets another process find it again."""
        return json.dumps(asdict(self), sort_keys=True)


class Host:
    """A running (or stopped) host; commands go through the engine and need no sshd, except `ssh`."""

    def __init__(self, spec: Spec, *, lab_id: str, address: str, access: Access) -> None:
        self.spec = spec
        self.lab_id = lab_id
        self.address = address
        self.access = access

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.spec.suite!r}, {self.address!r})"

    @property
    def name(self) -> str:
        """The host's name, also its hostname and its name in the lab's network."""
        return self.spec.name

    @property
    def container(self) -> str:
        """The container's name: unique on the engine."""
        return f"redkeep-lab-{self.lab_id}-{self.name}"

    def create(self, image: str, network: str) -> None:
        """Create and start the container with its keys in place; `wait` tells when it may be entered."""
        marks = ["--label", f"{LABEL}={self.lab_id}"]
        argv = ["create", "--name", self.container, "--hostname", self.name, *marks]
        argv += ["--label", f"{SPEC_LABEL}={self.spec.label()}", "--label", f"{ADDRESS_LABEL}={self.address}"]
        argv += ["--network", network, "--ip", self.address, "--network-alias", self.name]
        argv += FLAGS if self.spec.init else PLAIN_FLAGS
        if self.spec.docker:
            volume = f"{self.container}-docker"
            docker("volume", "create", *marks, volume)
            argv += ["--volume", f"{volume}:/var/lib/docker"]
        if self.spec.init:
            argv += [*SYSTEMD_FLAGS, "--stop-signal", "SIGRTMIN+3", image, "/sbin/init"]
        else:
            argv += ["--init", image, "sleep", "infinity"]
        docker(*argv)
        docker("cp", "-", f"{self.container}:/", stdin=self.access.seed(self.name))
        self.start()
        if not self.spec.apt_lists:
            self.check("rm -rf /var/lib/apt/lists/*")

    def remove(self) -> None:
        """Remove the container and its nested engine's volume; nothing when they are gone already."""
        engine.run([*engine.client(), "rm", "--force", "--volumes", self.container], check=False)
        if self.spec.docker:
            engine.run([*engine.client(), "volume", "rm", "--force", f"{self.container}-docker"], check=False)

    def start(self) -> None:
        """Start the container; without systemd also its sshd."""
        docker("start", self.container)
        steps = []
        if fallback := upstream_nameserver():
            # The engine's own resolver lives in the host's nat table, which a firewall test may flush.
            steps.append(f"grep -q {fallback} /etc/resolv.conf || echo nameserver {fallback} >> /etc/resolv.conf")
        if self.spec.docker:
            steps.append(WRITABLE_NET)
        if not self.spec.init:
            steps.append("mkdir -p /run/sshd && /usr/sbin/sshd")
        if steps:
            self.check("set -e\n" + "\n".join(steps))

    def stop(self, *, grace: int = 20) -> None:
        """Shut the host down in order; after `grace` seconds by force."""
        docker("stop", "--time", str(grace), self.container)

    def reboot(self) -> None:
        """Shut down, start and wait until the host may be entered; what lives on tmpfs is gone."""
        self.stop()
        self.start()
        self.wait()

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 600) -> Result:
        """Exit code, output and errors of a shell command run as root through the engine."""
        flags = ["--interactive"] if stdin is not None else []
        argv = [*engine.client(), "exec", *flags, self.container, "sh", "-c", command]
        return engine.run(argv, stdin=stdin, timeout=timeout, check=False)

    def check(self, command: str, *, stdin: bytes | None = None, timeout: float = 600) -> str:
        """Output of a shell command, stripped; LabError when it fails."""
        result = self.run(command, stdin=stdin, timeout=timeout)
        if result.code:
            raise LabError(f"{self.name}: {command}: exit code {result.code}\n{(result.err or result.out)[-2000:]}")
        return result.out.strip()

    def put(self, path: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file, its folders made when absent; tmpfs works too."""
        data = content.encode() if isinstance(content, str) else content
        target = shlex.quote(path)
        folder = shlex.quote(str(Path(path).parent))
        write = f"umask 022; mkdir -p {folder} && umask 077 && cat > {target}"
        self.check(f"{write} && chown {owner} {target} && chmod {mode:o} {target}", stdin=data)

    def ssh(self, command: str, *, user: str = "root", timeout: float = 600) -> Result:
        """Exit code, output and errors of a command run over ssh with strict host key checking."""
        argv = ["ssh", "-F", str(self.access.ssh_config), "-o", "BatchMode=yes", f"{user}@{self.name}", command]
        return engine.run(argv, timeout=timeout, check=False)

    def wait(self, *, timeout: float = 30) -> None:
        """Return once the operator can log in over ssh, with systemd so past early boot; LabError after `timeout` s."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._login()
                return
            except (OSError, EOFError, paramiko.SSHException) as error:
                if time.monotonic() > deadline:
                    state = (
                        self.run("systemctl is-system-running; systemctl --failed --no-legend").out
                        if self.spec.init
                        else ""
                    )
                    raise LabError(f"{self.name}: no ssh after {timeout:.0f} s: {error}\n{state}") from error
                time.sleep(0.1)

    def _login(self) -> None:
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(self.access.known_host(self.name)))
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            client.connect(
                self.address, username="operator", key_filename=str(self.access.key), timeout=3, banner_timeout=5,
                auth_timeout=5, allow_agent=False, look_for_keys=False,
            )  # fmt: skip


def upstream_nameserver() -> str | None:
    """The first nameserver of this machine that a container can reach; None when all are on loopback."""
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and not ipaddress.ip_address(words[1].split("%")[0]).is_loopback:
            return words[1]
    return None
