"""The codec: a value to the bytes that are stored, and back. One decoder knows every marker.

    envelope                0xC1 ...        sealed; inside, the origin, one byte for the compression, and JSON
    raw:                    JSON            written by AIResponseCache; the old class put a pickle there
    compressed:             zlib(JSON)      the same, above the threshold
    JSON text                               the old class's `set`
    encrypted:              Fernet(pickle)  the PRD's EncryptedCacheLayer
    compressed_encrypted:   zlib(encrypted: Fernet(pickle))
    Fernet token            gAAAA...        of a pickle or JSON

With a key ring only envelopes are written, and only envelopes are read unless the caller says `legacy`. Pickles are
read only with `read_pickles`, and never run.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from redkeep.cache.compression import Preset, pack, unpack
from redkeep.cache.document import from_json, to_json
from redkeep.cache.legacy import inflate, is_pickle, load_plain_pickle
from redkeep.cache.origin import NO_ORIGIN, end_of_origin
from redkeep.crypto.envelope import is_envelope, seal, unseal
from redkeep.errors import ConfigurationError, DecryptionError

if TYPE_CHECKING:
    from redkeep.crypto.keyring import KeyRing

RAW: Final = b"raw:"
COMPRESSED: Final = b"compressed:"
ENCRYPTED: Final = b"encrypted:"
COMPRESSED_ENCRYPTED: Final = b"compressed_encrypted:"
FERNET: Final = b"gAAAA"
"""Version byte 0x80 and the upper zero bytes of the time, in base64 (the Fernet specification)."""

MAX_VALUE_BYTES: Final = 8 * 1024 * 1024
"""The longest value, as JSON, that is written or inflated."""


class Codec:
    """Encodes and decodes values; with a ring it seals them, each for its own Redis key, namespace and time."""

    __slots__ = ("_fernet", "compression", "limit", "namespace", "ring", "threshold", "zlib_level")

    def __init__(
        self,
        *,
        ring: KeyRing | None = None,
        namespace: str = "",
        compression: Preset = "none",
        threshold: int = 1000,
        zlib_level: int = 6,
        limit: int = MAX_VALUE_BYTES,
        fernet_keys: Sequence[str] = (),
    ) -> None:
        """`threshold` and `limit` are in bytes of JSON; `fernet_keys` open the PRD's forms, and only with `legacy`."""
        self.ring = ring
        self.namespace = namespace
        self.compression: Preset = compression
        self.threshold = threshold
        self.zlib_level = zlib_level
        self.limit = limit
        self._fernet = _fernet_opener(fernet_keys)

    def rekey(self, ring: KeyRing, *, fernet_keys: Sequence[str]) -> None:
        """Seal and open with another ring from now on."""
        self.ring, self._fernet = ring, _fernet_opener(fernet_keys)

    def dump(self, value: Any, *, field: str) -> bytes:
        """`value` as JSON. Raises TypeError or ValueError that names `field`: not JSON, or longer than the limit."""
        payload = to_json(value, field=field)
        if len(payload) > self.limit:
            raise ValueError(f"{field} is {len(payload)} bytes long as JSON; the limit is {self.limit} bytes")
        return payload

    def wrap(self, payload: bytes) -> bytes:
        """JSON behind its marker, not sealed: `raw:`, or `compressed:` above the threshold."""
        if len(payload) <= self.threshold:
            return RAW + payload
        return COMPRESSED + zlib.compress(payload, self.zlib_level)

    def seal(self, payload: bytes, *, name: str, expires_at_ms: int, origin: bytes = NO_ORIGIN) -> bytes:
        """JSON compressed and sealed for the Redis key `name`, with its origin. Needs a ring."""
        if self.ring is None:
            raise ConfigurationError("there is no encryption key; set REDIS_ENCRYPTION_KEY")
        return seal(
            origin + pack(payload, preset=self.compression, threshold=self.threshold),
            key=name,
            ring=self.ring,
            namespace=self.namespace,
            expires_at_ms=expires_at_ms,
        )

    def open(self, stored: bytes, *, name: str, clock: Callable[[], float] = time.time) -> Any:
        """The value of an envelope. Raises DecryptionError for everything that is not one of ours for `name`, in time."""
        if self.ring is None:
            raise DecryptionError("there is no key to decrypt the value with")
        opened = unseal(stored, key=name, ring=self.ring, namespace=self.namespace, clock=clock)
        return self.parse(unpack(opened, start=end_of_origin(opened), limit=self.limit))

    def read(self, stored: bytes, *, name: str, read_pickles: bool) -> Any:
        """The value in any of the forms above; for values that nothing vouches for. Raises DecryptionError."""
        if is_envelope(stored):
            return self.open(stored, name=name)
        if stored.startswith(RAW):
            return self._payload(stored[len(RAW) :], read_pickles)
        if stored.startswith(COMPRESSED):
            return self._payload(inflate(stored[len(COMPRESSED) :], limit=self.limit), read_pickles)
        if stored.startswith(COMPRESSED_ENCRYPTED):
            stored = inflate(stored[len(COMPRESSED_ENCRYPTED) :], limit=self.limit)
            if not stored.startswith(ENCRYPTED):
                raise DecryptionError("the old encrypted value is damaged")
        if stored.startswith(ENCRYPTED):
            return self._payload(self._fernet(stored[len(ENCRYPTED) :]), read_pickles)
        if stored.startswith(FERNET):
            return self._payload(self._fernet(stored), read_pickles)
        return self._payload(stored, read_pickles)

    def _payload(self, payload: bytes, read_pickles: bool) -> Any:
        if is_pickle(payload):
            if not read_pickles:
                raise DecryptionError("the value is a pickle, which is read only while REDIS_READ_LEGACY is on")
            if len(payload) > self.limit:
                raise DecryptionError("the old value is longer than any this cache wrote")
            return load_plain_pickle(payload)
        return self.parse(payload)

    def parse(self, payload: bytes) -> Any:
        """The value of JSON. Raises DecryptionError for anything else, and for what is too long."""
        if len(payload) > self.limit:
            raise DecryptionError("the value is longer than any this cache wrote")
        try:
            return from_json(payload)
        except ValueError:
            raise DecryptionError("the value is not JSON") from None


def _fernet_opener(keys: Sequence[str]) -> Callable[[bytes], bytes]:
    if not keys:
        return _no_fernet
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    ring = MultiFernet([Fernet(key + "=" * (-len(key) % 4)) for key in keys])

    def opened(token: bytes) -> bytes:
        try:
            return ring.decrypt(token)
        except (InvalidToken, TypeError, ValueError):
            raise DecryptionError("no key of the ring decrypts the old encrypted value") from None

    return opened


def _no_fernet(token: bytes) -> bytes:
    raise DecryptionError("there is no key to decrypt the old encrypted value with")
