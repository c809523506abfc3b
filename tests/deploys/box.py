"""A host whose Redis runs in a container beside its API: how it is made, and what is asked of it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.deploys.runner import Deployment
from tests.lab.hosts import Host, Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab

# Each host's release and knobs: an API beside Redis. The second has the newer engine with compose 2, the other server, keeps its
# data, and has the dashboard as well.
BOXES: dict[str, tuple[str, dict[str, object]]] = {
    "box12": ("bookworm", {"api_enabled": True}),
    "box13": ("trixie", {"redis_engine": "valkey", "redis_persistence": "aof", "api_enabled": True, "dashboard_enabled": True}),
}
NETWORK, EDGE = "redkeep_internal", "redkeep_edge"

ASK = """import os, ssl, sys, urllib.error, urllib.request as r
request = r.Request("https://127.0.0.1:8765" + sys.argv[1], headers={"X-API-Key": os.environ["KEY"]})
try: answer = r.urlopen(request, timeout=20, context=ssl.create_default_context(cafile="/etc/redkeep/api/ca.crt"))
except urllib.error.HTTPError as error: answer = error
print(answer.status); print(answer.read().decode())"""

# What a change of the runtime must keep.
CREDENTIALS = "grep REDIS_PASSWORD /etc/redkeep/cache.env; cat /etc/redkeep/tls/ca.crt /etc/redkeep/api/key"

# As a user's program does: its environment is the file that quickstart wrote.
WRITE_AND_READ = """import asyncio
from redkeep import SecureAIResponseCache
async def main():
    async with SecureAIResponseCache.from_settings() as cache:
        await cache.cache_response('text', 'summarize', {}, {'answer': 42})
        cache.memory_cache.clear()
        print((await cache.get_cached_response('text', 'summarize', {}))['answer'])
