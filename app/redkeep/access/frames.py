"""The headers of a RESP3 stream, followed from one to the next without looking at what they hold.

A list is promised by its header, and hiredis makes room for what is promised. Here a promise that is too large is refused before
hiredis sees it. Headers are told from data by position alone, so a value that looks like a header is skipped like any other.
"""

from __future__ import annotations

from typing import Final

_BULKS: Final = frozenset(b"$=!")
_LISTS: Final = frozenset(b"*%~>|")
_MAX_HEADER: Final = 32
"""A type, a 64-bit number with its sign, CR and LF are 23 bytes."""


class TooManyElements(ValueError):
    """The header of a list or map promises more than is allowed."""


class Frames:
    """Where in the stream the next header begins; fed with the same bytes as the parser."""

    __slots__ = ("_begun", "_most", "_skip")

    def __init__(self, most: int) -> None:
        """`most` is how many elements one header may promise."""
        self._most = most
        self._skip = 0
        self._begun = b""  # a line whose end has not come: all of a header, of other lines the type and perhaps a CR

    def feed(self, data: bytes | bytearray, count: int) -> None:
        """Follow the first `count` bytes of `data`. Raises TooManyElements, and ValueError for a header that is no number."""
        position = self._skip
        if self._begun:
            data = self._begun + data[:count]
            count += len(self._begun)
            self._begun = b""
        while position < count:
            end = data.find(b"\r\n", position, count)
            kind = data[position]
            if end < 0:
                self._begun = self._start_of(data, position, count, kind)
                self._skip = 0
                return
            if kind in _BULKS:
                length = int(data[position + 1 : end])
                position = end + 2 if length < 0 else end + length + 4
            elif kind in _LISTS:
                if int(data[position + 1 : end]) > self._most:
                    raise TooManyElements
                position = end + 2
            else:
                position = end + 2
        self._skip = position - count

    @staticmethod
    def _start_of(data: bytes | bytearray, position: int, count: int, kind: int) -> bytes:
        if kind in _BULKS or kind in _LISTS:
            if count - position > _MAX_HEADER:
                raise ValueError("a header without an end")
            return bytes(data[position:count])
        return bytes((kind,)) + (b"\r" if data[count - 1] == 13 and count - position > 1 else b"")
