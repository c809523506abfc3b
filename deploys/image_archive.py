"""An image in a file of the operator's machine, as `docker save` writes it: for hosts that can pull nothing."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redkeep.errors import ConfigurationError

# An index and a configuration have a few KiB; anything longer is another kind of file.
_MAX_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class ImageArchive:
    """``id`` is the image's own ("sha256:..."), which names its content; ``architecture`` in the words of Debian and Docker
    alike (amd64, arm64); ``size`` the file's bytes."""

    path: Path
    id: str
    architecture: str
    size: int


def read_archive(path: Path, *, knob: str = "container_image") -> ImageArchive:
    """``knob`` is the one that names the file.

    Raises ConfigurationError for a file that is missing, is no such archive, or holds another number of images than one.
    """
    try:
        stamp = path.stat()
    except OSError as error:
        raise ConfigurationError(f"{knob}: {path} cannot be read: {error.strerror}.") from None
    return _read(path, knob, stamp.st_mtime_ns, stamp.st_size)


@cache
def _read(path: Path, knob: str, _modified: int, size: int) -> ImageArchive:
    wrong = f"{knob}: {path} is not an image: make it with `docker save --output {path.name} NAME`."
    try:
        with tarfile.open(path) as archive:
            manifest = json.loads(_member(archive, "manifest.json"))
            if len(manifest) != 1:
                raise ConfigurationError(f"{knob}: {path} holds {len(manifest)} images: save only the one you need.")
            text = _member(archive, manifest[0]["Config"])
            config: dict[str, Any] = json.loads(text)
    except (OSError, EOFError, tarfile.TarError, ValueError, LookupError, TypeError):
        raise ConfigurationError(wrong) from None
    return ImageArchive(path, f"sha256:{hashlib.sha256(text).hexdigest()}", str(config.get("architecture", "")), size)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(name)
    stream = archive.extractfile(member) if member.isfile() and member.size <= _MAX_BYTES else None
    if stream is None:
        raise ValueError(name)
    return stream.read()
