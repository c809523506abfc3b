"""The secrets folder: one file in a private folder, read safely and replaced atomically."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redkeep.errors import SecretStoreError

FILE_NAME = "secrets.json"
LOCK_NAME = ".lock"
LOCK_SECONDS = 30.0
"""How long to wait for another run; making a whole set of secrets takes well under a second."""

_TEMPORARY = f".{FILE_NAME}."
_LOOSE = 0o077
Stamp = tuple[int, int, int]
"""Inode, modification time in nanoseconds, size: two equal stamps mean the same content."""


@dataclass(frozen=True)
class SecretFolder:
    """A folder (mode 0700, ours, no symlink) with `secrets.json` (mode 0600, ours, no symlink) in it."""

    path: Path

    @property
    def file(self) -> Path:
        """The path of the secrets file, for messages."""
        return self.path / FILE_NAME

    def create(self) -> None:
        """Make the folder, and missing parents, with mode 0700. Raises SecretStoreError when that fails."""
        with _explained(f"cannot make {self.path}"):
            for folder in reversed([self.path, *self.path.parents]):
                if not folder.exists() and not folder.is_symlink():
                    with contextlib.suppress(FileExistsError):
                        folder.mkdir(mode=0o700)

    def read(self) -> tuple[bytes, Stamp] | None:
        """Return the content of the file and its stamp, or None when there is no such file or folder.

        Raises SecretStoreError for a symlink, another owner, or modes that let others in; says what to run.
        """
        if not os.path.lexists(self.path):
            return None
        with self._opened() as folder, _explained(f"cannot read {self.file}"):
            try:
                handle = os.open(
                    FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
            except FileNotFoundError:
                return None
            except OSError:
                if self.file.is_symlink():
                    raise SecretStoreError(f"{self.file} is a symlink; replace it with the file itself") from None
                raise
            with os.fdopen(handle, "rb") as source:
                status = os.fstat(source.fileno())
                _check_private(status, self.file, wanted="600", is_kind=stat.S_ISREG)
                return source.read(), _stamp(status)

    def stamp(self) -> Stamp | None:
        """Return the stamp of the file as it is now, or None when there is none."""
        try:
            return _stamp(os.lstat(self.file))
        except OSError:
            return None

    def write(self, content: bytes) -> Stamp:
        """Replace the file: a new file of mode 0600 in the same folder, synced, renamed over, folder synced.

        Whoever kills this at any point leaves the old file or the new one, whole. Call it under `locked`.

        Raises SecretStoreError when the folder is loose or the disk refuses.
        """
        with self._opened() as folder, _explained(f"cannot write {self.file}"):
            for name in os.listdir(folder):
                if name.startswith(_TEMPORARY):
                    os.unlink(name, dir_fd=folder)
            temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(handle, "wb") as target:
                    os.fchmod(target.fileno(), 0o600)
                    target.write(content)
                    target.flush()
                    os.fsync(target.fileno())
                    status = os.fstat(target.fileno())
                os.rename(temporary, FILE_NAME, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)
            return _stamp(status)

    @contextlib.contextmanager
    def locked(self, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the folder's lock, so that two runs do not make two sets of secrets.

        Raises SecretStoreError when another run holds it for longer than `seconds`.
        """
        with self._opened() as folder:
            with _explained(f"cannot lock {self.path}"):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                handle = os.open(LOCK_NAME, flags, 0o600, dir_fd=folder)
            try:
                self._wait(handle, time.monotonic() + seconds)
                yield
            finally:
                os.close(handle)

    def _wait(self, handle: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SecretStoreError(
                        f"another run has locked {self.path / LOCK_NAME}; wait for it to end, then run again"
                    ) from None
                time.sleep(0.02)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with _explained(f"cannot open {self.path}"):
            if self.path.is_symlink():
                raise SecretStoreError(f"{self.path} is a symlink; name the folder itself")
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check_private(os.fstat(folder), self.path, wanted="700", is_kind=stat.S_ISDIR)
            yield folder
        finally:
            os.close(folder)


def _check_private(
    status: os.stat_result, path: Path, *, wanted: str, is_kind: Callable[[int], bool]
) -> None:
    if not is_kind(status.st_mode):
        raise SecretStoreError(f"{path} does not belong there; move it away")
    if status.st_uid != os.geteuid():
        raise SecretStoreError(f"{path} belongs to user {status.st_uid}, not to you; run as its owner")
    if status.st_mode & _LOOSE:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretStoreError(
            f"{path} is open to others (mode {mode:04o}): run `chmod {wanted} {shlex.quote(str(path))}`"
        )


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SecretStoreError(f"{what}: {error.strerror or error}") from error
