"""sslyze, as a program of its own: it pins another cryptography than ours and lives in its own environment."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.inventory import ROOT
from tests.hosts.machine import OPERATOR, Machine, ssh_options

PLACES = (ROOT / "build/scanners/bin/sslyze", Path(sys.executable).with_name("sslyze"))
WAIT_SECONDS = 10


def program() -> str:
    """Path of sslyze: REDKEEP_SSLYZE, or the environment in build/scanners, or the one that runs the tests.

    Raises FileNotFoundError, with the commands that make the environment.
    """
    given = os.environ.get("REDKEEP_SSLYZE")
    for place in [given] if given else PLACES:
        if found := shutil.which(str(place)):
            return found
    raise FileNotFoundError(
        "there is no sslyze: python3 -m venv build/scanners && build/scanners/bin/pip install -r tests/scanners/requirements.in"
    )


def scan(machine: Machine, profile: str) -> str:
    """sslyze's report on a host's TLS door against one of Mozilla's profiles, with the operator's certificate.

    The certificate is in a folder of this machine while the scan runs.
    """
    with tempfile.TemporaryDirectory(prefix="redkeep-scan-") as folder, reached(machine) as door:
        for name in ("client.crt", "client.key", "ca.crt"):
            path = Path(folder, name)
            path.touch(mode=0o600)
            path.write_text(machine.read(f"{OPERATOR}/{name}"))
        identity = ["--cert", f"{folder}/client.crt", "--key", f"{folder}/client.key"]
        command = [program(), f"--mozilla_config={profile}", *identity, f"--certinfo_ca_file={folder}/ca.crt", door]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300).stdout


@contextlib.contextmanager
def reached(machine: Machine) -> Iterator[str]:
    """An address:port of this machine behind which is the host's TLS door: a tunnel, unless the host is this machine."""
    member = machine.wanted.member
    if member.is_local:
        yield machine.door
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = f"127.0.0.1:{port}:{machine.door}"
    command = ["ssh", *ssh_options(member), "-o", "ExitOnForwardFailure=yes", "-N", "-L", forward, member.address]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as tunnel:
        try:
            _wait(port, tunnel, shlex.join(command))
            yield f"127.0.0.1:{port}"
        finally:
            tunnel.terminate()


def _wait(port: int, tunnel: subprocess.Popen[bytes], command: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and tunnel.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the tunnel did not come up: {command}")
