"""EncryptedCacheLayer: the PRD's class, with its names; what it writes is an envelope."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redkeep.cache import arguments
from redkeep.cache.codec import Codec
from redkeep.cache.compression import PRESETS, Preset
from redkeep.crypto.keyring import KeyRing, decode_key
from redkeep.errors import ConfigurationError


class EncryptedCacheLayer:
    """Seals values and opens them. Safe for threads."""

    def __init__(
        self,
        encryption_key: str | Sequence[str] | KeyRing | None = None,
        *,
        passphrase: str | None = None,
        salt: bytes | None = None,
        namespace: str = "",
        compression: Preset = "none",
        compression_threshold: int = 1000,
        read_legacy: bool = False,
    ) -> None:
        """`encryption_key`: 32 bytes in URL-safe base64, as Fernet.generate_key prints them; or several, newest first, also as
        one comma-separated string; or a KeyRing. Instead of it a `passphrase` with the random `salt` (16 bytes or more) kept
        beside it, stretched by PBKDF2-HMAC-SHA256 with 600,000 iterations, which takes some 0.3 s.

        `read_legacy` opens what the PRD's class wrote, too: Fernet tokens of the same keys, pickles of plain data.
        Raises ConfigurationError for a key, passphrase or salt that will not do.
        """
        if arguments.text(compression, "compression") not in PRESETS:
            raise ConfigurationError(f"compression must be one of {', '.join(PRESETS)}")
        self.ring, strings = _ring(encryption_key, passphrase, salt)
        self.read_legacy = read_legacy
        self.codec = Codec(
            ring=self.ring,
            namespace=namespace,
            compression=compression,
            threshold=compression_threshold,
            fernet_keys=strings if read_legacy else (),
        )

    def __repr__(self) -> str:
        return f"EncryptedCacheLayer({self.ring!r})"

    def rekey(self, keys: Sequence[str]) -> None:
        """Take up another ring, newest key first; how often a key has sealed is kept. Raises ConfigurationError."""
        counts = {key.key_id: key.sealed for key in self.ring.keys}
        self.ring = KeyRing([decode_key(key, field="encryption_key") for key in keys], sealed=counts)
        self.codec.rekey(self.ring, fernet_keys=keys if self.read_legacy else ())

    def encrypt_cache_data(self, data: Any, *, key: str = "", ttl: float | None = None) -> bytes:
        """`data` sealed for the Redis key `key`, for `ttl` seconds or without end.

        Raises TypeError or ValueError for data that JSON cannot hold.
        """
        expires = 0 if ttl is None else int((time.time() + ttl) * 1000)
        return self.codec.seal(self.codec.dump(data, field="data"), name=key, expires_at_ms=expires)

    def decrypt_cache_data(self, data: bytes, *, key: str = "") -> Any:
        """What `encrypt_cache_data` was given for this very `key`. Raises DecryptionError for everything else."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if self.read_legacy:
            return self.codec.read(data, name=key, read_pickles=True)
        return self.codec.open(data, name=key)


def _ring(
    keys: str | Sequence[str] | KeyRing | None, passphrase: str | None, salt: bytes | None
) -> tuple[KeyRing, tuple[str, ...]]:
    if isinstance(keys, bytes):  # as Fernet.generate_key returns them
        keys = keys.decode("ascii", "replace")
    elif keys is not None and not isinstance(keys, str | KeyRing) and not _all_text(keys):
        raise TypeError(f"encryption_key must be text, several in a list, or a KeyRing, not {type(keys).__name__}")
    if isinstance(keys, KeyRing):
        strings: tuple[str, ...] = ()
    elif keys:
        strings = tuple(keys.replace(",", " ").split()) if isinstance(keys, str) else tuple(keys)
    elif passphrase is not None:
        return KeyRing([_stretch(passphrase, salt)]), ()
    else:
        raise ConfigurationError("encryption_key is missing; make one with `redkeep keys generate`")
    if passphrase is not None or salt is not None:
        raise ConfigurationError("encryption_key and passphrase are both given; keep one")
    return (keys if isinstance(keys, KeyRing) else KeyRing.from_strings(strings, field="encryption_key")), strings


def _all_text(keys: object) -> bool:
    return isinstance(keys, Sequence) and all(isinstance(key, str) for key in keys)


def _stretch(passphrase: str, salt: bytes | None) -> bytes:
    from redkeep.crypto.passwords import derive_key, validate_passphrase

    if salt is None:
        raise ConfigurationError("salt is missing: pass 16 random bytes, stored beside what the passphrase protects")
    if not isinstance(salt, bytes):
        raise TypeError(f"salt must be bytes, not {type(salt).__name__}")
    arguments.text(passphrase, "passphrase")
    validate_passphrase(passphrase, field="passphrase")
    return derive_key(passphrase, salt=salt)
