"""What the old class and the PRD's snippets wrote, read while a migration window is open, and never executed.

Pickles are taken apart by a loader of our own: it knows the few opcodes that plain data needs and has no notion of a class, a
function, a call or an import, so there is nothing a planted pickle could name. The memory it needs is bounded by the length of
the input: every opcode pushes at most one object, memo places are a dictionary, and containers cannot be shared.
"""

from __future__ import annotations

import pickletools
import zlib
from collections.abc import Iterable
from typing import Any, Final

from redkeep.errors import DecryptionError

MAX_DEPTH: Final = 200
"""Levels of nesting; JSON, which the value is stored in next, ends at some 250."""

_CONSTANTS: Final[dict[str, object]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SCALARS: Final = frozenset(
    {
        "BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "BINUNICODE8", "LONG1", "LONG4", "SHORT_BINUNICODE",
    }
)
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK: Final = object()


class _Unusable(Exception):
    pass


def is_pickle(data: bytes) -> bool:
    """Whether `data` begins like a pickle of protocol 2 to 5, the only ones the old class wrote."""
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def load_plain_pickle(data: bytes) -> Any:
    """The plain data in a pickle: None, bool, 64-bit int, float, str, list, tuple, dict with str keys.

    Raises DecryptionError for every other pickle: an object of any class, bytes, sets, a container used twice, too deep.
    """
    try:
        return _run(data)
    except _Unusable as error:
        raise DecryptionError(f"the old value is not plain data ({error})") from None
    except Exception:  # pickletools raises many kinds for broken input; whatever it was, it is not plain data
        raise DecryptionError("the old value is not a complete pickle") from None


def _run(data: bytes) -> Any:
    stack: list[tuple[Any, int]] = []  # value and its depth
    memo: dict[int, Any] = {}
    marks: list[int] = []
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            if len(stack) != 1 or marks:
                raise _Unusable("unbalanced")
            return stack[0][0]
        if name in _CONSTANTS:
            stack.append((_CONSTANTS[name], 0))
        elif name in _SCALARS:
            if isinstance(argument, int) and not -(2**63) <= argument < 2**64:
                raise _Unusable("an integer of more than 64 bits")
            stack.append((argument, 0))
        elif name == "MARK":
            marks.append(len(stack))
            stack.append((_MARK, 0))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append(({} if name == "EMPTY_DICT" else [], 1))
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = _pop(stack, len(stack) - count)
            stack.append((tuple(value for value, _ in items), _depth(items)))
        elif name == "TUPLE":
            items = _pop_mark(stack, marks)
            stack.append((tuple(value for value, _ in items), _depth(items)))
        elif name in ("APPEND", "APPENDS"):
            items = _pop_mark(stack, marks) if name == "APPENDS" else _pop(stack, len(stack) - 1)
            target, depth = stack[-1]
            if type(target) is not list:
                raise _Unusable("append to something that is not a list")
            target.extend(value for value, _ in items)
            stack[-1] = (target, max(depth, _depth(items)))
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop_mark(stack, marks) if name == "SETITEMS" else _pop(stack, len(stack) - 2)
            target, depth = stack[-1]
            keys = [value for value, _ in items[::2]]
            if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in keys):
                raise _Unusable("a dict with keys that are not text")
            target.update(zip(keys, (value for value, _ in items[1::2]), strict=True))
            stack[-1] = (target, max(depth, _depth(items)))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1][0]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1][0]  # type: ignore[index]  # an int, by the opcode
        elif name in ("BINGET", "LONG_BINGET"):
            value = memo[argument]  # type: ignore[index]
            if isinstance(value, dict | list | tuple):
                raise _Unusable("a container that is used twice")
            stack.append((value, 0))
        else:
            raise _Unusable(f"opcode {name}")
    raise _Unusable("truncated")


def _pop(stack: list[tuple[Any, int]], start: int) -> list[tuple[Any, int]]:
    if start < 0:
        raise _Unusable("unbalanced")
    items = stack[start:]
    del stack[start:]
    if any(value is _MARK for value, _ in items):
        raise _Unusable("unbalanced")
    return items


def _pop_mark(stack: list[tuple[Any, int]], marks: list[int]) -> list[tuple[Any, int]]:
    start = marks.pop()
    items = _pop(stack, start + 1)
    stack.pop()
    return items


def _depth(items: Iterable[tuple[Any, int]]) -> int:
    depth = 1 + max((depth for _, depth in items), default=0)
    if depth > MAX_DEPTH:
        raise _Unusable(f"more than {MAX_DEPTH} levels")
    return depth


def inflate(data: bytes, *, limit: int) -> bytes:
    """zlib data inflated to `limit` bytes at most. Raises DecryptionError when it is more, or no zlib data."""
    engine = zlib.decompressobj()
    try:
        inflated = engine.decompress(data, limit + 1)
    except zlib.error:
        raise DecryptionError("the value is not zlib data") from None
    if len(inflated) > limit:
        raise DecryptionError(f"the value inflates to more than {limit} bytes")
    if not engine.eof:
        raise DecryptionError("the value is truncated")
    return inflated
