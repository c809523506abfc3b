"""The routes tell what is so: attacks, weakened servers, a Redis that goes; and they do what they say."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from redkeep.access.tls import client_context
from redkeep.monitoring.wire import Wire
from tests.api.service import Api, environment, serving
from tests.redis.caches import opened
from tests.redis.server import Server

NASTY = "\r\nroot<script>alert(1)</script>\x1b[31m" + "A" * 10_000


def eventually(there: Callable[[], bool], *, seconds: float = 20) -> bool:
    """Whether it became so in time."""
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        time.sleep(0.1)
    return there()


def guess(server: Server, *names: str) -> None:
    """Wrong passwords of a client that is not ours."""
    with Wire("127.0.0.1", server.port, context=client_context(server.target()), timeout=3.0) as wire:
        for name in names:
            (reply,) = wire.ask(("AUTH", name, "not-the-password"))
            assert str(reply).startswith("WRONGPASS")


def test_the_status_has_the_five_fields_and_their_evidence(api: Api) -> None:
    """Both paths give the same document; nothing in it is a secret."""
    long, short = (api.get(path).json() for path in ("/internal/monitoring/security-status", "/monitoring/security-status"))
    assert long == short
    five = ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")
    assert [True] * 4 == [long[name] for name in five]
    assert {"login", "TLS", "rights", "data", "network", "files", "host"} == {control["group"] for control in long["posture"]}
    node = api.get("/internal/monitoring/nodes").json()["nodes"][0]["node"]
    assert {("server", node), ("client", None), ("CA", None)} == {(each["whose"], each["node"]) for each in long["certificates"]}
    assert [True] == [key["primary"] for key in long["key_ages"]]


def test_a_weakened_server_turns_the_status(start: Callable[..., Server], tmp_path: Path) -> None:
    """The answer is what the running server does, without a restart of the API."""
    server = start()
    with serving(environment(server), tmp_path, "--interval", "1") as api, server.log_in() as operator:
        assert api.get("/monitoring/security-status").json()["redis_authenticated"]
        assert operator.ask(("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all")) == ["OK"]
        assert eventually(lambda: not api.get("/monitoring/security-status").json()["redis_authenticated"])
        status = api.get("/monitoring/security-status").json()
        weak = {control["name"]: control["remedy"] for control in status["posture"] if control["state"] == "weak"}
        assert weak.get("no login without password")
        assert ("weak", True) == (status["state"], "redkeep_posture" in api.get("/metrics").text)


def test_an_attack_is_told(start: Callable[..., Server], tmp_path: Path) -> None:
    """Refused logins of a stranger appear as events, figures and an alert, hostile names as harmless text."""
    server = start()
    with serving(environment(server), tmp_path) as api:
        assert eventually(lambda: api.get("/internal/monitoring/health").json()["status"] == "healthy")
        before = datetime.now(UTC) - timedelta(minutes=1)
        guess(server, *["cache_service"] * 11, NASTY)
        assert eventually(lambda: api.get("/monitoring/security-status").json()["recent_auth_failures"] == 12)
        found = api.get("/internal/monitoring/events", params={"kind": "auth_attempt", "since": before.isoformat()}).json()["events"]
        names = " ".join(event["username"] for event in found)
        assert "cache_service" in names
        assert r"\r\nroot<script>" in names
        assert not re.search(r"[\x00-\x1f\x7f]", names)
        assert max(len(event["username"]) for event in found) <= 100
        assert 12 == api.get("/internal/monitoring/metrics").json()["rates"]["auth_failures_per_hour"]
        assert 'redkeep_security_events_total{kind="auth_attempt",success="false"} 12.0' in api.get("/metrics").text
        alerts = api.get("/internal/monitoring/alerts").json()
        assert "auth_failures_per_hour" in {alert["kind"] for alert in alerts["active"]}
        assert [] == api.get("/internal/monitoring/events?kind=key_rotated").json()["events"]
        assert 1 == len(api.get("/internal/monitoring/events?limit=1").json()["events"])
        lines = [json.loads(line) for line in api.log.read_text().splitlines() if line.startswith("{")]
        assert any(line["message"] == "security_event" and r"\r\nroot" in str(line["user"]) for line in lines)


@pytest.mark.parametrize(
    "query",
    ["kind=nonsense", "severity=bad", "limit=0", "limit=1001", "limit=x", "since=yesterday", "since=2026-01-01T00:00:00", "since=17"],
)
def test_a_wrong_parameter_is_one_sentence(api: Api, query: str) -> None:
    """It names the parameter and does not repeat the value."""
    answer = api.get(f"/internal/monitoring/events?{query}")
    name, _, value = query.partition("=")
    assert (422, name) == (answer.status_code, answer.json()["detail"].partition(":")[0])
    assert value not in answer.json()["detail"] or len(value) < 3


def test_invalidation_reaches_other_processes(server: Server, api: Api) -> None:
    """What another process cached is a miss after the POST, its own memory tier included."""

    async def run() -> None:
        async with opened(server) as cache:
            await cache.cache_response("text", "qa", {}, {"answer": 1})
            await cache.cache_response("text", "summarize", {}, {"answer": 2})
            answer = await asyncio.to_thread(api.ask, "POST", "/internal/cache/invalidate?pattern=op:qa&operation_context=test")
            assert (200, "Cache invalidated for pattern: op:qa") == (answer.status_code, answer.json()["message"])
            end = time.monotonic() + 20
            while await cache.get_cached_response("text", "qa", {}) and time.monotonic() < end:
                await asyncio.sleep(0.1)
            assert await cache.get_cached_response("text", "qa", {}) is None
            assert await cache.get_cached_response("text", "summarize", {}) is not None

    asyncio.run(run())
    assert "op:qa" in api.get("/internal/cache/invalidation-stats").json()["patterns"]["most_common_patterns"]


def test_a_pattern_that_nobody_may_search_for(api: Api) -> None:
    """Without the janitor's password: 409, and what can be done instead."""
    answer = api.ask("POST", "/internal/cache/invalidate?pattern=Hello")
    assert (409, True) == (answer.status_code, "REDIS_JANITOR_PASSWORD" in answer.json()["detail"])


