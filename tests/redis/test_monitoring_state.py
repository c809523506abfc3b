"""What the monitoring keeps across restarts, and what it says when the file, a node or its own round fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from redkeep import ConfigurationError, SecurityMetricsCollector, SecurityMonitor
from redkeep.crypto.keyring import generate_key
from redkeep.monitoring import probes, service
from redkeep.monitoring.service import MonitoringService
from tests.redis.server import Server, free_port
from tests.redis.watched import env_file, guess, until

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own Redis and its kernel settings are not what is tested."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", free_port())
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.1)


def lived(path: Path, **options: Any) -> MonitoringService:
    """A monitoring that was started, has looked and probed, and was closed."""

    async def run() -> MonitoringService:
        monitoring = MonitoringService(env_file=path, **options)
        await monitoring.start()
        assert await until(lambda: monitoring.nodes()[0]["state"] != "unknown")
        await monitoring.security_status()
        await asyncio.sleep(0.3)
        await monitoring.close()
        await monitoring.close()
        return monitoring

    return asyncio.run(run())


def test_a_control_that_changed_in_between(start: Callable[..., Server], tmp_path: Path) -> None:
    """Weakened while nobody looked: the first probe after the restart says so, once, and the one after that nothing."""
    server = start()
    path = env_file(server, tmp_path, security_monitor_state_file=tmp_path / "state.json")
    assert [] == lived(path).events(kind="posture_changed")
    with server.log_in() as operator:
        operator.ask(("CONFIG", "SET", "tls-auth-clients", "optional"))
    found = [event["details"] for event in lived(path).events(kind="posture_changed")]
    assert [("mutual TLS", "ok", "weak")] == [(each["control"], each["before"], each["state"]) for each in found]
    assert 1 == len(lived(path).events(kind="posture_changed"))


def test_a_key_that_was_rotated(server: Server, tmp_path: Path) -> None:
    """A restart with a new first key is an event with both ids and neither key; ages go on from where they began."""
    old, new = generate_key(), generate_key()
    kept = {"security_monitor_state_file": tmp_path / "state.json", "redis_encryption_key": None}
    lines = env_file(server, tmp_path, **kept).read_text().replace("REDIS_ENCRYPTION_KEY=None\n", "")
    path = tmp_path / "cache.env"
    path.write_text(lines + f"REDIS_ENCRYPTION_KEYS={old}\n")
    before = lived(path)
    assert [] == before.events(kind="key_rotated")
    path.write_text(lines + f"REDIS_ENCRYPTION_KEYS={new},{old}\n")
    for _ in range(2):
        after = lived(path)
        (event,) = after.events(kind="key_rotated")
    status = asyncio.run(after.security_status())["key_ages"]
    assert [True, False] == [each["primary"] for each in status]
    assert (status[1]["key_id"], status[0]["key_id"]) == (event["details"]["before"], event["details"]["key_id"])
    assert not {old, new} & set(json.dumps(after.events()).split('"'))


NO_NUMBERS = {
    "infinity": "Infinity", "nan": "NaN", "minus infinity": "-Infinity", "too large": "1e999", "a long number": "1" + "0" * 400,
    "no date": "1e300", "deep": "[" * 100_000 + "]" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "place"),
    [*((name, "key") for name in NO_NUMBERS), *(("infinity", place) for place in ("warned", "surplus", "told", "count"))],
)
def test_a_file_with_numbers_that_are_none(
    server: Server, tmp_path: Path, value: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever stands where a number belongs: the file is set aside as it is, one warning says so, and monitoring starts anew."""
    state = tmp_path / "state.json"
    path = env_file(server, tmp_path, security_monitor_state_file=state)
    lived(path)
    saved = json.loads(state.read_text())
    node = next(iter(saved["watcher"]["nodes"].values()))
    key = next(iter(saved["keys"]["seen"]))
    if place == "warned":
        saved["events"]["warned_until"] = "here"
    elif place == "surplus":
        node["surplus"] = "here"
    elif place == "key":
        saved["keys"]["seen"][key] = "here"
    elif place == "told":
        saved["alerts"]["told"]["posture"] = "here"
    else:
        saved["events"]["events"].append({
            "type": "auth_attempt", "severity": "warning", "success": False, "timestamp": "2026-01-01T00:00:00+00:00", "username": "x",
            "details": {}, "count": "here",
        })  # fmt: skip
    spoilt = json.dumps(saved).replace('"here"', NO_NUMBERS[value])
    state.write_text(spoilt)
    caplog.clear()
    after = lived(path)
    status = asyncio.run(after.security_status())
    assert status["recent_auth_failures"] is not None
    assert 1 == len(after.events(kind="state_unusable"))
    (told,) = [record for record in caplog.records if getattr(record, "event", "") == "state_unusable"]
    assert "WARNING" == told.levelname
    assert spoilt == (tmp_path / "state.json.unusable").read_text()
    assert "up" == after.nodes()[0]["state"]
    assert json.loads(state.read_text())["version"] == saved["version"]
    assert [] == lived(path).events(kind="state_unusable")[1:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: {},
        lambda saved: {**saved, "watcher": {"nodes": {name: {} for name in saved["watcher"]["nodes"]}, "clients": []}},
        lambda saved: {**saved, "alerts": []},
        lambda saved: {**saved, "keys": {"seen": {"x": "y"}, "first": ""}},
        lambda saved: {**saved, "posture": {"login": "fine"}},
        lambda saved: {**saved, "events": {"events": [{"type": "auth_attempt"}], "tallies": [], "warned_until": 0}},
    ],
    ids=["nothing", "watcher", "alerts", "keys", "posture", "events"],
)
def test_a_file_that_holds_something_else(start: Callable[..., Server], tmp_path: Path, spoil: Callable[..., Any]) -> None:
    """One part that cannot be taken back and none is: what the server's log holds is counted anew, and once."""
    server, state = start(), tmp_path / "state.json"
    path = env_file(server, tmp_path, security_monitor_state_file=state)
    guess(server, times=7)
    assert 7 == lived(path).monitor.get_failure_count()
    saved = json.loads(state.read_text())
    state.write_text(json.dumps({**spoil(saved), "version": saved["version"]}))
    after = lived(path)
    (event,) = after.events(kind="state_unusable")
    assert "its content is not usable; counting starts again from zero" == event["details"]["reason"]
    assert 7 == after.monitor.get_failure_count()


