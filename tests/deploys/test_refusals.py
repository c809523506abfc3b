"""What cannot be done safely is refused: one sentence that names the thing and the next step, and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redkeep.crypto.pki import Authority
from redkeep.crypto.store import SecretStore
from tests.deploys.hoststate import untouched
from tests.deploys.runner import Deployment
from tests.lab.access import _keypair
from tests.lab.hosts import Host
from tests.lab.inventory import ssh_data, write_inventory
from tests.lab.lab import Lab

NAME = "refuser"
PASSPHRASE = "four random words of nobody"

# In front of the interpreter's own modules: the operator's clock is a day off. The host's cannot be moved, for a
# container shares its kernel's; only the distance between the two clocks is looked at, and that is the same.
CLOCK = "import time\n_now = time.time\ntime.time = lambda: _now() + {seconds}\n"


@dataclass(frozen=True)
class Case:
    """``says`` are the words of the sentence, ``host`` shell that makes the host unfit and ``undo`` fit again, ``data``
    what the inventory says more, ``secrets`` what is done to a copy of a good secrets folder."""

    says: tuple[str, ...]
    host: str = ""
    undo: str = ""
    data: dict[str, object] = field(default_factory=dict)
    groups: tuple[str, ...] = ("redis", "app")
    user: str = "root"
    secrets: Callable[[Path], Path] = lambda folder: folder
    environment: dict[str, str] = field(default_factory=dict)
    clock: int = 0


def edited(change: Callable[[dict[str, object]], None]) -> Callable[[Path], Path]:
    """The secrets file with a change by hand."""

    def make(folder: Path) -> Path:
        file = folder / "secrets.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
        return folder

    return make


def foreign_key(document: dict[str, object]) -> None:
    leaves = document["leaves"]
    leaves[f"server@{NAME}"]["key"] = leaves[f"operator@{NAME}"]["key"]  # type: ignore[index]


def foreign_certificate(document: dict[str, object]) -> None:
    leaves = document["leaves"]
    mine, other = leaves[f"server@{NAME}"], leaves[f"operator@{NAME}"]  # type: ignore[index]
    mine["certificate"], mine["key"] = other["certificate"], other["key"]


def expired(document: dict[str, object]) -> None:
    """A certificate that has ended, in a record that says otherwise, as a badly restored backup could hold."""
    long_ago = datetime.now(UTC) - timedelta(days=100)
    authority = Authority.create("Redkeep CA of long ago", now=long_ago - timedelta(days=1))
    leaf = document["leaves"][f"server@{NAME}"]  # type: ignore[index]
    issued = authority.issue(leaf["names"], use="server", common_name=f"server@{NAME}", now=long_ago)
    leaf["certificate"], leaf["key"] = issued.cert_pem.decode(), issued.key_pem.decode()
    record = document["authorities"][0]  # type: ignore[index]
    record["certificate"], record["key"] = authority.cert_pem.decode(), authority.key_pem.decode()


def newline(document: dict[str, object]) -> None:
    value = "\n".join(["four plain words here", "REDIS_DEV_MODE=true"])
    document["passwords"]["cache_service"]["values"] = [value]  # type: ignore[index]


def chmod(name: str, mode: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).chmod(mode)
        return folder

    return make


def symlink(folder: Path) -> Path:
    link = folder.with_name("link")
    link.symlink_to(folder)
    return link


def linked_file(folder: Path) -> Path:
    (folder / "secrets.json").rename(folder.with_name("elsewhere.json"))
    (folder / "secrets.json").symlink_to(folder.with_name("elsewhere.json"))
    return folder


def sealed(folder: Path) -> Path:
    SecretStore.open(folder).seal(PASSPHRASE)
    return folder


def damaged(folder: Path) -> Path:
    (folder / "secrets.json").write_text("{")
    return folder


LOGIN = "useradd -m {0}; cp -r /root/.ssh /home/{0}/; chown -R {0}: /home/{0}/.ssh"
RELEASE = "cp -a /usr/lib/os-release /run/os-release.was; sed -i '{}' /usr/lib/os-release"
UNDO_RELEASE = "mv /run/os-release.was /usr/lib/os-release"
SQUAT = "systemd-run -q --unit=squatter python3 -m http.server 6380; sleep 1"

CASES = {
    # The host
    "not Debian": Case(("the system is fedora", "Debian 12 and later"), RELEASE.format("s/^ID=.*/ID=fedora/"), UNDO_RELEASE),
    "Debian 11": Case(("Debian 11", "upgrade the host"), RELEASE.format('s/^VERSION_ID=.*/VERSION_ID="11"/'), UNDO_RELEASE),
    "Valkey on Debian 12": Case(("Valkey comes with Debian 13",), data={"redis_engine": "valkey"}),
    "the port in use": Case(("6380 is in use by python3", "redis_tls_port"), SQUAT, "systemctl stop squatter"),
    "the API's port in use": Case(
        ("127.0.0.1:8765 is in use by python3", "api_port"),
        "systemd-run -q --unit=squatter python3 -m http.server --bind 127.0.0.1 8765; sleep 1",
        "systemctl stop squatter",
        data={"api_enabled": True},
    ),
    "too little memory": Case(("minimum_memory_mib (1048576)", "lower the knob"), data={"minimum_memory_mib": 1048576}),
    "maxmemory for the whole host": Case(("redis_maxmemory", "lower it"), data={"redis_maxmemory": "99%"}),
    "a clock behind": Case(("its clock is 24.0 hours behind", "set the clock"), clock=86400),
    "a clock ahead": Case(("its clock is 24.0 hours ahead", "set the clock"), clock=-86400),
    # The way to the host
    "no such port": Case(("Could not connect",), data={"ssh_port": 2}),
    "a foreign login key": Case(("Authentication error",), data={"ssh_key": "FOREIGN"}),
    "no sudo": Case(("cannot be read as root", "passwordless sudo"), LOGIN.format("plain"), "userdel -r plain", user="plain"),
    "sudo asks": Case(
        ("cannot be read as root", "passwordless sudo"),
        LOGIN.format("asks") + "; echo 'asks ALL=(ALL) ALL' > /etc/sudoers.d/asks",
        "userdel -r asks; rm /etc/sudoers.d/asks",
        user="asks",
    ),
    # The knobs
    "an unknown knob": Case(("There is no knob frobnicate", "group_data/all.py"), data={"frobnicate": 1}),
    "a misspelt knob": Case(("did you mean redis_maxmemory?",), data={"redis_maxmemroy": "50%"}),
    "a wrong type": Case(("The knob redis_tls_port must be a whole number",), data={"redis_tls_port": "6380"}),
    "a value out of range": Case(("The knob redis_tls_port must be between",), data={"redis_tls_port": 70000}),
    "a yes that is no truth": Case(("The knob firewall must be True or False",), data={"firewall": "yes"}),
    "nobody in group redis": Case(('no host in the group "redis"',), groups=("app",)),
    "a foreign address": Case(("does not have the address 192.0.2.7 of redis_bind",), data={"redis_bind": ["192.0.2.7"]}),
    "an address that resolves to nothing": Case(
        ("redis_address",), data={"redis_address": "nowhere.invalid", "allowed_clients": ["192.0.2.9"]}
    ),
    # The secrets
    "a newline in a password": Case(("the password of cache_service", "line break"), secrets=edited(newline)),
    "a key of another certificate": Case(("the certificate server@refuser", "key"), secrets=edited(foreign_key)),
    "a certificate of another": Case(("server@refuser",), secrets=edited(foreign_certificate)),
    "an expired certificate": Case(("server@refuser",), secrets=edited(expired)),
    "a loose folder": Case(("is open to others (mode 0755)", "chmod 700"), secrets=chmod(".", 0o755)),
    "a loose file": Case(("is open to others (mode 0644)", "chmod 600"), secrets=chmod("secrets.json", 0o644)),
    "a folder by a symlink": Case(("is a symlink", "name the folder itself"), secrets=symlink),
    "a file by a symlink": Case(("is a symlink", "replace it with the file itself"), secrets=linked_file),
    "sealed without passphrase": Case(("is sealed", "REDKEEP_PASSPHRASE_FILE"), secrets=sealed),
    "a wrong passphrase": Case(("passphrase",), secrets=sealed, environment={"REDKEEP_PASSPHRASE": "another four random words"}),
    "a passphrase for open secrets": Case(("is not sealed",), environment={"REDKEEP_PASSPHRASE": PASSPHRASE}),
    "damaged secrets": Case(("is not JSON", "restore it from a backup"), secrets=damaged),
}
SHORT = (
    "not Debian", "Debian 11", "the port in use", "too little memory", "a clock behind", "no such port", "a foreign login key",
    "no sudo", "sudo asks", "an unknown knob", "a misspelt knob", "a wrong type", "nobody in group redis", "a foreign address",
    "a newline in a password", "a key of another certificate", "an expired certificate", "a loose folder",
    "a folder by a symlink", "sealed without passphrase", "a wrong passphrase",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", list(CASES) if metafunc.config.getoption("--soak") else SHORT)


@pytest.fixture(scope="module")
def bare(single: Callable[..., Deployment], lab: Lab) -> Deployment:
    """A bare host, and a folder with good secrets and certificates for it."""
    deployment = single(NAME)
    SecretStore.open(deployment.secrets, create=True).encryption_keys()
    deployment.run("secure_redis", "--dry", yes=False).ok()
    return deployment


@pytest.fixture
def baseline(bare: Deployment, lab: Lab) -> list[str]:
    """The host's state, read anew only after a test that made the host unfit."""
    if not _baseline or _stale:
        _baseline[:] = untouched(lab[NAME])
        _stale.clear()
    return _baseline


