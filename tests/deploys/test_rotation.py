"""Every secret exchanged on running hosts: clients lose nothing, the old opens nothing afterwards."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from redkeep.crypto.store import SecretStore
from tests.deploys.conftest import KINDS
from tests.deploys.crash import Kill, run_and_kill
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

PYTHON = "/opt/redkeep/current/bin/python"
CLI = "/usr/local/sbin/redkeep-cli"

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
    folder = f"/run/rotation-{time.monotonic_ns()}"
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


def opens(host: Host, user: str, password: str) -> bool:
    """Whether a password logs a user in, asked with redis-cli."""
    files = "--cacert /etc/redkeep/operator/ca.crt --cert /etc/redkeep/operator/client.crt --key /etc/redkeep/operator/client.key"
    script = f"IFS= read -r p; printf 'AUTH {user} %s\\n' \"$p\" | redis-cli --tls {files} -p 6380"
    done = subprocess.run(
        ["docker", "exec", "-i", host.container, "sh", "-c", script],
        input=password + "\n", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.startswith(("OK", "WRONGPASS")), done.stdout + done.stderr
    return done.stdout.startswith("OK")


def shows(host: Host, ca: bytes, cert: bytes, key: bytes) -> str:
    """What the server answers to a PING before a login by whoever shows this certificate and trusts this CA."""
    host.check("install -d -m 0700 /run/old")
    for name, content in (("ca", ca), ("crt", cert), ("key", key)):
        host.put(f"/run/old/{name}", content.decode())
    answer = host.run("redis-cli --tls --cacert /run/old/ca --cert /run/old/crt --key /run/old/key -p 6380 PING 2>&1")
    host.check("rm -rf /run/old")
    return answer.out


def answers(host: Host, what: str) -> str:
    host.put("/run/answers.py", ANSWERS)
    return host.check(f"{PYTHON} /run/answers.py {what} 2>/dev/null; rm /run/answers.py")


def pid(host: Host) -> str:
    return host.check(f"{CLI} INFO server | grep -E 'process_id|run_id'")


@pytest.fixture(params=["redis70", pytest.param("redis80", marks=pytest.mark.soak), pytest.param("valkey81", marks=pytest.mark.soak)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def deployment(kind: str, deployed: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """A deployment; afterwards nothing differs from what its secrets say."""
    found = deployed(kind)
    yield found
    if found.run("status").code:
        found.run().ok()


def rotate(deployment: Deployment, what: str, **data: str) -> tuple[str, ...]:
    return ("rotate", "--data", f"what={what}", *(w for name, value in data.items() for w in ("--data", f"{name}={value}")))


def test_everything_is_rotated_under_load_and_nobody_notices(
    kind: str, deployment: Deployment, lab: Lab, soak: bool
) -> None:
    """While the app works on every host: a rotation of passwords stops for a client that cannot know the new one, naming it, and
    for one that comes back with the old, putting it back; a deploy in between keeps both; then it ends, the CA and the encryption
    key follow, and the app has lost no operation, no old password, certificate or key opens anything, every answer from before
    is still one, and the server is the same process."""
    names = [*dict.fromkeys([KINDS[kind]["groups"]["redis"][0], *KINDS[kind]["groups"]["app"]])]  # type: ignore[index]
    server = lab[names[0]]
    store = SecretStore.open(deployment.secrets)
    old = {user: store.password(user) for user in store.users()}
    keys = store.encryption_keys()
    ca, leaf = store.trust_bundle(), store.leaves()[f"cache_service@{server.name}"]
    before = pid(server)
    clients, pause = (25, 0.045) if soak else (5, 0.02)
    with app([lab[name] for name in names], clients=clients, pause=pause) as seen:
        with running(server, STALE, "redkeep") as stale:
            with running(server, STALE, "reports") as foreign:
                run = deployment.run(*rotate(deployment, "passwords"))
                assert run.code != 0
                assert "1 client logged in before the new password was there" in run.output
                assert "'reports' (user cache_service" in run.output
                again = deployment.run().ok()
                assert "a rotation of passwords is open" in again.output
                assert again.changed_operations == 0
                assert opens(server, "cache_service", old["cache_service"])
            assert foreign["out"].strip() == "pong"

            run = deployment.run(*rotate(deployment, "passwords"))
            assert run.code != 0
            assert "came back with the old password" in run.output
            assert opens(server, "cache_service", old["cache_service"])
            time.sleep(1)
        assert stale["out"].strip() == "pong"

        deployment.run(*rotate(deployment, "passwords")).ok()
        fresh = SecretStore.open(deployment.secrets)
        for user in old:
            assert len(fresh.password_hashes(user)) == 1
            assert not opens(server, user, old[user])
            assert opens(server, user, fresh.password(user))

        deployment.run(*rotate(deployment, "ca")).ok()
        fresh = SecretStore.open(deployment.secrets)
        assert ca not in fresh.trust_bundle()
        assert "NOAUTH" not in shows(server, fresh.trust_bundle(), leaf.cert_pem, leaf.key_pem)
        current = fresh.leaves()[f"cache_service@{server.name}"]
        assert "NOAUTH" not in shows(server, ca, current.cert_pem, current.key_pem)
        assert "NOAUTH" in shows(server, fresh.trust_bundle(), current.cert_pem, current.key_pem)

        answers(server, "write")
        sealed = deployment.run(*rotate(deployment, "encryption-key")).ok()
        assert "200 of older keys" in sealed.output
        assert not set(SecretStore.open(deployment.secrets).encryption_keys()) & set(keys)
        assert answers(server, "read") == "200"
    assert seen.wrong == []
    assert sum(seen.errors.values()) - seen.errors["server_unavailable"] == 0, seen.errors
    assert seen.operations > 100
    assert pid(server) == before
    assert deployment.run("status").ok().drift == {}
    print(f"{kind}: {seen.operations} operations, 0 lost, the slowest pair {seen.slowest:.2f} s")


STEPS = (
    "Put the new beside the old",
    "Let new passwords in",
    "Give root on the host the operator's access",
    "Write the configuration and the users",
    "Apply the users to the running server",
    "Write the app's credentials",
    "Refuse while clients are connected that cannot know the new",
    "Want the new alone",
    "End the sessions from before",
    "Forget the old",
)


def test_a_rotation_that_dies_is_gone_on_with(kind: str, deployment: Deployment, lab: Lab, soak: bool) -> None:
    """Killed in one step after the other, the same command at last ends the rotation that the first one began: the passwords
    are those it made, they alone are valid, and nothing differs on the hosts."""
    server = lab[KINDS[kind]["groups"]["redis"][0]]  # type: ignore[index]
    command = rotate(deployment, "passwords", users="cache_service,operator")
    old = SecretStore.open(deployment.secrets).password("cache_service")
    for step in STEPS if soak else (STEPS[1], STEPS[7]):
        run_and_kill(deployment, Kill(step), *command)
    begun = SecretStore.open(deployment.secrets)
    assert len(begun.password_hashes("cache_service")) == 2
    deployment.run(*command).ok()
    ended = SecretStore.open(deployment.secrets)
    assert ended.password_hashes("cache_service") == begun.password_hashes("cache_service")[:1]
    assert len(ended.password_hashes("monitor")) == 1
    assert not opens(server, "cache_service", old)
    assert deployment.run("status").ok().drift == {}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "Say what to rotate: --data what=passwords|certificates|ca|encryption-key (what is missing)."),
        ({"what": "passwords", "users": "nobody"}, "There is no user nobody to rotate"),
        ({"what": "ca", "users": "monitor"}, "users is for what=passwords alone"),
        ({"what": "ca", "force": "maybe"}, "force=maybe is neither yes nor no."),
    ],
)
def test_bad_input_is_one_sentence_and_no_change(
    data: dict[str, str], sentence: str, deployed: Callable[[str], Deployment]
) -> None:
    """What is wrong is said before anything is changed, on the operator's side neither."""
    deployment = deployed("redis70")
    before = (deployment.secrets / "secrets.json").read_bytes()
    run = deployment.run("rotate", *(w for name, value in data.items() for w in ("--data", f"{name}={value}")))
    assert run.code != 0
    assert sentence in run.output
    assert "Traceback" not in run.output
    assert (deployment.secrets / "secrets.json").read_bytes() == before