def test_a_folder_that_refuses(server: Server, tmp_path: Path) -> None:
    """It is said once and not at each look, and the monitoring goes on."""
    after = lived(env_file(server, tmp_path, security_monitor_state_file=tmp_path / "nowhere" / "state.json"))
    (event,) = after.events(kind="state_unusable")
    assert "cannot be written" in event["details"]["reason"]
    assert "up" == after.nodes()[0]["state"]


def test_a_file_of_another_process(start: Callable[..., Server], tmp_path: Path) -> None:
    """The second that comes says so, leaves the file alone and works without; when the first has ended it is free again."""
    server, state = start(), tmp_path / "state.json"
    path = env_file(server, tmp_path, security_monitor_state_file=state)

    async def run() -> None:
        first, second = MonitoringService(env_file=path), MonitoringService(env_file=path)
        await first.start()
        await second.start()
        (event,) = second.events(kind="state_unusable")
        assert "belongs to another process; name another file in SECURITY_MONITOR_STATE_FILE" in event["details"]["reason"]
        await asyncio.to_thread(guess, server, times=3)
        assert await until(lambda: second.monitor.get_failure_count() == 3)
        await first.close()
        before = state.read_bytes()
        await second.close()
        assert before == state.read_bytes()
        assert [] == first.events(kind="state_unusable")

    asyncio.run(run())
    assert [] == lived(path).events(kind="state_unusable")


