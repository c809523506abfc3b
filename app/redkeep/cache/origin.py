"""The origin of a sealed value: what it answers, sealed with it, so that it can be named anew under another key.

    offset  bytes  field
    0       1      what follows: 1 = the request, 2 = an old readable name, 3 = both, 0 = neither
    1       32     the request, if there is one: a hash that needs no key, see `HashedNames.request`
    ...     4+n    the old readable name in UTF-8, if there is one, its length before it, big-endian

It stands before the compressed value, inside the seal. The old name is kept during a migration window only: it is what the way
back needs.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from redkeep.cache.keys import REQUEST_BYTES
from redkeep.errors import DecryptionError

NO_ORIGIN: Final = b"\x00"

_REQUEST, _READABLE = 1, 2
_REQUEST_ALONE: Final = bytes((_REQUEST,))
_LENGTH: Final = struct.Struct(">I")
_AFTER_REQUEST: Final = 1 + REQUEST_BYTES


class Origin(NamedTuple):
    """The request's 32 bytes, and the old readable name; each empty when it is not known."""

    request: bytes = b""
    readable: str = ""

    def encode(self) -> bytes:
        """As it stands before the value."""
        if self.request and not self.readable:
            return _REQUEST_ALONE + self.request
        kind = (_REQUEST if self.request else 0) | (_READABLE if self.readable else 0)
        name = self.readable.encode("utf-8", "surrogatepass")
        return bytes((kind,)) + self.request + (_LENGTH.pack(len(name)) + name if name else b"")


def end_of_origin(opened: bytes) -> int:
    """Where what follows the origin begins. Raises DecryptionError when there is none."""
    if opened.startswith(_REQUEST_ALONE) and len(opened) >= _AFTER_REQUEST:
        return _AFTER_REQUEST
    return len(opened) - len(split_origin(opened)[1])


def split_origin(opened: bytes) -> tuple[Origin, bytes]:
    """The origin, and what follows it. Raises DecryptionError when there is none."""
    kind = opened[0] if opened else _READABLE + 2
    if kind > _REQUEST | _READABLE:
        raise DecryptionError("the value names its origin in a way this release does not know")
    place = 1
    request, name = b"", ""
    try:
        if kind & _REQUEST:
            request, place = opened[place : place + REQUEST_BYTES], place + REQUEST_BYTES
        if kind & _READABLE:
            (length,) = _LENGTH.unpack_from(opened, place)
            place += _LENGTH.size
            name, place = opened[place : place + length].decode("utf-8", "surrogatepass"), place + length
    except (struct.error, UnicodeDecodeError):
        raise DecryptionError("the value is damaged") from None
    if place > len(opened):
        raise DecryptionError("the value is damaged")
    return Origin(request, name), opened[place:]
