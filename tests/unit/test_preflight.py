"""Refusals before anything is touched: each is one sentence with the next step. And what a removal leaves alone."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import DeployError

from deploys import stack
from deploys.engine import ENGINES
from deploys.facts.docker import Container, DockerState
from deploys.facts.survey import FileState, Listener, UnitState, certificates_of
from deploys.migration.window import OPEN
from deploys.stages import application, machine, preflight, removal, report, server
from tests.unit.wanted import FakeSite, bundle, survey, there

PACKAGE = {"redis-server": "5:7.0.15-1~deb12u5"}


def site(*groups: str, answer: tuple[bool, list[str], list[str]] = (True, [], []), **knobs: Any) -> Any:
    return FakeSite(bundle(*groups, **knobs), answer=answer)


@pytest.mark.parametrize(
    ("host", "knobs", "part"),
    [
        ({"id": "debian", "release": "12"}, {}, ""),
        ({"id": "debian", "release": "13"}, {"redis_engine": "valkey"}, ""),
        ({"id": "debian", "release": ""}, {}, ""),
        ({"id": "ubuntu", "like": "debian", "release": "24.04"}, {}, ""),
        ({"id": "linuxmint", "like": "ubuntu debian", "release": "22"}, {}, ""),
        ({"id": "debian", "release": "11"}, {}, "upgrade the host to Debian 12 or later"),
        ({"id": "debian", "release": "12"}, {"redis_engine": "valkey"}, "or set redis_engine to redis"),
        ({"id": "fedora", "like": "", "release": "41"}, {}, "the system is fedora, not Debian"),
        ({"id": "x", "like": "notdebian", "release": "1"}, {}, "the system is x, not Debian"),
        ({"id": "", "like": ""}, {}, "the system is unknown, not Debian"),
    ],
)
def test_the_distribution(host: dict[str, str], knobs: dict[str, Any], part: str) -> None:
    """Debian 12 and later and its children are taken; the rest is refused by name."""
    said = preflight.distribution(site(**knobs), survey(host=host))
    assert (bool(part), True) == (bool(said), part in said)


@pytest.mark.parametrize(
    ("mib", "knobs", "part"),
    [
        (200, {}, ""),
        (199, {}, "199 MiB of memory is less than minimum_memory_mib (200)"),
        (1000, {"redis_maxmemory": "90%"}, ""),
        (1000, {"redis_maxmemory": "91%"}, "redis_maxmemory leaves too little of the host's 1000 MiB"),
        (1000, {"redis_maxmemory": "2gb"}, "redis_maxmemory leaves too little"),
    ],
)
def test_the_memory(mib: int, knobs: dict[str, Any], part: str) -> None:
    """The host has enough, and Redis leaves the system its share."""
    said = preflight.memory(site(**knobs), survey(host={"memory_kib": str(mib * 1024)}))
    assert (bool(part), True) == (bool(said), part in said)


def test_an_app_host_is_not_judged_by_redis_memory() -> None:
    """maxmemory counts where Redis runs."""
    app_alone = FakeSite(bundle("redis", redis_maxmemory="2gb"))
    object.__setattr__(app_alone.bundle, "is_redis", False)
    assert preflight.memory(app_alone, survey(host={"memory_kib": str(300 * 1024)})) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "part"), [(0, ""), (290, ""), (-290, ""), (7200, "2.0 hours ahead"), (-3600, "1.0 hours behind")]
)
def test_the_clock(seconds: int, part: str) -> None:
    """Five minutes either way are the tolerance of our certificates."""
    said = preflight.clock(site(), survey(host={"time": str(int(time.time()) + seconds)}))
    assert (bool(part), True) == (bool(said), part in said)


@pytest.mark.parametrize(
    ("sockets", "part"),
    [
        ((), ""),
        ((("0.0.0.0:6380", "redis-server"),), ""),
        ((("0.0.0.0:6380", "nginx"),), "0.0.0.0:6380 is in use by nginx: stop it, or choose another redis_tls_port."),
        ((("127.0.0.1:6380", "redis-server"), ("[::]:6380", "nc")), "[::]:6380 is in use by nc"),
    ],
)
def test_the_port(sockets: tuple[tuple[str, str], ...], part: str) -> None:
    """Nobody but our server holds the port."""
    said = preflight.port(site(), survey(sockets=sockets))
    assert (bool(part), True) == (bool(said), part in said)


API_NATIVE, API_DOCKER = {"api_enabled": True}, {"api_enabled": True, "dashboard_enabled": True, "redis_runtime": "docker"}


@pytest.mark.parametrize(
    ("knobs", "listener", "part"),
    [
        (API_NATIVE, Listener("127.0.0.1", 8765, "nginx", 33), "127.0.0.1:8765 is in use by nginx: stop it, or choose another api_port."),
        (API_NATIVE, Listener("0.0.0.0", 8765, "nginx", 0), "0.0.0.0:8765 is in use by nginx"),
        (API_NATIVE, Listener("*", 8765, "", 0), "*:8765 is in use by another program: stop it"),
        (API_NATIVE, Listener("10.0.0.5", 8765, "nginx", 0), ""),
        (API_NATIVE, Listener("127.0.0.1", 8765, "redkeep", 990), ""),
        (API_NATIVE, Listener("127.0.0.1", 8501, "nginx", 0), ""),
        ({}, Listener("127.0.0.1", 8765, "nginx", 0), ""),
        (API_DOCKER, Listener("127.0.0.1", 8501, "nginx", 0), "127.0.0.1:8501 is in use by nginx: stop it, or choose another dashboard_port."),
        (API_DOCKER, Listener("127.0.0.1", 8765, "dockerd", 0), "127.0.0.1:8765 is in use by dockerd"),
        (API_DOCKER, Listener("127.0.0.1", 8501, "docker-proxy", 0), ""),
    ],
)
def test_the_ports_of_the_api_and_the_dashboard(knobs: dict[str, Any], listener: Listener, part: str) -> None:
    """Nobody else holds them: our service is known by its account, our containers by the port that they publish."""
    page = {"Id": "x", "State": {"Running": True}, "Config": {"Labels": {}}}
    page["HostConfig"] = {"PortBindings": {"8501/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8501"}]}}
    seen = survey(listeners=(listener,), users={"redkeep-api": 990}, docker=DockerState(containers=(Container(page),)))
    said = preflight.app_ports(site(**knobs), seen)
    assert (bool(part), True) == (bool(said), part in said)
    assert ({8765, 8501} if "redis_runtime" in knobs else {8765} if knobs else set()) == set(preflight.question(site(**knobs)).listening)


def test_the_port_of_a_container_that_is_to_go_is_no_obstacle() -> None:
    """From docker to native: the API's own container still publishes the port."""
    taken = survey(listeners=(Listener("127.0.0.1", 8765, "dockerd", 0),), files={stack.COMPOSE: there()})
    assert "" == preflight.app_ports(site(**API_NATIVE), taken)
    assert "in use by dockerd" in preflight.app_ports(site(**API_NATIVE), replace(taken, files={}))


