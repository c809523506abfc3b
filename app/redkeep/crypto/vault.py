"""The vault: the secrets document in its folder, open in memory, written as a whole.

Knows files, locks and the passphrase; what the secrets mean is the store's business.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from redkeep.crypto.document import Document, check_document, empty_document, parse_json
from redkeep.crypto.folder import SecretFolder, Stamp
from redkeep.crypto.passwords import validate_passphrase
from redkeep.crypto.sealing import SealingKey, open_text, seal_text
from redkeep.errors import SecretStoreError


class Vault:
    """A document of secrets that is read once and changed in transactions."""

    def __init__(
        self, folder: SecretFolder, document: Document, stamp: Stamp, key: SealingKey | None
    ) -> None:
        """Hold what `open` has read; use `open`."""
        self._folder = folder
        self._document = document
        self._stamp = stamp
        self._key = key
        self._guard = threading.RLock()
        self._depth = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder.path)!r}, sealed={self.sealed})"

    @classmethod
    def open(cls, folder: Path, *, passphrase: str | None = None, create: bool = False) -> Self:
        """Open the secrets in `folder`; with `create`, make the folder and an empty file when missing.

        A `passphrase` opens a sealed file, and seals one that is created.

        Raises SecretStoreError when there are none, folder or file is a symlink or open to others, the file
        is damaged, the passphrase is wrong or missing, or one is given although the file is not sealed;
        ConfigurationError when a passphrase to create with is too weak.
        """
        place = SecretFolder(Path(folder))
        found = place.read()
        if found is None and not create:
            raise SecretStoreError(f"no secrets in {place.path}{_where_else(place.path)}")
        if found is None:
            if passphrase is not None:
                validate_passphrase(passphrase, field="the passphrase")
            place.create()
            with place.locked():
                found = place.read()
                if found is None:
                    key = None if passphrase is None else SealingKey.from_passphrase(passphrase)
                    fresh = empty_document()
                    return cls(place, fresh, place.write(_encode(fresh, key)), key)
        content, stamp = found
        parsed = parse_json(content, source=str(place.file))
        if not parsed.get("sealed"):
            if passphrase is not None:
                raise SecretStoreError(
                    f"{place.file} is not sealed although a passphrase was given; "
                    "run `redkeep secrets seal`, or leave the passphrase out"
                )
            return cls(place, check_document(parsed, source=str(place.file)), stamp, None)
        if passphrase is None:
            raise SecretStoreError(f"{place.file} is sealed; give the passphrase in REDKEEP_PASSPHRASE_FILE")
        key = SealingKey.for_document(parsed, passphrase)
        return cls(place, _decode(content, key, place), stamp, key)

    @staticmethod
    def is_sealed(folder: Path) -> bool:
        """Tell whether `folder` holds sealed secrets; False when it holds none. Raises like `open`."""
        place = SecretFolder(Path(folder))
        found = place.read()
        return found is not None and bool(parse_json(found[0], source=str(place.file)).get("sealed"))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def sealed(self) -> bool:
        """Whether the file is sealed under a passphrase."""
        return self._key is not None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Lock the folder, read again what others wrote, and write once at the end if anything changed.

        When the block raises, nothing is written and the store is as before: use secrets made in a block only
        after it. Nests; the outermost one writes.

        Raises SecretStoreError when the lock is not to be had, the file is gone, or the disk refuses.
        """
        with self._guard:
            if self._depth:
                yield
                return
            with self._folder.locked():
                self._refresh()
                before, self._document = self._document, copy.deepcopy(self._document)
                self._depth = 1
                try:
                    yield
                    if self._document != before:
                        self._stamp = self._folder.write(_encode(self._document, self._key))
                except BaseException:
                    self._document = before
                    raise
                finally:
                    self._depth = 0

    def seal(self, passphrase: str) -> None:
        """Encrypt the file under `passphrase`, now and at every later write; also changes a passphrase.

        Raises ConfigurationError for a weak one. Blocks of the old file may survive on the disk.
        """
        validate_passphrase(passphrase, field="the passphrase")
        self._write_under(SealingKey.from_passphrase(passphrase))

    def unseal(self) -> None:
        """Write the file open again, protected by its mode only."""
        self._write_under(None)

    def _write_under(self, key: SealingKey | None) -> None:
        with self.transaction():
            self._stamp = self._folder.write(_encode(self._document, key))
            self._key = key

    def _refresh(self) -> None:
        if self._folder.stamp() == self._stamp:
            return
        found = self._folder.read()
        if found is None:
            raise SecretStoreError(
                f"{self._folder.file} has disappeared since it was opened; restore it from a backup"
            )
        content, stamp = found
        self._document = _decode(content, self._key, self._folder)
        self._stamp = stamp


def _encode(document: Document, key: SealingKey | None) -> bytes:
    text = json.dumps(document, indent=1)
    return text.encode("utf-8") + b"\n" if key is None else seal_text(text, key=key)


def _decode(content: bytes, key: SealingKey | None, folder: SecretFolder) -> Document:
    source = str(folder.file)
    parsed = parse_json(content, source=source)
    if bool(parsed.get("sealed")) != (key is not None):
        raise SecretStoreError(f"{source} was sealed or unsealed since it was opened; run again")
    if key is not None:
        if not key.is_for(parsed):
            raise SecretStoreError(f"{source} was given another passphrase since it was opened; run again")
        parsed = parse_json(open_text(parsed, key=key), source=source)
    return check_document(parsed, source=source)


def _where_else(path: Path) -> str:
    """What to do when there are no secrets: name the folder beside that has some, or make them."""
    others = sorted(str(found.parent) for found in path.parent.glob("*/secrets.json"))
    if others:
        return f", but in {', '.join(others)}: name the folder with --secrets"
    return f"; run `redkeep secrets init --secrets {path}`"
