"""No secret is ever seen on its way: canaries in the secrets folder, and every place they could show up is searched."""

from __future__ import annotations

import base64
import json
import os
import secrets as random
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploys.credentials import USERS
from redkeep.crypto.store import SecretStore
from tests.deploys.crash import MARK
from tests.deploys.runner import ROOT, Deployment, Run
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "leaks"

# Where a secret belongs on a host, by the beginning of its name; nowhere else, whatever the mode.
HOMES = {
    "password of operator": {"/etc/redkeep/operator/password"},
    "password of cache_service": {"/etc/redkeep/cache.env"},
    "password of health_service": {"/etc/redkeep/cache.env"},
    "encryption key": {"/etc/redkeep/cache.env"},
    "key of server@": {"/etc/redis/tls/*/server.key"},
    "key of operator@": {"/etc/redkeep/operator/client.key"},
    "key of cache_service@": {"/etc/redkeep/tls/client.key"},
}

# The files and users that carry secrets, gone or wrong: the next run sends every secret again.
SPOIL = "cd /etc; rm -f redkeep/operator/* redkeep/tls/client.key redkeep/cache.env redis/users.acl redis/tls/*/server.key"
SPOIL_USERS = "/usr/local/sbin/redkeep-cli ACL DELUSER cache_service monitor backup >/dev/null"

FLAGS = {
    "-v": ["-v"],
    "-vv": ["-vv"],
    "-vvv": ["-vvv"],
    "--diff": ["--diff"],
    "--debug": ["--debug"],
    "--debug-all": ["--debug-all", "-vvv"],
    "--json": ["--json"],
    "--dry": ["--dry"],
    "--dry --diff": ["--dry", "--diff"],
    "--dry -vvv --debug-all": ["--dry", "-vvv", "--debug-all"],
    "--json --dry": ["--json", "--dry"],
    "--debug-operations": ["--debug-operations"],
    "--debug-operations --json": ["--debug-operations", "--json"],
    "--debug-facts": ["--debug-facts"],
}
SHORT = ("--debug-all", "--json", "--dry --diff", "--json --dry", "--debug-operations")

# Runs as a user without rights on the host: what it can read, any user can. Here it reads command lines only: the
# environments of this machine's processes are nobody's business. A process is read again and again while it
# is young, for its arguments change when it executes another program.
SAMPLER = """
import os, sys, time
seen, ages, out = set(), {}, open(sys.argv[1], "ab", buffering=0)
while not os.path.exists(sys.argv[1] + ".stop"):
    there = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    ages = {pid: ages.get(pid, 0) + 1 for pid in there}
    for pid in there:
        if ages[pid] > 200:
            continue
        for name in sys.argv[2:]:
            try:
                with open(f"/proc/{pid}/{name}", "rb") as source:
                    text = source.read()
            except OSError:
                continue
            if text not in seen:
                seen.add(text)
                out.write(text + b"\\n")
    time.sleep(0.0005)
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "flag" in metafunc.fixturenames:
        metafunc.parametrize("flag", list(FLAGS) if metafunc.config.getoption("--soak") else SHORT)


class Canaries:
    """The secrets of a folder by name, and how each looks: as it is, and in base64 at any offset."""

    def __init__(self, folder: Path) -> None:
        store = SecretStore.open(folder)
        self.values: dict[str, bytes] = {f"password of {user}": store.password(user).encode() for user in USERS}
        self.values |= {f"encryption key {n}": key.encode() for n, key in enumerate(store.encryption_keys())}
        self.values |= {f"key of {name}": _core(leaf.key_pem) for name, leaf in store.leaves().items()}
        self.values["key of the authority"] = _core(store.authority().key_pem)
        self.spellings = {name: spellings(value) for name, value in self.values.items()}

    def found(self, text: bytes) -> list[str]:
        """Names of the secrets that a text holds in any spelling, across line ends and terminal prefixes too."""
        squeezed = text.replace(b"\n", b"").replace(b"\r", b"").replace(b"\\n", b"").replace(b" ", b"")
        return [name for name, forms in self.spellings.items() if any(form in text or form in squeezed for form in forms)]


def _core(pem: bytes) -> bytes:
    """A line from the middle of a private key: the part of the base64 that holds the secret number."""
    return pem.splitlines()[2][:48] if len(pem.splitlines()) > 4 else pem.splitlines()[1][20:68]


def spellings(value: bytes) -> set[bytes]:
    """The value itself and 16-character pieces of its base64 at each of the three offsets."""
    found = {value}
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + value)
        core = whole[4 if offset else 0 : len(whole) // 4 * 4 - 4]
        found |= {core[i : i + 16] for i in range(0, len(core) - 15, 16)}
    return found


@contextmanager
def sampled(host: Host, log: Path) -> Iterator[None]:
    """Sample the command lines, and the environments that may be read, of all processes here and on the host."""
    host.put("/run/sampler.py", SAMPLER)
    host.check("rm -rf /run/sampler; install -d -o operator /run/sampler")
    here = log.with_suffix(".here")
    argv = ["docker", "exec", "--user", "operator", host.container, "python3", "/run/sampler.py", "/run/sampler/out"]
    argv += ["cmdline", "environ"]
    samplers = [subprocess.Popen(argv), subprocess.Popen([sys.executable, "-c", SAMPLER, str(here), "cmdline"])]
    try:
        yield
    finally:
        host.check("touch /run/sampler/out.stop")
        here.with_name(here.name + ".stop").touch()
        for sampler in samplers:
            sampler.wait(timeout=20)
        text = host.check("cat /run/sampler/out").encode() + here.read_bytes()
        log.write_bytes(text.replace(b"\0", b" "))
        host.check("rm -rf /run/sampler /run/sampler.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets with recognisable passwords."""
    place = tmp_path_factory.mktemp("canaries") / "secrets"
    store = SecretStore.open(place, create=True)
    for user in USERS:
        store.set_password(user, f"Canary.{user}.{random.token_hex(12)}")
    store.encryption_keys()
    return place


