"""`redkeep bench` on real servers, and a guard on what the secure cache costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from redkeep.cli.bench_variants import BASE, FULL, PRD
from tests.redis.binary import redis_server


def test_client_cpu_of_the_secure_cache(tmp_path: Path) -> None:
    """With TLS, mutual TLS, ACL and sealing the cache takes less client CPU than redis-py takes for raw bytes without any."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "redis-server").symlink_to(redis_server())
    found, drawn = tmp_path / "found.json", tmp_path / "found.svg"
    ran = subprocess.run(
        [
            sys.executable, "-m", "redkeep.cli", "bench", "--size", "2", "--concurrency", "16", "--rounds", "4",
            "--operations", "500", "--json", str(found), "--svg", str(drawn),
        ],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "REDIS_URL": "not for the benchmark"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    progress = "2 KB, 16 concurrent: round 4 of 4\n2 KB, batches of 50, 4 concurrent: round 4 of 4\n"
    assert (0, progress) == (ran.returncode, ran.stderr)
    report = json.loads(found.read_text())
    cell, together = report["cells"]
    least = {name: min(each["cpu"] for each in variant["rounds"]) for name, variant in cell["variants"].items()}
    assert least[FULL] / least[BASE] <= 0.8
    assert least[FULL] / least[PRD] <= 0.7
    assert 500 < cell["variants"][FULL]["memory_bytes_an_entry"] < 3000
    assert all(name in ran.stdout for name in least)
    many = {name: min(each["cpu"] for each in variant["rounds"]) for name, variant in together["variants"].items()}
    assert (1, 50) == (cell["batch"], together["batch"])
    assert many[FULL] < least[FULL], "a batch costs less a value"
    ours, stock = report["connect_ms"].values()
    assert ours[0] < stock[0], "one context a process is quicker than one a connection"
    ours, stock = report["connect_cpu_ms"].values()
    assert 0 < ours < stock
    ours, stock = report["grown_mb"].values()
    assert ours < stock / 2, "64 callers share one connection"
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")