asyncio.run(main())"""

# A container with bash, made of the host's own files: it tries a TCP connection and tells how that ended.
PROBE = r"""docker image inspect probe >/dev/null 2>&1 || { t=$(mktemp -d)
for f in /bin/bash /usr/bin/timeout; do echo $f; ldd $f | grep -o '/[^ ]*'; done | sort -u | while read -r f; do
install -D -m 0755 "$f" "$t$f"; done
tar -C "$t" -c . | docker import - probe >/dev/null; rm -rf "$t"; }"""

# The engine takes a registry on a loopback address without TLS.
REGISTRY = """[ -x /usr/bin/docker-registry ] || { apt-get -q -y install --no-install-recommends docker-registry >/dev/null 2>&1
systemctl disable --now docker-registry >/dev/null 2>&1 || true; }
pgrep -x docker-registry >/dev/null || {
printf "version: 0.1\\nstorage: {filesystem: {rootdirectory: /var/lib/reg}}\\nhttp: {addr: 127.0.0.1:5000}\\n" > /root/reg.yml
systemd-run --quiet --unit reg docker-registry serve /root/reg.yml; sleep 2; }"""



@dataclass(frozen=True)
class Box:
    """A host whose Redis runs in a container, and its deployment."""

    host: Host
    deployment: Deployment
    engine: str
    keeps: bool
    services: tuple[str, ...]

    def address(self, name: str = "REDIS_ADDRESS") -> str:
        """A variable of the stack."""
        return self.host.check(f"sed -n 's/^{name}=//p' /etc/redkeep/stack/.env").strip()

    def container(self, service: str = "redis") -> dict[str, object]:
        ids = self.host.check(f"docker ps --all --quiet --filter label=com.docker.compose.service={service}").split()
        assert len(ids) == 1
        return dict(json.loads(self.host.check(f"docker inspect {ids[0]}"))[0])

    def identity(self, service: str = "redis") -> tuple[object, object]:
        """Another one when the container was replaced or restarted."""
        found = self.container(service)
        return found["Id"], found["State"]["StartedAt"]  # type: ignore[index]

    def identities(self) -> list[tuple[object, object]]:
        return [self.identity(service) for service in self.services]

    def opens(self, address: str, port: int, *, user: str = "") -> bool:
        """Whether an account of the host, root unless named, gets a TCP connection."""
        account = f"setpriv --reuid={user} --clear-groups " if user else ""
        return self.host.run(f"{account}timeout 3 bash -c '</dev/tcp/{address}/{port}'").code == 0

    def ask(self, path: str, *, key: str = "$(cat /etc/redkeep/api/key)") -> tuple[int, str]:
        """Status and body of a route of the API, asked on the host by TLS against its own CA."""
        said = self.host.run(f"KEY={key} python3 -c '{ASK}' {path}")
        code, _, body = said.out.partition("\n")
        return int(code or 0), body

    def reaches(self, network: str, address: str, port: int) -> bool:
        """Whether a container on a network gets a TCP connection."""
        script = f"timeout 3 bash -c '</dev/tcp/{address}/{port}'"
        return self.host.run(f"docker run --rm --network {network} probe /bin/bash -c \"{script}\"").code == 0

    def push(self, image: str) -> str:
        """Put an image into a registry on the host itself, and return its reference by digest."""
        self.host.check(REGISTRY)
        self.host.check(f"docker tag {image} 127.0.0.1:5000/some && docker push --quiet 127.0.0.1:5000/some")
        found = self.host.check("docker image inspect --format '{{join .RepoDigests \" \"}}' 127.0.0.1:5000/some").split()
        self.host.check("docker rmi 127.0.0.1:5000/some")
        return next(name for name in found if name.startswith("127.0.0.1:5000/some@"))

    def broken(self, image: str, *, when: str) -> str:
        """Push an image like another one whose server ends when its arguments match a pattern, and return its reference."""
        name, engine = f"broken-{len(when)}", self.engine
        script = f'#!/bin/sh\ncase "$*" in {when}) echo "it is broken" >&2; exit 1 ;; esac\nexec /usr/bin/real "$@"\n'
        lines = f"FROM {image}\nCOPY real {engine}-server /usr/bin/\n"
        self.host.check(
            f"t=$(mktemp -d); cp $(command -v {engine}-check-rdb) $t/real; printf '%s' {shlex.quote(script)} > $t/{engine}-server;"
            f" printf '%s' {shlex.quote(lines)} > $t/Dockerfile; chmod 0755 $t/{engine}-server;"
            f" DOCKER_BUILDKIT=0 docker build --quiet --tag {name} $t >/dev/null; rm -rf $t"
        )
        return self.push(name)

    def answers(self, *, seconds: float = 120) -> bool:
        """Whether the app's package proves every control, waiting for it."""
        deadline = time.monotonic() + seconds
        while self.host.run("redkeep status").code:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True


def together(probes: dict[str, Callable[[], bool]]) -> dict[str, bool]:
    """What each probe says; side by side, for a closed path takes its time to say nothing."""
    with ThreadPoolExecutor(6) as pool:
        running = {name: pool.submit(probe) for name, probe in probes.items()}
        return {name: one.result() for name, one in running.items()}


# The short run has the older engine with compose 1; the long one has both.
@pytest.fixture(scope="module", params=["box12", pytest.param("box13", marks=pytest.mark.soak)])
def box(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A bare host, deployed to once."""
    name = str(request.param)
    suite, knobs = BOXES[name]
    lab.ensure([Spec(name, suite, docker=True)])
    folder = tmp_path_factory.mktemp(name)
    data = {name: {"package_source": "wheelhouse", "redis_runtime": "docker"} | knobs}
    path = write_inventory(folder / f"{name}.py", {"redis": [lab[name]], "app": [lab[name]]}, data=data)
    engine, keeps = str(knobs.get("redis_engine", "redis")), "redis_persistence" in knobs
    services = ("redis", "api", *(["dashboard"] if "dashboard_enabled" in knobs else []))
    made = Box(lab[name], Deployment(path, folder / "secrets"), engine, keeps, services)
    made.deployment.run().ok()
    made.host.check(PROBE)
    yield made
    lab.remove(name)