@pytest.mark.parametrize(
    ("packages", "files", "answer", "part"),
    [
        ({}, {}, (True, ["it contains keys"], []), ""),
        (PACKAGE, {machine.MANAGED: there()}, (True, ["it contains keys"], []), ""),
        (PACKAGE, {}, (True, ["", " "], []), ""),
        (PACKAGE, {}, (True, ["it contains keys", "clients are connected"], []), "(it contains keys; clients are connected)"),
        (PACKAGE, {}, (False, [], []), "(its state could not be read)"),
        (PACKAGE, {}, (False, ["it contains keys"], []), "(its state could not be read)"),
    ],
)
def test_a_redis_that_somebody_uses(packages: Any, files: Any, answer: Any, part: str) -> None:
    """Any sign of use, or no answer, and it is not ours to change; an unused one or our own is."""
    said = preflight.foreign_server(site(answer=answer), survey(packages=packages, files=files))
    assert (bool(part), True) == (bool(said), part in said)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_the_question_for_signs_of_use_is_valid_shell(engine: Any) -> None:
    """Both engines; run for real where neither is installed it finds no data and does not fail on the way."""
    script = preflight.USAGE.format(engine=engine)
    assert 0 == subprocess.run(["dash", "-n"], input=script, text=True, check=False).returncode


