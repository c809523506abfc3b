"""From the inventory to what each host shall be: roles, addresses, and who may connect."""

from __future__ import annotations

from typing import Any

import pytest

from deploys import bundle as subject
from deploys.bundle import Bundle, build
from redkeep.errors import ConfigurationError
from tests.unit.wanted import data

NAMES = {"redis-1": "10.0.0.5", "redis-2": "10.0.0.6", "app-1": "10.0.1.1", "app-2": "10.0.1.2", "two": "10.0.9.1 10.0.9.2"}


@pytest.fixture(autouse=True)
def known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of these tests, without asking a resolver."""

    def lookup(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in NAMES:
            raise OSError
        return [(0, 0, 0, "", (address, 0)) for address in NAMES[name].split()]

    monkeypatch.setattr(subject.socket, "getaddrinfo", lookup)


def hosts(*wanted: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> dict[str, Bundle]:
    """Bundles for (name, groups in words, data of the host)."""
    return build([(name, frozenset(groups.split()), data(**dict(*more))) for name, groups, *more in wanted])


def refusal(*wanted: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        hosts(*wanted)
    return str(caught.value)


def test_one_machine_stays_on_the_loopback_address() -> None:
    """@local with both roles: nothing listens beyond loopback and nobody is let in."""
    made = hosts(("@local", "redis app"))["@local"]
    assert (True, True, True) == (made.is_redis, made.is_app, made.is_local)
    assert ("127.0.0.1", "127.0.0.1", (), False) == (
        made.redis_address,
        made.app_redis_address,
        made.client_addresses,
        made.listens_beyond_loopback,
    )
    assert ("127.0.0.1", "::1") == made.bind_addresses(("127.0.0.1", "::1", "10.0.0.5"))


def test_an_app_tracks_where_its_redis_lets_it() -> None:
    """cache_tracking for the app alone is refused with both names; for both, or for the Redis alone, it is taken."""
    on = {"cache_tracking": True}
    said = refusal(("redis-1", "redis"), ("app-1", "app", on))
    assert said == "The app host app-1 has the knob cache_tracking, but the Redis host redis-1 does not: set it for both."
    assert hosts(("redis-1", "redis", on), ("app-1", "app", on))["app-1"].knobs.cache_tracking
    assert not hosts(("redis-1", "redis", on), ("app-1", "app"))["app-1"].knobs.cache_tracking


def test_a_host_without_ipv6_listens_on_ipv4_alone() -> None:
    """::1 is bound only where it exists."""
    assert hosts(("@local", "redis"))["@local"].bind_addresses(("127.0.0.1",)) == ("127.0.0.1",)


def test_app_hosts_are_let_in_and_told_the_address() -> None:
    """One Redis serves every app host: it listens on its own address and lets in theirs, and only theirs."""
    made = hosts(("redis-1", "redis"), ("app-1", "app"), ("app-2", "app"))
    assert (("10.0.1.1", "10.0.1.2"), True) == (made["redis-1"].client_addresses, made["redis-1"].listens_beyond_loopback)
    assert ("127.0.0.1", "::1", "10.0.0.5") == made["redis-1"].bind_addresses(("127.0.0.1", "::1", "10.0.0.5", "172.17.0.1"))
    assert ["redis-1", "redis-1"] == [made[name].app_redis_address for name in ("app-1", "app-2")]
    assert () == made["app-1"].client_addresses


def test_every_address_of_an_app_host_is_let_in() -> None:
    """A name with several addresses counts with all of them."""
    assert hosts(("redis-1", "redis"), ("two", "app"))["redis-1"].client_addresses == ("10.0.9.1", "10.0.9.2")


def test_a_host_in_both_groups_uses_its_own_redis_over_loopback() -> None:
    """The app beside the Redis needs no network, the one elsewhere does."""
    made = hosts(("redis-1", "redis app"), ("app-1", "app"))
    assert ("127.0.0.1", "redis-1") == (made["redis-1"].app_redis_address, made["app-1"].app_redis_address)
    assert ("10.0.1.1",) == made["redis-1"].client_addresses


def test_the_ssh_address_counts_where_the_name_is_an_alias() -> None:
    """ssh_hostname is where others reach the host, its name in the inventory may be anything."""
    made = hosts(("alias", "redis", {"ssh_hostname": "redis-1"}), ("app", "app", {"ssh_hostname": "10.0.1.9"}))
    assert ("redis-1", ("10.0.1.9",)) == (made["app"].app_redis_address, made["alias"].client_addresses)


def test_redis_address_and_app_address_say_otherwise() -> None:
    """Both knobs win over the inventory's names."""
    made = hosts(("redis-1", "redis", {"redis_address": "redis-2"}), ("app-1", "app", {"app_address": "10.7.7.7"}))
    assert ("redis-2", ("10.7.7.7",)) == (made["app-1"].app_redis_address, made["redis-1"].client_addresses)


