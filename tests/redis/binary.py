"""The server's binary, without the distribution's service: redis-tools brings it under another name."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

_CHOSEN = os.environ.get("REDKEEP_TEST_SERVER", "")
_INSTALLED = Path("/usr/bin/redis-server")
# One binary with many names; by which it is called decides what it does.
_SAME_BINARY = Path("/usr/bin/redis-check-rdb")


@functools.cache
def redis_server() -> str:
    """The path of a server binary: REDKEEP_TEST_SERVER (/usr/bin/valkey-server, say), the installed one, or a link named
    redis-server to redis-check-rdb of the package redis-tools, in a folder that goes when Python ends.

    Raises FileNotFoundError when neither package is there.
    """
    if _CHOSEN or _INSTALLED.exists():
        return _CHOSEN or str(_INSTALLED)
    if not _SAME_BINARY.exists():
        raise FileNotFoundError("no Redis server on this machine: apt-get install redis-tools")
    folder = tempfile.mkdtemp(prefix="redkeep-redis-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = Path(folder) / "redis-server"
    link.symlink_to(_SAME_BINARY)
    return str(link)
