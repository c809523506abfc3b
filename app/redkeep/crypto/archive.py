"""The archive: a file of any size, sealed to a public key, that opens whole or not at all.

    magic    b"redkeep-archive 1\\n"
    head     one line of JSON: what the file is, for people too; `recipient` and `ephemeral` are X25519 public keys in base64
    chunks   64 KiB of content each, AES-256-GCM; the last one, which may be empty, is marked

The key comes from an X25519 exchange between a key made for this file alone and the recipient's (as in RFC 9180's DHKEM and in
age), stretched by HKDF-SHA256 over magic and head: who changes a letter of the head gets another key. A nonce is the chunk's
number and the mark of the last, so no chunk can be moved, repeated, left out, or cut off (the STREAM construction: Hoang,
Reyhanitabar, Rogaway and Vizar, CRYPTO 2015).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from redkeep.errors import ConfigurationError, DecryptionError

MAGIC: Final = b"redkeep-archive 1\n"

CHUNK_BYTES: Final = 64 * 1024
"""As age: 16 bytes of tag are 0.02 % of it, and it is checked before it is handed out."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""No head is that long; a file of another kind can have such a first line."""

_TAG_BYTES: Final = 16


def generate_private_key() -> str:
    """Return a new X25519 private key: 32 bytes in base64, 44 characters."""
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode("ascii")


def public_key(private_key: str) -> str:
    """Return the public half, 44 characters. Raises ConfigurationError for what is no private key."""
    return _text(_private(private_key).public_key())


def write_archive(target: BinaryIO, content: Iterable[bytes], *, recipient: str, head: Mapping[str, Any]) -> None:
    """Write pieces of any length to `target`, sealed to the public key `recipient`. `head` is readable by everybody.

    Raises ConfigurationError for a recipient that is no public key or a head that is too long.
    """
    ephemeral = X25519PrivateKey.generate()
    named = {**head, "recipient": recipient, "ephemeral": _text(ephemeral.public_key())}
    line = json.dumps(named, ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n"
    if len(line) > MAX_HEAD_BYTES:
        raise ConfigurationError("the archive's header is too long; shorten it")
    try:
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(recipient, validate=True)))
    except (ValueError, binascii.Error):
        raise ConfigurationError("the recipient of the archive is not an X25519 public key") from None
    cipher = _cipher(shared, line)
    target.write(MAGIC + line)
    waiting = bytearray()
    number = 0
    for piece in content:
        waiting += piece
        while len(waiting) > CHUNK_BYTES:  # one byte more, so that the last chunk is known to be the last
            target.write(cipher.encrypt(_nonce(number, last=False), bytes(waiting[:CHUNK_BYTES]), None))
            del waiting[:CHUNK_BYTES]
            number += 1
    target.write(cipher.encrypt(_nonce(number, last=True), bytes(waiting), None))


def read_head(source: BinaryIO) -> dict[str, Any]:
    """The head of an archive, as it says of itself: proven only once all of it has been opened.

    Raises DecryptionError when it is no archive, or one of a later version.
    """
    return _read_head(source)[0]


def open_archive(source: BinaryIO, *, private_key: str) -> Iterator[bytes]:
    """The content of an archive in pieces, each proven. Use nothing of it before the last: only then is it known to be whole.

    Raises DecryptionError: no archive, another recipient's, changed, cut short or with something added.
    """
    head, line = _read_head(source)
    ours = _private(private_key)
    if head.get("recipient") != _text(ours.public_key()):
        raise DecryptionError("the archive is encrypted for another key")
    try:
        shared = ours.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(str(head.get("ephemeral")), validate=True)))
    except (ValueError, binascii.Error):
        raise DecryptionError("the archive's header is damaged") from None
    cipher, number = _cipher(shared, line), 0
    sealed = source.read(CHUNK_BYTES + _TAG_BYTES)
    while True:
        following = source.read(CHUNK_BYTES + _TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(number, last=not following), sealed, None)
        except (InvalidTag, ValueError):
            raise DecryptionError(f"the archive is damaged or truncated (chunk {number + 1})") from None
        if not following:
            return
        sealed, number = following, number + 1


def _read_head(source: BinaryIO) -> tuple[dict[str, Any], bytes]:
    magic = source.readline(len(MAGIC))
    if magic != MAGIC:
        later = magic.startswith(MAGIC[: MAGIC.index(b" ")])
        raise DecryptionError("the archive was made by a later version; use that version" if later else "this is not a redkeep archive")
    line = source.readline(MAX_HEAD_BYTES)
    try:
        head = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        head = None
    if not isinstance(head, dict):
        raise DecryptionError("the archive's header is damaged")
    return head, line


def _cipher(shared: bytes, line: bytes) -> AESGCM:
    info = b"redkeep archive" + hashlib.sha256(MAGIC + line).digest()
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _private(text: str) -> X25519PrivateKey:
    try:
        return X25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        raise ConfigurationError("the backup key is not an X25519 private key") from None


def _text(key: X25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode("ascii")
