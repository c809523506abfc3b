"""The state of a run on disk: where it was interrupted, so that the next one goes on there, and a lock so that there is but one."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from redkeep.errors import ConfigurationError
from redkeep.migration.counts import Counts
from redkeep.monitoring.state_file import read_state, write_state

_SAVE_SECONDS: Final = 1.0
_WHAT: Final = "the state of migrate-data"
_NUMBERS: Final = tuple(each.name for each in fields(Counts) if each.type == "int")

logger = logging.getLogger(__name__)


class RunState:
    """The state of one kind of run: the same server, key, namespace and direction."""

    def __init__(self, path: Path | None, **identity: str | bool) -> None:
        """Without a path nothing is kept, and nothing locked."""
        self._path = path
        self._identity = identity
        self._saved_at = 0.0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises ConfigurationError when another run uses the same state. The lock is the kernel's: it ends with the process."""
        if self._path is None:
            yield
            return
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{_WHAT} cannot be kept at {self._path}: {error.strerror}; name another file with --state") from None
        with os.fdopen(descriptor, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"another run is using {self._path}; wait until it ends") from None
            yield

    def load(self) -> dict[str, Any]:
        """What was saved last, with `number`, `cursor` and `counts`; empty when there is none, it is of another run, or it cannot be
        used: then all is looked at once more, and the log says why."""
        if self._path is None:
            return {}
        try:
            saved = read_state(self._path, what=_WHAT)
            if saved is None or any(saved.get(name) != value for name, value in self._identity.items()):
                return {}
            if not _has_shape(saved):
                raise ConfigurationError(f"{_WHAT} {self._path} is from another version; counting starts again from zero")
        except ConfigurationError as error:
            logger.warning("migration_state_unusable", extra={"reason": str(error)})
            return {}
        return saved

    def save(self, *, number: int, cursor: int, counts: Mapping[str, object]) -> None:
        """Keep it, once a second at most: what was done since is only looked at once more."""
        now = time.monotonic()
        if self._path is not None and now - self._saved_at >= _SAVE_SECONDS:
            self._saved_at = now
            write_state(self._path, {**self._identity, "number": number, "cursor": cursor, "counts": dict(counts)}, what=_WHAT)

    def forget(self) -> None:
        """The run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _has_shape(saved: Mapping[str, Any]) -> bool:
    counts = saved.get("counts")
    if not isinstance(counts, dict):
        return False
    numbers = (saved.get("number"), saved.get("cursor"), *map(counts.get, _NUMBERS))
    return all(type(number) is int and number >= 0 for number in numbers)
