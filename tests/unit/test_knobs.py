"""The knobs: group_data/all.py and deploys/knobs.py say the same, and nothing dangerous passes."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.knobs import Knobs, is_host
from redkeep.errors import ConfigurationError
from tests.unit.wanted import ROOT, data, knobs

TEXT = (ROOT / "group_data" / "all.py").read_text()
NAMES = [field.name for field in dataclasses.fields(Knobs)]
SENTENCE = r"The knob {}[a-z_ ]* must be [^\n]+: change it in group_data or the inventory\."

# A good value for each knob whose value reaches a file, a command or a path as text.
TEXTS: dict[str, Any] = {
    "environment": "prod",
    "redis_engine": "redis",
    "redis_runtime": "docker",
    "container_image": "images/redis.tar",
    "container_memory": "4gb",
    "container_cpus": "1.5",
    "container_subnet": "10.9.8.0/28",
    "container_edge_subnet": "10.9.8.16/28",
    "docker_engine": "hardened",
    "redis_address": "redis-1.example.com",
    "app_address": "app-1.example.com",
    "redis_bind": ["10.0.0.5"],
    "allowed_clients": ["10.0.0.0/24"],
    "api_reachable": ["10.0.0.0/24"],
    "api_image": "images/api.tar",
    "dashboard_image": "images/dashboard.tar",
    "tls_minimum_version": "1.3",
    "tls_client_certificates": "required",
    "tls_names": ["cache.example.com"],
    "redis_maxmemory": "512mb",
    "redis_maxmemory_policy": "allkeys-lru",
    "redis_maxmemory_clients": "10%",
    "redis_persistence": "off",
    "redis_log_level": "notice",
    "kernel_settings": {"vm.swappiness": 1},
    "transparent_hugepages": "never",
    "app_group": "redkeep",
    "app_users": ["www-data"],
    "package_source": "index",
    "cache_namespace": "tenant-1",
    "cache_compression": "lz4",
}

MAY_BE_EMPTY = {
    *("environment", "redis_address", "app_address", "cache_namespace"),
    *("container_image", "container_memory", "container_cpus", "container_subnet", "container_edge_subnet"),
    *("api_image", "dashboard_image"),
}

ATTACKS = [
    *("\n", "\r\n", "\nport 6379", "\nuser evil on nopass ~* +@all", "\x00", "\t", " ", " x", "\v", "\u2028"),
    *(";reboot", "'", '"', "`id`", "$(id)", "${IFS}", "|id", "&", "<x", ">x", "\\", "#", "*", "{{ 7*7 }}", "{% raw %}"),
    *("%\nport 6379", "%$(id)", "/../..", "é", "٣", "@", "=", ",", "!", "~"),
]


def _attacked(name: str, text: str) -> Any:
    good = TEXTS[name]
    if isinstance(good, list):
        return [*good, good[0] + text]
    if isinstance(good, dict):
        return {**good, next(iter(good)) + text: 1}
    return good + text


def _refusal(**changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        knobs(**changes)
    return str(caught.value)


def test_every_knob_is_a_field_and_every_field_a_knob() -> None:
    """group_data/all.py and Knobs list the same names, in the same order."""
    assert re.findall(r"^(\w+):", TEXT, re.MULTILINE) == NAMES == list(data())


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_is_explained(name: str) -> None:
    """A comment stands right above each knob."""
    assert re.search(rf"^# .+\n{name}: ", TEXT, re.MULTILINE)


def test_every_text_knob_is_attacked_here() -> None:
    """A knob that holds text cannot be added without being attacked below."""
    plain = {field.name for field in dataclasses.fields(Knobs) if field.type in ("int", "bool")}
    assert set(NAMES) - plain == set(TEXTS)


def test_good_values_hold() -> None:
    """The values that are attacked below are good without the attack."""
    assert knobs(**TEXTS).redis_bind == ("10.0.0.5",)


@pytest.mark.parametrize("name", TEXTS)
def test_an_injection_is_refused(name: str) -> None:
    """No text knob takes a character that means something to a shell, a template, Redis or a path."""
    sentence = SENTENCE.format(".*?" if name.startswith("app_") else name)
    sentences = {attack: _refusal(**{name: _attacked(name, attack)}) for attack in ATTACKS}
    assert {} == {attack: said for attack, said in sentences.items() if not re.fullmatch(sentence, said)}


@pytest.mark.parametrize("name", sorted(set(TEXTS) - MAY_BE_EMPTY))
def test_an_empty_text_is_refused_where_it_means_nothing(name: str) -> None:
    """Only these texts may be empty."""
    good = TEXTS[name]
    _refusal(**{name: [""] if isinstance(good, list) else {"": 1} if isinstance(good, dict) else ""})


@pytest.mark.parametrize("address", ["::1%eth0", "fe80::1%\nport 6379", "::1%$(reboot)", "fe80::%x/64", "::1%"])
def test_an_address_has_no_zone(address: str) -> None:
    """Python takes any text after % for an IPv6 zone; the knobs and a derived address do not."""
    _refusal(redis_bind=[address])
    _refusal(allowed_clients=[address])
    _refusal(tls_names=[address])
    _refusal(redis_address=address)
    assert not is_host(address)


@given(name=st.sampled_from(sorted(TEXTS)), text=st.text(max_size=12))
def test_what_is_accepted_is_harmless(name: str, text: str) -> None:
    """Whatever text a knob takes consists of letters, digits and . _ - : / % alone."""
    good = TEXTS[name]
    value: Any = [text] if isinstance(good, list) else {text: 1} if isinstance(good, dict) else text
    try:
        knobs(**{name: value})
    except ConfigurationError:
        return
    assert re.fullmatch(r"(\*\.)?[A-Za-z0-9._:/%-]*", text, re.ASCII)


@pytest.mark.parametrize("name", [".", "..", "../x", "/etc", "x/../..", ".git", "-x"])
def test_an_environment_is_a_folder_beside_the_others(name: str) -> None:
    """secrets/<environment> cannot be a folder elsewhere, nor a hidden one."""
    _refusal(environment=name)


@pytest.mark.parametrize(
    ("given", "nearest"), [("redis_adress", "redis_address"), ("tls_name", "tls_names"), ("alowed_clients", "allowed_clients")]
)
def test_an_unknown_knob_is_told_its_nearest(given: str, nearest: str) -> None:
    """A mistyped knob is an error that names the one that was meant."""
    assert _refusal(**{given: "canary"}) == f"There is no knob {given}: did you mean {nearest}?"


def test_an_unknown_knob_like_no_other_is_told_where_they_are() -> None:
    """Without a near one, the error names the file."""
    assert _refusal(zzz="canary") == "There is no knob zzz: group_data/all.py lists them all."


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_knob_is_named(name: str) -> None:
    """Without a value for a knob, group_data was not read."""
    with pytest.raises(ConfigurationError, match=f"The knob {name} has no value"):
        Knobs.from_data({key: value for key, value in data().items() if key != name})


def test_data_of_pyinfra_itself_is_left_alone() -> None:
    """Connector data, pyinfra's arguments and the verbs' own words are no knobs."""
    assert knobs(ssh_user="root", _sudo=True, docker_identifier="x", confirm="prod", secrets_folder="/x") == knobs()


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_type_is_one_sentence_without_the_value(name: str) -> None:
    """The sentence names the knob and what it must be; the value, which may be a slipped secret, is not shown."""
    values = ("canary-5f1", 7.5, None, b"canary-5f1", ["canary-5f1", 3], {"canary-5f1": "x"}, True, 3)
    good = type(data()[name])
    wrong = [value for value in values if type(value) is not good or isinstance(value, list | dict)]
    sentences = {_refusal(**{name: value}) for value in wrong}
    assert len(sentences) == 1
    assert re.fullmatch(SENTENCE.format(name), sentences.pop())


def test_no_refusal_shows_the_value() -> None:
    """A secret pasted into the wrong knob is not repeated on the screen."""
    for name, good in TEXTS.items():
        slip = "canary 5f1"
        value = [slip] if isinstance(good, list) else {slip: 1} if isinstance(good, dict) else slip
        assert "canary" not in _refusal(**{name: value})


RANGES = {
    "redis_tls_port": (1, 65535),
    "api_port": (1024, 65535),
    "dashboard_port": (1024, 65535),
    "tls_renew_days": (1, 80),
    "tls_alarm_days": (1, 80),
    "redis_maxclients": (10, 60000),
    "redis_idle_timeout": (0, 86400),
    "redis_tcp_keepalive": (1, 3600),
    "redis_max_value_bytes": (1024**2, 512 * 1024**2),
    "redis_databases": (1, 16),
    "redis_log_weeks": (1, 520),
    "minimum_memory_mib": (64, 1024**2),
}


def test_every_number_has_bounds() -> None:
    """The table of ranges below covers every whole number."""
    assert {field.name for field in dataclasses.fields(Knobs) if field.type == "int"} == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_stays_within_its_bounds(name: str) -> None:
    """The ends are good; one beyond is refused with both ends named."""
    low, high = RANGES[name]
    assert [getattr(knobs(**{name: value}), name) for value in (low, high)] == [low, high]
    assert _refusal(**{name: low - 1}) == _refusal(**{name: high + 1})
    assert f"between {low} and {high}" in _refusal(**{name: high + 1})


@pytest.mark.parametrize("value", ["0%", "0mb", "00%", "100%", "512", "1b", "1023kb", "-1mb", "1tb", "1.5gb", "50 %", "50%\n"])
def test_memory_has_a_limit(value: str) -> None:
    """Zero means no limit to Redis: it is refused, like less than a MiB and like any other spelling."""
    _refusal(redis_maxmemory=value)


@pytest.mark.parametrize("value", ["0%", "100%", "10", "10mb"])
def test_the_clients_memory_has_a_limit(value: str) -> None:
    """The clients' share is between 1% and 99%."""
    _refusal(redis_maxmemory_clients=value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("512mb", 512 * 1024**2), ("2GB", 2 * 1024**3), ("1048576b", 1024**2), ("50%", 512 * 1024**2), ("1%", 10 * 1024**2)],
)
def test_memory_in_bytes(given: str, expected: int) -> None:
    """A size is itself; a share is taken of the host's memory (1 GiB here), in whole MiB."""
    assert expected == knobs(redis_maxmemory=given).maxmemory_bytes(1024**3)


@pytest.mark.parametrize("network", ["10.0.0.1/24", "10.0.0.0/33", "example.com", "10.0.0.0/24/24", "any"])
def test_an_allowed_client_is_an_address_or_a_network(network: str) -> None:
    """A network with host bits, a name or a wrong length is refused."""
    assert "networks (CIDR, no host bits)" in _refusal(allowed_clients=[network])


def test_knobs_are_frozen() -> None:
    """Neither a field nor the mapping inside can be changed."""
    made = knobs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.redis_tls_port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.kernel_settings["vm.swappiness"] = 1  # type: ignore[index]
