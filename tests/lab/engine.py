"""The Docker engine the lab runs on: found, or installed and started, and ended only when the lab started it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = Path(os.environ.get("REDKEEP_LAB_DIR", ROOT / "build" / "lab"))

NEEDS = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class LabError(RuntimeError):
    """A command of the lab failed; the message holds the command and the end of its output."""


class Result(NamedTuple):
    """What a command answered: exit code, standard output and standard error as text."""

    code: int
    out: str
    err: str


def run(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = 600, check: bool = True) -> Result:
    """Run a command without a shell; LabError when it fails and `check` is true, or when `timeout` seconds pass."""
    try:
        done = subprocess.run(list(argv), input=stdin or b"", capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no end after {timeout} s") from error
    result = Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and result.code:
        raise LabError(f"{' '.join(argv)}: exit code {result.code}\n{(result.err or result.out)[-2000:]}")
    return result


def as_root(*argv: str) -> list[str]:
    """The command as root runs it: unchanged for root, through sudo for anybody else."""
    return list(argv) if os.geteuid() == 0 else ["sudo", "-n", *argv]


def missing() -> list[str]:
    """Debian packages the lab needs and this machine lacks."""
    path = os.environ.get("PATH", "") + os.pathsep + SBIN
    lacking = {package for tool, package in NEEDS.items() if not shutil.which(tool, path=path)}
    if not KEYRING.exists():
        lacking.add("debian-archive-keyring")
    return sorted(lacking)


def install_missing() -> None:
    """Install what `missing` names; nothing when all is there."""
    if packages := missing():
        apt = as_root("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300")
        run([*apt, "update"])
        run([*apt, "install", "-y", "--no-install-recommends", *packages])
        if missing():  # Debian 13 has the client in a package of its own, Debian 12 knows no such package.
            run([*apt, "install", "-y", "--no-install-recommends", "docker-cli"])


@functools.cache
def client() -> tuple[str, ...]:
    """The docker client's command; through sudo when this user may not open the engine's socket."""
    if os.geteuid() != 0 and run(["docker", "version"], check=False).code:
        return tuple(as_root("docker"))
    return ("docker",)


def docker(*argv: str, stdin: bytes | None = None, timeout: float | None = 600) -> str:
    """Output of a docker command, stripped; LabError when it fails."""
    return run([*client(), *argv], stdin=stdin, timeout=timeout).out.strip()


def answers() -> bool:
    """Whether an engine answers now."""
    return run(as_root("docker", "version", "--format", "{{.Server.Version}}"), check=False, timeout=30).code == 0


def _pidfile() -> Path:
    return WORK / "dockerd.pid"


def own_pid() -> int | None:
    """Process id of the engine this lab started and that still runs; None for anybody else's.

    Its command line names the lab's own pid file, so a process id used again by another program is never taken for it.
    """
    try:
        pid = int(_pidfile().read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(_pidfile()) in command else None


def ensure(*, timeout: float = 60) -> None:
    """Make an engine answer: the one that does, else one installed and started; LabError with its log's end if not."""
    if not missing() and answers():
        return
    install_missing()
    if Path("/run/systemd/system").is_dir():
        run(as_root("systemctl", "start", "docker"), check=False)
    if answers():
        return
    WORK.mkdir(parents=True, exist_ok=True)
    log = WORK / "dockerd.log"
    argv = as_root("env", f"PATH={os.environ.get('PATH', '')}:{SBIN}", "dockerd", "--pidfile", str(_pidfile()))
    with log.open("ab") as sink:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
    deadline = time.monotonic() + timeout
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-1500:]
            raise LabError(f"dockerd does not answer; the end of {log}:\n{tail}")
        time.sleep(0.2)
    client.cache_clear()


def end(*, timeout: float = 30) -> bool:
    """End the engine if this lab started it and no container runs on it; whether it was ended."""
    pid = own_pid()
    if pid is None or docker("ps", "-q"):
        return False
    run(as_root("kill", "-TERM", str(pid)))
    deadline = time.monotonic() + timeout
    while own_pid() == pid and time.monotonic() < deadline:
        time.sleep(0.1)
    return own_pid() is None
