"""The stage of the API without a host: when it starts anew, whom it may reach, and what it takes away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploys import release
from deploys.bundle import Bundle, build
from deploys.facts.survey import FileState, UnitState
from deploys.stages import api
from tests.unit.wanted import FakeSite, bundle, data, survey, there

RUNNING = UnitState(load="loaded", active="active", enabled="enabled", started=1_000)
READ = (api.UNIT_FILE, api.ENVIRONMENT, api.LOCAL, "/etc/redkeep/cache.env", "/opt/redkeep/current", "/etc/redkeep/tls/ca.crt")


def app_of(redis: str, **changes: object) -> Bundle:
    """An app host whose Redis is another one."""
    hosts = [(redis, frozenset({"redis"}), data()), ("10.0.0.9", frozenset({"app"}), data(api_enabled=True, **changes))]
    return build(hosts)["10.0.0.9"]


def test_without_systemd_it_is_refused() -> None:
    """With the next step; where it is not wanted, nobody is stopped."""
    bare = survey(host={"systemd": "no"})
    assert "set api_enabled to False" in api.problem(FakeSite(bundle(api_enabled=True)), bare)
    assert ["", ""] == [api.problem(FakeSite(bundle(api_enabled=on)), found) for on, found in ((False, bare), (True, survey()))]


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        (bundle(api_enabled=True), ["localhost"]),
        (app_of("10.0.0.5"), ["localhost", "10.0.0.5"]),
        (app_of("10.0.0.5", api_reachable=["10.9.0.0/16"]), ["localhost", "10.0.0.5", "10.9.0.0/16"]),
        (app_of("localhost"), []),
        (app_of("localhost", api_reachable=["10.9.0.0/16"]), ["localhost", "10.9.0.0/16"]),
    ],
    ids=["alone", "address", "address and more", "name", "name and more"],
)
def test_it_reaches_redis_and_what_is_listed(wanted: Bundle, allowed: list[str]) -> None:
    """An address that is known is the only one; a name could mean any, unless a list says so."""
    site = FakeSite(wanted)
    assert allowed == api.reachable(site, survey())
    assert bool(allowed) == (b"IPAddressDeny=any" in api.unit_text(site, survey()))


def test_it_sees_other_processes_only_beside_redis() -> None:
    """The posture looks at the server's process where there is one."""
    assert b"ProtectProc" not in api.unit_text(FakeSite(bundle(api_enabled=True)), survey())
    assert b"ProtectProc=invisible" in api.unit_text(FakeSite(app_of("10.0.0.5")), survey())


@pytest.mark.parametrize("path", [*READ, *(f"{api.FOLDER}/{name}" for name in api.CREDENTIALS)])
def test_it_starts_anew_under_what_is_newer(path: str) -> None:
    """Each file that the process has read counts, once."""
    site = FakeSite(bundle(api_enabled=True))
    for modified, restarts in ((999, 0), (1_000, 0), (1_001, 1)):
        files = {path: FileState("file", "0640", "root", "root", modified=modified)}
        found = list(api.running(site, survey(units={api.UNIT: RUNNING}, files=files)))
        assert restarts == len(found)
        assert [] == [difference for difference in found if path not in difference.what]


@pytest.mark.parametrize("change", [{"active": "failed"}, {"enabled": "disabled"}])
def test_it_is_enabled_and_active(change: dict[str, str]) -> None:
    """Otherwise it is started."""
    site = FakeSite(bundle(api_enabled=True))
    for units in ({}, {api.UNIT: replace(RUNNING, **change)}):  # type: ignore[arg-type]
        (found,) = api.running(site, survey(units=units))
        assert "not enabled and active" in found.what
    assert [] == list(api.running(site, survey(units={api.UNIT: RUNNING})))


def test_it_is_taken_away_only_where_it_is() -> None:
    """A user that was there before stays."""
    site = FakeSite(bundle())
    assert [] == list(api.unwanted(site, survey()))
    (found,) = api.unwanted(site, survey(files={api.UNIT_FILE: there()}))
    assert f"[ ! -e {api.USER_MARK} ] ||" in found.script


def test_a_release_with_the_api_is_another() -> None:
    """Its list holds what serves the API, under the name that the install script reads."""
    assert release.release_name("3.11.2") != release.release_name("3.11.2", api=True)
    texts = [release.locked_for("3.11.2", "x86_64", api=api) for api in (False, True)]
    assert [False, True] == ["\nuvicorn==" in text for text in texts]
