"""The codec: what goes in comes out; what else is read in a migration window; and what is never run, inflated or believed."""

from __future__ import annotations

import base64
import datetime
import enum
import json
import math
import os
import pickle
import pickletools
import struct
import time
import timeit
import tracemalloc
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import lz4.block
import pytest
import zstandard
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from redkeep.cache.codec import Codec
from redkeep.cache.compression import PRESETS, pack, unpack
from redkeep.cache.document import from_json, to_json
from redkeep.cache.legacy import MAX_DEPTH, inflate, load_plain_pickle
from redkeep.crypto.envelope import OVERHEAD_BYTES, seal
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import ConfigurationError, DecryptionError

KEYS = (generate_key(), generate_key())
RING = KeyRing.from_strings(KEYS)
NAME = "ai_cache:op:summarize|h:" + "ab" * 16
FUTURE = 2**45

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain_data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=25)


def sealed(value: object, codec: Codec, *, name: str = NAME) -> bytes:
    return codec.seal(codec.dump(value, field="value"), name=name, expires_at_ms=FUTURE)


@given(plain_data, st.sampled_from(PRESETS), st.integers(0, 300))
def test_sealed_values_come_back(value: Any, preset: Any, threshold: int) -> None:
    """Every value JSON can hold comes back, under each preset, on both sides of the threshold."""
    codec = Codec(ring=RING, compression=preset, threshold=threshold)
    assert value == codec.open(sealed(value, codec), name=NAME)


@given(plain_data, st.integers(0, 300))
def test_plain_values_come_back(value: Any, threshold: int) -> None:
    """Without a ring: `raw:` or `compressed:`, by the threshold."""
    codec = Codec(threshold=threshold)
    payload = codec.dump(value, field="value")
    stored = codec.wrap(payload)
    assert stored.startswith(b"raw:" if len(payload) <= threshold else b"compressed:")
    assert value == codec.read(stored, name=NAME, read_pickles=False)


@given(st.binary(max_size=5000))
def test_no_bytes_surprise_the_decoder(stored: bytes) -> None:
    """Whatever lies in Redis, the decoder gives a value or DecryptionError."""
    codec = Codec(ring=RING, fernet_keys=KEYS)
    reads = (lambda b: codec.read(b, name=NAME, read_pickles=True), lambda b: codec.open(b, name=NAME))
    for prefix in (b"", b"raw:", b"compressed:", b"encrypted:", b"compressed_encrypted:", b"raw:\x80\x04", b"\xc1\x01\x01"):
        for read in reads:
            with suppress(DecryptionError):
                read(prefix + stored)


