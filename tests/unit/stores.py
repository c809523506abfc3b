"""What the tests of the operator's secrets share."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from redkeep.crypto.store import SecretStore

PASSPHRASE = "seven wooden ships at dawn"
STRONG = "kX7_qL2-vR9zTm4bWc8s"


def stamp(folder: Path) -> tuple[int, int]:
    status = (folder / "secrets.json").stat()
    return status.st_ino, status.st_mtime_ns


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def fill(store: SecretStore) -> None:
    with store.transaction():
        for user in ("cache_service", "health_service", "operator"):
            store.password(user)
        store.encryption_keys()
        for number in range(15):
            store.leaf(f"redis-{number}", [f"redis-{number}.internal", "10.0.0.5"], use="replication")