def test_redis_goes_and_comes(start: Callable[..., Server], tmp_path: Path) -> None:
    """Not ready, and said everywhere, while the process lives on; ready again by itself."""
    server = start()
    with serving(environment(server), tmp_path) as api:
        assert eventually(lambda: api.get("/health").status_code == 200)
        server.process.send_signal(signal.SIGSTOP)
        try:
            assert eventually(lambda: api.get("/health/ready").status_code == 503)
            assert 200 == api.get("/health/live").status_code
            assert {"status": "unavailable"} == api.get("/health", headers={}).json()
            assert 503 == api.ask("POST", "/internal/cache/invalidate?pattern=op:qa").status_code
            assert "unavailable" == api.get("/internal/cache/status").json()["redis"]["status"]
            assert eventually(lambda: api.get("/internal/monitoring/nodes").json()["nodes"][0]["state"] == "down")
            assert "degraded" == api.get("/internal/monitoring/health").json()["status"]
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert eventually(lambda: api.get("/health/ready").status_code == 200, seconds=40)


def test_it_ends_when_told(server: Server, tmp_path: Path) -> None:
    """SIGTERM: the requests under way are answered, the state is written, the exit code is 0."""
    state = tmp_path / "monitoring.json"
    with serving(environment(server, security_monitor_state_file=state), tmp_path) as api:
        assert api.get("/monitoring/security-status").status_code == 200
        api.process.send_signal(signal.SIGTERM)
        assert 0 == api.process.wait(15)
    assert "keys" in json.loads(state.read_text())


def test_it_starts_while_redis_is_down(start: Callable[..., Server], tmp_path: Path) -> None:
    """Then it says so: nothing is green that was not seen."""
    server = start()
    server.stop()
    with serving(environment(server), tmp_path) as api:
        status = api.get("/monitoring/security-status").json()
        assert [False] * 4 == [status[n] for n in ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")]
        assert status["state"] != "ok"
