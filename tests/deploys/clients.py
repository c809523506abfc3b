"""An application at work on deployed hosts, in another process there; and clients that a rotation must not take for one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.lab.hosts import Host

PYTHON = "/opt/redkeep/current/bin/python"

# The distribution's own command line, whichever server it came with.
COMMAND_LINE = "$(command -v redis-cli || command -v valkey-cli)"

# The app: the package, its environment made from cache.env as systemd's EnvironmentFile= makes it, and never restarted.
APP = """
import asyncio, json, os, sys, time

os.environ.update(line.rstrip("\\n").split("=", 1) for line in open("/etc/redkeep/cache.env") if line[0] not in "#\\n")
from redkeep import SecureAIResponseCache

folder, clients, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
seen = dict(operations=0, wrong=[], errors={}, slowest=0.0)

async def work(number):
    async with SecureAIResponseCache.from_settings() as cache:
        while not os.path.exists(folder + "/stop"):
            began = time.monotonic()
            value = {"n": seen["operations"]}
            await cache.set(f"{os.uname().nodename}:{number}", value, ttl=60)
            if await cache.get(f"{os.uname().nodename}:{number}") != value:
                seen["wrong"].append(f"client {number} at {time.time():.1f}: {cache.last_error}")
            seen["slowest"] = max(seen["slowest"], time.monotonic() - began)
            seen["operations"] += 2
            if not os.path.exists(f"{folder}/ready{number}"):
                open(f"{folder}/ready{number}", "w").close()
            await asyncio.sleep(pause)
        for kind, times in cache.error_counts.items():
            seen["errors"][kind] = seen["errors"].get(kind, 0) + times
        stats = await cache.get_cache_stats()
        seen["errors"]["statistics"] = seen["errors"].get("statistics", 0) + (stats["redis"]["status"] != "connected")

async def main():
    await asyncio.gather(*(work(n) for n in range(clients)))

asyncio.run(main())
print(json.dumps(seen))
"""

# A client that holds for ever the password that it was started with. Called `redkeep`, it is taken for one that follows.
STALE = """
import os, sys, time
import redis

env = dict(line.rstrip("\\n").split("=", 1) for line in open("/etc/redkeep/cache.env") if line[0] not in "#\\n")
folder, name = sys.argv[1:]
link = redis.Redis.from_url(
    env["REDIS_URL"], username=env["REDIS_USERNAME"], password=env["REDIS_PASSWORD"], ssl_ca_certs=env["REDIS_TLS_CA_FILE"],
    ssl_certfile=env["REDIS_TLS_CERT_FILE"], ssl_keyfile=env["REDIS_TLS_KEY_FILE"], single_connection_client=True, client_name=name,
)
answers = []
while not os.path.exists(folder + "/stop"):
    try:
        link.ping()
        answers.append("pong")
    except redis.RedisError as error:
        answers.append(type(error).__name__)
    open(folder + "/ready0", "w").close()
    time.sleep(0.2)
print(answers[-1])
"""


# Writes 200 answers, or counts those that are still answers.
ANSWERS = """
import asyncio, os, sys

os.environ.update(line.rstrip("\\n").split("=", 1) for line in open("/etc/redkeep/cache.env") if line[0] not in "#\\n")
from redkeep import SecureAIResponseCache

async def main():
    async with SecureAIResponseCache.from_settings() as cache:
        if sys.argv[1] == "write":
            for n in range(200):
                await cache.cache_response(f"text {n}", "summarize", {}, {"n": n})
        else:
            found = [await cache.get_cached_response(f"text {n}", "summarize", {}) for n in range(200)]
            print(sum(answer is not None and answer["n"] == n for n, answer in enumerate(found)))

asyncio.run(main())
"""


@dataclass
class Seen:
    """What the clients saw, once they have ended."""

    operations: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0


@contextmanager
def running(host: Host, program: str, *arguments: str, clients: int = 1) -> Iterator[dict[str, str]]:
    """A program on the host while the block runs; what it printed is in the result's `out` afterwards."""
    folder = f"/run/beside-{time.monotonic_ns()}"
    host.check(f"mkdir {folder}")
    host.put(f"{folder}/program.py", program)
    argv = ["docker", "exec", host.container, PYTHON, f"{folder}/program.py", folder, *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    result: dict[str, str] = {}
    try:
        host.check(f"for i in $(seq 300); do [ $(ls {folder} | grep -c ready) = {clients} ] && exit 0; sleep 0.1; done; exit 1")
        yield result
    finally:
        host.check(f"touch {folder}/stop")
        out, errors = process.communicate(timeout=60)
        host.check(f"rm -rf {folder}")
        assert process.returncode == 0, errors
        result["out"] = out


@contextmanager
def app(hosts: list[Host], *, clients: int = 5, pause: float = 0.01) -> Iterator[Seen]:
    """The app at work on these hosts; how it fared is known after the block."""
    seen = Seen()
    with running(hosts[0], APP, str(clients), str(pause), clients=clients) as result:
        if hosts[1:]:
            with app(hosts[1:], clients=clients, pause=pause) as others:
                yield seen
        else:
            others = Seen()
            yield seen
    found = json.loads(result["out"])
    seen.operations = found["operations"] + others.operations
    seen.wrong = found["wrong"] + others.wrong
    seen.errors = {kind: times + others.errors.get(kind, 0) for kind, times in found["errors"].items()}
    seen.slowest = max(found["slowest"], others.slowest)


def opens(host: Host, user: str, password: str, *, address: str = "127.0.0.1") -> bool:
    """Whether a password logs a user in, asked with the distribution's own command line."""
    files = "--cacert /etc/redkeep/operator/ca.crt --cert /etc/redkeep/operator/client.crt --key /etc/redkeep/operator/client.key"
    script = f"IFS= read -r p; printf 'AUTH {user} %s\\n' \"$p\" | {COMMAND_LINE} --tls {files} -h {address} -p 6380"
    done = subprocess.run(
        ["docker", "exec", "-i", host.container, "sh", "-c", script],
        input=password + "\n", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.startswith(("OK", "WRONGPASS")), done.stdout + done.stderr
    return done.stdout.startswith("OK")


def answers(host: Host, what: str) -> str:
    host.put("/run/answers.py", ANSWERS)
    return host.check(f"{PYTHON} /run/answers.py {what} 2>/dev/null; rm /run/answers.py")
