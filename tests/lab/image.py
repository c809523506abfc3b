"""The hosts' images: a Debian suite from debootstrap, ready to boot, without anything a deploy is to install."""

from __future__ import annotations

import fcntl
import hashlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.lab import engine

REPOSITORY = "redkeep-lab"
SUITES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
OPERATOR_ID = 1000
OPERATOR_GROUP_ID = 37  # Debian has the group already (base-passwd)

# No ca-certificates: it depends on openssl, which a deploy must install itself.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "python3", "openssh-server", "sudo", "iproute2", "procps",
)  # fmt: skip

# Fetched, not installed, each line against the bare host: a deploy's own apt-get install finds them on the disk.
ARCHIVES = (
    "redis-server redis-sentinel redis-tools",
    "nftables",
    "openssl ca-certificates",
    "python3-venv",
    "docker.io docker-compose iptables",
)
TRIXIE_ARCHIVES = ("valkey-server valkey-sentinel valkey-tools", "docker-cli")

# Units that fail in a container, and timers that would take apt's lock in the middle of a test.
MASKED = ("systemd-modules-load.service", "apt-daily.timer", "apt-daily-upgrade.timer")


@dataclass(frozen=True)
class Recipe:
    """What an image is made of; two equal recipes give the same tag, any change gives another."""

    suite: str
    packages: tuple[str, ...] = PACKAGES
    archives: tuple[str, ...] = ARCHIVES
    masked: tuple[str, ...] = MASKED

    def bootstrap(self, folder: str) -> list[str]:
        """The debootstrap command that fills `folder`."""
        include = "--include=" + ",".join(self.packages)
        return ["debootstrap", "--variant=minbase", f"--keyring={engine.KEYRING}", include, self.suite, folder, MIRROR]

    def script(self) -> str:
        """The shell script that runs inside the new tree."""
        sources = [
            f"deb {MIRROR} {self.suite} main",
            f"deb {MIRROR} {self.suite}-updates main",
            f"deb {SECURITY} {self.suite}-security main",
        ]
        lines = [
            "set -eu",
            "export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "printf '%s\\n' " + shlex.join(sources) + " > /etc/apt/sources.list",
            f"useradd --uid {OPERATOR_ID} --gid operator --create-home --shell /bin/bash operator",
            "echo 'operator ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/operator",
            "chmod 0440 /etc/sudoers.d/operator",
            "rm -f /etc/ssh/ssh_host_* /etc/hostname /var/lib/dbus/machine-id",
            ": > /etc/machine-id",
            *(f"ln -sf /dev/null /etc/systemd/system/{unit}" for unit in self.masked),
            "apt-get clean",
            "apt-get -q update",
            "apt-get -q -y upgrade",
            "apt-get clean",
            *(f"apt-get -q -y --download-only install {group}" for group in self.archives),
        ]
        return "\n".join(lines) + "\n"

    @property
    def tag(self) -> str:
        """`redkeep-lab:<suite>-<hash>`; the hash covers the bootstrap command and the script."""
        text = "\0".join([*self.bootstrap("."), self.script()])
        return f"{REPOSITORY}:{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def recipe(suite: str) -> Recipe:
    """The lab's recipe for a suite; ValueError for a suite the lab does not know."""
    if suite not in SUITES:
        raise ValueError(f"suite {suite!r} is unknown: choose one of {', '.join(SUITES)}")
    return Recipe(suite, archives=ARCHIVES + (TRIXIE_ARCHIVES if suite == "trixie" else ()))


def exists(tag: str) -> bool:
    """Whether the engine holds the image."""
    return bool(engine.docker("images", "-q", tag))


def _make(wanted: Recipe) -> None:
    """Build one image; its mounts live in a namespace of their own, so that removing the folder is always safe."""
    log = engine.WORK / f"build-{wanted.suite}.log"
    folder = tempfile.mkdtemp(prefix="redkeep-lab-", dir="/var/tmp")  # /tmp is often mounted nodev
    provision = ["chroot", folder, "sh", "-c", wanted.script()]
    steps = f"{shlex.join(wanted.bootstrap(folder))} && {shlex.join(provision)}"
    path = f"PATH=/usr/local/sbin:/usr/local/bin:{engine.SBIN}:/usr/bin:/bin"
    try:
        with log.open("wb") as sink:
            argv = engine.as_root("env", path, "unshare", "--mount", "sh", "-c", steps)
            built = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, check=False)
        if built.returncode:
            tail = log.read_text(errors="replace")[-1500:]
            raise engine.LabError(f"building {wanted.tag} failed; the end of {log}:\n{tail}")
        skipped = [f"--exclude=./{name}" for name in ("dev/*", "proc/*", "sys/*", "run/*", "etc/resolv.conf")]
        tar = subprocess.Popen(engine.as_root("tar", "-C", folder, *skipped, "-c", "."), stdout=subprocess.PIPE)
        load = [*engine.client(), "import", "--change", 'CMD ["/sbin/init"]', "-", wanted.tag]
        loaded = subprocess.run(load, stdin=tar.stdout, capture_output=True, check=False)
        assert tar.stdout is not None
        tar.stdout.close()
        if tar.wait() or loaded.returncode:
            raise engine.LabError(f"importing {wanted.tag} failed: {loaded.stderr.decode(errors='replace')}")
    finally:
        engine.run(engine.as_root("rm", "-rf", "--one-file-system", folder))


def build(suite: str) -> str:
    """Tag of the suite's image, built first when the engine lacks it; two processes never build it twice."""
    wanted = recipe(suite)
    if not exists(wanted.tag):
        engine.WORK.mkdir(parents=True, exist_ok=True)
        with (engine.WORK / f"build-{suite}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not exists(wanted.tag):
                _make(wanted)
    return wanted.tag


def build_all(suites: Iterable[str] = SUITES) -> dict[str, str]:
    """Tag of each suite's image; the missing ones are built side by side."""
    names = sorted(set(suites))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return dict(zip(names, pool.map(build, names), strict=True))


def remove_all() -> list[str]:
    """Remove the lab's images that no container uses; the tags removed."""
    tags = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).split()
    return [tag for tag in tags if engine.run([*engine.client(), "rmi", tag], check=False).code == 0]
