"""The envelope: opens for what it was sealed for, and for nothing else."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import statistics
import struct
import time
import timeit

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from redkeep.crypto.envelope import (
    OVERHEAD_BYTES,
    is_envelope,
    read_header,
    seal,
    unseal,
)
from redkeep.crypto.keyring import KeyRing
from redkeep.errors import ConfigurationError, DecryptionError

RING = KeyRing([bytes(range(32)), bytes(range(32, 64))])
KEY = "ai_cache:op:summarize|h:abc"
names = st.text(max_size=40)
VECTOR = (
    "c101016a 468fe1a9 b567d300 00000000 000000f1 f14f3c21 8c20a436 3705dd6a ddacc4ef aca231f0 "
    "0660d103 6750b0a9 ef792521 f1269720 fd1ebe27 4f "
)


@given(plaintext=st.binary(max_size=3000), key=names, namespace=names)
def test_round_trip(plaintext: bytes, key: str, namespace: str) -> None:
    """What was sealed opens again under the same key and namespace, 47 bytes longer meanwhile."""
    sealed = seal(plaintext, key=key, namespace=namespace, ring=RING)
    assert plaintext == unseal(sealed, key=key, namespace=namespace, ring=RING)
    assert len(plaintext) + 47 == len(sealed) == len(plaintext) + OVERHEAD_BYTES


@pytest.mark.parametrize("plaintext", [b"", b"value", bytes(40)])
def test_every_bit_matters(plaintext: bytes) -> None:
    """Flipping any one bit of an envelope keeps it shut."""
    sealed = seal(plaintext, key=KEY, namespace="t", expires_at_ms=2**62, ring=RING)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            unseal(bytes(changed), key=KEY, namespace="t", ring=RING)


def test_every_byte_is_needed() -> None:
    """No truncation, at either end, and no addition opens."""
    sealed = seal(b"value", key=KEY, ring=RING)
    cuts = [sealed[:end] for end in range(len(sealed))] + [sealed[start:] for start in range(1, len(sealed))]
    for changed in [*cuts, sealed + b"\0", b"\0" + sealed]:
        with pytest.raises(DecryptionError):
            unseal(changed, key=KEY, ring=RING)


@given(st.binary(max_size=300))
def test_noise_does_not_open(noise: bytes) -> None:
    """Random bytes raise DecryptionError and nothing else, bare or behind a valid header."""
    for value in (noise, seal(b"", key=KEY, ring=RING)[:31] + noise):
        with pytest.raises(DecryptionError):
            unseal(value, key=KEY, ring=RING)


@given(first=st.tuples(names, names), second=st.tuples(names, names))
def test_bound_to_key_and_namespace(first: tuple[str, str], second: tuple[str, str]) -> None:
    """An envelope opens under its own (namespace, key) only, however the two are cut."""
    sealed = seal(b"value", namespace=first[0], key=first[1], ring=RING)
    if first == second:
        assert b"value" == unseal(sealed, namespace=second[0], key=second[1], ring=RING)
    else:
        with pytest.raises(DecryptionError):
            unseal(sealed, namespace=second[0], key=second[1], ring=RING)


@given(text=st.text(min_size=2, max_size=30), data=st.data())
def test_namespace_and_key_do_not_slide(text: str, data: st.DataObject) -> None:
    """Two ways to cut one string into namespace and key are two different bindings."""
    cuts = st.integers(0, len(text))
    one, other = data.draw(cuts), data.draw(cuts)
    if one == other:
        return
    sealed = seal(b"value", namespace=text[:one], key=text[one:], ring=RING)
    with pytest.raises(DecryptionError):
        unseal(sealed, namespace=text[:other], key=text[other:], ring=RING)


def test_text_and_bytes_keys_are_one_name() -> None:
    """A Redis key given as text or as its UTF-8 bytes is the same key; any text at all is accepted."""
    assert b"v" == unseal(seal(b"v", key="gr\u00fcn", ring=RING), key="gr\u00fcn".encode(), ring=RING)
    assert b"v" == unseal(seal(b"v", key="\ud800", ring=RING), key="\ud800", ring=RING)


def test_expiry_is_kept_by_the_envelope() -> None:
    """An envelope opens until the millisecond before its expiry, whatever the server's TTL says."""
    sealed = seal(b"v", key=KEY, expires_at_ms=5_000, ring=RING)
    assert b"v" == unseal(sealed, key=KEY, ring=RING, clock=lambda: 4.999)
    for late in (5.0, 5.001, 1e9):
        with pytest.raises(DecryptionError, match="has expired"):
            unseal(sealed, key=KEY, ring=RING, clock=lambda late=late: late)
    assert b"v" == unseal(seal(b"v", key=KEY, ring=RING), key=KEY, ring=RING, clock=lambda: 1e12)


