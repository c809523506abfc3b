"""The posture of several nodes: the worst counts, by the name of its node, and a node that is not there is never green."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redkeep import get_security_status
from redkeep.access.acl import USERS
from redkeep.cli import main
from redkeep.monitoring import probes
from redkeep.monitoring.control import Control
from redkeep.monitoring.service import MonitoringService
from tests.redis.server import Files, Server, free_port
from tests.redis.watched import env_file


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own Redis and its kernel settings are not what is tested."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", free_port())
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))


@pytest.fixture
def two(start: Callable[..., Server], tmp_path: Path) -> tuple[Server, Server, Path]:
    """Two hardened servers of one deployment, and the env file that names both."""
    first, second = start(), start()
    with second.log_in() as operator:
        for user in USERS[:-1]:  # the same users with the same passwords; the operator stays as it is for the test
            if user != "operator":
                assert ["OK"] == operator.ask(("ACL", "SETUSER", user, "resetpass", f">{first.passwords[user]}"))
    path = env_file(first, tmp_path, security_monitor_nodes=f"127.0.0.1:{first.port},127.0.0.1:{second.port}")
    return first, second, path


def status(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Control]]:
    code = main(["status", "--env-file", str(path), "--json"])
    rows = json.loads(capsys.readouterr().out)["controls"]
    return code, {row["name"]: Control(row["name"], row["state"], row["evidence"], row["remedy"]) for row in rows}


def test_all_nodes_hold(two: tuple[Server, Server, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """What both hold is said once, of all nodes."""
    code, found = status(two[2], capsys)
    assert (0, {"ok"}) == (code, {control.state for control in found.values()})
    assert "refused (all 2 nodes)" == found["wrong password"].evidence


def test_the_second_node_is_weak(two: tuple[Server, Server, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Its name stands in the evidence, with the remedy, and the first one's does not."""
    first, second, path = two
    with second.log_in() as operator:
        assert ["OK", "OK"] == operator.ask(("CONFIG", "SET", "tls-auth-clients", "optional"), ("ACL", "SETUSER", "backup", "nopass"))
    code, found = status(path, capsys)
    assert (1, {"mutual TLS", "users' passwords"}) == (code, {name for name, control in found.items() if control.state == "weak"})
    assert f"127.0.0.1:{second.port}: any password opens backup" == found["users' passwords"].evidence
    assert f":{first.port}" not in found["mutual TLS"].evidence
    assert "tls-auth-clients yes" in found["mutual TLS"].remedy


def test_a_node_that_is_not_there(two: tuple[Server, Server, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown, by name: every control that only the server could have answered."""
    _, second, path = two
    second.stop()
    code, found = status(path, capsys)
    assert (3, "unknown") == (code, found["login"].state)
    assert f"127.0.0.1:{second.port}: connection refused" in found["login"].evidence
    assert {"unknown"} == {found[name].state for name in ("mutual TLS", "sealed round trip", "users' rights", "users' passwords")}


def test_a_replica_is_not_written_to(two: tuple[Server, Server, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The round trip through the primary counts; when all are replicas, nobody could tell."""
    first, second, path = two
    with second.log_in() as operator:
        assert ["OK"] == operator.ask(("REPLICAOF", "127.0.0.1", "1"))
    assert "ok" == status(path, capsys)[1]["sealed round trip"].state
    with first.log_in() as operator:
        assert ["OK"] == operator.ask(("REPLICAOF", "127.0.0.1", "1"))
    assert "unknown" == status(path, capsys)[1]["sealed round trip"].state


def test_the_certificates_of_every_node(
    two: tuple[Server, Server, Path], files: Files, start: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each server's own, with its node, the one that ends first before the others; ours and the CA's once. A node that is away has none."""
    cert, key = files.pair("ending", ["localhost", "127.0.0.1"], use="server", days=13)
    third = start(tls_cert_file=str(cert), tls_key_file=str(key))
    first, second, _ = two
    second.stop()
    nodes = ",".join(f"127.0.0.1:{server.port}" for server in (first, second, third))
    main(["status", "--env-file", str(env_file(first, tmp_path, security_monitor_nodes=nodes)), "--json"])
    found = json.loads(capsys.readouterr().out)["certificates"]
    assert ("server", f"127.0.0.1:{third.port}", "weak") == (found[0]["whose"], found[0]["node"], found[0]["state"])
    servers = [("server", f"127.0.0.1:{server.port}") for server in (first, third)]
    assert Counter([("CA", None), ("client", None), *servers]) == Counter((each["whose"], each["node"]) for each in found)


def test_what_changes_is_told_of_each_node(two: tuple[Server, Server, Path]) -> None:
    """The same control, weak on one node after the other: each is an event with its node, and an alert at once. One heals: an event of level
    info and no alert; the alert that lasts names the other one alone, and is over when that heals."""
    names = [f"127.0.0.1:{server.port}" for server in two[:2]]
    steps: list[tuple[str, list[tuple[Any, ...]], list[str]]] = []

    async def run() -> None:
        monitoring = MonitoringService(env_file=two[2], state_file=None)
        try:
            await monitoring.probe()
            for server, value in ((two[0], "optional"), (two[1], "optional"), (two[0], "yes"), (two[1], "yes")):
                with server.log_in() as operator:
                    operator.ask(("CONFIG", "SET", "tls-auth-clients", value))
                seen = len(monitoring.events())
                await monitoring.probe()
                new = monitoring.events()[: len(monitoring.events()) - seen]
                changes = [
                    (event["details"]["node"], event["details"]["control"], event["details"]["state"], event["severity"])
                    for event in new if event["type"] == "posture_changed"
                ]  # fmt: skip
                alerts = [event["details"]["state"] for event in new if event["type"] == "alert"]
                steps.append((", ".join(alerts), changes, [each["message"] for each in monitoring.alerts()["active"]]))
        finally:
            await monitoring.close()

    asyncio.run(run())
    first, second = (f"mutual TLS on {name}" for name in names)
    assert [
        ("firing", [(names[0], "mutual TLS", "weak", "error")], [f"Weak: {first}"]),
        ("firing", [(names[1], "mutual TLS", "weak", "error")], [f"Weak: {', '.join(sorted((first, second)))}"]),
        ("", [(names[0], "mutual TLS", "ok", "info")], [f"Weak: {second}"]),
        ("resolved", [(names[1], "mutual TLS", "ok", "info")], []),
    ] == steps


def test_the_service_probes_every_node(two: tuple[Server, Server, Path]) -> None:
    """What the API shows is worst of all, too."""
    _, second, path = two
    with second.log_in() as operator:
        assert ["OK"] == operator.ask(("ACL", "SETUSER", "exporter", "+monitor"))
    found = {control["name"]: control for control in asyncio.run(get_security_status(path))["posture"]}
    assert ("weak", True) == (found["dangerous commands"]["state"], f":{second.port}: exporter" in found["dangerous commands"]["evidence"])
