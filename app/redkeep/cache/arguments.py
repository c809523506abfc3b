"""Arguments as they come in: of the right type and in range, or an error that names the argument and never shows its value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

MAX_TTL: Final = 10 * 365 * 86_400
"""Seconds; ten years."""

TIERS: Final = ("small", "medium", "large")


def text(value: object, field: str) -> str:
    """A str as it is. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{field} must be text (str), not {type(value).__name__}")
    return value


def text_or_none(value: object, field: str) -> str | None:
    """A str as it is, or None. Raises TypeError."""
    return None if value is None else text(value, field)


def keys(value: object, field: str) -> list[str]:
    """Several keys as they are. Raises TypeError, also for one text in the place of a list: its letters would be taken for keys."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{field} must be a list of texts, not {type(value).__name__}")
    return [text(key, field) for key in value]


def path_or_none(value: object, field: str) -> str | os.PathLike[str] | None:
    """A path as it is, or None. Raises TypeError."""
    if value is None or isinstance(value, str | os.PathLike):
        return value
    raise TypeError(f"{field} must be a path (str or Path), not {type(value).__name__}")


def flag(value: object, field: str) -> bool:
    """True or False. Raises TypeError: whatever else counts as true would switch security on or off by chance."""
    if not isinstance(value, bool):
        raise TypeError(f"{field} must be True or False, not {type(value).__name__}")
    return value


def whole(value: object, field: str, *, least: int = 0, most: int | None = None) -> int:
    """An int from `least` to `most`. Raises TypeError and ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field} must be a whole number, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{field} must be {least} or more" if most is None else f"{field} must be {least} to {most}")
    return value


def seconds(value: object, field: str) -> int:
    """Whole seconds, 1 to MAX_TTL. Raises TypeError and ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field} must be a whole number of seconds, not {type(value).__name__}")
    if not 0 < value <= MAX_TTL:
        raise ValueError(f"{field} must be 1 to {MAX_TTL} seconds")
    return value


def span(value: object, field: str, *, zero: bool = False) -> float:
    """Seconds with fractions, more than 0 (or also 0) and MAX_TTL at most. Raises TypeError and ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{field} must be a number of seconds, not {type(value).__name__}")
    if not (value >= 0 if zero else value > 0) or value > MAX_TTL:  # NaN fails both comparisons
        raise ValueError(f"{field} must be {'0' if zero else 'more than 0'} to {MAX_TTL} seconds")
    return float(value)


def tiers(value: object, field: str) -> dict[str, int]:
    """The characters at which small, medium and large end. Raises TypeError and ValueError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{field} must be a dictionary with {', '.join(TIERS)}, not {type(value).__name__}")
    if set(value) != set(TIERS):
        raise ValueError(f"{field} must have exactly {', '.join(TIERS)}")
    ends = {tier: whole(value[tier], f"{field}[{tier!r}]") for tier in TIERS}
    if list(ends.values()) != sorted(ends.values()):
        raise ValueError(f"{field} must not fall from small to large")
    return ends


def hasher(value: object, field: str) -> Callable[[], Any]:
    """What makes hash objects, such as hashlib.sha256. Raises TypeError."""
    wrong = f"{field} must be a hash function of hashlib, such as hashlib.sha256"
    if not callable(value):
        raise TypeError(wrong)
    try:
        made = value()
        made.update(b"")
        made.hexdigest()
    except Exception:  # whatever it is that was called
        raise TypeError(wrong) from None
    return value


def instance(value: object, field: str, kind: type[Any]) -> Any:
    """An object of `kind`, or None. Raises TypeError."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{field} must be a {kind.__name__}, not {type(value).__name__}")
    return value