def test_default_clock_is_the_wall_clock() -> None:
    """Without an injected clock, yesterday's envelope is shut and tomorrow's open."""
    now = int(time.time() * 1000)
    with pytest.raises(DecryptionError):
        unseal(seal(b"v", key=KEY, expires_at_ms=now - 86_400_000, ring=RING), key=KEY, ring=RING)
    assert b"v" == unseal(seal(b"v", key=KEY, expires_at_ms=now + 86_400_000, ring=RING), key=KEY, ring=RING)


@pytest.mark.parametrize("expiry", [-1, 2**63, 2**64])
def test_expiry_out_of_range(expiry: int) -> None:
    """An expiry that Redis could not hold is refused when sealing."""
    with pytest.raises(ConfigurationError):
        seal(b"v", key=KEY, expires_at_ms=expiry, ring=RING)


def test_layout_on_the_wire() -> None:
    """The bytes are as documented: independent code with the derived key opens them (format version 1)."""
    sealed = seal(b"value", key="k", namespace="ns", expires_at_ms=1234, ring=RING)
    assert b"\xc1\x01\x01" + RING.primary.key_id + struct.pack(">Q", 1234) == sealed[:19]
    additional = sealed[:31] + b"\0\0\0\x02" + b"ns" + b"k"
    opened = AESGCM(RING.primary.derive("aes-256-gcm")).decrypt(sealed[19:31], sealed[31:], additional)
    assert b"value" == opened


def test_version_1_stays_readable() -> None:
    """An envelope made by the first release opens: this vector must never change."""
    frozen = bytes.fromhex(VECTOR)
    assert b"kept for years" == unseal(frozen, key="ai_cache:x", namespace="tenant", ring=RING)


def test_reasons_are_told_apart() -> None:
    """Foreign bytes, another version, an unknown key and another algorithm are each named."""
    sealed = seal(b"value", key=KEY, ring=RING)
    cases = {
        b"\x80" + sealed[1:]: "is not an envelope",
        sealed[:1] + b"\x02" + sealed[2:]: "version 2",
        sealed[:2] + b"\x02" + sealed[3:]: "algorithm",
        sealed[:3] + bytes(8) + sealed[11:]: "not in the key ring",
        sealed[:46]: "too short",
        sealed[:-1] + bytes([sealed[-1] ^ 1]): "was changed",
    }
    for value, reason in cases.items():
        with pytest.raises(DecryptionError, match=reason):
            unseal(value, key=KEY, ring=RING)


def test_key_ring_of_another_house() -> None:
    """Another key does not open, even when it claims the same id."""
    other = KeyRing([bytes(range(1, 33))])
    sealed = seal(b"value", key=KEY, ring=RING)
    with pytest.raises(DecryptionError):
        unseal(sealed, key=KEY, ring=other)
    with pytest.raises(DecryptionError):
        unseal(sealed[:3] + other.primary.key_id + sealed[11:], key=KEY, ring=other)


def test_two_seals_differ() -> None:
    """The same value sealed twice looks different each time."""
    assert seal(b"v", key=KEY, ring=RING) != seal(b"v", key=KEY, ring=RING)


def test_the_header() -> None:
    """It can be read unopened; what is no envelope is none, and has none."""
    sealed = seal(b"v", key=KEY, expires_at_ms=77, ring=RING)
    header = read_header(sealed)
    assert (1, 1, RING.primary.key_id, 77) == header[:4]
    assert is_envelope(sealed)
    for foreign in (b"", b"raw:x", b"compressed:x", b"gAAAAA", b'{"a":1}', b"\x80\x04"):
        assert not is_envelope(foreign)
        with pytest.raises(DecryptionError):
            read_header(foreign)


def test_sealing_costs_little_beside_the_cipher() -> None:
    """Sealing and unsealing 2 KB cost a small multiple of the bare cipher: two when quiet, eight with slack for load."""
    value, cipher, nonce, additional = bytes(2048), RING.primary.cipher, bytes(12), bytes(80)
    bare = cipher.encrypt(nonce, value, additional)
    sealed = seal(value, key=KEY, namespace="t", expires_at_ms=2**62, ring=RING)

    def plain() -> None:
        cipher.encrypt(nonce, value, additional)
        cipher.decrypt(nonce, bare, additional)

    def ours() -> None:
        seal(value, key=KEY, namespace="t", expires_at_ms=2**62, ring=RING)
        unseal(sealed, key=KEY, namespace="t", ring=RING)

    ratios = [timeit.timeit(ours, number=300) / timeit.timeit(plain, number=300) for _ in range(40)]
    assert statistics.median(ratios) <= 8
