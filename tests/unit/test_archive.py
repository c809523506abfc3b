"""The archive: sealed to one key, and open to nobody who changed, cut or extended it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redkeep.crypto.archive import (
    CHUNK_BYTES,
    MAGIC,
    generate_private_key,
    open_archive,
    public_key,
    read_head,
    write_archive,
)
from redkeep.errors import ConfigurationError, DecryptionError

KEY = generate_private_key()
HEAD = {"host": "r1", "keys": {"0": 3}}


def sealed(content: bytes, *, piece: int = 50_000) -> bytes:
    target = io.BytesIO()
    pieces = (content[i : i + piece] for i in range(0, len(content), piece))
    write_archive(target, pieces, recipient=public_key(KEY), head=HEAD)
    return target.getvalue()


def opened(archive: bytes, key: str = KEY) -> bytes:
    return b"".join(open_archive(io.BytesIO(archive), private_key=key))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_001])
@pytest.mark.parametrize("piece", [7_777, CHUNK_BYTES, 10**6])
def test_what_goes_in_comes_out(size: int, piece: int) -> None:
    """Whatever the length and however it is cut into pieces; the head is there for everybody."""
    content = bytes(i * 7 % 251 for i in range(size))
    archive = sealed(content, piece=piece)
    assert content == opened(archive)
    assert read_head(io.BytesIO(archive)).items() >= HEAD.items()
    assert not size or content[:100] not in archive or size < 100


def test_two_archives_of_the_same_share_nothing() -> None:
    """Each has a key of its own."""
    first, second = sealed(b"x" * 1000), sealed(b"x" * 1000)
    assert first[-500:] != second[-500:]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    """In the magic, the head, a key, a chunk or a tag: a DecryptionError, and nothing else."""
    archive = bytearray(sealed(b"value " * 30_000))
    place = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(archive) - 1)))
    archive[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecryptionError):
        opened(bytes(archive))


@pytest.mark.parametrize("size", [10, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_a_cut_or_an_addition_is_noticed(size: int) -> None:
    """Cut at every boundary of a chunk and beside it, or with a byte, or a chunk, more."""
    archive = sealed(b"y" * size)
    begin = archive.index(b"\n", len(MAGIC)) + 1
    cuts = {len(archive) - 1, begin, begin + 1, len(MAGIC), 3}
    cuts |= {begin + n * (CHUNK_BYTES + 16) + d for n in range(3) for d in (-1, 0, 1)}
    for cut in sorted(cut for cut in cuts if 0 <= cut < len(archive)):
        with pytest.raises(DecryptionError):
            opened(archive[:cut])
    for more in (b"\0", archive[begin:]):
        with pytest.raises(DecryptionError):
            opened(archive + more)


def test_swapped_chunks_are_noticed() -> None:
    """A chunk belongs to its place."""
    archive = sealed(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c")
    begin, step = archive.index(b"\n", len(MAGIC)) + 1, CHUNK_BYTES + 16
    one, two, rest = archive[begin : begin + step], archive[begin + step : begin + 2 * step], archive[begin + 2 * step :]
    assert opened(archive[:begin] + one + two + rest)
    with pytest.raises(DecryptionError):
        opened(archive[:begin] + two + one + rest)


def test_another_key_is_told_apart_from_damage() -> None:
    """Whoever took the wrong secrets is told so."""
    with pytest.raises(DecryptionError, match="encrypted for another key"):
        opened(sealed(b"x"), generate_private_key())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a redkeep archive"), (b"REDIS0011", "not a redkeep archive"), (b"redkeep-archive 2\n{}\n", "later version"),
        (MAGIC + b"[]\n", "damaged"),
    ],
)
def test_other_files_are_called_what_they_are(content: bytes, sentence: str) -> None:
    """Before anything is tried on them."""
    with pytest.raises(DecryptionError, match=sentence):
        opened(content)


def test_bad_keys_are_named() -> None:
    """Neither a private key nor a recipient that is none, and a head that no reader would take."""
    with pytest.raises(ConfigurationError, match="private key"):
        public_key("c2hvcnQ=")
    for recipient in ("", "c2hvcnQ=", "é"):
        with pytest.raises(ConfigurationError, match="public key"):
            write_archive(io.BytesIO(), [], recipient=recipient, head={})
    with pytest.raises(ConfigurationError, match="too long"):
        write_archive(io.BytesIO(), [], recipient=public_key(KEY), head={"x": "y" * 70_000})
