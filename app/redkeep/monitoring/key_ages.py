"""Since when each encryption key has been in use, and that another one has become the first.

A key says nothing of when it was made: what is told is since when this monitoring has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_DAY_SECONDS = 86_400


class KeyAges:
    """The ids of the keys that were seen, never the keys. Times are seconds since the epoch."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` as the environment names them, the one that seals first. Raises ConfigurationError for one that is none."""
        self._ids: tuple[str, ...] = ()
        if keys:
            from redkeep.crypto.keyring import KeyRing  # here: it loads the cipher

            self._ids = tuple(key.key_id.hex() for key in KeyRing.from_strings(keys).keys)
        self._seen: dict[str, float] = {}
        self._first = ""

    def note(self, now: float) -> tuple[str, str] | None:
        """Note the keys of now. When another one seals than at the last note: its id before, and its id now."""
        for name in self._ids:
            self._seen.setdefault(name, now)
        before, self._first = self._first, self._ids[0] if self._ids else ""
        return (before, self._first) if before and self._first and before != self._first else None

    def ages(self, now: float) -> list[dict[str, Any]]:
        """A row a key, the one that seals first: key_id, primary, first_seen (ISO 8601), age_days."""
        return [
            {
                "key_id": name, "primary": name == self._ids[0], "first_seen": datetime.fromtimestamp(seen, UTC).isoformat(timespec="seconds"),
                "age_days": int((now - seen) // _DAY_SECONDS),
            }
            for name in self._ids
            for seen in (self._seen.get(name, now),)
        ]  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """What was seen, as plain data."""
        return {"seen": dict(self._seen), "first": self._first}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back a snapshot. Raises ValueError when it is something else."""
        try:
            seen, first = {str(name): float(moment) for name, moment in saved["seen"].items()}, str(saved["first"])
            for moment in seen.values():
                datetime.fromtimestamp(moment, UTC)
        except (AttributeError, KeyError, TypeError, OverflowError, OSError) as error:
            raise ValueError(f"no snapshot of keys: {type(error).__name__}") from None
        self._seen, self._first = seen, first
