"""Compression of what is sealed next: one byte says how, and nothing inflates beyond a limit.

Compressing comes before sealing: ciphertext does not shrink. zstd's objects are kept one a thread: shared, they corrupt
data.
"""

from __future__ import annotations

import struct
import threading
from typing import Any, Final, Literal

import lz4.block
import zstandard

from redkeep.errors import DecryptionError

Preset = Literal["none", "lz4", "zstd"]
PRESETS: Final = ("none", "lz4", "zstd")

ZSTD_LEVEL: Final = 1
"""11 us and 0.58 of the size at 2 KB; level 3 takes twice as long for 0.56."""

_PLAIN, _LZ4, _ZSTD = b"\x00", b"\x01", b"\x02"
_SIZE: Final = struct.Struct("<I")
_local = threading.local()

# The stubs of lz4 are empty.
_lz4_compress: Any = lz4.block.compress
_lz4_decompress: Any = lz4.block.decompress


def pack(payload: bytes, *, preset: Preset, threshold: int) -> bytes:
    """`payload` with a byte before it that says how it was compressed: not at all up to `threshold` bytes, or if it grows."""
    if preset == "none" or len(payload) <= threshold:
        return _PLAIN + payload
    if preset == "lz4":
        packed: bytes = _LZ4 + _lz4_compress(payload, store_size=True)
    else:
        packed = _ZSTD + _engines()[0].compress(payload)
    return packed if len(packed) <= len(payload) else _PLAIN + payload


def unpack(packed: bytes, *, limit: int, start: int = 0) -> bytes:
    """What `pack` was given, from `start` on. Raises DecryptionError for anything else and for what says it is longer than `limit`
    bytes."""
    kind, body = packed[start : start + 1], packed[start + 1 :]
    if kind == _PLAIN:
        return body
    try:
        if kind == _LZ4:
            size: int = _SIZE.unpack_from(body)[0]
        elif kind == _ZSTD:
            size = zstandard.frame_content_size(body)
        else:
            raise DecryptionError("the value is compressed in a way this release does not know")
        if not 0 <= size <= limit:  # -1: a zstd frame that does not say
            raise DecryptionError(f"the value claims to inflate to {size} bytes; the limit is {limit}")
        inflated: bytes = _lz4_decompress(body) if kind == _LZ4 else _engines()[1].decompress(body)
    except (struct.error, zstandard.ZstdError, lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError):
        raise DecryptionError("the compressed value is damaged") from None
    if len(inflated) != size:
        raise DecryptionError("the compressed value is damaged")
    return inflated


def _engines() -> tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]:
    try:
        engines: tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor] = _local.engines
    except AttributeError:
        engines = _local.engines = (zstandard.ZstdCompressor(level=ZSTD_LEVEL), zstandard.ZstdDecompressor())
    return engines