def test_every_check_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first refusal stops the host, with its name before the sentence, before secrets are made."""
    here = site()
    here.survey = lambda: survey(host={"id": "fedora"})
    with pytest.raises(DeployError, match=r"\A@local: the system is fedora"):
        preflight.preflight(here)
    assert not here.kept
    here.survey = lambda: survey(host={"time": str(int(time.time()))})
    preflight.preflight(here)
    assert here.kept


def groups(*names: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(names, ())


def test_a_group_that_was_there_stays() -> None:
    """A removal takes away the group it made, never one that the host had: docker, adm, www-data."""
    ours = {f"{machine.STATE}/group-web": FileState("file", "0644", "root", "root"), machine.MANAGED: there()}
    made = removal.files_gone(site(app_group="web"), survey(groups=groups("web"), files=ours))
    assert ["group web still exists"] == [difference.what for difference in made]
    kept = removal.files_gone(site(app_group="adm"), survey(groups=groups("adm"), files={machine.MANAGED: there()}))
    assert [] == [difference.what for difference in kept]


def test_a_group_is_noted_when_it_is_made() -> None:
    """The note is written before, in the same step; for an existing group there is neither step nor note."""
    (made,) = application.account(site(app_group="web"), survey())
    assert f"getent group web >/dev/null || {{ touch {machine.STATE}/group-web; groupadd --system web; }}" == made.script
    assert [] == list(application.account(site(app_group="adm"), survey(groups=groups("adm"))))


def test_a_reader_who_is_not_wanted_goes_from_our_own_group_alone() -> None:
    """In a group that redkeep made, app_users says who reads; in one that was there, others have their reasons."""
    ours = survey(groups={"web": ("nobody",)}, files={f"{machine.STATE}/group-web": there()})
    (gone,) = application.account(site(app_group="web"), ours)
    assert gone.what == "user nobody can read the app's credentials through the group web, but is not in app_users"
    assert [] == list(application.account(site(app_group="web"), survey(groups={"web": ("nobody",)})))


def test_an_account_must_exist() -> None:
    """An unknown user of app_users is refused before anything is changed."""
    assert "there is no user www here" in preflight.accounts(site(app_users=["www"]), survey())
    assert preflight.accounts(site(app_users=["www"]), survey(users={"www": 33})) == ""


def test_other_secrets_are_not_put_over_a_deployed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that trusts only authorities that our folder does not hold keeps its keys until the caller means it."""

    class Host:
        data: dict[str, str] = {}  # noqa: RUF012

    monkeypatch.setattr(preflight, "host", Host)
    mine = certificates_of(site().credentials.trust_bundle.decode())
    assert len(mine) == 1
    assert preflight.foreign_secrets(site(), survey()) == ""
    assert preflight.foreign_secrets(site(), survey(authorities=mine | {"another"})) == ""
    assert "was set up with other secrets" in preflight.foreign_secrets(site(), survey(authorities=frozenset({"another"})))
    Host.data = {"replace_secrets": "yes"}  # pragma: allowlist secret - a word of the command line
    assert preflight.foreign_secrets(site(), survey(authorities=frozenset({"another"}))) == ""


def test_another_engine_of_ours_is_destroyed_first() -> None:
    """Changing redis_engine in place is refused with the way to do it."""
    held = survey(sockets=(("127.0.0.1:6380", "redis-server"),), files={machine.MANAGED: there()}, host={"release": "13"})
    assert "run deploys/destroy.py with the old engine first" in preflight.port(site(redis_engine="valkey"), held)


@pytest.mark.parametrize("path", ["/etc/systemd/system/redis-server.service.d/zz.conf", "/run/systemd/system.control/x.conf"])
def test_a_drop_in_of_someone_else_is_named(path: str) -> None:
    """Only our drop-in and the distribution's unit may say how the server runs."""
    ours = ENGINES["redis"].drop_in
    unit = UnitState("loaded", "active", "enabled", fragment="/lib/systemd/system/redis-server.service", drop_ins=(ours,))
    assert [] == list(server.foreign_units(site(), survey(units={"redis-server.service": unit})))
    changed = replace(unit, drop_ins=(ours, path))
    (found,) = server.foreign_units(site(), survey(units={"redis-server.service": changed}))
    assert f"is changed by {path}" in found.what
    moved = replace(unit, fragment="/etc/systemd/system/redis-server.service")
    (found,) = server.foreign_units(site(), survey(units={"redis-server.service": moved}))
    assert "is changed by /etc/systemd/system/redis-server.service," in found.what


def test_a_removal_must_be_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the name of the environment confirms; the refusal says what to add."""

    class Host:
        data: dict[str, str] = {}  # noqa: RUF012

    monkeypatch.setattr(removal, "host", Host)
    for given in ({}, {"confirm": ""}, {"confirm": "yes"}, {"confirm": "Test"}):
        Host.data = given
        with pytest.raises(DeployError, match="--data confirm=test"):
            removal.confirm(site())
    Host.data = {"confirm": "test"}
    removal.confirm(site())


@pytest.mark.parametrize(
    ("packages", "files", "part"),
    [
        ({}, {}, "1 difference from the wanted state: a deploy repairs it."),
        (PACKAGE, {}, "1 difference from the wanted state, but a redis-server that Redkeep did not make is in use here (it contains keys)"),
        (PACKAGE, {OPEN: there()}, "1 difference from the wanted state, but a migration is under way: finish it"),
    ],
)
def test_a_status_advises_no_deploy_that_would_be_refused(packages: Any, files: Any, part: str) -> None:
    """A server in use is migrated, not deployed to."""
    status = site(answer=(True, ["it contains keys"], []))
    status.found = {"port 6379 is open": None}
    assert report.verdict(status, survey(packages=packages, files=files)).startswith(part)