_baseline: list[str] = []
_stale: list[str] = []


@contextmanager
def unfit(host: Host, case: Case) -> Iterator[None]:
    if case.host:
        _stale.append(case.host)
        host.check(case.host)
    try:
        yield
    finally:
        if case.undo:
            host.check(case.undo)


def refuse(deployment: Deployment, says: tuple[str, ...], **options: object) -> None:
    """Run the deploy, which must end with one sentence that has these words, and with nothing else."""
    run = deployment.run(**options)  # type: ignore[arg-type]
    assert run.code != 0, run.output
    assert "Traceback" not in run.output
    assert "exception" not in run.output.lower()
    sentences = [line for line in run.output.splitlines() if all(word in line for word in says)]
    assert len(sentences) == 1, run.output
    for name, record in _passwords(deployment.secrets):
        assert record not in run.output, name


def _passwords(folder: Path) -> list[tuple[str, str]]:
    try:
        document = json.loads((folder / "secrets.json").read_text())
        return [(user, part) for user, held in document["passwords"].items() for part in held["values"][0].splitlines()]
    except (OSError, ValueError, KeyError):
        return []


def test_a_refusal_is_one_sentence_and_changes_nothing(
    name: str, bare: Deployment, baseline: list[str], lab: Lab, tmp_path: Path
) -> None:
    """Exit code, the sentence once, no traceback, no secret; files, packages, units, groups and rules as before."""
    case, host = CASES[name], lab[NAME]
    shutil.copytree(bare.secrets, tmp_path / "secrets")
    data, environment = dict(case.data), dict(case.environment)
    if data.get("ssh_key") == "FOREIGN":
        data["ssh_key"] = str(_keypair(tmp_path / "foreign", "foreign"))
    if case.clock:
        (tmp_path / "clock").mkdir()
        (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK.format(seconds=case.clock))
        environment["PYTHONPATH"] = f"{tmp_path / 'clock'}:{os.environ.get('PYTHONPATH', '')}"
    inventory = write_inventory(
        tmp_path / "hosts.py",
        {group: [host] for group in case.groups},
        user=case.user,
        data={NAME: {"package_source": "wheelhouse"} | data},
    )
    deployment = Deployment(inventory, case.secrets(tmp_path / "secrets"))
    with unfit(host, case):
        before = untouched(host) if case.host else baseline
        refuse(deployment, case.says, environment=environment)
        assert untouched(host) == before


