"""Files the command line hands out: with the right mode from birth, never over another by accident."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from redkeep.errors import ConfigurationError


def write_file(path: Path, content: bytes, *, mode: int = 0o600, force: bool = False) -> None:
    """Write a whole new file of `mode`; with `force` in the place of an old one (a symlink is replaced).

    Raises ConfigurationError when the file exists and `force` is not given, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as target:
                os.fchmod(target.fileno(), mode)
                target.write(content)
                target.flush()
                os.fsync(target.fileno())
            if force:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists; give --force to replace it") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
