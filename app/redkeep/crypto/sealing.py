"""Sealing: a document of text under a passphrase, as one JSON line that can be opened years later.

    {"format": "redkeep-secrets", "version": 1, "sealed": true, "kdf": "pbkdf2-hmac-sha256",
     "cipher": "aes-256-gcm", "iterations": 600000, "salt": "...", "nonce": "...", "ciphertext": "..."}

Byte strings are base64. The ciphertext authenticates everything else: a changed header does not open.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redkeep.crypto.passwords import PBKDF2_ITERATIONS, derive_key
from redkeep.errors import SecretStoreError

_SALT_BYTES = 16
_NONCE_BYTES = 12
_MAX_ITERATIONS = 20_000_000
"""About ten seconds; a planted header must not be able to keep the operator's machine busy for hours."""

_FIXED: dict[str, object] = {
    "format": "redkeep-secrets",
    "version": 1,
    "sealed": True,
    "kdf": "pbkdf2-hmac-sha256",
    "cipher": "aes-256-gcm",
}


@dataclass(frozen=True)
class SealingKey:
    """A key stretched from a passphrase, with the salt and iterations it came by; the key is not shown."""

    key: bytes = field(repr=False)
    salt: bytes
    iterations: int

    @classmethod
    def from_passphrase(
        cls, passphrase: str, *, salt: bytes | None = None, iterations: int = PBKDF2_ITERATIONS
    ) -> SealingKey:
        """Stretch `passphrase`, with a new random salt unless one is given; takes about 0.3 s."""
        chosen = os.urandom(_SALT_BYTES) if salt is None else salt
        return cls(derive_key(passphrase, salt=chosen, iterations=iterations), chosen, iterations)

    @classmethod
    def for_document(cls, sealed: Mapping[str, Any], passphrase: str) -> SealingKey:
        """Stretch `passphrase` as a sealed document's header says. Raises SecretStoreError for a bad one."""
        iterations = sealed.get("iterations")
        if not isinstance(iterations, int) or not PBKDF2_ITERATIONS <= iterations <= _MAX_ITERATIONS:
            raise SecretStoreError(
                "the header of the sealed secrets has an iteration count out of range"
            )
        salt = _decode(sealed, "salt")
        if len(salt) < _SALT_BYTES:
            raise SecretStoreError("the header of the sealed secrets has a salt that is too short")
        return cls.from_passphrase(passphrase, salt=salt, iterations=iterations)

    def is_for(self, sealed: Mapping[str, Any]) -> bool:
        """Tell whether a sealed document was sealed with this very salt and iteration count."""
        return _decode(sealed, "salt") == self.salt and sealed.get("iterations") == self.iterations


def seal_text(text: str, *, key: SealingKey) -> bytes:
    """Return `text` sealed under `key` with a new random nonce: one line of JSON."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    header: dict[str, object] = {
        **_FIXED,
        "iterations": key.iterations,
        "salt": _encode(key.salt),
        "nonce": _encode(nonce),
    }
    ciphertext = AESGCM(key.key).encrypt(nonce, text.encode("utf-8"), _header_bytes(header))
    return json.dumps({**header, "ciphertext": _encode(ciphertext)}).encode("ascii") + b"\n"


def open_text(sealed: Mapping[str, Any], *, key: SealingKey) -> str:
    """Return the text of a sealed document.

    Raises SecretStoreError when it was sealed in another form, under another passphrase, or changed since.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = {name: value for name, value in sealed.items() if name != "ciphertext"}
    if any(header.get(name) != value for name, value in _FIXED.items()):
        raise SecretStoreError("the secrets are sealed in a format this release does not know")
    nonce = _decode(sealed, "nonce")
    if len(nonce) != _NONCE_BYTES:
        raise SecretStoreError("the header of the sealed secrets has a nonce of the wrong length")
    try:
        return (
            AESGCM(key.key)
            .decrypt(nonce, _decode(sealed, "ciphertext"), _header_bytes(header))
            .decode("utf-8")
        )
    except InvalidTag:
        raise SecretStoreError(
            "wrong passphrase, or the sealed secrets were changed; they cannot be opened"
        ) from None


def _header_bytes(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(document: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(document[name], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise SecretStoreError(f"the field {name!r} of the sealed secrets is missing or not base64") from None
