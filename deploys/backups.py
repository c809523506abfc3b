"""Backups on the operator's side: one sealed file each in backups/<environment>, private, and only so many kept."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploys.rendering import ROOT
from redkeep.crypto.archive import open_archive, read_head, write_archive
from redkeep.errors import ConfigurationError, DecryptionError

SUFFIX = ".redkeep"
KEEP = 7

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Backup:
    """One file and what its head says: host, engine, version, taken (ISO 8601), size and sha256 of the snapshot inside, keys."""

    path: Path
    head: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The server's, for people: redis 7.0.15."""
        return f"{self.head.get('engine', 'redis')} {self.head.get('version', '?')}"


def backups_folder(environment: str) -> Path:
    """Where the backups of an environment live on the operator's machine."""
    return ROOT / "backups" / environment


def write_backup(folder: Path, content: Iterable[bytes], *, recipient: str, head: Mapping[str, Any]) -> Backup:
    """Write one, whole or not at all: the file has its name only once it is on the disk and what the head says of it holds.

    Raises ConfigurationError when the folder is open to others or the content is not what the head promises, OSError when
    the disk refuses.
    """
    _private(folder)
    moment = datetime.fromisoformat(str(head["taken"])).astimezone(UTC)
    name = f"{re.sub('[^A-Za-z0-9._-]+', '-', str(head['host']).lstrip('@'))}-{moment:%Y%m%dT%H%M%SZ}"
    path = folder / f"{name}{SUFFIX}"
    beside = folder / f".{name}.{secrets.token_hex(4)}{_PARTIAL}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_archive(file, _checked(content, head), recipient=recipient, head=head)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(handle)
    os.close(handle)
    return Backup(path, head)


def read_backup(path: Path) -> Backup:
    """One by its file. Raises ConfigurationError when there is none or it is something else."""
    try:
        with path.open("rb") as file:
            return Backup(path, read_head(file))
    except OSError as error:
        raise ConfigurationError(f"The backup {path} cannot be read: {error.strerror}.") from None
    except DecryptionError as error:
        raise ConfigurationError(f"The backup {path}: {error}.") from None


def content_of(backup: Backup, *, private_key: str) -> Iterator[bytes]:
    """The snapshot inside, piece by piece. Use nothing of it before the end: only then is it known to be what the head says.

    Raises ConfigurationError: damaged, cut short, not what the head says, or sealed to another key.
    """
    try:
        with backup.path.open("rb") as file:
            yield from _checked(open_archive(file, private_key=private_key), backup.head)
    except DecryptionError as error:
        raise ConfigurationError(f"The backup {backup.path}: {error}.") from None


def existing(folder: Path, host: str) -> list[Backup]:
    """The backups of a host, newest first; files that are none are left out."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            backup = read_backup(path)
        except ConfigurationError:
            continue
        if backup.head.get("host") == host:
            found.append(backup)
    return sorted(found, key=lambda backup: str(backup.head.get("taken")), reverse=True)


def retire(folder: Path, host: str, *, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` of a host and say which went; also what runs that died have left half written."""
    gone = [backup.path for backup in existing(folder, host)[keep:]]
    for path in gone:
        path.unlink(missing_ok=True)
    for path in folder.glob(f".*{_PARTIAL}"):
        if datetime.now(UTC).timestamp() - path.stat().st_mtime > 86_400:
            path.unlink(missing_ok=True)
    return gone


def _checked(content: Iterable[bytes], head: Mapping[str, Any]) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for piece in content:
        digest.update(piece)
        size += len(piece)
        yield piece
    if size != head.get("size") or digest.hexdigest() != head.get("sha256"):
        raise ConfigurationError("The snapshot changed on its way: its length or checksum differs; take it again.")


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is open to others, or not a folder: run `chmod 700 {folder}`.")