def test_several_redis_hosts_are_independent() -> None:
    """Each serves the app on its own machine, and nobody else."""
    made = hosts(("redis-1", "redis app"), ("redis-2", "redis app"))
    assert [((), False, "127.0.0.1")] * 2 == [
        (m.client_addresses, m.listens_beyond_loopback, m.app_redis_address) for m in made.values()
    ]


def test_an_app_host_names_its_redis_among_several() -> None:
    """The named one lets it in and listens for it; the other does not."""
    made = hosts(("redis-1", "redis"), ("redis-2", "redis"), ("app-1", "app", {"redis_address": "redis-2"}))
    assert ((), ("10.0.1.1",)) == (made["redis-1"].client_addresses, made["redis-2"].client_addresses)
    assert (False, True) == (made["redis-1"].listens_beyond_loopback, made["redis-2"].listens_beyond_loopback)
    assert "redis-2" == made["app-1"].app_redis_address


def test_an_app_host_that_could_use_several_must_say_which() -> None:
    """No Redis is chosen silently."""
    sentence = refusal(("redis-1", "redis"), ("redis-2", "redis"), ("app-1", "app"))
    assert sentence == "The app host app-1 could use any of 2 Redis hosts: set its redis_address in the inventory."


def test_an_inventory_needs_a_redis_host() -> None:
    """The error shows how to write one."""
    assert 'redis = ["your-host"]' in refusal(("app-1", "app"))


def test_a_wrong_knob_names_the_host() -> None:
    """With many hosts, the error says whose data is wrong."""
    assert refusal(("redis-1", "redis"), ("app-1", "app", {"redis_tls_port": 0})).endswith("(host app-1)")


def test_an_app_host_without_an_address_is_an_error() -> None:
    """An allow-list with a gap is not made."""
    assert "set its app_address" in refusal(("redis-1", "redis"), ("@local", "app"))


@pytest.mark.parametrize("name", ["@local", "@docker/redis", "bad name", "a\nb", "fe80::1%$(id)"])
def test_a_redis_that_others_cannot_address_is_an_error(name: str) -> None:
    """A name that is no address never reaches a certificate, a URL or a shell."""
    assert "set its redis_address" in refusal((name, "redis"), ("app-1", "app"))


def test_allowed_clients_make_redis_listen_on_its_address() -> None:
    """Clients that are allowed can also connect: loopback alone would keep them out."""
    made = hosts(("redis-1", "redis app", {"allowed_clients": ["10.9.0.0/16"]}))["redis-1"]
    assert ("127.0.0.1", "10.0.0.5") == made.bind_addresses(("127.0.0.1", "10.0.0.5"))
    assert (True, ("10.9.0.0/16",)) == (made.listens_beyond_loopback, made.client_addresses)


