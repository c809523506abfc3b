"""Values as JSON: the only data that is ever stored, so that reading a value can run nothing.

What JSON cannot hold is refused when it is written, by a TypeError or ValueError that names the argument. Tuples come back
as lists; UUIDs and enum members as their text or value. Lone surrogates survive, as JSON escapes.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import orjson

_STRICT: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_SORTED: Final = _STRICT | orjson.OPT_SORT_KEYS


def to_json(value: Any, *, field: str, ordered: bool = False) -> bytes:
    """`value` as JSON in UTF-8; `ordered` sorts the keys of every object.

    Raises TypeError for what JSON cannot hold (set, bytes, datetime, keys that are not str, integers beyond 64 bits, more than
    some 250 levels), ValueError for NaN and infinities. The message names `field`, and never shows the value.
    """
    try:
        text = orjson.dumps(value, option=_SORTED if ordered else _STRICT)
    except TypeError as error:
        if "surrogates" not in str(error):
            raise TypeError(f"{field} cannot be stored as JSON: {error}") from None
        try:
            text = json.dumps(value, sort_keys=ordered, allow_nan=False, separators=(",", ":")).encode("ascii")
        except ValueError as second:
            raise ValueError(f"{field} cannot be stored as JSON: {second}") from None
        except (TypeError, RecursionError) as second:
            raise TypeError(f"{field} cannot be stored as JSON: {second}") from None
        if not _unchanged(value):  # Python's writer makes text of other keys: two values would be stored as one
            raise TypeError(f"{field} cannot be stored as JSON: a key is not text, or an integer exceeds 64 bits") from None
        return text
    if b"null" in text and not _finite(value):  # orjson writes NaN as null, which would come back as another value
        raise ValueError(f"{field} cannot be stored as JSON: it holds NaN or an infinity")
    return text


def from_json(text: bytes) -> Any:
    """What `to_json` was given. Raises ValueError for anything else; 1,024 levels are the deepest that is read."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"\\ud" not in text and b"\\uD" not in text:
            raise
    try:
        value = json.loads(text)
        if _finite(value):
            return value
    except RecursionError:
        raise ValueError("nested too deep") from None
    raise ValueError("NaN or an infinity")  # which Python's reader takes


def _unchanged(value: Any) -> bool:
    """Whether every key in `value` is text and every integer has 64 bits. `value` has been serialised, as for `_finite`."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_unchanged, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_unchanged, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def _finite(value: Any) -> bool:
    """Whether no float in `value` is NaN or infinite. `value` has been serialised: it is a tree, and not deep."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True
