"""The state of a run on disk: where it was interrupted, so that the next one goes on there, and a lock so that there is but one."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from redkeep.errors import ConfigurationError
from redkeep.monitoring.state_file import read_state, set_aside, write_state

logger = logging.getLogger(__name__)

_SAVE_SECONDS: Final = 1.0
_WHAT: Final = "the state of migrate-data"


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
        """What was saved last, with `number`, `cursor` and `counts`; empty when there is none, or it is of another run.

        One that cannot be read is renamed: to begin anew costs a look at what is done. Raises ConfigurationError when others can
        write it."""
        if self._path is None:
            return {}
        try:
            saved = read_state(self._path, what=_WHAT) or {}
        except ConfigurationError:
            if set_aside(self._path) is None:  # others can write it, or it is no file: somebody must look
                raise
            logger.warning("state_unusable", extra={"file": str(self._path)})
            saved = {}
        return saved if all(saved.get(name) == value for name, value in self._identity.items()) else {}

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
