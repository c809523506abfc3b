"""The headers of a reply stream are followed exactly, in whatever pieces it comes."""

from __future__ import annotations

import collections
from itertools import pairwise

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.access.frames import Frames, TooManyElements


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


# Data full of what looks like headers and line ends.
confusing = st.lists(st.sampled_from([b"*9999999\r\n", b"\r\n", b"\r", b"\n", b"$5\r\n", b"%", b"x", b""]), max_size=6).map(b"".join)
line = st.sampled_from([b"+OK\r\n", b":1\r\n", b"_\r\n", b",1.5\r\n", b"#t\r\n", b"(12\r\n", b"-ERR *9999999\r\n", b"$-1\r\n"])
reply = st.recursive(
    confusing.map(bulk) | line | confusing.map(lambda data: b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data)),
    lambda inner: st.lists(inner, max_size=4).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
    max_leaves=8,
)


@given(st.lists(reply, min_size=1, max_size=5), st.lists(st.integers(0, 400), max_size=12))
def test_no_good_stream_is_refused(replies: list[bytes], cuts: list[int]) -> None:
    """Cut anywhere, a stream that hiredis reads whole is followed to its end, and the next false promise is seen."""
    stream = b"".join(replies)
    frames, reader = Frames(4), hiredis.Reader(notEnoughData=Ellipsis)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(places):
        piece = stream[start:end]
        frames.feed(bytearray(piece + b"rubbish that is not counted"), len(piece))
        reader.feed(piece)
    assert all(reader.gets() is not Ellipsis for _ in replies)
    with pytest.raises(TooManyElements):
        frames.feed(b"*5\r\n", 4)


@pytest.mark.parametrize("promise", [b"*5\r\n", b"%5\r\n", b"~5\r\n", b">5\r\n", b"|5\r\n", b"*2\r\n+a\r\n*5\r\n", b"*4294967295\r\n"])
@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_promise_is_seen_before_it_is_kept(promise: bytes, step: int) -> None:
    """Every type that holds others, nested too, in pieces too."""
    frames = Frames(4)
    pieces = [promise[start : start + step] for start in range(0, len(promise), step)]
    with pytest.raises(TooManyElements):
        collections.deque((frames.feed(piece, len(piece)) for piece in pieces), maxlen=0)


@pytest.mark.parametrize("wrong", [b"*x\r\n", b"$\r\n", b"*" + b"1" * 40, b"$" + b"9" * 5000 + b"\r\n"])
def test_a_header_that_is_no_number(wrong: bytes) -> None:
    """It is refused, and not remembered for ever."""
    with pytest.raises(ValueError):
        Frames(4).feed(wrong, len(wrong))


def test_a_line_without_end_is_not_kept() -> None:
    """However long it goes on, a byte or two are remembered."""
    frames = Frames(4)
    for _ in range(100):
        frames.feed(b"+" * 1000, 1000)
    assert len(frames._begun) <= 2
    frames.feed(b"\r", 1)
    with pytest.raises(TooManyElements):
        frames.feed(b"\n*5\r\n", 5)
