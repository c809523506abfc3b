"""What must hold for any bytes that lie in Redis, whoever put them there: the property that both fuzzers look for a breach of."""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from cryptography.fernet import Fernet

from redkeep.cache.codec import Codec
from redkeep.cache.compression import PRESETS, pack
from redkeep.cache.document import from_json, to_json
from redkeep.cache.legacy import MAX_DEPTH, inflate, load_plain_pickle
from redkeep.crypto.envelope import read_header, seal
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import DecryptionError

NAME = "ai_cache:op:summarize|h:" + "ab" * 16
LIMIT = 1 << 20
SLICE = 1 << 16
"""Bytes of an input that are looked at."""

_KEYS = (generate_key(), generate_key())
_RING = KeyRing.from_strings(_KEYS)
_CODEC = Codec(ring=_RING, fernet_keys=_KEYS, limit=LIMIT)
_FERNET = Fernet(_KEYS[1])
_SCALARS = (bool, int, float, str, type(None))


class Breach(AssertionError):
    """The decoder did what it must not."""


def _as_it_is(data: bytes) -> Any:
    return _CODEC.read(data, name=NAME, read_pickles=True)


def _strict(data: bytes) -> Any:
    value = _CODEC.open(data, name=NAME)
    raise Breach(f"bytes that nobody sealed opened: {value!r}")


def _sealed(data: bytes) -> Any:
    """Past the seal, as if a key had leaked: decompression and JSON must hold by themselves."""
    return _CODEC.open(seal(data, key=NAME, ring=_RING), name=NAME)


def _pickle(data: bytes) -> Any:
    return load_plain_pickle(data)


def _raw(data: bytes) -> Any:
    return _CODEC.read(b"raw:" + data, name=NAME, read_pickles=True)


def _deflated(data: bytes) -> Any:
    return _CODEC.read(b"compressed:" + zlib.compress(data, 1), name=NAME, read_pickles=True)


def _inflated(data: bytes) -> Any:
    inflated = inflate(data, limit=LIMIT)
    if len(inflated) > LIMIT:
        raise Breach(f"{len(data)} bytes inflated to {len(inflated)}")
    return None


def _fernet(data: bytes) -> Any:
    return _CODEC.read(b"encrypted:" + _FERNET.encrypt(data), name=NAME, read_pickles=True)


def _header(data: bytes) -> Any:
    read_header(data)


def _no_pickle(data: bytes) -> Any:
    if data[:1] == b"\x80":
        value = _CODEC.read(data, name=NAME, read_pickles=False)
        raise Breach(f"a pickle was read while the window is shut: {value!r}")
    return None


WAYS: tuple[Callable[[bytes], Any], ...] = (
    _as_it_is, _strict, _sealed, _pickle, _raw, _deflated, _inflated, _fernet, _header, _no_pickle,
)


def check(data: bytes) -> None:
    """The first byte chooses the way in; the rest is what lies in Redis. Anything but plain data or DecryptionError raises."""
    if not data:
        return
    way = WAYS[data[0] % len(WAYS)]
    with suppress(DecryptionError):
        value = way(data[1 : 1 + SLICE])
        _check_plain(value)
        _check_stored_again(value, json_only=way is _sealed)


def _check_plain(value: Any) -> None:
    """Nothing but the types of JSON, and tuples of old pickles, and no deeper than can be stored again."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > 1024 + MAX_DEPTH:
            raise Breach("deeper than the decoder allows")
        if type(part) is dict:
            if not all(type(key) is str for key in part):
                raise Breach("a key that is no text")
            waiting += [(each, depth + 1) for each in part.values()]
        elif type(part) in (list, tuple):
            waiting += [(each, depth + 1) for each in part]
        elif type(part) not in _SCALARS:
            raise Breach(f"an object of type {type(part).__name__}")


def _check_stored_again(value: Any, *, json_only: bool) -> None:
    """What was read can be written and read again as the same; old pickles may hold NaN, and reading goes deeper than writing."""
    try:
        text = to_json(value, field="value")
    except TypeError:
        return
    except ValueError:
        if json_only:
            raise Breach("a number that JSON does not have") from None
        return
    if to_json(from_json(text), field="value") != text:
        raise Breach("a value changed when it was stored again")


def seeds() -> Iterator[bytes]:
    """Good values in every form, for each way in: where the fuzzers begin."""
    values: list[Any] = [
        None, True, -1, 2**63, 1.5, "text", "\ud800", [], {}, {"a": [1, {"b": None}], "c": "d" * 50},
        {"summary": "words " * 40, "cached_at": "2026-01-01T00:00:00+00:00", "cache_hit": True, "text_length": 12},
    ]
    bodies: list[bytes] = [
        b"", b"[" * 300, b"[" * 2000 + b"]" * 2000, b'{"a":1e999}', b"NaN", bytes(64), b'["\\ud800",NaN]', b'\x00["\\ud800",1e999]',
    ]
    for value in values:
        text = to_json(value, field="value")
        pickles = [pickle.dumps(value, protocol) for protocol in (2, 3, 4, 5)]
        bodies += [
            text, b"raw:" + text, b"compressed:" + zlib.compress(text), zlib.compress(text), *pickles, b"raw:" + pickles[-1],
            b"encrypted:" + _FERNET.encrypt(pickles[-1]), _FERNET.encrypt(text),
            b"compressed_encrypted:" + zlib.compress(b"encrypted:" + _FERNET.encrypt(pickles[-1])),
            *(pack(text, preset=preset, threshold=0) for preset in PRESETS),
            seal(pack(text, preset="zstd", threshold=0), key=NAME + "0", ring=_RING),
        ]
    bodies += [pickle.dumps({1}), pickle.dumps(math.nan), pickle.dumps(print), pickle.dumps([b"bytes", (1, (2, 3, 4, 5))])]
    for body in bodies:
        for way in range(len(WAYS)):
            yield bytes([way]) + body
