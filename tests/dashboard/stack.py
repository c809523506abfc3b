"""What stands behind the page in tests: a Redis that is secured in every respect."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from redkeep.crypto.pki import Authority
from tests.api.service import Api, measuring
from tests.redis import server as starting
from tests.redis.server import Files, Server, start_server

NOBODY = 65534


def dashboard_environment(api: Api, folder: Path, **more: str) -> dict[str, str]:
    """What the dashboard needs to know."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), **measuring(), "REDKEEP_API_URL": api.url, "REDKEEP_API_KEY": api.key, **more}


@contextmanager
def secured_redis(**config: str) -> Iterator[Server]:
    """A Redis that does not run as root, as the posture demands."""
    folder = Path(tempfile.mkdtemp(prefix="redkeep-"))
    files = Files(folder, Authority.create("redkeep test CA"))
    files.ca.write_bytes(files.authority.cert_pem)
    files.pair("server", ["127.0.0.1"], use="server")
    files.pair("cache_service", [], use="client")
    with pytest.MonkeyPatch.context() as patch:
        if os.geteuid() == 0:
            wrapper = folder / "redis-server"
            wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {starting.redis_server()} "$@"\n')
            wrapper.chmod(0o755)
            (folder / "data").mkdir()
            for each in (folder, folder / "data", folder / "server.key"):
                os.chown(each, NOBODY, NOBODY)
            patch.setattr(starting, "redis_server", lambda: str(wrapper))
        starting.engine_and_version.cache_clear()
        started = start_server(files, folder / "data", **config)
    try:
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder)
