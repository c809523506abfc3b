"""A rotation's steps in the secrets: each once, in any order of deaths, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.state import StateStage

from deploys import sessions
from deploys.bundle import Bundle, build
from deploys.credentials import USERS, Credentials, label
from deploys.difference import Difference
from deploys.operations import converge
from deploys.rotation import Rotation, choose
from deploys.stages import rotating
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError
from redkeep.migration.readiness import Session
from tests.unit.wanted import FakeSite, bundle, data, survey


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    made = SecretStore.open(tmp_path / "secrets", create=True)
    with made.transaction():
        for user in USERS:
            made.password(user)
        for name in ("server@r1", "cache_service@r1", "server@r2"):
            made.leaf(name, ["r.internal"], use="server")
    return made


def again(store: SecretStore) -> SecretStore:
    return SecretStore.open(store.path)


def rotation(store: SecretStore, **data: str) -> Rotation:
    return choose(data, store.path)


def test_passwords_are_two_and_then_one(store: SecretStore) -> None:
    """The new is first, the old stays until the end; a second run goes on with what the first began; others are left alone."""
    old = store.password("monitor")
    run = rotation(store, what="passwords", users="monitor")
    run.begin(frozenset())
    begun = again(store)
    assert begun.password_hashes("monitor") == (begun.password_hashes("monitor")[0], store.password_hashes("monitor")[0])
    assert begun.password("monitor") != old
    assert len(begun.password_hashes("operator")) == 1
    second = rotation(store, what="passwords")
    assert second.users == ("monitor",)
    second.begin(frozenset())
    assert again(store).password_hashes("monitor") == begun.password_hashes("monitor")
    second.finish()
    assert again(store).password_hashes("monitor") == begun.password_hashes("monitor")[:1]


@pytest.mark.parametrize("what", ["passwords", "ca", "encryption-key", "certificates"])
def test_who_ends_what_an_earlier_run_began_is_told(store: SecretStore, what: str) -> None:
    """The new secret may have leaked since: a run that only ends its rotation says so. Certificates are new with every run."""
    with store.transaction():
        store.encryption_keys()
    first, second = rotation(store, what=what), rotation(store, what=what)
    for run in (first, second):
        run.begin(frozenset({"r1"}))
    assert "run the same command once more" not in first.done()
    assert ("run the same command once more" in second.done()) is (what != "certificates")


def test_no_host_goes_on_before_the_step_is_taken(store: SecretStore) -> None:
    """While another process has the secrets, every host of the run waits, not only the one that takes the step."""
    run = rotation(store, what="passwords", users="monitor")
    hosts = [Thread(target=run.begin, args=(frozenset(),)) for _ in range(3)]
    with SecretStore.open(store.path).transaction():
        for host in hosts:
            host.start()
        hosts[0].join(0.3)
        assert [host.is_alive() for host in hosts] == [True] * 3
    for host in hosts:
        host.join(10)
    assert len(again(store).password_hashes("monitor")) == 2


def test_an_open_rotation_is_ended_before_another(store: SecretStore) -> None:
    """Users that are not part of it are refused, by name."""
    rotation(store, what="passwords", users="monitor").begin(frozenset())
    with pytest.raises(ConfigurationError, match=r"A rotation of monitor is unfinished: finish it first.*then rotate backup"):
        rotation(store, what="passwords", users="monitor,backup")


def test_certificates_of_these_hosts_are_issued_again(store: SecretStore) -> None:
    """And of no other host."""
    before = {name: leaf.cert_pem for name, leaf in store.leaves().items()}
    rotation(store, what="certificates").begin(frozenset({"r1"}))
    after = {name: leaf.cert_pem for name, leaf in again(store).leaves().items()}
    assert {name for name in after if after[name] != before[name]} == {"server@r1", "cache_service@r1"}


def test_a_ca_is_beside_the_old_then_issues_then_is_alone(store: SecretStore) -> None:
    """Each step twice, as after a death: no third authority, no leaf issued twice."""
    old = store.trust_bundle()
    for _ in range(2):
        rotation(store, what="ca").begin(frozenset())
    both = again(store)
    assert both.trust_bundle().endswith(old)
    assert both.trust_bundle().count(b"BEGIN") == 2
    assert len(both.old_leaves()) == 3
    rotation(store, what="ca").advance()
    issued = again(store)
    assert issued.old_leaves() == ()
    rotation(store, what="ca").advance()
    assert again(store).leaves() == issued.leaves()
    rotation(store, what="ca").finish()
    assert again(store).trust_bundle() + old == both.trust_bundle()


def test_a_key_opens_then_seals_then_is_alone(store: SecretStore) -> None:
    """Each step twice, as after a death: no third key, and the old one is not forgotten before the new one seals."""
    (old,) = store.encryption_keys()
    for _ in range(2):
        rotation(store, what="encryption-key").begin(frozenset())
    first, second = again(store).encryption_keys()
    assert first == old
    assert "make a new" not in rotation(store, what="encryption-key").plan()
    for _ in range(2):
        rotation(store, what="encryption-key").begin(frozenset())
        rotation(store, what="encryption-key").advance()
    assert again(store).encryption_keys() == (second, old)
    assert "finish it with deploys/rotate.py --data what=encryption-key" in Credentials(again(store), 30).open_rotations()[0]
    assert Credentials(again(store), 30).newest_key().encryption_keys == (second,)
    rotation(store, what="encryption-key").finish()
    assert again(store).encryption_keys() == (second,)


PAIR = ("redis", "app")


def hosts(*wanted: tuple[str, tuple[str, ...], dict[str, Any]]) -> list[Bundle]:
    """The hosts (name, groups, data) of an inventory that have an app, in its order."""
    made = build([(name, frozenset(groups), data(**more)) for name, groups, more in wanted])
    return [bundle for bundle in made.values() if bundle.is_app]


@pytest.mark.parametrize("runtime", ["native", "docker"])
def test_each_pair_seals_its_own_entries(store: SecretStore, runtime: str) -> None:
    """Two hosts with a Redis and an app each, which both apps reach at 127.0.0.1: neither is passed over, neither uncounted."""
    pairs = hosts(*((name, PAIR, {"redis_runtime": runtime}) for name in ("10.0.0.1", "10.0.0.2")))
    assert [app.redis_address for app in pairs] == ["127.0.0.1"] * 2
    run = rotation(store, what="encryption-key")
    assert [(run.reseals(app), run.counts(app)) for app in pairs] == [(True, True)] * 2


def test_each_namespace_of_a_redis_is_sealed_by_one_app_host(store: SecretStore) -> None:
    """Of three app hosts, two share a namespace: the first of each namespace seals, as often as it asks, and one counts them all."""
    apps = hosts(
        ("10.0.0.1", PAIR, {}),
        ("10.0.0.2", ("app",), {"cache_namespace": "tenant"}),
        ("10.0.0.3", ("app",), {"cache_namespace": "tenant"}),
        ("10.0.0.4", ("app",), {}),
    )
    run = rotation(store, what="encryption-key")
    for _ in range(2):
        assert [run.reseals(app) for app in apps] == [True, True, False, False]
        assert [run.counts(app) for app in apps] == [True, False, False, False]


def test_one_at_a_time_works_on_a_redis(store: SecretStore) -> None:
    """Two namespaces of one Redis wait for each other, another Redis does not wait for them."""
    run, seen = rotation(store, what="encryption-key"), []

    def work(server: str) -> None:
        with run.alone_on(server):
            seen.append(server)

    with run.alone_on("r1"):
        threads = [Thread(target=work, args=(server,)) for server in ("r1", "r2")]
        for thread in threads:
            thread.start()
        threads[1].join()
        assert seen == ["r2"]
    threads[0].join()
    assert seen == ["r2", "r1"]


def test_a_redis_knows_its_app_hosts() -> None:
    """Those that use it, its own among them; a Redis that only hosts outside the inventory use has none."""
    made = build(
        [
            ("10.0.0.1", frozenset(PAIR), data()),
            ("10.0.0.2", frozenset({"redis"}), data(allowed_clients=["10.9.0.1"])),
            ("10.0.0.3", frozenset({"app"}), data(redis_address="10.0.0.1")),
        ]
    )
    assert [made[name].apps for name in made] == [("10.0.0.1", "10.0.0.3"), (), ()]


@pytest.mark.parametrize(
    ("what", "left_out", "together", "sentence"),
    [
        ("encryption-key", ["r2"], True, "the old one stops working afterwards, but this run leaves out r2:"),
        ("passwords", ["r2"], True, "All hosts share the password"),
        ("ca", [], False, "run it without --serial, --no-wait and --fail-percent."),
        ("encryption-key", [], True, ""),
        ("certificates", ["r2"], False, ""),
    ],
)
def test_a_run_without_all_hosts_takes_nothing_away(
    store: SecretStore, what: str, left_out: list[str], together: bool, sentence: str
) -> None:
    """With --limit or --serial, hosts would still need what the run forgets. Certificates expire, nothing takes them away."""
    said = rotation(store, what=what).refusal(concerned=["r1", "r2"], left_out=left_out, together=together)
    assert sentence in said
    assert bool(sentence) == bool(said)


def test_one_host_takes_its_steps_in_any_way(store: SecretStore) -> None:
    """Alone in its inventory it waits for nobody."""
    assert rotation(store, what="ca").refusal(concerned=["r1"], left_out=[], together=False) == ""


def test_what_was_given_up_is_not_called_sealed(store: SecretStore) -> None:
    """With force=yes entries may be left behind: the last sentence says so."""
    assert "every entry is encrypted with it" in rotation(store, what="encryption-key").done()
    assert "given up" in (said := rotation(store, what="encryption-key", force="yes").done())
    assert "every entry" not in said


def test_certificates_of_a_long_name_are_issued_again(store: SecretStore) -> None:
    """X.509 allows 64 characters, so that the store has a shortened name for them."""
    host = "ec2-203-0-113-125.ap-southeast-1.compute.amazonaws.com"
    name = label("cache_service", host)
    assert host not in name
    before = store.leaf(name, ["r.internal"], use="client").cert_pem
    rotation(store, what="certificates").begin(frozenset({host}))
    assert again(store).leaves()[name].cert_pem != before


def test_a_step_is_taken_once_a_run(store: SecretStore) -> None:
    """However many hosts there are."""
    run = rotation(store, what="certificates")
    run.begin(frozenset({"r1"}))
    first = again(store).leaves()
    run.begin(frozenset({"r1"}))
    assert again(store).leaves() == first


def test_an_open_rotation_is_said_and_can_be_narrowed(store: SecretStore) -> None:
    """Every verb names what is open; credentials without the old exist beside those in the secrets."""
    assert Credentials(store, 30).open_rotations() == ()
    rotation(store, what="passwords", users="monitor").begin(frozenset())
    rotation(store, what="ca").begin(frozenset())
    found = Credentials(again(store), 30)
    passwords, authority = found.open_rotations()
    assert "for monitor" in passwords
    assert "finish it with deploys/rotate.py --data what=ca" in authority
    assert [len(found.hashes["monitor"]), len(found.newest_passwords().hashes["monitor"])] == [2, 1]
    assert found.newest_passwords().trust_bundle == found.trust_bundle
    assert found.newest_authority().trust_bundle + store.trust_bundle() == found.trust_bundle
    assert found.newest_authority().hashes == found.hashes


def test_plans_say_what_is_open(store: SecretStore) -> None:
    """A dry run tells a new rotation from one that goes on."""
    assert rotation(store, what="ca").plan().startswith("make a new CA")
    rotation(store, what="ca").begin(frozenset())
    assert rotation(store, what="ca").plan().startswith("continue with")
    assert "force=yes" in rotation(store, what="passwords", force="yes").plan()


def test_no_name_saves_a_session() -> None:
    """A stolen password may call itself as our survey does, or follow the server as a replica: it is among what ends."""
    line = "id={} addr=10.0.0.9:4{} laddr=10.0.0.2:6380 name={} age=90 idle=0 flags={} user={}"
    listed = [
        line.format(4, 4, "redkeep-survey", "N", "cache_service"),
        line.format(5, 5, "", "S", "replica"),
        line.format(6, 6, "", "N", "monitor"),
        line.format(7, 7, "", "N", "operator"),
    ]
    site = FakeSite(bundle(), answer=(True, ["7", *listed], []))
    found = sessions.connected(site, ("cache_service", "replica", "operator"))  # type: ignore[arg-type]
    assert [session.number for session in found] == [4, 5]


def test_a_deploy_does_not_undo_a_rotation_that_went_on_beside_it(store: SecretStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change to passwords, keys and authorities stops a run that still has the old; a new certificate or API key does not."""
    site: Any = FakeSite(bundle(), seen=survey())
    site.secrets, site.dress, site.sudo = store.path, None, False
    site.say = site.changed = lambda *_: None
    monkeypatch.setattr(converge, "state", SimpleNamespace(current_stage=StateStage.Execute))

    def run() -> list[str]:
        return [str(command) for command in converge.mend._inner(site, lambda *_: [Difference("a thing", "mend it")])]

    site.credentials = Credentials(again(store), 30)
    site.credentials.api_key()
    again(store).leaf("server@r3", ["r3.internal"], use="server")
    assert ["mend it" in command for command in run()] == [True]
    for what in ("passwords", "encryption-key", "ca", "api-key"):
        for step in ("begin", "finish"):
            before = Credentials(again(store), 30)
            narrowed = before.newest_passwords().newest_authority().newest_key()
            going = rotation(store, what=what)
            going.begin(frozenset()) if step == "begin" else going.finish()
            for opened in (before, narrowed):
                site.credentials = opened
                (said,) = run()
                assert ("was changed by another run" in said, "mend it" in said) == (True, False), (what, step)


