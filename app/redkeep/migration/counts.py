"""What a run over the entries has done and seen, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass
class Counts:
    """What was done and seen, in entries; `foreign` counts those sealed with keys that we do not hold, by key id."""

    seen: int = 0
    readable: int = 0
    older_key: int = 0
    returned: int = 0
    invalidated: int = 0
    superseded: int = 0
    compared: int = 0
    conflicts: int = 0
    unreadable: int = 0
    without_old_name: int = 0
    left: int = 0
    foreign: dict[str, int] = field(default_factory=dict)

    def plus(self, other: Counts) -> Counts:
        """Both together, as of two servers."""
        numbers = [each.name for each in fields(self) if each.name != "foreign"]
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        key_ids = {**self.foreign, **other.foreign}
        return Counts(**sums, foreign={key: self.foreign.get(key, 0) + other.foreign.get(key, 0) for key in key_ids})

    def what_was_done(self) -> Counts:
        """Without what was still to do: that is counted anew."""
        return replace(self, left=0, unreadable=0, without_old_name=0, foreign={})

    @property
    def moved(self) -> int:
        """Entries that lie where they belong now."""
        return self.readable + self.older_key + self.returned


@dataclass(frozen=True)
class Progress:
    """Where a run is: `number` of the sweep, `fraction` of it from 0 to 1, seconds since the beginning of this sweep."""

    number: int
    fraction: float
    seconds: float
    counts: Counts

    @property
    def seconds_left(self) -> float:
        """Of this sweep, if it goes on like this; infinite while nothing can be said."""
        return self.seconds * (1 - self.fraction) / self.fraction if self.fraction > 0.01 else math.inf


def sum_of(parts: Iterable[Counts]) -> Counts:
    """All of them together."""
    total = Counts()
    for each in parts:
        total = total.plus(each)
    return total
