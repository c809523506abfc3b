"""The stage of the API without a host: when it starts anew, whom it may reach, and what it takes away."""

from __future__ import annotations

import base64
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from deploys import release
from deploys.bundle import Bundle, build
from deploys.facts.survey import FileState, Question, UnitState
from deploys.stages import api, application, preflight
from deploys.stages.rotating import still_used
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


def test_what_it_reads_is_closed() -> None:
    """The app's group may ask the API and enter the folder; password and client key are the service's own; a certificate is no secret."""
    site = FakeSite(bundle(api_enabled=True, app_group="web"))
    found = {each.what.split()[1]: each for each in api.files(site, survey())}
    access = {path: re.findall(r"chown (\S+) .*chmod (\d+)", each.script)[-1] for path, each in found.items()}
    assert access == {
        api.FOLDER: ("root:web", "00750"),
        f"{api.FOLDER}/key": ("root:web", "0640"),
        api.ENVIRONMENT: ("root:web", "0640"),
        f"{api.FOLDER}/monitor-password": ("root:redkeep-api", "0640"),
        f"{api.FOLDER}/client.key": ("root:redkeep-api", "0640"),
        f"{api.FOLDER}/client.crt": ("root:root", "0644"),
        api.UNIT_FILE: ("root:root", "0644"),
    }
    assert "systemctl daemon-reload" in found[api.UNIT_FILE].script
    shown = x509.load_pem_x509_certificate(base64.b64decode(str(found[f"{api.FOLDER}/client.crt"].stdin)))
    assert "CN=redkeep-api" == shown.subject.rfc4514_string()


def test_what_it_has_of_its_own() -> None:
    """Key, monitor's password and client certificate, each from a file; its environment comes after the app's and before yours."""
    site = FakeSite(bundle(api_enabled=True, api_port=9_000))
    found = {each.what.split()[1]: base64.b64decode(str(each.stdin)).decode() for each in api.files(site, survey()) if each.stdin}
    pointers = dict(line.split("=", 1) for line in found[api.ENVIRONMENT].splitlines() if "=" in line)
    assert set(pointers.values()) == {*api.KEYS, *(f"{api.FOLDER}/{name}" for name in api.CREDENTIALS)}
    assert all(name.endswith("_FILE") for name in pointers)
    lines = found[api.UNIT_FILE].splitlines()
    assert ["/etc/redkeep/cache.env", api.ENVIRONMENT, f"-{api.LOCAL}"] == [
        line.partition("=")[2] for line in lines if line.startswith("EnvironmentFile=")
    ]
    assert "ExecStart=/opt/redkeep/current/bin/redkeep serve --host 127.0.0.1 --port 9000" in lines
    assert {"Type=notify", "Restart=always", "StartLimitIntervalSec=0", "MemoryMax=512M", "User=redkeep-api"} <= set(lines)


def test_its_user_is_marked_as_ours() -> None:
    """Before it is made, so that a deploy cut off in between still takes it away; one that is there is left alone."""
    site = FakeSite(bundle(api_enabled=True))
    (found,) = api.account(site, survey())
    assert found.script.index(f"touch {api.USER_MARK}") < found.script.index("useradd --system")
    assert "--shell /usr/sbin/nologin" in found.script
    assert [] == list(api.account(site, survey(users={"redkeep-api": 990})))


def test_of_a_host_without_the_app_only_what_it_may_have_kept_is_asked() -> None:
    """The unit and the folder of a time in the group app; no units, no users, no ports."""
    assert Question(files=(api.FOLDER, api.UNIT_FILE)) == api.question(FakeSite(bundle("redis")))


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
    for left in (api.UNIT_FILE, api.FOLDER):
        (found,) = api.unwanted(site, survey(files={left: there()}))
        assert f"[ ! -e {api.USER_MARK} ] ||" in found.script
        assert f"rm -rf {api.UNIT_FILE} {api.FOLDER} {api.STATES}\n" in found.script


