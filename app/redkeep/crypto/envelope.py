"""The envelope: how a value looks once sealed, and the only way to open it.

    offset  bytes  field
    0       1      magic 0xC1: never begins UTF-8 text, MessagePack, a pickle, zlib or a Fernet token
    1       1      version, 1
    2       1      algorithm, 1 = AES-256-GCM
    3       8      key id
    11      8      expiry, milliseconds since the Unix epoch, big-endian; 0 = none
    19      12     nonce, random
    31      n+16   ciphertext and tag

The additional data is the 31 header bytes, the length of the namespace (4 bytes, big-endian), the namespace,
and the full Redis key: a value moved to another key or tenant, or played back after its time, does not open.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from redkeep.crypto.keyring import KeyRing, RingKey
from redkeep.crypto.nonces import take_nonce
from redkeep.errors import ConfigurationError, DecryptionError

MAGIC: Final = 0xC1
VERSION: Final = 1
HEADER_BYTES: Final = 31
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
"""How much longer an envelope is than what it holds."""

MAX_EXPIRY_MS: Final = 2**63 - 1
"""The latest expiry: Redis keeps its own times as signed 64-bit milliseconds."""

KEY_ID: Final = slice(3, 11)
"""Where an envelope names the key that sealed it: enough to count by key without opening anything."""

_HEADER = struct.Struct(">BBB8sQ12s")
_LENGTH = struct.Struct(">I")
_FIRST = bytes((MAGIC, VERSION))
_TIME_AND_NONCE = struct.Struct(">Q12s")
_KEY = slice(len(_FIRST), HEADER_BYTES - _TIME_AND_NONCE.size)
"""Where an envelope says the algorithm and the id of its key: `RingKey.prefix`."""


class Header(NamedTuple):
    """What an envelope says of itself; proven only once `unseal` has returned."""

    version: int
    algorithm: int
    key_id: bytes
    expires_at_ms: int
    nonce: bytes


def seal(
    plaintext: bytes,
    *,
    key: str | bytes,
    ring: KeyRing,
    namespace: str = "",
    expires_at_ms: int = 0,
) -> bytes:
    """Return `plaintext` sealed for the full Redis key `key`, 47 bytes longer than it was.

    `expires_at_ms` is in milliseconds since the Unix epoch, 0 for never; it is what `unseal` goes by,
    whatever TTL the server was told.

    Raises ConfigurationError for an expiry out of range, or when the key has sealed its 2^32 values.
    """
    if not 0 <= expires_at_ms <= MAX_EXPIRY_MS:
        raise ConfigurationError("an expiry must be 0 (never) or milliseconds since the epoch")
    sealing = ring.primary
    sealing.count_seal()
    nonce = take_nonce()
    header = _FIRST + sealing.prefix + _TIME_AND_NONCE.pack(expires_at_ms, nonce)
    return header + sealing.cipher.encrypt(nonce, plaintext, header + _scope(namespace) + _bytes(key))


def unseal(
    envelope: bytes,
    *,
    key: str | bytes,
    ring: KeyRing,
    namespace: str = "",
    clock: Callable[[], float] = time.time,
) -> bytes:
    """Return what `seal` was given for this very key and namespace; `clock` gives seconds since the epoch.

    Raises DecryptionError for everything else: cut off, another version or algorithm, a key the ring does
    not hold, changed in any bit, sealed for another key or namespace, or past its expiry.
    """
    if len(envelope) < OVERHEAD_BYTES:
        raise DecryptionError("the value is too short to be an envelope")
    opening = ring.find(envelope[_KEY])
    if opening is None or not envelope.startswith(_FIRST):
        raise _not_ours(envelope, ring)
    expires_at_ms, nonce = _TIME_AND_NONCE.unpack_from(envelope, _KEY.stop)
    try:
        plaintext = opening.cipher.decrypt(
            nonce, envelope[HEADER_BYTES:], envelope[:HEADER_BYTES] + _scope(namespace) + _bytes(key)
        )
    except InvalidTag:
        raise DecryptionError(
            "the envelope was changed, or was encrypted for another key name or namespace"
        ) from None
    if expires_at_ms and clock() * 1000 >= expires_at_ms:
        raise DecryptionError("the envelope has expired")
    return plaintext


def _not_ours(envelope: bytes, ring: KeyRing) -> DecryptionError:
    magic, version, _, key_id, _, _ = _HEADER.unpack_from(envelope)
    if magic != MAGIC:
        return DecryptionError("the value is not an envelope")
    if version != VERSION:
        return DecryptionError(f"the envelope has version {version}, which this release does not know")
    if any(key.key_id == key_id for key in ring.keys):
        return DecryptionError(f"the envelope claims an algorithm that does not fit key {key_id.hex()}")
    return DecryptionError(f"the envelope names key {key_id.hex()}, which is not in the key ring")


def is_envelope(value: bytes) -> bool:
    """Tell whether `value` begins like an envelope of any version; says nothing of whether it opens."""
    return value[:1] == b"\xc1"


def is_sealed_with(header: bytes, key: RingKey) -> bool:
    """Tell whether an envelope with these first HEADER_BYTES is of this version and names `key`; unproven."""
    return header.startswith(_FIRST) and header[_KEY] == key.prefix


def read_header(envelope: bytes) -> Header:
    """Return the header without opening the envelope: unproven, for routing and reports only.

    Raises DecryptionError when the value is not an envelope of this version.
    """
    if len(envelope) < OVERHEAD_BYTES or not is_envelope(envelope) or envelope[1] != VERSION:
        raise DecryptionError("the value is not an envelope of this version")
    return Header(*_HEADER.unpack_from(envelope)[1:])


def expiry_of(stored: bytes) -> int:
    """The expiry in milliseconds since the epoch that a value of this version carries, unproven; 0 for none, or no envelope."""
    return read_header(stored).expires_at_ms if stored[:2] == _FIRST and len(stored) >= OVERHEAD_BYTES else 0


@lru_cache(maxsize=64)
def _scope(namespace: str) -> bytes:
    tenant = namespace.encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(tenant)) + tenant


def _bytes(key: str | bytes) -> bytes:
    if type(key) is str and key.isascii():
        return key.encode()
    # surrogatepass keeps the encoding total and one-to-one, so that no key name can raise or collide
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
