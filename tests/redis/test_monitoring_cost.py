"""Security monitoring costs little: a guard with slack, for a machine that does other things; the figures are in the docs."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.performance.monitoring_cost import measure, server_share, started


@pytest.mark.soak
def test_monitoring_costs_little(tmp_path: Path) -> None:
    """With a posture every five seconds the cache takes no half more CPU, and a watcher takes no hundredth of a core of the server."""
    server, path = started(tmp_path)
    try:
        rounds = measure(server, path, rounds=5, seconds=5)
        alone, watched = server_share(server, path, seconds=10)
    finally:
        server.stop()
    assert statistics.median(each["on"].cpu / each["off"].cpu for each in rounds) < 1.5
    assert watched - alone < 0.01
