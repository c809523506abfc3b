"""The key ring: the first key seals, every key opens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from redkeep.errors import ConfigurationError

logger = logging.getLogger(__name__)

KEY_BYTES: Final = 32
"""AES-256."""

KEY_ID_BYTES: Final = 8
"""64 bits: two keys of one ring share an id with a chance of 2^-64."""

SEALS_WARNED: Final = 2**30
"""Seals under one key after which a warning is logged: a quarter of the limit leaves time to rotate."""

SEALS_ALLOWED: Final = 2**32
"""NIST SP 800-38D section 8.3: no more than 2^32 random 96-bit nonces under one GCM key."""

AES_256_GCM: Final = 1
"""The algorithm byte of the only algorithm there is; it belongs to a key and is compared, never obeyed."""

_MIN_DISTINCT_BYTES = 8
_DEFAULT_FIELD = "REDIS_ENCRYPTION_KEY"


def generate_key() -> str:
    """Return a new key string: 32 random bytes in URL-safe base64, 44 characters, like a Fernet key."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def decode_key(text: str, *, field: str = _DEFAULT_FIELD) -> bytes:
    """Return the 32 bytes of a key string (URL-safe base64, padding optional).

    Raises ConfigurationError when it is not that or plainly not random; names `field`, never the value.
    """
    remedy = "make one with `redkeep keys generate`"
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{field} is not URL-safe base64; {remedy}") from None
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{field} holds {len(key)} bytes, not {KEY_BYTES}; {remedy}")
    if base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii") != text.rstrip("="):
        raise ConfigurationError(f"{field} is not canonical URL-safe base64; {remedy}")
    if len(set(key)) < _MIN_DISTINCT_BYTES:
        raise ConfigurationError(f"{field} is not random; {remedy}")
    return key


class RingKey:
    """One key of a ring: its id, its algorithm, its cipher object, and how often it has sealed.

    `algorithm` and `key_id` form `prefix`, the part of an envelope that is the same for all its envelopes.
    The secret itself is used for nothing: the AES key, the id and `derive` each get their own HMAC-SHA256
    of it under a label (RFC 5869, expand step), so a key that also opened old Fernet tokens stays apart.
    """

    __slots__ = ("_seals", "_secret", "algorithm", "cipher", "key_id", "prefix", "sealed")

    def __init__(self, secret: bytes, *, sealed: int = 0) -> None:
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(f"an encryption key has {len(secret)} bytes, not {KEY_BYTES}")
        if sealed < 0:
            raise ConfigurationError("a key cannot have encrypted fewer than 0 values")
        self._secret = secret
        self._seals = itertools.count(sealed + 1)
        self.sealed = sealed
        self.algorithm = AES_256_GCM
        self.cipher = AESGCM(self.derive("aes-256-gcm"))
        self.key_id = self.derive("key id")[:KEY_ID_BYTES]
        self.prefix = bytes((self.algorithm,)) + self.key_id

    def __repr__(self) -> str:
        return f"RingKey({self.key_id.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a key must not leave its process")

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that depend on this key and `purpose`, such as a key to hash Redis key names."""
        return hmac.digest(self._secret, b"redkeep 1 " + purpose.encode("utf-8"), hashlib.sha256)

    def count_seal(self) -> None:
        """Count one seal; `next` on a counter is atomic, so threads need no lock.

        Raises ConfigurationError once 2^32 values were sealed. The count is this process's own: a fleet
        shares the limit, and `sealed` (read here, given back at the next start) carries it over a restart.
        """
        count = next(self._seals)
        if count > SEALS_ALLOWED:
            raise ConfigurationError(
                f"encryption key {self.key_id.hex()} has encrypted {SEALS_ALLOWED} values; rotate the key"
            )
        self.sealed = count
        if not count % SEALS_WARNED:
            logger.warning("encryption_key_worn", extra={"key_id": self.key_id.hex(), "seals": count})


class KeyRing:
    """An ordered set of keys, newest first: `primary` seals, all open."""

    __slots__ = ("find", "keys", "primary")

    def __init__(self, keys: Sequence[bytes], *, sealed: Mapping[bytes, int] | None = None) -> None:
        """Build a ring from 32-byte keys, newest first; `sealed` maps key ids to counts of earlier seals.

        Raises ConfigurationError for an empty ring, a key of another length, or one key given twice.
        """
        ring = tuple(RingKey(key) for key in keys)
        if not ring:
            raise ConfigurationError("the key ring is empty; encryption needs at least one key")
        if sealed:
            ring = tuple(
                RingKey(key, sealed=sealed.get(old.key_id, 0)) for key, old in zip(keys, ring, strict=True)
            )
        self.keys: Final = ring
        self.primary: Final = ring[0]
        self.find: Final = {key.prefix: key for key in ring}.get
        """The key whose `prefix` an envelope has, or None: the algorithm belongs to the key, never to the envelope."""
        if len({key.key_id for key in ring}) != len(ring):
            raise ConfigurationError("the key ring contains a key twice; remove the copy")

    @classmethod
    def from_strings(cls, keys: Iterable[str], *, field: str = _DEFAULT_FIELD) -> KeyRing:
        """Build a ring from key strings as `generate_key` prints them, newest first.

        Raises ConfigurationError; the message names `field` and the position of the wrong one, never a value.
        """
        texts = [keys] if isinstance(keys, str) else list(keys)
        many = len(texts) > 1
        return cls(
            [
                decode_key(text, field=f"{field} (key {place} of {len(texts)})" if many else field)
                for place, text in enumerate(texts, start=1)
            ]
        )

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(key.key_id.hex() for key in self.keys)})"

    def __len__(self) -> int:
        return len(self.keys)