class Stage:
    """A deployed host whose every run was recorded."""

    def __init__(self, deployment: Deployment, host: Host, folder: Path) -> None:
        self.deployment, self.host, self.folder = deployment, host, folder
        self.temporary, self.home = folder / "tmp", folder / "home"
        self.temporary.mkdir()
        self.home.mkdir()

    @property
    def canaries(self) -> Canaries:
        return Canaries(self.deployment.secrets)

    def run(self, verb: str, *arguments: str, yes: bool = True) -> Run:
        """Run a verb with temporary files and a home of its own."""
        places = {"TMPDIR": str(self.temporary), "HOME": str(self.home)}
        run = self.deployment.run(verb, *arguments, yes=yes, environment=places)
        (self.folder / f"output-{time.monotonic_ns()}.log").write_text(run.output)
        return run

    def spoil(self) -> None:
        """Make the next run send every secret."""
        self.host.run(f"{SPOIL_USERS}; {SPOIL}")


@pytest.fixture(scope="module")
def stage(single: Callable[..., Deployment], folder: Path, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A host deployed to from bare with all that pyinfra can say, while all processes were sampled."""
    (ROOT / "pyinfra-debug.log").unlink(missing_ok=True)
    stage = Stage(single(NAME, secrets=folder, user="operator"), lab[NAME], tmp_path_factory.mktemp("leaks"))
    with sampled(lab[NAME], stage.folder / "processes.log"):
        stage.run("secure_redis", "-vvv", "--debug-all").ok()
    return stage


def test_the_canaries_are_seen_where_they_are(folder: Path) -> None:
    """The search finds a secret as it is, in base64 lines, and cut by a terminal; and nothing in innocent text."""
    canaries = Canaries(folder)
    for name, value in canaries.values.items():
        assert name in canaries.found(b"x=" + value + b"\n")
        assert name in canaries.found(base64.encodebytes(b"A=1\nREDIS_PASSWORD=" + value + b"\nB=2"))
    assert canaries.found(b"nothing to see " * 1000) == []


def test_nothing_in_the_output_of_a_deploy(stage: Stage) -> None:
    """-vvv --debug-all of a deploy on a bare host prints every command and no secret, nor what travels on stdin."""
    output = b"".join(path.read_bytes() for path in stage.folder.glob("output-*.log"))
    assert b"base64 -d" in output
    assert stage.canaries.found(output) == []


def test_nothing_in_any_process_list(stage: Stage) -> None:
    """No user of the host or of the operator's machine saw a secret in the processes' arguments or environments."""
    seen = (stage.folder / "processes.log").read_bytes()
    assert b"redis-server" in seen
    assert b"pyinfra" in seen
    assert stage.canaries.found(seen) == []


def test_nothing_in_the_output_under_any_flag(flag: str, stage: Stage) -> None:
    """With every secret sent again, no flag shows one."""
    stage.spoil()
    dry = {"--dry", "--debug-operations", "--debug-facts"} & set(FLAGS[flag])
    run = stage.run("secure_redis", *FLAGS[flag], yes=not dry).ok()
    assert stage.canaries.found(run.output.encode()) == []
    if not dry:
        assert stage.run("status").ok().drift == {}


def test_nothing_in_debug_inventory(stage: Stage) -> None:
    """debug-inventory works, and shows no secret."""
    command = stage.deployment.command("secure_redis")
    command[command.index("deploys/secure_redis.py")] = "debug-inventory"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "redis_tls_port" in done.stdout + done.stderr
    assert stage.canaries.found((done.stdout + done.stderr).encode()) == []


def test_nothing_when_a_command_fails(stage: Stage) -> None:
    """A place that cannot be written to fails the run with all secrets at hand: the words tell why, and no secret."""
    stage.spoil()
    stage.host.check("mount -t tmpfs -o ro,mode=700 none /etc/redkeep/operator")
    try:
        run = stage.run("secure_redis", "-vvv", "--debug-all")
    finally:
        stage.host.check("umount /etc/redkeep/operator")
    assert run.code != 0
    assert "Read-only file system" in run.output
    assert stage.canaries.found(run.output.encode()) == []
    stage.run("secure_redis").ok()


def test_nothing_when_the_connection_breaks(stage: Stage) -> None:
    """The connection is cut while secrets travel: neither the output nor pyinfra-debug.log holds one."""
    stage.spoil()
    places = {"TMPDIR": str(stage.temporary), "HOME": str(stage.home)}
    command = stage.deployment.command("secure_redis", "-vvv", "--debug-all")
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | places | {"PYINFRA_PROGRESS": "off"}, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if line.strip().startswith(MARK) and "operator's login" in line:
            stage.host.run("for p in $(pgrep -x sshd); do grep -qz notty /proc/$p/cmdline && kill -9 $p; done")
    assert process.wait(timeout=120) != 0
    log = ROOT / "pyinfra-debug.log"
    text = "".join(output).encode() + (log.read_bytes() if log.exists() else b"")
    assert stage.canaries.found(text) == []
    stage.run("secure_redis").ok()


def test_secrets_are_where_they_belong_on_the_host_and_nowhere_else(stage: Stage) -> None:
    """Every file that changed since the host was bare is searched, also as base64: each secret is in its own file, not
    readable by others, and the secrets of other hosts and users are not there at all."""
    stage.run("secure_redis").ok()
    canaries = stage.canaries
    stage.host.put("/run/needles", b"\n".join(sorted(set().union(*canaries.spellings.values()))) + b"\n", mode=0o600)
    try:
        hits = stage.host.run(
            "find / -xdev -type f -cnewer /proc/1 ! -path '/proc/*' ! -path '/sys/*' -print0"
            " | xargs -0 grep -lFaf /run/needles 2>/dev/null; find /tmp /var/tmp /run /dev/shm -xdev -type f"
            " ! -name needles -print0 | xargs -0 -r grep -lFaf /run/needles 2>/dev/null"
        ).out.splitlines()
        readable = stage.host.run(
            "find / -xdev -type f -perm -o=r -cnewer /proc/1 -print0 | xargs -0 grep -lFaf /run/needles"
        ).out
    finally:
        stage.host.check("rm /run/needles")
    assert readable == ""
    for path in hits:
        content = stage.host.check(f"cat '{path}'").encode()
        for name in canaries.found(content):
            homes = next((places for start, places in HOMES.items() if name.startswith(start)), set())
            assert any(Path(path).match(home) for home in homes), f"{name} is in {path}"
    assert len(hits) == 5, hits


def test_nothing_in_the_journal_the_units_or_the_server(stage: Stage) -> None:
    """Journal, systemctl show and cat of all units, Redis' slow log, ACL log and client list."""
    text = stage.host.run(
        "journalctl --no-pager -o export; systemctl show --no-pager '*'; systemctl cat --no-pager 'redis*' 'redkeep*';"
        "for c in 'SLOWLOG GET 128' 'ACL LOG' 'CLIENT LIST' 'CONFIG GET *'; do /usr/local/sbin/redkeep-cli $c; done;"
        "cat /root/.*history /home/*/.*history 2>/dev/null"
    ).out.encode()
    assert b"REDKEEP_SANDBOX" in text
    assert stage.canaries.found(text) == []


def test_nothing_stays_on_the_operators_side(stage: Stage) -> None:
    """All these runs, dry ones too, left no temporary file; the home got no secret."""
    assert [path for path in stage.temporary.rglob("*") if path.is_file()] == []
    canaries = stage.canaries
    for path in stage.home.rglob("*"):
        if path.is_file():
            assert canaries.found(path.read_bytes()) == [], path


def test_nothing_in_what_is_published(stage: Stage, tmp_path: Path) -> None:
    """The tree that git knows, the wheel and the source archive hold no secret."""
    canaries = stage.canaries
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            assert canaries.found((ROOT / name).read_bytes()) == [], name
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "app", capture_output=True, check=True)
    for wheel in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                assert canaries.found(opened.read(name)) == [], name
    for archive in tmp_path.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                source = tar.extractfile(member)
                assert source is None or canaries.found(source.read()) == [], member.name
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dry_run_of_a_new_environment_prints_valid_json_and_keeps_nothing(stage: Stage, tmp_path: Path) -> None:
    """--json --dry before any secrets exist: JSON on stdout, no secrets folder, no temporary folder."""
    fresh = Deployment(stage.deployment.inventory, tmp_path / "new")
    command = fresh.command("secure_redis", "--json", "--dry", "--data", "replace_secrets=yes", yes=False)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []
