"""What a long work knows, on disk: one small JSON file, replaced as a whole, so that a restart counts nothing twice."""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from redkeep.errors import ConfigurationError

VERSION: Final = 2
_MAX_BYTES: Final = 16 * 1024 * 1024
_DIGITS: Final = 20
"""Of the longest whole number that is one of ours: 64 bits and a sign."""

_WHAT: Final = "the monitoring's state"


def claim_state(path: Path) -> int:
    """Make it this process's until the descriptor is closed, or the process ends however it does.

    Raises ConfigurationError when another process keeps it, or the folder refuses.
    """
    lock = path.with_name(f".{path.name}.lock")  # of its own: the file itself is replaced
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the monitoring's state {path} cannot be written: {error.strerror}; check who owns the folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"the monitoring's state {path} belongs to another process; name another file in SECURITY_MONITOR_STATE_FILE"
        ) from None
    return descriptor


def read_state(path: Path, *, what: str = _WHAT) -> dict[str, Any] | None:
    """The saved state; None when there is none yet. `what` is how messages call the file.

    Raises ConfigurationError, one sentence, for a file that cannot be read or is not ours: start without it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror}; counting starts again from zero") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise ConfigurationError(f"{what} {path} is not a state file of Redkeep; remove it")
        if status.st_mode & 0o022:
            raise ConfigurationError(f"{what} {path} is writable by others; run `chmod 0600 {path}`")
        with os.fdopen(descriptor, "rb", closefd=False) as source:
            text = source.read(_MAX_BYTES)
    finally:
        os.close(descriptor)
    try:
        found = json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_finite)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ConfigurationError(f"{what} {path} is damaged or from another version; counting starts again from zero")
    return found


def set_aside(path: Path) -> Path | None:
    """Rename a file of ours that cannot be used, in place of an older one, so that somebody can look at it; its new path.

    None when it is no file, or somebody else's work: whatever others can write is no evidence.
    """
    aside = path.with_name(f"{path.name}.unusable")
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
            return None
        path.replace(aside)
    except OSError:
        return None
    return aside


def _finite(text: str) -> float:
    number = float(text)  # also of the words Infinity and NaN, which are no JSON and which Python takes
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError("a number too long")
    return int(text)


def write_state(path: Path, state: dict[str, Any], *, what: str = _WHAT) -> None:
    """Replace the file by another of mode 0600: whoever is killed here leaves the old or the new one, whole.

    Raises ConfigurationError when the folder or the disk refuses.
    """
    content = json.dumps({**state, "version": VERSION}, separators=(",", ":")).encode("ascii")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(content)
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be written: {error.strerror}; check who owns the folder") from None
