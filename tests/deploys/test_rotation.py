"""Every secret exchanged on running hosts: clients lose nothing, the old opens nothing afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploys.credentials import USERS
from redkeep.crypto.store import SecretStore
from tests.deploys.clients import COMMAND_LINE, STALE, answers, app, opens, running
from tests.deploys.conftest import KINDS
from tests.deploys.contents import files
from tests.deploys.contents import run as run_with
from tests.deploys.crash import Kill, run_and_kill
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host, Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab

CLI = "/usr/local/sbin/redkeep-cli"


def shows(host: Host, ca: bytes, cert: bytes, key: bytes) -> str:
    """What the server answers to a PING before a login by whoever shows this certificate and trusts this CA."""
    host.check("install -d -m 0700 /run/old")
    for name, content in (("ca", ca), ("crt", cert), ("key", key)):
        host.put(f"/run/old/{name}", content.decode())
    answer = host.run(f"{COMMAND_LINE} --tls --cacert /run/old/ca --cert /run/old/crt --key /run/old/key -p 6380 PING 2>&1")
    host.check("rm -rf /run/old")
    return answer.out


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
    for one that comes back with the old, putting it back; a deploy in between keeps both; then it ends, certificates, CA and encryption
    key follow, and the app has lost no operation, no old password, certificate or key opens anything, every answer from before
    is still one, in the other host's namespace, too, and the server is the same process."""
    names = [*dict.fromkeys([KINDS[kind]["groups"]["redis"][0], *KINDS[kind]["groups"]["app"]])]  # type: ignore[index]
    server = lab[names[0]]
    store = SecretStore.open(deployment.secrets)
    old = {user: store.password(user) for user in USERS}
    keys = store.encryption_keys()
    engine = "valkey" if kind.startswith("valkey") else "redis"
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
                assert "a rotation of passwords is unfinished" in again.output
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

        shown = server.check(f"ls -l /etc/{engine}/tls")
        deployment.run(*rotate(deployment, "certificates")).ok()
        renewed = SecretStore.open(deployment.secrets)
        assert renewed.trust_bundle() == ca
        assert not {leaf.cert_pem for leaf in renewed.leaves().values()} & {leaf.cert_pem for leaf in store.leaves().values()}
        assert server.check(f"ls -l /etc/{engine}/tls") != shown

        deployment.run(*rotate(deployment, "ca")).ok()
        fresh = SecretStore.open(deployment.secrets)
        assert ca not in fresh.trust_bundle()
        assert "NOAUTH" not in shows(server, fresh.trust_bundle(), leaf.cert_pem, leaf.key_pem)
        current = fresh.leaves()[f"cache_service@{server.name}"]
        assert "NOAUTH" not in shows(server, ca, current.cert_pem, current.key_pem)
        assert "NOAUTH" in shows(server, fresh.trust_bundle(), current.cert_pem, current.key_pem)

        for name in names:
            answers(lab[name], "write")
        sealed = deployment.run(*rotate(deployment, "encryption-key")).ok()
        assert f"no entry on {server.name} needs an old key" in sealed.output
        assert not set(SecretStore.open(deployment.secrets).encryption_keys()) & set(keys)
        assert [answers(lab[name], "read") for name in names] == ["200"] * len(names)
    assert seen.wrong == []
    assert sum(seen.errors.values()) - seen.errors["server_unavailable"] == 0, seen.errors
    assert seen.operations > 100
    assert pid(server) == before
    assert deployment.run("status").ok().drift == {}
    print(f"{kind}: {seen.operations} operations, 0 lost, the slowest pair {seen.slowest:.2f} s")


PAIRS = ("pair12", "pair13")


@pytest.fixture
def pairs(lab: Lab, tmp_path: Path) -> Iterator[Deployment]:
    """Two hosts of one inventory, each with a Redis and an app of its own."""
    lab.ensure([Spec(PAIRS[0]), Spec(PAIRS[1], "trixie")])
    members = [lab[name] for name in PAIRS]
    knobs = {name: {"package_source": "wheelhouse"} for name in PAIRS}
    path = write_inventory(tmp_path / "pairs.py", {"redis": members, "app": members}, data=knobs)
    made = Deployment(path, tmp_path / "secrets")
    made.run().ok()
    yield made
    for name in PAIRS:
        lab.remove(name)


@pytest.mark.soak
def test_every_pair_keeps_its_entries(pairs: Deployment, lab: Lab) -> None:
    """Each app reaches its Redis at 127.0.0.1: after a rotation of the encryption key both read all they had, from one new key.
    A run that leaves one of them out is refused before it changes anything; a restore of one is not."""
    hosts = [lab[name] for name in PAIRS]
    for host in hosts:
        answers(host, "write")
    (old,) = SecretStore.open(pairs.secrets).encryption_keys()
    refused = pairs.run(*rotate(pairs, "encryption-key"), "--limit", PAIRS[0])
    assert refused.code != 0
    assert f"this run leaves out {PAIRS[1]}: run it without --limit and --exclude." in refused.output
    assert SecretStore.open(pairs.secrets).encryption_keys() == (old,)

    sealed = pairs.run(*rotate(pairs, "encryption-key")).ok()
    assert sealed.output.count("200 had an older key") == 2
    (new,) = SecretStore.open(pairs.secrets).encryption_keys()
    assert new != old
    assert [answers(host, "read") for host in hosts] == ["200", "200"]
    assert pairs.run("status").ok().drift == {}

    folder = pairs.inventory.parent / "backups"
    run_with(pairs, "backup", folder).ok()
    backup = next(path for path in files(folder) if path.name.startswith(PAIRS[0]))
    assert "name one with --limit" in run_with(pairs, "restore", folder, file=backup).output
    limited = pairs.run("restore", "--data", f"file={backup}", "--data", f"backups_folder={folder}", "--limit", PAIRS[0]).ok()
    assert f"{backup.name} is restored" in limited.output
    assert [answers(host, "read") for host in hosts] == ["200", "200"]


# Not the last one, "Delete the old secret": it is over in a moment, and then the same command is another rotation.
STEPS = (
    "Create the new secret beside the old",
    "Accept new passwords",
    "Give root on the host the operator's login",
    "Write the configuration and the users",
    "Apply the users to the running server",
    "Write the app's credentials",
    "Refuse while connected clients cannot know the new secret",
    "Accept only the new secret",
    "End the sessions that used the old secret",
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
        ({}, "Say what to rotate: --data what=passwords|certificates|ca|encryption-key|api-key (what is missing)."),
        ({"what": "passwords", "users": "nobody"}, "There is no user nobody"),
        ({"what": "ca", "users": "monitor"}, "users is only for what=passwords"),
        ({"what": "api-key"}, "There is no API key yet: a deploy with the knob api_enabled creates it."),
        ({"what": "api-key", "quiet": "soon"}, "quiet=soon is not a number of minutes"),
        ({"what": "ca", "quiet": "5"}, "quiet is only for what=api-key"),
        ({"what": "ca", "force": "maybe"}, "force=maybe must be yes or no."),
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