@pytest.mark.parametrize("preset", PRESETS)
def test_tampering(preset: Any) -> None:
    """Every bit flipped and every truncation: DecryptionError, each time."""
    codec = Codec(ring=RING, compression=preset, threshold=0)
    whole = sealed({"a": "b" * 40}, codec)
    flipped = [whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    for changed in [*flipped, *(whole[:length] for length in range(len(whole))), whole + b"\x00"]:
        with pytest.raises(DecryptionError):
            codec.open(changed, name=NAME)


def test_bound_to_name_namespace_and_time() -> None:
    """A value does not open elsewhere, for another tenant, or too late."""
    codec = Codec(ring=RING, namespace="a")
    stored = sealed(1, codec)
    with pytest.raises(DecryptionError):
        codec.open(stored, name=NAME[:-1] + "0")
    with pytest.raises(DecryptionError):
        Codec(ring=RING, namespace="b").open(stored, name=NAME)
    with pytest.raises(DecryptionError):
        codec.open(stored, name=NAME, clock=lambda: FUTURE / 1000)
    assert codec.open(stored, name=NAME) == 1


def test_only_envelopes_open_in_strict_mode() -> None:
    """`open` takes nothing but envelopes: no plaintext, no pickle, no Fernet token of the same key."""
    codec = Codec(ring=RING, fernet_keys=KEYS)
    value = {"a": 1}
    for stored in (
        json.dumps(value).encode(), b"raw:" + json.dumps(value).encode(), b"raw:" + pickle.dumps(value),
        b"compressed:" + zlib.compress(json.dumps(value).encode()), Fernet(KEYS[0]).encrypt(pickle.dumps(value)), b"",
    ):
        with pytest.raises(DecryptionError):
            codec.open(stored, name=NAME)


def old_forms(value: object) -> list[bytes]:
    """What the old class and the PRD's layer wrote."""
    token = Fernet(KEYS[1]).encrypt(pickle.dumps(value))
    return [
        json.dumps(value).encode(), b"raw:" + pickle.dumps(value), b"compressed:" + zlib.compress(pickle.dumps(value), 6),
        b"encrypted:" + token, b"compressed_encrypted:" + zlib.compress(b"encrypted:" + token), token,
        Fernet(KEYS[0]).encrypt(json.dumps(value).encode()),
    ]


def test_old_forms_are_read_in_the_window() -> None:
    """All forms of the contract, under any key of the ring; pickles only when asked for."""
    value = {"summary": "s" * 50, "confidence": 0.95, "n": [1, -1, 2**40, None, True], "inner": {"x": "é\U0001f600"}}
    codec = Codec(ring=RING, fernet_keys=KEYS)
    assert [value] * 7 == [codec.read(stored, name=NAME, read_pickles=True) for stored in old_forms(value)]
    for stored in old_forms(value)[1:6]:
        with pytest.raises(DecryptionError):
            codec.read(stored, name=NAME, read_pickles=False)
    for stored in old_forms(value)[3:]:
        with pytest.raises(DecryptionError):
            Codec(ring=RING).read(stored, name=NAME, read_pickles=True)


def outcome(data: bytes) -> Any:
    """What our loader makes of a pickle, or the text of its refusal."""
    try:
        return load_plain_pickle(data)
    except DecryptionError as error:
        return str(error)


@given(plain_data, st.sampled_from([2, 3, 4, 5]))
def test_plain_pickles_are_read_like_pickle_reads_them(value: Any, protocol: int) -> None:
    """Our loader and pickle's agree on plain data, whatever the protocol; or ours refuses (a container used twice)."""
    data = pickle.dumps(value, protocol)
    for each in (data, pickletools.optimize(data)):
        assert outcome(each) in (value, "the old value is not plain data (a container that is used twice)")


class Planted:
    """A pickle with a side effect."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def evil_pickles(path: Path) -> list[bytes]:
    planted = Planted(path)
    return [
        *(pickle.dumps(planted, protocol) for protocol in (2, 3, 4, 5)),
        *(pickle.dumps({"a": [planted]}, protocol) for protocol in (2, 4)),
        pickle.dumps(OrderedDict(a=1)), pickle.dumps(datetime.datetime(2024, 1, 1)), pickle.dumps({1, 2}),
        pickle.dumps(b"bytes"), pickle.dumps(1j), pickle.dumps({1: 2}), pickle.dumps(10**30), pickle.dumps(Path("x")),
        b"\x80\x04cos\nmkdir\n(V" + str(path).encode() + b"\ntR.", b"\x80\x02c__builtin__\neval\n.",
        b"\x80\x04\x82\x01.", b"\x80\x04\x84\xff\xff\xff\x7f.", b"\x80\x04N}b.", b"\x80\x04Q.", b"\x80\x04(i" + b"os\nmkdir\n.",
        b"\x80\x04]q\x00h\x00a.", b"\x80\x04(lq\x00.", b"\x80\x04\x97.", b"\x80\x05\x98.", b"\x80\x04.", b"\x80\x04N",
        b"\x80\x04N0N.", b"\x80\x04(.", b"\x80\x04(N.", b"\x80\x04}(Nu.", b"\x80\x04]a.", b"\x80\x04h\x05.", b"\x80\x04t.",
        b"\x80\x04r\xff\xff\xff\x7f.", b"\x80\x04Nr\xff\xff\xff\x7fNe.", b"\x80\x04\x8d" + b"\xff" * 8 + b"x.",
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x04" + b"]" * (MAX_DEPTH + 2) + b"a" * (MAX_DEPTH + 1) + b".",
    ]


def test_planted_pickles_do_nothing(tmp_path: Path) -> None:
    """Objects, imports, calls, extensions, persistent ids, recursion, broken opcodes: refused, and no side effect."""
    target = tmp_path / "planted"
    for data in evil_pickles(target):
        with pytest.raises(DecryptionError):
            load_plain_pickle(data)
    assert not target.exists()
    pickle.loads(pickle.dumps(Planted(target)))  # the trap itself works
    assert target.exists()


@given(st.binary(max_size=300))
def test_any_bytes_as_a_pickle(data: bytes) -> None:
    """Random opcodes give plain data or DecryptionError."""
    for head in (b"\x80\x04", b"\x80\x04(]}"):
        with suppress(DecryptionError):
            json.dumps(load_plain_pickle(head + data + b"."))


def test_shared_containers_cannot_blow_up() -> None:
    """"Billion laughs": ten levels of ten references each would be 10^10 values once copied."""
    level: list[Any] = ["x"]
    for _ in range(10):
        level = [level] * 10
    with pytest.raises(DecryptionError, match="used twice"):
        load_plain_pickle(pickle.dumps(level))


def bombs() -> dict[str, bytes]:
    """Values of about 100 KB that say or inflate to 100 MB, sealed or not."""
    size = 100 * 1024 * 1024
    huge = zlib.compress(bytes(1000), 9)
    engine = zlib.compressobj(9)
    chunk = b" " * (1024 * 1024)
    huge = b"".join([engine.compress(chunk) for _ in range(100)]) + engine.flush()
    frame = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    zstd = b"".join(frame.compress(chunk) for _ in range(100)) + frame.flush()
    nameless = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(chunk)
    block = lz4.block.compress(chunk * 2, store_size=False)
    token = Fernet(KEYS[0]).encrypt(b"[" * 100_000)

    def envelope(packed: bytes) -> bytes:
        return seal(packed, key=NAME, ring=RING)

    return {
        "compressed": b"compressed:" + huge,
        "compressed_encrypted": b"compressed_encrypted:" + huge,
        "zstd": envelope(b"\x02" + zstd),
        "zstd without a size": envelope(b"\x02" + nameless),
        "lz4": envelope(b"\x01" + struct.pack("<I", size) + block),
        "lz4 that lies": envelope(b"\x01" + struct.pack("<I", 10) + block),
        "lz4 of nothing": envelope(b"\x01"),
        "zstd of nothing": envelope(b"\x02"),
        "unknown": envelope(b"\x07{}"),
        "empty": envelope(b""),
        "deep": envelope(b"\x00" + b"[" * 100_000 + b"]" * 100_000),
        "deep text": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": envelope(b"\x00" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "deep with surrogate": b"[" * 100_000 + b'"\\ud800"' + b"]" * 100_000,
        "deep token": b"encrypted:" + token,
        "too long": envelope(b"\x00" + b'"' + b"x" * (9 * 1024 * 1024) + b'"'),
    }


@pytest.mark.parametrize("kind", bombs())
def test_bombs(kind: str) -> None:
    """Each is refused, and costs less than 32 MB."""
    stored = bombs()[kind]
    codec = Codec(ring=RING, fernet_keys=KEYS)
    tracemalloc.start()
    try:
        with pytest.raises(DecryptionError):
            codec.read(stored, name=NAME, read_pickles=True)
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_inflate_wants_the_whole() -> None:
    """Cut data is refused, not taken for shorter data."""
    data = zlib.compress(b"x" * 1000)
    assert inflate(data, limit=1000) == b"x" * 1000
    for wrong in (data[:-1], data[:5], b"", b"nonsense"):
        with pytest.raises(DecryptionError):
            inflate(wrong, limit=1000)
    with pytest.raises(DecryptionError):
        inflate(data, limit=999)


@given(st.binary(max_size=3000), st.sampled_from(PRESETS), st.integers(0, 3000))
def test_packing_never_grows_by_more_than_its_byte(payload: bytes, preset: Any, threshold: int) -> None:
    """What does not shrink is left as it is."""
    packed = pack(payload, preset=preset, threshold=threshold)
    assert len(packed) <= len(payload) + 1
    assert payload == unpack(packed, limit=3000)


class Color(enum.Enum):
    RED = "red"


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, b"bytes", datetime.datetime(2024, 1, 1), math.nan, math.inf, {"a": [None, -math.inf]}, RECURSIVE, {1: 2}, 2**64, object(),
        OrderedDict, 1j, {"a": {"b": {"c": {3}}}}, {"\ud800": math.nan}, {"\ud800": {1}},
        {"\ud800": {1: 2}}, ["\ud800", 2**64],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold(value: object) -> None:
    """A TypeError or ValueError that names the argument and not the value."""
    with pytest.raises((TypeError, ValueError), match=r"^response cannot be stored as JSON"):
        to_json(value, field="response")


def test_what_json_changes() -> None:
    """The documented changes: tuples become lists, enum members their value."""
    assert from_json(to_json({"t": (1, 2), "e": Color.RED}, field="v")) == {"t": [1, 2], "e": "red"}


@given(st.text(st.characters(categories=["Cs", "L"])))
def test_surrogates_survive(text: str) -> None:
    """Lone surrogates come back as they were, as values and as keys."""
    try:
        expected = json.loads(json.dumps({text: [text]}))  # JSON itself joins a pair that stands side by side
    except ValueError:
        return
    assert expected == from_json(to_json({text: [text]}, field="v"))


def test_limit_of_length() -> None:
    """A value that is too long is refused at once, by name."""
    codec = Codec(ring=RING, limit=100)
    assert codec.dump("x" * 98, field="value")
    with pytest.raises(ValueError, match=r"^value is 101 bytes"):
        codec.dump("x" * 99, field="value")


def typical() -> dict[str, Any]:
    """A value of 2 KB, as the benchmarks have it: an English text and nine metadata fields."""
    source = (Path(__file__).parents[2] / "README.md").read_text()
    text = " ".join(word for word in source.split() if word.isalpha())
    return {
        "summary": (text * 3)[:1750], "confidence": 0.93, "model": "model-1", "operation": "summarize", "tokens": 512, "lang": "en",
        "cached_at": "2026-01-01T00:00:00+00:00", "cache_hit": True, "text_length": 9000, "compression_used": True,
    }


def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Encode and decode at 2 KB, and stored size: printed; only the size, which no load changes, is held to the bar."""
    value = typical()
    length = len(json.dumps(value))
    for preset in PRESETS:
        codec = Codec(ring=RING, compression=preset)

        def work(codec: Codec = codec) -> None:
            codec.open(sealed(value, codec), name=NAME)

        best = min(timeit.repeat(work, number=200, repeat=25)) / 200 * 1e6
        stored = len(sealed(value, codec))
        with capsys.disabled():
            print(f"\n  codec {preset:5} {best:6.1f} us for {length} bytes, stored {stored} ({stored / length:.2f})", end="")
        assert stored <= length * (0.65 if preset == "zstd" else 1.0) + OVERHEAD_BYTES + 1


def test_fernet_keys_with_and_without_padding() -> None:
    """The key string is the same with or without its `=`."""
    token = Fernet(KEYS[0]).encrypt(b"1")
    assert Codec(ring=RING, fernet_keys=[KEYS[0].rstrip("=")]).read(token, name=NAME, read_pickles=False) == 1
    assert base64.urlsafe_b64decode(token)[0] == 0x80
    assert time.time() > 0


def test_without_a_key_nothing_is_sealed_or_opened() -> None:
    """A codec without a ring says so: it neither writes readable bytes where sealed ones are asked for, nor takes an envelope."""
    codec, envelope = Codec(), sealed({"a": 1}, Codec(ring=RING))
    with pytest.raises(ConfigurationError, match="REDIS_ENCRYPTION_KEY"):
        codec.seal(b"{}", name=NAME, expires_at_ms=FUTURE)
    for read in (codec.open, lambda stored, name: codec.read(stored, name=name, read_pickles=True)):
        with pytest.raises(DecryptionError, match="no key to decrypt"):
            read(envelope, name=NAME)
    with pytest.raises(DecryptionError, match="no key to decrypt the old"):
        codec.read(b"encrypted:" + Fernet(KEYS[0]).encrypt(b"{}"), name=NAME, read_pickles=True)


def test_the_clock_can_be_given() -> None:
    """An envelope past its time opens at an earlier hour, which tells a late value from a forged one."""
    codec = Codec(ring=RING)
    late = codec.seal(b"1", name=NAME, expires_at_ms=1)
    assert codec.open(late, name=NAME, clock=lambda: 0.0) == 1
    with pytest.raises(DecryptionError, match="has expired"):
        codec.open(late, name=NAME)
