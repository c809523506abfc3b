"""`redkeep serve` as a process of its own, in front of a real Redis, and a client for it."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.redis.server import Server

START_SECONDS = 30
"""A busy machine with two cores; alone it takes two."""


@dataclass
class Api:
    """A running API. `log` is what it wrote to stderr."""

    url: str
    key: str
    log: Path
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=40))

    @property
    def headers(self) -> dict[str, str]:
        """The key, where the API looks for it."""
        return {"X-API-Key": self.key}

    def get(self, path: str, **options: object) -> httpx.Response:
        """GET with the key, unless `headers` say otherwise."""
        return self.ask("GET", path, **options)

    def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        """Any request, by default with the key."""
        return self.client.request(method, self.url + path, **{"headers": self.headers, **options})  # type: ignore[arg-type]


def environment(server: Server, **more: object) -> dict[str, str]:
    """The cache's variables with the monitor's password, an API key, and `more`; None takes one away."""
    settings = {**server.settings, "redis_monitor_password": server.passwords["monitor"], "redkeep_api_key": secrets.token_hex(32)}
    given = {**{name.upper(): value for name, value in settings.items()}, **{name.upper(): value for name, value in more.items()}}
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **measuring()}
    return {**bare, **{name: str(value) for name, value in given.items() if value is not None}}


def measuring() -> dict[str, str]:
    """What `make coverage` tells the processes that a test starts; otherwise nothing."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def command(*words: str) -> list[str]:
    """The words of `redkeep WORDS`."""
    return [sys.executable, "-m", "redkeep.cli", *words]


@contextmanager
def serving(variables: Mapping[str, str], folder: Path, *words: str, key: str = "") -> Iterator[Api]:
    """A running API with these variables, on a free port; it is ended with the block."""
    log = folder / f"api-{secrets.token_hex(4)}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(command("serve", "--port", "0", *words), env=dict(variables), stderr=written, cwd=folder)
    try:
        yield Api(_address(process, log), key or variables["REDKEEP_API_KEY"], log, process)
    finally:
        process.terminate()
        process.wait(15)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"listens on (https?://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    pytest.fail(f"the API did not start: {log.read_text()}")
