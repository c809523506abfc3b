"""The figures for others: Prometheus' text, rules and dashboard as its own tool reads them, OpenTelemetry as a collector gets it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from redkeep import ConfigurationError
from redkeep.monitoring import service
from redkeep.monitoring.service import MonitoringService
from tests.redis.server import Server, free_port
from tests.redis.watched import env_file, guess, until

DOCS = Path(__file__).parents[2] / "docs/monitoring"
RULES, DASHBOARD = DOCS / "rules.yml", DOCS / "dashboard.json"
METRIC = re.compile(r"\bredkeep_\w+")


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of Prometheus' own tool."""
    return subprocess.run([DOCS.parents[1] / "tests/promtool.sh"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def text(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a scrape of a live monitoring gets."""
    path = env_file(server, tmp_path_factory.mktemp("scrape"))

    async def run() -> str:
        monitoring = MonitoringService(env_file=path)
        await monitoring.look()
        await monitoring.probe()
        found = monitoring.metrics_text()
        await monitoring.close()
        return found

    return asyncio.run(run())


def expressions() -> list[str]:
    """Every query of the dashboard, with the variables that Grafana would put in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [each.replace("$__rate_interval", "5m").replace("$instance", ".*") for each in found]


def test_the_text_is_what_prometheus_reads(promtool: str, text: str, server: Server) -> None:
    """promtool has nothing to say about the text of a live monitoring; posture, node and certificates are in it."""
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    assert 'redkeep_posture{control="login",state="ok"} 1.0' in text
    assert f'redkeep_node_up{{node="127.0.0.1:{server.port}"}} 1.0' in text
    assert f'redkeep_certificate_seconds_left{{node="127.0.0.1:{server.port}",whose="server"}}' in text
    assert 'redkeep_certificate_seconds_left{node="",whose="CA"}' in text
    assert 'redkeep_security_events_total{kind="decryption_failure",success="false"} 0.0' in text


def test_rules_and_dashboard_ask_for_what_is_there(text: str) -> None:
    """Each metric that a rule or a panel names is one that a scrape brings."""
    there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    asked = set(METRIC.findall(RULES.read_text())) | {name for each in expressions() for name in METRIC.findall(each)}
    assert len(asked) > 15
    assert set() == asked - there


def test_the_dashboard_parses(promtool: str, tmp_path: Path) -> None:
    """promtool reads every query of the dashboard; no panel lies over another, every target has the dashboard's source."""
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", tmp_path / "panels.yml"], check=True, capture_output=True)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken = [(x, y) for p in (each["gridPos"] for each in panels) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert {"${datasource}"} == {target["datasource"]["uid"] for panel in panels for target in panel["targets"]}


def series(name: str, values: str) -> dict[str, str]:
    return {"series": name, "values": values}


def test_the_rules_fire(promtool: str, tmp_path: Path) -> None:
    """promtool plays series through the rules: a weak control, a node that is down, ten guesses, a dead channel, silence."""
    node, guesses = 'redkeep_node_up{node="a:6380"}', 'redkeep_security_events_total{kind="auth_attempt", success="false"}'
    weak, failed = 'redkeep_posture{control="login", state="weak"}', 'redkeep_alert_deliveries_total{channel="email", result="failed"}'
    checked = series("redkeep_posture_checked_timestamp_seconds", "0x5 _x60")
    cases = {
        "RedkeepControlWeak": (series(weak, "1x60"), {"control": "login", "state": "weak"}, "critical", "5m"),
        "RedkeepNodeDown": (series(node, "0x60"), {"node": "a:6380"}, "critical", "5m"),
        "RedkeepLoginsRefused": (series(guesses, "0 0 12x60"), {"kind": "auth_attempt", "success": "false"}, "warning", "5m"),
        "RedkeepAlertNotDelivered": (series(failed, "0 0 1x60"), {"channel": "email", "result": "failed"}, "warning", "5m"),
        "RedkeepPostureStale": (checked, {}, "warning", "6m"),
        "RedkeepUnseen": (checked, {}, "critical", "40m"),
    }
    tests = [
        {
            "interval": "1m", "input_series": [played], "name": name,
            "alert_rule_test": [{"eval_time": when, "alertname": name, "exp_alerts": [{"exp_labels": {**labels, "severity": severity}}]}],
        }
        for name, (played, labels, severity, when) in cases.items()
    ]  # fmt: skip
    wordless, annotated = re.subn(r" +annotations:\n(?: {10}.*\n)+", "", RULES.read_text())  # what an alert says may change
    assert annotated == RULES.read_text().count("- alert:")
    (tmp_path / "rules.yml").write_text(wordless)
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
    done = subprocess.run([promtool, "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr), done.stdout


class Collector:
    """What an OTLP collector got: metric name and attributes -> the last value; `answer` is the status of the next reply."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.kinds: dict[str, str] = {}
        self.resources: set[tuple[str, str]] = set()
        self.requests = 0
        self.answer = 200
        self.hangs = threading.Event()
        self.hangs.set()

    def take(self, body: bytes) -> None:
        self.requests += 1
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resources |= {(each.key, each.value.string_value) for each in resource.resource.attributes}
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                self.kinds[metric.name] = str(metric.WhichOneof("data"))
                for point in getattr(metric, self.kinds[metric.name]).data_points:
                    labels = tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
                    self.values[metric.name, labels] = point.as_double


@contextmanager
def collector() -> Iterator[tuple[str, Collector]]:
    """A running one; yields its URL and what it gets."""
    taken = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.take(self.rfile.read(int(self.headers["Content-Length"])))
            taken.hangs.wait(60)
            self.send_response(taken.answer)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1/metrics", taken
    finally:
        listening.shutdown()
        listening.server_close()


def test_a_collector_gets_the_figures(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real OTLP request brings posture, nodes and counted logins; the last one is sent at the end."""
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.1)
    with collector() as (url, taken):
        path = env_file(server, tmp_path, security_monitor_otlp_endpoint=url)

        async def run() -> None:
            monitoring = MonitoringService(env_file=path, interval=0.5)
            await monitoring.start()
            await asyncio.to_thread(guess, server, times=3, user="otlp-guest")
            assert await until(lambda: ("redkeep.posture", (("control", "login"), ("state", "ok"))) in taken.values)
            assert await until(lambda: monitoring.monitor.get_failure_count() >= 3)
            await asyncio.sleep(0.2)
            await monitoring.close()

        asyncio.run(run())
    assert 1.0 == taken.values["redkeep.node_up", (("node", f"127.0.0.1:{server.port}"),)]
    assert 3.0 <= taken.values["redkeep.security_events", (("kind", "auth_attempt"), ("success", "false"))]
    assert ("gauge", "sum") == (taken.kinds["redkeep.posture"], taken.kinds["redkeep.security_events"])


def test_the_last_figures_are_sent_at_the_end(server: Server, tmp_path: Path) -> None:
    """A process that ends before its first interval is over has sent them all the same: one request, in the name of redkeep."""
    with collector() as (url, taken):
        path = env_file(server, tmp_path, security_monitor_otlp_endpoint=url)

        async def run() -> None:
            monitoring = MonitoringService(env_file=path, interval=300)
            await monitoring.start()
            assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
            await asyncio.sleep(0.5)
            assert 0 == taken.requests
            await monitoring.close()

        asyncio.run(run())
    assert (1, True) == (taken.requests, ("service.name", "redkeep") in taken.resources)
    assert 1.0 == taken.values["redkeep.node_up", (("node", f"127.0.0.1:{server.port}"),)]


@pytest.mark.parametrize("answer", [500, 0], ids=["refuses", "hangs"])
def test_a_collector_that_does_not_take_them_holds_up_no_end(
    server: Server, tmp_path: Path, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses, or takes the request and never answers: it is asked again, and the monitoring ends within its seconds, without an
    exception."""
    monkeypatch.setattr("redkeep.monitoring.otlp._DEADLINE_SECONDS", 1)
    with collector() as (url, taken):
        path = env_file(server, tmp_path, security_monitor_otlp_endpoint=url)
        taken.answer = answer or 200
        if not answer:
            taken.hangs.clear()

        async def run() -> None:
            monitoring = MonitoringService(env_file=path, interval=0.3)
            await monitoring.start()
            assert await until(lambda: taken.requests >= 2)
            await asyncio.wait_for(monitoring.close(), 30)

        asyncio.run(run())
        taken.hangs.set()


def test_without_the_extra(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry is not there: one sentence with what to install, before anything is watched."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    path = env_file(server, tmp_path, security_monitor_otlp_endpoint="https://collector.example:4318/v1/metrics")
    with pytest.raises(ConfigurationError, match=r"pip install .\./app\[otel\]"):
        asyncio.run(MonitoringService(env_file=path).start())


def test_a_collector_that_is_away_hurts_nobody(server: Server, tmp_path: Path) -> None:
    """Nothing listens there: the monitoring starts, looks and ends as without it."""
    path = env_file(server, tmp_path, security_monitor_otlp_endpoint=f"http://127.0.0.1:{free_port()}/v1/metrics")

    async def run() -> str:
        monitoring = MonitoringService(env_file=path, interval=0.2)
        await monitoring.start()
        assert await until(lambda: monitoring.nodes()[0]["state"] == "up")
        await monitoring.close()
        return str(monitoring.nodes()[0]["state"])

    assert "up" == asyncio.run(run())


@pytest.mark.parametrize("url", ["http://collector.example:4318/v1/metrics", "https://u:p@collector.example/", "ftp://x", "https://[", "x"])
def test_a_collector_that_cannot_be_is_refused(server: Server, tmp_path: Path, url: str) -> None:
    """Plain http to another host, a password in the URL, nonsense: one sentence with the variable, never the URL."""
    path = env_file(server, tmp_path, security_monitor_otlp_endpoint=url)

    async def run() -> None:
        await MonitoringService(env_file=path).start()

    with pytest.raises(ConfigurationError, match="SECURITY_MONITOR_OTLP_ENDPOINT must be https") as caught:
        asyncio.run(run())
    assert url not in str(caught.value)