def test_a_disk_that_fills(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written later is said once an hour, and the looks go on."""
    writes = []

    def full(path: Path, state: dict[str, Any]) -> None:
        writes.append(path)
        raise ConfigurationError("the monitoring's state cannot be written: No space left on device; check who owns the folder")

    monkeypatch.setattr("redkeep.monitoring.keeper.write_state", full)
    after = lived(env_file(server, tmp_path, security_monitor_state_file=tmp_path / "state.json"))
    assert len(writes) > 1
    (event,) = after.events(kind="state_unusable")
    assert ("error", "up") == (event["severity"], after.nodes()[0]["state"])
    assert "No space left" in event["details"]["reason"]


def test_where_the_state_lies(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's STATE_DIRECTORY when nothing is named."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    lived(env_file(server, tmp_path))
    assert (tmp_path / "monitoring.json").exists()


def test_several_nodes(start: Callable[..., Server], tmp_path: Path) -> None:
    """Each node that is named is watched; one that is away is down, and hides nothing of the other."""
    server, away = start(), free_port()
    path = env_file(server, tmp_path, security_monitor_nodes=f"127.0.0.1:{away},127.0.0.1:{server.port},127.0.0.1:{away}")

    async def run() -> MonitoringService:
        monitoring = MonitoringService(env_file=path)
        await asyncio.to_thread(guess, server, times=3)
        await monitoring.look()
        await monitoring.look()
        await monitoring.close()
        return monitoring

    found = asyncio.run(run())
    assert ["down", "up"] == [node["state"] for node in found.nodes()]
    assert (3, 1) == (found.monitor.get_failure_count(), len(found.events(kind="node_down")))
    assert [f"127.0.0.1:{server.port}"] == [each["node"] for each in found.metrics()["history"]["latency"]]


@pytest.mark.parametrize("nodes", ["user:pw@10.0.0.1:1", "10.0.0.1:1/0", "[::1", "10.0.0.1:x"])
def test_nodes_that_are_none(server: Server, tmp_path: Path, nodes: str) -> None:
    """One sentence that names the variable."""
    with pytest.raises(ConfigurationError, match="SECURITY_MONITOR_NODES must be host:port"):
        MonitoringService(env_file=env_file(server, tmp_path, security_monitor_nodes=nodes))


def test_without_the_monitors_password(server: Server, tmp_path: Path) -> None:
    """Nobody to watch as: said for the node, and the number of failed logins is None, not 0."""
    path = env_file(server, tmp_path)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "MONITOR_PASSWORD" not in line))
    found = lived_without_watching(path)
    assert ("unknown", None) == (found.nodes()[0]["state"], asyncio.run(found.security_status())["recent_auth_failures"])
    assert "REDIS_MONITOR_PASSWORD is not set" in found.nodes()[0]["reason"]


def lived_without_watching(path: Path) -> MonitoringService:
    async def run() -> MonitoringService:
        monitoring = MonitoringService(env_file=path)
        await monitoring.look()
        await monitoring.security_status()
        await monitoring.close()
        return monitoring

    return asyncio.run(run())


def test_what_a_cache_of_this_process_notes_is_logged_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache has written it into the log already; the service counts it, and writes no second line."""
    monitoring = MonitoringService(env_file=env_file(server, tmp_path), state_file=None)
    own = SecurityMonitor()
    monitoring.include(own)
    with caplog.at_level("INFO"):
        own.record("decryption_failure", key="k")
        own.record("tls_failure", reason="r")
    assert ["decryption_failure", "tls_failure"] == [record.event for record in caplog.records if record.message == "security_event"]
    assert (1, 1) == tuple(monitoring.monitor.count(kind) for kind in ("decryption_failure", "tls_failure"))


def test_what_a_cache_of_this_process_notes(server: Server, tmp_path: Path) -> None:
    """Values that do not open are counted as often as they were, when they were; its logins too, also those before, but for the refused
    ones: they are the server's to count."""
    monitoring = MonitoringService(env_file=env_file(server, tmp_path), state_file=None)
    own, figures = SecurityMonitor(), SecurityMetricsCollector()
    figures.record_auth_attempt(True, count=2)
    monitoring.include(own, figures)
    figures.record_encryption_operation("decrypt", False)
    when = (datetime.now(UTC) - timedelta(hours=3)).timestamp()
    own.record("decryption_failure", count=3, when=when, key="k")
    own.record("auth_attempt", count=5)
    own.record("auth_attempt", success=True)
    monitoring.monitor.record("auth_attempt")
    assert {"total_attempts": 4, "success_rate_percent": 75.0, "recent_failures": 1} == monitoring.metrics()["summary"]["authentication"]
    (event,) = monitoring.events(kind="decryption_failure")
    assert ("decryption_failure", 3, {"key": "k"}) == (event["type"], event["count"], event["details"])
    assert abs(datetime.fromisoformat(event["timestamp"]).timestamp() - when) < 1
    found = monitoring.metrics()
    assert (0, 1) == (found["rates"]["encryption_errors_per_hour"], found["summary"]["encryption"]["error_count"])
    assert [] == monitoring.events(since=datetime.now(UTC)) == monitoring.events(severity="error") == monitoring.events(limit=-1)


def test_a_round_that_fails_is_not_the_last(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of our own is logged, and the next round comes."""
    rounds = []

    async def broken(self: MonitoringService) -> None:
        rounds.append(1)
        raise RuntimeError("not of Redis")

    monkeypatch.setattr(MonitoringService, "look", broken)

    async def run() -> None:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path))
        await monitoring.start()
        await monitoring.start()
        assert await until(lambda: len(rounds) >= 2)
        await monitoring.close()

    asyncio.run(run())
    assert "monitoring_failed" in caplog.messages


def test_an_old_posture_is_no_answer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status older than four intervals is found out anew, by one of two that ask at once."""
    probed = []
    real = service.assess
    monkeypatch.setattr(service, "assess", lambda *a, **k: (probed.append(1), real(*a, **k))[1])

    async def run() -> None:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path), interval=0.05)
        await asyncio.gather(monitoring.security_status(), monitoring.security_status())
        first = len(probed)
        await asyncio.sleep(0.3)
        await monitoring.security_status()
        assert len(probed) == first + 1
        await monitoring.close()

    asyncio.run(run())


