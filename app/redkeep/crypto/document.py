"""The secrets document: what `secrets.json` holds, as plain data, with its checks.

It is JSON, version 1; lists are newest first, times ISO 8601 in UTC, certificates and keys PEM text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict, cast

from redkeep.crypto.passwords import password_hash
from redkeep.errors import ConfigurationError, SecretStoreError

FORMAT = "redkeep-secrets"
VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}\Z")
_SHORT = 12
"""Hex digits of a fingerprint shown to people: 48 bits tell secrets apart."""


class PasswordRecord(TypedDict):
    """One user's passwords: one, or two while a rotation overlaps."""

    values: list[str]
    made: str


class KeyRecord(TypedDict):
    """One key as text: of encryption, as `keyring.generate_key` prints it, or of the backups, as `archive` does."""

    key: str
    made: str


class AuthorityRecord(TypedDict):
    """One certificate authority; `fingerprint` is the hex SHA-256 of its DER certificate."""

    certificate: str
    key: str
    made: str
    not_after: str
    fingerprint: str


class LeafRecord(TypedDict):
    """One leaf, with what it was asked for, so that deciding on a renewal parses no certificate."""

    certificate: str
    key: str
    made: str
    not_after: str
    fingerprint: str
    names: list[str]
    use: str
    authority: str


class Document(TypedDict):
    """The whole of `secrets.json`, once open."""

    format: str
    version: int
    sealed: bool
    passwords: dict[str, PasswordRecord]
    encryption_keys: list[KeyRecord]
    authorities: list[AuthorityRecord]
    leaves: dict[str, LeafRecord]
    backup_keys: list[KeyRecord]


class Entry(NamedTuple):
    """One secret as it may be shown: never its value. `ends` is "" for what does not expire."""

    kind: str
    name: str
    fingerprint: str
    made: str
    ends: str


def empty_document() -> Document:
    """Return a document without secrets."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "sealed": False,
        "passwords": {},
        "encryption_keys": [],
        "authorities": [],
        "leaves": {},
        "backup_keys": [],
    }


def parse_json(content: bytes | str, *, source: str) -> dict[str, Any]:
    """Return the object in `content`, sealed or open. Raises SecretStoreError naming `source`."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise SecretStoreError(f"{source} is not JSON; restore it from a backup") from None
    if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
        raise SecretStoreError(f"{source} is not a redkeep secrets file; restore it from a backup")
    if parsed.get("version") != VERSION:
        raise SecretStoreError(f"{source} has a version this release does not know; update redkeep")
    return parsed


def check_document(parsed: dict[str, Any], *, source: str) -> Document:
    """Return `parsed` as a document once its shape is right. Raises SecretStoreError naming the part."""
    parsed.setdefault("backup_keys", [])  # came later than the rest
    parts: dict[str, Any] = {"passwords": PasswordRecord, "leaves": LeafRecord}
    lists: dict[str, Any] = {"encryption_keys": KeyRecord, "authorities": AuthorityRecord, "backup_keys": KeyRecord}
    for part, record in (parts | lists).items():
        held = parsed.get(part)
        records: Any = None
        if part in parts and isinstance(held, dict):
            records = held.values()
        elif part in lists and isinstance(held, list):
            records = held
        if records is None or not all(_has_shape(item, record) for item in records):
            raise SecretStoreError(f"the part {part!r} of {source} is damaged; restore it from a backup")
    return cast(Document, parsed)


def check_name(name: str) -> str:
    """Return the name of a user or leaf when it is fit for ACL files and file names.

    Raises ConfigurationError: 1 to 64 letters, digits and `. _ : @ -`, beginning with a letter or digit.
    """
    if not _NAME.match(name):
        raise ConfigurationError(
            f"the name {name[:70]!r} must be 1 to 64 letters, digits or . _ : @ - (not at the start)"
        )
    return name


def entries(document: Document) -> Iterator[Entry]:
    """Yield what there is, without a value: passwords, encryption keys, authorities, leaves."""
    for user, password in document["passwords"].items():
        for place, value in enumerate(password["values"]):
            yield Entry(
                "old password" if place else "password",
                user,
                password_hash(value)[:_SHORT],
                password["made"],
                "",
            )
    for place, key in enumerate(document["encryption_keys"]):
        digest = hashlib.sha256(key["key"].encode("ascii")).hexdigest()[:_SHORT]
        yield Entry("old encryption key" if place else "encryption key", "", digest, key["made"], "")
    for key in document["backup_keys"]:
        digest = hashlib.sha256(key["key"].encode("ascii")).hexdigest()[:_SHORT]
        yield Entry("backup key", "", digest, key["made"], "")
    for place, authority in enumerate(document["authorities"]):
        kind = "old CA" if place else "CA"
        yield Entry(kind, "", authority["fingerprint"][:_SHORT], authority["made"], authority["not_after"])
    for name, leaf in document["leaves"].items():
        yield Entry(
            f"{leaf['use']} certificate", name, leaf["fingerprint"][:_SHORT], leaf["made"], leaf["not_after"]
        )


def _has_shape(item: object, record: Any) -> bool:
    if not isinstance(item, dict):
        return False
    for name in record.__required_keys__:
        value = item.get(name)
        if name in ("values", "names"):
            right = isinstance(value, list) and all(isinstance(text, str) for text in value)
            right = right and (name == "names" or bool(value))
        else:
            right = isinstance(value, str)
        if not right:
            return False
    return True