@pytest.mark.parametrize("fails", [False, True])
def test_a_service_that_does_not_start_ends_the_deploy(fails: bool, tmp_path: Path) -> None:
    """With the last words of its log; a service that starts is enabled as well, without a word."""
    for name, script in (("systemctl", f'echo "$@" >> asked; [ "$1" != restart ] || exit {int(fails)}'), ("journalctl", "echo its last words")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ended = subprocess.run(["sh", "-euc", api.start_script()], cwd=tmp_path, env=path, capture_output=True, text=True, check=False)
    assert ["enable redkeep-api.service", "restart redkeep-api.service"] == (tmp_path / "asked").read_text().splitlines()
    assert (int(fails), "") == (ended.returncode, ended.stdout)
    assert fails == ("does not start; its log ends with:\nits last words" in ended.stderr)


def test_a_release_with_the_api_is_another() -> None:
    """Its list holds what serves the API, under the name that the install script reads."""
    assert release.release_name("3.11.2") != release.release_name("3.11.2", extra="api")
    texts = [release.locked_for("3.11.2", "x86_64", extra=extra) for extra in ("", "api")]
    assert [False, True] == ["\nuvicorn==" in text for text in texts]


@pytest.mark.parametrize(
    ("last", "watched", "minutes", "says"),
    [
        (12.4, 900.0, 10, "the old API key was used 12 s ago, 3 times in all, by 10.0.0.7, 10.0.0.5. Both stay valid"),
        (None, 65.0, 10, "nobody has used the old API key in the 65 s since the API received the new one: run again in 9 min."),
        (601.0, 900.0, 10, ""),
        (None, 600.0, 10, ""),
        (1.0, 5.0, 0, ""),
    ],
)
def test_the_old_key_stays_while_it_may_be_in_use(last: float | None, watched: float, minutes: int, says: str) -> None:
    """By what the API says of it: used within the time, or not watched for so long yet."""
    use = {"seconds_since_last": last, "watched_seconds": watched, "requests": 3, "callers": {"10.0.0.5": 1, "10.0.0.7": 2}}
    found = still_used(use, minutes=minutes, secrets=Path("secrets/prod"))
    assert found.startswith(says)
    assert bool(found) is bool(says)


def test_the_key_before_is_written_first_and_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a rotation lasts the API knows both before callers find the new one; afterwards the file of the one before is removed."""
    site = FakeSite(bundle(api_enabled=True))
    newest, older = api.KEYS
    assert [newest] == [each.what.split()[1] for each in api.keys(site, survey())]
    (gone,) = [each for each in api.keys(site, survey(files={older: FileState(kind="file")})) if older in each.what]
    assert gone.script == f"rm -f {older}"
    monkeypatch.setattr(type(site.credentials), "older_api_key", lambda _: "word-before")
    both = list(api.keys(site, survey()))
    assert [older, newest] == [each.what.split()[1] for each in both]
    assert "chown root:redkeep-api" in both[0].script
    assert 'chmod 0640 "$t"' in both[0].script


def test_a_host_that_left_the_group_app_keeps_no_key_to_the_values() -> None:
    """Its credentials, the encryption keys among them, and the API are asked for, named and removed; an app host keeps them."""
    there_still = (application.ENVIRONMENT, application.TLS, api.UNIT_FILE, api.FOLDER)
    found = survey(files=dict.fromkeys(there_still, there()))
    site: Any = FakeSite(bundle("redis"))
    assert set(there_still) <= set(preflight.question(site).files)
    (credentials,), (service,) = application.left(site, found), api.unwanted(site, found)
    assert all(path in credentials.script for path in application.CREDENTIALS)
    assert f"rm -rf {api.UNIT_FILE} {api.FOLDER}" in service.script
    for difference in (credentials, service):
        assert "the host is not in the group app" in difference.what
    assert [] == [*application.left(site, survey()), *api.unwanted(site, survey())]