def test_a_weakness_of_a_server_that_stops_is_not_over(start: Callable[..., Server], tmp_path: Path) -> None:
    """Weakened, told, then stopped: nobody has mended it, and nobody is told so."""
    server = start()
    with server.log_in() as operator:
        operator.ask(("CONFIG", "SET", "tls-auth-clients", "optional"))

    async def run() -> list[str]:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path), state_file=None)
        await monitoring.probe()
        server.stop()
        await monitoring.probe()
        await monitoring.close()
        return [alert["state"] for alert in monitoring.alerts()["recent"]]

    assert ["firing"] == asyncio.run(run())


def test_a_node_that_goes_and_comes(start: Callable[..., Server], tmp_path: Path) -> None:
    """Down once, however long it lasts, with the reason; up again when it answers; and never a failed login."""
    server = start()

    async def run() -> MonitoringService:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path))
        await monitoring.start()
        assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
        server.stop()
        assert await until(lambda: monitoring.nodes()[0]["state"] == "down")
        assert "check that Redis runs and listens there" in monitoring.nodes()[0]["reason"]
        assert monitoring.nodes()[0]["latency_ms"] is None
        server.start_again()
        assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
        await monitoring.close()
        return monitoring

    found = asyncio.run(run())
    assert (1, 1) == (len(found.events(kind="node_down")), len(found.events(kind="node_up")))
    assert 0 == found.monitor.get_failure_count()


def test_a_monitor_whose_password_is_refused(server: Server, tmp_path: Path) -> None:
    """The node is down, and the reason says which password to look at; it is not repeated at each look."""
    found = lived(env_file(server, tmp_path, redis_monitor_password="another-" + "x1y2z3" * 4))
    (node,) = found.nodes()
    assert "down" == node["state"]
    assert "is the password of monitor that of the last deploy?" in node["reason"]
    assert 1 == len(found.events(kind="node_down"))


def test_a_log_that_may_not_be_read(start: Callable[..., Server], tmp_path: Path) -> None:
    """ACL LOG is refused to the user monitor: one event, the reason names command and user, nothing else waits for it; allowed
    again, what happened in between is counted."""
    server = start()

    async def run() -> MonitoringService:
        monitoring = MonitoringService(env_file=env_file(server, tmp_path))
        await monitoring.start()
        assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
        with server.log_in() as operator:
            assert ["OK"] == operator.ask(("ACL", "SETUSER", "monitor", "-acl|log"))
            await asyncio.to_thread(guess, server, times=3, user="stranger")
            assert await until(lambda: monitoring.nodes()[0]["state"] == "down")
            assert "the ACL refuses ACL LOG to user monitor" in monitoring.nodes()[0]["reason"]
            assert (await monitoring.security_status())["redis_authenticated"]
            assert ["OK"] == operator.ask(("ACL", "SETUSER", "monitor", "+acl|log"))
        assert await until(lambda: monitoring.nodes()[0]["state"] == "up", seconds=20)
        await monitoring.close()
        return monitoring

    found = asyncio.run(run())
    assert 1 == len(found.events(kind="node_down"))
    assert 3 == found.monitor.get_failure_count()
