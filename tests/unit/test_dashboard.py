"""The dashboard without a browser: its settings, its words, and that no value becomes markup."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from redkeep.dashboard import app, pieces, plots, words
from redkeep.dashboard.client import ApiAway, Client, SettingsWrong, check_url, read_key
from redkeep.monitoring.events import EventType

NASTY = "<script>alert(1)</script>&\"'"
EVENT = {"type": "auth_attempt", "severity": "warning", "success": False, "username": NASTY, "details": {NASTY: NASTY}, "count": 3}


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://127.0.0.1:8765", True), ("http://[::1]:8765/", True), ("http://localhost:1", True), ("https://api.example:8765", True),
        ("http://api.example:8765", False), ("ftp://127.0.0.1", False), ("127.0.0.1:8765", False),
        ("http://user:pass@127.0.0.1", False),  # pragma: allowlist secret - refused
        ("http://localhost.example:1", False),
        ("http://127.0.0.1:99999", False), ("https://api.example/?key=1", False), ("", False), ("http://127.0.0.1.example", False),
    ],
)  # fmt: skip
def test_the_key_never_travels_in_clear(url: str, fine: bool) -> None:
    """TLS, or this very host."""
    if fine:
        assert url.rstrip("/") == check_url(url)
    else:
        with pytest.raises(SettingsWrong, match="REDKEEP_API_URL"):
            check_url(url)
    assert "http://api:8765" == check_url("http://api:8765", insecure_http=True)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "REDKEEP_API_KEY is not set"),
        ({"REDKEEP_API_KEY": "a", "REDKEEP_API_KEY_FILE": "/b"}, "both set"),
        ({"REDKEEP_API_KEY_FILE": "/nowhere"}, "cannot be read"),
        ({"REDKEEP_API_KEY": "a\nb"}, "a header cannot carry"),  # pragma: allowlist secret - refused
    ],
)
def test_a_key_that_will_not_do(variables: dict[str, str], said: str) -> None:
    """One sentence that names the variable."""
    with pytest.raises(SettingsWrong, match=said):
        read_key(variables)


def test_a_key_from_a_file(tmp_path: Path) -> None:
    """Without the newline at its end."""
    path = tmp_path / "key"
    path.write_text("the-key\n")
    assert "the-key" == read_key({"REDKEEP_API_KEY_FILE": str(path)})


def test_nobody_answers() -> None:
    """The sentence says how to start the API; the next questions do not wait for the same silence."""
    client = Client("http://127.0.0.1:1", "key")
    for _ in range(2):
        with pytest.raises(ApiAway, match="redkeep serve"):
            client.get("/health")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "ssh -L"),
        (["--port", "0"], "--port must be"),
        ([], "REDKEEP_API_KEY is not set"),
    ],
)
def test_wrong_words_stop_the_start(arguments: list[str], said: str) -> None:
    """`redkeep dashboard` refuses with one sentence before anything listens."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REDKEEP_")}
    command = [sys.executable, "-m", "redkeep.cli", "dashboard", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (2, 1) == (ended.returncode, len(ended.stderr.splitlines()))
    assert said in ended.stderr


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Address already in use"), ("nowhere.invalid", "")])
def test_where_nobody_can_listen(host: str, reason: str) -> None:
    """A port in use, a name that does not resolve: `redkeep dashboard` says so in one sentence before it becomes Streamlit."""
    environment = {**os.environ, "REDKEEP_API_KEY": "k"}  # pragma: allowlist secret - opens nothing
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "redkeep.cli", "dashboard", "--host", host, "--port", port, "--insecure-open"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (2, "", 1) == (ended.returncode, ended.stdout, len(ended.stderr.splitlines()))
    assert ended.stderr.startswith(f"redkeep: --host {host} --port {port} cannot be used: {reason}")


def test_no_value_becomes_markup() -> None:
    """Whatever the API says, in each piece."""
    control = {"name": NASTY, "state": "weak", "evidence": NASTY, "remedy": NASTY, "group": NASTY}
    alert = {"title": NASTY, "message": NASTY, "state": NASTY, "timestamp": None}
    node: dict[str, Any] = {"node": NASTY, "state": "up", "role": NASTY, "reason": NASTY, "engine": NASTY, "version": NASTY}
    made = [
        pieces.hero("weak", NASTY), pieces.posture([control]), pieces.events([{**EVENT, "timestamp": None}]), pieces.nodes([node]),
        pieces.nodes([{**node, "state": "down"}]), pieces.alerts([alert], ""), pieces.alerts([], NASTY), pieces.away(ValueError(NASTY)),
        pieces.channels([{"name": NASTY, "enabled": True, "last_error": NASTY}]), pieces.deliveries({NASTY: {"ok": False, "detail": NASTY}}),
        pieces.tiles([(NASTY, NASTY, NASTY, NASTY)]),
        pieces.ends([{"state": "ok", "whose": NASTY, "ends": NASTY, "days_left": 1}], []),
        pieces.ends([], [{"key_id": NASTY, "primary": True, "first_seen": NASTY, "age_days": 0}]),
    ]  # fmt: skip
    for html in made:
        assert "<script" not in html
        assert not re.search(r"""&(?!(amp|lt|gt|quot|#x27);)""", html)
        assert "&lt;" in html


def test_what_stands_in_backticks_is_code() -> None:
    """In sentences of the API, and still no markup."""
    assert "<p>say <code>redkeep &lt;b&gt;</code>, it&#x27;s `one</p>" in pieces.hero("weak", "say `redkeep <b>`, it's `one")
    finding = {"name": "n", "group": "g", "state": "weak", "evidence": "`a` is on", "remedy": "set `b`"}
    assert "<code>a</code> is on<mark>set <code>b</code></mark>" in pieces.posture([finding])


def test_a_change_of_the_posture_reads_as_one() -> None:
    """Which control, of several nodes on which, from what to what, what was found, and what to do; one that is new was nothing before."""
    details = {"control": NASTY, "state": "weak", "before": "ok", "evidence": "found", "remedy": "do"}
    event = {**EVENT, "type": "posture_changed", "timestamp": None, "details": details}
    assert "</b>: holds → weak · found<mark>do</mark>" in pieces.events([event])
    assert "<script" not in pieces.events([event])
    assert "</b> on 10.0.0.1:6379: holds → weak" in pieces.events([{**event, "details": {**details, "node": "10.0.0.1:6379"}}])
    assert "<script" not in pieces.events([{**event, "details": {**details, "node": NASTY}}])
    assert "</b>: weak · found" in pieces.events([{**event, "details": {**details, "before": ""}}])
    assert "</b>: holds · found</div>" in pieces.events([{**event, "details": {**details, "before": "", "state": "ok", "remedy": ""}}])


def test_the_weak_come_first() -> None:
    """Then what cannot be told, what holds, and what does not apply."""
    states = ("ok", "not applicable", "weak", "unknown")
    html = pieces.posture([{"name": state, "state": state, "evidence": "", "remedy": "", "group": "host"} for state in states])
    assert ["weak", "unknown", "ok", "not applicable"] == re.findall(r"<b>([^<]+)</b>", html)


@pytest.mark.parametrize("state", ["ok", "weak", "unknown"])
def test_head_and_side_have_one_verdict(state: str) -> None:
    """The posture's, and never "ok" while one of the four fields is not true."""
    status = dict.fromkeys(words.FIELDS, True) | {"state": state}
    assert state == words.verdict(status)
    assert {"weak" if state == "ok" else state} == {words.verdict(status | {field: False}) for field in words.FIELDS}


CHANNEL = {"name": "email", "enabled": True, "delivered": 3}
ALERT = {"title": "t", "message": "m", "timestamp": None}
KEY = {"key_id": "k", "first_seen": "", "age_days": 0}


@pytest.mark.parametrize(
    ("html", "kind", "said"),
    [
        (pieces.nodes([{"node": "n", "state": "down", "reason": "no connection"}]), "weak", "no connection"),
        (pieces.nodes([{"node": "n", "state": "unknown", "reason": "not asked yet"}]), "unknown", "not asked yet"),
        (pieces.nodes([{"node": "n", "state": "up", "reason": "", "uptime_seconds": 7_200}]), "ok", "up 2 h"),
        (pieces.events([{**EVENT, "severity": "error", "timestamp": None}]), "weak", "× 3"),
        (pieces.events([{**EVENT, "severity": "info", "count": 1, "timestamp": None}]), "ok", "login refused"),
        (pieces.alerts([{**ALERT, "state": "firing"}], ""), "weak", "firing"),
        (pieces.alerts([{**ALERT, "state": "resolved"}], ""), "ok", "resolved"),
        (pieces.channels([CHANNEL]), "ok", "3 delivered"),
        (pieces.channels([{"name": "log", "enabled": True}]), "ok", "always on"),
        (pieces.channels([{**CHANNEL, "last_error": "refused"}]), "weak", "refused"),
        (pieces.channels([{**CHANNEL, "enabled": False}]), "not-applicable", "not configured"),
        (pieces.deliveries({"email": {"ok": False, "detail": "refused"}}), "weak", "failed"),
        (pieces.deliveries({"email": {"ok": True, "detail": ""}}), "ok", "delivered"),
        (pieces.ends([], [{**KEY, "primary": True}]), "ok", "encrypts and decrypts"),
        (pieces.ends([], [{**KEY, "primary": False}]), "ok", "only decrypts"),
        (pieces.ends([{"state": "weak", "whose": "server", "ends": "2026-01-31T12:00", "days_left": 3}], []), "weak", "expires 2026-01-31"),
        (pieces.ends([{"state": "ok", "whose": "server", "node": "<a:1", "ends": "2026-01-31", "days_left": 3}], []), "ok", "· &lt;a:1"),
    ],
)
def test_a_row_has_the_colour_of_its_state(html: str, kind: str, said: str) -> None:
    """And the word beside it."""
    assert [f"rk-{kind}"] == re.findall(r'<li class="([^"]+)"', html)
    assert said in html


def figures(**rates: int) -> dict[str, Any]:
    return {"rates": {"permission_denied_per_hour": 0, "encryption_errors_per_hour": 0, **rates}}


def test_a_glance_is_never_green_without_proof() -> None:
    """What nobody watches is unknown and shows a dash; what is not nothing is weak; what is nothing is good."""
    up: dict[str, Any] = {"state": "up", "latency_ms": 0.25, "hits_total": 50, "misses_total": 50}
    away: dict[str, Any] = {"state": "down", "latency_ms": None}
    unasked: dict[str, Any] = {"state": "unknown", "latency_ms": None}

    def states(failures: int | None, servers: list[dict[str, Any]], **rates: int) -> list[tuple[str, str]]:
        tiles = app.glance({"recent_auth_failures": failures, "certificates": []}, figures(**rates), servers)
        return [(value, state) for _, value, _, state in tiles]

    assert [("0", "ok"), ("0", "ok"), ("0", "ok"), ("1 of 1", "ok"), ("50 %", "neutral")] == states(0, [up])
    assert [("–", "unknown"), ("0 of 1", "unknown"), ("–", "neutral")] == [states(None, [unasked])[each] for each in (0, 3, 4)]
    assert [("3", "weak"), ("2", "weak"), ("1", "weak"), ("1 of 2", "weak"), ("50 %", "neutral")] == states(
        3, [up, away], permission_denied_per_hour=2, encryption_errors_per_hour=1
    )
    assert ("90 %", "neutral") == states(0, [up, {**up, "hits_total": 400, "misses_total": 0}, {**up, "hits_total": 0, "misses_total": 0}])[4]
    assert ("–", "neutral") == states(0, [{**up, "hits_total": 0, "misses_total": 0}])[4]
    ending = {"days_left": 3, "whose": "server", "node": "a:1", "state": "weak"}
    assert ("Next certificate", "3 d", "server a:1", "weak") == app.glance(
        {"recent_auth_failures": 0, "certificates": [ending, {**ending, "days_left": 9}]}, figures(), [up]
    )[5]


def test_every_kind_of_event_has_a_word() -> None:
    """None is shown by its technical name."""
    assert set(get_args(EventType)) - {"probe", "alert"} <= set(words.KINDS)
    assert "login refused" == words.kind(EVENT)


def test_amounts_are_short() -> None:
    """As a person says them."""
    assert ["–", "0", "9999", "12.3 k", "1.5 M"] == [words.amount(n) for n in (None, 0, 9_999, 12_345, 1_500_000)]
    assert ["–", "12 B", "1.5 KiB", "3.0 GiB"] == [words.size(n) for n in (None, 12, 1_536, 3 * 2**30)]
    assert ["1 s", "119 s", "2 min", "119 min", "2 h", "3 d"] == [words.span(n) for n in (1, 119, 120, 7_199, 7_200, 259_200)]
    assert ["0 days", "1 day", "2 days"] == [words.days(n) for n in (0, 1, 2)]
    now = datetime.now(UTC)
    assert ("5 h ago", "", "0 s ago") == (
        words.ago((now - timedelta(hours=5)).isoformat(), now=now), words.ago(None), words.ago((now + timedelta(hours=1)).isoformat(), now=now)
    )  # fmt: skip


def test_plots_hold_the_points() -> None:
    """Both series in one, and an axis of whole numbers that reaches over the highest bar."""
    history = {"auth_failures": [{"time": "t", "count": 7}], "permission_denied": [{"time": "t", "count": 2}]}
    plot = plots.refusals(history)
    assert {("logins", 7), ("commands", 2)} == {(row["refused"], row["count"]) for row in plot["data"]["values"]}
    assert [0, 9] == plot["encoding"]["y"]["scale"]["domain"]


@pytest.mark.parametrize(("seconds", "clock"), [(0, "%H:%M:%S"), (299, "%H:%M:%S"), (301, "%H:%M")])
def test_a_short_axis_has_seconds(seconds: int, clock: str) -> None:
    """So that no two of its marks have the same name."""
    first = datetime(2026, 1, 2, tzinfo=UTC)
    points = [{"node": "n", "time": (first + timedelta(seconds=each)).isoformat(), "milliseconds": 1.0} for each in (seconds, 0)]
    plot = plots.latencies(points)
    assert clock == plot["encoding"]["x"]["axis"]["format"] == plot["encoding"]["tooltip"][0]["format"]
    assert points == plot["data"]["values"]