def invented(path: Path, groups: dict[str, list[str]], host: Host, **data: object) -> Path:
    """An inventory in which several names stand for one host."""
    entry = ssh_data(host) | {"package_source": "wheelhouse"}
    lines = [
        f"{group} = {[(name, entry | data if name == 'web' else entry) for name in names]!r}\n" for group, names in groups.items()
    ]
    path.write_text("".join(lines))
    return path


def test_an_app_host_without_an_address(bare: Deployment, lab: Lab, tmp_path: Path) -> None:
    """An app host whose address nobody knows cannot be let through a firewall: the sentence names it and the knob."""
    host = lab[NAME]
    hosts = invented(tmp_path / "hosts.py", {"redis": [NAME], "app": ["web"]}, host, app_address="nowhere.invalid")
    before = untouched(host)
    refuse(replace(bare, inventory=hosts), ("The app host web has no address", "set its app_address"))
    assert untouched(host) == before


def test_an_app_host_with_two_servers_to_choose_from(bare: Deployment, lab: Lab, tmp_path: Path) -> None:
    """With two Redis hosts an app elsewhere must name its own: the sentence names host and knob."""
    host = lab[NAME]
    hosts = invented(tmp_path / "hosts.py", {"redis": [NAME, "second"], "app": ["web"]}, host)
    before = untouched(host)
    refuse(replace(bare, inventory=hosts), ("The app host web could use any of 2 Redis hosts", "redis_address"))
    assert untouched(host) == before
