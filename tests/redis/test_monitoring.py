"""The monitoring of a real server: attacks by strangers are counted once, told once on each channel, and shown harmless."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redkeep import get_security_status
from redkeep.cli import main
from redkeep.monitoring import probes, service
from redkeep.monitoring.alert_webhook import SIGNATURE
from redkeep.monitoring.service import MonitoringService
from tests.redis.server import Files, Server, free_port
from tests.redis.watched import SIGNING, Channels, about_logins, env_file, guess, receivers, until

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own Redis and its kernel settings are not what is tested."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", free_port())
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.2)


@pytest.fixture(params=["starttls", "tls"])
def channels(files: Files, request: pytest.FixtureRequest) -> Iterator[Channels]:
    """Alert settings, and what arrives by mail and by webhook."""
    with receivers(files, security=request.param) as there:
        yield there


def test_200_wrong_passwords(
    start: Callable[..., Server], tmp_path: Path, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    """200 of 200 are counted, and one alert goes out on the log, by mail and by webhook; after a restart neither comes again."""
    server = start(acllog_max_len="1024")
    settings, mails, posts = channels
    path = env_file(server, tmp_path, security_monitor_state_file=tmp_path / "state.json", **settings)

    async def run() -> None:
        monitoring = MonitoringService(env_file=path)
        await monitoring.start()
        try:
            assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
            await monitoring.security_status()
            await asyncio.to_thread(guess, server, times=200)
            assert await until(lambda: monitoring.monitor.get_failure_count(24) >= 200)
            assert await until(lambda: bool(posts.taken and mails.taken))
            await asyncio.sleep(1.0)
            assert (await monitoring.security_status())["recent_auth_failures"] == 200
        finally:
            await monitoring.close()
        again = MonitoringService(env_file=path)
        await again.start()
        try:
            assert await until(lambda: again.nodes()[0]["state"] == "up")
            await asyncio.sleep(0.5)
            assert again.monitor.get_failure_count(24) == 200
        finally:
            await again.close()

    with caplog.at_level("INFO"):
        asyncio.run(run())
    assert 1 == len(about_logins(posts.documents())) == len(about_logins([mail["Subject"] for mail in mails.taken]))
    assert 1 == len([r for r in caplog.records if r.message == "security_alert" and "Authentication" in r.alert_title])
    body, headers = posts.taken[0]
    stamp, _, signature = headers[SIGNATURE].removeprefix("t=").partition(",v1=")
    assert hmac.new(SIGNING.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest() == signature


def test_one_failure_at_a_time_is_counted(start: Callable[..., Server], tmp_path: Path) -> None:
    """An entry of the log that only grows is counted by its growth, and our own probes are not counted at all, even when a
    stolen login tries just what they try."""
    server = start()

    async def run() -> None:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path))
        for expected in (1, 2, 3):
            await asyncio.to_thread(guess, server, times=1)
            await monitoring.probe()
            await monitoring.look()
            assert expected == monitoring.monitor.get_failure_count(24)
            assert expected - 1 == monitoring.monitor.count("permission_denied")
            with server.log_in("cache_service") as stolen:
                stolen.ask(("CLIENT", "SETNAME", "redkeep-probe"), ("KEYS", "redkeep:none"))
        assert monitoring.monitor.tally("probe", success=True).total > 0
        await monitoring.close()

    asyncio.run(run())


def test_hostile_names_are_harmless(start: Callable[..., Server], tmp_path: Path, channels: Channels) -> None:
    """Line ends, markup, terminal escapes and 10 KB in a user name change neither a header nor a line of any channel."""
    server = start()
    settings, mails, posts = channels
    names = ("x\r\nBcc: eve@example.org", "<!channel><b>x</b>", "\x1b[2Jx", "n" * 10_000)

    async def run() -> list[dict[str, Any]]:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path, **settings))
        for name in names:
            await asyncio.to_thread(guess, server, times=3, user=name)
        await monitoring.look()
        assert await until(lambda: bool(posts.taken and mails.taken))
        await monitoring.close()
        return monitoring.events(kind="auth_attempt")

    events = asyncio.run(run())
    assert 12 == sum(event["count"] for event in events)
    assert all(event["username"].isprintable() and len(event["username"]) <= 64 for event in events)
    mail = mails.taken[0]
    assert mail["Bcc"] is None
    assert not any("\x1b" in line or line.startswith("Bcc") for line in mail.get_content().splitlines())
    assert "<!channel>" not in posts.documents()[0]["text"]
    assert len(posts.taken[0][0]) < 8_192


def test_a_password_where_the_name_belongs(start: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Our own passwords, typed as a user name, are counted and stand nowhere: not in events, not in the file, not in the log."""
    server, state = start(), tmp_path / "state.json"
    path = env_file(server, tmp_path, security_monitor_state_file=state)
    ours = [server.passwords[name] for name in ("cache_service", "monitor")]

    async def run() -> list[dict[str, Any]]:
        monitoring = MonitoringService(env_file=path)
        await monitoring.start()
        for secret in ours:
            await asyncio.to_thread(guess, server, times=3, user=secret)
        assert await until(lambda: monitoring.monitor.get_failure_count() == 6)
        await monitoring.close()
        return monitoring.events()

    with caplog.at_level("INFO"):
        events = asyncio.run(run())
    assert {"[REDACTED]"} == {event["username"] for event in events if event["type"] == "auth_attempt"}
    written = json.dumps(events) + state.read_text() + "".join(str(vars(record)) for record in caplog.records)
    assert [] == [secret for secret in ours if secret in written]


