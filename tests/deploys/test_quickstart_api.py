"""The whole quickstart on this machine's engine: Redis, the API and the dashboard in containers, all built here, run by plain compose."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from redkeep.crypto.store import SecretStore
from tests.deploys.runner import ROOT
from tests.lab import engine, image
from tests.redis.binary import redis_server
from tests.redis.server import free_port

pytestmark = pytest.mark.soak
SUITE = {"3.11": "bookworm", "3.13": "trixie"}[".".join(map(str, sys.version_info[:2]))]
BASE, SERVER, API, DASHBOARD = "redkeep-test/python", "redkeep-test/redis", "localhost/redkeep/api", "localhost/redkeep/dashboard"

SERVER_FILES = """set -eu; t=$(mktemp -d)
for f in {server} /usr/bin/redis-cli /bin/dash; do echo $f; ldd $f | grep -o '/[^ ]*'; done | sort -u | while read -r f; do
install -D -m 0755 "$f" "$t$f"; done
mkdir -p $t/data $t/etc/redis; mkdir -m 1777 $t/tmp; ln $t/bin/dash $t/bin/sh
[ -e $t/usr/bin/redis-server ] || ln $t{server} $t/usr/bin/redis-server
tar -C $t -c . | docker import - {name}; rm -rf $t"""


def shell(command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Stack:
    """A quickstart that is up."""

    folder: Path
    port: int
    page: int

    def ask(self, path: str, key: str) -> tuple[int, str]:
        """Status and body of a route of the API, by TLS against the folder's CA alone."""
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers={"X-API-Key": key})
        context = ssl.create_default_context(cafile=str(self.folder / "client/ca.crt"))
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def inspect(self, service: str) -> dict[str, object]:
        ids = shell(f"docker-compose ps -q {service}", self.folder).split()
        return dict(json.loads(engine.docker("inspect", ids[0]))[0])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All images built without a registry, the files made, and compose's own `up -d`."""
    engine.ensure()
    if not shutil.which("docker-compose"):
        engine.run([*engine.as_root("apt-get"), "-q", "-y", "install", "--no-install-recommends", "docker-compose"])
    packages = "apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv"
    base = f"FROM {image.build(SUITE)}\nRUN {packages} && rm -rf /var/lib/apt/lists/*\n"
    engine.docker("build", "--quiet", "--tag", f"{BASE}:1", "-", stdin=base.encode())
    shell(SERVER_FILES.format(server=os.path.realpath(redis_server()), name=SERVER))
    for extra in ("api", "dashboard"):
        shell(f"deploys/image.sh {extra} --offline --build-arg IMAGE={BASE} --build-arg TAG=1")
    folder, port, page = tmp_path_factory.mktemp("quick") / "stack", free_port(), free_port()
    shell(f"{sys.executable} -m redkeep.cli quickstart {folder} --image {SERVER} --api {port} --dashboard {page}")
    try:
        shell("docker-compose up -d", folder)
        healthy = "$(docker ps --filter health=healthy --format '{{.Names}}' | grep -c ^stack_)"
        shell(f"for i in $(seq 180); do [ {healthy} = 3 ] && exit; sleep 1; done; docker-compose logs; exit 1", folder)
        yield Stack(folder, port, page)
    finally:
        shell("docker-compose down", folder)
        engine.run([*engine.client(), "rmi", SERVER, API, DASHBOARD, f"{BASE}:1"], check=False)


def test_the_api_says_that_all_is_safe(stack: Stack) -> None:
    """With its key, from probes inside the stack; a wrong key gets nothing."""
    code, body = stack.ask("/monitoring/security-status", (stack.folder / "api/key").read_text().strip())
    found = json.loads(body)
    assert (200, "ok", True, True) == (code, found["state"], found["network_isolated"], found["encryption_enabled"])
    assert 401 == stack.ask("/monitoring/security-status", "x" * 43)[0]


def test_each_container_has_the_networks_it_needs(stack: Stack) -> None:
    """The server is on the internal network alone, the dashboard on the other, the API on both; each port is at the loopback address."""
    found = {name: stack.inspect(name) for name in ("redis", "api", "dashboard")}
    networks = {name: set(one["NetworkSettings"]["Networks"]) for name, one in found.items()}  # type: ignore[index]
    assert {"redis": {"stack_internal"}, "api": {"stack_internal", "stack_edge"}, "dashboard": {"stack_edge"}} == networks
    bindings = {name: one["HostConfig"]["PortBindings"] for name, one in found.items()}  # type: ignore[index]
    api, page = ([{"HostIp": "127.0.0.1", "HostPort": str(port)}] for port in (stack.port, stack.page))
    assert {"redis": {}, "api": {"8765/tcp": api}, "dashboard": {"8501/tcp": page}} == bindings
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.page}/", timeout=30) as answer:
        assert b"<title>" in answer.read()


@pytest.mark.parametrize("service", ["redis", "api", "dashboard"])
def test_no_container_has_rights_or_shows_a_secret(stack: Stack, service: str) -> None:
    """No root, no capability, a read-only root, limits; no password, key or token in what the engine shows or the image holds."""
    one = stack.inspect(service)
    host = one["HostConfig"]
    assert one["Config"]["User"].split(":")[0] not in ("", "0")  # type: ignore[index]
    expected = {"ReadonlyRootfs": True, "Privileged": False, "CapDrop": ["ALL"], "CapAdd": None}
    assert expected == {key: host[key] for key in expected}  # type: ignore[index]
    assert host["Memory"] == host["MemorySwap"] > 0 < host["PidsLimit"]  # type: ignore[index]
    shown = json.dumps(one) + shell(f"docker history --no-trunc {one['Image']}; docker top {one['Id']}; docker logs {one['Id']} 2>&1")
    store = SecretStore.open(stack.folder / "secrets")
    secrets = [*(store.password(user) for user in store.users()), *store.encryption_keys()]
    assert len(secrets) == 8
    assert [] == [secret for secret in secrets if secret in shown]