def test_allowed_clients_of_this_machine_need_an_address() -> None:
    """@local has no address that others know."""
    assert "set its redis_address" in refusal(("@local", "redis app", {"allowed_clients": ["10.9.0.0/16"]}))
    made = hosts(("@local", "redis app", {"allowed_clients": ["10.9.0.0/16"], "redis_bind": ["10.0.0.5"]}))["@local"]
    assert ("10.0.0.5",) == made.bind_addresses(("127.0.0.1", "10.0.0.5"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [("10.0.0.0/255.0.0.0", "10.0.0.0/8"), ("10.0.0.5/32", "10.0.0.5"), ("2001:DB8::/32", "2001:db8::/32"), ("::1", "::1")],
)
def test_a_client_has_one_spelling(written: str, expected: str) -> None:
    """nftables and systemd read the same text: systemd ignores a network written with a mask."""
    made = hosts(("redis-1", "redis", {"allowed_clients": [written]}))["redis-1"]
    assert (expected,) == made.client_addresses


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (["10.0.0.5"], "10.0.0.5"),
        (["10.0.0.5", "127.0.0.1"], "127.0.0.1"),
        (["0.0.0.0"], "127.0.0.1"),
        (["::1"], "::1"),
        (["::"], "localhost"),
    ],
)
def test_the_app_beside_redis_goes_where_redis_listens(bind: list[str], expected: str) -> None:
    """With redis_bind of its own choice, the app on the same host does not knock at a closed loopback port."""
    assert expected == hosts(("@local", "redis app", {"redis_bind": bind}))["@local"].app_redis_address


@pytest.mark.parametrize(("bind", "beyond"), [(["127.0.0.1"], False), (["::1"], False), (["0.0.0.0"], True), (["10.0.0.5"], True)])
def test_a_bind_address_decides_whether_redis_listens_beyond(bind: list[str], beyond: bool) -> None:
    """The firewall is made when, and only when, a packet from elsewhere can arrive."""
    assert beyond == hosts(("@local", "redis", {"redis_bind": bind}))["@local"].listens_beyond_loopback


def test_an_address_that_the_host_lacks_is_an_error() -> None:
    """The error lists those it has."""
    made = hosts(("@local", "redis", {"redis_bind": ["10.0.0.99"]}))["@local"]
    with pytest.raises(ConfigurationError, match=r"does not have the address 10\.0\.0\.99 .* 127\.0\.0\.1, 10\.0\.0\.5"):
        made.bind_addresses(("127.0.0.1", "10.0.0.5"))


@pytest.mark.parametrize(("name", "shown"), [("redis-1", "10.0.0.5"), ("unknown", "none")])
def test_a_host_behind_another_address_is_an_error(name: str, shown: str) -> None:
    """Where the host has no address its name resolves to (NAT, a stale name), redis_bind must say what to do."""
    made = hosts(("r", "redis", {"ssh_hostname": name}), ("app-1", "app"))["r"]
    with pytest.raises(ConfigurationError, match=rf"resolves to \({shown}\): set redis_bind"):
        made.bind_addresses(("127.0.0.1", "192.168.7.7"))


def test_all_addresses_at_once_are_accepted() -> None:
    """0.0.0.0 and :: belong to every host."""
    made = hosts(("@local", "redis", {"redis_bind": ["0.0.0.0", "::"]}))["@local"]
    assert ("0.0.0.0", "::") == made.bind_addresses(("127.0.0.1",))


def test_a_host_in_no_group_has_no_part() -> None:
    """It is neither server nor app, and lets nobody in."""
    made = hosts(("@local", "redis app"), ("other", "web"))["other"]
    assert (False, False, ()) == (made.is_redis, made.is_app, made.client_addresses)


def test_the_engine_follows_the_knob() -> None:
    """Names and paths of Valkey are Valkey's own."""
    made = hosts(("@local", "redis", {"redis_engine": "valkey"}))["@local"].engine
    assert ("valkey-server", "/etc/valkey/valkey.conf", "/usr/bin/valkey-cli") == (made.package, made.config, made.cli)