def test_a_channel_that_fails_hurts_nobody(
    start: Callable[..., Server], tmp_path: Path, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that answers 500 is tried three times and then noted; the mail has gone out long before."""
    monkeypatch.setattr("redkeep.monitoring.alerts.PAUSES", (0.05, 0.05))
    server = start()
    settings, mails, posts = channels
    posts.answer = lambda number: (500, {})

    async def run() -> list[dict[str, Any]]:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path, **settings))
        await asyncio.to_thread(guess, server, times=20)
        await monitoring.look()
        assert await until(lambda: bool(monitoring.events(kind="alert_not_delivered")))
        await monitoring.close()
        return monitoring.events(kind="alert_not_delivered")

    (event,) = asyncio.run(run())
    assert ("webhook", 3, 1) == (event["details"]["channel"], len(posts.taken), len(mails.taken))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"security_alert_webhook_networks": "10.0.0.0/8"}, "not public"),
        ({"security_alert_smtp_password": "z" * 20}, "refused the login"),
    ],
)
def test_the_test_alert_says_what_is_wrong(
    server: Server, tmp_path: Path, channels: Channels, change: dict[str, object], words: str
) -> None:
    """A private address that nobody allowed, a wrong mail password: one sentence, and the other channel works."""
    settings, _, posts = channels
    monitoring_file = env_file(server, tmp_path, **{**settings, **change})

    async def run() -> dict[str, Any]:
        monitoring = MonitoringService(env_file=monitoring_file)
        found = await monitoring.send_test_alert()
        await monitoring.close()
        return found

    results = asyncio.run(run())
    failed = [each for each in results.values() if not each["ok"]]
    assert ([words in each["detail"] for each in failed], len(results)) == ([True], 3)
    assert ("networks" in next(iter(change))) == (not posts.taken)


def test_status_of_a_hardened_server(server: Server, tmp_path: Path) -> None:
    """get_security_status: the PRD's five fields, all as they should be, with evidence behind each."""
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
    found = asyncio.run(get_security_status(env_file(server, tmp_path)))
    fields = ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")
    assert [True] * 4 == [found[name] for name in fields]
    assert isinstance(found["recent_auth_failures"], int)
    assert {"ok"} == {control["state"] for control in found["posture"]}
    assert found["key_ages"][0]["primary"]
    assert {"server", "client", "CA"} == {each["whose"] for each in found["certificates"]}


def test_the_commands_document_is_the_apis(
    start: Callable[..., Server], files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`redkeep status --json` has every field of the API's status; asking sends no alert, however many logins were refused."""
    server = start()
    with receivers(files) as (settings, mails, posts):
        path = env_file(server, tmp_path, **settings)
        guess(server, times=20)
        api = asyncio.run(get_security_status(path))
        capsys.readouterr()
        assert main(["status", "--json", "--env-file", str(path)]) == 0
        printed = capsys.readouterr()
    assert "" == printed.err
    found = json.loads(printed.out)
    assert set(api) - {"posture"} == set(found) - {"controls"}
    assert [each["name"] for each in api["posture"]] == [each["name"] for each in found["controls"]]
    assert (20, api["certificates"][0]["ends"]) == (found["recent_auth_failures"], found["certificates"][0]["ends"])
    assert [each["key_id"] for each in api["key_ages"]] == [each["key_id"] for each in found["key_ages"]]
    assert ([], []) == (mails.taken, posts.taken)
    assert server.passwords["monitor"] not in printed.out


def test_status_when_nothing_answers(server: Server, tmp_path: Path) -> None:
    """An unreachable server: no field is true, the node is down, and no login is said to have failed."""
    path = env_file(server, tmp_path, redis_url=f"rediss://127.0.0.1:{free_port()}/0")

    async def run() -> tuple[dict[str, Any], MonitoringService]:
        monitoring = MonitoringService(env_file=path)
        await monitoring.look()
        found = await monitoring.security_status()
        await monitoring.close()
        return found, monitoring

    found, monitoring = asyncio.run(run())
    assert not any(found[name] for name in ("redis_authenticated", "tls_enabled", "encryption_enabled"))
    assert ("down", 0) == (monitoring.nodes()[0]["state"], found["recent_auth_failures"])
    assert "unknown" == found["state"]


def test_the_command_tries_the_channels(
    server: Server, tmp_path: Path, channels: Channels, capsys: pytest.CaptureFixture[str]
) -> None:
    """`redkeep alerts test` delivers by mail and by webhook, a line each, and fails when one does not take it."""
    settings, mails, posts = channels
    path = str(env_file(server, tmp_path, **settings))
    assert main(["alerts", "test", "--env-file", path]) == 0
    assert ["-     log", "ok    email", "ok    webhook"] == [each[:6] + each[6:].split()[0] for each in capsys.readouterr().out.splitlines()]
    assert (1, 1) == (len(mails.taken), len(posts.taken))
    posts.answer = lambda number: (500, {})
    assert main(["alerts", "test", "--env-file", path]) == 1
    assert "FAIL  webhook   the webhook answers 500" in capsys.readouterr().out


def test_the_command_watches(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`redkeep watch` shows the refused login of a stranger; without the monitor's password it says what is missing."""
    path = env_file(server, tmp_path)
    guess(server, times=1, user="stranger")
    watching = [sys.executable, "-m", "redkeep.cli", "watch", "--env-file", str(path), "--seconds", "1.5"]
    ended = subprocess.run(watching, capture_output=True, text=True, timeout=60)
    assert (0, "") == (ended.returncode, ended.stderr), "each event is said once"
    assert "login refused  user=stranger  address=127.0.0.1" in ended.stdout
    assert main(["watch", "--env-file", str(path), "--seconds", "0"]) == 2
    assert "--seconds must be more than 0" in capsys.readouterr().err
    assert main(["watch", "--json", "--env-file", str(path), "--seconds", "1"]) == 0
    assert any(json.loads(each)["username"] == "stranger" for each in capsys.readouterr().out.splitlines())
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "MONITOR_PASSWORD" not in line))
    assert main(["watch", "--env-file", str(path), "--seconds", "1"]) == 2
    assert "REDIS_MONITOR_PASSWORD is not set" in capsys.readouterr().err