def test_a_session_that_is_over_at_a_second_look_holds_nothing_up() -> None:
    """A probe of the monitoring lives for a moment; a client that cannot know the new password is still there."""

    def session(number: int) -> Session:
        return Session(number, "10.0.0.7:4000", 6380, "", "monitor", 65, 0, "")

    looks = [[session(1), session(2)], [session(2), session(3)]]
    assert [each.number for each in sessions.lasting(lambda: looks.pop(0), seconds=0)] == [2]
    assert sessions.lasting(list, seconds=60) == ()


@pytest.mark.parametrize(
    ("user", "name", "age", "in_container", "waits"),
    [
        ("monitor", "", 3, True, False),
        ("monitor", "", 3, False, True),
        ("monitor", "", 60, True, True),
        ("cache_service", "", 3, True, True),
        ("cache_service", "", 0, True, False),
        ("cache_service", "redkeep", 60, True, False),
    ],
    ids=["the API's new container", "no container", "before the new password", "another app", "since", "one that follows"],
)
def test_who_logged_in_too_early_to_know(store: SecretStore, user: str, name: str, age: int, in_container: bool, waits: bool) -> None:
    """Ten seconds ago the new password was made, two seconds ago the app had it."""
    run = rotation(store, what="passwords")
    run.begun_at, run.switched = 90.0, {"h1": 98.0}
    found = [Session(1, "10.0.0.7:4000", 6380, name, user, age, 0, "")]
    assert bool(rotating.unaware(found, run, in_container=in_container, now=100.0)) is waits
