"""A rotation's steps in the secrets: each once, in any order of deaths, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploys.credentials import USERS, Credentials
from deploys.rotation import Rotation, choose
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError


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


def test_an_open_rotation_is_ended_before_another(store: SecretStore) -> None:
    """Users that are not part of it are refused, by name."""
    rotation(store, what="passwords", users="monitor").begin(frozenset())
    with pytest.raises(ConfigurationError, match=r"A rotation of monitor is open: end it first.*then rotate backup"):
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
    assert "old open" not in rotation(store, what="encryption-key").plan()
    for _ in range(2):
        rotation(store, what="encryption-key").begin(frozenset())
        rotation(store, what="encryption-key").advance()
    assert again(store).encryption_keys() == (second, old)
    assert "what=encryption-key ends it" in Credentials(again(store), 30).open_rotations()[0]
    assert Credentials(again(store), 30).newest_key().encryption_keys == (second,)
    rotation(store, what="encryption-key").finish()
    assert again(store).encryption_keys() == (second,)


def test_one_app_host_seals_the_entries_of_a_redis(store: SecretStore) -> None:
    """The first of a run that asks; each Redis has its own."""
    run = rotation(store, what="encryption-key")
    asked = [("app1", "r1"), ("app2", "r1"), ("app3", "r2"), ("app1", "r1")]
    assert [run.reseals(*who) for who in asked] == [True, False, True, True]


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
    assert "what=ca ends it" in authority
    assert [len(found.hashes["monitor"]), len(found.newest_passwords().hashes["monitor"])] == [2, 1]
    assert found.newest_passwords().trust_bundle == found.trust_bundle
    assert found.newest_authority().trust_bundle + store.trust_bundle() == found.trust_bundle
    assert found.newest_authority().hashes == found.hashes


def test_plans_say_what_is_open(store: SecretStore) -> None:
    """A dry run tells a new rotation from one that goes on."""
    assert rotation(store, what="ca").plan().startswith("make a new authority")
    rotation(store, what="ca").begin(frozenset())
    assert rotation(store, what="ca").plan().startswith("go on with")
    assert "force=yes" in rotation(store, what="passwords", force="yes").plan()
